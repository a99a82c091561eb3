"""A fault that nobody was told of is found, and one that was told is none."""
from __future__ import annotations

import pytest

from lab.storm.calendar import Burst, Made
from lab.storm.schedule import ACTIVE, STANDBY, Planned
from lab.storm.told import TOLD_SECONDS, Told, still_open

NODES = {ACTIVE: "gw1", STANDBY: "gw2"}
LATE = 50.0 + TOLD_SECONDS + 1


def burst(*faults: tuple[str, str], seconds: float = 8, wrong: bool = False) -> Burst:
    return Burst(10, [Made(Planned(0, 0, fault, target, seconds), NODES[target], 11, 20, ["not made"] * wrong)
                      for fault, target in faults], 50)


def said(its: Told, *lines: tuple[str, str], at: float = 15, number: str = "i-1", kind: str = "alert",
         site: str = "winterthur") -> list[str]:
    conditions = [{"node": node, "condition": condition} for node, condition in lines]
    data = {"id": number, "kind": kind, "subject": "s", "conditions": conditions}
    return [each.what for each in its.hear(at, f"gateway/alert/{site}/critical", data)]


def lost(its: Told) -> list[str]:
    return [each.what for each in its.check(LATE)]


def test_a_crash_that_the_other_node_tells_is_told():
    its = Told("winterthur")
    assert said(its, ("gw2", "peer_dead"), ("gw2", "role_changed")) == []
    its.owe(burst(("crash", ACTIVE)), NODES, ["gw2"])
    assert lost(its) == [] and its.owed == []


@pytest.mark.parametrize("lines", [[], [("gw1", "peer_dead")], [("gw2", "link_dead")]])
def test_a_crash_that_nobody_or_the_wrong_node_tells_is_lost(lines):
    its = Told("winterthur")
    said(its, *lines)
    its.owe(burst(("crash", ACTIVE)), NODES, [])
    [violation] = its.check(LATE)
    assert violation.what == "alert lost" and "peer_dead of gw2" in violation.text and "crash on gw1" in violation.text


def test_there_is_time_to_tell_it_until_it_is_late():
    its = Told("winterthur")
    its.owe(burst(("daemon killed", ACTIVE)), NODES, [])
    assert its.check(50 + TOLD_SECONDS - 1) == [] and len(its.owed) == 1
    said(its, ("gw1", "daemon_dead"), at=200, kind="recovery")
    assert lost(its) == []


def test_what_was_told_before_the_burst_does_not_count():
    its = Told("winterthur")
    said(its, ("gw1", "daemon_dead"), at=9)
    its.owe(burst(("daemon killed", ACTIVE)), NODES, [])
    assert lost(its) == ["alert lost"]


def test_another_sites_alert_does_not_count():
    its = Told("winterthur")
    said(its, ("gw1", "daemon_dead"), site="bern")
    its.owe(burst(("daemon killed", ACTIVE)), NODES, [])
    assert lost(its) == ["alert lost"] and its.alerts == 0


def test_a_move_of_the_role_must_be_told_by_the_node_that_has_it():
    its = Told("winterthur")
    said(its, ("gw1", "role_changed"), ("gw1", "bond_down"))
    its.owe(burst(("both NICs", ACTIVE)), NODES, ["gw2"])
    [violation] = its.check(LATE)
    assert "gw2 became active" in violation.text


@pytest.mark.parametrize("its, owed", [
    (burst(("agent killed", ACTIVE)), 0),                          # starts anew at once
    (burst(("crash", ACTIVE), wrong=True), 0),                     # was not made
    (burst(("hang", STANDBY), seconds=2), 0),                      # may be over before anybody notices
    (burst(("daemon killed", ACTIVE), ("crash", ACTIVE)), 1),      # the crash only: the node could not tell the rest
    (burst(("daemon killed", STANDBY), ("crash", ACTIVE)), 2),
    (burst(("crash", STANDBY), ("crash", ACTIVE)), 0),             # nobody was there to see it
    (burst(("one NIC", ACTIVE), ("daemon hung", ACTIVE)), 2)])
def test_what_nobody_could_see_need_not_be_told(its, owed):
    told = Told("winterthur")
    told.owe(its, NODES, [])
    assert len(told.owed) == owed


def test_an_alert_that_comes_twice_is_a_violation():
    its = Told("winterthur")
    assert said(its, ("gw1", "slave_down")) == []
    assert said(its, ("gw1", "slave_down"), number="i-2", kind="update") == []
    assert said(its, ("gw1", "slave_down")) == ["alert repeated"]


def test_what_lasts_is_found_but_for_what_is_always_there():
    incidents = [{"site": "winterthur", "conditions": ["the certificate gateway of gw1 expires: x (warning, since y)",
                                                       "gw1 hears nothing of the other node gw2 (critical, since z)"]},
                 {"site": "bern", "conditions": ["gw1 is dead"]}]
    assert still_open(incidents, "winterthur") == ["gw1 hears nothing of the other node gw2 (critical, since z)"]


def test_what_is_not_needed_any_more_is_forgotten():
    its = Told("winterthur")
    for number in range(500):
        said(its, ("gw1", "slave_down"), at=float(number), number=f"i-{number}")
    its.check(5000)
    assert its.said == []
