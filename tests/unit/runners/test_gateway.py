"""The runner: all sites checked, roles, versions, a client's file, the reference."""
from __future__ import annotations

import re

import pytest
import salt.config
import yaml

from lab.identities import Authority, site_secrets
from nodes.answers import NO_MODULE, Answer, explained
from tests.conftest import TREE, copy_pillar, load_module

SECRETS = """\
gateway_secrets:
  heartbeat: {key: 0123456789abcdef}
  certificates: {gateway: {pkcs12: MIIB, passphrase: secret-passphrase}}
"""


@pytest.fixture
def master(tmp_path, monkeypatch):
    """The runner on a master that has a copy of the tree's pillar, secrets included; `.pillar` is the copy."""
    pillar = tmp_path / "pillar"
    copy_pillar(pillar)
    for name in ("bern", "winterthur"):
        (pillar / f"secrets/{name}.sls").write_text(SECRETS)
    opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(pillar)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "cachedir": str(tmp_path), "extension_modules": str(tmp_path)}
    runner = load_module("_runners/gateway.py")
    monkeypatch.setattr(runner, "__opts__", opts, raising=False)
    monkeypatch.setattr(runner, "__context__", {}, raising=False)
    runner.pillar = pillar
    return runner


def test_shipped_sites_are_valid(master):
    assert master.validate() == {"valid": ["bern", "winterthur"], "mistakes": [], "retcode": 0}


def test_a_site_that_is_open_to_the_whole_authority_is_valid_with_a_warning(master):
    """Its certificate says nothing of the site, and the site says nothing of who gets in."""
    identity = site_secrets(Authority(), {"identity": {"id": "gateway.winterthur.example", "certificate": "gateway"},
                                          "connections": []})
    (master.pillar / "secrets/winterthur.sls").write_text(yaml.safe_dump({"gateway_secrets": identity}))
    assert "warnings" not in master.validate("winterthur")
    file = master.pillar / "sites/winterthur.sls"
    file.write_text(re.sub(r" +subject: .*\n", "", file.read_text()))
    said = master.validate("winterthur")
    assert (said["valid"], said["mistakes"], said["retcode"]) == (["winterthur"], [], 0)
    assert len(said["warnings"]) == 1 and said["warnings"][0].startswith(
        "winterthur: gateway:connections:roadwarrior: lets in everybody whom the authority")
    passphrase = identity["certificates"]["gateway"]["passphrase"]
    assert passphrase not in str(said)


def test_a_fresh_clone_has_no_site_and_says_what_to_do(master):
    for file in (master.pillar / "sites").glob("*.sls"):
        file.unlink()
    result = master.validate()
    assert (result["valid"], result["mistakes"], result["retcode"], master.__context__["retcode"]) == ([], [], 0, 0)
    assert "there is no site yet" in result["next"] and f"{master.pillar}/sites/SITE.sls" in result["next"]
    assert (TREE / re.search(r"examples/\S+", result["next"])[0]).is_file()


def test_mistakes_of_all_sites_at_once_and_an_exit_status(master):
    for name in ("bern", "winterthur"):
        file = master.pillar / f"sites/{name}.sls"
        file.write_text(file.read_text().replace("ping_nodes:", "ping_node:"))
    result = master.validate()
    assert result["retcode"] == master.__context__["retcode"] == 1
    assert [line.split(":")[0] for line in result["mistakes"]] == ["bern", "bern", "winterthur", "winterthur"]
    assert "did you mean ping_nodes?" in result["mistakes"][0]


def test_one_site_only(master):
    (master.pillar / "sites/bern.sls").write_text("gateway: {}\n")
    assert master.validate("winterthur")["valid"] == ["winterthur"]


@pytest.mark.parametrize("text, expected", [
    ("gateway: [", "is not YAML"),
    ("", "gateway: is missing"),
    ("- a\n", "gateway: is missing"),
    ("gateway: 7\n", "is a number"),
])
def test_a_broken_file_is_one_mistake(master, text, expected):
    (master.pillar / "sites/bern.sls").write_text(text)
    result = master.validate("bern")
    assert len(result["mistakes"]) == 1 and "\n" not in result["mistakes"][0]
    assert expected in result["mistakes"][0]


@pytest.mark.parametrize("value, expected", [
    ("9" * 5000, "a value is none of its type (Exceeds the limit (4300 digits) for integer string conversion: value "
                 "has 5000 digits)"),
    ("!!bool maybe", "a value is none of its type ('maybe'); put it in quotes if it is meant as text"),
    ("!!int x", "a value is none of its type"), ("0x_", "a value is none of its type"),
    ("[" * 5000, "while increasing flow level"), ("[" * 900 + "]" * 900, "it has hundreds of levels"),
])
def test_a_value_that_yaml_cannot_make_is_one_mistake(master, value, expected):
    file = master.pillar / "sites/bern.sls"
    file.write_text(file.read_text() + f"  time: {{servers: {value}}}\n")
    (line,) = master.validate("bern")["mistakes"]
    assert f"bern.sls: is not YAML: {expected}" in line and "\n" not in line and "sys." not in line


