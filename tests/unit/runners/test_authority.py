"""The authority on the master: what it issues, writes, remembers and refuses; no secret is in what it returns."""
from __future__ import annotations

import base64
import datetime
import json
import os
import plistlib
import re
import shutil
import subprocess

import jinja2
import pytest
import salt.config
import tree_sitter
import tree_sitter_powershell
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from issuing import files as files_
from issuing import gpg
from lab.identities import EncryptedPillar
from tests.conftest import TREE, copy_pillar, load_module


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpg") / "k"
    EncryptedPillar(folder)
    yield folder
    subprocess.run(["gpgconf", "--homedir", folder, "--kill", "gpg-agent"], check=False)


@pytest.fixture
def bare(tmp_path, keyring):
    """The runner on a master without an authority; `.pillar`, `.folder` and `.policy` are what it works on."""
    return runner_on(tmp_path, keyring)


# once: it keeps the templates it has compiled
RUNNER = load_module("_runners/authority.py")
GPG = RUNNER._gpg


def runner_on(place, keyring):
    runner = RUNNER
    runner.pillar, runner.folder = place / "pillar", place / "authority"
    copy_pillar(runner.pillar)
    runner.policy = {"folder": str(runner.folder)}
    runner.__opts__ = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(runner.pillar)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "gpg_keydir": str(keyring), "gateway_authority": runner.policy}
    runner.__context__ = {}
    # gpg runs once for the same question: the key that is opened for each call, who the recipient is
    runner._gpg = lambda arguments, data: REMEMBERED.get((str(keyring), *arguments, data)) or REMEMBERED.setdefault(
        (str(keyring), *arguments, data), GPG(arguments, data))
    return runner


REMEMBERED: dict[tuple, bytes] = {}


@pytest.fixture(scope="module")
def made(tmp_path_factory, keyring):
    """The folder of an authority that was made once for all tests."""
    maker = runner_on(tmp_path_factory.mktemp("made"), keyring)
    assert maker.create("Test authority")["retcode"] == 0
    return maker.folder


@pytest.fixture
def authority(bare, made):
    """The runner with an authority, a copy of the one that was made."""
    shutil.copytree(made, bare.folder)
    return bare


def decrypted(keyring, text: str) -> bytes:
    return subprocess.run(["gpg", "--homedir", keyring, "--batch", "--quiet", "--decrypt"], input=text.encode(),
                          capture_output=True, check=True).stdout


def opened(authority, name="anna", file=None):
    """A bundle's PKCS#12: key, certificate, chain."""
    folder = authority.folder / "bundles/winterthur"
    data = file or (folder / name / f"{name}.p12").read_bytes()
    return pkcs12.load_key_and_certificates(data, (folder / f"{name}.passphrase").read_bytes().strip())


def root(authority):
    return x509.load_pem_x509_certificate((authority.folder / "authority.pem").read_bytes())


def listed(authority, site="winterthur"):
    text = (authority.pillar / f"secrets/crls/{site}.sls").read_text()
    secrets = yaml.safe_load(text)["gateway_secrets"]
    return x509.load_pem_x509_crl(secrets["crls"]["gateway-authority"].encode()), secrets["revoked"]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_its_key_is_encrypted_and_nobody_elses(authority, keyring):
    assert b"PRIVATE KEY" not in b"".join(files(authority.folder).values())
    assert b"BEGIN PRIVATE KEY" in decrypted(keyring, (authority.folder / "authority.key.gpg").read_text())
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in authority.folder.iterdir()} == {0o600}
    certificate = root(authority)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert certificate.serial_number.bit_length() > 64
    certificate.verify_directly_issued_by(certificate)


def test_gpg_that_hangs_holds_nobody_and_neither_does_its_lock(authority, monkeypatch, tmp_path):
    """It hung under the lock: every later run waited for ever, and said nothing."""
    hangs = tmp_path / "gpg"
    hangs.write_text("#!/bin/sh\ntrap '' TERM\nsleep 60 &\nwhile :; do sleep 0.1; done\n")
    hangs.chmod(0o755)
    before = files(authority.folder)
    with monkeypatch.context() as patch:
        patch.setattr(gpg, "program", lambda: str(hangs))
        patch.setattr(authority, "_gpg", GPG)
        patch.setattr(gpg, "GPG_SECONDS", 0.3)
        told = authority.crl()
    assert told["retcode"] == 1 and len(told["mistakes"]) == 1 and files(authority.folder) == before
    assert re.search(r"gpg --homedir \S+ --decrypt: no answer within 0.3 s, so it was ended; its agent may hang: "
                     r"`gpgconf --homedir \S+ --kill gpg-agent`, then try again", told["mistakes"][0])
    assert authority.crl("winterthur")["retcode"] == 0


