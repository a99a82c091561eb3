"""Libreswan's database. Recorded output of NSS's tools: 3.87 and 3.110. The tools themselves: tests/integration."""
from __future__ import annotations

import datetime
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
import salt.utils.path
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module
from tests.unit.modules.identities import (
    AUTHORITY,
    DAY,
    KEY,
    NOW,
    RECORDED,
    Authority,
    bundle,
    leaf,
    pem,
    printed,
    subject,
)


@pytest.fixture(scope="module")
def nss_module(certs_module):
    return certs_module.nss


def test_listings_of_nss(nss, monkeypatch):
    listing = (RECORDED / "certutil-L.txt").read_text()
    assert nss._trust_by_nickname(listing) == {"gw": "u,u,u", "Test CA rsa": "CT,,", "bern": ",,"}
    monkeypatch.setattr(nss, "_nss", lambda *_args, **_kwargs: (RECORDED / "certutil-K.txt").read_text())
    assert nss._key_ids() == {"3970811be02d27ab749dc147cc3494af9df9b1b8", "4273c6c2964f9ccf1c9d2eb1d6c666123228ede4"}


NICKNAME = st.from_regex(r"[A-Za-z0-9*(][\w .,:*()=@-]{0,30}[\w)]", fullmatch=True)
TRUST = st.sampled_from(["u,u,u", "CT,,", "CTu,u,u", ",,", "p,p,p", "cT,C,T"])


@given(entries=st.dictionaries(NICKNAME, TRUST, max_size=8), odd=st.text(max_size=60))
def test_any_listing_of_nss_is_read(nss_module, entries, odd):
    """A listing as certutil prints it, "%-60s %-5s"; a line that certutil never prints adds no certificate."""
    head = "\nCertificate Nickname                                         Trust Attributes\n" \
           "                                                             SSL,S/MIME,JAR/XPI\n\n"
    printed = head + "".join(f"{name:<60} {trust:<5}\n" for name, trust in entries.items())
    assert nss_module._trust_by_nickname(printed) == entries
    found = nss_module._trust_by_nickname(odd)
    assert all(name in odd and trust.count(",") == 2 for name, trust in found.items())


