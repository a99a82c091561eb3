"""Everything between the bus and an engine: verified events, each once and in order, and what nodes answer. No Salt.

    reader's thread (bus.py)                    the engine's loop
    offer(), answer() verify the signature -->  step(): numbers (alerts/intake.py), what came
                                                   |
                                 asking thread <-- questions to nodes; their answers come over the bus again

Each engine has one. What a node could not say, or what came with a wrong signature, is asked for again: when its next
event comes, when its minion starts, when the bus was connected anew, when the master's key has changed, and in the
engine's rounds.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from alerts import authentic
from alerts.intake import Ask, Intake, Taken, seconds
from nodes import answers
from nodes.keys import Keys

log = logging.getLogger(__name__)

MAX_WAITING_EVENTS = 10_000  # verified events that wait here; further ones stay in the journals and are fetched
MAX_WAITING_OF_NODE = 1_000  # of one node, for the same reason: the others' events wait behind them
MAX_WAITING_ANSWERS = 4_000
BATCH_EVENTS = 1_000  # taken in one step
MARK_SECONDS = 2.0  # between two reports to the nodes of what this master has taken
GATHER_ASKS_SECONDS = 0.2  # questions to several nodes collect for this time
JOB_CACHE_SECONDS = 1.5  # after an answer on the bus: then the job cache has it too
MAX_TRIMMED = 1_000  # answers that are to be read from there
FORGET_QUESTION_SECONDS = 120.0  # until then a late answer counts as a sign of life
KNOWN_SECONDS, STRANGER_SECONDS = 60.0, 5.0  # between two listings of the accepted keys; when there may be a new one
LIVE_SECONDS = 120.0  # an event that is older, by its own time, is no sign that its node lives now
FUNCTIONS = {what: f"gateway_events.{what}" for what in ("newest", "conditions", "since", "taken")}


class Outside(NamedTuple):
    """What a feed needs from Salt."""

    publish: Callable[[str, list[str], list[Any]], Any]  # sends a question: a key of FUNCTIONS, minions, arguments
    known: Callable[[], Iterable[str]]  # the ids of minions with an accepted key
    cached: Callable[[str, str], Any]  # a minion's answer to a job (id, minion) from the job cache; None without one


class Came(NamedTuple):
    """What came, verified."""

    minion: str = ""
    alive: bool = False  # it shows that this node lives now
    taken: tuple[Taken, ...] = ()  # new events, in order
    conditions: tuple[Taken, ...] | None = None  # all that is the case on the node now; None: nothing said of that
    asked: float = 0.0  # when it was asked for them, seconds since 1970


class Feed:
    """The events and answers of all nodes."""

    def __init__(self, keys: Keys, sites: authentic.Sites, outside: Outside, rank: int | None = None) -> None:
        """
        Args:
            keys: the master's secret.
            sites: the sites in the master's pillar.
            outside: the functions that reach Salt.
            rank: 0 or 1 where two masters share the minions and one of them is to act, otherwise None.
        """
        self._keys, self._sites, self._outside = keys, sites, outside
        self.intake = Intake(rank)
        self.known: frozenset[str] = frozenset()  # the ids of all gateways with an accepted key
        self.refused: dict[str, int] = {}  # messages that did not count, by reason
        self.unproven: dict[str, str] = {}  # by gateway, why its last answer did not count (answers.explained)
        self.counts = {"events": 0, "postponed": 0, "most_waiting": 0}
        self.pending: dict[str, answers.Question] = {}
        self.wake = threading.Condition()
        self.asks: deque[tuple[str, list[str], list[Any]]] = deque()
        self._in: deque[Callable[[float], Came]] = deque()  # each given the time
        self._waiting_answers, self._count = 0, threading.Lock()
        self._offered: Counter[str] = Counter()  # by minion id, its events that the reader thread has put there ...
        self._taken: Counter[str] = Counter()  # ... and those that the loop has taken from there
        self._ask_wake = threading.Condition()
        self._wanted: dict[str, set[str]] = {"newest": set(), "conditions": set()}
        self._trimmed: dict[tuple[str, str], float] = {}  # job and minion, since when
        self._doubted: set[str] = set()
        self._proven: set[str] = set()  # gateways that have signed an answer
        self._stranger = False
        self._changes = keys.changes
        now = time.time()
        self._last = {"known": 0.0, "asks": 0.0, "mark": now}

    # Called by the reader's thread (bus.Listener)

    def offer(self, tag: str, data: object) -> None:
        """A message on the bus with the tag of an event. Costs little, whatever it is."""
        event, why = authentic.check(authentic.payload(data), tag, self._keys.secret())
        if event is not None:
            waiting = self._offered[event.id] - self._taken[event.id]
            if len(self._in) >= MAX_WAITING_EVENTS or waiting >= MAX_WAITING_OF_NODE and event.id != authentic.MASTER:
                self.counts["postponed"] += 1
                self._put_newest(event.id)
                return
            self._offered[event.id] += 1
            light = self.light(event)
            self._put(lambda now: self._on_event(now, light))
            return
        self.refuse(why)
        # A node that signs with a wrong key will be asked until it signs with the right one.
        if why in ("unsigned", "signature"):
            self._doubt(tag.split("/")[2] if tag.startswith("salt/beacon/") and tag.count("/") > 2 else "")

    def light(self, event: authentic.Event) -> authentic.Event:
        """An event without its facts: they are most of what an event may hold. An engine that uses them overrides."""
        return event._replace(facts={})

    def refuse(self, why: str) -> None:
        """Counts a dropped message."""
        self.refused[why] = self.refused.get(why, 0) + 1

    def started(self, minion: str) -> None:
        """A message says that a minion has started: there may be more in its journal. Anybody can send that message."""
        # A node that never reported anything has no journal, perhaps not even the module: a question would make it load
        # all of its modules.
        if minion in self.known and self.intake.has_journal(minion) or minion not in self.known:
            self._doubt(minion)

    def lost(self) -> None:
        """The connection to the bus is new, so events may be missing: all nodes are asked."""
        self._put(self._on_lost)

    def wants(self, job: str) -> bool:
        """Whether a job is a question of this engine."""
        return job in self.pending

    def answer(self, job: str, minion: str, said: object) -> None:
        """A minion's answer on the bus. Ignored when the job is no question of this engine to this minion."""
        asked = self.pending.get(job)
        if asked is None or minion not in self.known or minion in asked.answered:
            return
        if said is answers.TRIMMED:
            if len(self._trimmed) < MAX_TRIMMED:
                self._trimmed.setdefault((job, minion), 0.0)
            return
        first = minion not in asked.refused
        answer, why = asked.take(minion, said, self._keys.secret())
        if answer is not None:
            self.unproven.pop(minion, None)
            self._proven.add(minion)
            with self._count:
                full = self._waiting_answers >= MAX_WAITING_ANSWERS
                self._waiting_answers += not full
            if not full:
                self._put(lambda now: self._on_answer(now, asked, minion, answer))
        elif why:
            self.refuse(f"answer: {why}")
            if minion not in self.unproven:  # told once, until it has answered as it should
                log.warning("an answer of %s does not count: %s", minion, answers.explained(minion, why))
            self.unproven[minion] = why
            # A node that was never applied can not sign. It is not silent, and nothing else follows from that.
            if first and why in (answers.NO_MODULE, answers.NO_KEY) and minion not in self._proven \
                    and not self.intake.has_journal(minion):
                self._put(lambda now: Came(minion, True))

    def other(self, tag: bytes, data: bytes) -> None:
        """A message with another tag: nothing for this."""

    def _doubt(self, minion: str) -> None:
        if minion in self.known:
            self._put_newest(minion)
        else:
            self._stranger = True  # it may be a gateway whose key was accepted a moment ago

    def _put(self, item: Callable[[float], Came]) -> None:
        self._in.append(item)
        with self.wake:
            self.wake.notify()

    def _put_newest(self, minion: str) -> None:
        if minion not in self._doubted:
            self._doubted.add(minion)
            self._put(lambda now: self._on_curious(now, minion))

    # The loop

    def waiting(self) -> int:
        """How many messages wait for the next step."""
        return len(self._in)

    def step(self, now: float) -> list[Came]:
        """What came since the last call, and what is due. `now`: seconds since 1970."""
        self.counts["most_waiting"] = max(self.counts["most_waiting"], len(self._in))
        if self._last["known"] + (STRANGER_SECONDS if self._stranger else KNOWN_SECONDS) < now:
            self.look_for_gateways(now)
        self._keys.secret()
        if self._changes != self._keys.changes:
            # What came meanwhile did not count: the nodes are asked, and sign it anew.
            self._changes = self._keys.changes
            log.warning("the master's key has changed: all nodes are asked for what is missing")
            self._on_lost(now)
        self._large(now)
        came = [self._in.popleft()(now) for _ in range(min(BATCH_EVENTS, len(self._in)))]
        came.append(Came(taken=tuple(self.intake.tick(now))))
        return [each for each in came if each.alive or each.taken or each.conditions is not None]

    def look_for_gateways(self, now: float) -> None:
        """Lists the minions with an accepted key that are nodes of a site."""
        self._last["known"], self._stranger = now, False
        try:
            self.known = frozenset(minion for minion in self._outside.known() if self._sites.sender(minion))
        except Exception:  # an error of Salt's; the gateways known before stay
            log.exception("can not list the minions with an accepted key")
        for minion in self.unproven.keys() - self.known:
            del self.unproven[minion]
        self._proven &= self.known

    def _on_event(self, now: float, event: authentic.Event) -> Came:
        self.counts["events"] += 1
        self._taken[event.id] += 1
        if event.id != authentic.MASTER and not self._sites.sender(event.id):
            self.refuse("no site")
            return Came()
        if event.id not in self.known:
            self._stranger = True
        before = sum(self.intake.dropped.values())
        taken = self.intake.event(now, event)
        # A replay is no sign of life.
        live = sum(self.intake.dropped.values()) == before and abs(now - seconds(event.at)) <= LIVE_SECONDS
        return Came(event.id, live and event.id != authentic.MASTER, tuple(taken))

    def _on_curious(self, now: float, minion: str) -> Came:
        self._doubted.discard(minion)
        self.intake.curious(now, minion)
        return Came()

    def _on_lost(self, now: float) -> Came:
        self.look_for_gateways(now)
        self.ask_newest(minion for minion in self.known if self.intake.has_journal(minion))
        return Came()

    def _on_answer(self, now: float, asked: answers.Question, minion: str, answer: answers.Answer) -> Came:
        with self._count:
            self._waiting_answers -= 1
        said, came = answer.value, Came(minion, True)
        if asked.what == "newest" and isinstance(said, dict):
            number, taken, journal = said.get("newest"), said.get("taken", 0), said.get("journal")
            if type(number) is int and type(taken) is int and isinstance(journal, str):
                return came._replace(taken=tuple(self.intake.newest(now, minion, journal, number, taken)))
        elif asked.what == "since" and isinstance(said, dict):
            return came._replace(taken=tuple(self._fetched(now, minion, said, answer.at)))
        elif asked.what == "conditions" and isinstance(said, list):
            events = self._true(minion, said)[0]
            return came._replace(conditions=tuple(self.intake.conditions(minion, events)), asked=asked.at)
        return came

    def _large(self, now: float) -> None:
        """Answers too large for the bus: Salt cuts them at `max_event_size`; the job cache has the whole answer."""
        for key, since in list(self._trimmed.items()):
            if not since:
                self._trimmed[key] = now
            elif now - since >= JOB_CACHE_SECONDS:
                del self._trimmed[key]
                said = self._outside.cached(*key)
                if said is not None and said is not answers.TRIMMED:
                    self.answer(*key, said)

    def _fetched(self, now: float, minion: str, said: dict[str, Any], clock: float) -> list[Taken]:
        events, number, taken = said.get("events"), said.get("newest"), said.get("taken", 0)
        if not (isinstance(events, list) and type(number) is int and type(taken) is int
                and isinstance(said.get("journal"), str)):
            return []
        good, unsigned = self._true(minion, events)
        if unsigned is not None:
            number = min(number, unsigned - 1)
            good = [event for event in good if event.n <= number]
        return self.intake.fetched(now, minion, said["journal"], number, taken, good, unsigned is not None, clock)

    def _true(self, minion: str, events: list[Any]) -> tuple[list[authentic.Event], int | None]:
        """The verified events of a node, and the number of the first one that it could not sign (None: no such)."""
        good, unsigned = [], None
        secret = self._keys.secret()
        for each in events[:2_000]:
            event, why = authentic.check(each, None, secret)
            if event is not None and event.id == minion:
                good.append(self.light(event))
            elif event is None and why in ("unsigned", "signature") and each["id"] == minion:
                unsigned = each["n"] if unsigned is None else min(unsigned, each["n"])
            else:
                self.refuse(why or "another's")
        return good, unsigned

    # Questions

    def ask_newest(self, minions: Iterable[str]) -> None:
        """Ask some nodes for their newest number, soon, together with others. Any answer is a sign of life."""
        self._wanted["newest"] |= set(minions)

    def ask_conditions(self, minions: Iterable[str]) -> None:
        """Ask some nodes for everything that is the case on them now, soon, together with others."""
        self._wanted["conditions"] |= set(minions)

    def questions(self, now: float) -> None:
        """Sends the questions that are due."""
        for ask in self.intake.asks:
            if ask.what in self._wanted:
                self._wanted[ask.what].add(ask.minion)
            else:
                self.since(ask)
        self.intake.asks.clear()
        if now - self._last["asks"] >= GATHER_ASKS_SECONDS:
            self._last["asks"] = now
            for what, whom in self._wanted.items():
                if whom & self.known:
                    self.publish(what, sorted(whom & self.known), [])
                whom -= self.known  # a node whose key was accepted a moment ago is asked once it is listed
            # A copy: the asking thread adds to it.
            for job, asked in list(self.pending.items()):
                if time.time() - asked.at > FORGET_QUESTION_SECONDS:
                    del self.pending[job]
        if self.intake.marks and now - self._last["mark"] >= MARK_SECONDS:
            self._last["mark"] = now
            self.publish("taken", sorted(self.intake.marks), [dict(self.intake.marks)])
            self.intake.marks.clear()

    def since(self, ask: Ask) -> None:
        """Ask a node for its events after a number."""
        self.publish("since", [ask.minion], [ask.number, ask.journal])

    def publish(self, what: str, minions: list[str], arguments: list[Any]) -> None:
        """Give a question to the asking thread."""
        with self._ask_wake:
            self.asks.append((what, minions, arguments))
            self._ask_wake.notify()

    def ask_forever(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Sends questions until `stopping`. For a thread: Salt may take its time for each."""
        while not stopping():
            with self._ask_wake:
                if not self.asks:
                    self._ask_wake.wait(0.5)
                if not self.asks:
                    continue
                what, minions, arguments = self.asks.popleft()
            try:
                self._outside.publish(what, minions, arguments)
            except Exception as error:  # of Salt's, of many kinds; the question is asked again later
                log.warning("could not ask %s of %d minions: %s", what, len(minions), error)
                time.sleep(1)

    def expect(self, job: str, what: str, minions: Iterable[str] | None = None) -> answers.Question:
        """
        Register a job as a question, before it is published.

        Args:
            job: its number.
            what: a key of FUNCTIONS.
            minions: whom; None: any gateway.
        """
        asked = answers.Question(job, FUNCTIONS.get(what, "test.ping"), answers.nonce(),
                                 None if minions is None else frozenset(minions), what)
        self.pending[job] = asked
        return asked
