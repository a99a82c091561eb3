"""_states/bonding.py: what each outcome of the module becomes."""
from __future__ import annotations

from types import ModuleType

from tests.unit.states.guarded import GuardedState


class TestBonding(GuardedState):
    name = "bonding"

    def run(self, state: ModuleType) -> dict:
        return state.applied("bonds", [{"name": "bond0"}])
