"""Sites whose nodes do not hear each other while both live, without any I/O.

To one of them that looks like a dead node. Only the master, which both reach, can tell: each says of the other that it
is dead, and each has said something since. A node that said so and died afterwards says nothing any more.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

AGAIN = 10.0  # between two questions to a node


class Change(NamedTuple):
    """The nodes of a site do not hear each other, or do so again."""

    site: str
    apart: bool
    since: float


class Apart:
    """Of all sites."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}

    def look(self, now: float, dead: Mapping[str, Mapping[str, float]], told: Mapping[str, float],
             heard: Mapping[str, float]) -> tuple[list[Change], set[str]]:
        """
        What follows from what is known.

        Args:
            now: the time.
            dead: by site the nodes' minion ids that call the other one dead now, with when the master heard that.
            told: sites that are told to be apart, with since when.
            heard: by minion id when it last said anything true.

        Returns:
            What has changed, and minions to ask for any word.
        """
        changes, ask = [], set()
        both = {site: nodes for site, nodes in dead.items() if len(nodes) == 2}
        for site, nodes in both.items():
            since = max(nodes.values())
            silent = {minion for minion in nodes if heard.get(minion, 0.0) < since}
            if site not in told and not silent:
                changes.append(Change(site, True, since))
            elif site not in told:
                ask |= {minion for minion in silent if now - self._asked.get(minion, 0.0) >= AGAIN}
        changes += [Change(site, False, since) for site, since in told.items() if site not in both]
        self._asked = {minion: at for minion, at in self._asked.items() if now - at < AGAIN} | dict.fromkeys(ask, now)
        return changes, ask