@given(keys=st.lists(st.binary(min_size=20, max_size=20), max_size=5, unique=True), odd=st.text(max_size=80))
def test_any_list_of_keys_is_read(nss_module, keys, odd):
    printed = 'certutil: Checking token "NSS Certificate DB" in slot "NSS User Private Key and Certificate Services"\n'
    printed += "".join(f"<{number:2}> {'rsa' if number % 2 else 'ec '}      {key.hex()}   a name\n"
                       for number, key in enumerate(keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nss_module, "_nss", lambda *_args, **_kwargs: printed)
        assert nss_module._key_ids() == {key.hex() for key in keys}
        patch.setattr(nss_module, "_nss", lambda *_args, **_kwargs: odd)
        assert all(len(key) == 40 and key in odd for key in nss_module._key_ids())


@given(number=st.integers(0, 1 << 159), date=st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2099, 1, 1)))
def test_any_list_as_crlutil_prints_it_is_read(nss_module, number, date):
    date = date.replace(microsecond=0)
    crl = (x509.CertificateRevocationListBuilder().issuer_name(AUTHORITY.name).last_update(date)
           .next_update(date + DAY).add_extension(x509.CRLNumber(number), critical=False)
           .sign(AUTHORITY.key, hashes.SHA256()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nss_module, "_nss", lambda command, **_kwargs: printed(crl))
        assert nss_module._stored_crl("ca") == (date.replace(tzinfo=datetime.UTC).isoformat(), number)


@given(text=st.one_of(st.text(max_size=200), st.builds(
    "This Update: {}\nName: CRL Number\n  Data: {}".format, st.text(max_size=30),
    st.text("0123456789abcdef:x( )", max_size=40))))
def test_whatever_crlutil_prints_is_read_or_refused_in_one_line(nss_module, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nss_module, "_nss", lambda command, **_kwargs: text)
        try:
            date, number = nss_module._stored_crl("ca")
            assert date == "" or datetime.datetime.fromisoformat(date)
            assert number is None or number >= 0
        except CommandExecutionError as error:
            assert str(error).startswith("certs: ") and "\n" not in str(error)


def test_a_list_is_found_by_the_whole_name_of_its_authority(nss, monkeypatch):
    """With "Our CA 2" in, the first list of "Our CA" could never be, and one under a second nickname was overlooked."""
    lists = {"Our CA 2": AUTHORITY.crl(number=4)}
    lists["Our CA renewed"] = lists["Our CA 2"]         # `crlutil -L` names only one of two nicknames

    def tool(argv, **_kwargs):
        name = argv[argv.index("-n") + 1] if "-n" in argv else ""
        if not name:
            return {"retcode": 0, "stderr": "", "stdout": f"\nCRL names{'CRL Type':>40}\n\nOur CA 2{'CRL':>36}  \n"}
        if name in lists:
            return {"retcode": 0, "stderr": "", "stdout": printed(lists[name])}
        return {"retcode": 1, "stdout": "", "stderr": f"crlutil: could not find {name}'s CRL: "
                                                      "SEC_ERROR_CRL_NOT_FOUND: No matching CRL was found."}
    monkeypatch.setattr(salt.utils.path, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setitem(nss.__salt__, "commands.run", tool)
    assert nss._stored_crl("Our CA") == ("", None)
    assert [nss._stored_crl(name)[1] for name in lists] == [4, 4]


def test_a_tool_that_hangs_is_told_and_holds_nobody(nss, load, monkeypatch, tmp_path):
    hangs = tmp_path / "certutil"
    hangs.write_text("#!/bin/sh\nsleep 60 &\nwait\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(salt.utils.path, "which", lambda name: str(tmp_path / Path(name).name))
    monkeypatch.setitem(nss.__salt__, "commands.run", load("_modules/commands.py").run)
    monkeypatch.setattr(nss, "_TOOL_SECONDS", 0.2)
    monkeypatch.setattr(nss, "DATABASE", str(tmp_path))
    with pytest.raises(CommandExecutionError, match=r"^certutil -K -d sql:\S+: no answer within 0.2 s, so it was "
                                                    r"ended; does the disk stand still\?[^\n]*$"):
        nss._key_ids()


def test_a_database_with_something_unreadable_is_told_in_one_line(nss, monkeypatch, tmp_path):
    monkeypatch.setattr(nss, "DATABASE", str(tmp_path))
    (tmp_path / "cert9.db").touch()
    answers = {("certutil", "-L"): "odd      ,,\n", ("certutil", "-L", "-a", "-n", "odd"): "-----BEGIN CERT"}
    monkeypatch.setattr(nss, "_nss", lambda command, **_kwargs: answers.get(tuple(command), ""))
    with pytest.raises(CommandExecutionError, match="holds an unreadable certificate as odd") as told:
        nss.stored()
    assert "\n" not in str(told.value)


def test_a_list_goes_where_the_running_daemon_looks(lists):
    crl = AUTHORITY.crl(number=7)
    lists.pillar = {"a": pem(crl)}
    assert not lists.crl_state_of("a")["same"]
    lists.install_crl("a")
    (command,) = lists.asked
    file = Path(command[command.index("-i") + 1])
    assert command[-2:] == ["-u", f"file://{file}"] and x509.load_der_x509_crl(file.read_bytes()) == crl
    assert file.stat().st_mode & 0o777 == 0o644 and list(file.parent.iterdir()) == [file]
    lists.text = printed(crl)
    assert lists.crl_state_of("a")["same"]
    file.unlink()
    assert not lists.crl_state_of("a")["same"]


def test_a_list_where_something_else_is(lists, monkeypatch, tmp_path):
    lists.pillar = {"a": pem(AUTHORITY.crl(number=7))}
    lists.install_crl("a")
    (file,) = Path(lists.nss.LISTS).iterdir()
    target = tmp_path / "target"
    target.write_text("untouched")
    file.unlink()
    file.symlink_to(target)
    lists.install_crl("a")
    assert target.read_text() == "untouched" and not file.is_symlink()
    file.unlink()
    file.mkdir()
    with pytest.raises(CommandExecutionError, match="is a folder, and a file has to be there"):
        lists.install_crl("a")
    file.rmdir()

    def full(_descriptor):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CommandExecutionError, match="could not be written: No space left on device"):
        lists.install_crl("a")
    assert list(file.parent.iterdir()) == []
    file.parent.rmdir()
    file.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CommandExecutionError, match="is a link, and a folder of the daemon's own has to be there"):
        lists.install_crl("a")
    file.parent.unlink()
    file.parent.write_text("x")
    with pytest.raises(CommandExecutionError, match="is a file, and a folder has to be there"):
        lists.install_crl("a")
    assert file.parent.read_text() == "x" and not (tmp_path / "elsewhere").exists()


def test_a_lists_file_is_known_by_its_issuer(lists):
    lists.pillar = {"list": pem(AUTHORITY.crl())}
    assert lists.list_file("list").startswith(lists.nss.LISTS) and lists.list_file("list").endswith(".crl")


@pytest.mark.parametrize(("keys", "issuer"), [
    ((True, False), "CN=Old CA"), ((False, True), "CN=Test CA"), ((True, True), "CN=Test CA"), ((), "")])
def test_who_issued_what_the_daemon_signs_with(nss, monkeypatch, keys, issuer):
    """If two have one nickname and subject, the one with the key, as the daemon does."""
    old = Authority("Old CA").sign(KEY, subject("gateway.example"), start=-2 * DAY)
    wanted = nss._certificates.Identity(KEY, leaf(), (AUTHORITY.certificate,))
    monkeypatch.setattr(nss, "known", lambda: [
        nss.Entry("gateway", "u,u,u", certificate, key)
        for certificate, key in zip((old, wanted.certificate), keys, strict=False)])
    assert nss.compare("gateway", wanted)["issuer"] == issuer


# a damaged database


@pytest.fixture
def database(nss, monkeypatch, tmp_path):
    """A folder for a database; the fake certutil makes the same two files as NSS, with a table in each."""
    place = tmp_path / "nss"
    monkeypatch.setattr(nss, "DATABASE", str(place))

    def tool(command, no_entries="", database=""):
        if "-N" in command:
            for file, table in (("cert9.db", "nssPublic"), ("key4.db", "nssPrivate")):
                with sqlite3.connect(Path(database or place) / file) as connection:
                    connection.execute(f"CREATE TABLE {table} (id, a1)")
                    connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(n, "x" * 99) for n in range(200)])
                connection.close()
        return ""

    monkeypatch.setattr(nss, "_nss", tool)
    return place


