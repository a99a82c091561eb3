"""Chooses what a target gets next: single alerts while few wait, a digest when many wait.

Nothing is dropped here: alerts above the limit wait a little and go out together. No I/O; the caller gives the time.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alerts.shapes import Message

MAX_DIGEST_ALERTS = 5000  # in one digest
BEHIND_ALERTS = 30  # when more alerts wait, the target is behind: one by one they would arrive even later


class Limits(NamedTuple):
    """The limits of one target."""

    site: int = 10  # single alerts of one site ...
    target: int = 60  # ... and of all sites ...
    minutes: float = 10.0  # ... within this time
    digest_seconds: float = 60.0  # between two digests of the alerts above these limits


class Plan(NamedTuple):
    """What to send now: one number as a single alert, several as a digest, or none for `wait` seconds."""

    send: list[int]  # numbers in the queue
    wait: float = 0.0
    group: str | None = None  # of a digest: its site, "" for all sites; None for a single alert


class Limiter:
    """Counts what one target was sent within the last minutes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sent: list[tuple[float, str]] = []
        self._digest: dict[str, float] = {}

    def plan(self, now: float, waiting: Mapping[int, Message]) -> Plan:
        """
        What to send next.

        Args:
            now: the time in seconds, of any steady clock.
            waiting: the alerts that wait, by number in the queue, in the order in which to send them.
        """
        span = self.limits.minutes * 60
        self._sent = [(at, site) for at, site in self._sent if now - at < span]
        full = len(self._sent) >= self.limits.target
        counts: dict[str, int] = {}
        for _, site in self._sent:
            counts[site] = counts.get(site, 0) + 1
        if len(waiting) > BEHIND_ALERTS and self._left(now, "") <= 0:
            return Plan(list(waiting)[:MAX_DIGEST_ALERTS], group="")
        for number, alert in waiting.items():
            if not full and counts.get(alert["site"], 0) < self.limits.site:
                return Plan([number])
        groups: dict[str, list[int]] = {}
        for number, alert in waiting.items():
            groups.setdefault("" if full else alert["site"], []).append(number)
        wait = self.limits.digest_seconds
        for group, numbers in groups.items():
            left = self._left(now, group)
            if left <= 0:
                return Plan(numbers[:MAX_DIGEST_ALERTS], group=group)
            wait = min(wait, left)
        return Plan([], wait)

    def _left(self, now: float, group: str) -> float:
        """Seconds until the next digest may go out; 0 or less: now."""
        return self._digest[group] + self.limits.digest_seconds - now if group in self._digest else 0.0

    def sent(self, now: float, plan: Plan, site: str) -> None:
        """The target has taken what was planned. `site`: of a single alert."""
        if plan.group is None:
            self._sent.append((now, site))
        else:
            self._digest[plan.group] = now
