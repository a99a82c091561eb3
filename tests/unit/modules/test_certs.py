"""Identities and lists of pillar: refused before anything is written, compared with a store; the report in words."""
from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

from tests.unit.modules.identities import (
    AUTHORITY,
    DAY,
    KEY,
    NAME,
    OTHER,
    RECORDED,
    Authority,
    bundle,
    cut,
    leaf,
    pem,
    printed,
    subject,
)


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
    known = [certs_module.nss.Entry("Test CA", "CT,,", AUTHORITY.certificate, False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certs_module, "pillar", pillar)
        patch.setattr(certs_module.nss, "known", lambda: known)
        patch.setattr(certs_module.nss, "_stored_crl", lambda _name: ("", None))
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
    monkeypatch.setattr(certs.nss, "DATABASE", str(tmp_path / "nss"))
    certs.pillar = {"a": bundle()}
    assert certs.stored() == []
    found = certs.state_of("gateway", "a")
    assert (found["current"], found["key"], found["same"]) == ("", False, False)
    assert found["missing_authorities"] == ["CN=Test CA"]
    assert not (tmp_path / "nss").exists()


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
    assert lists.asked == [] and not Path(lists.nss.LISTS).exists()


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


def test_the_report_says_it_in_words(certs, monkeypatch):
    soon = leaf(end=10 * DAY)
    certs.pillar = {"gateway_secrets:certificates:gateway": bundle(certificate=soon),
                    "gateway_secrets:certificates:bad": bundle(passphrase="wrong"),
                    "gateway_secrets:crls:ca": pem(AUTHORITY.crl(number=7))}
    certs.pillar["gateway_secrets"] = {"certificates": {"gateway": 0, "bad": 0}, "crls": {"ca": 0}}
    old, orphan = leaf(start=-3 * DAY, end=DAY / 3), AUTHORITY.sign(OTHER, subject("orphan"))
    stranger = Authority("Stranger").sign(OTHER, subject("stranger"))
    entry = certs.nss.Entry
    monkeypatch.setattr(certs.nss, "damaged", lambda: "")
    monkeypatch.setattr(certs.nss, "_entries", lambda: [
        entry("Test CA", "CT,,", AUTHORITY.certificate, False), entry("gateway", ",,", old, False),
        entry("orphan", ",,", orphan, False), entry("stranger", "u,u,u", stranger, True)])
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


@pytest.mark.parametrize(("name", "store", "message"), [
    ("../x", "swanctl", "can be no file's name"), ("a/b", "swanctl", "can be no file's name"),
    ("", "swanctl", "can be no file's name"), ("x", "pluto", "is no store of certificates; give one of nss, swanctl")])
def test_names_and_stores(certs, monkeypatch, tmp_path, name, store, message):
    monkeypatch.setattr(certs.swanctl, "SWANCTL", str(tmp_path / "swanctl"))
    for function in (certs.state_of, certs.install):
        with pytest.raises(CommandExecutionError, match=message):
            function(name, "a", "", store)
    assert not (tmp_path / "swanctl").exists()


@pytest.mark.parametrize("store", ["nss", "swanctl"])
def test_a_store_whose_module_was_not_synced_is_told_in_one_line(certs, monkeypatch, store):
    certs.pillar = {"a": bundle(), "list": pem(AUTHORITY.crl())}
    monkeypatch.setattr(certs, "__salt__", {"pillar.get": certs.__salt__["pillar.get"]})
    for function, arguments in ((certs.state_of, ("gateway", "a", NAME)), (certs.install, ("gateway", "a", NAME)),
                                (certs.crl_state_of, ("list",)), (certs.install_crl, ("list",)),
                                (certs.list_file, ("list",))):
        with pytest.raises(CommandExecutionError, match=rf"^certs: {store}\.\w+ is missing; run saltutil.sync_modules"):
            function(*arguments, store=store)


def test_what_operators_ask_for_by_this_name_is_the_database_s(certs, monkeypatch):
    monkeypatch.setattr(certs.nss, "stored", lambda: ["what the database holds"])
    assert certs.stored() == ["what the database holds"]
