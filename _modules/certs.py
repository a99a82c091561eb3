"""
Identities of a gateway: brought from pillar to the place where the IPsec daemon reads them.

:depends: cryptography (comes with Salt); for Libreswan certutil, pk12util, crlutil (Debian: libnss3-tools)

That place is a *store*: ``nss``, the database that Libreswan reads, or ``swanctl``, the folders that strongSwan reads
(swanctl.conf(5): x509, private, x509ca, x509crl below /etc/swanctl).

An identity in pillar has one of two forms::

    gateway_secrets:
      certificates:
        gateway:
          pkcs12: MIIK...          # base64 of a PKCS#12 file: key, certificate, chain
          passphrase: ...
        other:
          certificate: |           # the same three as PEM
            -----BEGIN CERTIFICATE-----
          key: |
            -----BEGIN PRIVATE KEY-----
          chain: [PEM, ...]

Functions take the *pillar path* of an identity, never its content. So no secret is ever an argument, a return value or
part of a log line. Everything is read and checked before anything is written.

What NSS does without being asked (seen with 3.87, Debian 12, and 3.110, Debian 13, which behave alike):

- A certificate whose subject is already in the database gets the nickname that this subject has there, whatever the
  PKCS#12 file says. So a renewed certificate shares the nickname of the old one.
- Every look-up by nickname, the daemon's included, finds all certificates of that subject and takes the newest valid
  one. So ``certutil -D``, meant for the old one, deletes the new one. A key is deleted by its id (``-F -k``); this
  deletes the right one.
- A private key is listed by its CKAID: SHA-1 over the modulus (RSA) or the point (EC) of its public key.

Certificates are read with ``cryptography``. Salt's x509_v2 reads them with the same library, but needs a private key,
or its passphrase, as an argument or in an unencrypted file, and cannot use NSS. What x509_v2 does on a minion (make
keys, certificates and lists) is not the gateway's task: the runner ``authority`` does that, on the master.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import os
import re
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import salt.utils.path
from salt.exceptions import CommandExecutionError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
        pkcs12,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    _PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_Thing = TypeVar("_Thing", "x509.Certificate", "x509.CertificateRevocationList")

DATABASE = "/var/lib/ipsec/nss"  # Libreswan 4.x and 5.x on Debian
LISTS = "/var/lib/ipsec/gateway-lists"  # revocation lists, public, for the running daemon
SWANCTL = "/etc/swanctl"  # strongSwan's, on Debian
STORES = ("nss", "swanctl")
TRUSTED_AUTHORITY = "CT,,"  # signs servers and clients: what `ipsec import` sets too
REPLACEMENT = ".replacement"
_TOOL_SECONDS = 60
# NSS and OpenSSL of both Debian releases can read and write this. The bundle exists for milliseconds, on a tmpfs.
_KDF_ROUNDS = 20000


def __virtual__() -> bool | tuple[bool, str]:
    if not HAS_CRYPTOGRAPHY:
        return False, "certs: the Python package cryptography is missing"
    return True


# What cryptography raises for what it can not read: mostly as it loads an object, sometimes only as a field is read.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
               x509.UnsupportedGeneralNameType) if HAS_CRYPTOGRAPHY else ()


# No dataclass: Salt's loader does not register an execution module in sys.modules, where dataclasses look for it.
class _Identity(NamedTuple):
    """A private key with its certificate and the authorities' certificates above it."""

    key: _PrivateKey
    certificate: x509.Certificate
    authorities: tuple[x509.Certificate, ...]


# reading and checking what pillar holds


def inspect(pillar: str, identity: str | list[str] = "") -> dict[str, Any]:
    """
    Read and check an identity in pillar, without writing anything.

    pillar
        The path of the identity in pillar, such as ``gateway_secrets:certificates:gateway``.
    identity
        By what peers know the holder, one or several: DNS names, addresses and mail addresses must be among the
        certificate's subjectAltNames, a distinguished name must be its subject.

    Returns the public facts: ``fingerprint`` (SHA-256, hex), ``subject``, ``issuer``, ``names``,
    ``not_before`` and ``not_after`` (ISO 8601, UTC), ``key`` (such as "ec 256") and ``authorities`` (the same facts of
    each). Raises CommandExecutionError with one line that says what is wrong, and where.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.inspect gateway_secrets:certificates:gateway gateway.winterthur.example
    """
    loaded = _load(pillar, identity)
    return _facts(loaded.certificate) | {"authorities": [_facts(each) for each in loaded.authorities]}


def _load(pillar: str, identity: str | list[str]) -> _Identity:
    source = _from_pillar(pillar)
    if not isinstance(source, dict):
        raise _error(pillar, "is no mapping of pkcs12 and passphrase, or of certificate, key and chain")
    if "pkcs12" in source:
        key, certificate, chain = _read_pkcs12(pillar, source)
    elif "certificate" in source:
        key, certificate, chain = _read_pem(pillar, source)
    else:
        raise _error(pillar, "has neither pkcs12 nor certificate")
    private_key = _check(pillar, key, certificate, identity)
    authorities = tuple(each for each in chain if _is_authority(each))
    if not authorities:
        raise _error(pillar, "holds no authority's certificate, so no peer could be verified; add the chain")
    _check_issuer(pillar, certificate, authorities)
    return _Identity(private_key, certificate, authorities)


def _from_pillar(path: str) -> object:
    # Since 3008 Salt masks what an execution module gets from pillar, unless it asks for the plain value.
    value = __salt__["pillar.get"](path, None, unmask=True)
    if value is None:
        raise _error(path, "is not in this node's pillar; add it to pillar/secrets/SITE.sls")
    return value


def _error(where: str, what: str) -> CommandExecutionError:
    return CommandExecutionError(f"certs: {where} {what}")


