"""Decides which events are new, and asks the nodes for missed ones, by the numbers in the nodes' journals. No I/O.

A node numbers its events. An event that comes over the bus in order is taken at once. When a number is missing, this
waits for a moment and then asks the node for it (`gateway_events.since`). It also asks a node when its minion or this
engine has started, and when the node could not sign. With two masters, the one with rank 1 holds each event for a while
and takes only what the other one has not taken.

Each call gets the time in seconds since 1970. The questions to send collect in `asks`.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from alerts.authentic import MASTER, Event

REORDER_SECONDS = 0.3  # events of one minion may overtake each other on their way through the master
ASK_AGAIN_SECONDS = 10.0  # at least, between two questions to one node; doubles while the node does not answer ...
MAX_PAUSE_SECONDS = 300.0  # ... up to this
ANSWER_SECONDS = 15.0  # an answer comes within this time, or not at all
LATE_SECONDS = 6.0  # an event that comes later than this over the bus was held for the other master as well
HOLD_SECONDS = 8.0  # the master with rank 1 waits this long for the other one
# Events of one node that are taken from the bus: a burst, and the rate after it.
BURST_EVENTS, EVENTS_PER_SECOND = 100.0, 10.0
NEWS_SECONDS = 600.0  # older events of a node that this master hears of for the first time are history
# An event of such a node is taken from the bus at once only if it is no older than this, by its own time: anybody who
# has recorded it can send it again. An older one has to be in the node's own signed answer.
FRESH_SECONDS = 60.0
# A node that names a smaller number than known, this long after the last new one, was set back to an earlier state. (A
# late answer comes earlier.)
SET_BACK_SECONDS = 150.0
MAX_OWN_JOURNALS = 8  # journals of this master's own engines that are remembered
JOURNAL_EVENTS = 500  # a node keeps this many events


class Taken(NamedTuple):
    """A new event; `quiet`: the other master has sent an alert of it already."""

    event: Event
    quiet: bool


class Ask(NamedTuple):
    """A question to a node: `what` is `since` (with number and journal), `newest` or `conditions`."""

    what: str
    minion: str
    number: int = 0
    journal: str = ""


@dataclass
class Node:
    """What is known of a node's journal. Times are in seconds since 1970."""

    journal: str = ""
    n: int = 0  # all events up to this number are done
    ahead: set[int] = field(default_factory=set)  # numbers above n that are done
    waiting: dict[int, tuple[float, Event]] = field(default_factory=dict)  # came out of order: by number, since when
    asked: float | None = None  # when `since` was last asked
    wanted: bool = False  # `since` is to be asked as soon as the pause allows
    pause: float = ASK_AGAIN_SECONDS  # between two questions `since`
    moved: float = 0.0  # when n last grew
    doubted: float | None = None  # when its newest number was last asked for
    taken: int = 0  # the last number that a master has taken, by the node's last answer
    tokens: float = BURST_EVENTS  # events that may still come over the bus at once ...
    at: float = 0.0  # ... as counted at this time
    proven: bool = False  # the node itself has named this journal, in a signed answer


