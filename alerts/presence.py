"""Which nodes have fallen silent, without any I/O.

All gateways are asked once a minute with one publish. One from which nothing has come within 20 s is asked again, and
is silent when nothing comes then either. Anything true counts as a word: an event, an answer.
"""
from __future__ import annotations

from typing import Any, NamedTuple

ROUND_SECONDS = 60.0
ANSWER_SECONDS = 20.0
FIRST_ROUND_SECONDS = 30.0  # after this engine has started: the minions find their master again


class Change(NamedTuple):
    """A node has fallen silent, or speaks again."""

    minion: str
    silent: bool
    since: float  # when it was last heard; when that is not known, when it was first asked


class Presence:
    """Of all gateways."""

    def __init__(self, now: float, every: float = ROUND_SECONDS, answer: float = ANSWER_SECONDS,
                 first: float = FIRST_ROUND_SECONDS) -> None:
        self._every, self._answer = every, answer
        self._next = now + first
        self._heard: dict[str, float] = {}
        self._asked: tuple[float, int, frozenset[str]] | None = None  # when, how often, whom
        self.silent: dict[str, float] = {}

    def heard(self, now: float, minion: str) -> list[Change]:
        """Something true came from it."""
        self._heard[minion] = now
        if minion in self.silent:
            return [Change(minion, False, self.silent.pop(minion))]
        return []

    def tick(self, now: float, known: frozenset[str]) -> tuple[frozenset[str], list[Change]]:
        """
        Time passes.

        Args:
            now: the time.
            known: all gateways that there are now.

        Returns:
            Whom to ask, and what has changed.
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
        Carry on from :meth:`state`.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        self.silent = {str(minion): float(at) for minion, at in state["silent"].items()}
