"""Which events are new, and what was missed: numbers of the nodes' journals, without any I/O.

A node numbers its events. What comes over the bus in order is taken at once; a number that is missing for a moment is
waited for, then asked for (`gateway_events.since`). A node is asked too when its minion or this engine has started, and
when it could not sign. With two masters, the one with rank 1 keeps each event for a while and takes what the other has
not.

Each call is told the time (seconds); what is to be done collects in `asks`.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from alerts.authentic import MASTER, Event

REORDER_SECONDS = 0.3  # events of one minion may overtake each other on their way through the master
ASK_AGAIN_SECONDS = 10.0  # between two questions to one node
MAX_PAUSE_SECONDS = 300.0
ANSWER_SECONDS = 15.0  # an answer comes within that, or it does not
LATE_SECONDS = 6.0  # what comes later than that over the bus has been held for the other master too
HOLD_SECONDS = 8.0  # rank 1 waits that long for the other master
BURST_EVENTS, EVENTS_PER_SECOND = 100.0, 10.0  # events of one node that are taken from the bus: at once, and each second
NEWS_SECONDS = 600.0  # of a node that was never heard of: what is older is history
SET_BACK_SECONDS = 150.0  # an answer that is older than what is known for that long is no late one
MAX_OWN_JOURNALS = 8  # of the master's own engines
JOURNAL_EVENTS = 500  # a node's journal is that long


class Taken(NamedTuple):
    """An event to be told; `quiet` when the other master has told it."""

    event: Event
    quiet: bool


class Ask(NamedTuple):
    """A question to a node: `since` (with the number and journal), `newest` or `conditions`."""

    what: str
    minion: str
    number: int = 0
    journal: str = ""


@dataclass
class Node:
    """What is known of a node's journal."""

    journal: str = ""
    n: int = 0  # everything up to it is done
    ahead: set[int] = field(default_factory=set)  # done as well
    waiting: dict[int, tuple[float, Event]] = field(default_factory=dict)  # out of order
    asked: float | None = None
    wanted: bool = False  # to be asked as soon as it may be
    pause: float = ASK_AGAIN_SECONDS  # until it is asked again
    moved: float = 0.0  # when n last grew
    doubted: float | None = None  # when it was last asked how far it has got
    taken: int = 0  # by a master, as far as the node has said
    tokens: float = BURST_EVENTS
    at: float = 0.0