def test_a_run_does_not_wait_for_another_for_ever(authority, monkeypatch):
    monkeypatch.setattr(files_, "LOCK_SECONDS", 0.3)
    with authority._locked(authority.folder):
        told = authority.crl()
    assert told["retcode"] == 1 and len(told["mistakes"]) == 1
    assert "lock for 0.3 s; `salt-run jobs.active` shows runs that still go on" in told["mistakes"][0]


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


def test_it_is_made_once(authority):
    before = files(authority.folder)
    again = authority.create("Another")
    assert again["retcode"] == authority.__context__["retcode"] == 1
    assert "there is one in" in again["mistakes"][0]
    assert files(authority.folder) == before


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


def test_a_bundle_is_whole_and_private(authority):
    done = authority.issue_roadwarrior("winterthur", "anna")["issued"]["anna"]
    folder = authority.folder / "bundles/winterthur/anna"
    assert done["bundle"] == str(folder) and done["passphrase"] == f"{folder}.passphrase"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in [*folder.iterdir(), folder.with_suffix(".passphrase")]} == {0o600}
    assert {path.name for path in folder.iterdir()} == set(done["files"]) == {
        "README.txt", "anna.mobileconfig", "anna.p12", "anna.sswan", "authority.pem", "libreswan.conf", "swanctl.conf",
        "windows.ps1"}
    passphrase = folder.with_suffix(".passphrase").read_bytes().strip()
    assert not [path for path in folder.iterdir() if passphrase in path.read_bytes()]
    assert passphrase.decode() not in json.dumps(done)
    assert not list(folder.parent.glob(".*"))


def test_what_apple_gets(authority):
    authority.issue_roadwarrior("winterthur", "anna")
    profile = plistlib.loads((authority.folder / "bundles/winterthur/anna/anna.mobileconfig").read_bytes())
    parts = {each["PayloadType"]: each for each in profile["PayloadContent"]}
    assert set(parts) == {"com.apple.security.pkcs12", "com.apple.security.root", "com.apple.vpn.managed"}
    for each in (profile, *parts.values()):
        assert {"PayloadType", "PayloadVersion", "PayloadIdentifier", "PayloadUUID"} <= set(each)
    ikev2 = parts["com.apple.vpn.managed"]["IKEv2"]
    assert ikev2["PayloadCertificateUUID"] == parts["com.apple.security.pkcs12"]["PayloadUUID"]
    assert (ikev2["RemoteAddress"], ikev2["RemoteIdentifier"]) == ("192.0.2.10", "gateway.winterthur.example")
    assert ikev2["LocalIdentifier"] == "anna.gateway.winterthur.example"
    assert (ikev2["CertificateType"], ikev2["DisableMOBIKE"]) == ("ECDSA256", 1)
    assert "Password" not in parts["com.apple.security.pkcs12"]
    data = parts["com.apple.security.pkcs12"]["PayloadContent"]
    assert bytes.fromhex("060a2a864886f70d010c0103") in data          # pbeWithSHA1And3-KeyTripleDES-CBC, all they read
    assert opened(authority, file=data)[1] == opened(authority)[1]
    assert x509.load_der_x509_certificate(parts["com.apple.security.root"]["PayloadContent"]) == root(authority)


def test_what_android_gets(authority):
    authority.issue_roadwarrior("winterthur", "anna")
    profile = json.loads((authority.folder / "bundles/winterthur/anna/anna.sswan").read_text())
    assert set(profile) == {"uuid", "name", "type", "remote", "local", "ike-proposal", "esp-proposal",
                            "split-tunneling"}
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", profile["uuid"])
    assert profile["type"] == "ikev2-cert"
    assert profile["split-tunneling"] == {"subnets": ["198.51.100.0/26"]}
    assert opened(authority, file=base64.b64decode(profile["local"]["p12"]))[1] == opened(authority)[1]


