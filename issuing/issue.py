"""Makes the authority, and issues: gateways' certificates into pillar, people's into bundles."""
from __future__ import annotations

import base64
import datetime
import ipaddress
import re
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from issuing import bundle, certificate, files, of_site, pillar, policy, revocation, vault
from issuing.certificate import Authority, date_of, facts, utc_now
from issuing.errors import refuse
from issuing.journal import certificates, holders, note
from issuing.journal import read as read_journal
from sites import tree

# One DNS label: the first one of the person's name in the certificate. Without a dot it can not be a gateway's name.
_PERSON = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"


def create(opts: dict[str, Any], name: str) -> dict[str, Any]:
    """For ``authority.create``."""
    folder = vault.folder(opts, make=True)
    with files.locked(folder):
        if any((folder / file).exists() for file in ("authority.pem", "authority.key.gpg", "journal.jsonl")):
            raise refuse(f"there is one in {folder} already; with a second one every certificate of the first is lost")
        key, own = certificate.make_authority(name, policy.value(opts, "key"), policy.value(opts, "authority_days"),
                                              policy.value(opts, "organization"))
        sealed = vault.seal(opts, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        # The key first: a run that is cut short leaves a folder that the next refuses, not one without its key.
        files.write(folder / "authority.key.gpg", sealed)
        files.write(folder / "authority.pem", own.public_bytes(Encoding.PEM))
        note(folder, [certificate.record("authority", "", name, own)])
    return {"certificate": facts(own), "folder": str(folder),
            "next": f"keep a copy of {folder} and of the gpg keyring on another machine"}


def gateway(opts: dict[str, Any], site: str) -> dict[str, Any]:
    """For ``authority.issue_gateway``."""
    with vault.opened(opts) as authority:
        return _new_gateway(opts, authority, site)


def _new_gateway(opts: dict[str, Any], authority: Authority, site: str) -> dict[str, Any]:
    settings = of_site.settings(opts, site)
    nickname, identity = settings["identity"]["certificate"], settings["identity"]["id"]
    pillar.refuse_handwritten(pillar.file(opts, "issued", site).parent.parent / f"{site}.sls", nickname)
    # Windows looks for the address that it connects to.
    certified = [identity, *settings["identity"]["certified"],
                 *(each["address"] for each in settings["virtual"] if each["side"] == "external")]
    names = [_general_name(site, each) for each in dict.fromkeys(certified)]
    issued = _issue(opts, authority, "gateway", site, identity, names)
    passphrase = certificate.new_passphrase()
    packed = certificate.packed(authority, issued, nickname, passphrase, pkcs12.PBES.PBESv2SHA256AndAES256CBC)
    sealed = {"pkcs12": vault.seal(opts, base64.b64encode(packed)), "passphrase": vault.seal(opts, passphrase.encode())}
    text = pillar.text("#!yaml|gpg", {"certificates": {nickname: {
        key: value.decode("ascii") for key, value in sealed.items()}}})
    note(authority.folder, [issued.record])
    written = files.write(pillar.file(opts, "issued", site), text.encode())
    return {"certificate": facts(issued.certificate), "written": written, "next": pillar.apply(site)}


def _general_name(site: str, identity: str) -> x509.GeneralName:
    """An identity of the gateway as its certificate holds it."""
    if "=" in identity or identity.startswith("keyid:"):
        raise refuse(f"{site}: {identity} can not be the gateway's identity with a certificate of this authority, "
                     f"which names gateways by subjectAltNames; give a DNS name, an address or a mail address")
    if "@" in identity:
        return x509.RFC822Name(identity)
    try:
        return x509.IPAddress(ipaddress.ip_address(identity))
    except ValueError:
        return x509.DNSName(identity)


def roadwarriors(opts: dict[str, Any], site: str, names: list[str], connection: str | None,
                 version: str) -> dict[str, Any]:
    """For ``authority.issue_roadwarrior``, with one name or more."""
    with vault.opened(opts) as authority:
        issued = _new_roadwarriors(opts, authority, site, names, connection, version)
        journal = read_journal(authority.folder)
        back = any(each["revoked"] and each["name"] in issued for each in certificates(journal, site))
        # Without a new list each state.apply would end the tunnel of a person of that name.
        return {"issued": issued, **(revocation.publish(opts, authority, [site]) if back else {})}


def _new_roadwarriors(opts: dict[str, Any], authority: Authority, site: str, names: list[str], connection: str | None,
                      version: str) -> dict[str, dict[str, Any]]:
    wrong = [name for name in names if not isinstance(name, str) or not re.fullmatch(_PERSON, name)]
    if wrong or not names:
        raise refuse(f"{wrong[0]!r} can be no roadwarrior's name: at most 40 of a-z, 0-9 and hyphens" if wrong
                     else "no name was given")
    settings = of_site.settings(opts, site)
    its = of_site.roadwarrior_connection(site, settings, connection)
    issued = [_issue(opts, authority, "roadwarrior", site, name,
                     [x509.DNSName(f"{name}.{settings['identity']['id']}")]) for name in names]
    for each in issued:
        each.record["connection"], each.record["version"] = its["name"], version
    # The journal first, then the bundles: a certificate that is in no journal can not be revoked.
    note(authority.folder, [each.record for each in issued])
    found = {}
    for each in issued:
        passphrase = certificate.new_passphrase()
        made = bundle.made(authority, each, site, its, version, passphrase,
                           lambda file: tree.find(opts, "file_roots", f"openswan/files/{file}"))
        folder = bundle.put(authority.folder, site, each.record["name"], made, passphrase)
        found[each.record["name"]] = {"certificate": facts(each.certificate), "bundle": str(folder),
                                      "passphrase": f"{folder}.passphrase", "files": sorted(made)}
        if why := bundle.left_out(its):
            found[each.record["name"]]["left_out"] = why
    return found


def renew(opts: dict[str, Any], site: str | None, days: int | None) -> dict[str, Any]:
    """For ``authority.renew``."""
    limit = utc_now() + datetime.timedelta(days=policy.value(opts, "renew_days") if days is None else int(days))
    renewed: dict[str, dict[str, Any]] = {}
    with vault.opened(opts) as authority:
        due = [each for each in holders(read_journal(authority.folder), site)
               if not each["revoked"] and date_of(each["not_after"]) < limit]
        for each in due:
            if each["profile"] == "gateway":
                fresh = {each["name"]: _new_gateway(opts, authority, each["site"])}
            else:
                fresh = _new_roadwarriors(opts, authority, each["site"], [each["name"]], each["connection"],
                                          each["version"])
            renewed.setdefault(each["site"], {}).update(fresh)
    return {"renewed": renewed}


def _issue(opts: dict[str, Any], authority: Authority, profile: str, site: str, name: str,
           names: list[x509.GeneralName]) -> certificate.Issued:
    return certificate.issue(authority, profile, site, name, names, policy.value(opts, "key"),
                             policy.value(opts, f"{profile}_days"), policy.value(opts, "organization"))