def _read_pkcs12(pillar: str, source: dict[str, Any]) -> tuple[object, x509.Certificate, list[x509.Certificate]]:
    data = _decoded(f"{pillar}:pkcs12", source["pkcs12"])
    _check_complete(f"{pillar}:pkcs12", data)
    if "passphrase" not in source:
        raise _error(pillar, "has a pkcs12 but no passphrase")
    try:
        key, certificate, chain = pkcs12.load_key_and_certificates(data, str(source["passphrase"]).encode())
        for each in (certificate, *chain):
            if each is not None:
                _whole(each)
    except UnsupportedAlgorithm:
        raise _error(f"{pillar}:pkcs12", "is encrypted with an obsolete algorithm (RC2?); "
                     "export it again, with AES") from None
    except _UNREADABLE:
        raise _error(pillar, "can not be opened: wrong passphrase, or a damaged PKCS#12 file") from None
    if key is None or certificate is None:
        raise _error(f"{pillar}:pkcs12", "holds no private key with its certificate")
    return key, certificate, list(chain)


def _decoded(where: str, text: object) -> bytes:
    try:
        return base64.b64decode("".join(str(text).split()), validate=True)
    except ValueError:          # binascii.Error, or text that is not ASCII
        raise _error(where, "is not base64; make it with `base64 -w0 FILE.p12`") from None


def _check_complete(where: str, data: bytes) -> None:
    """A DER file states its own length (X.690, 8.1.3); parsers only say that something is wrong."""
    if data[:1] != b"\x30" or len(data) < 6:
        raise _error(where, "is no PKCS#12 file")
    if data[1] & 0x80 and data[1] != 0x80:
        octets = data[1] & 0x7F
        told = 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")
        if len(data) < told:
            raise _error(where, f"is truncated: {len(data)} of {told} bytes")


def _read_pem(pillar: str, source: dict[str, Any]) -> tuple[object, x509.Certificate, list[x509.Certificate]]:
    if "key" not in source:
        raise _error(pillar, "has a certificate but no key")
    passphrase = source.get("passphrase")
    try:
        key = load_pem_private_key(str(source["key"]).encode(), str(passphrase).encode() if passphrase else None)
    except TypeError:
        raise _error(f"{pillar}:key", "is encrypted but has no passphrase, or has one but is not encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _error(f"{pillar}:key", "is no readable PEM private key, or its passphrase is wrong") from None
    chain = source.get("chain", [])
    texts = [chain] if isinstance(chain, str) else list(chain)
    first, *rest = _pem_certificates(f"{pillar}:certificate", source["certificate"])
    for number, text in enumerate(texts):
        rest += _pem_certificates(f"{pillar}:chain:{number}", text)
    return key, first, rest


def _pem_certificates(where: str, text: object) -> list[x509.Certificate]:
    try:
        return [_whole(each) for each in x509.load_pem_x509_certificates(str(text).encode())]
    except _UNREADABLE:
        raise _error(where, "is no readable PEM certificate (truncated?)") from None


def _whole(thing: _Thing) -> _Thing:
    """A certificate or list, once every field needed later proved readable. Raises one of _UNREADABLE if not."""
    _ = (thing.issuer.rfc4514_string(), list(thing.extensions), thing.signature_hash_algorithm)
    if isinstance(thing, x509.Certificate):
        thing.subject.rfc4514_string()
        thing.public_key()
        _facts(thing)
        _usage(thing)
    else:
        _ = (len(thing), thing.last_update_utc, thing.next_update_utc)
    return thing


def _check(pillar: str, key: object, certificate: x509.Certificate, identity: str | list[str]) -> _PrivateKey:
    """The key, if an identity can use it with this certificate. Raises CommandExecutionError if not."""
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise _error(pillar, "has a key that is neither RSA nor EC; the IPsec daemon signs with nothing else")
    if _public_bytes(key.public_key()) != _public_bytes(certificate.public_key()):
        raise _error(pillar, "has a key that does not belong to its certificate")
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc < now:
        raise _error(pillar, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it")
    if certificate.not_valid_before_utc > now:
        raise _error(pillar, f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
                             "check this node's clock")
    weak = _weakness(certificate)
    if weak:
        raise _error(pillar, f"is too weak: {weak}; make a new one")
    for each in [identity] if isinstance(identity, str) else identity:
        if "=" in each and _parts(each) != _parts(certificate.subject.rfc4514_string()):
            raise _error(pillar, f"has the subject {certificate.subject.rfc4514_string()}, not {each}: a distinguished "
                                 "name as the gateway's identity must be its certificate's subject")
        if each and "=" not in each and each not in _names(certificate):
            raise _error(pillar, f"is for {', '.join(_names(certificate)) or 'no name'}, not for {each}: "
                                 "its subjectAltName must hold the gateway's identity")
    return key


def _parts(subject: str) -> list[str]:
    """A distinguished name in comparable form: RFC 4514 begins with the last part, ipsec.conf with the first."""
    return sorted(re.sub(r"^\s*(?:E|1\.2\.840\.113549\.1\.9\.1)=", "emailAddress=", part).strip()
                  for part in re.split(r"(?<!\\),", subject))


def _check_issuer(pillar: str, certificate: x509.Certificate, authorities: tuple[x509.Certificate, ...]) -> None:
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, *_UNREADABLE):
            continue
        return
    raise _error(pillar, f"was issued by \"{certificate.issuer.rfc4514_string()}\", which is not in its chain")


def _public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, (x509.DNSName, x509.IPAddress, x509.RFC822Name))]


