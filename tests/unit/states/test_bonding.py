"""_states/bonding.py: the state's result for each outcome of the module."""
from __future__ import annotations

from types import ModuleType

from tests.unit.states.guarded import GuardedState


class TestBonding(GuardedState):
    name = "bonding"

    def run(self, state: ModuleType) -> dict:
        return state.applied("bonds", [{"name": "bond0"}])
