"""Who answers for a virtual address, from the watch's lines, and what of it the documents do not allow.

A node answers for an address from its first answer to its last one, if no gap between them is longer than JOIN_SECONDS.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lab.storm.calendar import Calendar, Interval, longest_outside, without

JOIN_SECONDS = 0.65         # three questions for an address, and a little: shorter gaps are no gaps
HOLDER_SECONDS = 1.0        # a node that answers for that long has the role; a shorter time is a leftover answer
STALLS_KEPT_SECONDS = 600.0
ANSWERS_KEPT = 20_000       # some ten minutes


@dataclass(frozen=True)
class Violation:
    """Something that the documents do not allow. `at`: seconds since the epoch."""

    what: str               # in one word or two, for the table
    text: str
    at: float


@dataclass
class Span:
    """A time in which a node answers for an address, in seconds since the epoch."""

    first: float
    last: float
    took_role: bool = False


@dataclass
class Address:
    """What is known of one virtual address."""

    spans: dict[str, Span] = field(default_factory=dict)       # by node
    pinged: float = 0.0                                        # the last answered ping
    silent_told: bool = False
    both_told: set[tuple[float, float]] = field(default_factory=set)
    holder: str = ""


class Invariants:
    """Takes the watch's lines in their order; gives violations when they are known."""

    def __init__(self, calendar: Calendar, nodes: Mapping[str, str], addresses: Iterable[str], begun: float) -> None:
        """`nodes`: by hardware address the node's name. `begun`: from when on the addresses must answer."""
        self.calendar, self.nodes, self.begun = calendar, nodes, begun
        self.addresses = {address: Address(pinged=begun) for address in addresses}
        self.stalls: list[Interval] = []
        self.moves: list[tuple[float, str, str]] = []          # when, address, node
        self.strangers: set[str] = set()
        self._seen: deque[tuple[float, str, str, str]] = deque(maxlen=ANSWERS_KEPT)
        # the longest, in seconds, outside the times in which no node need be able to serve; and in all
        self.longest_silence = dict.fromkeys(self.addresses, 0.0)
        self.longest_both = dict.fromkeys(self.addresses, 0.0)
        self.longest_silence_ever = dict.fromkeys(self.addresses, 0.0)
        self.silence_of_burst = 0.0                            # the longest since begin_figures()
        self.answers = 0

    def begin_figures(self) -> None:
        """A burst begins: its longest silence is counted from now on."""
        self.silence_of_burst = 0.0

    def answer(self, kind: str, at: float, address: str, mac: str) -> list[Violation]:
        """A node has answered: `kind` is `arp` or `ping`."""
        its = self.addresses[address]
        self.answers += 1
        node = self.nodes.get(mac)
        if node is None:
            return self._stranger(mac, address, at)
        self._seen.append((at, address, kind, node))
        found = []
        if kind == "ping" and at > its.pinged:
            found += self._silence(address, its, at, over=True)
            its.pinged, its.silent_told = at, False
        span = its.spans.get(node)
        if span is None or at - span.last > JOIN_SECONDS:
            its.spans[node] = span = Span(at, at)
        span.last = max(span.last, at)
        found += self._both(address, its, node)
        self._role(address, its, node, span)
        return found

    def stall(self, since: float, until: float) -> None:
        """The watch stood still: what it did not ask nobody could answer."""
        self.stalls = [each for each in self.stalls if each[1] > until - STALLS_KEPT_SECONDS] + [(since, until)]

    def tick(self, now: float) -> list[Violation]:
        """A second has passed: sees what is missing."""
        found = []
        for address, its in self.addresses.items():
            found += self._silence(address, its, now, over=False)
            answering = [node for node, span in its.spans.items() if now - span.last <= JOIN_SECONDS]
            if its.holder and its.holder not in answering and len(answering) == 1:
                span = its.spans[answering[0]]
                if span.took_role and now - span.first > HOLDER_SECONDS:
                    self._moved(address, its, answering[0], now)        # it had the role beside the other one
        return found

    def seen(self, since: float, until: float) -> list[str]:
        """Who answered within this time, in words: a line for each node, address and kind without a gap."""
        runs: list[tuple[list[float], str]] = []
        open_runs: dict[str, list[float]] = {}
        for at, address, kind, node in self._seen:
            if since <= at <= until:
                what = f"{node} answered for {address} ({kind})"
                run = open_runs.get(what)
                if run is None or at - run[1] > JOIN_SECONDS:
                    open_runs[what] = run = [at, at]
                    runs.append((run, what))
                run[1] = at
        found = [f"{_clock(first)} - {_clock(last)} {what}" for (first, last), what in runs]
        return found + [f"{_clock(begin)} - {_clock(end)} the watch got no processor" for begin, end in self.stalls
                        if begin <= until and end >= since]

    def moves_since(self, since: float, address: str) -> list[str]:
        """The nodes to which the role of an address moved since then, in order."""
        return [node for at, its, node in self.moves if its == address and at >= since]

    def _stranger(self, mac: str, address: str, at: float) -> list[Violation]:
        if mac in self.strangers:
            return []
        self.strangers.add(mac)
        return [Violation("stranger", f"{mac} answers for {address}, which is no card of a gateway", at)]

    def _silence(self, address: str, its: Address, now: float, over: bool) -> list[Violation]:
        since = max(its.pinged, self.begun)
        if now - since < 0.15:      # the next answer: nothing to judge, ten times a second
            return []
        allowed, excused = self.calendar.may_be_silent(since, now)
        silence = longest_outside(since, now, excused)
        # the watch's own standstills are no silence of the address
        silence = min(silence, without(since, now, [each for each in self.stalls if each[1] > since]))
        if over:
            self.longest_silence[address] = max(self.longest_silence[address], silence)
            self.longest_silence_ever[address] = max(self.longest_silence_ever[address], now - since)
            self.silence_of_burst = max(self.silence_of_burst, now - since)
        if silence <= allowed or its.silent_told:
            return []
        its.silent_told = True
        until = "" if over else ", and goes on"
        return [Violation("nobody answered", f"nobody answered for {address} for {silence:.2f} s since {_clock(since)}"
                          f"{until}; allowed: {allowed:.2f} s", now)]

    def _both(self, address: str, its: Address, node: str) -> list[Violation]:
        found, mine = [], its.spans[node]
        for other, its_span in its.spans.items():
            since, until = max(mine.first, its_span.first), min(mine.last, its_span.last)
            if other == node or since >= until or mine.last - its_span.last > JOIN_SECONDS:
                continue
            allowed, excused = self.calendar.may_both_answer(since, until)
            both = longest_outside(since, until, excused)
            self.longest_both[address] = max(self.longest_both[address], both)
            key = (min(mine.first, its_span.first), since)
            if both > allowed and key not in its.both_told:
                its.both_told.add(key)
                found.append(Violation("two answered", f"{node} and {other} both answered for {address} for "
                                       f"{both:.2f} s since {_clock(since)}; allowed: {allowed:.2f} s", until))
        return found

    def _role(self, address: str, its: Address, node: str, span: Span) -> None:
        if span.took_role or span.last - span.first < HOLDER_SECONDS:
            return
        span.took_role = True
        if its.holder == node:
            return
        if its.holder:
            self._moved(address, its, node, span.first)
        its.holder = node

    def _moved(self, address: str, its: Address, node: str, at: float) -> None:
        its.holder = node
        self.moves.append((at, address, node))


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 100) % 100:02d}"