def _facts(certificate: x509.Certificate) -> dict[str, Any]:
    key = certificate.public_key()
    kinds = {"rsa": rsa.RSAPublicKey, "ec": ec.EllipticCurvePublicKey}
    kind = next((name for name, of in kinds.items() if isinstance(key, of)), "other")
    return {
        "fingerprint": _fingerprint(certificate),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": _names(certificate),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "key": f"{kind} {getattr(key, 'key_size', '')}".strip(),
    }


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _key_id(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    """The CKAID under which NSS lists a key (PK11_MakeIDFromPubKey in NSS)."""
    if isinstance(public_key, rsa.RSAPublicKey):
        modulus = public_key.public_numbers().n
        data = modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")
    else:
        data = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha1(data).hexdigest()  # an identifier, not a protection


def _weakness(certificate: x509.Certificate) -> str:
    """
    Why a certificate is too weak, in words; "" if it is not.

    NIST SP 800-131A: RSA with 2048 bits or more, curves with 224 or more (here 256, which IKE has), no SHA-1.
    """
    key, digest = certificate.public_key(), certificate.signature_hash_algorithm
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        return f"its RSA key has {key.key_size} bits; the minimum is 2048"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256:
        return f"its EC key has {key.key_size} bits; the minimum is 256"
    # The signature of an authority on its own certificate protects nothing.
    if digest is not None and digest.name in ("sha1", "md5") and certificate.subject != certificate.issuer:
        return f"it is signed with {digest.name}"
    return ""


# reports in words


def report(days: int = 30) -> dict[str, Any]:
    """
    What is in pillar and what is installed, in words for a person: how long it is valid, and what is wrong with it.

    days
        A certificate that ends within this number of days is to be renewed.

    Returns ``pillar`` (certificates by name), ``installed`` (by nickname) and ``lists`` (revocation lists by name),
    each with its facts in words, and ``problems``: one line for each thing that is wrong, empty when all is well.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.report
    """
    found: dict[str, Any] = {"pillar": {}, "installed": {}, "lists": {}, "problems": []}
    secrets = __salt__["pillar.get"]("gateway_secrets", {}, unmask=True)
    wanted = {}
    for name in sorted(secrets.get("certificates") or {}):
        path = f"gateway_secrets:certificates:{name}"
        try:
            loaded = _load(path, "")
        except CommandExecutionError as error:
            found["pillar"][name] = {"problem": str(error)}
            found["problems"].append(str(error))
            continue
        wanted[name] = _fingerprint(loaded.certificate)
        _describe(found, "pillar", name, loaded.certificate, loaded.authorities, True, days)
    for name in sorted(secrets.get("crls") or {}):
        try:
            crl = _load_crl(f"gateway_secrets:crls:{name}")
        except CommandExecutionError as error:
            found["lists"][name] = {"problem": str(error)}
            found["problems"].append(str(error))
            continue
        found["lists"][name] = {"issuer": crl.issuer.rfc4514_string(), "number": _crl_number(crl),
                                "revoked": len(crl), "next list": f"due {_in_words(_due(crl))}"}
        if _due(crl) - datetime.datetime.now(datetime.UTC) < datetime.timedelta(days=7):
            found["problems"].append(f"certs: lists: {name}: the next one is due {_in_words(_due(crl))}; "
                                     "publish it")
    damage = damaged()
    if damage:
        found["problems"].append(f"certs: {damage}; the next state.apply creates it again")
        return found
    entries = _entries()
    authorities = tuple(entry.certificate for entry in entries if entry.trust == TRUSTED_AUTHORITY)
    for entry in entries:
        if not _is_authority(entry.certificate) and entry.nickname in wanted \
                and _fingerprint(entry.certificate) != wanted[entry.nickname] and not entry.has_key:
            continue          # superseded: see _superseded
        _describe(found, "installed", entry.nickname, entry.certificate, authorities, entry.has_key, days)
    for name, fingerprint in wanted.items():
        if not any(_fingerprint(entry.certificate) == fingerprint for entry in entries):
            found["problems"].append(f"certs: {name}: pillar's certificate is not installed; state.apply installs it")
    return found


def _describe(found: dict[str, Any], where: str, name: str, certificate: x509.Certificate,
              authorities: tuple[x509.Certificate, ...], has_key: bool, days: int) -> None:
    """Add a certificate and its problems to a report."""
    authority = _is_authority(certificate)
    issuer = certificate.issuer.rfc4514_string()
    chain = any(_issued_by(certificate, each) for each in authorities)
    weak, usage = _weakness(certificate), _usage(certificate)
    kind = _facts(certificate)["key"]
    digest = certificate.signature_hash_algorithm
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    found[where][name] = {
        "for": ", ".join(_names(certificate)) or certificate.subject.rfc4514_string(),
        "valid": f"until {certificate.not_valid_after_utc:%Y-%m-%d}, {_in_words(certificate.not_valid_after_utc)}",
        "key": f"{kind} bits, signed with {digest.name if digest else 'no digest of its own'}, "
               f"{'too weak' if weak else 'strong enough'}",
        "private key": "an authority's, not kept here" if authority and not has_key
                       else "present, and belongs to it" if has_key else "missing",
        "chain": "issued by itself" if certificate.issuer == certificate.subject
                 else f"issued by {issuer}, which is trusted" if chain else f"issued by {issuer}, which is missing",
        "usage": usage,
    }
    problems = [weak and f"is too weak: {weak}", not chain and certificate.issuer != certificate.subject
                and f"was issued by {issuer}, which is missing", not has_key and not authority and
                "has no private key", not authority and "not for signatures" in usage and
                f"may not be used to sign: {usage}"]
    if left < datetime.timedelta(days=days):
        problems.append(f"ends {_in_words(certificate.not_valid_after_utc)}; renew it")
    if certificate.not_valid_before_utc > datetime.datetime.now(datetime.UTC):
        problems.append(f"becomes valid {_in_words(certificate.not_valid_before_utc)}; is this node's clock right?")
    found["problems"] += [f"certs: {where}: {name} {problem}" for problem in problems if problem]


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *_UNREADABLE):
        return False
    return True