@pytest.mark.parametrize("add, expected", [
    ("# {{ 7 * 7 }}\n", "of pillar/sites/bern.sls has {{, also in a comment a template to Salt; write plain YAML"),
    ("# {# a note #}\n", "of pillar/sites/bern.sls has {#, also in a comment"),
    ("{% if True %}\n{% endif %}\n", "of pillar/sites/bern.sls has {%, also in a comment"),
    ("include: [common]\n", "bern: include: in pillar/sites/bern.sls would change what a node gets"),
    ("gateway_schema: {}\n", "bern: gateway_schema: in pillar/sites/bern.sls would change what a node gets"),
])
def test_what_salt_would_read_otherwise_is_refused(master, add, expected):
    """Salt renders a site file as a template, and what it makes of it may differ from what was checked."""
    file = master.pillar / "sites/bern.sls"
    file.write_text(file.read_text() + add)
    result = master.validate("bern")
    assert len(result["mistakes"]) == add.count("{%") + (add.count("{%") == 0) and result["retcode"] == 1
    assert all(expected in line and line.startswith("bern: ") for line in result["mistakes"])


@pytest.mark.parametrize("first, wrong", [
    ("#!py", 1), ("#!jinja|gpg|yaml", 1), ("#!yaml", 0), ("#!jinja|yaml", 0), ("#!/usr/bin/yaml", 0), ("# }} %} {", 0)])
def test_a_site_file_is_for_the_yaml_renderer(master, first, wrong):
    file = master.pillar / "sites/bern.sls"
    file.write_text(f"{first}\n{file.read_text()}")
    assert len(master.validate("bern")["mistakes"]) == wrong


def test_a_value_that_python_cannot_write_is_one_mistake(master):
    file = master.pillar / "sites/bern.sls"
    file.write_text(file.read_text() + "  time: {servers: [0x" + "9" * 5000 + "]}\n")
    (line,) = master.validate("bern")["mistakes"]
    assert line.startswith("bern: gateway:time:servers: ")


def test_an_emoji_in_a_yaml_comment_is_nothing(master):
    file = master.pillar / "sites/bern.sls"
    file.write_text(f"# \U0001f600\n{file.read_text()}")
    assert master.validate("bern")["mistakes"] == []


@pytest.mark.parametrize("broken", [
    "gateway_secrets: {heartbeat: {key: s3cret-9", "gateway_secrets: {x: " + "9" * 5000 + "}",
    "gateway_secrets: {{ nothing.at.all }}"])
def test_broken_secrets_are_one_mistake_and_not_shown(master, broken):
    (master.pillar / "secrets/bern.sls").write_text(broken + "\n")
    (line,) = master.validate("bern")["mistakes"]
    assert line.startswith("bern: gateway_secrets: Salt can not read secrets/bern.sls (") and "s3cret" not in line


def test_a_site_is_named_like_its_file(master):
    (master.pillar / "sites/bern.sls").rename(master.pillar / "sites/basel.sls")
    (master.pillar / "secrets/bern.sls").rename(master.pillar / "secrets/basel.sls")
    assert any("basel: gateway:site: bern is not the name of the file" in line
               for line in master.validate("basel")["mistakes"])


def test_missing_secrets_are_named_and_present_ones_never_shown(master):
    (master.pillar / "secrets/bern.sls").unlink()
    (master.pillar / "secrets/winterthur.sls").write_text(SECRETS.replace("MIIB", "c2VjcmV0"))
    lines = master.validate()["mistakes"]
    assert any(line.startswith("bern: gateway_secrets:heartbeat:key: is missing; give it in") for line in lines)
    assert any(line.startswith("winterthur: gateway_secrets:certificates:gateway:pkcs12") for line in lines)
    assert "c2VjcmV0" not in str(lines) and "secret-passphrase" not in str(lines)


def test_a_site_that_does_not_exist(master):
    assert "sites/nowhere.sls is under none of" in master.validate("nowhere")["mistakes"][0]


def test_a_client_gets_its_file(master):
    text = master.roadwarrior("winterthur", certificate="laptop")
    for line in ("right=192.0.2.10", "rightid=@gateway.winterthur.example", "leftcert=laptop"):
        assert line in text.split()


