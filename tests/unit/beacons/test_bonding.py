"""_beacons/bonding.py: what is reported about a node's bonds."""
from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import load_module

UP = {"link": "up", "failures": 0, "carrier": True}
DOWN = {"link": "down", "failures": 1, "carrier": False}


class Node:
    """What the beacon reports on winterthur's gw1: bond0 of eth0 and eth1, bond1 of eth2."""

    def __init__(self, settings: dict, folder: Path) -> None:
        self.module: ModuleType = load_module("_beacons/bonding.py")
        self.module.BOOT_ID = folder / "boot_id"
        self.module.BOOT_ID.write_text("first\n")
        self.settings, self.memory = settings, {}
        self.seen: dict = {
            "bond0": {"mii_status": "up", "active_slave": "eth0", "monitor": "miimon", "aggregator": {},
                      "slaves": {"eth0": dict(UP), "eth1": dict(UP)}},
            "bond1": {"mii_status": "up", "active_slave": "eth2", "monitor": "miimon", "aggregator": {},
                      "slaves": {"eth2": dict(UP)}}}
        self.module.__salt__ = {
            "gateway_events.watched": lambda feature: self.settings, "bonding.glance": lambda bonds: self.seen,
            "gateway_events.memory": lambda beacon: self.memory, "gateway_events.changed": self.changed,
            "gateway_events.validate_config": lambda config: (True, "valid")}

    def changed(self, beacon: str, conditions: dict, once: list, memory: dict) -> list:
        assert beacon == "bonding"
        self.told, self.once, self.memory = conditions, once, copy.deepcopy(memory)
        for each in [*(key.partition(":")[0] for key in conditions), *(each["condition"] for each in once)]:
            assert each in self.module.CONDITIONS
        for key, each in conditions.items():
            assert each["severity"] in self.module.CONDITIONS[key.partition(":")[0]]
        return ["the events"]

    def look(self) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
        assert self.module.beacon([]) == ["the events"]
        return ({key: each["is"] for key, each in self.told.items()},
                [(each["condition"], each["subject"], each["is"]) for each in self.once])

    def slave(self, name: str, **its: object) -> None:
        bond = "bond1" if name == "eth2" else "bond0"
        self.seen[bond]["slaves"][name] |= its


@pytest.fixture
def node(settings, tmp_path: Path) -> Node:
    return Node(settings("winterthur", "gw1"), tmp_path)


def test_bonds_that_are_as_described_have_nothing_to_tell(node: Node) -> None:
    assert node.look() == ({}, [])
    assert node.look() == ({}, [])


def test_a_pulled_cable(node: Node) -> None:
    node.look()
    node.slave("eth0", **DOWN)
    node.seen["bond0"]["active_slave"] = "eth1"
    assert node.look() == ({"slave_down:bond0/eth0": "down"}, [("active_slave_changed", "bond0", "eth1")])
    assert node.told["slave_down:bond0/eth0"]["cause"] == "no carrier"
    assert node.told["slave_down:bond0/eth0"]["facts"]["up"] == ["eth1"]
    assert node.once[0]["cause"] == "eth0 has no link"
    assert node.look() == ({"slave_down:bond0/eth0": "down"}, [])


def test_all_cables_of_a_bond(node: Node) -> None:
    node.look()
    for name in ("eth0", "eth1"):
        node.slave(name, **DOWN)
    node.seen["bond0"]["active_slave"] = ""
    assert node.look() == ({"bond_down:bond0": "down", "slave_down:bond0/eth0": "down",
                            "slave_down:bond0/eth1": "down"}, [])
    node.slave("eth1", link="up", carrier=True)
    node.seen["bond0"]["active_slave"] = "eth1"
    assert node.look() == ({"slave_down:bond0/eth0": "down"}, [("active_slave_changed", "bond0", "eth1")])


@pytest.mark.parametrize(("link", "told"), [
    ("going down", {}), ("going back", {"slave_down:bond0/eth1": "down"}), ("down", {"slave_down:bond0/eth1": "down"})])
def test_delays(node: Node, link: str, told: dict) -> None:
    node.slave("eth1", link=link)
    assert node.look() == (told, [])


def test_an_interface_that_is_off(node: Node) -> None:
    node.slave("eth1", link="down", carrier=None)
    node.look()
    assert node.told["slave_down:bond0/eth1"]["cause"] == "the interface is off"


def test_a_loss_shorter_than_a_look(node: Node) -> None:
    node.slave("eth1", failures=7)
    node.look()
    node.slave("eth1", failures=9)
    assert node.look() == ({}, [("slave_flapped", "bond0/eth1", "up")])
    assert node.once[0]["cause"] == "its link was lost 2 times between two looks"
    assert node.look() == ({}, [])


def test_a_loss_that_is_seen_is_no_flap_when_it_is_over(node: Node) -> None:
    node.look()
    node.slave("eth1", **DOWN)
    assert node.look()[1] == []
    node.slave("eth1", link="up")
    assert node.look() == ({}, [])


def test_a_reboot_is_no_flap(node: Node) -> None:
    node.slave("eth1", failures=2)
    node.look()
    node.module.BOOT_ID.write_text("second\n")
    node.slave("eth1", failures=3)
    node.seen["bond0"]["active_slave"] = "eth1"
    assert node.look()[1] == []