def _usage(certificate: x509.Certificate) -> str:
    """What a certificate may be used for (RFC 5280, 4.2.1.3 and 4.2.1.12)."""
    words = []
    with contextlib.suppress(x509.ExtensionNotFound):
        bits = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if bits.key_cert_sign:
            words.append("certificates" + (" and revocation lists" if bits.crl_sign else ""))
        # RFC 4945, 5.1.3.2: for IKE either of the two is enough
        words.append("signatures" if bits.digital_signature or bits.content_commitment else "not for signatures")
    with contextlib.suppress(x509.ExtensionNotFound):
        known = {ExtendedKeyUsageOID.SERVER_AUTH: "servers", ExtendedKeyUsageOID.CLIENT_AUTH: "clients",
                 x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17"): "IPsec"}
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        words += [known.get(each, each.dotted_string) for each in uses]
    return ", ".join(words) or "anything"


def _in_words(date: datetime.datetime) -> str:
    left = date - datetime.datetime.now(datetime.UTC)
    days = round(abs(left) / datetime.timedelta(days=1))
    words = "less than a day" if not days else "1 day" if days == 1 else f"{days} days"
    return f"in {words}" if left > datetime.timedelta(0) else f"{words} ago"


# the daemon's database


def stored() -> list[dict[str, Any]]:
    """
    List what the daemon's NSS database holds.

    Each entry: ``nickname``, ``trust`` (certutil's three columns), ``private_key`` (whether the database has its key)
    and the facts that :py:func:`inspect` returns. Empty when there is no database.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.stored
    """
    return [_facts(entry.certificate) | {"nickname": entry.nickname, "trust": entry.trust, "private_key": entry.has_key}
            for entry in _entries()]


def held() -> dict[str, list[str]] | None:
    """
    The content of the database in a form for a beacon: read without NSS's tools, and without waiting for a writer.

    Returns ``certificates`` (SHA-256 of each, hex) and ``keys`` (the id of each private key, hex), sorted; both are
    empty without a database. Returns None when it can not be read now: another process writes, or it is damaged.

    NSS keeps its objects in SQLite, with a column for each attribute: a0 is the class (1: certificate, 3: private key,
    PKCS#11's CKA_CLASS), a11 the value, a102 the id (sdb.c of NSS).

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.held
    """
    certificates = _rows("cert9.db", "SELECT a11 FROM nssPublic WHERE a0 = x'00000001'")
    keys = _rows("key4.db", "SELECT a102 FROM nssPrivate WHERE a0 = x'00000003'")
    if certificates is None or keys is None:
        return None
    return {"certificates": sorted(hashlib.sha256(value).hexdigest() for (value,) in certificates),
            "keys": sorted(value.hex() for (value,) in keys)}


def dates() -> dict[str, dict[str, Any]] | None:
    """
    How long the content of the database is valid, for a beacon: read without NSS's tools, and without waiting.

    Returns ``certificates``: by nickname the end (ISO 8601) of each certificate that is an authority's or has its key
    here; if several have one nickname, the latest end. And ``lists``: by issuer ``this_update`` and ``next_update``.
    Returns None when the database can not be read now.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.dates
    """
    found = held()
    rows = _rows("cert9.db", "SELECT a3, a11, a102 FROM nssPublic WHERE a0 = x'00000001'")
    if found is None or rows is None:
        return None
    ends: dict[str, datetime.datetime] = {}
    for label, value, identifier in rows:
        with contextlib.suppress(ValueError):
            certificate = x509.load_der_x509_certificate(value)
            name, end = (label or b"").decode(errors="replace"), certificate.not_valid_after_utc
            if _is_authority(certificate) or (identifier or b"").hex() in found["keys"]:
                ends[name] = max(end, ends.get(name, end))
    lists = {}
    for path in sorted(Path(LISTS).glob("*.crl")):
        with contextlib.suppress(ValueError, OSError):
            crl = x509.load_der_x509_crl(path.read_bytes())
            if crl.next_update_utc:
                lists[crl.issuer.rfc4514_string()] = {"this_update": crl.last_update_utc.isoformat(),
                                                      "next_update": crl.next_update_utc.isoformat()}
    return {"certificates": {name: end.isoformat() for name, end in sorted(ends.items())}, "lists": lists}


def sign() -> list[list[int]]:
    """
    A value that changes whenever the database or the revocation lists change.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.sign
    """
    found = []
    # Each list too: rewriting a list in place does not change the folder.
    lists = Path(LISTS)
    for path in (Path(DATABASE, "cert9.db"), Path(DATABASE, "key4.db"), lists, *sorted(lists.glob("*.crl"))):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append([stat.st_ino, stat.st_mtime_ns, stat.st_size])
    return found


def _rows(file: str, query: str) -> list[Any] | None:
    """The rows that SQLite returns; [] without such a file, None when it can not be read now."""
    path = Path(DATABASE, file)
    if not path.is_file():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error:
        return None


class _Entry(NamedTuple):
    """A certificate in the database."""

    nickname: str
    trust: str
    certificate: x509.Certificate
    has_key: bool


def _entries() -> list[_Entry]:
    if not Path(DATABASE, "cert9.db").exists():
        return []
    keys = _key_ids()
    entries = []
    trusts = _trust_by_nickname(_nss(["certutil", "-L"]))
    for nickname, trust in trusts.items():
        try:
            printed = _nss(["certutil", "-L", "-a", "-n", nickname])
            certificates = [_whole(each) for each in x509.load_pem_x509_certificates(printed.encode())]
        except _UNREADABLE:
            raise _error(DATABASE, f"holds an unreadable certificate as {nickname}; look with "
                         f"`certutil -L -n '{nickname}' -d sql:{DATABASE}`") from None
        for certificate in certificates:
            entries.append(_Entry(nickname, trust, certificate, _key_id_or_none(certificate) in keys))
    return entries


def _key_id_or_none(certificate: x509.Certificate) -> str | None:
    key = certificate.public_key()
    return _key_id(key) if isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)) else None


def _trust_by_nickname(listing: str) -> dict[str, str]:
    """`certutil -L` prints two header lines, then on each line a nickname (may have blanks) and the trust columns."""
    found = {}
    for line in listing.splitlines():
        match = re.fullmatch(r"(\S.*?) +([a-zA-Z]*,[a-zA-Z]*,[a-zA-Z]*) *", line)
        if match and match[2] != "SSL,S/MIME,JAR/XPI":
            found[match[1]] = match[2]
    return found


