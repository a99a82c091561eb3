"""What the documents say is so: sites, commands, messages, links, and the recipes for keys."""
from __future__ import annotations

import ast
import base64
import functools
import ipaddress
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import salt.config
import salt.modules
import salt.runners
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from lab.identities import EncryptedPillar
from tests.conftest import TREE, copy_pillar, load_module
from tests.unit.modules.identities import Authority

DOCUMENTS = sorted([*TREE.glob("*.md"), *(TREE / "docs").glob("*.md"),
                    *(TREE / "pillar").rglob("*.md")])
INSTALL = (TREE / "docs/install.md").read_text()
# Salt's names for modules whose file is called otherwise.
FILES = {"service": "systemd_service", "pkg": "aptpkg", "cmd": "cmdmod"}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@functools.cache
def functions(file: Path) -> set[str]:
    """The functions of a Python file by name, also by those that Salt gives them (__func_alias__)."""
    tree = ast.parse(file.read_text())
    aliases = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
               and getattr(node.targets[0], "id", "") == "__func_alias__"]
    names = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    names |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
              if isinstance(target, ast.Name)}
    return names | {alias for mapping in aliases for alias in mapping.values()}


def exists(name: str, own: str, package: object) -> bool:
    """Whether Salt or this tree has a function MODULE.FUNCTION of a kind."""
    module, _, function = name.partition(".")
    here = TREE / own / f"{module}.py"
    theirs = Path(package.__path__[0]) / f"{FILES.get(module, module)}.py"
    return any(file.is_file() and function in functions(file) for file in (here, theirs))


def test_a_name_that_does_not_exist_would_be_found():
    assert exists("gateway.validate", "_runners", salt.runners) and exists("test.ping", "_modules", salt.modules)
    assert not exists("gateway.vallidate", "_runners", salt.runners)
    assert not exists("gateways.role", "_modules", salt.modules)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_call_functions_that_exist(document):
    text = document.read_text()
    runners = re.findall(r"salt-run(?: --?\S+)* ([a-z_]+\.[a-z_]+)", text)
    calls = re.findall(r"salt-call(?: --?\S+)* ([a-z_]+\.[a-z_]+)", text)
    calls += re.findall(r"\bsalt (?:-[A-Za-z] )?(?:'[^']+'|[A-Za-z0-9_.*]+) ([a-z_]+\.[a-z_]+)", text)
    custom = "|".join(path.stem for path in (TREE / "_modules").glob("*.py"))
    mentioned = re.findall(rf"`((?:{custom})\.[a-z_]+)`", text)
    states = {f"{path.stem}.{name}" for path in (TREE / "_states").glob("*.py") for name in functions(path)}
    runners_too = {f"{path.stem}.{name}" for path in (TREE / "_runners").glob("*.py") for name in functions(path)}
    assert [name for name in runners if not exists(name, "_runners", salt.runners)] == []
    assert [name for name in calls if not exists(name, "_modules", salt.modules)] == []
    assert [name for name in mentioned if not exists(name, "_modules", salt.modules)
            and name not in states | runners_too and not name.endswith((".py", ".conf", ".sls", ".service"))] == []


def sealed(tree: object, key: str = "") -> object:
    """Every encrypted value of an example replaced by one that could be behind it."""
    if isinstance(tree, dict):
        return {name: sealed(value, name) for name, value in tree.items()}
    return ("MIIB" if key == "pkcs12" else "0123456789abcdef") if "BEGIN PGP MESSAGE" in str(tree) else tree


def test_pillar_example_is_a_valid_site_with_its_secrets(gateway, schema):
    text = (TREE / "pillar.example").read_text()
    both = yaml.safe_load(text)
    assert set(both) == {"gateway", "gateway_secrets"} and text.count("BEGIN PGP MESSAGE") == 4
    for node in both["gateway"]["nodes"]:
        assert gateway.find_mistakes(both["gateway"], schema, nodename=node, minion_id=f"{node}.zurich",
                                     secrets=sealed(both["gateway_secrets"])) == []
        assert gateway.derive(both["gateway"], schema, node)["site"] == "zurich"