def test_a_flap_while_the_minion_was_restarted_is_told(node: Node) -> None:
    node.look()
    restarted = node.memory
    node.slave("eth1", failures=1)
    node.memory = restarted
    assert node.look()[1] == [("slave_flapped", "bond0/eth1", "up")]


def test_a_slave_that_was_taken_out(node: Node) -> None:
    node.look()
    node.seen["bond0"]["slaves"]["eth0"] = None
    node.seen["bond0"]["active_slave"] = "eth1"
    assert node.look() == ({"slave_missing:bond0/eth0": "not in the bond"}, [("active_slave_changed", "bond0", "eth1")])
    assert node.once[0]["cause"] == "eth0 is no longer in the bond"


def test_a_bond_that_is_not_there(node: Node) -> None:
    node.look()
    node.seen["bond1"] = None
    assert node.look() == ({"bond_missing:bond1": "missing"}, [])
    node.module.BOOT_ID.write_text("second\n")
    assert node.look() == ({"bond_missing:bond1": "missing"}, [])
    assert node.told["bond_missing:bond1"]["after"]


def test_a_bare_host_has_no_bonds_yet(node: Node) -> None:
    node.seen = {"bond0": None, "bond1": None}
    assert node.look() == ({}, []) and node.look() == ({}, [])


def test_another_slave_than_the_primary_although_that_is_up(node: Node) -> None:
    node.seen["bond0"]["active_slave"] = "eth1"
    assert node.look() == ({"not_on_primary:bond0": "eth1"}, [])
    assert node.told["not_on_primary:bond0"]["was"] == "eth0" and node.told["not_on_primary:bond0"]["after"]
    node.slave("eth0", **DOWN)
    assert set(node.look()[0]) == {"slave_down:bond0/eth0"}


def test_carrier_without_an_answer_to_arp(settings, tmp_path: Path) -> None:
    node = Node(settings("bern", "gw-a"), tmp_path)
    node.seen = {"outside": {"mii_status": "up", "active_slave": "enp1s0f0", "monitor": "miimon", "aggregator": {},
                             "slaves": {"enp1s0f0": UP, "enp1s0f1": UP}},
                 "inside": {"mii_status": "up", "active_slave": "enp2s0f0", "monitor": "arp", "aggregator": {},
                            "slaves": {"enp2s0f0": UP, "enp2s0f1": {"link": "down", "failures": 1, "carrier": True}}}}
    assert set(node.look()[0]) == {"arp_silent:inside/enp2s0f1", "slave_down:inside/enp2s0f1"}
    assert node.told["slave_down:inside/enp2s0f1"]["cause"] == (
        "there is carrier, but no ARP target answers (198.51.100.66)")
    node.seen["inside"]["slaves"]["enp2s0f1"]["carrier"] = False
    assert set(node.look()[0]) == {"slave_down:inside/enp2s0f1"}


def test_a_slave_that_is_tried_again_and_again_is_told_once(node: Node) -> None:
    node.seen["bond1"] |= {"monitor": "arp", "active_slave": ""}
    node.look()
    for failures, link in enumerate(("down", "going back", "going down", "going back"), 1):
        node.slave("eth2", link=link, failures=failures)
        told, once = node.look()
        assert told == {"bond_down:bond1": "down", "slave_down:bond1/eth2": "down", "arp_silent:bond1/eth2": "silent"}
        assert once == [] and node.memory["failures"]["bond1/eth2"] is None
    node.slave("eth2", link="up")
    assert node.look() == ({}, [])


def test_lacp(node: Node) -> None:
    node.settings["bonds"][0]["primary"] = ""
    node.seen["bond0"] |= {"aggregator": {"number": "1", "partner": "02:00:00:00:00:09"}, "active_slave": ""}
    good = {"aggregator": "1", "partner": "02:00:00:00:00:09", "churn": ["none", "none"]}
    for name in ("eth0", "eth1"):
        node.slave(name, **good)
    assert node.look() == ({}, [])
    node.slave("eth1", partner="", churn=["churned", "churned"])
    assert node.look() == ({"lacp_partner_lost:bond0/eth1": "lost"}, [])
    node.slave("eth1", partner="02:00:00:00:00:0a", aggregator="2")
    assert node.look() == ({"lacp_churn:bond0/eth1": "churned"}, [])
    assert node.told["lacp_churn:bond0/eth1"]["after"]
    node.slave("eth1", churn=["none", "none"])
    assert node.look() == ({"lacp_churn:bond0/eth1": "churned"}, [])
    assert node.told["lacp_churn:bond0/eth1"]["cause"] == "it is in an aggregation of its own, which is not used"


def test_without_a_site_nothing_is_told(node: Node) -> None:
    node.settings = {}
    assert node.module.beacon([]) == []


def test_without_its_modules_it_does_not_load(node: Node) -> None:
    assert node.module.__virtual__() == "bonding"
    assert node.module.validate([]) == (True, "valid")
    node.module.__salt__ = {}
    assert node.module.__virtual__()[0] is False
