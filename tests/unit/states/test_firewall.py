"""_states/firewall.py: the state's result for each outcome of the module."""
from __future__ import annotations

from types import ModuleType

from tests.unit.states.guarded import GuardedState


class TestFirewall(GuardedState):
    name = "firewall"

    def run(self, state: ModuleType) -> dict:
        return state.applied("firewall", "salt://firewall/files/ruleset.nft.jinja", {})

    def test_only_looking_at_a_bare_host_needs_no_nft(self, state, outcome):
        state.__opts__["test"] = True
        state.__salt__["cmd.has_exec"] = lambda _command: False
        outcome["error"] = "the command nft is missing"
        ret = self.run(state)
        assert ret["result"] is None and ret["changes"]
