"""Finds sites whose two nodes are both alive and do not hear each other. No I/O.

To each node the other one looks dead. Only the master, which both reach, can tell the difference: each node reports the
other as dead, and each has said something since. A node that reported this and then died says nothing any more.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ASK_AGAIN_SECONDS = 10.0  # at least, between two questions to the same node


class Change(NamedTuple):
    """The nodes of a site do not hear each other (`apart`), or hear each other again."""

    site: str
    apart: bool
    since: float  # seconds since 1970


class Apart:
    """Which sites are apart, and which nodes to ask."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}

    def look(self, now: float, dead: Mapping[str, Mapping[str, float]], told: Mapping[str, float],
             heard: Mapping[str, float]) -> tuple[list[Change], set[str]]:
        """
        Compare the reports of the nodes. All times are in seconds since 1970.

        Args:
            now: the time.
            dead: by site, the minion ids of the nodes that report the other node as dead now, each with the time at
                which the master took the report.
            told: the sites that are reported as apart already, each with the time since when.
            heard: by minion id, when the node's last verified event or answer came.

        Returns:
            The sites that became apart or stopped being so, and the minion ids to ask for any answer.
        """
        changes, ask = [], set()
        both = {site: nodes for site, nodes in dead.items() if len(nodes) == 2}
        for site, nodes in both.items():
            since = max(nodes.values())
            silent = {minion for minion in nodes if heard.get(minion, 0.0) < since}
            if site not in told and not silent:
                changes.append(Change(site, True, since))
            elif site not in told:
                ask |= {minion for minion in silent if now - self._asked.get(minion, 0.0) >= ASK_AGAIN_SECONDS}
        changes += [Change(site, False, since) for site, since in told.items() if site not in both]
        self._asked = {minion: at for minion, at in self._asked.items() if now - at < ASK_AGAIN_SECONDS}
        self._asked |= dict.fromkeys(ask, now)
        return changes, ask
