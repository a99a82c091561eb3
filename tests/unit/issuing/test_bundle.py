"""What a person gets."""
from __future__ import annotations

import base64
import json
import plistlib
import re

import jinja2
import pytest
import tree_sitter
import tree_sitter_powershell
from cryptography import x509

from issuing import bundle
from tests.conftest import TREE
from tests.unit.issuing.door import opened, root


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


@pytest.mark.parametrize(("subnets", "everything"), [(["198.51.100.0/26"], False), (["0.0.0.0/0"], True)])
def test_windows_sends_everything_only_where_the_site_says_so(subnets, everything):
    template = jinja2.Template((TREE / "salt/openswan/files/client/windows.ps1.jinja").read_text())
    connection = {"local": {"id": "gateway.bern.example", "address": "192.0.2.74", "subnets": subnets}}
    text = template.render(connection=connection, client={"name": "bern", "person": "anna",
                                                          "everything": bundle.everything(connection)})
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
