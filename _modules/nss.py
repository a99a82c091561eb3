"""
Identities and revocation lists in Libreswan's NSS database. ``certs`` reads them from pillar and asks for them here.

:depends: cryptography (comes with Salt); certutil, pk12util, crlutil (Debian: libnss3-tools)

What takes or returns more than text is for other modules, not the command line: so no command line ever has a secret.
``swanctl`` has the same functions for strongSwan's folders: place, known, compare, install, list_state, list_file,
install_list.

What NSS does without being asked (seen with 3.87, Debian 12, and 3.110, Debian 13, which behave alike):

- A certificate whose subject is already in the database gets the nickname that this subject has there, whatever the
  PKCS#12 file says. So a renewed certificate shares the nickname of the old one.
- Every look-up by nickname, the daemon's included, finds all certificates of that subject and takes the newest valid
  one. So ``certutil -D``, meant for the old one, deletes the new one. A key is deleted by its id (``-F -k``); this
  deletes the right one.
- A private key is listed by its CKAID: SHA-1 over the modulus (RSA) or the point (EC) of its public key.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import importlib.util
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import salt.utils.path
from salt.exceptions import CommandExecutionError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

if TYPE_CHECKING:
    from _modules import _atomic_files, _certificates
    from _modules._certificates import Entry, Identity
    from _modules._certificates import error as _error

    __salt__: dict[str, Callable]

__virtualname__ = "nss"

DATABASE = "/var/lib/ipsec/nss"  # Libreswan 4.x and 5.x on Debian
LISTS = "/var/lib/ipsec/gateway-lists"  # revocation lists, public, for the running daemon
REPLACEMENT = ".replacement"
_TOOL_SECONDS = 60
# NSS and OpenSSL of both Debian releases can read and write this. The bundle exists for milliseconds, on a tmpfs.
_KDF_ROUNDS = 20000


def _load_beside(name: str) -> ModuleType:
    # Trap: Salt's loader knows no import between its modules, and skips a file whose name begins with _.
    spec = importlib.util.spec_from_file_location(f"gateway{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _atomic_files, _certificates = _load_beside("_atomic_files"), _load_beside("_certificates")
    Entry, _error = _certificates.Entry, _certificates.error


def __virtual__() -> str | tuple[bool, str]:
    if not HAS_CRYPTOGRAPHY:
        return False, "nss: the Python package cryptography is missing"
    return __virtualname__


# what the database holds


def place() -> str:
    """
    Where the database is.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' nss.place
    """
    return DATABASE


def stored() -> list[dict[str, Any]]:
    """
    List what the daemon's NSS database holds.

    Each entry: ``nickname``, ``trust`` (certutil's three columns), ``private_key`` (whether the database has its key)
    and the facts that :py:func:`certs.inspect <modules.certs.inspect>`
    returns. Empty when there is no database.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' nss.stored
    """
    return [_certificates.facts(entry.certificate) | {"nickname": entry.nickname, "trust": entry.trust,
                                                      "private_key": entry.has_key} for entry in _entries()]


def known() -> list[Entry]:
    """
    The content of the database; nothing while it is damaged, since it will then be created again. For ``certs``.

    CLI Example: none, as it returns certificates; see :func:`stored`.
    """
    return [] if damaged() else _entries()


def _entries() -> list[Entry]:
    if not Path(DATABASE, "cert9.db").exists():
        return []
    keys = _key_ids()
    entries = []
    trusts = _trust_by_nickname(_nss(["certutil", "-L"]))
    for nickname, trust in trusts.items():
        try:
            printed = _nss(["certutil", "-L", "-a", "-n", nickname])
            certificates = [_certificates.whole(each) for each in x509.load_pem_x509_certificates(printed.encode())]
        except _certificates.UNREADABLE:
            raise _error(DATABASE, f"holds an unreadable certificate as {nickname}; look with "
                         f"`certutil -L -n '{nickname}' -d sql:{DATABASE}`") from None
        for certificate in certificates:
            entries.append(Entry(nickname, trust, certificate, _key_id_or_none(certificate) in keys))
    return entries


def _key_id_or_none(certificate: x509.Certificate) -> str | None:
    key = certificate.public_key()
    return _certificates.key_id(key) if isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)) else None


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


# what beacons read, without NSS's tools


def held() -> dict[str, list[str]] | None:
    """
    The content of the database in a form for a beacon: read without NSS's tools, and without waiting for a writer.

    Returns ``certificates`` (SHA-256 of each, hex) and ``keys`` (the id of each private key, hex), sorted; both are
    empty without a database. Returns None when it can not be read now: another process writes, or it is damaged.

    NSS keeps its objects in SQLite, with a column for each attribute: a0 is the class (1: certificate, 3: private key,
    PKCS#11's CKA_CLASS), a11 the value, a102 the id (sdb.c of NSS).

    CLI Example:

    .. code-block:: bash

        salt '*gw*' nss.held
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

        salt '*gw*' nss.dates
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
            if _certificates.is_authority(certificate) or (identifier or b"").hex() in found["keys"]:
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

        salt '*gw*' nss.sign
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


# the database itself


def create_database() -> bool:
    """
    Make Libreswan's NSS database if there is none, or if it is damaged. Returns whether it was made.

    A damaged database is kept beside the new one, as ``DATABASE.damaged-TIME``: with its keys, readable by root only.
    The state that called this function restores everything that is in pillar. A running daemon sees the new database
    only after its restart.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' nss.create_database
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

        salt '*gw*' nss.damaged
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


# an identity


def compare(name: str, wanted: Identity) -> dict[str, Any]:
    """
    Compare an identity with the database. For ``certs``.

    Returns what :py:func:`certs.state_of <modules.certs.state_of>` does.

    CLI Example: none, as it takes an identity.
    """
    entries = known()
    mine = [entry for entry in entries if entry.nickname == name]
    current = [_certificates.fingerprint(entry.certificate) for entry in mine if not _superseded(entry, wanted)]
    # the certificate that the daemon signs with, whether superseded or not
    signing = [entry.certificate for entry in mine if entry.has_key] or [entry.certificate for entry in mine]
    newest = max(signing, key=lambda each: each.not_valid_before_utc, default=None)
    trusted = {_certificates.fingerprint(entry.certificate) for entry in entries
               if entry.trust == _certificates.TRUSTED_AUTHORITY}
    missing = [each.subject.rfc4514_string() for each in wanted.authorities
               if _certificates.fingerprint(each) not in trusted]
    key = any(entry.has_key for entry in mine if _same(entry, wanted))
    old_keys = any(entry.has_key and not _same_key(entry, wanted) for entry in mine)
    return {
        "wanted": _certificates.facts(wanted.certificate),
        "current": ", ".join(sorted(set(current) or {_certificates.fingerprint(entry.certificate) for entry in mine})),
        "issuer": newest.issuer.rfc4514_string() if newest else "",
        "key": key,
        "missing_authorities": missing,
        "same": current == [_certificates.fingerprint(wanted.certificate)] and key and not old_keys and not missing,
    }


def install(name: str, wanted: Identity) -> dict[str, Any]:
    """
    Bring an identity into the database, as ``name``; no-op if it is already there. For ``certs``.

    The new key and certificate are complete in the database before the old ones are deleted. The next run completes an
    interrupted one. Returns what :func:`compare` returned before.

    CLI Example: none, as it takes an identity; see :py:func:`certs.install <modules.certs.install>`.
    """
    with _atomic_files.writing(DATABASE):
        create_database()
        before = compare(name, wanted)
        if before["same"]:
            return before
        _check_room(DATABASE)
        for authority in wanted.authorities:
            if authority.subject.rfc4514_string() in before["missing_authorities"]:
                _trust(authority)
        _replace(name, wanted)
    after = compare(name, wanted)
    if not after["same"]:
        found = after["current"] or "nothing"
        raise CommandExecutionError(f"certs: {name} is still not as wanted in {DATABASE}: found {found}")
    return before


def _trust(authority: x509.Certificate) -> None:
    for entry in _entries():
        if _certificates.fingerprint(entry.certificate) == _certificates.fingerprint(authority):
            _nss(["certutil", "-M", "-n", entry.nickname, "-t", _certificates.TRUSTED_AUTHORITY])
            return
    with _atomic_files.private_folder() as folder:
        file = _atomic_files.written(folder / "authority.pem", authority.public_bytes(Encoding.PEM))
        _nss(["certutil", "-A", "-a", "-n", _nickname_of(authority), "-t", _certificates.TRUSTED_AUTHORITY, "-i", file])


def _nickname_of(authority: x509.Certificate) -> str:
    """A nickname for it. NSS ends a token's name at a colon, and allows one nickname for one subject only."""
    common = authority.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    text = str(common[0].value) if common else authority.subject.rfc4514_string()
    name = re.sub(r"[^\w .-]", " ", text).strip()
    taken = any(entry.nickname == name and entry.certificate.subject != authority.subject for entry in _entries())
    return f"{name} {_certificates.fingerprint(authority)[:8]}" if taken else name


def _replace(name: str, wanted: Identity) -> None:
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
            with _atomic_files.private_folder() as folder:
                file = _atomic_files.written(folder / "certificate.pem", wanted.certificate.public_bytes(Encoding.PEM))
                _nss(["certutil", "-A", "-a", "-n", name, "-t", ",,", "-i", file])
    here = next(entry.nickname for entry in _entries() if _same(entry, wanted))
    if here != name:
        _nss(["certutil", "--rename", "-n", here, "--new-n", name])
    for entry in others:
        key_id = _key_id_or_none(entry.certificate)
        if key_id and entry.has_key and not _same_key(entry, wanted):
            _nss(["certutil", "-F", "-k", key_id])


def _same(entry: Entry, wanted: Identity) -> bool:
    return _certificates.fingerprint(entry.certificate) == _certificates.fingerprint(wanted.certificate)


def _same_key(entry: Entry, wanted: Identity) -> bool:
    ours, its = (_certificates.public_bytes(each.certificate.public_key()) for each in (wanted, entry))
    return ours == its


def _superseded(entry: Entry, wanted: Identity) -> bool:
    """
    Whether NSS prefers the wanted certificate to this one of the same nickname (CERT_IsNewer in NSS, its clear case).

    Such a certificate stays in the database, without its key: it is public, and NSS can not delete it without also
    deleting the wanted one.
    """
    old, new = entry.certificate, wanted.certificate
    return (old.subject == new.subject and old.not_valid_before_utc < new.not_valid_before_utc
            and old.not_valid_after_utc < new.not_valid_after_utc)


def _import(nickname: str, wanted: Identity) -> None:
    encryption = (PrivateFormat.PKCS12.encryption_builder().kdf_rounds(_KDF_ROUNDS)
                  .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(hashes.SHA256()))
    passphrase = base64.b32encode(os.urandom(20))
    bundle = pkcs12.serialize_key_and_certificates(
        nickname.encode(), wanted.key, wanted.certificate, None, encryption.build(passphrase))
    with _atomic_files.private_folder() as folder:
        files = ["-i", _atomic_files.written(folder / "bundle.p12", bundle),
                 "-w", _atomic_files.written(folder / "passphrase", passphrase)]
        _nss(["pk12util", *files])


# revocation lists


def list_file(crl: x509.CertificateRevocationList) -> Path:
    """
    The file from which the daemon fetches the lists of this one's issuer. For ``certs``.

    CLI Example: none, as it takes a list; see :py:func:`certs.list_file <modules.certs.list_file>`.
    """
    return Path(LISTS, _certificates.crl_file_name(crl))


def list_state(crl: x509.CertificateRevocationList, issuer: Entry | None) -> tuple[str, int | None, bool]:
    """
    Date (ISO 8601) and number of the list of this issuer in the database ("" and None without one), and whether the
    file has exactly the given list. For ``certs``.

    CLI Example: none, as it takes a list; see :py:func:`certs.crl_state_of <modules.certs.crl_state_of>`.
    """
    current, number = _stored_crl(issuer.nickname) if issuer else ("", None)
    return current, number, _atomic_files.as_wanted(list_file(crl), crl.public_bytes(Encoding.DER), 0o644)


def install_list(crl: x509.CertificateRevocationList) -> None:
    """
    Bring a revocation list into the database. For ``certs``, which has checked it.

    A running Libreswan notices it a little later: see :py:func:`ipsec.take_lists <modules.ipsec.take_lists>`. For this
    the list is also written to a file, and the database has the file's address: the daemon fetches the list from there.

    CLI Example: none, as it takes a list; see :py:func:`certs.install_crl <modules.certs.install_crl>`.
    """
    file, data = list_file(crl), crl.public_bytes(Encoding.DER)
    _check_room(DATABASE, len(data))
    _atomic_files.put_all({file: (data, 0o644)})
    _nss(["crlutil", "-I", "-i", str(file), "-u", f"file://{file}"])


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
