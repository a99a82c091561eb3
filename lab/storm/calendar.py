"""What was done to the pair, and when: what a silence is judged by, and what a violation shows."""
from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lab.storm import limits
from lab.storm.schedule import Planned

Interval = tuple[float, float]      # from and until, in seconds since the epoch


@dataclass
class Made:
    """A fault that was made on a node. Times are seconds since the epoch, 0 before they have come."""

    planned: Planned
    node: str
    made: float = 0.0
    healed: float = 0.0
    wrong: list[str] = field(default_factory=list)     # what could not be done

    def text(self) -> str:
        """One line for people."""
        at = time.strftime("%H:%M:%S", time.localtime(self.made)) if self.made else "not made"
        until = f"{self.healed - self.made:.1f} s" if self.made and self.healed else "not healed yet"
        wrong = f" ({'; '.join(self.wrong)})" if self.wrong else ""
        return f"{at} {self.planned.fault} on {self.node} ({self.planned.target}), {until}{wrong}"


@dataclass
class Burst:
    """Faults that overlap, from their preparation until the pair is whole again (`end`, 0 before)."""

    begin: float
    faults: list[Made]
    end: float = 0.0
    starved: bool = False      # an agent said that its machine gets too little of the processor

    @property
    def planned(self) -> list[Planned]:
        """Its faults as the schedule has them."""
        return [each.planned for each in self.faults]


class Calendar:
    """All bursts of a storm. Several threads use it."""

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.bursts: list[Burst] = []
        self._lock = threading.Lock()

    def begin(self, faults: list[Made], at: float, starved: bool = False) -> Burst:
        """A burst begins now."""
        burst = Burst(at, faults, starved=starved)
        with self._lock:
            self.bursts.append(burst)
        return burst

    def during(self, since: float, until: float) -> list[Burst]:
        """The bursts that overlap this time, in order."""
        with self._lock:
            return [burst for burst in self.bursts if burst.begin <= until and (not burst.end or burst.end >= since)]

    def may_be_silent(self, since: float, until: float) -> tuple[float, list[Interval]]:
        """How long an address may answer nobody within this time, and when that does not count.

        Returns the limit in seconds, and the times in which no node need be able to serve.
        """
        longest, excused = limits.AT_REST, []
        for burst in self.during(since, until):
            allowed = limits.longest_silence(burst.planned, self.profile, burst.starved)
            if allowed is None:
                excused.append((burst.begin, burst.end or until))
            else:
                longest = max(longest, allowed)
        return longest + limits.LAB_SECONDS, excused

    def may_both_answer(self, since: float, until: float) -> tuple[float, list[Interval]]:
        """How long two nodes may answer for one address, and when that does not count: while both are deaf.

        While one of them is deaf the other one must give way, which takes longer.
        """
        deaf: list[Interval] = []
        longest = limits.BOTH
        for burst in self.during(since, until):
            for one in burst.faults:
                if one.made and one.made < until and (one.healed or until) > since and len(
                        limits.deafened(one.planned)) == 1:
                    longest = limits.ONE_WAY
                for other in burst.faults:
                    hearing = {"active", "standby"} - limits.deafened(one.planned) - limits.deafened(other.planned)
                    if not hearing and one.made and other.made:
                        ends = [each.healed or until for each in (one, other)]
                        deaf.append((max(one.made, other.made), min(ends)))
        return longest + limits.LAB_SECONDS, [each for each in deaf if each[0] < each[1]]

    def said(self, since: float, until: float) -> list[str]:
        """The faults within this time, a line for each."""
        return [made.text() for burst in self.during(since, until) for made in burst.faults
                if not made.healed or made.healed >= since]


def longest_outside(since: float, until: float, intervals: Iterable[Interval]) -> float:
    """The longest part of a time that is in none of the intervals, in seconds."""
    longest, at = 0.0, since
    for begin, end in sorted(intervals):
        longest = max(longest, min(begin, until) - at)
        at = max(at, end)
    return max(longest, until - at)


def without(since: float, until: float, intervals: Sequence[Interval]) -> float:
    """How much of a time is left when what the intervals have of it is taken away, in seconds. They do not overlap."""
    return until - since - sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in intervals)
