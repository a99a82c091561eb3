"""The result of a `state.apply` in the lab, for tables and tests."""
from __future__ import annotations

import time
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from lab.laboratory import Lab


@dataclass(frozen=True)
class Applied:
    """One `state.apply`.

    `seconds` is how long it took, `returns` each minion's return by id, `targeted` the ids of the minions that were to
    run it, `ended` when it ended (seconds since the epoch).
    """

    seconds: float
    returns: dict[str, Any]
    targeted: tuple[str, ...]
    ended: float

    @property
    def failed(self) -> dict[str, list[str]]:
        """By minion the comments of failed states. A minion that ran no state has its errors here."""
        # a minion that did not answer has failed too
        found = {minion: ["returned nothing"] for minion in self.targeted if minion not in self.returns}
        for minion, states in self.returns.items():
            if not isinstance(states, dict):
                found[minion] = [str(states)]
                continue
            for state_id, state in states.items():
                if state["result"] is False:
                    found.setdefault(minion, []).append(f"{state_id}: {state['comment']}")
        return found

    @property
    def changed(self) -> dict[str, dict[str, Any]]:
        """By minion and state id the changes."""
        found: dict[str, dict[str, Any]] = {}
        for minion, states in self.returns.items():
            if isinstance(states, dict):
                for state_id, state in states.items():
                    if state["changes"]:
                        found.setdefault(minion, {})[state_id] = state["changes"]
        return found


def apply(lab: Lab, target: str | list[str], *words: str, command: bool = False) -> Applied:
    """Do what `salt TARGET state.apply WORDS` does, and time it. `target` is a pattern, or the ids.

    With `command` the command itself runs, as its user has it: that takes two seconds more.
    """
    patterns, whom = ([target], [target]) if isinstance(target, str) else (target, ["-L", ",".join(target)])
    begun = time.monotonic()
    returns = (lab.master.salt(*whom, "state.apply", *words) if command
               else lab.master.ask(target, "state.apply", *words, timeout=300))
    minions = tuple(name for name, guest in lab.guests.items()
                    if guest.host.master and any(fnmatch(name, pattern) for pattern in patterns))
    return Applied(time.monotonic() - begun, returns, minions, time.time())
