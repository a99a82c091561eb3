"""_beacons/heartbeat.py: what it reports of the pair, when, and with which severity."""
from __future__ import annotations

import copy
import re
from types import ModuleType

import pytest

from tests.conftest import TREE, load_module

QUIET = {
    "role": "standby", "way": "agent", "running": True, "agent": "answers", "connected": True, "since": "", "cause": "",
    "ready": True, "not_ready_because": "", "epoch": 4, "held": [], "missing": ["192.0.2.10"], "disagree": "",
    "starved": False, "peer": {"node": "gw2", "heartbeat": "active", "role": "active", "clock_offset": -0.05},
    "links": {"bond0": "up", "bond1": "up"}, "ping_nodes": {"192.0.2.1": "up", "198.51.100.2": "up"}}


class Node:
    """The beacon on a node that looks like this, and what it reports."""

    def __init__(self, settings: dict) -> None:
        self.module: ModuleType = load_module("_beacons/heartbeat.py")
        self.now = copy.deepcopy(QUIET)
        self.memory: dict = {"history": "m0", "ran": True, "served": True}
        self.changes: list[dict] = []
        self.mark = "m1"
        self.module.__salt__ = {
            "gateway_events.watched": lambda feature: settings, "heartbeat.glance": lambda: self.now,
            "gateway_events.memory": lambda beacon: self.memory, "gateway_events.changed": self.changed,
            "heartbeat.changes_since": lambda mark: {"mark": self.mark, "changes": self.changes},
            "gateway_events.validate_config": lambda config: (True, "valid")}

    def changed(self, beacon: str, conditions: dict, once: list, unknown: list, memory: dict) -> list:
        assert beacon == "heartbeat"
        self.told, self.once, self.unknown, self.memory = conditions, once, set(unknown), memory
        for each in [*(key.partition(":")[0] for key in conditions), *(each["condition"] for each in once)]:
            assert each in self.module.CONDITIONS
        for key, each in conditions.items():
            assert each["severity"] in self.module.CONDITIONS[key.partition(":")[0]]
        return ["the events"]

    def look(self, **now: object) -> dict[str, str]:
        """The conditions by key, on a node with these differences from a healthy one."""
        self.now = copy.deepcopy(QUIET)
        for key, value in now.items():
            if isinstance(value, dict):
                self.now[key] |= value
            else:
                self.now[key] = value
        assert self.module.beacon([]) == ["the events"]
        return {key: each["is"] for key, each in self.told.items()}


@pytest.fixture
def node(settings) -> Node:
    return Node(settings("winterthur", "gw1"))


def test_a_healthy_pair_reports_nothing(node: Node) -> None:
    assert node.look() == {} and node.once == [] and node.unknown == set()
    assert node.look(role="active", held=["192.0.2.10"], missing=[], peer={"role": "standby"}) == {}


@pytest.mark.parametrize(("now", "key", "word"), [
    ({"running": False}, "heartbeat_stopped:gw1", "stopped"),
    ({"agent": "missing"}, "agent_missing:gw1", "does not answer"),
    ({"agent": "silent"}, "agent_missing:gw1", "does not answer"),
    ({"role": "split"}, "split:gw1", "both active"),
    ({"disagree": "held: none"}, "disagree:gw1", "disagree"),
    ({"ready": False, "not_ready_because": "IPsec daemon hung"}, "not_ready:gw1", "not ready"),
    ({"ping_nodes": {"192.0.2.1": "dead"}}, "ping_node_dead:192.0.2.1", "dead"),
    ({"links": {"bond1": "dead"}}, "link_dead:bond1", "dead"),
    ({"peer": {"clock_offset": 2.5}}, "clock_offset:gw2", "other time"),
    ({"peer": {"clock_offset": -2.5}}, "clock_offset:gw2", "other time"),
    ({"starved": True}, "starved:gw1", "stands still again and again"),
    ({"role": "active", "sessions": "no connection with gw2"}, "sessions_lost:gw1", "not copied"),
    ({"peer": {"role": "standby"}}, "none_active:winterthur", "nobody active"),
    ({"peer": {"role": "transition"}}, "none_active:winterthur", "nobody active"),
])
def test_each_condition_alone(node: Node, now: dict, key: str, word: str) -> None:
    assert node.look(**now) == {key: word}


def test_tunnels_that_are_not_copied_count_on_the_active_node_and_while_the_other_one_lives(node: Node) -> None:
    assert node.look(sessions="no connection with gw2") == {}
    dead = node.look(role="active", sessions="no connection with gw2", peer={"heartbeat": "dead", "role": "unknown"})
    assert "sessions_lost:gw1" not in dead
    node.look(role="active", sessions="no connection with gw2")
    assert node.told["sessions_lost:gw1"]["after"] >= 5 and "no connection" in node.told["sessions_lost:gw1"]["cause"]


def test_a_dead_peer_is_not_blamed_on_the_paths(node: Node) -> None:
    assert node.look(role="active", peer={"heartbeat": "dead", "role": "unknown", "clock_offset": None},
                     links={"bond0": "dead", "bond1": "dead"}) == {"peer_dead:gw2": "dead"}
    assert node.unknown == {"link_dead", "clock_offset"}


def test_a_path_on_which_nothing_has_come_yet_is_given_a_moment(node: Node) -> None:
    """A heartbeat that has just started hears its peer first on one path, then on the other."""
    node.look(links={"bond1": "dead"})
    assert node.told["link_dead:bond1"]["after"] == 2