def test_what_windows_gets(authority):
    """PowerShell as a grammar of it reads it; its commands by name; nothing secret."""
    authority.issue_roadwarrior("winterthur", "anna")
    data = (authority.folder / "bundles/winterthur/anna/windows.ps1").read_bytes()
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    assert not parser.parse(data).root_node.has_error
    assert parser.parse(data.replace(b"Force = $true", b"Force = $true'", 1)).root_node.has_error
    text = data.decode("ascii")
    assert "\r\n" in text and not re.search(r"(?<!\r)\n", text)
    code = "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))
    for command in ("Import-PfxCertificate", "Import-Certificate", "Add-VpnConnection ",
                    "Set-VpnConnectionIPsecConfiguration", "Add-VpnConnectionRoute", "Read-Host"):
        assert command in code
    assert "ConvertTo-SecureString" not in code


@pytest.mark.parametrize("subnets, everything", [(["198.51.100.0/26"], False), (["0.0.0.0/0"], True)])
def test_windows_sends_everything_only_where_the_site_says_so(subnets, everything):
    template = jinja2.Template((TREE / "salt/openswan/files/client/windows.ps1.jinja").read_text())
    text = template.render(client={"name": "bern", "person": "anna"}, connection={
        "local": {"id": "gateway.bern.example", "address": "192.0.2.74", "subnets": subnets}})
    assert ("SplitTunneling = $false" in text, "Add-VpnConnectionRoute" in text) == (everything, not everything)


def test_what_linux_gets(authority, load):
    authority.issue_roadwarrior("bern", "anna", version="4.10")
    folder = authority.folder / "bundles/bern/anna"
    found = load("_modules/ipsec.py").parse((folder / "libreswan.conf").read_text())
    assert all(options["leftcert"] == "anna.bern" for name, options in found.items() if name != "config setup")
    assert "ikev2" in str(found) and "keyexchange" not in str(found)
    text = (folder / "swanctl.conf").read_text()
    tree = swanctl(text)
    connection = tree["connections"]["bern"]
    assert connection["mobike"] == "no" and connection["local"]["id"] == "anna.gateway.bern.example"
    assert tree["secrets"]["pkcs12-anna"] == {"file": "anna.p12"}
    assert {child["remote_ts"] for child in connection["children"].values()} == set(
        re.findall(r"rightsubnet=(\S+)", (folder / "libreswan.conf").read_text()))


def swanctl(text: str) -> dict:
    """strongswan.conf(5): sections in braces, key = value, comments."""
    stack: list[dict] = [{}]
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line.endswith("{"):
            stack.append(stack[-1].setdefault(line[:-1].strip(), {}))
        elif line == "}":
            stack.pop()
        elif line:
            key, value = line.split("=", 1)
            stack[-1][key.strip()] = value.strip()
    assert len(stack) == 1
    return stack[0]


def test_other_clients_files_are_left_out_where_they_could_not_work(authority):
    file = authority.pillar / "sites/winterthur.sls"
    file.write_text(file.read_text().replace("      pool: 198.51.100.192/27\n", ""))
    done = authority.issue_roadwarrior("winterthur", "anna")["issued"]["anna"]
    assert done["files"] == ["README.txt", "anna.p12", "authority.pem", "libreswan.conf"]
    assert "has no pool" in done["left_out"]


def test_a_revoked_one_is_on_every_sites_list(authority):
    authority.issue_gateway("bern")
    authority.issue_roadwarrior("winterthur", ["anna", "bert"])
    first = authority.crl()
    done = authority.revoke("winterthur", "anna", "keyCompromise")
    assert (first["number"], done["number"], done["entries"]) == (1, 2, 1)
    for site, told in (("winterthur", True), ("bern", False)):
        found, revoked = listed(authority, site)
        assert found.is_signature_valid(root(authority).public_key())
        entry = found.get_revoked_certificate_by_serial_number(opened(authority)[1].serial_number)
        assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason == x509.ReasonFlags.key_compromise
        assert found.get_revoked_certificate_by_serial_number(opened(authority, "bert")[1].serial_number) is None
        assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
        assert found.next_update_utc - found.last_update_utc == datetime.timedelta(days=30)
        assert [each["ids"] for each in revoked] == (
            [["CN=anna,OU=winterthur", "anna.gateway.winterthur.example"]] if told else [])
    assert "number" not in authority.issue_roadwarrior("winterthur", "carl")
    assert listed(authority)[1][0]["again"] is False
    # back with a new certificate: the gateways must not end that tunnel, whatever is applied next
    assert authority.issue_roadwarrior("winterthur", "anna")["number"] == 3
    assert listed(authority)[1][0]["again"] is True
    assert authority.revoke("winterthur", "bert")["number"] == 4


