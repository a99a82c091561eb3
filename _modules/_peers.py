"""
What a site says of the two ends of a connection: who they are. For ``gateway``.

Salt syncs this file and does not load it (its name begins with _); ``gateway`` loads it by its path. Plain functions on
plain data: nothing of the schema, nothing of the IPsec daemon, whose words for these are in ``_modules/ipsec.py``.
"""
from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

Mistake = tuple[str, str]      # the key's path, and what is wrong with it

KEY_ID = "keyid:"
# The kinds of identities of RFC 7296, 3.5, and what each is called in a message.
KINDS = {"name": "a DNS name", "address": "an IP address", "mail": "a mail address", "subject": "a distinguished name",
         "key": "a key id"}
# No more than what ipsec.conf, ipsec.secrets and Libreswan's atoid() (lib/libswan/id.c) read as this kind: a "=" makes
# a distinguished name of everything, a blank ends an index of ipsec.secrets.
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)*(?=[^.]*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9_-]{{0,61}}[A-Za-z0-9_])?")
_MAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_PART = r"(C|ST|L|O|OU|CN|DC|UID|E)=[A-Za-z0-9][A-Za-z0-9 ._@:/()-]*"
_SUBJECT = re.compile(rf"{_PART}(, *{_PART})*")
_KEY = re.compile(r"keyid:(0x([0-9A-Fa-f]{2})+|(?!0[xX])[A-Za-z0-9._@:/+-]+)")
RIGHT = ("a name such as gateway.site.example, an address, a mail address, a subject such as C=CH, O=Example, "
         "CN=gateway, or keyid:TEXT or keyid:0xHEX, without a leading @")


def kind_of(identity: str) -> str:
    """Which of KINDS an identity is; it need not be a valid one."""
    if identity.startswith(KEY_ID):
        return "key"
    if "=" in identity:
        return "subject"
    if "@" in identity:
        return "mail"
    try:
        ipaddress.ip_address(identity)
    except ValueError:
        return "name"
    return "address"


def identity(text: str) -> str:
    """
    An identity in canonical form.

    Raises:
        ValueError: what is wrong and what would be right, worded to follow the value in a sentence.
    """
    kind = kind_of(text)
    if kind == "address":
        address = ipaddress.ip_address(text)
        if "%" in text or address.is_unspecified or address.is_multicast:
            raise ValueError("is no address of one host; give one such as 192.0.2.11 or 2001:db8::11")
        return str(address)
    if kind == "key" and _KEY.fullmatch(text):
        return text.lower() if text.startswith(f"{KEY_ID}0x") else text
    if kind == "subject" and _SUBJECT.fullmatch(text):
        return ", ".join(part.strip() for part in re.split(r", *(?=[A-Z]+=)", text))
    if {"name": _NAME, "mail": _MAIL}.get(kind, _KEY).fullmatch(text):
        return text
    if text.startswith(("@[", "@#")):
        raise ValueError("is a key id as Libreswan writes it; give keyid:TEXT, or keyid:0xHEX for bytes")
    raise ValueError(f"does not fit; give {RIGHT}")


def own_identity(connection: dict, site_identity: dict) -> str:
    """How this end calls itself to the peer of a connection."""
    return connection["local"]["id"] or site_identity["id"] or ""


def certified(connections: Iterable[dict], site_identity: dict) -> list[str]:
    """The identities of this end that the gateway's certificate has to hold, the site's own first."""
    found = [own_identity(each, site_identity) for each in connections if each["auth"] == "certificate"]
    return sorted(dict.fromkeys(found), key=lambda each: each != site_identity["id"])


def check_identities(path: str, connection: dict, site_identity: dict) -> Iterator[Mistake]:
    """Both ends' identities can work with the way of authentication, and are not the same."""
    own, where = connection["local"]["id"], f"{path}:local:id"
    if not own:
        own, where = site_identity["id"] or "", "gateway:identity:id"
    peer, certificate = connection["peer"]["id"] or "", connection["auth"] == "certificate"
    if certificate and kind_of(own) == "key":
        yield where, f"{own}: no certificate holds a key id; give one of its names, or auth: psk"
    if connection["kind"] == "roadwarrior":
        if certificate and connection["local"]["id"]:
            yield where, (f"{own}: roadwarriors know the gateway by gateway:identity:id, which their bundles name; "
                          f"leave it out")
        elif certificate and own and kind_of(own) != "name":
            yield where, (f"{own}: roadwarriors look for a DNS name in the gateway's certificate; give that one, and "
                          f"this as local:id to the connections whose peers know it")
        return
    if certificate and kind_of(peer) == "key":
        yield f"{path}:peer:id", f"{peer}: no certificate holds a key id; give one of its names, or auth: psk"
    if peer and peer == own:
        yield f"{path}:peer:id", f"{peer} is this site's own; give the peer's"
    if certificate and not peer:
        yield f"{path}:peer:id", "is missing; a site-to-site connection needs the peer's id"


def check_told_apart(connections: dict[str, dict], site_identity: dict, secrets: object) -> Iterator[Mistake]:
    """
    Between two identities there is one secret: Libreswan finds it by nothing else (ipsec.secrets(5)).

    Args:
        secrets: gateway_secrets:psk, by connection; never shown.
    """
    known: dict = secrets if isinstance(secrets, dict) else {}
    taken: dict[tuple[str, str], str] = {}
    for name, connection in connections.items():
        if connection["auth"] != "psk" or name not in known:
            continue
        peer = connection["peer"]["id"] or connection["peer"]["address"] or "any roadwarrior"
        ends = own_identity(connection, site_identity), peer
        other = taken.setdefault(ends, name)
        if known[other] != known[name]:
            yield f"gateway_secrets:psk:{name}", (
                f"differs from psk:{other}, and both are between {ends[0]} and {ends[1]}, by which the daemon finds a "
                f"secret; give both the same one, or one of the connections a local:id of its own")
