"""Identities: refused before anything is written, or installed. Recorded output of NSS's tools: 3.87 and 3.110."""
from __future__ import annotations

import base64
import datetime
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

RECORDED = Path(__file__).resolve().parent.parent / "recorded/certs"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
NAME = "gateway.winterthur.example"


def subject(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


class Authority:
    def __init__(self, name: str = "Test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject(name)
        self.certificate = self.sign(self.key, self.name, [x509.BasicConstraints(ca=True, path_length=0)])

    def sign(self, key, name, extensions=(), start=-DAY, end=30 * DAY):
        builder = (x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(NOW + start).not_valid_after(NOW + end))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def crl(self, end=7 * DAY, number=None, start=-DAY):
        builder = (x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW + start)
                   .next_update(NOW + end))
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        return builder.sign(self.key, hashes.SHA256())


AUTHORITY = Authority()
KEY = ec.generate_private_key(ec.SECP256R1())


def leaf(key=KEY, **kwargs):
    return AUTHORITY.sign(key, subject(NAME), [x509.SubjectAlternativeName([x509.DNSName(NAME)])], **kwargs)


def bundle(key=KEY, certificate=None, chain=(AUTHORITY.certificate,), passphrase="right") -> dict:
    # one round of key derivation instead of thousands: the file is made and read a hundred times here
    encryption = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1).build(b"right")
    data = pkcs12.serialize_key_and_certificates(b"any", key, certificate or leaf(key), list(chain), encryption)
    return {"pkcs12": base64.b64encode(data).decode(), "passphrase": passphrase}


def pem(thing) -> str:
    if hasattr(thing, "private_bytes"):
        return thing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return thing.public_bytes(Encoding.PEM).decode()


@pytest.fixture(scope="module")
def certs_module(load):
    """The module, once for all examples that hypothesis tries in one test."""
    return load("_modules/certs.py")


@pytest.fixture
def certs(load, monkeypatch):
    module = load("_modules/certs.py")
    module.pillar = {}
    monkeypatch.setattr(module, "__salt__", {
        "pillar.get": lambda path, default, unmask: module.pillar.get(path, default) if unmask else "**********"},
        raising=False)
    return module


def test_a_bundle_and_the_same_as_pem_say_the_same(certs):
    certificate = leaf()
    certs.pillar = {"p12": bundle(certificate=certificate),
                    "pem": {"certificate": pem(certificate), "key": pem(KEY), "chain": [pem(AUTHORITY.certificate)]},
                    "one": {"certificate": pem(certificate) + pem(AUTHORITY.certificate), "key": pem(KEY)}}
    found = certs.inspect("p12", NAME)
    assert found["names"] == [NAME]
    assert found["key"] == "ec 256"
    assert found["fingerprint"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert [each["subject"] for each in found["authorities"]] == ["CN=Test CA"]
    assert found == certs.inspect("pem", NAME) == certs.inspect("one", NAME)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(
    st.binary(max_size=400), st.text(max_size=400), st.none(), st.integers(), st.lists(st.text(max_size=9)),
    st.builds(lambda at, bit, size: damaged(at, bit, size), st.integers(0, 1 << 20), st.integers(0, 7),
              st.integers(1, 1 << 20))))
def test_whatever_stands_in_pillar_is_read_or_refused_in_one_line(certs, data):
    """A PKCS#12 with a changed bit or a missing end, and any other input: never another exception."""
    text = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    certs.pillar = {"a": {"pkcs12": text, "passphrase": "right"}, "c": text,
                    "b": {"certificate": text, "key": text, "chain": text or []}}
    for read in (lambda: certs.inspect("a"), lambda: certs.inspect("b"), lambda: certs._load_crl("c")):
        try:
            read()
        except CommandExecutionError as error:
            assert str(error).startswith("certs: ") and "\n" not in str(error)


WHOLE = [leaf().public_bytes(Encoding.DER), AUTHORITY.certificate.public_bytes(Encoding.DER),
         AUTHORITY.crl(number=7).public_bytes(Encoding.DER)]


@given(which=st.sampled_from(WHOLE), places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
       zeroed=st.integers(0, 400))