def test_a_gateways_only_certificate_is_not_revoked(authority):
    authority.issue_gateway("winterthur")
    before = files(authority.folder)
    refused = authority.revoke("winterthur", "gateway.winterthur.example")
    assert "is the only certificate of gateway.winterthur.example" in refused["mistakes"][0]
    assert files(authority.folder) == before
    newer = authority.issue_gateway("winterthur")["certificate"]["serial"]
    assert newer not in authority.revoke("winterthur", "gateway.winterthur.example", "superseded")["revoked"]


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


def test_the_list_says_it_in_words(authority):
    authority.policy["roadwarrior_days"] = 10
    authority.issue_roadwarrior("winterthur", "anna")
    authority.policy["roadwarrior_days"] = 365
    authority.issue_roadwarrior("winterthur", ["anna", "bert"])
    authority.revoke("winterthur", "bert", "affiliation_changed")
    states = [(each["name"], re.sub(r"\d{4}-\d\d-\d\d", "DATE", each["state"]))
              for each in authority.list_("winterthur")["certificates"]]
    assert states == [("bert", "revoked on DATE (affiliation changed)"), ("anna", "valid for 365 days (DATE)"),
                      ("anna", "valid for 10 days more, renew it (DATE); a newer one was issued")]
    assert authority.list_("bern")["certificates"] == []


@pytest.mark.parametrize("call, expected", [
    (lambda a: a.issue_roadwarrior("winterthur", "Anna"), "'Anna' can be no roadwarrior's name"),
    (lambda a: a.issue_roadwarrior("winterthur", "../anna"), "can be no roadwarrior's name"),
    (lambda a: a.issue_roadwarrior("winterthur", ["anna", 7]), "7 can be no roadwarrior's name"),
    (lambda a: a.issue_roadwarrior("winterthur", []), "no name was given"),
    (lambda a: a.issue_roadwarrior("../x", "anna"), "is no site's name"),
    (lambda a: a.issue_roadwarrior("basel", "anna"), "sites/basel.sls is under none of"),
    (lambda a: a.issue_roadwarrior("winterthur", "anna", "bern"), "has no roadwarrior connection bern"),
    (lambda a: a.revoke("winterthur", "anna"), "winterthur has no certificate of anna"),
    (lambda a: a.revoke("winterthur", "anna", "because"), "reason=because is none of"),
    (lambda a: (a.policy.update(key="rsa512"), a.issue_gateway("winterthur"))[1], "is rsa512; give one of ec256"),
    (lambda a: (a.policy.update(days=1), a.issue_gateway("winterthur"))[1], "gateway_authority:days in the"),
    (lambda a: (a.policy.update(gateway_days="x"), a.issue_gateway("winterthur"))[1], "is x; give a number of days"),
    (lambda a: (a.folder.chmod(0o755), a.issue_gateway("winterthur"))[1], "has to belong to Salt's user alone"),
    (lambda a: (a.policy.update(folder=str(TREE / "salt/x")), a.list_())[1], "which the file server gives"),
    (lambda a: (a.policy.update(folder=str(a.pillar)), a.list_())[1], "make it with `salt-run authority.create`"),
    (lambda a: ((a.folder / "authority.pem").write_text("x"), a.issue_gateway("winterthur"))[1], "no readable cert"),
    (lambda a: ((a.folder / "authority.key.gpg").write_text("x"), a.issue_gateway("winterthur"))[1], "--decrypt fail"),
    (lambda a: ((a.folder / "journal.jsonl").write_text("x\n"), a.list_())[1], "is damaged in line 1"),
])
def test_what_is_refused_is_told_in_one_line_and_changes_nothing(authority, call, expected):
    before = files(authority.folder) | files(authority.pillar)
    result = call(authority)
    assert result["retcode"] == authority.__context__["retcode"] == 1
    assert len(result["mistakes"]) == 1 and expected in result["mistakes"][0], result
    after = files(authority.folder) | files(authority.pillar)
    # but for what the test itself has damaged
    assert {path: data if data.strip() == b"x" else before.get(path) for path, data in after.items()} == after
    assert after.keys() == before.keys()