def test_a_standby_that_does_not_take_over_from_a_dead_peer(node: Node) -> None:
    found = node.look(ready=False, not_ready_because="no carrier on bond0",
                      peer={"heartbeat": "dead", "role": "unknown"})
    assert set(found) == {"peer_dead:gw2", "none_active:winterthur", "not_ready:gw1"}
    assert node.told["none_active:winterthur"]["cause"] == "gw1 is not ready: no carrier on bond0"
    assert node.told["none_active:winterthur"]["after"] == 2


def test_a_silent_agent_or_heartbeat_leaves_the_reported_state(node: Node) -> None:
    node.look(agent="silent")
    assert node.unknown >= {"peer_dead", "link_dead", "ping_node_dead", "none_active", "split", "not_ready"}
    node.look(running=False, agent="")
    assert node.unknown >= {"peer_dead", "link_dead", "ping_node_dead", "none_active"}
    node.look(connected=False, peer={"heartbeat": "unknown", "role": "unknown", "clock_offset": None})
    assert node.unknown == {"peer_dead", "link_dead", "ping_node_dead", "clock_offset", "none_active"}


def test_the_agents_causes_are_where_the_beacon_says() -> None:
    """It named a file from which they had moved: who changes a text there has to find the beacon."""
    source = (TREE / "_beacons/heartbeat.py").read_text()
    comment = source[source.index("# Causes that a person"):source.index("_ASKED = ")]
    texts = {name: (TREE / name).read_text() for name in re.findall(r"agent/\w+\.py", comment)}
    causes = {'f"switch-over, asked for on ', '"asked for by a person', 'f"failback, ', 'f"heartbeat ends on ',
              ' yields"', ' asks"', '"nobody is active"', 'f"taken back: '}
    assert {cause for cause in causes for text in texts.values() if cause in text} == causes
    assert all(any(cause in text for cause in causes) for text in texts.values()), "one of them has none"


def test_each_role_change_in_the_history_is_told_with_its_cause(node: Node) -> None:
    node.changes = [
        {"at": "2026-03-01T00:00:00.000+00:00", "role": "standby", "cause": "no carrier on bond0 of gw1", "epoch": 4},
        {"at": "2026-03-01T00:00:03.000+00:00", "role": "active", "cause": "switch-over, asked for on gw2", "epoch": 5}]
    node.look()
    assert [(each["was"], each["is"], each["severity"], each["cause"], each["since"]) for each in node.once] == [
        ("active", "standby", "critical", "no carrier on bond0 of gw1", "2026-03-01T00:00:00.000+00:00"),
        ("standby", "active", "info", "switch-over, asked for on gw2", "2026-03-01T00:00:03.000+00:00")]
    assert node.memory["history"] == "m1"


def test_changes_before_the_first_look_are_not_reported(node: Node) -> None:
    node.memory = {}
    node.changes = [{"at": "2026-03-01T00:00:00.000+00:00", "role": "active", "cause": "nobody is active", "epoch": 1}]
    node.look()
    assert node.once == [] and node.memory["history"] == "m1"


@pytest.mark.parametrize(("cause", "severity"), [
    ("switch-over, asked for on gw1", "info"), ("asked for by a person, forced: gw2 does not answer", "info"),
    ("failback, gw1 is healthy for 300 s", "info"), ("heartbeat ends on gw1", "info"), ("gw2 yields", "info"),
    ("nobody is active", "warning"), ("taken back: gw2 did not take over within 1 s", "warning"),
    ("nobody is active and nobody is ready; here: no carrier on bond0", "critical"),
    ("heartbeat ends on gw1, gw2 is dead", "critical"), ("gw2 is dead", "critical"),
    ("heartbeat ends on gw1, and nobody takes over: gw2 did not take over within 2 s", "critical"),
    ("gw2 is dead and fenced", "critical"), ("no carrier on bond0 of gw1", "critical"),
    ("1 ping nodes answer on gw1, 2 on gw2", "critical"), ("the IPsec daemon of gw1 is hung", "critical"),
    ("heartbeat did not answer here for 1 s", "critical"), ("something new", "critical"), ("", "critical"),
])
def test_the_severity_of_a_role_change(node: Node, cause: str, severity: str) -> None:
    assert node.module.severity(cause) == severity


def test_in_the_profile_paper_the_role_is_seen_from_the_addresses(node: Node) -> None:
    paper = {"way": "scripts", "agent": "", "peer": {"role": "unknown", "clock_offset": None}}
    node.memory = {}
    node.look(**paper)
    assert node.once == [] and node.memory["role"] == "standby"
    node.look(**paper, role="active")
    assert [(each["was"], each["is"]) for each in node.once] == [("standby", "active")]
    node.look(**paper, role="transition")
    assert node.once == [] and node.memory["role"] == "active"
    assert "none_active" not in str(node.told)


def test_a_pair_that_has_never_run_is_neither_stopped_nor_without_an_active_node(node: Node) -> None:
    node.memory = {}
    assert node.look(running=False, agent="", peer={"heartbeat": "unknown", "role": "unknown"}) == {}
    assert node.look(peer={"role": "standby"}) == {}                        # the first start
    assert node.look() == {} and node.memory["served"]
    assert node.look(peer={"role": "standby"}) == {"none_active:winterthur": "nobody active"}
    assert node.look(running=False, agent="") == {"heartbeat_stopped:gw1": "stopped"}


def test_before_the_first_run_and_without_a_site_nothing_is_told(node: Node) -> None:
    node.now["way"] = ""
    assert node.module.beacon([]) == []
    node.module.__salt__["gateway_events.watched"] = lambda feature: {}
    assert node.module.beacon([]) == []


def test_without_its_modules_it_does_not_load(node: Node) -> None:
    assert node.module.__virtual__() == "heartbeat"
    assert node.module.validate([]) == (True, "valid")
    node.module.__salt__ = {}
    assert node.module.__virtual__()[0] is False
