"""The authority on the disk: its folder, and its key, which is sealed with the master's gpg key."""
from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from issuing import files, gpg, policy
from issuing.certificate import Authority, Key
from issuing.errors import refuse


def folder(opts: dict[str, Any], make: bool = False) -> Path:
    """The authority's folder, checked: it is no file server's, and only Salt's user can read it."""
    place = Path(policy.value(opts, "folder"))
    for root in (each for roots in (opts.get("file_roots") or {}).values() for each in roots):
        if place.resolve().is_relative_to(Path(root).resolve()):
            raise refuse(f"{place} is under {root}, which the file server gives to every minion; "
                          "set gateway_authority:folder in the master's configuration to a place of its own")
    if make and not place.is_symlink() and not place.exists():
        place.mkdir(mode=0o700, parents=True)
    found = place.lstat() if place.exists() or place.is_symlink() else None
    if found is None or not make and not (place / "authority.pem").is_file():
        raise refuse(f"there is none in {place}; make it with `salt-run authority.create`")
    if not stat.S_ISDIR(found.st_mode):
        raise refuse(f"{place} is no folder; remove it, or set gateway_authority:folder")
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise refuse(f"{place} has to belong to Salt's user alone: chown it to uid {os.geteuid()}, chmod 0700")
    return place


@contextlib.contextmanager
def opened(opts: dict[str, Any]) -> Iterator[Authority]:
    """The authority with its key, for one run at a time."""
    place = folder(opts)
    with files.locked(place):
        try:
            certificate = x509.load_pem_x509_certificate(files.read(place / "authority.pem"))
        except (ValueError, x509.InvalidVersion):
            raise refuse(f"{place}/authority.pem is no readable certificate") from None
        clear = _gpg(opts, ["--decrypt"], files.read(place / "authority.key.gpg"))
        try:
            key = load_pem_private_key(clear, None)
        except (ValueError, TypeError):
            raise refuse(f"{place}/authority.key.gpg holds no readable key") from None
        if not isinstance(key, Key):
            raise refuse(f"{place}/authority.key.gpg holds a key that is neither EC nor RSA")
        if _public(key.public_key()) != _public(certificate.public_key()):
            raise refuse(f"the key in {place} does not belong to authority.pem")
        yield Authority(place, certificate, key)


def _public(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def seal(opts: dict[str, Any], secret: bytes) -> bytes:
    """Encrypt to the master's key, as an ASCII message: what Salt's gpg renderer reads."""
    return _gpg(opts, ["--armor", "--encrypt", "--trust-model", "always", "--recipient", _recipient(opts)], secret)


def _keyring(opts: dict[str, Any]) -> str:
    # as Salt's renderer finds it
    default = os.path.join(os.path.dirname(opts.get("conf_file") or "/etc/salt/master"), "gpgkeys")
    return str(opts.get("gpg_keydir") or default)


def _recipient(opts: dict[str, Any]) -> str:
    wanted: str = policy.value(opts, "gpg_recipient")
    if wanted:
        return wanted
    listed = _gpg(opts, ["--list-secret-keys", "--with-colons"], b"").decode(errors="replace")
    # GnuPG's doc/DETAILS: a "sec" line, then the "fpr" line of that key
    found = re.findall(r"^sec:.*\n(?:grp:.*\n)*fpr:{9}([0-9A-F]+):", listed, re.MULTILINE)
    if len(found) != 1:
        raise refuse(f"there are {len(found)} secret keys in {_keyring(opts)}; "
                     + ("set gateway_authority:gpg_recipient in the master's configuration" if found
                        else "make the master's key first: docs/install.md, The master"))
    return str(found[0])


def _gpg(opts: dict[str, Any], arguments: list[str], data: bytes) -> bytes:
    return gpg.run(_keyring(opts), arguments, data)
