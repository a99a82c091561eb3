"""What a target gets next out of what waits for it: single alerts while there are few, a digest when there are many.

Nothing is thrown away here: what is over the limit waits a little and is told together. No I/O, the time is given.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alerts.shapes import Message

DIGEST = 5000  # alerts that one digest holds
TOGETHER = 30  # more than that waiting at once: the target is behind, one by one would only make them later


class Limits(NamedTuple):
    """Of one target."""

    site: int = 10  # single alerts of one site
    target: int = 60  # single alerts of all sites
    minutes: float = 10.0  # in that time
    digest_seconds: float = 60.0  # between two digests of what is above that


class Plan(NamedTuple):
    """What to send now: one number alone, several as a digest, or none until `wait` seconds have passed."""

    send: list[int]
    wait: float = 0.0
    group: str | None = None  # of a digest: its site, "" for all


class Limiter:
    """What one target was sent lately."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sent: list[tuple[float, str]] = []
        self._digest: dict[str, float] = {}

    def plan(self, now: float, waiting: Mapping[int, Message]) -> Plan:
        """
        What comes next.

        Args:
            now: seconds, any steady clock.
            waiting: alerts in the order in which they came, by number in the queue.
        """
        span = self.limits.minutes * 60
        self._sent = [(at, site) for at, site in self._sent if now - at < span]
        full = len(self._sent) >= self.limits.target
        counts: dict[str, int] = {}
        for _, site in self._sent:
            counts[site] = counts.get(site, 0) + 1
        if len(waiting) > TOGETHER and self._left(now, "") <= 0:
            return Plan(list(waiting)[:DIGEST], group="")
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
                return Plan(numbers[:DIGEST], group=group)
            wait = min(wait, left)
        return Plan([], wait)

    def _left(self, now: float, group: str) -> float:
        """Seconds until the next digest may go out; not above 0: now."""
        return self._digest[group] + self.limits.digest_seconds - now if group in self._digest else 0.0

    def sent(self, now: float, plan: Plan, site: str) -> None:
        """What was planned has arrived; `site` is that of a single alert."""
        if plan.group is None:
            self._sent.append((now, site))
        else:
            self._digest[plan.group] = now
