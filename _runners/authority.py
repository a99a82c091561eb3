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
import ipaddress
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)
from salt.exceptions import SaltRunnerError

# Trap: Salt's loader has this file's own folder on the path. So the tree comes first in the path, and only for these
# imports, as in _runners/alerts.py.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from issuing import bundle as _bundles
    from issuing import certificate as _certificate
    from issuing import gpg as _run_gpg
    from issuing import pillar as _pillar
    from issuing import words as _words
    from issuing.certificate import Authority as _Authority
    from issuing.certificate import date_of as _date
    from issuing.certificate import facts as _facts
    from issuing.certificate import text_of as _text
    from issuing.certificate import utc_now as _now
    from issuing.errors import refuse as _refuse
    from issuing.files import locked as _locked
    from issuing.files import read as _read
    from issuing.files import write as _write
    from issuing.journal import certificates as _certificates
    from issuing.journal import expelled as _expelled
    from issuing.journal import holders as _holders
    from issuing.journal import note as _note
    from issuing.journal import read as _journal
    from sites import files as _site_files
    from sites import tree as _sites_tree
finally:
    del sys.path[0]

__virtualname__ = "authority"

_DEFAULTS: dict[str, str | int] = {
    "folder": "/etc/salt/gateway-authority", "gpg_recipient": "", "organization": "", "key": "ec256",
    "authority_days": 3650, "gateway_days": 730, "roadwarrior_days": 365, "crl_days": 30, "renew_days": 30,
}
# One DNS label: the first one of the person's name in the certificate. Without a dot it can not be a gateway's name.
_PERSON = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
# RFC 5280, 5.3.1, without the reasons about an authority and the one that takes a revocation back
_REASONS = ("unspecified", "key_compromise", "affiliation_changed", "superseded", "cessation_of_operation",
            "privilege_withdrawn")
_NAME_IN_PILLAR = "gateway-authority"

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


# what they do


def _create(name: str) -> dict[str, Any]:
    folder = _folder(make=True)
    with _locked(folder):
        if any((folder / file).exists() for file in ("authority.pem", "authority.key.gpg", "journal.jsonl")):
            raise _refuse(f"there is one in {folder} already; with a second one every certificate of the first is lost")
        key, certificate = _certificate.make_authority(name, _policy("key"), _policy("authority_days"),
                                                       _policy("organization"))
        sealed = _seal(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        # The key first: a run that is cut short leaves a folder that the next refuses, not one without its key.
        _write(folder / "authority.key.gpg", sealed)
        _write(folder / "authority.pem", certificate.public_bytes(Encoding.PEM))
        _note(folder, [_certificate.record("authority", "", name, certificate)])
    return {"certificate": _facts(certificate), "folder": str(folder),
            "next": f"keep a copy of {folder} and of the gpg keyring on another machine"}


def _issue_gateway(site: str) -> dict[str, Any]:
    with _opened() as authority:
        return _new_gateway(authority, site)


def _new_gateway(authority: _Authority, site: str) -> dict[str, Any]:
    settings = _settings(site)
    nickname, identity = settings["identity"]["certificate"], settings["identity"]["id"]
    _pillar.refuse_handwritten(_pillar_file("issued", site).parent.parent / f"{site}.sls", nickname)
    names: list[x509.GeneralName] = [x509.DNSName(identity)]
    # Windows looks for the address that it connects to.
    names += [x509.IPAddress(ipaddress.ip_address(each["address"])) for each in settings["virtual"]
              if each["side"] == "external"]
    issued = _issue(authority, "gateway", site, identity, names)
    passphrase = _certificate.new_passphrase()
    packed = _certificate.packed(authority, issued, nickname, passphrase, pkcs12.PBES.PBESv2SHA256AndAES256CBC)
    sealed = {"pkcs12": _seal(base64.b64encode(packed)), "passphrase": _seal(passphrase.encode())}
    text = _pillar.text("#!yaml|gpg", {"certificates": {nickname: {
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
        passphrase = _certificate.new_passphrase()
        files = _bundles.made(authority, each, site, its, version, passphrase, _template)
        folder = _bundles.put(authority.folder, site, each.record["name"], files, passphrase)
        found[each.record["name"]] = {"certificate": _facts(each.certificate), "bundle": str(folder),
                                      "passphrase": f"{folder}.passphrase", "files": sorted(files)}
        if why := _bundles.left_out(its):
            found[each.record["name"]]["left_out"] = why
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
    sites = sorted({each["site"] for each in _certificates(journal, None)} & set(_site_files.names(__opts__)))
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
    listed = _certificate.revocation_list(authority, number, now, next_update, entries)
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


def _list(site: str | None) -> dict[str, Any]:
    folder, renew_days = _folder(), _policy("renew_days")
    journal = _journal(folder)
    newest = {(each["site"], each["name"]): each["serial"] for each in _certificates(journal, site)}
    rows = []
    for each in reversed(_certificates(journal, site)):
        rows.append({"site": each["site"], "name": each["name"], "profile": each["profile"], "key": each["key"],
                     "serial": each["serial"],
                     "state": _words.in_words(each, newest[each["site"], each["name"]], renew_days)})
    last = next((each for each in reversed(journal) if each["event"] == "crl"), None)
    own = next(each for each in journal if each["event"] == "issued" and each["profile"] == "authority")
    return {"authority": f"{own['name']}: {_words.expiry(own['not_after'], renew_days)}",
            "revocation list": f"number {last['number']}, {last['entries']} entries, the next is due "
                               f"{_words.expiry(last['next_update'], renew_days, 'in ', '')}"
            if last else "none was published",
            "certificates": rows}


def _issue(authority: _Authority, profile: str, site: str, name: str,
           names: list[x509.GeneralName]) -> _certificate.Issued:
    return _certificate.issue(authority, profile, site, name, names, _policy("key"), _policy(f"{profile}_days"),
                              _policy("organization"))


def _template(file: str) -> Path:
    """Where one of the client's templates is."""
    return _sites_tree.find(__opts__, "file_roots", f"openswan/files/{file}")


# the master's configuration, its folders and its gpg key


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
        if not isinstance(key, _certificate.Key):
            raise _refuse(f"{folder}/authority.key.gpg holds a key that is neither EC nor RSA")
        if _public(key.public_key()) != _public(certificate.public_key()):
            raise _refuse(f"the key in {folder} does not belong to authority.pem")
        yield _Authority(folder, certificate, key)


def _public(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _seal(secret: bytes) -> bytes:
    """Encrypt to the master's key, as an ASCII message: what Salt's gpg renderer reads."""
    return _gpg(["--armor", "--encrypt", "--trust-model", "always", "--recipient", _recipient()], secret)


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
    return _run_gpg.run(_keyring(), arguments, data)


# pillar


def _settings(site: str) -> dict[str, Any]:
    """A site as its first node sees it. Its secrets are not checked: they may be what is being made."""
    if not isinstance(site, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", site):
        raise _refuse(f"{site!r} is no site's name")
    return _site_files.settings(__opts__, site)


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
    return _pillar.file(__opts__["pillar_roots"].get("base", []), kind, site)


def _listed(site: str) -> dict[str, Any]:
    """What is in a site's file of lists."""
    return _pillar.listed(_pillar_file("crls", site))


def _write_listed(site: str, tree: dict[str, Any]) -> str:
    return _write(_pillar_file("crls", site), _pillar.text("#!yaml", tree).encode())


def _apply(site: str) -> str:
    """The command that brings a site's pillar to its nodes."""
    return f"salt '*.{site}' state.apply"
