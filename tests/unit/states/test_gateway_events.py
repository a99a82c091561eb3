"""_states/gateway_events.py: the running minion's beacons use the pillar of the run."""
from __future__ import annotations

from types import ModuleType

import pytest

from tests.conftest import give_time, load_module


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch):
    """The state on a node whose beacons use a pillar, and another one after the minion has fetched it."""
    def make(now: str, then: str, test: bool = False) -> tuple[ModuleType, list[str]]:
        module, asked = load_module("_states/gateway_events.py"), []

        def refresh(**_how: object) -> bool:
            asked.append("refresh")
            return True

        give_time(monkeypatch, module, sleep=lambda seconds: None)
        module.__opts__ = {"test": test}
        module.__salt__ = {"gateway_events.pillar_digest": lambda: "new" * 20, "saltutil.refresh_pillar": refresh,
                           "gateway_events.watched_now": lambda: then if asked else now}
        return module, asked
    return make


def test_beacons_that_go_by_this_pillar_are_left_alone(place) -> None:
    module, asked = place("new" * 20, "new" * 20)
    assert module.watched("x") == {"name": "x", "result": True, "changes": {},
                                   "comment": "the beacons use this pillar"}
    assert asked == []


def test_others_are_told_to_fetch_it(place) -> None:
    module, asked = place("", "new" * 20)
    done = module.watched("x")
    assert done["result"] is True and asked == ["refresh"]
    assert done["changes"] == {"pillar of the beacons": {"old": "none", "new": "newnewnewnew"}}


def test_looking_changes_nothing(place) -> None:
    module, asked = place("", "new" * 20, test=True)
    assert module.watched("x")["result"] is None and asked == []


def test_a_run_with_a_pillar_of_its_own_is_no_failure(place) -> None:
    module, _asked = place("master's", "master's")
    done = module.watched("x")
    assert done["result"] is True and done["changes"] == {} and "this run has another" in done["comment"]


def test_a_minion_without_beacons_is_one(place) -> None:
    module, _asked = place("", "")
    done = module.watched("x")
    assert done["result"] is False and "systemctl status salt-minion" in done["comment"]