def test_a_certificate_or_a_list_of_which_some_octets_are_others_is_read_or_refused_in_one_line(
        certs_module, which, places, zeroed):
    """A well-formed file may have odd content: every field is read before anything is used."""
    data = bytearray(which)
    for at, value in places:
        data[at % len(data)] = value
    if places:
        data[min(zeroed + 30, len(data)):] = bytes(len(data) - min(zeroed + 30, len(data)))
    text = base64.encodebytes(bytes(data)).decode()
    pillar = {"a": {"certificate": f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n", "key": pem(KEY),
                    "chain": pem(AUTHORITY.certificate)},
              "c": f"-----BEGIN X509 CRL-----\n{text}-----END X509 CRL-----\n"}
    known = [certs_module._Entry("Test CA", "CT,,", AUTHORITY.certificate, False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certs_module, "__salt__", {"pillar.get": lambda path, *_, **__: pillar[path]}, raising=False)
        patch.setattr(certs_module, "_known", lambda: known)
        patch.setattr(certs_module, "_stored_crl", lambda _name: ("", None))
        for read in (lambda: certs_module.inspect("a", NAME), lambda: certs_module.crl_state_of("c")):
            try:
                read()
            except CommandExecutionError as error:
                assert str(error).startswith("certs: ") and "\n" not in str(error)


def damaged(at: int, bit: int, size: int) -> bytes:
    data = bytearray(base64.b64decode(GOOD["pkcs12"]))
    data[at % len(data)] ^= 1 << bit
    return bytes(data[: max(1, size % (2 * len(data)))])


GOOD = bundle()


def cut(source: dict) -> dict:
    return source | {"pkcs12": base64.b64encode(base64.b64decode(source["pkcs12"])[:-40]).decode()}


OTHER = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(("source", "message"), [
    (None, "is not in this node's pillar"),
    ("text", "is no mapping"),
    ({}, "has neither pkcs12 nor certificate"),
    (bundle(passphrase="wrong"), "wrong passphrase"),
    ({"pkcs12": bundle()["pkcs12"]}, "has a pkcs12 but no passphrase"),
    (bundle() | {"pkcs12": "no base64!"}, "is not base64"),
    (bundle() | {"pkcs12": base64.b64encode(b"something else").decode()}, "is no PKCS#12 file"),
    (cut(bundle()), r"is truncated: \d+ of \d+ bytes"),
    (bundle(certificate=leaf(start=-3 * DAY, end=-DAY)), "expired on"),
    (bundle(certificate=leaf(start=DAY)), "is not valid before"),
    (bundle(chain=()), "holds no authority's certificate"),
    (bundle(chain=(Authority("Other CA").certificate,)), 'was issued by "CN=Test CA", which is not in its chain'),
    ({"certificate": pem(leaf()), "key": pem(OTHER)}, "key that does not belong to its certificate"),
    ({"certificate": pem(leaf())}, "has a certificate but no key"),
    ({"certificate": pem(leaf())[:300], "key": pem(KEY)}, "is no readable PEM certificate"),
    ({"certificate": pem(leaf()), "key": pem(KEY)[:60]}, "is no readable PEM private key"),
    ({"certificate": pem(leaf()), "key": pem(KEY), "passphrase": "x"}, "is encrypted but has no passphrase, or"),
    (bundle(ed25519.Ed25519PrivateKey.generate()), "neither RSA nor EC"),
    (bundle(ec.generate_private_key(ec.SECP192R1())), "is too weak: its EC key has 192 bits; the minimum is 256"),
    (bundle(rsa.generate_private_key(65537, 1024)), "is too weak: its RSA key has 1024 bits; the minimum is 2048"),
])
def test_what_is_refused_is_told_in_one_line(certs, source, message):
    certs.pillar = {"gateway_secrets:certificates:gateway": source} if source is not None else {}
    with pytest.raises(CommandExecutionError, match=message) as refused:
        certs.inspect("gateway_secrets:certificates:gateway")
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith("certs: gateway_secrets:certificates:gateway")
    assert "right" not in text.replace("the right", "") and "BEGIN" not in text


def test_the_identity_must_be_in_the_certificate(certs):
    certs.pillar = {"a": bundle()}
    with pytest.raises(CommandExecutionError, match="is for gateway.winterthur.example, not for gateway.bern.example"):
        certs.inspect("a", "gateway.bern.example")


def test_every_identity_must_be_in_the_certificate(certs):
    """A connection may have one of its own; a distinguished name is compared with the subject, in either order."""
    certs.pillar = {"a": bundle()}
    subject = certs.inspect("a")["subject"]
    assert certs.inspect("a", ["gateway.winterthur.example", subject, ", ".join(reversed(subject.split(",")))])
    for wrong, said in ((["gateway.winterthur.example", "192.0.2.99"], "not for 192.0.2.99"),
                        ([f"{subject}, O=Other"], "has the subject .* must be its certificate's subject")):
        with pytest.raises(CommandExecutionError, match=said):
            certs.inspect("a", wrong)


def test_nothing_is_read_from_a_database_that_is_not_there(certs, monkeypatch, tmp_path):
    monkeypatch.setattr(certs, "DATABASE", str(tmp_path / "nss"))
    certs.pillar = {"a": bundle()}
    assert certs.stored() == []
    found = certs.state_of("gateway", "a")
    assert (found["current"], found["key"], found["same"]) == ("", False, False)
    assert found["missing_authorities"] == ["CN=Test CA"]
    assert not (tmp_path / "nss").exists()


def test_listings_of_nss(certs, monkeypatch):
    listing = (RECORDED / "certutil-L.txt").read_text()
    assert certs._trust_by_nickname(listing) == {"gw": "u,u,u", "Test CA rsa": "CT,,", "bern": ",,"}
    monkeypatch.setattr(certs, "_nss", lambda *_args, **_kwargs: (RECORDED / "certutil-K.txt").read_text())
    assert certs._key_ids() == {"3970811be02d27ab749dc147cc3494af9df9b1b8", "4273c6c2964f9ccf1c9d2eb1d6c666123228ede4"}


NICKNAME = st.from_regex(r"[A-Za-z0-9*(][\w .,:*()=@-]{0,30}[\w)]", fullmatch=True)
TRUST = st.sampled_from(["u,u,u", "CT,,", "CTu,u,u", ",,", "p,p,p", "cT,C,T"])


@given(entries=st.dictionaries(NICKNAME, TRUST, max_size=8), odd=st.text(max_size=60))
def test_any_listing_of_nss_is_read(certs_module, entries, odd):
    """A listing as certutil prints it, "%-60s %-5s"; a line that certutil never prints adds no certificate."""
    head = "\nCertificate Nickname                                         Trust Attributes\n" \
           "                                                             SSL,S/MIME,JAR/XPI\n\n"
    printed = head + "".join(f"{name:<60} {trust:<5}\n" for name, trust in entries.items())
    assert certs_module._trust_by_nickname(printed) == entries
    found = certs_module._trust_by_nickname(odd)
    assert all(name in odd and trust.count(",") == 2 for name, trust in found.items())


@given(keys=st.lists(st.binary(min_size=20, max_size=20), max_size=5, unique=True), odd=st.text(max_size=80))
def test_any_list_of_keys_is_read(certs_module, keys, odd):
    printed = 'certutil: Checking token "NSS Certificate DB" in slot "NSS User Private Key and Certificate Services"\n'
    printed += "".join(f"<{number:2}> {'rsa' if number % 2 else 'ec '}      {key.hex()}   a name\n"
                       for number, key in enumerate(keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certs_module, "_nss", lambda *_args, **_kwargs: printed)
        assert certs_module._key_ids() == {key.hex() for key in keys}
        patch.setattr(certs_module, "_nss", lambda *_args, **_kwargs: odd)
        assert all(len(key) == 40 and key in odd for key in certs_module._key_ids())


@given(number=st.integers(0, 1 << 159), date=st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2099, 1, 1)))
def test_any_list_as_crlutil_prints_it_is_read(certs_module, number, date):
    date = date.replace(microsecond=0)
    crl = (x509.CertificateRevocationListBuilder().issuer_name(AUTHORITY.name).last_update(date)
           .next_update(date + DAY).add_extension(x509.CRLNumber(number), critical=False)
           .sign(AUTHORITY.key, hashes.SHA256()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certs_module, "_nss", lambda command, **_kwargs: printed(crl))
        assert certs_module._stored_crl("ca") == (date.replace(tzinfo=datetime.UTC).isoformat(), number)


@given(text=st.one_of(st.text(max_size=200), st.builds(
    "This Update: {}\nName: CRL Number\n  Data: {}".format, st.text(max_size=30),
    st.text("0123456789abcdef:x( )", max_size=40))))
def test_whatever_crlutil_prints_is_read_or_refused_in_one_line(certs_module, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certs_module, "_nss", lambda command, **_kwargs: text)
        try:
            date, number = certs_module._stored_crl("ca")
            assert date == "" or datetime.datetime.fromisoformat(date)
            assert number is None or number >= 0
        except CommandExecutionError as error:
            assert str(error).startswith("certs: ") and "\n" not in str(error)


def test_a_list_is_found_by_the_whole_name_of_its_authority(certs, monkeypatch):
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
    monkeypatch.setattr(certs.salt.utils.path, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setitem(certs.__salt__, "commands.run", tool)
    assert certs._stored_crl("Our CA") == ("", None)
    assert [certs._stored_crl(name)[1] for name in lists] == [4, 4]


def test_a_tool_that_hangs_is_told_and_holds_nobody(certs, load, monkeypatch, tmp_path):
    hangs = tmp_path / "certutil"
    hangs.write_text("#!/bin/sh\nsleep 60 &\nwait\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(certs.salt.utils.path, "which", lambda name: str(tmp_path / Path(name).name))
    monkeypatch.setitem(certs.__salt__, "commands.run", load("_modules/commands.py").run)
    monkeypatch.setattr(certs, "_TOOL_SECONDS", 0.2)
    monkeypatch.setattr(certs, "DATABASE", str(tmp_path))
    with pytest.raises(CommandExecutionError, match=r"^certutil -K -d sql:\S+: no answer within 0.2 s, so it was "
                                                    r"ended; does the disk stand still\?[^\n]*$"):
        certs._key_ids()


def test_a_database_with_something_unreadable_is_told_in_one_line(certs, monkeypatch, tmp_path):
    monkeypatch.setattr(certs, "DATABASE", str(tmp_path))
    (tmp_path / "cert9.db").touch()
    answers = {("certutil", "-L"): "odd      ,,\n", ("certutil", "-L", "-a", "-n", "odd"): "-----BEGIN CERT"}
    monkeypatch.setattr(certs, "_nss", lambda command, **_kwargs: answers.get(tuple(command), ""))
    with pytest.raises(CommandExecutionError, match="holds an unreadable certificate as odd") as told:
        certs.stored()
    assert "\n" not in str(told.value)


def test_the_id_of_a_key_is_the_one_nss_gives(certs):
    """RSA: over the modulus. EC: over the point, as the subject key identifier of RFC 5280."""
    assert certs._key_id(KEY.public_key()) == x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).digest.hex()
    key = rsa.RSAPublicNumbers(e=65537, n=(1 << 1023) | 0xF00D | 1).public_key()
    assert len(certs._key_id(key)) == 40


@pytest.fixture
def lists(certs, monkeypatch, tmp_path):
    """A database with an authority and, if `.text` is set, its list; `.asked` records what was installed."""
    certs.text, certs.asked = "", []

    def nss(command, **_kwargs):
        if "-I" in command:
            certs.asked.append(command)
        return certs.text

    monkeypatch.setattr(certs, "LISTS", str(tmp_path / "lists"))
    monkeypatch.setattr(certs, "_entries", lambda: [certs._Entry("Test CA", "CT,,", AUTHORITY.certificate, False)])
    monkeypatch.setattr(certs, "_nss", nss)
    return certs


def printed(crl) -> str:
    """A list as crlutil prints it."""
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    data = f"{number} ({number:#x})"
    if number >= 1 << 31:
        octets = number.to_bytes((number.bit_length() + 8) // 8, "big").hex(":")
        data = f"\n            {octets}"
    return (f"CRL Info:\n    This Update: {crl.last_update_utc:%a %b %d %H:%M:%S %Y}\n    CRL Extensions:\n"
            f"        Name: CRL Number\n        Data: {data}\n\n        Name: Other\n")


def test_a_list_that_is_stale_or_from_elsewhere_is_refused(lists):
    forged = Authority("Test CA")  # the same name, another key
    lists.text = (RECORDED / "crlutil-L-n.txt").read_text().replace("Nov 23 18:40:51 2026", "Nov 23 18:40:51 2020")
    lists.pillar = {"good": pem(AUTHORITY.crl(number=2)), "stale": pem(AUTHORITY.crl(end=-DAY / 2)),
                    "forged": pem(forged.crl()), "cut": pem(AUTHORITY.crl())[:200]}
    assert lists.crl_state_of("good")["current"] == "2020-11-23T18:40:51+00:00"
    assert lists.crl_state_of("good")["wanted"]["number"] == 2
    for name, message in (("stale", "is stale"), ("forged", "is not signed by"), ("cut", "is no readable")):
        with pytest.raises(CommandExecutionError, match=message):
            lists.install_crl(name)
    assert lists.asked == [] and not Path(lists.LISTS).exists()


@pytest.mark.parametrize(("old", "new"), [(7, 6), (1 << 40, 1 << 39), (300, 7)])
def test_a_list_older_than_the_one_that_is_in_is_refused(lists, old, new):
    lists.text = printed(AUTHORITY.crl(number=old))
    lists.pillar = {"old": pem(AUTHORITY.crl(number=new)), "new": pem(AUTHORITY.crl(number=old + 1)),
                    "date": pem(AUTHORITY.crl(number=old + 1, start=-2 * DAY))}
    for name in ("old", "date"):
        with pytest.raises(CommandExecutionError, match="people who were revoked since could come back"):
            lists.install_crl(name)
    assert lists.asked == []
    lists.install_crl("new")
    assert len(lists.asked) == 1


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
    (file,) = Path(lists.LISTS).iterdir()
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
    monkeypatch.setattr(lists.os, "fsync", full)
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


@pytest.mark.parametrize(("keys", "issuer"), [
    ((True, False), "CN=Old CA"), ((False, True), "CN=Test CA"), ((True, True), "CN=Test CA"), ((), "")])
def test_who_issued_what_the_daemon_signs_with(certs, monkeypatch, keys, issuer):
    """If two have one nickname and subject, the one with the key, as the daemon does."""
    old = Authority("Old CA").sign(KEY, subject("gateway.example"), start=-2 * DAY)
    wanted = certs._Identity(KEY, leaf(), (AUTHORITY.certificate,))
    monkeypatch.setattr(certs, "_known", lambda: [
        certs._Entry("gateway", "u,u,u", certificate, key)
        for certificate, key in zip((old, wanted.certificate), keys, strict=False)])
    assert certs._compare("gateway", wanted)["issuer"] == issuer


def test_files_with_keys_are_nobody_elses(certs):
    with certs._private_folder() as folder:
        path = Path(certs._written(folder / "x", b"secret"))
        assert path.stat().st_mode & 0o777 == 0o400
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


# a damaged database, and the report


@pytest.fixture
def database(certs, monkeypatch, tmp_path):
    """A folder for a database; the fake certutil makes the same two files as NSS, with a table in each."""
    place = tmp_path / "nss"
    monkeypatch.setattr(certs, "DATABASE", str(place))

    def nss(command, no_entries="", database=""):
        if "-N" in command:
            for file, table in (("cert9.db", "nssPublic"), ("key4.db", "nssPrivate")):
                with sqlite3.connect(Path(database or place) / file) as connection:
                    connection.execute(f"CREATE TABLE {table} (id, a1)")
                    connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(n, "x" * 99) for n in range(200)])
                connection.close()
        return ""

    monkeypatch.setattr(certs, "_nss", nss)
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
    assert certs.damaged() == "" and certs.create_database() and not certs.create_database()
    damage(database)
    assert message in certs.damaged()
    certs.pillar = {"a": bundle()}
    assert certs.state_of("gateway", "a")["current"] == ""           # so test=True does not fail
    assert certs.create_database() and certs.damaged() == ""
    kept = [path for path in database.parent.iterdir() if ".damaged-" in path.name]
    assert len(kept) == 1 and {path.stat().st_mode & 0o777 for path in (*kept, database)} == {0o700}
    assert sorted(path.name for path in database.parent.iterdir()) == ["nss", kept[0].name]


def test_a_database_where_something_else_is(certs, database, tmp_path):
    database.symlink_to(tmp_path)
    with pytest.raises(CommandExecutionError, match="is no folder"):
        certs.create_database()
    database.unlink()
    database.write_text("x")
    with pytest.raises(CommandExecutionError, match="is no folder"):
        certs.create_database()
    assert database.read_text() == "x"
    database.unlink()
    database.mkdir()
    assert certs.create_database()          # the package makes the folder, Salt its content


@pytest.mark.parametrize("call", ["mkdtemp", "open"])
def test_a_full_disk_is_told_and_leaves_nothing(certs, database, monkeypatch, tmp_path, call):
    """First for a new database, then for the key's bundle beside an existing one."""
    monkeypatch.setattr(certs.os, "access", lambda *_args: False)
    monkeypatch.setattr(certs.tempfile, "tempdir", str(tmp_path))
    certs.pillar = {"a": bundle()}
    monkeypatch.setattr(certs, "_entries", lambda: [])
    if call == "open":
        certs.create_database()
    before = sorted(tmp_path.rglob("*"))
    owner = {"mkdtemp": certs.tempfile, "open": certs.os}[call]
    real = getattr(owner, call)

    def full(*args, **kwargs):
        if call == "open" and not args[1] & certs.os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(28, "No space left on device", "/run/gateway-x")

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, full)
        with pytest.raises(CommandExecutionError) as told:
            certs.install("gateway", "a")
    assert str(told.value) == ("certs: /run/gateway-x could not be written: No space left on device; put that right, "
                               "then apply again")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_report_says_it_in_words(certs, monkeypatch):
    soon = leaf(end=10 * DAY)
    certs.pillar = {"gateway_secrets:certificates:gateway": bundle(certificate=soon),
                    "gateway_secrets:certificates:bad": bundle(passphrase="wrong"),
                    "gateway_secrets:crls:ca": pem(AUTHORITY.crl(number=7))}
    certs.pillar["gateway_secrets"] = {"certificates": {"gateway": 0, "bad": 0}, "crls": {"ca": 0}}
    old, orphan = leaf(start=-3 * DAY, end=DAY / 3), AUTHORITY.sign(OTHER, subject("orphan"))
    stranger = Authority("Stranger").sign(OTHER, subject("stranger"))
    monkeypatch.setattr(certs, "damaged", lambda: "")
    monkeypatch.setattr(certs, "_entries", lambda: [
        certs._Entry("Test CA", "CT,,", AUTHORITY.certificate, False), certs._Entry("gateway", ",,", old, False),
        certs._Entry("orphan", ",,", orphan, False), certs._Entry("stranger", "u,u,u", stranger, True)])
    found = certs.report()
    assert found["pillar"]["gateway"] == {
        "for": NAME, "valid": f"until {soon.not_valid_after_utc:%Y-%m-%d}, in 10 days",
        "key": "ec 256 bits, signed with sha256, strong enough", "private key": "present, and belongs to it",
        "chain": "issued by CN=Test CA, which is trusted", "usage": "anything"}
    assert found["lists"]["ca"] == {"issuer": "CN=Test CA", "number": 7, "revoked": 0, "next list": "due in 7 days"}
    assert set(found["installed"]) == {"Test CA", "orphan", "stranger"}
    problems = "\n".join(found["problems"])
    for expected in ("pillar: gateway ends in 10 days; renew it", "bad can not be opened: wrong passphrase",
                     "gateway: pillar's certificate is not installed", "installed: orphan has no private key",
                     "installed: stranger was issued by CN=Stranger, which is missing", "lists: ca: the next one"):
        assert expected in problems
    assert "right" not in str(found) and "BEGIN" not in str(found)


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
    module = load_module("_modules/certs.py")
    return lambda key: bytes.fromhex(module._key_id(key))