def _key_ids() -> set[str]:
    """`certutil -K` prints "< 0> rsa      3970811be02d27ab749dc147cc3494af9df9b1b8   nickname" on each line."""
    listing = _nss(["certutil", "-K"], no_entries="no keys found")
    return set(re.findall(r"^< *\d+> +\w+ +([0-9a-f]{40})\b", listing, re.MULTILINE))


def _nss(command: list[str], no_entries: str = "", database: str = "") -> str:
    """Run an NSS tool on the daemon's database. A failure with `no_entries` in its message is an empty answer."""
    program = salt.utils.path.which(command[0])
    if not program:
        raise CommandExecutionError(f"certs: {command[0]} is not installed (Debian package libnss3-tools)")
    argv = [program, *command[1:], "-d", f"sql:{database or DATABASE}"]
    # Longer than SQLite waits for a database that the daemon has just locked.
    done = __salt__["commands.run"](argv, timeout=_TOOL_SECONDS)
    if done["retcode"]:
        message = (done["stderr"] or done["stdout"]).strip()
        if no_entries and no_entries in message:
            return ""
        raise CommandExecutionError(f"certs: {command[0]} failed on {DATABASE}: {' '.join(message.split())}")
    return done["stdout"]


def create_database() -> bool:
    """
    Make Libreswan's NSS database if there is none, or if it is damaged. Returns whether it was made.

    A damaged database is kept beside the new one, as ``DATABASE.damaged-TIME``: with its keys, readable by root only.
    The state that called this function restores everything that is in pillar. A running daemon sees the new database
    only after its restart.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.create_database
    """
    database = Path(DATABASE)
    if database.is_symlink() or (database.exists() and not database.is_dir()):
        raise _error(DATABASE, "is no folder, and the daemon's database has to be there; remove it")
    damage = damaged()
    if not damage and (database / "cert9.db").exists():
        return False
    database.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_room(str(database.parent))
    # Made complete before it is moved into place: an interrupted run leaves no half of a database there.
    made = Path(tempfile.mkdtemp(prefix=f".{database.name}.", dir=database.parent))
    try:
        # No password, as with `ipsec initnss`: the daemon must open it at boot. The folder's mode keeps others out.
        _nss(["certutil", "-N", "--empty-password"], database=str(made))
        if damage:
            now = datetime.datetime.now(datetime.UTC)
            os.rename(database, f"{DATABASE}.damaged-{now:%Y%m%dT%H%M%S}")
        elif database.exists():
            for file in made.iterdir():
                os.replace(file, database / file.name)
            return True
        os.rename(made, database)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return True


