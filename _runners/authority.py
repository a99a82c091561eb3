"""
A certificate authority for sites that have none
================================================

It lives on the master: ``create`` once, then ``issue_gateway`` and ``issue_roadwarrior``, ``renew`` before they
expire, ``revoke`` what is lost. What it issues reaches the gateways by pillar and `state.apply`; docs/certificates.md
leads through all of it.

A runner's return is an event and stays in the job cache. So no function takes or returns a secret: keys and
passphrases go into files that only Salt's user can read, and the return says where those are.

In the authority's folder (0700, never under a file server's root), all files 0600:

=====================  =======================================================================================
``authority.pem``      its certificate
``authority.key.gpg``  its key, encrypted to the master's gpg key, like the secrets in pillar
``journal.jsonl``      what was issued, revoked and published: a JSON object a line, only ever appended to
``bundles/SITE/``      for each roadwarrior a folder NAME to hand over, and beside it NAME.passphrase
=====================  =======================================================================================

The master's configuration may say, each with its default::

    gateway_authority:
      folder: /etc/salt/gateway-authority
      gpg_recipient: ''          # the only secret key in gpg_keydir
      organization: ''
      key: ec256                 # ec256, ec384, rsa2048, rsa3072, rsa4096: of the authority and of what it issues
      authority_days: 3650
      gateway_days: 730
      roadwarrior_days: 365
      crl_days: 30               # how long a revocation list holds: publish one more often than that
      renew_days: 30

Certificates are made with ``cryptography`` and not with Salt's x509_v2: that takes a private key or a passphrase only
as an argument or in a clear-text file, and has neither PKCS#12 with a chain nor an index.
"""
from __future__ import annotations

import base64
import contextlib
import datetime
import fcntl
import functools
import importlib.util
import ipaddress
import json
import os
import plistlib
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import jinja2
import salt.utils.path
import salt.utils.x509
import salt.utils.yaml
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from salt.exceptions import SaltRunnerError

__virtualname__ = "authority"

_DEFAULTS: dict[str, str | int] = {
    "folder": "/etc/salt/gateway-authority", "gpg_recipient": "", "organization": "", "key": "ec256",
    "authority_days": 3650, "gateway_days": 730, "roadwarrior_days": 365, "crl_days": 30, "renew_days": 30,
}
_KEYS = {"ec256": ("ec", 256), "ec384": ("ec", 384), "rsa2048": ("rsa", 2048), "rsa3072": ("rsa", 3072),
         "rsa4096": ("rsa", 4096)}
# One DNS label: the first one of the person's name in the certificate. Without a dot it can not be a gateway's name.
_PERSON = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
# RFC 5280, 5.3.1, without the reasons about an authority and the one that takes a revocation back
_REASONS = ("unspecified", "key_compromise", "affiliation_changed", "superseded", "cessation_of_operation",
            "privilege_withdrawn")
_IPSEC_IKE = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17")  # RFC 4945, 5.1.3.12
_BACKDATED = datetime.timedelta(minutes=10)  # a client's clock may be slow
_NAME_IN_PILLAR = "gateway-authority"
# The passphrase has 160 random bits, so there is nothing for more rounds to slow down.
_KDF_ROUNDS = 2048
# How long gpg may take for one secret; and another run that has the lock, with some thousand certificates to make.
_GPG_SECONDS = 60
_LOCK_SECONDS = 600

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_Entry = dict[str, Any]         # a line of the journal, as JSON has it


class _Authority(NamedTuple):
    """The authority, with what it signs with."""

    folder: Path
    certificate: x509.Certificate
    key: _Key


class _Issued(NamedTuple):
    """A certificate that was just issued, with its key and its line for the journal."""

    key: _Key
    certificate: x509.Certificate
    record: _Entry


# what an operator calls


def create(name: str = "Gateway authority") -> dict[str, Any]:
    """
    Make the authority, once: its key, encrypted to the master's gpg key, and its certificate.

    Args:
        name: what its certificate is called (CN).

    Returns:
        ``certificate`` (its facts), ``folder``. When something is wrong, this function and all others here return
        ``mistakes``, a line each, and ``retcode`` 1 instead.

    CLI Example:

    .. code-block:: bash

        salt-run authority.create 'Example VPN authority'
    """
    return _told(_create, name)


def issue_gateway(site: str) -> dict[str, Any]:
    """
    Issue a site's gateway certificate, the same for both nodes, into the site's pillar: pillar/secrets/issued/SITE.sls.

    Args:
        site: the site's name; its ``identity:id`` and its external virtual addresses become the certificate's names.

    Returns:
        ``certificate``, ``written`` and ``next`` (what to do now).

    CLI Example:

    .. code-block:: bash

        salt-run authority.issue_gateway winterthur
    """
    return _told(_issue_gateway, site)


def issue_roadwarrior(site: str, name: str | list[str], connection: str | None = None,
                      version: str = "5.2") -> dict[str, Any]:
    """
    Issue a person's certificate, and make a folder with all that is needed to connect; see docs/certificates.md.

    Args:
        site: the site's name.
        name: the person's or the device's: a-z, 0-9 and hyphens. Or a list of such names.
        connection: the name of one of the site's roadwarrior connections; left out, the first.
        version: of Libreswan on the client, if the client is Libreswan.

    Returns:
        ``issued``: by name ``certificate``, ``bundle`` (the folder) and ``passphrase`` (the path of its file). Where a
        certificate of that name was revoked before, also what :func:`crl` returns: by the new list the gateways know
        that this person may stay.

    CLI Example:

    .. code-block:: bash

        salt-run authority.issue_roadwarrior winterthur anna
        salt-run authority.issue_roadwarrior winterthur '[anna, anna-phone, bert]'
    """
    return _told(_issue_roadwarriors, site, [name] if isinstance(name, str) else name, connection, str(version))


