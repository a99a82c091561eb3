"""What the drift beacon reports."""
from __future__ import annotations

import pytest


@pytest.fixture
def beacon(load, monkeypatch):
    module = load("_beacons/drift.py")
    module.found = {"conditions": {"file_changed:/a": {"is": "other contents"}}, "unknown": ["firewall_changed"]}
    module.told = []
    module.watched = {"node": "gw1"}

    def changed(name, conditions, once=(), unknown=(), memory=None):
        module.told.append((name, conditions, list(unknown)))
        return ["event"]

    monkeypatch.setattr(module, "__salt__", {
        "gateway_events.watched": lambda: module.watched, "drift.glance": lambda: module.found,
        "drift_things.look": None,
        "gateway_events.changed": changed,
        "gateway_events.validate_config": lambda config: (config == [], "said")}, raising=False)
    return module


def test_what_is_different_is_handed_on_with_what_can_not_be_judged(beacon):
    assert beacon.beacon([]) == ["event"]
    assert beacon.told == [("drift", beacon.found["conditions"], ["firewall_changed"])]


def test_nothing_is_said_while_states_are_applied(beacon):
    beacon.found = None
    assert beacon.beacon([]) == [] and not beacon.told


def test_a_site_without_monitoring_is_left_alone(beacon):
    beacon.watched = {}
    assert beacon.beacon([]) == [] and not beacon.told


def test_its_configuration_is_empty(beacon):
    assert beacon.validate([]) == (True, "said")
    assert beacon.validate([{"x": 1}]) == (False, "said")


def test_without_its_modules_it_says_what_is_missing(beacon):
    assert beacon.__virtual__() == "drift"
    del beacon.__salt__["drift.glance"]
    assert "drift.glance is missing" in beacon.__virtual__()[1]
