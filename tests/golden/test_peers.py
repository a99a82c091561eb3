"""A site with every form of identity and of peers' addresses, through the formula: its files, held whole.

What Libreswan makes of these forms was tried with both versions of the daemon (docs/peers.md, "What was tried"). With
GOLDEN=write in the environment the files are written anew; read the difference before you commit it.
"""
from __future__ import annotations

import json
import os
from types import ModuleType

import pytest
import yaml

from peers import settings as peers_settings
from tests.conftest import TREE, load_module
from tests.golden import test_paper as paper

HERE = TREE / "tests/golden/peers"
SITE = yaml.safe_load((TREE / "tests/golden/peers.sls").read_text(encoding="utf-8"))["gateway"]
AWS = ["first of two", "second of two"]
PSK = {"azure": "of azure", "aws": AWS, "fortigate": "of fortigate", "mail": "of mail", "dsl": "of dsl",
       "home": "of home"}
SECRETS = {"heartbeat": {"key": "0123456789abcdef"}, "psk": PSK,
           "certificates": {"gateway": {"pkcs12": "MIIB", "passphrase": ""}}}


@pytest.fixture
def settings() -> dict:
    return paper.GATEWAY.derive(SITE, paper.SCHEMA, "gw1")


def ipsec(version: str) -> ModuleType:
    module = load_module("_modules/ipsec.py")
    module.version = lambda: version
    module.__salt__ = {"certs.inspect": lambda name: {"key": "ec 256", "subject": "CN=gateway.zug.example,OU=zug"}}
    return module


def held(name: str, text: str) -> None:
    file = HERE / name
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), f"{file} differs; see the top of this module"


def test_the_site_and_its_secrets_are_valid():
    assert paper.GATEWAY.find_mistakes(SITE, paper.SCHEMA, "gw1", SECRETS, "gw1.zug") == []


@pytest.mark.parametrize("version", ["4.10", "5.2"])
def test_ipsec_conf(settings, version):
    sections = ipsec(version).sections(settings)
    text = paper.rendered("openswan/files/ipsec.conf.jinja", paper.MASTER, {"site": "zug", "sections": sections})
    held(f"ipsec.conf-{version}.txt", text)
    assert {name: options for name, options in ipsec(version).parse(text).items() if name != "config setup"} == {
        name: {key: value.strip('"') for key, value in options.items()}
        for name, options in sections.items() if name != "config setup"}


def test_ipsec_secrets(settings, monkeypatch):
    functions = {"pillar.get": lambda path, **_: PSK[path.removeprefix("gateway_secrets:psk:")]}
    monkeypatch.setattr(paper, "functions", lambda _node: functions)
    secrets = ipsec("5.2").shared_secrets(settings)
    held("ipsec.secrets.txt", paper.rendered("openswan/files/ipsec.secrets.jinja", "gw1", {"secrets": secrets}))


@pytest.mark.parametrize("version", ["4.10", "5.2"])
def test_what_gateway_peers_calls(settings, version):
    """Its own reader accepts what the formula writes."""
    text = json.dumps(ipsec(version).tried(settings), indent=1) + "\n"
    held(f"gateway-peers-{version}.json.txt", text)
    aws, home = peers_settings.parse(text)
    assert [(place.id, place.host) for place in aws.places] == [(each, each) for each in SITE["connections"]["aws"][
        "peer"]["address"]]
    assert list(aws.tunnels) == ["aws/1", "aws/2"] and aws.patience == 15 and home.patience == 20
    assert all(not {"right", "rightid"} & options.keys() for each in (aws, home) for options in each.tunnels.values())


@pytest.mark.parametrize(("site", "installed", "included"), [
    (SITE, False, [".install", ".certificates", ".configuration", ".service", ".peers"]),
    (SITE, True, [".install", ".certificates", ".configuration", ".service", ".peers"]),
    (paper.SITE, True, [".install", ".certificates", ".configuration", ".service", ".peers_off"]),
    (paper.SITE, False, [".install", ".certificates", ".configuration", ".service"]),
])
def test_gateway_peers_runs_only_where_there_is_somebody_to_look_for(monkeypatch, site, installed, included):
    its = paper.GATEWAY.derive(site, paper.SCHEMA, next(iter(site["nodes"])))
    functions = {"gateway.settings": lambda: its, "ipsec.tried": ipsec("5.2").tried,
                 "file.file_exists": lambda path: installed}
    monkeypatch.setattr(paper, "functions", lambda _node: functions)
    assert yaml.safe_load(paper.rendered("openswan/init.sls", "", {}))["include"] == included
    states = paper.states("openswan/peers")
    told = peers_settings.parse(states["/etc/ipsec.d/gateway-peers.json"]["contents"])
    assert [each.name for each in told] == (["aws", "home"] if site is SITE else [])
    assert states["gateway-peers"]["enable"] is True
    assert paper.states("openswan/peers_off")["gateway-peers"]["enable"] is False


def test_who_calls(settings):
    """heartbeat's script and the agent call what the daemon itself can call; gateway-peers the others."""
    assert {each["connection"]: each["initiate"] for each in ipsec("5.2").tunnels(settings)} == {
        "roadwarrior": False, "azure": True, "aws": True, "fortigate": True, "mail": True, "partner": True,
        "dsl": False, "shop": False, "home": False}


def test_the_firewall_lets_their_networks_through_and_ike_in_from_everywhere(settings):
    firewall = load_module("_modules/firewall.py")
    firewall.__salt__ = {"ipsec.esp_proposals": load_module("_modules/ipsec.py").esp_proposals,
                         "tunnel_sizes.segment": load_module("_modules/tunnel_sizes.py").segment}
    rules = firewall.rules(settings)["families"][0]
    remote = {each["name"]: each["remote"] for each in rules["tunnels"]}
    assert remote["dsl"] == ["10.30.0.0/24"] and remote["home"] == ["10.32.0.0/24"]
    assert rules["ike"] == ["192.0.2.10"]