def renew(site: str | None = None, days: int | None = None) -> dict[str, Any]:
    """
    Issue new certificates, with new keys, for those that expire soon and are neither revoked nor renewed already.

    Args:
        site: the site's name; left out, all.
        days: how soon; left out, ``renew_days`` of the master's configuration.

    Returns:
        ``renewed``: by site, by name what :func:`issue_gateway` and :func:`issue_roadwarrior` return. The old
        certificates are valid until they expire.

    CLI Example:

    .. code-block:: bash

        salt-run authority.renew
        salt-run authority.renew winterthur days=60
    """
    return _told(_renew, site, days)


def revoke(site: str, name: str, reason: str = "unspecified") -> dict[str, Any]:
    """
    Revoke all certificates of a person, or all but the newest of a gateway, and publish the list.

    Args:
        site: the site's name.
        name: the person's name, or the gateway's ``identity:id``.
        reason: unspecified, key_compromise, affiliation_changed, superseded, cessation_of_operation or
            privilege_withdrawn.

    Returns:
        ``revoked`` (serial numbers), ``written`` and ``next``. The gateways get the list by the `state.apply` in
        ``next``.

    CLI Example:

    .. code-block:: bash

        salt-run authority.revoke winterthur anna reason=key_compromise
    """
    return _told(_revoke, site, name, reason)


def crl(site: str | None = None) -> dict[str, Any]:
    """
    Publish a new revocation list, with a higher number and a new date: pillar/secrets/crls/SITE.sls.

    Args:
        site: the site's name; left out, all that have a certificate of this authority.

    Returns:
        ``number``, ``entries``, ``next_update``, ``written`` and ``next``.

    CLI Example:

    .. code-block:: bash

        salt-run authority.crl
    """
    return _told(_crl, [site] if site else None)


def list_(site: str | None = None) -> dict[str, Any]:
    """
    What was issued, newest first, and until when it is valid, in words.

    Args:
        site: the site's name; left out, all.

    CLI Example:

    .. code-block:: bash

        salt-run authority.list winterthur
    """
    return _told(_list, site)


__func_alias__ = {"list_": "list"}