@pytest.mark.parametrize(("version", "narrows"), [("5.2", False), ("4.10", True)])
def test_a_roadwarrior_of_libreswan_5_is_no_template(master, version, narrows):
    """One IKE_AUTH without an answer, and its instance was never called again (libreswan issue 3030)."""
    text = master.roadwarrior("winterthur", version=version)
    assert "leftmodecfgclient=yes" in text and ("narrowing=yes" in text) == narrows


@pytest.mark.parametrize("site, connection, expected", [
    ("winterthur", "bern", "winterthur: gateway:connections: no roadwarrior connection bern; known are roadwarrior"),
    ("nowhere", None, "sites/nowhere.sls is under none of"),
    ("basel", None, "basel: gateway:ping_nodes: is missing"),
])
def test_no_file_for_a_client_of_what_is_not_there(master, site, connection, expected):
    text = (master.pillar / "sites/bern.sls").read_text()
    (master.pillar / "sites/basel.sls").write_text(text.replace("site: bern", "site: basel").replace("ping_nodes", "#"))
    result = master.roadwarrior(site, connection)
    assert result["retcode"] == 1 and result["mistakes"][0].startswith(expected)


def test_the_reference_in_docs_is_up_to_date(master):
    assert (TREE / "docs/site-reference.md").read_text(encoding="utf-8") == master.reference(), (
        "run: salt-run --no-color gateway.reference > docs/site-reference.md")


# Who is active

ACCEPTED = ["gw1.winterthur", "gw2.winterthur.example", "gw1.winterthur2", "gw-a.bern", "laptop.winterthur"]


@pytest.fixture
def nodes(master, monkeypatch):
    """A master whose minions answer what is in `.roles`."""
    master.roles_said = {"gw1.winterthur": "active", "gw2.winterthur.example": "standby"}
    monkeypatch.setattr(master, "_accepted", lambda: ACCEPTED)
    monkeypatch.setattr(master, "_ask", lambda minions, function: {
        minion: said for minion, said in master.roles_said.items() if minion in minions})
    return master


def test_a_pair_by_its_roles(nodes):
    assert nodes.pair("winterthur") == {
        "site": "winterthur", "roles": nodes.roles_said, "preferred": "gw1.winterthur", "active": "gw1.winterthur",
        "standby": "gw2.winterthur.example", "mistakes": []}
    assert nodes.roles("winterthur") == nodes.roles_said
    assert nodes.active("winterthur") == "gw1.winterthur"


@pytest.mark.parametrize("first, second, roles, active, mistakes", [
    ("standby", "active", ("standby", "active"), "gw2.winterthur.example", 0),
    ("active", "active", ("split", "split"), "", 2),
    ("active", "split", ("split", "split"), "", 2),
    ("standby", "standby", ("standby", "standby"), "", 2),
    ("active", "stopped", ("active", "stopped"), "gw1.winterthur", 1),
    ("active", "Passed invalid arguments", ("active", "Passed invalid arguments"), "gw1.winterthur", 1),
    (None, "active", ("silent", "active"), "gw2.winterthur.example", 1),
])
def test_what_speaks_against_moving_a_role(nodes, first, second, roles, active, mistakes):
    nodes.roles_said = {minion: role for minion, role in zip(nodes.roles_said, (first, second), strict=True) if role}
    its = nodes.pair("winterthur")
    assert (tuple(its["roles"].values()), its["active"], len(its["mistakes"])) == (roles, active, mistakes)
    assert all(line.startswith("winterthur: gw") for line in its["mistakes"])
    if not active:
        assert nodes.active("winterthur")["retcode"] == 1


# What is installed where

VERSION = (TREE / "VERSION").read_text().strip()


@pytest.fixture
def versions(nodes, monkeypatch):
    """A master with a single site, whose nodes answer what is in `.said`."""
    (nodes.pillar / "sites/bern.sls").unlink()
    nodes.said, nodes.asked = {"gw1.winterthur": VERSION, "gw2.winterthur.example": VERSION}, []

    def ask(minions, function):
        nodes.asked.append((minions, function))
        return {minion: said for minion, said in nodes.said.items() if said is not None}

    monkeypatch.setattr(nodes, "_ask", ask)
    return nodes


@pytest.mark.parametrize("site", [None, "winterthur"])
def test_the_version_here_and_on_each_node(versions, site):
    assert versions.version(site) == {"master": VERSION, "nodes": versions.said, "mistakes": [], "retcode": 0}
    assert versions.asked == [(list(versions.said), "gateway_version.installed")]