@pytest.fixture
def stored(certs, monkeypatch, tmp_path):
    monkeypatch.setattr(certs, "DATABASE", str(tmp_path / "nss"))
    monkeypatch.setattr(certs, "LISTS", str(tmp_path / "lists"))
    return certs


def test_what_is_held_is_read_from_the_database_itself(stored, tmp_path):
    assert stored.held() == {"certificates": [], "keys": []}
    certificate = leaf()
    fill(tmp_path / "nss", [("gateway", certificate), ("Our CA", AUTHORITY.certificate)], [KEY])
    assert stored.held() == {
        "certificates": sorted(each.fingerprint(hashes.SHA256()).hex()
                               for each in (certificate, AUTHORITY.certificate)),
        "keys": [stored._key_id(KEY.public_key())]}


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


def test_a_lists_file_is_known_by_its_issuer(stored):
    stored.pillar = {"list": pem(AUTHORITY.crl())}
    assert stored.list_file("list").startswith(stored.LISTS) and stored.list_file("list").endswith(".crl")


# strongSwan's folders


@pytest.fixture
def swanctl(certs, monkeypatch, tmp_path):
    """A folder in place of /etc/swanctl; `.folder`."""
    certs.folder = tmp_path / "swanctl"
    monkeypatch.setattr(certs, "SWANCTL", str(certs.folder))
    monkeypatch.setattr(certs, "DATABASE", str(tmp_path / "none"))
    certs.pillar = {"a": bundle()}
    return certs


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below a folder, by path: its kind, mode and content."""
    return {str(path.relative_to(folder)): (oct(path.lstat().st_mode), path.lstat().st_mtime_ns,
                                            path.read_bytes() if path.is_file() and not path.is_symlink() else None)
            for path in sorted(folder.rglob("*"))}


def there(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_strongswan_gets_three_kinds_of_files(swanctl):
    before = swanctl.state_of("gateway", "a", NAME, "swanctl")
    assert (before["current"], before["key"], before["same"]) == ("", False, False) and not swanctl.folder.exists()
    swanctl.install("gateway", "a", NAME, "swanctl")
    key, = (swanctl.folder / "private").iterdir()
    authority, = (swanctl.folder / "x509ca").iterdir()
    assert re.fullmatch(r"gateway-[0-9a-f]{16}\.pem", key.name)
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o400, 0o700)
    assert (swanctl.folder / "x509/gateway.pem").stat().st_mode & 0o777 == 0o644
    assert load_pem_private_key(key.read_bytes(), None).public_key() == KEY.public_key()
    assert x509.load_pem_x509_certificate(authority.read_bytes()) == AUTHORITY.certificate
    after = swanctl.state_of("gateway", "a", NAME, "swanctl")
    assert after["same"] and after["current"] == after["wanted"]["fingerprint"] and after["issuer"] == "CN=Test CA"
    all_of_it = tree(swanctl.folder)
    swanctl.install("gateway", "a", NAME, "swanctl")
    assert tree(swanctl.folder) == all_of_it


def test_a_renewed_one_takes_its_place_with_its_key_there_before_and_the_old_key_gone_after(swanctl, monkeypatch):
    swanctl.install("gateway", "a", store="swanctl")
    swanctl.pillar = {"a": bundle(OTHER, leaf(OTHER))}
    seen = []
    replace = swanctl.os.replace

    def watched(source, target):
        keys = [load_pem_private_key(path.read_bytes(), None).public_key()
                for path in (swanctl.folder / "private").glob("gateway-*.pem")]
        its = x509.load_pem_x509_certificate((swanctl.folder / "x509/gateway.pem").read_bytes())
        seen.append(its.public_key() in keys)
        replace(source, target)

    monkeypatch.setattr(swanctl.os, "replace", watched)
    swanctl.install("gateway", "a", store="swanctl")
    assert seen == [True, True]          # at the key, at the certificate: there is never a certificate without its key
    key, = (swanctl.folder / "private").iterdir()
    assert load_pem_private_key(key.read_bytes(), None).public_key() == OTHER.public_key()
    assert swanctl.state_of("gateway", "a", store="swanctl")["same"]


@pytest.mark.parametrize("how", ["half", "noise", "mode", "link", "gone", "left over"])
def test_what_is_not_as_it_has_to_be_is_put_right(swanctl, how, tmp_path):
    swanctl.install("gateway", "a", store="swanctl")
    whole = there(swanctl.folder)
    key, = (swanctl.folder / "private").iterdir()
    certificate = swanctl.folder / "x509/gateway.pem"
    (tmp_path / "target").write_text("untouched")
    match how:
        case "half":
            certificate.write_bytes(certificate.read_bytes()[:200])
        case "noise":
            certificate.write_bytes(bytes(range(256)))
        case "mode":
            key.chmod(0o644)
        case "link":
            key.unlink()
            key.symlink_to(tmp_path / "target")
        case "gone":
            certificate.unlink()
        case "left over":
            (key.parent / f"gateway-{'0' * 16}.pem").write_bytes(pem(OTHER).encode())
    assert not swanctl.state_of("gateway", "a", store="swanctl")["same"]
    swanctl.install("gateway", "a", store="swanctl")
    assert swanctl.state_of("gateway", "a", store="swanctl")["same"]
    assert there(swanctl.folder) == whole and (tmp_path / "target").read_text() == "untouched"


def test_others_files_stay(swanctl):
    (swanctl.folder / "private").mkdir(parents=True)
    for name in ("gateway.pem", "gateway-old.pem", "gateway-2-0123456789abcdef.pem"):
        (swanctl.folder / "private" / name).write_text("somebody else's")
    swanctl.install("gateway", "a", store="swanctl")
    assert len(list((swanctl.folder / "private").iterdir())) == 4


REFUSED = {
    "wrong passphrase": (lambda: bundle(passphrase="wrong"), "wrong passphrase"),
    "another's key": (lambda: {"certificate": pem(leaf()) + pem(AUTHORITY.certificate), "key": pem(OTHER)}, "belong"),
    "expired": (lambda: bundle(certificate=leaf(start=-3 * DAY, end=-DAY)), "expired on"),
    "not yet valid": (lambda: bundle(certificate=leaf(start=DAY)), "is not valid before"),
    "wrong chain": (lambda: bundle(chain=(Authority("Other CA").certificate,)), "which is not in its chain"),
    "wrong name": (lambda: bundle(certificate=AUTHORITY.sign(KEY, subject(NAME), [x509.SubjectAlternativeName(
        [x509.DNSName("other.example")])])), "is for other.example, not for"),
    "weak key": (lambda: bundle(ec.generate_private_key(ec.SECP192R1())), "is too weak"),
    "truncated": (lambda: cut(bundle()), "is truncated"),
}


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("how", REFUSED)
def test_bad_input_is_one_line_and_changes_no_file(swanctl, how, there_before):
    source, message = REFUSED[how]
    if there_before:
        swanctl.install("gateway", "a", NAME, "swanctl")
    before = tree(swanctl.folder)
    swanctl.pillar = {"a": source()}
    for function in (swanctl.state_of, swanctl.install):
        with pytest.raises(CommandExecutionError, match=message) as told:
            function("gateway", "a", NAME, "swanctl")
        assert "\n" not in str(told.value) and "right" not in str(told.value).replace("put that right", "")
    assert tree(swanctl.folder) == before


@pytest.mark.parametrize("way", ["folder", "link at the folder", "file at the folder", "full"])
def test_what_is_in_the_way_is_one_line_and_changes_no_file(swanctl, monkeypatch, tmp_path, way):
    swanctl.install("gateway", "a", NAME, "swanctl")
    swanctl.pillar = {"a": bundle(OTHER, leaf(OTHER))}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    certificate, authorities = swanctl.folder / "x509/gateway.pem", swanctl.folder / "x509ca"
    match way:
        case "folder":
            certificate.unlink()
            certificate.mkdir()
            message = "gateway.pem is a folder, and a file has to be there; remove it"
        case "link at the folder":
            certificate.unlink()
            certificate.parent.rmdir()
            certificate.parent.symlink_to(elsewhere)
            message = "x509 is a link, and a folder of the daemon's own has to be there; remove it"
        case "file at the folder":
            shutil.rmtree(authorities)
            authorities.write_text("x")
            message = "x509ca is a file, and a folder has to be there; remove it"
        case "full":
            shutil.rmtree(authorities)          # a folder that was made in vain is removed again
            room = iter((True, True, False))
            fsync = swanctl.os.fsync

            def full(descriptor):
                if not next(room):
                    raise OSError(28, "No space left on device")
                fsync(descriptor)
            monkeypatch.setattr(swanctl.os, "fsync", full)
            message = "could not be written: No space left on device; put that right, then apply again"
    before = tree(swanctl.folder)
    with pytest.raises(CommandExecutionError, match=message) as told:
        swanctl.install("gateway", "a", NAME, "swanctl")
    assert "\n" not in str(told.value)
    assert {name: (mode, data) for name, (mode, _when, data) in tree(swanctl.folder).items()} == {
        name: (mode, data) for name, (mode, _when, data) in before.items()}
    assert list(elsewhere.iterdir()) == []


def test_a_list_for_strongswan(swanctl):
    crl = AUTHORITY.crl(number=7)
    swanctl.pillar |= {"list": pem(crl), "old": pem(AUTHORITY.crl(number=6)),
                       "forged": pem(Authority("Test CA").crl(number=8)), "stale": pem(AUTHORITY.crl(end=-DAY / 2))}
    with pytest.raises(CommandExecutionError, match="whose certificate is not in .*swanctl"):
        swanctl.install_crl("list", "swanctl")
    swanctl.install("gateway", "a", store="swanctl")
    assert not swanctl.crl_state_of("list", "swanctl")["same"]
    swanctl.install_crl("list", "swanctl")
    file, = (swanctl.folder / "x509crl").iterdir()
    assert x509.load_der_x509_crl(file.read_bytes()) == crl
    assert swanctl.crl_state_of("list", "swanctl")["same"]
    before = tree(swanctl.folder)
    for name, message in {"old": "is number 6 of .*, and number 7 of", "forged": "is not signed by",
                          "stale": "is stale"}.items():
        with pytest.raises(CommandExecutionError, match=message):
            swanctl.install_crl(name, "swanctl")
    assert tree(swanctl.folder) == before
    file.write_bytes(file.read_bytes()[:40])          # an incomplete list counts as none: it is replaced
    swanctl.install_crl("list", "swanctl")
    assert tree(swanctl.folder).keys() == before.keys() and swanctl.crl_state_of("list", "swanctl")["same"]


@pytest.mark.parametrize(("name", "store", "message"), [
    ("../x", "swanctl", "can be no file's name"), ("a/b", "swanctl", "can be no file's name"),
    ("", "swanctl", "can be no file's name"), ("x", "pluto", "is no store of certificates; give one of nss, swanctl")])
def test_names_and_stores(swanctl, name, store, message):
    for function in (swanctl.state_of, swanctl.install):
        with pytest.raises(CommandExecutionError, match=message):
            function(name, "a", "", store)
    assert not swanctl.folder.exists()