def _told(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Call a function. Gives its result with return code 0, or its mistakes, a line each, with return code 1."""
    try:
        found = function(*args) | {"retcode": 0}
    except SaltRunnerError as error:
        found = {"mistakes": str(error).splitlines(), "retcode": 1}
    except OSError as error:
        # Only what the system says: the path and why.
        found = {"mistakes": [f"authority: {error.filename or 'a file'}: {error.strerror}; "
                              "`authority.list` says what was issued before"], "retcode": 1}
    # An exception that leaves this function makes salt-run print a traceback.
    __context__["retcode"] = found["retcode"]
    return found


def _refuse(text: str) -> SaltRunnerError:
    """The error with this text, on one line."""
    return SaltRunnerError(f"authority: {' '.join(text.split())}")


# what they do


def _create(name: str) -> dict[str, Any]:
    folder = _folder(make=True)
    with _locked(folder):
        if any((folder / file).exists() for file in ("authority.pem", "authority.key.gpg", "journal.jsonl")):
            raise _refuse(f"there is one in {folder} already; with a second one every certificate of the first is lost")
        key, subject = _new_key(_policy("key")), _subject(name, None)
        now = _now()
        certificate = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(_serial()).not_valid_before(now - _BACKDATED)
            .not_valid_after(now + datetime.timedelta(days=_policy("authority_days")))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, _hash(key)))
        sealed = _seal(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        # The key first: a run that is cut short leaves a folder that the next refuses, not one without its key.
        _write(folder / "authority.key.gpg", sealed)
        _write(folder / "authority.pem", certificate.public_bytes(Encoding.PEM))
        _note(folder, [_record("authority", "", name, certificate)])
    return {"certificate": _facts(certificate), "folder": str(folder),
            "next": f"keep a copy of {folder} and of the gpg keyring on another machine"}


def _issue_gateway(site: str) -> dict[str, Any]:
    with _opened() as authority:
        return _new_gateway(authority, site)


def _new_gateway(authority: _Authority, site: str) -> dict[str, Any]:
    settings = _settings(site)
    nickname, identity = settings["identity"]["certificate"], settings["identity"]["id"]
    _refuse_handwritten(site, nickname)
    names: list[x509.GeneralName] = [x509.DNSName(identity)]
    # Windows looks for the address that it connects to.
    names += [x509.IPAddress(ipaddress.ip_address(each["address"])) for each in settings["virtual"]
              if each["side"] == "external"]
    issued = _issue(authority, "gateway", site, identity, names)
    passphrase = _passphrase()
    packed = _packed(authority, issued, nickname, passphrase, pkcs12.PBES.PBESv2SHA256AndAES256CBC)
    sealed = {"pkcs12": _seal(base64.b64encode(packed)), "passphrase": _seal(passphrase.encode())}
    text = _pillar_text("#!yaml|gpg", {"certificates": {nickname: {
        key: value.decode("ascii") for key, value in sealed.items()}}})
    _note(authority.folder, [issued.record])
    written = _write(_pillar_file("issued", site), text.encode())
    return {"certificate": _facts(issued.certificate), "written": written, "next": _apply(site)}


def _issue_roadwarriors(site: str, names: list[str], connection: str | None, version: str) -> dict[str, Any]:
    with _opened() as authority:
        issued = _new_roadwarriors(authority, site, names, connection, version)
        journal = _journal(authority.folder)
        back = any(each["revoked"] and each["name"] in issued for each in _certificates(journal, site))
        # Without a new list each state.apply would end the tunnel of a person of that name.
        return {"issued": issued, **(_publish(authority, [site]) if back else {})}


def _new_roadwarriors(authority: _Authority, site: str, names: list[str], connection: str | None,
                      version: str) -> dict[str, dict[str, Any]]:
    wrong = [name for name in names if not isinstance(name, str) or not re.fullmatch(_PERSON, name)]
    if wrong or not names:
        raise _refuse(f"{wrong[0]!r} can be no roadwarrior's name: at most 40 of a-z, 0-9 and hyphens" if wrong
                      else "no name was given")
    settings = _settings(site)
    its = _roadwarrior_connection(site, settings, connection)
    issued = [_issue(authority, "roadwarrior", site, name,
                     [x509.DNSName(f"{name}.{settings['identity']['id']}")]) for name in names]
    for each in issued:
        each.record["connection"], each.record["version"] = its["name"], version
    # The journal first, then the bundles: a certificate that is in no journal can not be revoked.
    _note(authority.folder, [each.record for each in issued])
    found = {}
    for each in issued:
        passphrase = _passphrase()
        files = _bundle(authority, each, site, its, version, passphrase)
        folder = _put_bundle(authority.folder, site, each.record["name"], files, passphrase)
        found[each.record["name"]] = {"certificate": _facts(each.certificate), "bundle": str(folder),
                                      "passphrase": f"{folder}.passphrase", "files": sorted(files)}
        if _left_out(its):
            found[each.record["name"]]["left_out"] = _left_out(its)
    return found


def _renew(site: str | None, days: int | None) -> dict[str, Any]:
    limit = _now() + datetime.timedelta(days=_policy("renew_days") if days is None else int(days))
    renewed: dict[str, dict[str, Any]] = {}
    with _opened() as authority:
        due = [each for each in _holders(_journal(authority.folder), site)
               if not each["revoked"] and _date(each["not_after"]) < limit]
        for each in due:
            if each["profile"] == "gateway":
                fresh = {each["name"]: _new_gateway(authority, each["site"])}
            else:
                fresh = _new_roadwarriors(authority, each["site"], [each["name"]], each["connection"], each["version"])
            renewed.setdefault(each["site"], {}).update(fresh)
    return {"renewed": renewed}


def _revoke(site: str, name: str, reason: str) -> dict[str, Any]:
    code = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", str(reason)).lower()
    if code not in _REASONS:
        raise _refuse(f"reason={reason} is none of {', '.join(_REASONS)}")
    with _opened() as authority:
        journal = _journal(authority.folder)
        its = [each for each in _certificates(journal, site) if each["name"] == name]
        if not its:
            known = sorted({each["name"] for each in _certificates(journal, site)})
            raise _refuse(f"{site} has no certificate of {name}; there are {', '.join(known[:20]) or 'none'}")
        if its[-1]["profile"] == "gateway":
            # With the list in their databases the peers would refuse the gateway from one moment to the next.
            *its, newest = its
            if not its:
                raise _refuse(f"{newest['serial']} is the only certificate of {name}; issue a new one and apply it "
                              "first, then revoke the old one")
        live = [each for each in its if not each["revoked"] and _date(each["not_after"]) > _now()]
        _note(authority.folder, [{"event": "revoked", "serial": each["serial"], "reason": code, "at": _text(_now())}
                                 for each in live])
        published = _publish(authority, None)
    return {"revoked": [each["serial"] for each in live], **published}


def _crl(wanted: list[str] | None) -> dict[str, Any]:
    with _opened() as authority:
        return _publish(authority, wanted)


def _publish(authority: _Authority, wanted: list[str] | None) -> dict[str, Any]:
    """Put a new revocation list into the pillar of some sites; None: of all that have a certificate."""
    journal = _journal(authority.folder)
    sites = sorted({each["site"] for each in _certificates(journal, None)} & set(_tree().sites()))
    if wanted is not None:
        for site in wanted:
            _settings(site)
        sites = wanted
    now = _now()
    next_update = now + datetime.timedelta(days=_policy("crl_days"))
    number = 1 + max((each["number"] for each in journal if each["event"] == "crl"), default=0)
    # RFC 5280, 3.3: an expired certificate may go from the list. A day more, for slow clocks.
    entries = [each for each in _certificates(journal, None)
               if each["revoked"] and _date(each["not_after"]) > now - datetime.timedelta(days=1)]
    listed = _revocation_list(authority, number, now, next_update, entries)
    # The number is used up before the list is out: no two lists ever have the same.
    _note(authority.folder, [{"event": "crl", "number": number, "entries": len(entries), "at": _text(now),
                              "next_update": _text(next_update)}])
    pem = listed.public_bytes(Encoding.PEM).decode()
    written = []
    for site in sites:
        with _locked(_pillar_file("crls", site).parent):
            others = _listed(site).get("crls", {})          # what the runner lists has fetched
            written.append(_write_listed(site, {"crls": others | {_NAME_IN_PILLAR: pem},
                                                "revoked": _expelled(journal, site)}))
    return {"number": number, "entries": len(entries), "next_update": _text(next_update), "written": written,
            "next": "; ".join(map(_apply, sites)) or "issue a certificate first: no site has one of this authority"}


def _revocation_list(authority: _Authority, number: int, now: datetime.datetime, next_update: datetime.datetime,
                     entries: list[_Entry]) -> x509.CertificateRevocationList:
    revoked = []
    for each in entries:
        builder = (x509.RevokedCertificateBuilder().serial_number(int(each["serial"], 16))
                   .revocation_date(_date(each["revoked"]["at"])))
        if each["revoked"]["reason"] != "unspecified":          # RFC 5280, 5.3.1: then left out
            flag = getattr(x509.ReasonFlags, each["revoked"]["reason"])
            builder = builder.add_extension(x509.CRLReason(flag), critical=False)
        revoked.append(builder.build())
    # All at once: when they are added one by one, each call copies all those before.
    return (x509.CertificateRevocationListBuilder(
        issuer_name=authority.certificate.subject, last_update=now, next_update=next_update,
        revoked_certificates=revoked)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
                       critical=False)
        .sign(authority.key, _hash(authority.key)))


def _expelled(journal: list[_Entry], site: str) -> list[dict[str, Any]]:
    """
    Whose tunnels the gateways have to end: a list names serial numbers, a tunnel shows a name.

    ``again``: this person got a new certificate since, and may stay with a tunnel that is younger than the revocation
    (``at``).
    """
    found: dict[str, dict[str, Any]] = {}
    for each in _certificates(journal, site):
        if each["profile"] != "roadwarrior":
            continue
        if each["revoked"]:
            if _date(each["not_after"]) > _now() - datetime.timedelta(days=1):
                found[each["name"]] = {"ids": sorted({each["subject"], *each["names"]}), "at": each["revoked"]["at"],
                                       "again": False}
        elif each["name"] in found:
            found[each["name"]]["again"] = True
    return [found[name] for name in sorted(found)]


def _list(site: str | None) -> dict[str, Any]:
    folder = _folder()
    journal = _journal(folder)
    newest = {(each["site"], each["name"]): each["serial"] for each in _certificates(journal, site)}
    rows = []
    for each in reversed(_certificates(journal, site)):
        rows.append({"site": each["site"], "name": each["name"], "profile": each["profile"], "key": each["key"],
                     "serial": each["serial"], "state": _in_words(each, newest[each["site"], each["name"]])})
    last = next((each for each in reversed(journal) if each["event"] == "crl"), None)
    own = next(each for each in journal if each["event"] == "issued" and each["profile"] == "authority")
    return {"authority": f"{own['name']}: {_expiry(own['not_after'])}",
            "revocation list": f"number {last['number']}, {last['entries']} entries, the next is due "
                               f"{_expiry(last['next_update'], 'in ', '')}" if last else "none was published",
            "certificates": rows}


def _in_words(each: _Entry, newest: str) -> str:
    if each["revoked"]:
        return f"revoked on {each['revoked']['at'][:10]} ({each['revoked']['reason'].replace('_', ' ')})"
    renewed = "" if each["serial"] == newest else "; a newer one was issued"
    return _expiry(each["not_after"]) + renewed


def _expiry(date: str, ahead: str = "valid for ", gone: str = "expired ") -> str:
    left = _date(date) - _now()
    days = round(abs(left) / datetime.timedelta(days=1))
    words = "less than a day" if not days else "1 day" if days == 1 else f"{days} days"
    if left < datetime.timedelta(0):
        return f"{gone}{words} ago ({date[:10]})"
    soon = " more, renew it" if ahead.startswith("valid") and days < _policy("renew_days") else ""
    return f"{ahead}{words}{soon} ({date[:10]})"


# certificates


def _issue(authority: _Authority, profile: str, site: str, name: str, names: list[x509.GeneralName]) -> _Issued:
    """Make a key and its certificate. The signing policy is here."""
    key, now = _new_key(_policy("key")), _now()
    until = min(now + datetime.timedelta(days=_policy(f"{profile}_days")), authority.certificate.not_valid_after_utc)
    if authority.certificate.not_valid_after_utc < now + datetime.timedelta(days=1):
        raise _refuse(f"it expires on {authority.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and can issue "
                      "nothing any more; make a new one in another folder, and new certificates for everyone")
    own = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    # Apple's and Windows' clients ask for serverAuth in the gateway's certificate. A roadwarrior can not be a server.
    uses = {"gateway": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, _IPSEC_IKE],
            "roadwarrior": [ExtendedKeyUsageOID.CLIENT_AUTH, _IPSEC_IKE]}
    certificate = (
        x509.CertificateBuilder().subject_name(_subject(name, site)).issuer_name(authority.certificate.subject)
        .public_key(key.public_key()).serial_number(_serial()).not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses[profile]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .sign(authority.key, _hash(authority.key)))
    return _Issued(key, certificate, _record(profile, site, name, certificate))


def _new_key(kind: str) -> _Key:
    if kind not in _KEYS:
        raise _refuse(f"gateway_authority:key in the master's configuration is {kind}; give one of {', '.join(_KEYS)}")
    make: dict[str, Callable[[int], _Key]] = {
        "ec": salt.utils.x509.generate_ec_privkey, "rsa": salt.utils.x509.generate_rsa_privkey}
    return make[_KEYS[kind][0]](_KEYS[kind][1])


def _hash(key: _Key) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256 else hashes.SHA256()


def _serial() -> int:
    """159 random bits. RFC 5280, 4.1.2.2: positive, 20 octets at most; the CA/Browser Forum wants 64 random bits."""
    return x509.random_serial_number()


def _subject(name: str, site: str | None) -> x509.Name:
    parts = [(x509.NameOID.ORGANIZATION_NAME, _policy("organization")),
             (x509.NameOID.ORGANIZATIONAL_UNIT_NAME, site), (x509.NameOID.COMMON_NAME, name)]
    try:
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])
    except ValueError as error:
        raise _refuse(f"{name} can not stand in a certificate: {error}") from None


def _usage(**bits: bool) -> x509.KeyUsage:
    known = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**dict.fromkeys(known, False) | bits)


def _record(profile: str, site: str, name: str, certificate: x509.Certificate) -> _Entry:
    """What the journal keeps of a certificate."""
    return {"event": "issued", "profile": profile, "site": site, "name": name, "at": _text(_now()),
            **{key: value for key, value in _facts(certificate).items() if key != "issuer"}}


def _facts(certificate: x509.Certificate) -> dict[str, Any]:
    """What a certificate says, in words that JSON can have."""
    names = []
    with contextlib.suppress(x509.ExtensionNotFound):
        names = [str(each.value) for each in certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName).value]
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise _refuse("a certificate's key is neither EC nor RSA")
    return {"serial": f"{certificate.serial_number:x}", "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(), "names": names,
            "key": f"{'rsa' if isinstance(key, rsa.RSAPublicKey) else 'ec'} {key.key_size}",
            "not_before": _text(certificate.not_valid_before_utc), "not_after": _text(certificate.not_valid_after_utc),
            "fingerprint": certificate.fingerprint(hashes.SHA256()).hex()}


def _passphrase() -> str:
    """160 random bits in letters that people can read to each other: 8 groups of 4."""
    text = base64.b32encode(secrets.token_bytes(20)).decode().lower()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def _packed(authority: _Authority, issued: _Issued, nickname: str, passphrase: str, algorithm: pkcs12.PBES) -> bytes:
    mac = hashes.SHA256() if algorithm is pkcs12.PBES.PBESv2SHA256AndAES256CBC else hashes.SHA1()
    encryption = (PrivateFormat.PKCS12.encryption_builder().kdf_rounds(_KDF_ROUNDS).key_cert_algorithm(algorithm)
                  .hmac_hash(mac).build(passphrase.encode()))
    return pkcs12.serialize_key_and_certificates(nickname.encode(), issued.key, issued.certificate,
                                                 [authority.certificate], encryption)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _text(date: datetime.datetime) -> str:
    return date.isoformat()


def _date(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


# the journal


def _journal(folder: Path) -> list[_Entry]:
    """All entries, oldest first. A last line that was cut short is left out: nobody has acted on it."""
    lines = _read(folder / "journal.jsonl").decode().split("\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            found.append(entry | {"event": entry["event"]})
        except (ValueError, KeyError, TypeError):
            raise _refuse(f"{folder}/journal.jsonl is damaged in line {number}; bring back your copy of it: a "
                          "certificate that is not in it can not be revoked") from None
    return found


def _note(folder: Path, entries: list[_Entry]) -> None:
    """Append to the journal. It is on disk before this returns."""
    path = folder / "journal.jsonl"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as handle:
        end = handle.seek(0, os.SEEK_END)
        whole = end
        while whole and _at(handle, whole - 1) != b"\n":          # a line that was cut short
            whole -= 1
        handle.truncate(whole)
        handle.seek(whole)
        try:
            handle.write(b"".join(json.dumps(entry, sort_keys=True).encode() + b"\n" for entry in entries))
            handle.flush()
            os.fsync(handle.fileno())
        except OSError:
            # a full disk: take back what was written of it
            handle.seek(whole)
            with contextlib.suppress(OSError):
                os.ftruncate(handle.fileno(), whole)
            raise


def _at(handle: BinaryIO, place: int) -> bytes:
    """One byte of a file."""
    handle.seek(place)
    return handle.read(1)


def _certificates(journal: list[_Entry], site: str | None) -> list[_Entry]:
    """Those of a site, or all, in the order they were issued, each with ``revoked``: None, or its reason and date."""
    revoked = {each["serial"]: each for each in journal if each["event"] == "revoked"}
    return [each | {"revoked": revoked.get(each["serial"])} for each in journal
            if each["event"] == "issued" and each["profile"] != "authority" and site in (None, each["site"])]


def _holders(journal: list[_Entry], site: str | None) -> list[_Entry]:
    """The newest certificate of each person and gateway."""
    return list({(each["site"], each["name"]): each for each in _certificates(journal, site)}.values())


# files


def _policy(key: str) -> Any:
    """A value of gateway_authority in the master's configuration, or its default."""
    given = __opts__.get("gateway_authority") or {}
    unknown = sorted(set(given) - set(_DEFAULTS))
    if unknown:
        raise _refuse(f"gateway_authority:{unknown[0]} in the master's configuration is not known; "
                      f"there are {', '.join(_DEFAULTS)}")
    value = given.get(key, _DEFAULTS[key])
    if isinstance(_DEFAULTS[key], int) and (not isinstance(value, int) or not 0 < value < 36500):
        raise _refuse(f"gateway_authority:{key} in the master's configuration is {value}; give a number of days")
    return value


def _folder(make: bool = False) -> Path:
    """The authority's folder, checked: it is no file server's, and only Salt's user can read it."""
    folder = Path(_policy("folder"))
    for root in (each for roots in (__opts__.get("file_roots") or {}).values() for each in roots):
        if folder.resolve().is_relative_to(Path(root).resolve()):
            raise _refuse(f"{folder} is under {root}, which the file server gives to every minion; "
                          "set gateway_authority:folder in the master's configuration to a place of its own")
    if make and not folder.is_symlink() and not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat() if folder.exists() or folder.is_symlink() else None
    if found is None or not make and not (folder / "authority.pem").is_file():
        raise _refuse(f"there is none in {folder}; make it with `salt-run authority.create`")
    if not stat.S_ISDIR(found.st_mode):
        raise _refuse(f"{folder} is no folder; remove it, or set gateway_authority:folder")
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise _refuse(f"{folder} has to belong to Salt's user alone: chown it to uid {os.geteuid()}, chmod 0700")
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; another run waits for it, but not for ever."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise _refuse(f"another run has held {folder}/lock for {_LOCK_SECONDS} s; `salt-run jobs.active` shows "
                              "runs that still go on: wait until it has ended, then try again")
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _opened() -> Iterator[_Authority]:
    """The authority with its key, for one run at a time."""
    folder = _folder()
    with _locked(folder):
        try:
            certificate = x509.load_pem_x509_certificate(_read(folder / "authority.pem"))
        except (ValueError, x509.InvalidVersion):
            raise _refuse(f"{folder}/authority.pem is no readable certificate") from None
        clear = _gpg(["--decrypt"], _read(folder / "authority.key.gpg"))
        try:
            key = load_pem_private_key(clear, None)
        except (ValueError, TypeError):
            raise _refuse(f"{folder}/authority.key.gpg holds no readable key") from None
        if not isinstance(key, _Key):
            raise _refuse(f"{folder}/authority.key.gpg holds a key that is neither EC nor RSA")
        if _public(key.public_key()) != _public(certificate.public_key()):
            raise _refuse(f"the key in {folder} does not belong to authority.pem")
        yield _Authority(folder, certificate, key)