@pytest.mark.parametrize("said, shown", [
    (None, "silent"), ("0.9.11", "0.9.11"), ("'gateway_version.installed' is not available.", "unknown"),
    ("", "unknown"), ("1.0.0\n", "unknown"), ("1.0.0\x1b[2J", "unknown"), ("1.7", "unknown"),
    ("1.0.0" * 1000, "unknown"), ("\u0661.0.0", "unknown"), ("None", "unknown")])
def test_a_node_that_has_no_such_version_is_named(versions, said, shown):
    versions.said["gw2.winterthur.example"] = said
    result = versions.version()
    assert result["nodes"] == {"gw1.winterthur": VERSION, "gw2.winterthur.example": shown}
    assert len(result["mistakes"]) == result["retcode"] == versions.__context__["retcode"] == 1
    assert result["mistakes"][0].startswith("winterthur: gw2.winterthur.example ")
    assert shown in ("silent", said) or not said or said not in str(result)


def test_nodes_are_asked_with_a_time_limit(master, monkeypatch):
    """`False` is what Salt's client has for a minion that did not answer."""
    class Client:
        __enter__, __exit__ = lambda self: self, lambda *_: None

        def cmd(self, *asked, **named):
            self.asked = asked, named
            return {"gw1.winterthur": "1.0.0", "gw2.winterthur": False, "gw3.winterthur": 7}

    client = Client()
    monkeypatch.setattr(master.salt.client, "get_local_client", lambda mopts: client)
    assert master._ask(["gw1.winterthur"], "gateway_version.installed") == {
        "gw1.winterthur": "1.0.0", "gw3.winterthur": "7"}
    assert client.asked == ((["gw1.winterthur"], "gateway_version.installed"), {"tgt_type": "list", "timeout": 15})


def test_roles_are_believed_only_if_their_node_has_signed_them(master, monkeypatch):
    why = explained("gw2.winterthur.example", NO_MODULE)
    monkeypatch.setattr(master, "_accepted", lambda: ACCEPTED)
    monkeypatch.setattr(master, "Keys", lambda _folder: None)
    monkeypatch.setattr(master.asking, "ask", lambda *_args, **_more: master.asking.Said(
        {"gw1.winterthur": Answer("active", "", 0, 0.0)}, {"gw2.winterthur.example": why}))
    its = master.pair("winterthur")
    assert its["standby"] == "" and its["roles"]["gw2.winterthur.example"] == f"silent ({why})"
    assert "saltutil.sync_modules" in its["mistakes"][0]


def test_a_minion_that_was_not_asked_has_no_version(versions):
    versions.said["laptop.winterthur"] = "6.6.6"
    assert "6.6.6" not in str(versions.version())


def test_a_site_with_mistakes_does_not_hide_the_others(versions):
    (versions.pillar / "sites/bern.sls").write_text("gateway: 7\n")
    result = versions.version()
    assert result["nodes"] == versions.said and result["retcode"] == 1 and len(result["mistakes"]) == 1


def test_the_version_of_a_node_without_a_key(versions, monkeypatch):
    monkeypatch.setattr(versions, "_accepted", lambda: ["gw1.winterthur"])
    result = versions.version("winterthur")
    assert list(result["nodes"]) == ["gw1.winterthur"] and "gw2: no minion has an accepted key" in result["mistakes"][0]
    monkeypatch.setattr(versions, "_accepted", list)
    versions.asked.clear()
    assert versions.version("winterthur")["nodes"] == {} and versions.asked == []


@pytest.mark.parametrize("name", ["nowhere", "../secrets/winterthur", "*"])
def test_the_version_of_what_is_no_site(versions, name):
    result = versions.version(name)
    assert (result["nodes"], result["retcode"], len(result["mistakes"])) == ({}, 1, 1)


def test_a_node_without_a_key_is_named(nodes):
    its = nodes.pair("bern")
    assert its["roles"] == {} and its["mistakes"] == [
        "bern: gw-b: no minion has an accepted key; there has to be one, with the id gw-b.bern"]


@pytest.mark.parametrize("name", ["../secrets/winterthur", "winterthur/../bern", "*", "", "a" * 64, None, 7, "g and *"])
def test_a_name_is_checked_before_it_is_a_path_or_a_target(nodes, monkeypatch, name):
    monkeypatch.setattr(nodes, "_find", lambda *_: pytest.fail("looked for"))
    assert "is no site's name" in nodes.pair(name)["mistakes"][0]


def test_a_site_with_mistakes_moves_nothing(nodes):
    file = nodes.pillar / "sites/winterthur.sls"
    file.write_text(file.read_text().replace("ping_nodes:", "ping_node:"))
    its = nodes.pair("winterthur")
    assert its["active"] == "" and "did you mean ping_nodes?" in its["mistakes"][0]