class Intake:
    """The numbers of all nodes."""

    def __init__(self, rank: int | None = None) -> None:
        """
        Args:
            rank: of this master, 0 or 1; None: there is only one master.
        """
        self.rank = rank
        self.nodes: dict[str, Node] = {}
        self.own: dict[str, int] = {}  # by journal of the master's engines
        self.asks: list[Ask] = []
        self.dropped: dict[str, int] = {}
        self.marks: dict[str, int] = {}  # what the nodes have to be told: taken by this master
        self._held: dict[str, list[tuple[float, Event]]] = {}
        self._questioned: dict[str, float] = {}

    def event(self, now: float, event: Event) -> list[Taken]:
        """A true event from the bus."""
        if event.id == MASTER:
            return self._of_master(event)
        node = self.nodes.setdefault(event.id, Node(at=now))
        if not node.journal:
            # never heard of: what was before is asked for as what is the case now
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
            # A minion delivers what it could not while this master was away: the other one may have told it.
            self.want(now, event.id)
            return []
        node.waiting[event.n] = now, event
        return self._in_order(now, event.id, node)

    def curious(self, now: float, minion: str) -> None:
        """
        A node's minion has started, or it could not sign: there may be more in its journal. Anybody can make this
        happen, so it costs no more than a place in the next question to all that are in question.
        """
        node = self.nodes.setdefault(minion, Node(at=now))
        if node.doubted is None or now - node.doubted >= ASK_AGAIN_SECONDS:
            node.doubted, node.pause = now, ASK_AGAIN_SECONDS
            self.asks.append(Ask("newest", minion))

    def has_journal(self, minion: str) -> bool:
        """Whether it has ever had something to say."""
        return minion in self.nodes and bool(self.nodes[minion].journal)

    def want(self, now: float, minion: str) -> None:
        """Ask a node for what is missing, as soon as it may be asked."""
        node = self.nodes.setdefault(minion, Node(at=now))
        node.wanted = True
        self._ask(now, minion, node)

    def newest(self, now: float, minion: str, journal: str, number: int, taken: int) -> list[Taken]:
        """A node says where its journal has got to, and what a master has taken."""
        out = self._released(now, minion, taken) if minion in self._questioned else []
        node = self.nodes.get(minion)
        if node is not None:
            node.taken = taken
        if not journal:
            return out  # it has never had anything to say
        if node is None or not node.journal:
            if node is None:
                self.nodes[minion] = Node(journal, number, at=now)
                self.asks.append(Ask("conditions", minion))
            else:
                self.want(now, minion)
        elif node.journal == journal and number < node.n and now - node.moved > SET_BACK_SECONDS:
            # a virtual machine that was set back: its numbers come a second time
            node.n, node.ahead = number, set()
            self.asks.append(Ask("conditions", minion))
        elif node.journal != journal or number > max([node.n, *node.ahead, *node.waiting]):
            self.want(now, minion)
        return out

    def fetched(self, now: float, minion: str, journal: str, number: int, taken: int, events: list[Event],
                unsigned: bool = False) -> list[Taken]:
        """
        A node's answer to `since`.

        Args:
            now: the time.
            minion: the node.
            journal: the journal's name.
            number: its newest event's number.
            taken: what a master has told the node that it has taken.
            events: those that are true.
            unsigned: there were others after them, which the node can not sign yet.
        """
        node = self.nodes.setdefault(minion, Node(at=now))
        node.asked, node.wanted, node.taken = now, False, taken
        if not unsigned:
            node.pause = ASK_AGAIN_SECONDS
        if not journal:
            return []
        first = not node.journal
        if node.journal != journal:
            node.journal, node.n, node.ahead, node.waiting = journal, 0, set(), {}
            self.asks.append(Ask("conditions", minion))
            if first:
                # nothing is known of this node: its history is not news, what is the case is
                old = [event.n for event in events if now - seconds(event.at) > NEWS_SECONDS]
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
        """A node says all that is the case on it. The master with rank 1 leaves telling it to the other."""
        taken = self.nodes[minion].taken if minion in self.nodes else 0
        return [Taken(event, self.rank == 1 or (self.rank == 0 and event.n <= taken)) for event in events
                if event.id == minion and not event.once and not event.recovered]

    def tick(self, now: float) -> list[Taken]:
        """Time passes."""
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
            out += self._released(now, minion, 0)  # no answer: rather twice than not at all
        return out

    def _in_order(self, now: float, minion: str, node: Node) -> list[Taken]:
        """Takes what is next, and what has waited in vain for what should come before it."""
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

    def _of_master(self, event: Event) -> list[Taken]:
        if event.n <= self.own.get(event.journal, 0):
            return self._drop("repeated")
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
        """An event that is new here. `taken`: up to where a master has told this node that it is done."""
        if event.n <= taken and self.rank is not None:
            return [Taken(event, True)]
        if self.rank == 1:
            self._held.setdefault(event.id, []).append((now, event))
            return []
        if self.rank == 0:
            self.marks[event.id] = max(event.n, self.marks.get(event.id, 0))
        return [Taken(event, False)]

    def _released(self, now: float, minion: str, taken: int) -> list[Taken]:
        """What rank 1 has kept long enough."""
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
        """The numbers, as JSON. What is waiting or held counts as not done: it is asked for again."""
        out = {}
        for minion, node in self.nodes.items():
            held = {event.n for _, event in self._held.get(minion, [])}
            done = node.n if not held else min(node.n, min(held) - 1)
            ahead = (node.ahead | set(range(done + 1, node.n + 1))) - held
            out[minion] = [node.journal, done, sorted(ahead)[-JOURNAL_EVENTS:]]
        return {"nodes": out, "own": self.own}

    def restore(self, state: dict[str, Any]) -> None:
        """
        Carry on from :meth:`state`.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        self.nodes = {minion: Node(str(journal), int(n), {int(each) for each in ahead})
                      for minion, (journal, n, ahead) in state["nodes"].items()}
        self.own = {str(journal): int(n) for journal, n in state["own"].items()}


def seconds(time: str) -> float:
    """An event's time as seconds since 1970; of one that makes no sense, as if it were now long past."""
    try:
        when = datetime.fromisoformat(time)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