DAMAGE = {
    "empty": (lambda place: (place / "cert9.db").write_bytes(b""), "is empty"),
    "cut": (lambda place: (place / "key4.db").write_bytes((place / "key4.db").read_bytes()[:9000]), "is damaged: "),
    "noise": (lambda place: (place / "key4.db").write_bytes(bytes(range(256)) * 99), "not a database"),
    "half": (lambda place: (place / "key4.db").unlink(), "key4.db is missing"),
    "other half": (lambda place: (place / "cert9.db").unlink(), "cert9.db is missing"),
    "folder": (lambda place: ((place / "cert9.db").unlink(), (place / "cert9.db").mkdir()), "is no file"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_database_is_made_anew_and_the_old_one_kept(certs, database, how):
    damage, message = DAMAGE[how]
    assert certs.nss.damaged() == "" and certs.nss.create_database() and not certs.nss.create_database()
    damage(database)
    assert message in certs.nss.damaged()
    certs.pillar = {"a": bundle()}
    assert certs.state_of("gateway", "a")["current"] == ""           # so test=True does not fail
    assert certs.nss.create_database() and certs.nss.damaged() == ""
    kept = [path for path in database.parent.iterdir() if ".damaged-" in path.name]
    assert len(kept) == 1 and {path.stat().st_mode & 0o777 for path in (*kept, database)} == {0o700}
    assert sorted(path.name for path in database.parent.iterdir()) == ["nss", kept[0].name]


def test_a_database_where_something_else_is(certs, database, tmp_path):
    database.symlink_to(tmp_path)
    with pytest.raises(CommandExecutionError, match="is no folder"):
        certs.nss.create_database()
    database.unlink()
    database.write_text("x")
    with pytest.raises(CommandExecutionError, match="is no folder"):
        certs.nss.create_database()
    assert database.read_text() == "x"
    database.unlink()
    database.mkdir()
    assert certs.nss.create_database()          # the package makes the folder, Salt its content


@pytest.mark.parametrize("call", ["mkdtemp", "open"])
def test_a_full_disk_is_told_and_leaves_nothing(certs, database, monkeypatch, tmp_path, call):
    """First for a new database, then for the key's bundle beside an existing one."""
    monkeypatch.setattr(os, "access", lambda *_args: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    certs.pillar = {"a": bundle()}
    monkeypatch.setattr(certs.nss, "_entries", lambda: [])
    if call == "open":
        certs.nss.create_database()
    before = sorted(tmp_path.rglob("*"))
    owner = {"mkdtemp": tempfile, "open": os}[call]
    real = getattr(owner, call)

    def full(*args, **kwargs):
        if call == "open" and not args[1] & os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(28, "No space left on device", "/run/gateway-x")

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, full)
        with pytest.raises(CommandExecutionError) as told:
            certs.install("gateway", "a")
    assert str(told.value) == ("certs: /run/gateway-x could not be written: No space left on device; put that right, "
                               "then apply again")
    assert sorted(tmp_path.rglob("*")) == before


# what beacons read without NSS's tools


def fill(folder: Path, certificates: list[tuple[str, x509.Certificate]], keys: list) -> None:
    """The tables that are read, as NSS 3.110 makes them."""
    folder.mkdir(exist_ok=True)
    identity = load_ids()
    for file, table, rows in (
            ("cert9.db", "nssPublic", [(b"\0\0\0\1", label.encode(), each.public_bytes(Encoding.DER),
                                        identity(each.public_key())) for label, each in certificates]
             + [(b"\xce\x53\x43\x53", None, None, None)]),
            ("key4.db", "nssPrivate", [(b"\0\0\0\3", None, b"secret", identity(key.public_key())) for key in keys])):
        (folder / file).unlink(missing_ok=True)
        with sqlite3.connect(folder / file) as connection:
            connection.execute(f"CREATE TABLE {table} (a0, a3, a11, a102)")
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
        connection.close()


def load_ids():
    module = load_module("_modules/_certificates.py")
    return lambda key: bytes.fromhex(module.key_id(key))


@pytest.fixture
def stored(nss, monkeypatch, tmp_path):
    monkeypatch.setattr(nss, "DATABASE", str(tmp_path / "nss"))
    monkeypatch.setattr(nss, "LISTS", str(tmp_path / "lists"))
    return nss


def test_what_is_held_is_read_from_the_database_itself(stored, tmp_path):
    assert stored.held() == {"certificates": [], "keys": []}
    certificate = leaf()
    fill(tmp_path / "nss", [("gateway", certificate), ("Our CA", AUTHORITY.certificate)], [KEY])
    assert stored.held() == {
        "certificates": sorted(each.fingerprint(hashes.SHA256()).hex()
                               for each in (certificate, AUTHORITY.certificate)),
        "keys": [stored._certificates.key_id(KEY.public_key())]}


def test_while_somebody_writes_nothing_is_waited_for(stored, tmp_path):
    fill(tmp_path / "nss", [("gateway", leaf())], [KEY])
    with sqlite3.connect(tmp_path / "nss/cert9.db", isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert stored.held() is None and stored.dates() is None
    writer.close()
    assert stored.held()
    (tmp_path / "nss/cert9.db").write_bytes(b"no database at all")
    assert stored.held() is None


def test_dates_are_those_of_authorities_and_of_what_has_its_key_here(stored, tmp_path):
    other = ec.generate_private_key(ec.SECP256R1())
    old, new, foreign = leaf(end=2 * DAY), leaf(end=20 * DAY), AUTHORITY.sign(other, subject("other"))
    fill(tmp_path / "nss", [("gateway", old), ("gateway", new), ("foreign", foreign),
                                ("Our CA", AUTHORITY.certificate)], [KEY])
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/a.crl").write_bytes(AUTHORITY.crl().public_bytes(Encoding.DER))
    (tmp_path / "lists/b.crl").write_bytes(b"damaged")
    assert stored.dates() == {
        "certificates": {"gateway": new.not_valid_after_utc.isoformat(),
                         "Our CA": AUTHORITY.certificate.not_valid_after_utc.isoformat()},
        "lists": {"CN=Test CA": {"this_update": (NOW - DAY).replace(microsecond=0).isoformat(),
                                 "next_update": (NOW + 7 * DAY).replace(microsecond=0).isoformat()}}}


def test_a_changed_database_has_another_sign(stored, tmp_path):
    before = stored.sign()
    fill(tmp_path / "nss", [("gateway", leaf())], [KEY])
    assert stored.sign() != before and stored.sign() == stored.sign()


def test_a_list_that_is_written_anew_in_its_place_gives_another_sign(stored, tmp_path):
    """The folder's own time does not change: without this the new end would be noticed an hour later."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/a.crl").write_bytes(b"one")
    before, folder = stored.sign(), (tmp_path / "lists").stat().st_mtime_ns
    (tmp_path / "lists/a.crl").write_bytes(b"another")
    assert (tmp_path / "lists").stat().st_mtime_ns == folder and stored.sign() != before
