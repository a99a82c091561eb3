"""_states/firewall.py: what each outcome of the module becomes."""
from __future__ import annotations

from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

CHANGES = {"table inet gateway": {"old": "", "new": "x"}}


@pytest.fixture
def outcome() -> dict:
    """What the execution module would say."""
    return {"changes": CHANGES, "problem": "", "settled": ""}


@pytest.fixture
def state(outcome: dict, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_module("_states/firewall.py")

    def plan(*_: object) -> dict:
        if outcome.get("error"):
            raise CommandExecutionError(outcome["error"])
        return {"changes": outcome["changes"], "manager": "ifupdown"}

    monkeypatch.setattr(module, "__opts__", {"test": False}, raising=False)
    monkeypatch.setattr(module, "__salt__", {
        "commit_confirm.settle": lambda name: outcome["settled"],
        "cmd.has_exec": lambda command: command == "nft",
        "commit_confirm.guarded": None,
        "firewall.render": lambda *_: "table inet gateway { }",
        "firewall.plan": plan,
        "firewall.apply": lambda *_: {"changes": {} if outcome["problem"] else CHANGES, "problem": outcome["problem"]},
    }, raising=False)
    return module


def run(state: ModuleType) -> dict:
    """Run the state."""
    return state.applied("firewall", "salt://firewall/files/ruleset.nft.jinja", {})


def test_changed(state):
    ret = run(state)
    assert ret["result"] is True and ret["changes"] == CHANGES and "master is reached" in ret["comment"]


def test_nothing_to_do(state, outcome):
    outcome["changes"] = {}
    ret = run(state)
    assert ret["result"] is True and ret["changes"] == {}


def test_only_looking_changes_nothing(state):
    state.__opts__["test"] = True
    state.__salt__["firewall.apply"] = state.__salt__["commit_confirm.settle"] = None
    ret = run(state)
    assert ret["result"] is None and ret["changes"] == CHANGES


def test_only_looking_at_a_bare_host_needs_no_nft(state, outcome):
    state.__opts__["test"] = True
    state.__salt__["cmd.has_exec"] = lambda _command: False
    outcome["error"] = "the command nft is missing"
    ret = run(state)
    assert ret["result"] is None and ret["changes"]


def test_undone(state, outcome):
    outcome["problem"] = "no answer from salt port 4506 (after the change); the old one is back"
    ret = run(state)
    assert ret["result"] is False and ret["changes"] == {}
    assert "was undone: no answer from salt port 4506" in ret["comment"] and "docs/network.md" in ret["comment"]


def test_refused_before_anything_changed(state, outcome):
    outcome["error"] = "bond0: this machine has no interface eth8"
    ret = run(state)
    assert ret["result"] is False and ret["changes"] == {} and "was not changed: bond0" in ret["comment"]


def test_what_an_interrupted_run_left_is_mentioned(state, outcome):
    outcome["settled"] = "An interrupted run's unconfirmed change was undone first."
    assert run(state)["comment"].startswith("An interrupted run's")


def test_without_its_module_the_state_is_not_there(state):
    state.__salt__.clear()
    assert state.__virtual__()[0] is False
