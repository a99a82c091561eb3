"""_modules/bonding.py: how bonds are read, and how a change of them is kept or rolled back."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module
from tests.unit.modules.network_node import BARE, BONDED, RECORDED, but


def test_status_of_a_bond_with_arp_monitoring(bonding):
    link = next(link for link in json.loads((RECORDED / "bonded/addr.json").read_text()) if link["ifname"] == "inside")
    status = bonding._bond_status((RECORDED / "bonded/proc-inside").read_text(), link)
    assert status["monitor"] == {"arp_interval": 250, "arp_validate": "none", "arp_targets": ["198.51.100.61"]}
    assert (status["mode"], status["active_slave"], status["primary"], status["mii_status"]) == (
        "active-backup", "eth2", "eth2", "up")
    assert status["addresses"] == [
        "198.51.100.11/26", "198.51.100.74/32", "2001:db8:be:1::a/128", "2001:db8:be:1::b/64"]
    assert list(status["slaves"]) == ["eth2", "eth3"]
    assert status["slaves"]["eth3"] == {"link": "up", "active": False, "failures": 0, "speed": 10000, "duplex": "full",
                                        "permanent_mac": "02:00:00:00:02:04"}


@pytest.mark.parametrize(("active", "ifup", "network", "manager"), [
    ({"systemd-networkd.service"}, True, True, "networkd"),
    ({"systemd-networkd.service"}, False, False, "networkd"),
    ({"systemd-networkd.service"}, True, False, "ifupdown"),      # runs without any configuration, as on some images
    (set(), True, True, "ifupdown"),
])
def test_what_manages_the_network(bare, monkeypatch, active, ifup, network, manager):
    bare.active = active
    monkeypatch.setattr(bare.module.salt.utils.path, "which", lambda name: ifup)
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: (
        ["10-installer.network"] * network if pattern == "*.network" else real(path, pattern)))
    assert bare.module._manager() == manager


def test_networkmanager_is_refused(bare):
    bare.active = {"NetworkManager.service"}
    with pytest.raises(CommandExecutionError, match="NetworkManager manages"):
        bare.module.plan(BARE)


@pytest.fixture
def glance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """bonding.glance on a node whose bond `name` looks as recorded."""
    def look(recorded: str, name: str, slaves: list[str], carrier: str = "1\n") -> dict:
        module = load_module("_modules/bonding.py")
        module.__salt__ = {}                # it must call no other module
        monkeypatch.setattr(module, "_PROC", tmp_path)
        monkeypatch.setattr(module, "_SYS", tmp_path)
        (tmp_path / name).write_text((RECORDED / recorded).read_text())
        for slave in slaves:
            (tmp_path / slave).mkdir(exist_ok=True)
            (tmp_path / slave / "carrier").write_text(carrier)
        return module.glance([{"name": name, "slaves": slaves}, {"name": "not-there", "slaves": ["eth9"]}])
    return look


def test_a_bond_at_a_glance(glance) -> None:
    up = {"link": "up", "failures": 0, "carrier": True}
    assert glance("bonded/proc-inside", "inside", ["eth2", "eth3", "eth4"]) == {
        "inside": {"mii_status": "up", "active_slave": "eth2", "monitor": "arp", "aggregator": {},
                   "slaves": {"eth2": up, "eth3": up, "eth4": None}},
        "not-there": None}
    assert glance("bonded/proc-outside", "outside", ["eth0"])["outside"]["monitor"] == "miimon"


def test_a_silent_slave_at_a_glance(glance) -> None:
    bond = glance("arp/proc-silent", "ba", ["vc"])["ba"]
    assert (bond["mii_status"], bond["active_slave"], bond["monitor"]) == ("down", "", "arp")
    assert bond["slaves"] == {"vc": {"link": "going back", "failures": 3, "carrier": True}}
    assert glance("arp/proc-silent", "ba", ["vc"], "0\n")["ba"]["slaves"]["vc"]["carrier"] is False


@pytest.mark.parametrize(("recorded", "partner", "aggregator"), [
    ("agreed", "d6:aa:88:af:85:14", "1"),
    ("expired", "", "1"),        # the switch has been silent for one timeout
    ("lost", "", "2"),           # for two timeouts
])
def test_lacp_at_a_glance(glance, recorded: str, partner: str, aggregator: str) -> None:
    bond = glance(f"lacp/proc-{recorded}", "bl", ["va1", "va2"])["bl"]
    assert bond["aggregator"] == {"number": "1", "partner": "d6:aa:88:af:85:14"}
    assert bond["slaves"]["va1"]["partner"] == "d6:aa:88:af:85:14" and bond["slaves"]["va1"]["aggregator"] == "1"
    its = bond["slaves"]["va2"]
    assert (its["link"], its["partner"], its["aggregator"]) == ("up", partner, aggregator)
    assert its["churn"] == ["monitoring", "monitoring"]


def test_ifupdown_is_told_what_is_up_in_both_of_its_records(bare, monkeypatch, tmp_path) -> None:
    """Without this, `ifdown bond0` finds it not configured, and a restarted networking.service fails."""
    written = {}
    monkeypatch.setattr(bare.module, "_IFSTATE", str(tmp_path / "ifstate"))
    bare.module.__salt__["commit_confirm.replace_file"] = lambda path, text: written.update({Path(path).name: text})
    bare.module._tell_ifupdown(BARE)
    assert written == {}, "networkd's host has none"
    (tmp_path / "ifstate").write_text("lo=lo\neth2=eth2\nbond0=bond0\n")
    (tmp_path / "ifstate.eth2").write_text("eth2\n")
    bare.module._tell_ifupdown(BARE)
    assert written == {"ifstate": "lo=lo\nbond0=bond0\nbond1=bond1\n", "ifstate.eth2": "", "ifstate.bond0": "bond0\n",
                       "ifstate.bond1": "bond1\n"}


@pytest.fixture
def guard(bonded, monkeypatch):
    """The bonded node, whose bonds change; what commit_confirm was given, and how a kept change ends."""
    seen: dict = {"systemctl": []}

    def prepare(name: str, files: list, commands: list, afterwards: list, texts: dict) -> list[str]:
        seen.update(files=files, commands=commands, afterwards=afterwards, texts=texts)
        return ["undo"]

    def guarded(name: str, undo: list, change: object, keep: Callable, *_: object) -> str:
        try:
            keep()
        except CommandExecutionError as error:
            return str(error)
        return ""

    bonded.module.__salt__.update({
        "commit_confirm.prepare": prepare, "commit_confirm.guarded": guarded,
        "commit_confirm.rolled_back": lambda _name: seen.get("rolled back", False),
        "commit_confirm.keep_original": lambda *_: None, "commit_confirm.replace_file": lambda *_: None})
    monkeypatch.setattr(bonded.module, "_systemctl", lambda *words: seen["systemctl"].append(words))
    monkeypatch.setattr(bonded.module, "_settled", lambda check: True)
    monkeypatch.setattr(bonded.module, "_IFSTATE", f"{bonded.root}/ifstate")
    (bonded.root / "ifstate").write_text("outside=outside\n")
    seen["apply"] = lambda manager: bonded.module.apply(but(BONDED, "inside", mtu=9000), manager)
    return seen


def test_networkd_is_started_again_only_when_its_files_are_back(guard):
    guard["apply"]("networkd")
    programs = [command[0] for command in guard["commands"]]
    assert programs[:2] == ["timeout", "ip"] and "start" not in str(guard["commands"])
    assert [command[:2] for command in guard["afterwards"]] == [["systemctl", "start"]]
    assert guard["texts"]["inverse"] == "link set dev inside mtu 1500\n"


def test_what_ifupdown_has_noted_is_restored_too(guard):
    guard["apply"]("ifupdown")
    names = {Path(path).name for path in guard["files"]}
    assert {"ifstate", "ifstate.inside", "ifstate.eth2", "gateway-inside"} <= names


def test_files_that_come_late_start_no_service(guard):
    guard["rolled back"] = True
    assert "timer has rolled it back" in guard["apply"]("networkd")["problem"]
    assert guard["systemctl"] == []
