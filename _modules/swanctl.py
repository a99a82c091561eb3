"""
Identities and revocation lists in strongSwan's folders. ``certs`` reads them from pillar and asks for them here.

:depends: cryptography (comes with Salt)

The folders are those of swanctl.conf(5): x509, private, x509ca and x509crl below /etc/swanctl. ``nss`` has the same
functions for Libreswan's database. What takes or returns more than text is for other modules, not the command line: so
no command line ever has a secret.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

try:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

if TYPE_CHECKING:
    from _modules import _atomic_files, _certificates
    from _modules._certificates import Entry, Identity

__virtualname__ = "swanctl"

SWANCTL = "/etc/swanctl"  # strongSwan's, on Debian


def _load_beside(name: str) -> ModuleType:
    # Trap: Salt's loader knows no import between its modules, and skips a file whose name begins with _.
    spec = importlib.util.spec_from_file_location(f"gateway{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _atomic_files, _certificates = _load_beside("_atomic_files"), _load_beside("_certificates")
    Entry = _certificates.Entry


def __virtual__() -> str | tuple[bool, str]:
    if not HAS_CRYPTOGRAPHY:
        return False, "swanctl: the Python package cryptography is missing"
    return __virtualname__


def place() -> str:
    """
    Where the folders are.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' swanctl.place
    """
    return SWANCTL


def _identity_files(name: str, wanted: Identity) -> dict[Path, tuple[bytes, int]]:
    """
    The files of an identity with their modes, in the order in which they must be written.

    Each certificate's key has a file name of its own, so that the old key stays until the new certificate is in place.
    strongSwan finds a certificate's key by its content, not by its file name.
    """
    key = wanted.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key_id = _certificates.key_id(wanted.key.public_key())
    files = {Path(SWANCTL, "private", f"{name}-{key_id[:16]}.pem"): (key, 0o400)}
    files |= {Path(SWANCTL, "x509ca", f"{_certificates.fingerprint(each)[:16]}.pem"):
              (each.public_bytes(Encoding.PEM), 0o644) for each in wanted.authorities}
    return files | {Path(SWANCTL, "x509", f"{name}.pem"): (wanted.certificate.public_bytes(Encoding.PEM), 0o644)}


def _older_keys(name: str, files: dict[Path, tuple[bytes, int]]) -> list[Path]:
    pattern = rf"{re.escape(name)}-[0-9a-f]{{16}}\.pem"
    found = Path(SWANCTL, "private").glob("*.pem")
    return sorted(path for path in found if re.fullmatch(pattern, path.name) and path not in files)


def compare(name: str, wanted: Identity) -> dict[str, Any]:
    """
    Compare an identity with the folders. For ``certs``.

    Returns what :py:func:`certs.state_of <modules.certs.state_of>` does.

    CLI Example: none, as it takes an identity.
    """
    files = _identity_files(name, wanted)
    as_wanted = {file: _atomic_files.as_wanted(file, *content) for file, content in files.items()}
    key, *authorities, _certificate = as_wanted
    try:
        text = _atomic_files.read(Path(SWANCTL, "x509", f"{name}.pem"))
        current = _certificates.whole(x509.load_pem_x509_certificate(text))
    except (OSError, *_certificates.UNREADABLE):
        current = None          # missing or incomplete; it is replaced
    return {
        "wanted": _certificates.facts(wanted.certificate),
        "current": _certificates.fingerprint(current) if current else "",
        "issuer": current.issuer.rfc4514_string() if current else "",
        "key": as_wanted[key],
        "missing_authorities": [authority.subject.rfc4514_string() for file, authority in
                                zip(authorities, wanted.authorities, strict=True) if not as_wanted[file]],
        "same": all(as_wanted.values()) and not _older_keys(name, files),
    }


def install(name: str, wanted: Identity) -> dict[str, Any]:
    """
    Bring an identity into the folders, as ``name``; no-op if it is already there. For ``certs``.

    Returns what :func:`compare` returned before.

    CLI Example: none, as it takes an identity; see :py:func:`certs.install <modules.certs.install>`.
    """
    before = compare(name, wanted)
    if not before["same"]:
        files = _identity_files(name, wanted)
        _atomic_files.put_all({file: content for file, content in files.items()
                               if not _atomic_files.as_wanted(file, *content)} or files)
        with _atomic_files.writing(SWANCTL):
            for key in _older_keys(name, files):
                key.unlink()
    return before


def known() -> list[Entry]:
    """
    The authorities that strongSwan trusts. A file that strongSwan could not read is ignored here as well. For
    ``certs``.

    CLI Example: none, as it returns certificates.
    """
    found = []
    for file in sorted(Path(SWANCTL, "x509ca").glob("*")):
        with contextlib.suppress(OSError, *_certificates.UNREADABLE):
            certificate = _certificates.whole(x509.load_pem_x509_certificate(_atomic_files.read(file)))
            found.append(Entry(file.name, _certificates.TRUSTED_AUTHORITY, certificate, False))
    return found


# revocation lists


def list_file(crl: x509.CertificateRevocationList) -> Path:
    """
    The file of the lists of this one's issuer. For ``certs``.

    CLI Example: none, as it takes a list; see :py:func:`certs.list_file <modules.certs.list_file>`.
    """
    return Path(SWANCTL, "x509crl", _certificates.crl_file_name(crl))


def list_state(crl: x509.CertificateRevocationList, issuer: Entry | None) -> tuple[str, int | None, bool]:
    """
    Date (ISO 8601) and number of the list of this issuer that is here ("" and None without one), and whether its file
    has exactly the given list. For ``certs``.

    CLI Example: none, as it takes a list; see :py:func:`certs.crl_state_of <modules.certs.crl_state_of>`.
    """
    return *_crl_in_file(crl), _atomic_files.as_wanted(list_file(crl), crl.public_bytes(Encoding.DER), 0o644)


def install_list(crl: x509.CertificateRevocationList) -> None:
    """
    Bring a revocation list into its folder. For ``certs``, which has checked it.

    CLI Example: none, as it takes a list; see :py:func:`certs.install_crl <modules.certs.install_crl>`.
    """
    _atomic_files.put_all({list_file(crl): (crl.public_bytes(Encoding.DER), 0o644)})


def _crl_in_file(crl: x509.CertificateRevocationList) -> tuple[str, int | None]:
    """Date and number of the same issuer's list in strongSwan's folder; ("", None) if it is missing or unreadable."""
    try:
        found = _certificates.whole(x509.load_der_x509_crl(_atomic_files.read(list_file(crl))))
        return found.last_update_utc.isoformat(), _certificates.crl_number(found)
    except (OSError, *_certificates.UNREADABLE):
        return "", None
