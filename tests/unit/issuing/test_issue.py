"""What is issued, and renewed."""
from __future__ import annotations

import base64
import os

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from issuing import issue
from tests.unit.issuing.door import decrypted, files, opened, root


def test_it_is_made_once(authority):
    before = files(authority.folder)
    again = authority.create("Another")
    assert again["retcode"] == authority.__context__["retcode"] == 1
    assert "there is one in" in again["mistakes"][0]
    assert files(authority.folder) == before


@pytest.mark.parametrize("organization", ["", "Example Ltd", 'Müller, "Söhne" + Co'])
def test_a_site_lets_in_its_own_people_and_no_other_sites_gateway(
        authority, organization, keyring, gateway, schema, site, load):
    """As it is by default: the site says nothing of subjects, the gateway's certificate is this authority's."""
    authority.policy["organization"] = organization
    ipsec = load("_modules/ipsec.py")

    def facts(name: str) -> dict:
        sealed = yaml.safe_load((authority.pillar / f"secrets/issued/{name}.sls").read_text())
        its = sealed["gateway_secrets"]["certificates"]["gateway"]
        passphrase = decrypted(keyring, its["passphrase"])
        _key, certificate, _more = pkcs12.load_key_and_certificates(
            base64.b64decode(decrypted(keyring, its["pkcs12"])), passphrase)
        return {"key": "ec 256", "subject": certificate.subject.rfc4514_string()}

    assert [authority.issue_gateway(name)["retcode"] for name in ("winterthur", "bern")] == [0, 0]
    own, other = facts("winterthur"), facts("bern")
    person = authority.issue_roadwarrior("winterthur", "anna")["issued"]["anna"]["certificate"]["subject"]
    stranger = authority.issue_roadwarrior("bern", "anna")["issued"]["anna"]["certificate"]["subject"]
    pillar = site("winterthur")
    del pillar["connections"]["roadwarrior"]["subject"]
    settings_ = gateway.derive(pillar, schema, "gw1")
    ipsec.version = lambda: "5.2"
    ipsec.__salt__ = {"certs.inspect": lambda _path: own}
    pattern = ipsec.sections(settings_)["roadwarrior"]["rightid"].strip('"')
    assert ipsec.open_connections(settings_) == []
    assert [is_let_in(pattern, each) for each in (person, stranger, other["subject"])] == [True, False, False]


def is_let_in(pattern: str, subject: str) -> bool:
    """As Libreswan compares (lib/libswan/id.c, match_dn_any_order_wild): the same parts in any order, `*` for any."""
    wanted = dict(part.strip().split("=", 1) for part in pattern.split(","))
    its = {each.rfc4514_attribute_name: each.value
           for rdn in x509.Name.from_rfc4514_string(subject).rdns for each in rdn}
    return wanted.keys() == its.keys() and all(value in ("*", its[key]) for key, value in wanted.items())


@pytest.mark.parametrize("kind, key", [("ec256", "ec 256"), ("ec384", "ec 384"), ("rsa2048", "rsa 2048")])
def test_a_gateways_certificate_is_what_the_gateway_accepts(bare, kind, key, keyring, gateway, schema, site, load):
    bare.policy["key"] = kind
    bare.create()
    done = bare.issue_gateway("winterthur")
    assert done["next"] == "salt '*.winterthur' state.apply" and done["certificate"]["key"] == key
    file = bare.pillar / "secrets/issued/winterthur.sls"
    assert done["written"] == str(file) and file.stat().st_mode & 0o777 == 0o600
    sealed = yaml.safe_load(file.read_text())["gateway_secrets"]
    its = {name: decrypted(keyring, text).decode() for name, text in sealed["certificates"]["gateway"].items()}
    assert gateway.find_mistakes(site("winterthur"), schema, secrets={
        "heartbeat": {"key": "0" * 32}, "certificates": {"gateway": its}}) == []
    certs = load("_modules/certs.py")
    certs.__salt__ = {"pillar.get": lambda *_args, **_more: its}
    facts = certs.inspect("gateway_secrets:certificates:gateway", "gateway.winterthur.example")
    assert facts["names"] == ["gateway.winterthur.example", "192.0.2.10"]
    assert [each["subject"] for each in facts["authorities"]] == ["CN=Gateway authority"]
    for secret in its.values():
        assert secret not in str(done)


@pytest.mark.parametrize(("own", "names"), [
    ("203.0.113.1", ["gateway.winterthur.example", "203.0.113.1", "192.0.2.10"]),
    ("192.0.2.10", ["gateway.winterthur.example", "192.0.2.10"]),
    ("vpn@winterthur.example", ["gateway.winterthur.example", "vpn@winterthur.example", "192.0.2.10"]),
    ("CN=gateway", None),
])
def test_a_gateways_certificate_has_every_identity_that_a_peer_is_told(authority, own, names):
    file = authority.pillar / "sites/winterthur.sls"
    file.write_text(file.read_text().replace("initiate: false", f"local: {{id: {own}}}", 1))
    done = authority.issue_gateway("winterthur")
    if names is None:
        assert "CN=gateway can not be the gateway's identity" in done["mistakes"][0]
    else:
        assert done["certificate"]["names"] == names


def test_profiles(authority):
    authority.issue_roadwarrior("winterthur", "anna")
    key, certificate, chain = opened(authority)
    assert chain == [root(authority)]
    certificate.verify_directly_issued_by(chain[0])
    assert certificate.subject.rfc4514_string() == "CN=anna,OU=winterthur"
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.ExtendedKeyUsageOID.CLIENT_AUTH in uses and x509.ExtendedKeyUsageOID.SERVER_AUTH not in uses
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert key.public_key() == certificate.public_key()
    assert certificate.serial_number.bit_length() > 64


def test_what_expires_soon_is_renewed_once(authority):
    authority.issue_gateway("winterthur")
    authority.issue_roadwarrior("winterthur", ["anna", "bert", "carl"])
    authority.revoke("winterthur", "carl")
    assert authority.renew() == {"renewed": {}, "retcode": 0}
    old = opened(authority)
    assert set(authority.renew(days=400)["renewed"]["winterthur"]) == {"anna", "bert"}
    new = opened(authority)
    assert new[1].subject == old[1].subject and new[0].public_key() != old[0].public_key()
    assert set(authority.renew(days=800)["renewed"]["winterthur"]) == {"gateway.winterthur.example", "anna", "bert"}


def test_a_full_disk_leaves_nothing_behind(authority, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device", "somewhere")
    authority.issue_roadwarrior("winterthur", "anna")
    before = files(authority.folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = authority.issue_roadwarrior("winterthur", "anna")
    assert done["mistakes"] == ["authority: somewhere: No space left on device; `authority.list` says what was "
                                "issued before"]
    assert files(authority.folder) == before
    with monkeypatch.context() as patch:          # the journal has room, a bundle has none
        patch.setattr(issue, "note", lambda *_args: None)
        patch.setattr(os, "fsync", full)
        assert authority.issue_roadwarrior("winterthur", "anna")["retcode"] == 1
    assert files(authority.folder) == before