class Intake:
    """The journals of all nodes."""

    def __init__(self, rank: int | None = None) -> None:
        """
        Args:
            rank: this master's rank, 0 or 1; None where there is only one master.
        """
        self.rank = rank
        self.nodes: dict[str, Node] = {}
        self.own: dict[str, int] = {}  # by journal of this master's own engines, the newest number
        self.asks: list[Ask] = []
        self.dropped: dict[str, int] = {}
        self.marks: dict[str, int] = {}  # by minion id, the number to report to the node as taken by this master
        self._held: dict[str, list[tuple[float, Event]]] = {}
        self._questioned: dict[str, float] = {}

    def event(self, now: float, event: Event) -> list[Taken]:
        """A verified event from the bus; returns the new events that follow in order."""
        if event.id == MASTER:
            return self._of_master(now, event)
        node = self.nodes.setdefault(event.id, Node(at=now))
        if not node.journal:
            if abs(now - seconds(event.at)) > FRESH_SECONDS:
                self.want(now, event.id)
                return self._drop("old")
            # A new node: its earlier events are not fetched, its present conditions are.
            node.journal, node.n = event.journal, event.n - 1
            self.asks.append(Ask("conditions", event.id))
        if event.journal != node.journal:
            self.want(now, event.id)
            return []
        if event.n <= node.n or event.n in node.ahead or event.n in node.waiting:
            self.curious(now, event.id)  # a replay, or a node that was set back to an earlier state
            return self._drop("repeated")
        if not self._affordable(now, node):
            self.want(now, event.id)
            return self._drop("too many")
        if self.rank == 0 and now - seconds(event.at) > LATE_SECONDS:
            # A minion delivers late what it could not while this master was down. The other master may have sent it.
            self.want(now, event.id)
            return []
        node.waiting[event.n] = now, event
        return self._in_order(now, event.id, node)

    def curious(self, now: float, minion: str) -> None:
        """
        A node's minion has started, or the node could not sign: there may be more in its journal. Any minion can cause
        this call, so it costs no more than one more node in the next question to several nodes.
        """
        node = self.nodes.setdefault(minion, Node(at=now))
        if node.doubted is None or now - node.doubted >= ASK_AGAIN_SECONDS:
            node.doubted, node.pause = now, ASK_AGAIN_SECONDS
            self.asks.append(Ask("newest", minion))

    def has_journal(self, minion: str) -> bool:
        """Whether the node has ever reported an event."""
        return minion in self.nodes and bool(self.nodes[minion].journal)

    def want(self, now: float, minion: str) -> None:
        """Ask a node for missing events, as soon as the pause allows."""
        node = self.nodes.setdefault(minion, Node(at=now))
        node.wanted = True
        self._ask(now, minion, node)

    def newest(self, now: float, minion: str, journal: str, number: int, taken: int) -> list[Taken]:
        """A node's answer to `newest`: journal, its newest number, and the last number that a master has taken."""
        out = self._released(now, minion, taken) if minion in self._questioned else []
        node = self.nodes.get(minion)
        if node is not None:
            node.taken = taken
        if not journal:
            return out  # it has never reported anything
        if node is not None:
            node.pause = ASK_AGAIN_SECONDS  # it answers, and as it should
            node.proven = node.proven or node.journal == journal
        if node is None or not node.journal:
            if node is None:
                self.nodes[minion] = Node(journal, number, at=now, proven=True)
                self.asks.append(Ask("conditions", minion))
            else:
                self.want(now, minion)
        elif node.journal == journal and number < node.n and now - node.moved > SET_BACK_SECONDS:
            # A virtual machine that was set back to an earlier state: its numbers come a second time.
            node.n, node.ahead = number, set()
            self.asks.append(Ask("conditions", minion))
        elif node.journal != journal or number > max([node.n, *node.ahead, *node.waiting]):
            self.want(now, minion)
        return out

    def fetched(self, now: float, minion: str, journal: str, number: int, taken: int, events: list[Event],
                unsigned: bool = False, clock: float | None = None) -> list[Taken]:
        """
        A node's answer to `since`.

        Args:
            now: the time.
            minion: the node.
            journal: the journal's name.
            number: the number of its newest event.
            taken: the last number that a master has reported as taken.
            events: the verified events.
            unsigned: there were further events after them, which the node can not sign yet.
            clock: the node's own time when it answered; None: the same as `now`. Its clock may be wrong.

        Returns:
            The new events.
        """
        node = self.nodes.setdefault(minion, Node(at=now))
        node.asked, node.wanted, node.taken = now, False, taken
        if not unsigned:
            node.pause = ASK_AGAIN_SECONDS
        if not journal:
            return []
        first, node.proven = not node.proven, True
        if node.journal != journal:
            node.journal, node.n, node.ahead, node.waiting = journal, 0, set(), {}
            self.asks.append(Ask("conditions", minion))
            if first:
                # A new node: its old events are not news, its present conditions are. Nor does a replay of what an
                # earlier journal of it had make them news.
                old = [event.n for event in events if (clock or now) - seconds(event.at) > NEWS_SECONDS]
                node.n = max([0, *old])
        out = []
        for event in sorted(events, key=lambda event: event.n):
            if event.id == minion and event.journal == journal and event.n > node.n and event.n not in node.ahead:
                node.waiting.pop(event.n, None)
                out += self._accept(now, event, taken)
        waiting = [event for _, event in node.waiting.values() if event.n <= number]
        for event in sorted(waiting, key=lambda event: event.n):
            out += self._accept(now, event, taken)
        node.waiting = {n: each for n, each in node.waiting.items() if n > number}
        if number > node.n:
            node.n, node.moved = number, now
        node.ahead = {n for n in node.ahead if n > node.n}
        node.wanted = unsigned
        return out + self._in_order(now, minion, node)

    def conditions(self, minion: str, events: list[Event]) -> list[Taken]:
        """A node's answer to `conditions`. The master with rank 1 leaves the alerts to the other one."""
        taken = self.nodes[minion].taken if minion in self.nodes else 0
        return [Taken(event, self.rank == 1 or (self.rank == 0 and event.n <= taken)) for event in events
                if event.id == minion and not event.once and not event.recovered]

    def tick(self, now: float) -> list[Taken]:
        """Returns what is due at this time, and adds the questions that are."""
        out = []
        for minion, node in self.nodes.items():
            if node.waiting:
                out += self._in_order(now, minion, node)
            if node.wanted:
                self._ask(now, minion, node)
        for minion, held in self._held.items():
            if minion not in self._questioned and held[0][0] + HOLD_SECONDS <= now:
                self._questioned[minion] = now
                self.asks.append(Ask("newest", minion))
        for minion in [minion for minion, at in self._questioned.items() if now - at > ANSWER_SECONDS]:
            out += self._released(now, minion, 0)  # no answer: better an alert twice than never
        return out

    def _in_order(self, now: float, minion: str, node: Node) -> list[Taken]:
        """Takes the next event, and events that have waited long enough for a missing one before them."""
        out = []
        for number in sorted(node.waiting):
            since, event = node.waiting[number]
            if number == node.n + 1:
                pass
            elif now - since >= REORDER_SECONDS:
                node.wanted = True
            else:
                break
            del node.waiting[number]
            if number == node.n + 1:
                node.n, node.moved = number, now
                while node.n + 1 in node.ahead:
                    node.n += 1
                    node.ahead.discard(node.n)
            else:
                node.ahead.add(number)
                if len(node.ahead) > 2 * JOURNAL_EVENTS:
                    # The node does not answer, and its journal has not kept what is missing before these.
                    node.n = sorted(node.ahead)[-JOURNAL_EVENTS] - 1
                    node.ahead = {n for n in node.ahead if n > node.n}
            out += self._accept(now, event, 0)
        if node.wanted:
            self._ask(now, minion, node)
        return out

    def _ask(self, now: float, minion: str, node: Node) -> None:
        if node.asked is None or now - node.asked >= node.pause:
            if node.asked is not None:
                node.pause = min(MAX_PAUSE_SECONDS, 2 * node.pause)
            node.asked = now
            self.asks.append(Ask("since", minion, node.n, node.journal))

    def _affordable(self, now: float, node: Node) -> bool:
        node.tokens = min(BURST_EVENTS, node.tokens + EVENTS_PER_SECOND * max(0.0, now - node.at))
        node.at = now
        if node.tokens < 1:
            return False
        node.tokens -= 1
        return True

    def _of_master(self, now: float, event: Event) -> list[Taken]:
        if event.n <= self.own.get(event.journal, 0):
            return self._drop("repeated")
        if abs(now - seconds(event.at)) > NEWS_SECONDS:
            return self._drop("old")  # a replay of what an engine sent whose journal is forgotten by now
        self.own.pop(event.journal, None)
        self.own[event.journal] = event.n
        while len(self.own) > MAX_OWN_JOURNALS:
            del self.own[next(iter(self.own))]
        return [Taken(event, False)]

    def _drop(self, why: str) -> list[Taken]:
        self.dropped[why] = self.dropped.get(why, 0) + 1
        return []

    # Two masters

    def _accept(self, now: float, event: Event, taken: int) -> list[Taken]:
        """Takes a new event. `taken`: the last number that a master has reported to the node as taken."""
        if event.n <= taken and self.rank is not None:
            return [Taken(event, True)]
        if self.rank == 1:
            self._held.setdefault(event.id, []).append((now, event))
            return []
        if self.rank == 0:
            self.marks[event.id] = max(event.n, self.marks.get(event.id, 0))
        return [Taken(event, False)]

    def _released(self, now: float, minion: str, taken: int) -> list[Taken]:
        """The events that the master with rank 1 has held long enough."""
        self._questioned.pop(minion, None)
        held = self._held.pop(minion, [])
        due = [event for since, event in held if since + HOLD_SECONDS <= now or event.n <= taken]
        rest = [(since, event) for since, event in held if not (since + HOLD_SECONDS <= now or event.n <= taken)]
        if rest:
            self._held[minion] = rest
        mine = [event.n for event in due if event.n > taken]
        if mine:
            self.marks[minion] = max([*mine, self.marks.get(minion, 0)])
        return [Taken(event, event.n <= taken) for event in due]

    # What outlives a restart

    def state(self) -> dict[str, Any]:
        """The numbers, as JSON. Events that wait or are held count as not done: the next engine asks for them."""
        out = {}
        for minion, node in self.nodes.items():
            held = {event.n for _, event in self._held.get(minion, [])}
            done = node.n if not held else min(node.n, min(held) - 1)
            ahead = (node.ahead | set(range(done + 1, node.n + 1))) - held
            out[minion] = [node.journal, done, sorted(ahead)[-JOURNAL_EVENTS:]]
        return {"nodes": out, "own": self.own}

    def restore(self, state: dict[str, Any]) -> None:
        """
        Continue from :meth:`state`.

        Raises:
            KeyError, TypeError, ValueError: `state` is something else.
        """
        self.nodes = {minion: Node(str(journal), int(n), {int(each) for each in ahead}, proven=True)
                      for minion, (journal, n, ahead) in state["nodes"].items()}
        self.own = {str(journal): int(n) for journal, n in state["own"].items()}


def seconds(time: str) -> float:
    """An event's time (ISO 8601) in seconds since 1970; 0, long past, for a text that is no time."""
    try:
        when = datetime.fromisoformat(time)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