def damaged() -> str:
    """
    What is wrong with the daemon's NSS database, in words; "" if nothing is, or if there is no database.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.damaged
    """
    files = {"cert9.db": "nssPublic", "key4.db": "nssPrivate"}
    if not any(os.path.lexists(Path(DATABASE, file)) for file in files):
        return ""
    for file, table in files.items():
        path = Path(DATABASE, file)
        if path.is_symlink():
            return f"{path} is a link"          # keys would be written to the place that it points to
        if not path.is_file():
            return f"{path} is {'no file' if path.exists() else 'missing'}"
        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                tables = connection.execute("SELECT name FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        except sqlite3.OperationalError:
            continue          # locked, for example; that is no damage
        except sqlite3.DatabaseError as error:
            return f"{path} is damaged: {error}"
        if said != "ok" or not tables:
            return f"{path} is damaged: {said if said != 'ok' else 'it is empty'}"
    return ""


def _known() -> list[_Entry]:
    """The content of the database; nothing while it is damaged, since it will then be created again."""
    return [] if damaged() else _entries()


def state_of(name: str, pillar: str, identity: str | list[str] = "", store: str = "nss") -> dict[str, Any]:
    """
    Compare an identity in pillar with the store, ``nss`` or ``swanctl``.

    Returns ``wanted`` (as from :py:func:`inspect`), ``current`` (the fingerprint under this nickname, "" without one),
    ``issuer`` (of that certificate, "" without one), ``key`` (whether the wanted key is in the store),
    ``missing_authorities`` (subjects) and ``same`` (nothing needs to be done).

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.state_of gateway gateway_secrets:certificates:gateway
    """
    _check_store(store, name)
    wanted = _load(pillar, identity)
    return _compare(name, wanted) if store == "nss" else _compare_files(name, wanted)


def _check_store(store: str, name: str = "x") -> None:
    if store not in STORES:
        raise CommandExecutionError(f"certs: {store} is no store of certificates; give one of {', '.join(STORES)}")
    if store == "swanctl" and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise CommandExecutionError(f"certs: {name!r} can be no file's name; use letters, digits, '.', '_' and '-'")


def _compare(name: str, wanted: _Identity) -> dict[str, Any]:
    entries = _known()
    mine = [entry for entry in entries if entry.nickname == name]
    current = [_fingerprint(entry.certificate) for entry in mine if not _superseded(entry, wanted)]
    # the certificate that the daemon signs with, whether superseded or not
    signing = [entry.certificate for entry in mine if entry.has_key] or [entry.certificate for entry in mine]
    newest = max(signing, key=lambda each: each.not_valid_before_utc, default=None)
    trusted = {_fingerprint(entry.certificate) for entry in entries if entry.trust == TRUSTED_AUTHORITY}
    missing = [each.subject.rfc4514_string() for each in wanted.authorities if _fingerprint(each) not in trusted]
    key = any(entry.has_key for entry in mine if _same(entry, wanted))
    old_keys = any(entry.has_key and not _same_key(entry, wanted) for entry in mine)
    return {
        "wanted": _facts(wanted.certificate),
        "current": ", ".join(sorted(set(current) or {_fingerprint(entry.certificate) for entry in mine})),
        "issuer": newest.issuer.rfc4514_string() if newest else "",
        "key": key,
        "missing_authorities": missing,
        "same": current == [_fingerprint(wanted.certificate)] and key and not old_keys and not missing,
    }


def install(name: str, pillar: str, identity: str | list[str] = "", store: str = "nss") -> dict[str, Any]:
    """
    Bring an identity from pillar into the store, ``nss`` or ``swanctl``, as ``name``; no-op if it is already there.

    The new key and certificate are complete in the store before the old ones are deleted. The next run completes an
    interrupted one. Returns what :py:func:`state_of` returned before.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.install gateway gateway_secrets:certificates:gateway gateway.winterthur.example
    """
    _check_store(store, name)
    wanted = _load(pillar, identity)
    if store == "swanctl":
        return _install_files(name, wanted)
    with _writing(DATABASE):
        create_database()
        before = _compare(name, wanted)
        if before["same"]:
            return before
        _check_room(DATABASE)
        for authority in wanted.authorities:
            if authority.subject.rfc4514_string() in before["missing_authorities"]:
                _trust(authority)
        _replace(name, wanted)
    after = _compare(name, wanted)
    if not after["same"]:
        found = after["current"] or "nothing"
        raise CommandExecutionError(f"certs: {name} is still not as wanted in {DATABASE}: found {found}")
    return before


def _trust(authority: x509.Certificate) -> None:
    for entry in _entries():
        if _fingerprint(entry.certificate) == _fingerprint(authority):
            _nss(["certutil", "-M", "-n", entry.nickname, "-t", TRUSTED_AUTHORITY])
            return
    with _private_folder() as folder:
        file = _written(folder / "authority.pem", authority.public_bytes(Encoding.PEM))
        _nss(["certutil", "-A", "-a", "-n", _nickname_of(authority), "-t", TRUSTED_AUTHORITY, "-i", file])


def _nickname_of(authority: x509.Certificate) -> str:
    """A nickname for it. NSS ends a token's name at a colon, and allows one nickname for one subject only."""
    common = authority.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    text = str(common[0].value) if common else authority.subject.rfc4514_string()
    name = re.sub(r"[^\w .-]", " ", text).strip()
    taken = any(entry.nickname == name and entry.certificate.subject != authority.subject for entry in _entries())
    return f"{name} {_fingerprint(authority)[:8]}" if taken else name


def _replace(name: str, wanted: _Identity) -> None:
    """Put the wanted pair under `name`. It is complete in the database before others are deleted."""
    if not any(entry.has_key for entry in _entries() if _same(entry, wanted)):
        _import(name + REPLACEMENT, wanted)
    others = [entry for entry in _entries() if entry.nickname == name and not _same(entry, wanted)]
    if not all(_superseded(entry, wanted) for entry in others):
        # NSS deletes the newest first. Where the wanted one is newer but ends before one that must go, NSS deletes the
        # wanted one as well. Its key stays, so the pair is complete again once the certificate is added below.
        while any(entry.nickname == name and not _same(entry, wanted) and not _superseded(entry, wanted)
                  for entry in _entries()):
            _nss(["certutil", "-D", "-n", name])
        if not any(_same(entry, wanted) for entry in _entries()):
            with _private_folder() as folder:
                file = _written(folder / "certificate.pem", wanted.certificate.public_bytes(Encoding.PEM))
                _nss(["certutil", "-A", "-a", "-n", name, "-t", ",,", "-i", file])
    here = next(entry.nickname for entry in _entries() if _same(entry, wanted))
    if here != name:
        _nss(["certutil", "--rename", "-n", here, "--new-n", name])
    for entry in others:
        key_id = _key_id_or_none(entry.certificate)
        if key_id and entry.has_key and not _same_key(entry, wanted):
            _nss(["certutil", "-F", "-k", key_id])


def _same(entry: _Entry, wanted: _Identity) -> bool:
    return _fingerprint(entry.certificate) == _fingerprint(wanted.certificate)


def _same_key(entry: _Entry, wanted: _Identity) -> bool:
    return _public_bytes(entry.certificate.public_key()) == _public_bytes(wanted.certificate.public_key())


def _superseded(entry: _Entry, wanted: _Identity) -> bool:
    """
    Whether NSS prefers the wanted certificate to this one of the same nickname (CERT_IsNewer in NSS, its clear case).

    Such a certificate stays in the database, without its key: it is public, and NSS can not delete it without also
    deleting the wanted one.
    """
    old, new = entry.certificate, wanted.certificate
    return (old.subject == new.subject and old.not_valid_before_utc < new.not_valid_before_utc
            and old.not_valid_after_utc < new.not_valid_after_utc)


def _import(nickname: str, wanted: _Identity) -> None:
    encryption = (PrivateFormat.PKCS12.encryption_builder().kdf_rounds(_KDF_ROUNDS)
                  .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(hashes.SHA256()))
    passphrase = base64.b32encode(os.urandom(20))
    bundle = pkcs12.serialize_key_and_certificates(
        nickname.encode(), wanted.key, wanted.certificate, None, encryption.build(passphrase))
    with _private_folder() as folder:
        files = ["-i", _written(folder / "bundle.p12", bundle), "-w", _written(folder / "passphrase", passphrase)]
        _nss(["pk12util", *files])


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder in memory that only root can enter; what is written there never reaches a disk."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-", dir="/run" if os.access("/run", os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _check_room(folder: str, more: int = 0) -> None:
    """
    Refuse to begin on a full disk: NSS's tools write two files, and might write only one of them.

    Args:
        folder: where the files will be written.
        more: how many bytes are added to the existing content.
    """
    there = sum(path.stat().st_size for path in Path(DATABASE).glob("*.db"))
    disk = os.statvfs(next(each for each in (Path(folder), *Path(folder).parents) if each.exists()))
    # a second copy of the database (SQLite's journal), and room for a certificate with its chain
    if disk.f_bavail * disk.f_frsize < there + 3 * more + (1 << 18):
        raise _error(folder, "could not be written: No space left on device; put that right, then apply again")


@contextlib.contextmanager
def _writing(where: str) -> Iterator[None]:
    """Turn an error of the system, such as a full disk or a file in a folder's place, into a one-line message."""
    try:
        yield
    except OSError as error:
        raise _error(str(error.filename or where), f"could not be written: {error.strerror}; put that right, then "
                     "apply again") from None


def _written(path: Path, data: bytes) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)
    return str(path)


# strongSwan's folders


def _identity_files(name: str, wanted: _Identity) -> dict[Path, tuple[bytes, int]]:
    """
    The files of an identity with their modes, in the order in which they must be written.

    Each certificate's key has a file name of its own, so that the old key stays until the new certificate is in place.
    strongSwan finds a certificate's key by its content, not by its file name.
    """
    key = wanted.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files = {Path(SWANCTL, "private", f"{name}-{_key_id(wanted.key.public_key())[:16]}.pem"): (key, 0o400)}
    files |= {Path(SWANCTL, "x509ca", f"{_fingerprint(each)[:16]}.pem"): (each.public_bytes(Encoding.PEM), 0o644)
              for each in wanted.authorities}
    return files | {Path(SWANCTL, "x509", f"{name}.pem"): (wanted.certificate.public_bytes(Encoding.PEM), 0o644)}


def _older_keys(name: str, files: dict[Path, tuple[bytes, int]]) -> list[Path]:
    pattern = rf"{re.escape(name)}-[0-9a-f]{{16}}\.pem"
    found = Path(SWANCTL, "private").glob("*.pem")
    return sorted(path for path in found if re.fullmatch(pattern, path.name) and path not in files)


def _compare_files(name: str, wanted: _Identity) -> dict[str, Any]:
    files = _identity_files(name, wanted)
    as_wanted = {file: _as_wanted(file, *content) for file, content in files.items()}
    key, *authorities, _certificate = as_wanted
    try:
        current = _whole(x509.load_pem_x509_certificate(_read(Path(SWANCTL, "x509", f"{name}.pem"))))
    except (OSError, *_UNREADABLE):
        current = None          # missing or incomplete; it is replaced
    return {
        "wanted": _facts(wanted.certificate),
        "current": _fingerprint(current) if current else "",
        "issuer": current.issuer.rfc4514_string() if current else "",
        "key": as_wanted[key],
        "missing_authorities": [authority.subject.rfc4514_string() for file, authority in
                                zip(authorities, wanted.authorities, strict=True) if not as_wanted[file]],
        "same": all(as_wanted.values()) and not _older_keys(name, files),
    }


def _install_files(name: str, wanted: _Identity) -> dict[str, Any]:
    before = _compare_files(name, wanted)
    if not before["same"]:
        files = _identity_files(name, wanted)
        _put_all({file: content for file, content in files.items() if not _as_wanted(file, *content)} or files)
        with _writing(SWANCTL):
            for key in _older_keys(name, files):
                key.unlink()
    return before


def _authorities_in_files() -> list[_Entry]:
    """The authorities that strongSwan trusts. A file that strongSwan could not read is ignored here as well."""
    found = []
    for file in sorted(Path(SWANCTL, "x509ca").glob("*")):
        with contextlib.suppress(OSError, *_UNREADABLE):
            certificate = _whole(x509.load_pem_x509_certificate(_read(file)))
            found.append(_Entry(file.name, TRUSTED_AUTHORITY, certificate, False))
    return found


# revocation lists


def crl_state_of(pillar: str, store: str = "nss") -> dict[str, Any]:
    """
    Check a revocation list in pillar and compare it with the one in the store, ``nss`` or ``swanctl``.

    Returns ``wanted`` (``issuer``, ``number``, ``this_update``, ``next_update`` as ISO 8601 UTC, ``entries``),
    ``current`` (this_update of the installed list, "" without one) and ``same`` (nothing needs to be done).
    Raises CommandExecutionError for a list that is stale, unreadable, not signed by an authority in the store, or
    older than the installed list.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.crl_state_of gateway_secrets:crls:our-ca
    """
    _check_store(store)
    crl = _load_crl(pillar)
    authority = _issuer_of(pillar, crl, store)
    if store == "swanctl":
        current, number = _crl_in_file(crl)
    else:
        current, number = _stored_crl(authority.nickname) if authority else ("", None)
    wanted_number, this_update = _crl_number(crl), crl.last_update_utc.isoformat()
    wanted = {
        "issuer": crl.issuer.rfc4514_string(),
        "number": wanted_number,
        "entries": len(crl),
        "this_update": this_update,
        "next_update": _due(crl).isoformat(),
    }
    older = number is not None and wanted_number is not None and wanted_number < number
    if older or this_update < current:
        told = f"number {wanted_number} of " if older else ""
        there = f"number {number} of " if older else ""
        raise _error(pillar, f"is {told}{this_update}, and {there}{current} is in {_place(store)} already: "
                     "with an older list, people who were revoked since could come back; publish a new one")
    same = current == this_update and number == wanted_number
    return {"wanted": wanted, "current": current,
            "same": same and _as_wanted(_crl_file(crl, store), crl.public_bytes(Encoding.DER), 0o644)}


def _place(store: str) -> str:
    return DATABASE if store == "nss" else SWANCTL


def install_crl(pillar: str, store: str = "nss") -> None:
    """
    Bring a revocation list from pillar into the store, ``nss`` or ``swanctl``.

    A running Libreswan notices it a little later: see :py:func:`ipsec.take_lists <modules.ipsec.take_lists>`. For this
    the list is also written to a file, and the database has the file's address: the daemon fetches the list from there.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.install_crl gateway_secrets:crls:our-ca
    """
    _check_store(store)
    crl = _load_crl(pillar)
    if not _issuer_of(pillar, crl, store):
        raise _error(pillar, f"is from \"{crl.issuer.rfc4514_string()}\", whose certificate is not in {_place(store)}")
    crl_state_of(pillar, store)          # refuses an older list
    file, data = _crl_file(crl, store), crl.public_bytes(Encoding.DER)
    if store == "nss":
        _check_room(DATABASE, len(data))
    _put_all({file: (data, 0o644)})
    if store == "nss":
        _nss(["crlutil", "-I", "-i", str(file), "-u", f"file://{file}"])


def list_file(pillar: str, store: str = "nss") -> str:
    """
    The path of the file that holds a revocation list of pillar.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.list_file gateway_secrets:crls:our-ca
    """
    return str(_crl_file(_load_crl(pillar), store))


def _crl_file(crl: x509.CertificateRevocationList, store: str) -> Path:
    folder = LISTS if store == "nss" else f"{SWANCTL}/x509crl"
    return Path(folder, hashlib.sha256(crl.issuer.public_bytes()).hexdigest()[:16] + ".crl")


def _crl_in_file(crl: x509.CertificateRevocationList) -> tuple[str, int | None]:
    """Date and number of the same issuer's list in strongSwan's folder; ("", None) if it is missing or unreadable."""
    try:
        found = _whole(x509.load_der_x509_crl(_read(_crl_file(crl, "swanctl"))))
        return found.last_update_utc.isoformat(), _crl_number(found)
    except (OSError, *_UNREADABLE):
        return "", None


def _crl_number(crl: x509.CertificateRevocationList) -> int | None:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None


def _put_all(files: dict[Path, tuple[bytes, int]]) -> None:
    """
    Write files in this order, each in one step and with its mode from the start; never through a link.

    All are complete on the disk before the first is moved into place. So an obstacle or a full disk changes nothing.
    """
    for file in files:
        if file.is_dir() and not file.is_symlink():
            raise _error(str(file), "is a folder, and a file has to be there; remove it")
        if file.parent.is_symlink():
            raise _error(str(file.parent), "is a link, and a folder of the daemon's own has to be there; remove it")
        if file.parent.exists() and not file.parent.is_dir():
            raise _error(str(file.parent), "is a file, and a folder has to be there; remove it")
    made: dict[Path, str] = {}
    folders: list[Path] = []
    with _writing(str(next(iter(files)).parent)):
        try:
            for file, (data, mode) in files.items():
                for folder in reversed([each for each in (file.parent, *file.parent.parents) if not each.exists()]):
                    folder.mkdir(mode=0o755 if mode & 0o077 else 0o700)
                    folders.append(folder)
                descriptor, made[file] = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")          # 0600
                with os.fdopen(descriptor, "wb") as handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                    os.fchmod(handle.fileno(), mode)
            for file, temporary in made.items():
                os.replace(temporary, file)
        except OSError:
            with contextlib.suppress(OSError):
                for temporary in made.values():
                    Path(temporary).unlink(missing_ok=True)
                for folder in reversed(folders):
                    folder.rmdir()
            raise


def _as_wanted(file: Path, data: bytes, mode: int) -> bool:
    """Whether the file exists, is no link, belongs to this user, and has this mode and content."""
    try:
        its = file.lstat()
        return (stat.S_ISREG(its.st_mode) and stat.S_IMODE(its.st_mode) == mode and its.st_uid == os.geteuid()
                and _read(file) == data)
    except OSError:
        return False


def _read(file: Path) -> bytes:
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as handle:
        return handle.read()


def _load_crl(pillar: str) -> x509.CertificateRevocationList:
    text = str(_from_pillar(pillar))
    try:
        if "-----BEGIN" in text:
            crl = _whole(x509.load_pem_x509_crl(text.encode()))
        else:
            crl = _whole(x509.load_der_x509_crl(_decoded(pillar, text)))
    except _UNREADABLE:
        raise _error(pillar, "is no readable certificate revocation list (truncated?)") from None
    if crl.next_update_utc is None:
        raise _error(pillar, "does not say when the next list is due (RFC 5280 requires nextUpdate)")
    if crl.next_update_utc < datetime.datetime.now(datetime.UTC):
        raise _error(pillar, f"is stale: the next list was due on {crl.next_update_utc:%Y-%m-%d %H:%M} UTC; fetch it")
    return crl


def _due(crl: x509.CertificateRevocationList) -> datetime.datetime:
    """When the next list is due."""
    assert crl.next_update_utc is not None          # _load_crl refuses a list without this date
    return crl.next_update_utc


def _issuer_of(pillar: str, crl: x509.CertificateRevocationList, store: str) -> _Entry | None:
    """The authority that signed the list. None if there is none of that name yet (test=True on a bare host)."""
    known = _known() if store == "nss" else _authorities_in_files()
    named = [entry for entry in known if entry.certificate.subject == crl.issuer]
    for entry in named:
        with contextlib.suppress(*_UNREADABLE, InvalidSignature):          # a signature of another kind than this key's
            if crl.is_signature_valid(entry.certificate.public_key()):  # type: ignore[arg-type]  # others: TypeError
                return entry
    if named:
        raise _error(pillar, f"is not signed by \"{crl.issuer.rfc4514_string()}\", in whose name it is")
    return None


def _stored_crl(nickname: str) -> tuple[str, int | None]:
    """
    The date and number of the installed list. `crlutil -L -n NICKNAME` prints, in UTC::

        This Update: Mon Nov 23 18:40:51 2026
        CRL Extensions:
            Name: CRL Number
            Data: 1 (0x1)

    It prints a number of more than 31 bits (SECU_PrintInteger in NSS) as "Data:" and lines of "7e:af:0a:e1:".
    """
    # Not looked up in `crlutil -L`: it names a list by one only of its authority's nicknames, with blanks in it.
    text = _nss(["crlutil", "-L", "-n", nickname], no_entries="SEC_ERROR_CRL_NOT_FOUND")
    match = re.search(r"This Update: (.*\d)", text)
    if not match:
        return "", None
    try:
        date = datetime.datetime.strptime(match[1], "%a %b %d %H:%M:%S %Y")
    except ValueError:
        raise CommandExecutionError(f"certs: crlutil prints a date for {nickname} that can not be read: "
                                    f"{match[1]!r}") from None
    data = re.search(r"Name: CRL Number\s+Data:\s+(?:(\d{1,10}) \(0x|((?:[0-9a-f]{2}:?\s*)+))", text)
    number = None if not data else int(data[1]) if data[1] else int(re.sub(r"[:\s]", "", data[2]), 16)
    return date.replace(tzinfo=datetime.UTC).isoformat(), number