def _public(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as handle:
        return handle.read()


def _write(path: Path, data: bytes) -> str:
    """Replace a file in one step, mode 0600 from its first byte on. A link at its place is replaced, not followed."""
    if path.is_dir() and not path.is_symlink():
        raise _refuse(f"{path} is a folder; a file has to be there")
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return str(path)


def _seal(secret: bytes) -> bytes:
    """Encrypt to the master's key, as an ASCII message: what Salt's gpg renderer reads."""
    return _gpg(["--armor", "--encrypt", "--trust-model", "always", "--recipient", _recipient()], secret)


@functools.lru_cache(maxsize=1)
def _program() -> str:
    found = salt.utils.path.which("gpg")
    if not found:
        raise _refuse("gpg is not installed (Debian package gpg)")
    return found


def _keyring() -> str:
    # as Salt's renderer finds it
    default = os.path.join(os.path.dirname(__opts__.get("conf_file") or "/etc/salt/master"), "gpgkeys")
    return __opts__.get("gpg_keydir") or default


def _recipient() -> str:
    if _policy("gpg_recipient"):
        return _policy("gpg_recipient")
    listed = _gpg(["--list-secret-keys", "--with-colons"], b"").decode(errors="replace")
    # GnuPG's doc/DETAILS: a "sec" line, then the "fpr" line of that key
    found = re.findall(r"^sec:.*\n(?:grp:.*\n)*fpr:{9}([0-9A-F]+):", listed, re.MULTILINE)
    if len(found) != 1:
        raise _refuse(f"there are {len(found)} secret keys in {_keyring()}; "
                      + ("set gateway_authority:gpg_recipient in the master's configuration" if found
                         else "make the master's key first: docs/install.md, The master"))
    return found[0]


def _gpg(arguments: list[str], data: bytes) -> bytes:
    """Run gpg. Secrets go through pipes only: never an argument, never a file."""
    command = [_program(), "--homedir", _keyring(), "--batch", "--quiet", "--no-tty", *arguments]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=_GPG_SECONDS)
    except subprocess.TimeoutExpired:
        raise _refuse(f"gpg --homedir {_keyring()} {arguments[0]}: no answer within {_GPG_SECONDS} s, so it was "
                      f"ended; its agent may hang: `gpgconf --homedir {_keyring()} --kill gpg-agent`, then try "
                      "again") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise _refuse(f"gpg --homedir {_keyring()} {arguments[0]} failed: {said[-1]}")
    return done.stdout


