"""
What a site says of the two ends of a connection: who they are, and where the other end is. For ``gateway``.

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


ANY = "any"


def address(text: str) -> str:
    """
    Where a peer is, in canonical form: an address, a DNS name, or ANY.

    Raises:
        ValueError: what is wrong and what would be right, worded to follow the value in a sentence.
    """
    if text in (ANY, "%any"):
        return ANY
    if kind_of(text) == "address":
        its = ipaddress.ip_address(text)
        if "%" in text or its.is_unspecified or its.is_multicast or its.is_loopback or its.is_link_local:
            raise ValueError("is no address of one host in a network; give one such as 192.0.2.11 or 2001:db8::11")
        return str(its)
    if _NAME.fullmatch(text) and "." in text:
        return text
    right = "without the prefix length" if "/" in text else (
        "such as 192.0.2.11 or 2001:db8::11, a name such as branch.site.example, or any")
    raise ValueError(f"is no IP address; give one {right}")


def is_name(where: str) -> bool:
    """Whether an entry of peer:address has to be looked up."""
    return where != ANY and kind_of(where) == "name"


def given_addresses(connection: dict) -> list[str]:
    """The addresses among the places where a peer may be."""
    return [each for each in connection["peer"]["address"] if each != ANY and not is_name(each)]


def from_anywhere(connection: dict) -> bool:
    """Whether the daemon has to accept a peer from every address: roadwarriors, `any`, and where a name comes first."""
    where = connection["peer"]["address"]
    return connection["kind"] == "roadwarrior" or bool(where) and (where[0] == ANY or is_name(where[0]))


def other_end(connection: dict) -> dict:
    """
    The peer as the settings have it.

    Returns:
        ``address`` (of the first place, ANY if that is no address), ``tried`` (all places in order, [] where there is
        nothing to try), ``id`` and ``id_kind``, ``follows`` (true: it is known by the address that it is at) and
        ``subnets``.
    """
    peer, where = connection["peer"], connection["peer"]["address"]
    its = peer["id"] or where[0]
    return {"address": ANY if from_anywhere(connection) else where[0],
            "tried": where if len(where) > 1 or is_name(where[0]) else [],
            "id": its, "id_kind": kind_of(its), "follows": not peer["id"], "subnets": peer["subnets"]}


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
    where_from = connection["peer"]["address"]
    if not peer and (certificate or any(each == ANY or is_name(each) for each in where_from)):
        yield f"{path}:peer:id", "is missing; a site-to-site connection needs the peer's id"


def check_addresses(path: str, connection: dict) -> Iterator[Mistake]:
    """Where the peer is and who calls fit, and a peer from anywhere can be known."""
    where, identity = connection["peer"]["address"], connection["peer"]["id"] or ""
    key = f"{path}:peer:address"
    if ANY in where and len(where) > 1:
        yield key, f"{', '.join(where)}: any is every address already; give any alone, or leave it out"
        return
    versions = {":" in each for each in given_addresses(connection)}
    if len(versions) > 1:
        yield key, (f"{', '.join(where)}: these are of two IP versions, and this end of a connection has one address; "
                    f"give a connection for each")
    if where == [ANY] and connection["initiate"]:
        yield f"{path}:initiate", ("true: nobody knows where to call a peer that comes from any address; leave it out, "
                                   "or give the peer's address or name")
    if connection["initiate"] is False and where != [ANY] and (len(where) > 1 or any(map(is_name, where))):
        yield f"{path}:initiate", (f"false: this end only looks for a peer ({', '.join(where)}) to call it; give "
                                   f"address: any, or leave initiate out")
    if not where or not from_anywhere(connection) or connection["auth"] != "psk":
        return
    if connection["ike"] == "ikev1":
        yield f"{path}:ike", ("ikev1: with it the secret is chosen before the peer has said who it is; give "
                              "ike: ikev2, or auth: certificate")
    if kind_of(identity) == "subject":
        yield f"{path}:peer:id", (f"{identity}: the secret of a peer from anywhere is found by its identity, and a "
                                  f"distinguished name is for certificates; give a name, a mail address or a key id")


def check_strangers(connections: dict[str, dict], at: dict[str, str]) -> Iterator[Mistake]:
    """
    What the daemon must know of peers from anywhere before it knows who calls.

    Args:
        at: by connection the address of this end.

    Libreswan (ikev2_host_pair.c, 4.10 and 5.2) takes the first such connection for the first exchange and changes to
    the right one when it knows the identity: the algorithms are chosen by then.
    """
    first: dict[tuple[str, str], str] = {}
    known: dict[tuple[str, str], str] = {}
    persons = {person: name for name, each in connections.items() for person in each["persons"]}
    for name, connection in connections.items():
        if not from_anywhere(connection):
            continue
        path, listed = f"gateway:connections:{name}", connection["proposals"]["ike"]
        other = first.setdefault((at[name], connection["ike"]), name)
        if set(listed) != set(connections[other]["proposals"]["ike"]):
            yield f"{path}:proposals:ike", (
                f"{', '.join(listed) or 'the default'} is not what {other} has, and the daemon agrees on it before it "
                f"knows who of those that come from anywhere calls; give both the same, or leave both out")
        identity = connection["peer"]["id"]
        if connection["kind"] == "roadwarrior" or not identity:
            continue
        same = known.setdefault((at[name], identity), name)
        if same != name:
            yield f"{path}:peer:id", (f"{identity} is the peer of the connection {same} too, and a peer from anywhere "
                                      f"is known by nothing else; give each its own, or one of them all the subnets")
        if identity in persons:
            yield f"{path}:peer:id", (f"{identity} is a person of the connection {persons[identity]} too, and whoever "
                                      f"comes from anywhere is known by nothing else; give each its own")


def check_told_apart(connections: dict[str, dict], site_identity: dict, secrets: object) -> Iterator[Mistake]:
    """
    Between two identities there is one secret: Libreswan finds it by nothing else (ipsec.secrets(5)).

    Args:
        secrets: gateway_secrets:psk, by connection; never shown.
    """
    known: dict = secrets if isinstance(secrets, dict) else {}
    taken: dict[tuple[str, str], tuple[str, object]] = {}
    for name, connection in connections.items():
        if connection["auth"] != "psk" or name not in known:
            continue
        for peer, secret in _by_peer(connection, known[name]):
            ends = own_identity(connection, site_identity), peer
            other, its = taken.setdefault(ends, (name, secret))
            if its != secret:
                yield f"gateway_secrets:psk:{name}", (
                    f"differs from psk:{other}, and both are between {ends[0]} and {ends[1]}, by which the daemon "
                    f"finds a secret; give both the same one, or one of the connections a local:id of its own")


def secrets_of(connection: dict, secret: object) -> list[object] | None:
    """
    The shared secrets of a connection: one, or one for each address of a peer that is known by its addresses.

    Returns None where the number does not fit.
    """
    if not isinstance(secret, list):
        return [secret]
    several = connection["kind"] == "site-to-site" and not connection["peer"]["id"]
    return secret if several and len(secret) == len(connection["peer"]["address"]) > 1 else None


def _by_peer(connection: dict, secret: object) -> Iterator[tuple[str, object]]:
    """Each identity that the peer may have, with its secret."""
    if connection["kind"] == "roadwarrior":
        yield "any roadwarrior", secret
        return
    found = secrets_of(connection, secret) or []
    peers = [connection["peer"]["id"]] if connection["peer"]["id"] else connection["peer"]["address"]
    yield from zip(peers, found * len(peers) if len(found) == 1 else found, strict=False)
