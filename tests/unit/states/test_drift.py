"""What a state run hands over to be recorded."""
from __future__ import annotations

import pytest
from salt.exceptions import CommandExecutionError


def low(state: str, name: str, sls: str, fun: str = "managed") -> dict:
    return {"state": state, "fun": fun, "name": name, "__id__": name, "__sls__": sls}


LOWS = [low("file", "/a", "openswan.install"), low("file", "/b", "openswan"), low("file", "/c", "openswan_more"),
        low("file", "/d", "openswan.service")]
WHOLE = low("drift", "gateway", "gateway.record", "completed")


@pytest.fixture
def state(load, monkeypatch):
    module = load("_states/drift.py")
    module.calls = []
    module.pillar = {"gateway_inputs": "digest", "gateway_tree": "tree"}
    module.own_pillar = False

    def record(*arguments):
        module.calls.append(arguments)
        return {"things": 3, "changed": ["file:/a"]}

    monkeypatch.setattr(module, "__opts__", {"test": False}, raising=False)
    monkeypatch.setattr(module, "__lowstate__", LOWS, raising=False)
    monkeypatch.setattr(module, "__running__", outcomes(LOWS[:3]), raising=False)
    monkeypatch.setattr(module, "__salt__", {
        "drift.record": record, "drift.compared": lambda *arguments: module.calls.append(arguments),
        "drift.overridden": lambda: module.own_pillar,
        "pillar.get": lambda key, _default, unmask=False: module.pillar[key] if unmask else "**********"},
        raising=False)
    return module


def outcomes(lows, result=True) -> dict:
    return {f"{each['state']}_|-{each['__id__']}_|-{each['name']}_|-{each['fun']}":
            {"result": result, "__id__": each["__id__"]} for each in lows}


def test_a_formulas_own_states_are_written_down_and_nothing_is_changed(state):
    state.__running__.update(outcomes(LOWS[1:2], False))
    ret = state.recorded("openswan")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert ret["comment"] == "3 things are recorded, 1 of them new."
    # /b failed, /d has not run
    assert state.calls == [("openswan", LOWS[:1], [LOWS[1], LOWS[3]])]


def test_when_only_looking_nothing_is_written(state):
    state.__opts__["test"] = True
    state.__lowstate__ = [*LOWS, WHOLE]
    for ret in (state.recorded("openswan"), state.compared("node"), state.completed("gateway")):
        assert (ret["result"], ret["changes"]) == (True, {})
    assert not state.calls


def test_what_can_not_be_written_down_fails(state):
    def full(*_arguments):
        raise CommandExecutionError("no space left")

    state.__salt__["drift.record"] = full
    ret = state.recorded("openswan")
    assert ret["result"] is False and "no space left" in ret["comment"]


def test_one_formulas_run_compares_nothing(state):
    assert "not a run of the whole gateway" in state.compared("node")["comment"]
    assert "not a run of the whole gateway" in state.completed("gateway")["comment"]
    assert not state.calls


def test_a_whole_run_keeps_its_inputs(state):
    state.__lowstate__ = [*LOWS, WHOLE]
    assert state.compared("node")["result"] and state.completed("gateway")["result"]
    assert state.calls == [(None, ["gateway", "openswan", "openswan_more"], ""),
                           ("digest", ["gateway", "openswan", "openswan_more"], "tree")]


def test_a_run_in_which_something_failed_is_not_taken_for_the_whole(state):
    state.__lowstate__ = [*LOWS, WHOLE]
    state.__running__.update(outcomes(LOWS[1:2], False))
    assert "failed: /b" in state.compared("node")["comment"]
    assert "failed: /b" in state.completed("gateway")["comment"]
    assert not state.calls


def test_a_run_with_a_pillar_of_its_own_says_nothing_of_the_masters(state):
    state.__lowstate__ = [*LOWS, WHOLE]
    state.own_pillar = True
    assert "a pillar of its own" in state.completed("gateway")["comment"]
    assert not state.calls
