"""Identities: what is refused before anything is written, and what NSS's tools print. Recorded: NSS 3.87 and 3.110."""
from __future__ import annotations

import base64
import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from salt.exceptions import CommandExecutionError

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

    def crl(self, end=7 * DAY):
        return (x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW - DAY)
                .next_update(NOW + end).sign(self.key, hashes.SHA256()))


AUTHORITY = Authority()
KEY = ec.generate_private_key(ec.SECP256R1())


def leaf(key=KEY, **kwargs):
    return AUTHORITY.sign(key, subject(NAME), [x509.SubjectAlternativeName([x509.DNSName(NAME)])], **kwargs)


def bundle(key=KEY, certificate=None, chain=(AUTHORITY.certificate,), passphrase="right") -> dict:
    data = pkcs12.serialize_key_and_certificates(b"any", key, certificate or leaf(key), list(chain),
                                                 BestAvailableEncryption(b"right"))
    return {"pkcs12": base64.b64encode(data).decode(), "passphrase": passphrase}


def pem(thing) -> str:
    if hasattr(thing, "private_bytes"):
        return thing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return thing.public_bytes(Encoding.PEM).decode()


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
    ({"certificate": pem(leaf()), "key": pem(KEY), "passphrase": "x"}, "encrypted and there is no passphrase, or"),
    (bundle(ed25519.Ed25519PrivateKey.generate()), "neither RSA nor EC"),
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


def test_the_id_of_a_key_is_the_one_nss_gives(certs):
    """RSA: over the modulus. EC: over the point, which is what RFC 5280's subject key identifier is over too."""
    assert certs._key_id(KEY.public_key()) == x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).digest.hex()
    key = rsa.RSAPublicNumbers(e=65537, n=(1 << 1023) | 0xF00D | 1).public_key()
    assert len(certs._key_id(key)) == 40


def test_a_list_that_is_stale_or_from_elsewhere_is_refused(certs, monkeypatch):
    forged = Authority("Test CA")  # the same name, another key
    certs.pillar = {"good": pem(AUTHORITY.crl()), "stale": pem(AUTHORITY.crl(end=-DAY / 2)),
                    "forged": pem(forged.crl()), "cut": pem(AUTHORITY.crl())[:200]}
    monkeypatch.setattr(certs, "_entries", lambda: [certs._Entry("Test CA", "CT,,", AUTHORITY.certificate, False)])
    monkeypatch.setattr(certs, "_nss", lambda command: "Test CA   CRL" if command == ["crlutil", "-L"]
                        else (RECORDED / "crlutil-L-n.txt").read_text())
    assert certs.crl_state_of("good")["current"] == "2026-11-23T18:40:51+00:00"
    for name, message in (("stale", "is stale"), ("forged", "is not signed by"), ("cut", "is no readable")):
        with pytest.raises(CommandExecutionError, match=message):
            certs.crl_state_of(name)


def test_files_with_keys_are_nobody_elses(certs):
    with certs._private_folder() as folder:
        path = Path(certs._written(folder / "x", b"secret"))
        assert path.stat().st_mode & 0o777 == 0o400
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