# what a roadwarrior gets


def _left_out(connection: dict[str, Any]) -> str:
    """Why a bundle has files for Libreswan only; empty when it has all files."""
    if connection["ike"] != "ikev2":
        return "all but Libreswan's: the connection is IKEv1"
    if any(connection["proposals"].values()):
        return "all but Libreswan's: the connection has proposals of its own, which other clients call otherwise"
    if not connection["pool"] and not connection["persons"]:
        return "all but Libreswan's: the connection has no pool, and other clients want an address from the gateway"
    return ""


def _bundle(authority: _Authority, issued: _Issued, site: str, connection: dict[str, Any], version: str,
            passphrase: str) -> dict[str, bytes]:
    """A person's files by name. None of them holds the passphrase."""
    name, identity = issued.record["name"], issued.record["names"][0]
    kind = issued.record["key"].split()[0]
    client = {"name": site, "certificate": f"{name}.{site}", "key": kind, "version": version, "person": name,
              "id": identity, "authority": _common_name(authority.certificate), "left_out": _left_out(connection)}
    strong = _packed(authority, issued, client["certificate"], passphrase, pkcs12.PBES.PBESv2SHA256AndAES256CBC)
    files = {
        f"{name}.p12": strong,
        "authority.pem": authority.certificate.public_bytes(Encoding.PEM),
        "libreswan.conf": _rendered("roadwarrior.conf.jinja", connection, client),
        "README.txt": _rendered("client/README.txt.jinja", connection, client),
    }
    if not client["left_out"]:
        # Apple's devices, and Androids before 13 or so, read nothing newer; see there for what protects it.
        old = _packed(authority, issued, client["certificate"], passphrase,
                      pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        files |= {
            "swanctl.conf": _rendered("client/swanctl.conf.jinja", connection, client),
            "windows.ps1": _rendered("client/windows.ps1.jinja", connection, client).replace(b"\n", b"\r\n"),
            f"{name}.mobileconfig": _mobileconfig(authority, client, connection, old),
            f"{name}.sswan": _sswan(authority, client, connection, old),
        }
    return files


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@functools.lru_cache(maxsize=8)
def _template(path: Path, _changed: int) -> jinja2.Template:
    # Compiled once for a thousand people. Plain Jinja, without Salt's functions: it sees public values only.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(path.read_text(encoding="utf-8"))


def _rendered(file: str, connection: dict[str, Any], client: dict[str, str]) -> bytes:
    path = _tree()._find("file_roots", f"openswan/files/{file}")
    return _template(path, path.stat().st_mtime_ns).render(connection=connection, client=client).encode()


def _mobileconfig(authority: _Authority, client: dict[str, str], connection: dict[str, Any], bundle: bytes) -> bytes:
    """
    For Apple's devices: Device Management Profile, payloads VPN (IKEv2), CertificatePKCS12 and CertificateRoot.

    There is no Password in the PKCS#12's payload: the device asks for it when the profile is installed.
    """
    local, suite = connection["local"], {"EncryptionAlgorithm": "AES-256-GCM", "IntegrityAlgorithm": "SHA2-256",
                                         "DiffieHellmanGroup": 19}
    size = authority.key.key_size
    kinds = {"PKCS12": "com.apple.security.pkcs12", "root": "com.apple.security.root", "vpn": "com.apple.vpn.managed"}
    ids = {kind: str(uuid.uuid4()).upper() for kind in ("profile", *kinds)}

    def payload(kind: str, title: str, **content: Any) -> dict[str, Any]:
        return {"PayloadType": kinds.get(kind, "Configuration"), "PayloadVersion": 1, "PayloadUUID": ids[kind],
                "PayloadIdentifier": f"{client['id']}.{kind.lower()}", "PayloadDisplayName": title, **content}

    ikev2 = {
        "RemoteAddress": local["address"], "RemoteIdentifier": local["id"],
        # A name: a DN would be sent as if it were one.
        "LocalIdentifier": client["id"],
        "AuthenticationMethod": "Certificate", "ExtendedAuthEnabled": 0, "PayloadCertificateUUID": ids["PKCS12"],
        "CertificateType": f"ECDSA{size}" if client["key"] == "ec" else "RSA",
        "ServerCertificateIssuerCommonName": client["authority"], "ServerCertificateCommonName": local["id"],
        "DisableMOBIKE": 1, "DisableRedirect": 1, "EnablePFS": 1, "DeadPeerDetectionRate": "High",
        "UseConfigurationAttributeInternalIPSubnet": 0,
        "IKESecurityAssociationParameters": suite, "ChildSecurityAssociationParameters": suite,
    }
    return plistlib.dumps(payload(
        "profile", f"VPN {client['name']}", PayloadRemovalDisallowed=False, PayloadContent=[
            payload("PKCS12", client["certificate"], PayloadCertificateFileName=f"{client['person']}.p12",
                    PayloadContent=bundle),
            payload("root", client["authority"], PayloadCertificateFileName="authority.cer",
                    PayloadContent=authority.certificate.public_bytes(Encoding.DER)),
            payload("vpn", f"VPN {client['name']}", UserDefinedName=f"VPN {client['name']}", VPNType="IKEv2",
                    IKEv2=ikev2)]))


def _sswan(authority: _Authority, client: dict[str, str], connection: dict[str, Any], bundle: bytes) -> bytes:
    """
    For strongSwan's app on Android: docs.strongswan.org, Android VPN client, VPN profiles (.sswan).

    The app asks for the PKCS#12's passphrase when it imports the profile.
    """
    local = connection["local"]
    profile = {
        "uuid": str(uuid.uuid4()), "name": f"VPN {client['name']}", "type": "ikev2-cert",
        "remote": {"addr": local["address"], "id": local["id"],
                   "cert": base64.b64encode(authority.certificate.public_bytes(Encoding.DER)).decode()},
        "local": {"id": client["id"], "p12": base64.b64encode(bundle).decode()},
        "ike-proposal": "aes256gcm16-prfsha512-prfsha256-ecp256", "esp-proposal": "aes256gcm16-ecp256",
        "split-tunneling": {"subnets": list(local["subnets"])},
    }
    return json.dumps(profile, indent=2).encode() + b"\n"


def _put_bundle(folder: Path, site: str, name: str, files: dict[str, bytes], passphrase: str) -> Path:
    """Put a person's folder, with the file of its passphrase beside it, in place of the old ones, in one step."""
    place = folder / "bundles" / site / name
    for each in (place.parent.parent, place.parent):
        each.mkdir(mode=0o700, exist_ok=True)
        if each.is_symlink():
            raise _refuse(f"{each} is a link; remove it")
    made = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=place.parent))          # 0700
    words, old = made.with_name(f"{made.name}.passphrase"), made.with_name(f"{made.name}.old")
    try:
        for file, data in files.items():
            descriptor = os.open(made / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
        _write(words, passphrase.encode() + b"\n")
        # All that needs space on the disk is written: a full disk leaves no new folder beside an old passphrase.
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, old)
        os.rename(made, place)
        os.replace(words, f"{place}.passphrase")
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        words.unlink(missing_ok=True)
        if os.path.lexists(old) and not os.path.lexists(place):
            os.rename(old, place)
        raise
    if old.is_symlink() or old.is_file():
        old.unlink()
    elif old.exists():
        shutil.rmtree(old)
    return place


