"""The tests for every state that keeps a change only if the master is reached afterwards."""
from __future__ import annotations

from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

CHANGES = {"it": {"old": "", "new": "x"}}


class GuardedState:
    """The outcomes of the execution module, and the state's result for each. Both modules are called `name`."""

    name: str

    def run(self, state: ModuleType) -> dict:
        """Run the state."""
        raise NotImplementedError

    @pytest.fixture
    def outcome(self) -> dict:
        """The outcome of the execution module."""
        return {"changes": CHANGES, "problem": "", "settled": ""}

    @pytest.fixture
    def state(self, outcome: dict, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        """The state module, with an execution module that has this outcome."""
        module = load_module(f"_states/{self.name}.py")

        def plan(*_: object) -> dict:
            if outcome.get("error"):
                raise outcome.get("kind", CommandExecutionError)(outcome["error"])
            return {"changes": outcome["changes"], "manager": "ifupdown"}

        monkeypatch.setattr(module, "__opts__", {"test": False}, raising=False)
        monkeypatch.setattr(module, "__salt__", {
            "commit_confirm.settle": lambda name: outcome["settled"],
            "commit_confirm.guarded": None,
            "cmd.has_exec": lambda command: command == "nft",
            "firewall.render": lambda *_: "table inet gateway { }",
            f"{self.name}.plan": plan,
            f"{self.name}.apply": lambda *_: {"changes": {} if outcome["problem"] else CHANGES,
                                              "problem": outcome["problem"]},
        }, raising=False)
        return module

    def test_changed(self, state):
        ret = self.run(state)
        assert ret["result"] is True and ret["changes"] == CHANGES and "master is reached" in ret["comment"]

    def test_nothing_to_do(self, state, outcome):
        outcome["changes"] = {}
        ret = self.run(state)
        assert ret["result"] is True and ret["changes"] == {}

    def test_only_looking_changes_nothing(self, state):
        state.__opts__["test"] = True
        state.__salt__[f"{self.name}.apply"] = state.__salt__["commit_confirm.settle"] = None
        ret = self.run(state)
        assert ret["result"] is None and ret["changes"] == CHANGES

    def test_undone(self, state, outcome):
        outcome["problem"] = "no answer from salt port 4506 (after the change); the old one is back"
        ret = self.run(state)
        assert ret["result"] is False and ret["changes"] == {}
        assert "was undone: no answer from salt port 4506" in ret["comment"] and "docs/network.md" in ret["comment"]

    @pytest.mark.parametrize("kind", [CommandExecutionError, OSError])
    def test_refused_before_anything_changed(self, state, outcome, kind):
        outcome.update(error="bond0: this machine has no interface eth8", kind=kind)
        ret = self.run(state)
        assert ret["result"] is False and ret["changes"] == {} and "was not changed: bond0" in ret["comment"]

    def test_what_an_interrupted_run_left_is_mentioned(self, state, outcome):
        outcome["settled"] = "An interrupted run's unconfirmed change was undone first."
        assert self.run(state)["comment"].startswith("An interrupted run's")

    def test_without_its_module_the_state_is_not_there(self, state):
        state.__salt__.clear()
        assert state.__virtual__()[0] is False