def test_a_certificate_of_the_operators_own_is_not_covered_up(authority):
    file = authority.pillar / "secrets/winterthur.sls"
    file.write_text("#!yaml|gpg\ngateway_secrets: {certificates: {gateway: {pkcs12: x, passphrase: y}}}\n")
    assert "gives certificates:gateway already" in authority.issue_gateway("winterthur")["mistakes"][0]
    file.write_text("#!yaml|gpg\ngateway_secrets: {certificates: [")
    assert "is not YAML" in authority.issue_gateway("winterthur")["mistakes"][0]


def test_a_full_disk_leaves_nothing_behind(authority, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device", "somewhere")
    authority.issue_roadwarrior("winterthur", "anna")
    before = files(authority.folder)
    with monkeypatch.context() as patch:
        patch.setattr(authority.os, "fsync", full)
        done = authority.issue_roadwarrior("winterthur", "anna")
    assert done["mistakes"] == ["authority: somewhere: No space left on device; `authority.list` says what was "
                                "issued before"]
    assert files(authority.folder) == before
    with monkeypatch.context() as patch:          # the journal has room, a bundle has none
        patch.setattr(authority, "_note", lambda *_args: None)
        patch.setattr(authority.os, "fsync", full)
        assert authority.issue_roadwarrior("winterthur", "anna")["retcode"] == 1
    assert files(authority.folder) == before


def test_links_and_folders_at_the_place_of_a_file(authority, tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    place = authority.pillar / "secrets/issued/winterthur.sls"
    place.parent.mkdir()
    place.symlink_to(target)
    assert authority.issue_gateway("winterthur")["retcode"] == 0
    assert target.read_text() == "untouched" and not place.is_symlink()
    place.unlink()
    place.mkdir()
    assert "is a folder; a file has to be there" in authority.issue_gateway("winterthur")["mistakes"][0]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (authority.folder / "bundles").symlink_to(folder)
    assert "is a link; remove it" in authority.issue_roadwarrior("winterthur", "anna")["mistakes"][0]
    assert not list(folder.rglob("*.p12"))
    (authority.folder / "journal.jsonl").rename(authority.folder / "j")
    (authority.folder / "journal.jsonl").symlink_to(authority.folder / "j")
    assert "journal.jsonl" in authority.issue_gateway("winterthur")["mistakes"][0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 200))
def test_a_line_of_the_journal_that_was_cut_short_never_was(authority, cut):
    """As after a crash in the middle of writing; the next line does not grow on to it."""
    path = authority.folder / "journal.jsonl"
    whole = path.read_bytes()
    entry = json.dumps({"event": "crl", "number": 7, "entries": 0, "padding": "x" * 300}).encode() + b"\n"
    path.write_bytes(whole + entry[:-cut])
    assert authority._journal(authority.folder) == [json.loads(line) for line in whole.splitlines()]
    authority._note(authority.folder, [{"event": "crl", "number": 8}])
    assert authority._journal(authority.folder)[-1] == {"event": "crl", "number": 8}
    path.write_bytes(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=20).map(lambda data: data.decode("latin-1")),
                                st.sampled_from(["{}", "[]", "null", "7", '"event"', '{"event": "crl"}',
                                                 '{"event": 7}', '[{"event": "crl"}]', "{\"event\": \"cr"])),
                      max_size=4))
def test_whatever_stands_in_the_journal_is_read_or_refused(authority, lines):
    (authority.folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines), newline="")
    try:
        assert all("event" in entry for entry in authority._journal(authority.folder))
    except authority.SaltRunnerError as error:
        assert "is damaged in line" in str(error)


def test_runs_at_once_wait_for_each_other(authority):
    """Two processes: no serial or number is lost."""
    child = os.fork()
    for name in ([f"{'a' if child else 'b'}{number}" for number in range(3)]):
        done = authority.issue_roadwarrior("winterthur", name)
        authority.crl("winterthur")
        if done["retcode"]:
            os._exit(1)
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    journal = authority._journal(authority.folder)
    assert [each["number"] for each in journal if each["event"] == "crl"] == list(range(1, 7))
    assert len(authority.list_()["certificates"]) == 6
