"""Finds nodes that have fallen silent. No I/O.

Once a minute one job asks all gateways. A gateway from which nothing comes within 20 s is asked again; if nothing comes
then either, it is silent. Every new event and every answer that the node has signed counts as a sign of life.
"""
from __future__ import annotations

from typing import Any, NamedTuple

ROUND_SECONDS = 60.0  # between two rounds of questions
ANSWER_SECONDS = 20.0  # an answer must come within this time
FIRST_ROUND_SECONDS = 30.0  # after the engine has started: the minions reconnect to their master first


class Change(NamedTuple):
    """A node has fallen silent, or answers again."""

    minion: str
    silent: bool
    since: float  # when it last answered, seconds since 1970; if unknown, when it was first asked


class Presence:
    """Which gateways answer."""

    def __init__(self, now: float, every: float = ROUND_SECONDS, answer: float = ANSWER_SECONDS,
                 first: float = FIRST_ROUND_SECONDS) -> None:
        self._every, self._answer = every, answer
        self._next = now + first
        self._heard: dict[str, float] = {}
        self._asked: tuple[float, int, frozenset[str]] | None = None  # when, how often, whom
        self.silent: dict[str, float] = {}

    def heard(self, now: float, minion: str) -> list[Change]:
        """A verified event or an answer came from a node."""
        self._heard[minion] = now
        if minion in self.silent:
            return [Change(minion, False, self.silent.pop(minion))]
        return []

    def tick(self, now: float, known: frozenset[str]) -> tuple[frozenset[str], list[Change]]:
        """
        Compare what came with what was asked.

        Args:
            now: the time.
            known: the minion ids of all gateways.

        Returns:
            The minion ids to ask now, and the nodes that fell silent or answer again.
        """
        changes = [Change(minion, False, self.silent.pop(minion)) for minion in self.silent.keys() - known]
        if self._asked is not None:
            at, times, whom = self._asked
            if now - at < self._answer:
                return frozenset(), changes
            missing = frozenset(minion for minion in whom & known if self._heard.get(minion, 0.0) < at)
            self._asked = None
            if times == 1 and missing - self.silent.keys():
                self._asked = now, 2, missing
                return missing, changes
            for minion in sorted(missing - self.silent.keys()):
                if times == 2:
                    self.silent[minion] = self._heard.get(minion, at - self._answer)
                    changes.append(Change(minion, True, self.silent[minion]))
        if now >= self._next:
            self._next = now + self._every
            self._heard = {minion: at for minion, at in self._heard.items() if minion in known}
            if known:
                self._asked = now, 1, known
            return known, changes
        return frozenset(), changes

    def state(self) -> dict[str, Any]:
        """What outlives a restart, as JSON."""
        return {"silent": self.silent}

    def restore(self, state: dict[str, Any]) -> None:
        """
        Continue from :meth:`state`.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: `state` is something else.
        """
        self.silent = {str(minion): float(at) for minion, at in state["silent"].items()}