def test_pillar_example_names_nobody_real():
    text = (TREE / "pillar.example").read_text()
    ranges = [ipaddress.ip_network(each) for each in (
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]          # RFC 5737, RFC 3849
    address = r"\d+\.\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f:]*:[0-9a-f:]*"
    found = [ipaddress.ip_address(each) for each in re.findall(address, text)]
    assert len(found) > 30
    assert [str(each) for each in found if not any(each in network for network in ranges)] == []
    names = re.findall(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]+", re.sub(r"#.*", "", text))
    assert len(names) > 5 and [name for name in names if not name.endswith(".example")] == []      # RFC 2606


def test_sites_in_the_documents_are_valid(gateway, schema, site):
    """The first block of install.md is a whole site, those after it are parts of one."""
    whole, *parts = [yaml.safe_load(block)["gateway"] for block in blocks(INSTALL, "yaml")]
    assert gateway.find_mistakes(whole, schema, nodename="gw1", minion_id="gw1.winterthur") == []
    assert parts
    for part in parts:
        for key, value in part.items():
            assert gateway.find_mistakes({**whole, key: {**whole.get(key, {}), **value}}, schema) == []


PEERS = blocks((TREE / "docs/peers.md").read_text(), "yaml")


@pytest.mark.parametrize("block", PEERS, ids=[re.search(r"connections:\s+(\w+):", each)[1] for each in PEERS])
def test_peers_in_the_documents_are_valid(gateway, schema, site, block):
    """Each with its secret is a part of the example site, and needs all of its lines."""
    part = yaml.safe_load(block)
    (name, connection), = part["gateway"]["connections"].items()
    its = site("winterthur")
    its["connections"][name] = connection
    secrets = {"heartbeat": {"key": "0123456789abcdef"}, **part["gateway_secrets"],
               "certificates": {"gateway": {"pkcs12": "MIIB", "passphrase": ""}}}
    assert gateway.find_mistakes(its, schema, secrets=secrets) == []
    for node in its["nodes"]:
        made = gateway.derive(its, schema, node)["connections"][-1]
        assert made["name"] == name and made["initiate"] == (connection["peer"]["address"] != "any")
    assert len(gateway.find_mistakes(its, schema, secrets={**secrets, "psk": {}})) == 1


def test_all_peers_in_the_documents_are_one_site(gateway, schema, site):
    its = site("winterthur")
    its["connections"] |= {name: each for block in PEERS
                           for name, each in yaml.safe_load(block)["gateway"]["connections"].items()}
    assert len(its["connections"]) == 8 and gateway.find_mistakes(its, schema) == []


def test_the_smallest_site_is_the_smallest(gateway, schema):
    """Nothing can be left out of it."""
    whole = yaml.safe_load(blocks(INSTALL, "yaml")[0])["gateway"]
    for key in set(whole) - {"connections"}:          # without one there is nothing to do, but nothing wrong either
        assert gateway.find_mistakes({name: value for name, value in whole.items() if name != key}, schema), key


@pytest.mark.parametrize("message", [
    fragment for row in re.findall(r"^\| (`.+?) \| .* \| .* \|$", (TREE / "docs/troubleshooting.md").read_text(), re.M)
    for fragment in re.findall(r"``(.+?)``|`([^`]+)`", row)])
def test_messages_that_are_explained_are_printed_by_something(message):
    text = message[0] or message[1]
    if text == "pillar/secrets/SITE.sls":
        return
    folders = ("_modules", "_states", "_runners", "salt", "agent", "sessions", "nodes", "resync", "alerts", "issuing",
               "sites")
    sources = [path for folder in folders for path in (TREE / folder).rglob("*")
               if path.is_file() and path.suffix != ".pyc"]
    assert any(text in path.read_text() for path in sources), text


def test_the_recipes_make_a_certificate_and_secrets_that_are_accepted(tmp_path, gateway, schema):
    """The blocks with openssl and gpg, run as they stand but for the places and Salt's own user."""
    keyring, tree = tmp_path / "keys", tmp_path / "tree"
    (tree / "pillar/secrets").mkdir(parents=True)
    script = "\n".join(block for block in blocks(INSTALL, "sh") if "gpg --homedir" in block or "openssl req" in block)
    assert script.count("openssl") == 5 and "quick-generate-key" in script
    script = script.replace("runuser -u salt -- ", "").replace(" -o salt -g salt", "").replace("chown salt:", "true")
    script = script.replace("/etc/salt/gpgkeys", str(keyring)).replace("/srv/gateway", str(tree))
    script = script.replace("rsa:3072", "rsa:2048").replace("shred -u", "true")      # faster
    # the key first: it stands first in the document too
    assert script.index("quick-generate-key") < script.index("openssl req") < script.index("seal()")
    try:
        subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
        text = (tree / "pillar/secrets/winterthur.sls").read_text()
        assert (tree / "pillar/secrets/winterthur.sls").stat().st_mode & 0o077 == 0
        secrets = decrypted(yaml.safe_load(text), keyring)["gateway_secrets"]
    finally:
        subprocess.run(["gpgconf", "--homedir", keyring, "--kill", "gpg-agent"], check=False)
    site = yaml.safe_load(blocks(INSTALL, "yaml")[0])["gateway"]
    assert gateway.find_mistakes(site, schema, secrets=secrets) == []
    certs = load_module("_modules/certs.py")
    certs.__salt__ = {"pillar.get": lambda *_args, **_more: secrets["certificates"]["gateway"]}
    facts = certs.inspect("gateway_secrets:certificates:gateway", "gateway.winterthur.example")
    assert facts["names"] == ["gateway.winterthur.example"]
    assert [authority["subject"] for authority in facts["authorities"]] == ["CN=Example VPN CA"]
    assert base64.b64decode(secrets["certificates"]["gateway"]["pkcs12"])[:1] == b"\x30"


def decrypted(tree: object, keyring: Path) -> object:
    """Every message in nested mappings, as Salt's gpg renderer gives it."""
    if isinstance(tree, dict):
        return {key: decrypted(value, keyring) for key, value in tree.items()}
    return subprocess.run(["gpg", "--homedir", keyring, "--batch", "--decrypt"], input=tree, capture_output=True,
                          text=True, check=True).stdout


def test_the_commands_of_certificates_md_do_what_it_says(tmp_path, monkeypatch, gateway, schema, site):
    """Every salt-run of the document, in order, on a master of its own; then what a node would make of the result."""
    text = (TREE / "docs/certificates.md").read_text()
    settings = {key: value for block in blocks(text, "yaml") for key, value in yaml.safe_load(block).items()}
    keyring, pillar = tmp_path / "keys", tmp_path / "pillar"
    EncryptedPillar(keyring)
    copy_pillar(pillar)
    (pillar / "secrets/winterthur.sls").write_text("gateway_secrets: {heartbeat: {key: 0123456789abcdef}}\n")
    runners = {name: load_module(f"_runners/{name}.py") for name in ("authority", "gateway", "lists")}
    other = Authority("Example CA")          # another authority, whose list is at the URL
    monkeypatch.setattr(runners["lists"], "_download", lambda url: other.crl(number=7).public_bytes(Encoding.DER))
    monkeypatch.setattr(runners["lists"], "_authorities", lambda *_args: [other.certificate])
    for runner in runners.values():
        monkeypatch.setattr(runner, "__opts__", dict(salt.config.DEFAULT_MASTER_OPTS) | {
            "pillar_roots": {"base": [str(pillar)]}, "file_roots": {"base": [str(TREE / "salt")]},
            "gpg_keydir": str(keyring), "cachedir": str(tmp_path), "extension_modules": str(tmp_path),
            "gateway_authority": settings["gateway_authority"]
            | {"folder": str(tmp_path / "authority")}}, raising=False)
        monkeypatch.setattr(runner, "__context__", {}, raising=False)
    its = site("winterthur")
    its["connections"]["roadwarrior"] |= settings["gateway"]["connections"]["roadwarrior"]
    assert gateway.find_mistakes(its, schema) == []
    lines = [line for block in blocks(text, "sh") for line in block.splitlines() if line.startswith("salt-run ")]
    assert len(lines) >= 8
    try:
        for line in lines:
            module, function = shlex.split(line)[1].split(".")
            words = [yaml.safe_load(word) for word in shlex.split(line)[2:] if "=" not in word]
            named = dict(word.split("=", 1) for word in shlex.split(line)[2:] if "=" in word)
            done = getattr(runners[module], {"list": "list_"}.get(function, function))(*words, **named)
            # validate reads what was issued through Salt's gpg renderer, which has its own idea of the keyring
            assert done["retcode"] == 0 or module == "gateway", (line, done)
        made = {kind: yaml.safe_load((pillar / f"secrets/{kind}/winterthur.sls").read_text())["gateway_secrets"]
                for kind in ("issued", "crls")}
        secrets = {"heartbeat": {"key": "0123456789abcdef"}, "crls": made["crls"]["crls"],
                   "certificates": decrypted(made["issued"]["certificates"], keyring)}
    finally:
        subprocess.run(["gpgconf", "--homedir", keyring, "--kill", "gpg-agent"], check=False)
    assert gateway.find_mistakes(site("winterthur"), schema, secrets=secrets) == []
    certs = load_module("_modules/certs.py")
    certs.__salt__ = {"pillar.get": lambda path, *_args, **_more: functools.reduce(
        dict.get, path.split(":")[1:], secrets)}
    assert certs.inspect("gateway_secrets:certificates:gateway", "gateway.winterthur.example")["key"] == "ec 256"
    assert len(certs._load_crl("gateway_secrets:crls:gateway-authority")) == 1
    assert certs._load_crl("gateway_secrets:crls:example-ca").issuer == other.name
    files = {path.name for path in (tmp_path / "authority/bundles/winterthur/anna").iterdir()}
    rows = re.findall(r"^\| (`.*?) \|", text.split("| --- | --- |")[1], re.M)
    assert files == {name for row in rows for name in re.findall(r"`(\S+)`", row)}, "the document's table of a bundle"
