"""
Identities of a gateway: brought from pillar to the place where the IPsec daemon reads them.

:depends: cryptography (comes with Salt); the modules nss and swanctl

That place is a *store*: ``nss``, the database that Libreswan reads, or ``swanctl``, the folders that strongSwan reads.
Each has a module of its name, which this one asks.

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

Certificates are read with ``cryptography``. Salt's x509_v2 reads them with the same library, but needs a private key,
or its passphrase, as an argument or in an unencrypted file, and cannot use NSS. What x509_v2 does on a minion (make
keys, certificates and lists) is not the gateway's task: the runner ``authority`` does that, on the master.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from salt.exceptions import CommandExecutionError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

if TYPE_CHECKING:
    from _modules import _certificates
    from _modules._certificates import Entry, Identity, PrivateKey
    from _modules._certificates import error as _error

    __salt__: dict[str, Callable]

STORES = ("nss", "swanctl")


def _load_beside(name: str) -> ModuleType:
    # Trap: Salt's loader knows no import between its modules, and skips a file whose name begins with _.
    spec = importlib.util.spec_from_file_location(f"gateway{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _certificates = _load_beside("_certificates")
    Identity, _error = _certificates.Identity, _certificates.error


def __virtual__() -> bool | tuple[bool, str]:
    if not HAS_CRYPTOGRAPHY:
        return False, "certs: the Python package cryptography is missing"
    return True


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
    return _certificates.facts(loaded.certificate) | {
        "authorities": [_certificates.facts(each) for each in loaded.authorities]}


def _load(pillar: str, identity: str | list[str]) -> Identity:
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
    authorities = tuple(each for each in chain if _certificates.is_authority(each))
    if not authorities:
        raise _error(pillar, "holds no authority's certificate, so no peer could be verified; add the chain")
    _check_issuer(pillar, certificate, authorities)
    return Identity(private_key, certificate, authorities)


def _from_pillar(path: str) -> object:
    # Since 3008 Salt masks what an execution module gets from pillar, unless it asks for the plain value.
    value = __salt__["pillar.get"](path, None, unmask=True)
    if value is None:
        raise _error(path, "is not in this node's pillar; add it to pillar/secrets/SITE.sls")
    return value


def _read_pkcs12(pillar: str, source: dict[str, Any]) -> tuple[object, x509.Certificate, list[x509.Certificate]]:
    data = _decoded(f"{pillar}:pkcs12", source["pkcs12"])
    _check_complete(f"{pillar}:pkcs12", data)
    if "passphrase" not in source:
        raise _error(pillar, "has a pkcs12 but no passphrase")
    try:
        key, certificate, chain = pkcs12.load_key_and_certificates(data, str(source["passphrase"]).encode())
        for each in (certificate, *chain):
            if each is not None:
                _certificates.whole(each)
    except UnsupportedAlgorithm:
        raise _error(f"{pillar}:pkcs12", "is encrypted with an obsolete algorithm (RC2?); "
                     "export it again, with AES") from None
    except _certificates.UNREADABLE:
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
        return [_certificates.whole(each) for each in x509.load_pem_x509_certificates(str(text).encode())]
    except _certificates.UNREADABLE:
        raise _error(where, "is no readable PEM certificate (truncated?)") from None


def _load_crl(pillar: str) -> x509.CertificateRevocationList:
    text = str(_from_pillar(pillar))
    try:
        if "-----BEGIN" in text:
            crl = _certificates.whole(x509.load_pem_x509_crl(text.encode()))
        else:
            crl = _certificates.whole(x509.load_der_x509_crl(_decoded(pillar, text)))
    except _certificates.UNREADABLE:
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


def _check(pillar: str, key: object, certificate: x509.Certificate, identity: str | list[str]) -> PrivateKey:
    """The key, if an identity can use it with this certificate. Raises CommandExecutionError if not."""
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise _error(pillar, "has a key that is neither RSA nor EC; the IPsec daemon signs with nothing else")
    if _certificates.public_bytes(key.public_key()) != _certificates.public_bytes(certificate.public_key()):
        raise _error(pillar, "has a key that does not belong to its certificate")
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc < now:
        raise _error(pillar, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it")
    if certificate.not_valid_before_utc > now:
        raise _error(pillar, f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
                             "check this node's clock")
    weak = _certificates.weakness(certificate)
    if weak:
        raise _error(pillar, f"is too weak: {weak}; make a new one")
    for each in [identity] if isinstance(identity, str) else identity:
        if "=" in each and _parts(each) != _parts(certificate.subject.rfc4514_string()):
            raise _error(pillar, f"has the subject {certificate.subject.rfc4514_string()}, not {each}: a distinguished "
                                 "name as the gateway's identity must be its certificate's subject")
        if each and "=" not in each and each not in _certificates.names(certificate):
            raise _error(pillar, f"is for {', '.join(_certificates.names(certificate)) or 'no name'}, not for {each}: "
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
        except (InvalidSignature, *_certificates.UNREADABLE):
            continue
        return
    raise _error(pillar, f"was issued by \"{certificate.issuer.rfc4514_string()}\", which is not in its chain")


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
        wanted[name] = _certificates.fingerprint(loaded.certificate)
        _describe(found, "pillar", name, loaded.certificate, loaded.authorities, True, days)
    for name in sorted(secrets.get("crls") or {}):
        try:
            crl = _load_crl(f"gateway_secrets:crls:{name}")
        except CommandExecutionError as error:
            found["lists"][name] = {"problem": str(error)}
            found["problems"].append(str(error))
            continue
        found["lists"][name] = {"issuer": crl.issuer.rfc4514_string(), "number": _certificates.crl_number(crl),
                                "revoked": len(crl), "next list": f"due {_in_words(_due(crl))}"}
        if _due(crl) - datetime.datetime.now(datetime.UTC) < datetime.timedelta(days=7):
            found["problems"].append(f"certs: lists: {name}: the next one is due {_in_words(_due(crl))}; "
                                     "publish it")
    damage = _store("nss", "damaged")()
    if damage:
        found["problems"].append(f"certs: {damage}; the next state.apply creates it again")
        return found
    entries: list[Entry] = _store("nss", "known")()
    authorities = tuple(entry.certificate for entry in entries if entry.trust == _certificates.TRUSTED_AUTHORITY)
    for entry in entries:
        if not _certificates.is_authority(entry.certificate) and entry.nickname in wanted \
                and _certificates.fingerprint(entry.certificate) != wanted[entry.nickname] and not entry.has_key:
            continue          # superseded: see _superseded in nss
        _describe(found, "installed", entry.nickname, entry.certificate, authorities, entry.has_key, days)
    for name, fingerprint in wanted.items():
        if not any(_certificates.fingerprint(entry.certificate) == fingerprint for entry in entries):
            found["problems"].append(f"certs: {name}: pillar's certificate is not installed; state.apply installs it")
    return found


def _describe(found: dict[str, Any], where: str, name: str, certificate: x509.Certificate,
              authorities: tuple[x509.Certificate, ...], has_key: bool, days: int) -> None:
    """Add a certificate and its problems to a report."""
    authority = _certificates.is_authority(certificate)
    issuer = certificate.issuer.rfc4514_string()
    chain = any(_certificates.issued_by(certificate, each) for each in authorities)
    weak, usage = _certificates.weakness(certificate), _certificates.usage(certificate)
    kind = _certificates.facts(certificate)["key"]
    digest = certificate.signature_hash_algorithm
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    found[where][name] = {
        "for": ", ".join(_certificates.names(certificate)) or certificate.subject.rfc4514_string(),
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


def _in_words(date: datetime.datetime) -> str:
    left = date - datetime.datetime.now(datetime.UTC)
    days = round(abs(left) / datetime.timedelta(days=1))
    words = "less than a day" if not days else "1 day" if days == 1 else f"{days} days"
    return f"in {words}" if left > datetime.timedelta(0) else f"{words} ago"


# identities in a store


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
    return _store(store, "compare")(name, wanted)


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
    return _store(store, "install")(name, wanted)


def _check_store(store: str, name: str = "x") -> None:
    if store not in STORES:
        raise CommandExecutionError(f"certs: {store} is no store of certificates; give one of {', '.join(STORES)}")
    if store == "swanctl" and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise CommandExecutionError(f"certs: {name!r} can be no file's name; use letters, digits, '.', '_' and '-'")


def _store(store: str, function: str) -> Callable[..., Any]:
    """A function of the module that knows this store."""
    name = f"{store}.{function}"
    if name not in __salt__:
        raise CommandExecutionError(f"certs: {name} is missing; run saltutil.sync_modules, see the minion's log")
    return __salt__[name]


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
    current, number, is_whole = _store(store, "list_state")(crl, authority)
    wanted_number, this_update = _certificates.crl_number(crl), crl.last_update_utc.isoformat()
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
        raise _error(pillar, f"is {told}{this_update}, and {there}{current} is in {_store(store, 'place')()} already: "
                     "with an older list, people who were revoked since could come back; publish a new one")
    same = current == this_update and number == wanted_number
    return {"wanted": wanted, "current": current, "same": same and is_whole}


def install_crl(pillar: str, store: str = "nss") -> None:
    """
    Bring a revocation list from pillar into the store, ``nss`` or ``swanctl``.

    A running Libreswan notices it a little later: see :py:func:`ipsec.take_lists <modules.ipsec.take_lists>`.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.install_crl gateway_secrets:crls:our-ca
    """
    _check_store(store)
    crl = _load_crl(pillar)
    if not _issuer_of(pillar, crl, store):
        raise _error(pillar, f"is from \"{crl.issuer.rfc4514_string()}\", whose certificate is not in "
                             f"{_store(store, 'place')()}")
    crl_state_of(pillar, store)          # refuses an older list
    _store(store, "install_list")(crl)


def list_file(pillar: str, store: str = "nss") -> str:
    """
    The path of the file that holds a revocation list of pillar.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.list_file gateway_secrets:crls:our-ca
    """
    return str(_store(store, "list_file")(_load_crl(pillar)))


def _issuer_of(pillar: str, crl: x509.CertificateRevocationList, store: str) -> Entry | None:
    """The authority that signed the list. None if there is none of that name yet (test=True on a bare host)."""
    named: list[Entry] = [entry for entry in _store(store, "known")() if entry.certificate.subject == crl.issuer]
    for entry in named:
        # a signature of another kind than this key's
        with contextlib.suppress(*_certificates.UNREADABLE, InvalidSignature):
            if crl.is_signature_valid(entry.certificate.public_key()):  # type: ignore[arg-type]  # others: TypeError
                return entry
    if named:
        raise _error(pillar, f"is not signed by \"{crl.issuer.rfc4514_string()}\", in whose name it is")
    return None


# of the daemon's database, by the name that operators use


def stored() -> list[dict[str, Any]]:
    """
    List what the daemon's NSS database holds: as :py:func:`nss.stored <modules.nss.stored>`.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' certs.stored
    """
    return _store("nss", "stored")()