# pillar


@functools.lru_cache(maxsize=1)
def _module() -> ModuleType:
    path = Path(__file__).with_name("gateway.py")
    spec = importlib.util.spec_from_file_location("gateway_runner_of_the_tree", path)
    if spec is None or spec.loader is None:
        raise _refuse(f"{path}: Python can not load it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tree() -> ModuleType:
    """The runner that knows the sites, loaded as plain Python."""
    module = _module()
    vars(module).update(__opts__=__opts__, __context__=__context__)
    return module


def _settings(site: str) -> dict[str, Any]:
    """A site as its first node sees it. Its secrets are not checked: they may be what is being made."""
    if not isinstance(site, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", site):
        raise _refuse(f"{site!r} is no site's name")
    tree = _tree()
    data, schema, gateway = tree._site(site), tree._schema(), tree._gateway()
    mistakes = gateway.find_mistakes(data, schema)
    if mistakes:
        raise SaltRunnerError("\n".join(mistakes))
    return gateway.derive(data, schema, next(iter(data["nodes"])))


def _roadwarrior_connection(site: str, settings: dict[str, Any], name: str | None) -> dict[str, Any]:
    """A roadwarrior connection of a site; without a name, its first."""
    known = {each["name"]: each for each in settings["connections"]
             if each["kind"] == "roadwarrior" and each["auth"] == "certificate"}
    if not known or name not in (None, *known):
        raise _refuse(f"{site} has no roadwarrior connection {name or 'at all'} with auth: certificate; "
                      f"known are {', '.join(known) or 'none'}")
    return known[name] if name else next(iter(known.values()))


def _pillar_file(kind: str, site: str) -> Path:
    """pillar/secrets/KIND/SITE.sls of the tree, in a folder that is made if it is not there."""
    roots = __opts__["pillar_roots"].get("base", [])
    root = next((Path(each) for each in roots if (Path(each) / "schema.sls").is_file()), None)
    if root is None:
        raise _refuse(f"schema.sls is under none of this master's pillar_roots ({', '.join(roots)})")
    folder = root / "secrets" / kind
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{site}.sls"


def _listed(site: str) -> dict[str, Any]:
    """What is in a site's file of lists."""
    path = _pillar_file("crls", site)
    try:
        found = salt.utils.yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
        its = (found or {}).get("gateway_secrets") or {}
        lists = its.get("crls") or {}
        return dict(its) | {"crls": dict(lists)}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        raise _refuse(f"{path} is damaged; remove it, then publish and fetch its lists again") from None


def _write_listed(site: str, tree: dict[str, Any]) -> str:
    return _write(_pillar_file("crls", site), _pillar_text("#!yaml", tree).encode())


def _refuse_handwritten(site: str, nickname: str) -> None:
    """Refuse a certificate that SITE.sls already has: pillar would merge the two into something that is neither."""
    path = _pillar_file("issued", site).parent.parent / f"{site}.sls"
    if not path.exists():
        return
    try:
        found = salt.utils.yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        there = nickname in ((found.get("gateway_secrets") or {}).get("certificates") or {})
    except (yaml.YAMLError, AttributeError, TypeError):
        raise _refuse(f"{path} is not YAML, or not of the shape of example.sls.txt") from None
    if there:
        raise _refuse(f"{path} gives certificates:{nickname} already; take it out there first, and do not apply in "
                      "between")


def _pillar_text(renderers: str, tree: dict[str, Any]) -> str:
    return (f"{renderers}\n# Written by salt-run authority and salt-run lists; do not edit.\n"
            + yaml.dump({"gateway_secrets": tree}, Dumper=_Dumper, default_flow_style=False, sort_keys=False))


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(
    "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


def _apply(site: str) -> str:
    """The command that brings a site's pillar to its nodes."""
    return f"salt '*.{site}' state.apply"
