"""The engine without Salt: takes events, writes messages into the queue, asks nodes. Has threads, files and clocks.

    reader thread              the loop                          sender threads (delivery.py)
    offer() verifies the  -->  numbers, incidents, routes  -->  queue on disk  -->  one thread per target
    signature                     |
                               questions to nodes --> asking thread --> the answers come over the bus: answer()

Order of writing: a message is in the queue on disk before the number of its event counts as done. After a crash in
between, the engine fetches the event again and decides the same, and the queue recognises the message by its id.
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from alerts import authentic, delivery, files, message, routes
from alerts.apart import Apart
from alerts.incidents import Alert, IncidentMachine
from alerts.intake import Ask, Intake, Taken
from alerts.presence import Change, Presence
from alerts.reactions import Reactions
from alerts.shapes import EngineStatus, Message
from alerts.spool import Spool

log = logging.getLogger(__name__)

MAX_WAITING_EVENTS = 10_000  # verified events that wait here; further ones stay in the journals and are fetched
MAX_WAITING_OF_NODE = 1_000  # of one node, for the same reason: the others' events wait behind them
BATCH_EVENTS = 1_000  # taken in one round of the loop
SAVE_SECONDS = 2.0  # at least, between two writes of the state
STATUS_SECONDS = 2.0  # between two writes of status.json
APART_SECONDS = 0.5  # between two searches for nodes that do not hear each other
MARK_SECONDS = 2.0  # between two reports to the nodes of what this master has taken
GATHER_ASKS_SECONDS = 0.2  # questions to several nodes collect for this time
JOB_CACHE_SECONDS = 1.5  # after an answer on the bus: then the job cache has it too
TRIMMED = object()  # stands for an answer that was too large for the bus
NEWEST_ROUND_SECONDS = 60.0  # between two questions to all nodes for their newest number, where `presence` is 0
STRANGERS_SECONDS = 3600.0  # between two questions for the newest number to nodes that never reported anything
FORGET_QUESTION_SECONDS = 120.0  # until then a late answer counts as a sign of life


class Outside(NamedTuple):
    """What the service needs from Salt."""

    publish: Callable[[str, list[str], list[Any]], str]  # sends a question (function, minions, arguments); the job's id
    known: Callable[[], Iterable[str]]  # the ids of minions with an accepted key
    bus: Callable[[Message], str]  # delivers a message to the master's bus
    stamp: Callable[[], float]  # the time of pillar/alerts.sls, 0 when there is none
    load: Callable[[], Any]  # the value of its key `alerts`
    cached: Callable[[str, str], Any]  # a minion's answer to a job (id, minion) from the job cache; None without one
    other_alive: Callable[[], bool]  # whether this master reaches the one with rank 0


class Asked(NamedTuple):
    """A question that was sent."""

    what: str  # since, newest, conditions, taken, ping
    at: float  # seconds since 1970


class Service:
    """All parts of the engine."""

    def __init__(self, folder: Path, secret: bytes, sites: authentic.Sites, outside: Outside, rank: int | None = None,
                 presence: float = 60.0, name: str = "master", reactions: Reactions | None = None) -> None:
        """
        Args:
            folder: for the engine's files.
            secret: see authentic.load_secret.
            sites: the sites in the master's pillar.
            outside: the functions that reach Salt.
            rank: 0 or 1 where two masters share the minions, otherwise None.
            presence: seconds between two rounds of asking all nodes whether they answer; 0: no rounds.
            name: this master's name, for the sign of life.
            reactions: what the operator wants done by itself; None: nothing.
        """
        self._folder, self._secret, self._sites, self._outside = folder, secret, sites, outside
        self._rank, self._name = rank, name
        now = time.time()
        self._intake, self._machine = Intake(rank), IncidentMachine()
        self._presence = Presence(now, every=presence or 3600.0, answer=min(20.0, presence / 4),
                                  first=min(30.0, presence / 2)) if presence else None
        self._apart, self._heard = Apart(), dict[str, float]()
        self._reactions = reactions or Reactions(folder)
        self._own_journal, self._own_number = os.urandom(8).hex(), 0
        self._in: deque[Callable[[float], list[Alert]]] = deque()  # each given the time
        self._offered: Counter[str] = Counter()  # by minion id, its events that the reader thread has put there ...
        self._taken: Counter[str] = Counter()  # ... and those that the loop has taken from there
        self._wake = threading.Condition()
        self._asks: deque[tuple[str, list[str], list[Any]]] = deque()
        self._ask_wake = threading.Condition()
        self.pending: dict[str, Asked] = {}
        self._refused: dict[str, int] = {}
        self._counts = {"events": 0, "postponed": 0, "alerts": 0, "most_waiting": 0}
        self._last = {"save": now, "status": 0.0, "mark": now, "asks": now, "config": 0.0, "known": 0.0, "life": now,
                      "strangers": 0.0, "round": now, "apart": 0.0}
        self._newest_asks: set[str] = set()
        self._condition_asks: set[str] = set()
        self._ping_asks: set[str] = set()
        self._trimmed: list[tuple[float, str, str]] = []
        self._dirty = False
        self._stopping = False
        self._known: frozenset[str] = frozenset()
        self._doubted: set[str] = set()
        self._stranger = False
        self._stamp: float | None = -1.0
        self._mistakes: list[str] = []
        self._silences_stamp = 0
        self.configuration = routes.default()
        self._senders: dict[str, delivery.Sender] = {}
        self._restore()
        self._configure()
        self._spool = Spool(folder / files.SPOOL, self.configuration.queue)
        self._start_senders()

    # Called by the reader thread

    def offer(self, tag: str, data: object) -> None:
        """A message on the bus with the tag of an event. Costs little, whatever it is."""
        event, why = authentic.check(authentic.payload(data), tag, self._secret)
        if event is not None:
            waiting = self._offered[event.id] - self._taken[event.id]
            if len(self._in) >= MAX_WAITING_EVENTS or waiting >= MAX_WAITING_OF_NODE and event.id != authentic.MASTER:
                self._counts["postponed"] += 1
                self._put_newest(event.id)
                return
            self._offered[event.id] += 1
            light = _light(event)
            self._put(lambda now: self._on_event(now, light))
            return
        self.refuse(why)
        if why == "unsigned":
            self._doubt(tag.split("/")[2] if tag.startswith("salt/beacon/") and tag.count("/") > 2 else "")

    def refuse(self, why: str) -> None:
        """Counts a dropped message."""
        self._refused[why] = self._refused.get(why, 0) + 1

    def started(self, minion: str) -> None:
        """A message says that a minion has started: there may be more in its journal. Anybody can send that message."""
        # A node that never reported anything has no journal, perhaps not even the module: a question would make it load
        # all of its modules.
        if minion in self._known and self._intake.has_journal(minion) or minion not in self._known:
            self._doubt(minion)

    def _doubt(self, minion: str) -> None:
        if minion in self._known:
            self._put_newest(minion)
        else:
            self._stranger = True  # it may be a gateway whose key was accepted a moment ago

    def lost(self) -> None:
        """The connection to the bus is new, so events may be missing: all nodes are asked."""
        self._put(self._on_lost)

    def answer(self, job: str, minion: str, said: object) -> None:
        """A minion's answer on the bus to a job. Ignored when the job is no question of this engine."""
        if job in self.pending:
            self._put(lambda now: self._on_answer(now, job, minion, said))

    def _put(self, item: Callable[[float], list[Alert]]) -> None:
        self._in.append(item)
        with self._wake:
            self._wake.notify()

    def _put_newest(self, minion: str) -> None:
        if minion not in self._doubted:
            self._doubted.add(minion)
            self._put(lambda now: self._on_curious(now, minion))

    # The loop

    def run(self) -> None:
        """Works until :meth:`stop`."""
        asking = threading.Thread(target=self._ask_forever, name="alerts-asks", daemon=True)
        asking.start()
        while not self._stopping:
            with self._wake:
                if not self._in:
                    due = self._machine.next_due()
                    self._wake.wait(0.2 if due is None else min(0.2, max(0.0, due - time.time())))
            try:
                self.step(time.time())
            except OSError as error:
                log.error("alerts: %s", error)
                time.sleep(1)
        self._save(time.time())
        self._reactions.stop()
        for sender in self._senders.values():
            sender.stop()

    def stop(self) -> None:
        """Ends :meth:`run` within a second."""
        self._stopping = True

    def step(self, now: float) -> None:
        """One round: a batch of what came in, then everything that is due at this time."""
        self._counts["most_waiting"] = max(self._counts["most_waiting"], len(self._in))
        alerts: list[Alert] = []
        for _ in range(min(BATCH_EVENTS, len(self._in))):
            alerts += self._in.popleft()(now)
        alerts += self._large(now)
        alerts += self._took(now, self._intake.tick(now))
        alerts += self._look(now)
        alerts += self._look_apart(now)
        self._silence()
        for event in self._reactions.tell(now, self._machine):
            alerts += self._take(now, event, False)
        alerts += self._machine.tick(now)
        if alerts:
            self._tell(alerts)
        self._questions(now)
        self._now_and_then(now)

    def _on_event(self, now: float, event: authentic.Event) -> list[Alert]:
        self._counts["events"] += 1
        self._taken[event.id] += 1
        if event.id != authentic.MASTER and not self._sites.sender(event.id):
            self.refuse("no site")
            return []
        return self._speaks(now, event.id) + self._took(now, self._intake.event(now, event))

    def _speaks(self, now: float, minion: str) -> list[Alert]:
        """A verified event or an answer came from a node."""
        self._heard[minion] = now
        return self._changes(now, self._presence.heard(now, minion)) if self._presence else []

    def _on_curious(self, now: float, minion: str) -> list[Alert]:
        self._doubted.discard(minion)
        self._intake.curious(now, minion)
        return []

    def _on_lost(self, now: float) -> list[Alert]:
        self._look_for_gateways(now)
        self._newest_asks |= {minion for minion in self._known if self._intake.has_journal(minion)}
        return []

    def _on_answer(self, now: float, job: str, minion: str, said: object) -> list[Alert]:
        asked = self.pending.get(job)
        if asked is None or minion not in self._known:
            return []
        alerts = self._speaks(now, minion)
        if said is TRIMMED:
            self._trimmed.append((now + JOB_CACHE_SECONDS, job, minion))
        elif asked.what == "newest" and isinstance(said, dict):
            number, taken, journal = said.get("newest"), said.get("taken", 0), said.get("journal")
            if type(number) is int and type(taken) is int and isinstance(journal, str):
                alerts += self._took(now, self._intake.newest(now, minion, journal, number, taken))
        elif asked.what == "since" and isinstance(said, dict):
            alerts += self._fetched(now, minion, said)
        elif asked.what == "conditions" and isinstance(said, list):
            events = self._true(minion, said)[0]
            alerts += self._machine.present(now, minion, [
                (each.event, each.quiet) for each in self._intake.conditions(minion, events)], asked.at)
            self._dirty = True
        return alerts

    def _large(self, now: float) -> list[Alert]:
        """Answers too large for the bus: Salt cuts them at `max_event_size`; the job cache has the whole answer."""
        due = [each for each in self._trimmed if each[0] <= now]
        self._trimmed = [each for each in self._trimmed if each[0] > now]
        return [alert for _, job, minion in due for alert in self._on_answer(
            now, job, minion, self._outside.cached(job, minion))]

    def _fetched(self, now: float, minion: str, said: dict[str, Any]) -> list[Alert]:
        events, number, taken = said.get("events"), said.get("newest"), said.get("taken", 0)
        if not (isinstance(events, list) and type(number) is int and type(taken) is int
                and isinstance(said.get("journal"), str)):
            return []
        good, unsigned = self._true(minion, events)
        if unsigned is not None:
            number = min(number, unsigned - 1)
            good = [event for event in good if event.n <= number]
        return self._took(now, self._intake.fetched(now, minion, said["journal"], number, taken, good,
                                                    unsigned is not None))

    def _true(self, minion: str, events: list[Any]) -> tuple[list[authentic.Event], int | None]:
        """The verified events of a node, and the number of the first one that it could not sign (None: no such)."""
        good, unsigned = [], None
        for each in events[:2_000]:
            event, why = authentic.check(each, None, self._secret)
            if event is not None and event.id == minion:
                good.append(_light(event))
            elif why == "unsigned":
                unsigned = each["n"] if unsigned is None else min(unsigned, each["n"])
            else:
                self.refuse(why or "another's")
        return good, unsigned

    def _took(self, now: float, taken: list[Taken]) -> list[Alert]:
        alerts = []
        for each in taken:
            alerts += self._take(now, each.event, each.quiet)
        return alerts

    def _take(self, now: float, event: authentic.Event, quiet: bool) -> list[Alert]:
        """A verified event that is new. Reactions see it first, as it is before the incidents know of it."""
        self._dirty = True
        self._reactions.offer(now, event, quiet, self._machine)
        return self._machine.take(now, event, quiet)

    def _tell(self, alerts: list[Alert]) -> None:
        self._dirty = True
        self._counts["alerts"] += len(alerts)
        self._spool.add([(message.compose(alert), self.configuration.of(alert.site, alert.severity))
                         for alert in alerts])

    # Presence

    def _look(self, now: float) -> list[Alert]:
        if self._last["known"] + (5 if self._stranger else 60) < now:
            self._look_for_gateways(now)
        if self._presence is None:
            if now - self._last["round"] >= NEWEST_ROUND_SECONDS:
                self._last["round"] = now
                self._newest_asks |= {minion for minion in self._known if self._intake.has_journal(minion)}
            return []
        ask, changes = self._presence.tick(now, self._known)
        # A node without the module loads all of its modules before it can say so. So these are asked rarely.
        everybody = bool(ask) and now - self._last["strangers"] >= STRANGERS_SECONDS
        if everybody:
            self._last["strangers"] = now
        for minion in ask:
            known = everybody or self._intake.has_journal(minion)
            (self._newest_asks if known else self._ping_asks).add(minion)
        return self._changes(now, changes)

    def _look_for_gateways(self, now: float) -> None:
        self._last["known"], self._stranger = now, False
        try:
            self._known = frozenset(minion for minion in self._outside.known() if self._sites.sender(minion))
        except Exception:  # an error of Salt's; the gateways known before stay
            log.exception("alerts: can not list the minions with an accepted key")

    def _changes(self, now: float, changes: list[Change]) -> list[Alert]:
        alerts = []
        for change in changes:
            node, site = authentic.whose(change.minion) or ("", "")
            alerts += self._said(now, site, node, "node_silent", change.minion, change.since, not change.silent,
                                 ("answers", "silent"))
        return alerts

    def _look_apart(self, now: float) -> list[Alert]:
        """Looks for sites whose nodes are both alive and do not hear each other."""
        if now - self._last["apart"] < APART_SECONDS:
            return []
        self._last["apart"] = now
        dead: dict[str, dict[str, float]] = {}
        for site, minion, taken in self._machine.open_now("heartbeat", "peer_dead"):
            dead.setdefault(site, {})[minion] = taken
        told = {site: taken for site, _, taken in self._machine.open_now("master", "apart")}
        changes, ask = self._apart.look(now, dead, told, self._heard)
        self._newest_asks |= ask & self._known
        alerts = []
        for change in changes:
            alerts += self._said(now, change.site, "", "apart", change.site, change.since, not change.apart,
                                 ("hear each other", "do not hear each other"))
        return alerts

    def _said(self, now: float, site: str, node: str, condition: str, subject: str, since: float, over: bool,
              words: tuple[str, str]) -> list[Alert]:
        """A critical event of the engine's own. `words`: the good state and the bad one."""
        self._dirty = True
        self._own_number += 1
        was, is_now = reversed(words) if over else words
        event = authentic.Event(self._own_journal, self._own_number, authentic.MASTER, site, node, "unknown", "master",
                                condition, subject, "critical", was, is_now, message.iso(since), message.iso(now), over,
                                False, "", {})
        return self._take(now, event, self._rank == 1 and self._outside.other_alive())

    # Questions

    def _questions(self, now: float) -> None:
        for ask in self._intake.asks:
            if ask.what == "newest":
                self._newest_asks.add(ask.minion)
            elif ask.what == "conditions":
                self._condition_asks.add(ask.minion)
            else:
                self._ask(ask)
        self._intake.asks.clear()
        self._condition_asks |= self._machine.unsure & self._known
        self._machine.unsure.clear()
        if now - self._last["asks"] >= GATHER_ASKS_SECONDS:
            self._last["asks"] = now
            for what, whom in (("newest", self._newest_asks), ("conditions", self._condition_asks),
                               ("ping", self._ping_asks)):
                if whom:
                    self._publish(what, sorted(whom), [])
                    whom.clear()
            for job in [job for job, asked in self.pending.items() if now - asked.at > FORGET_QUESTION_SECONDS]:
                del self.pending[job]
        if self._intake.marks and now - self._last["mark"] >= MARK_SECONDS:
            self._last["mark"] = now
            self._publish("taken", sorted(self._intake.marks), [dict(self._intake.marks)])
            self._intake.marks.clear()

    def _ask(self, ask: Ask) -> None:
        self._publish("since", [ask.minion], [ask.number, ask.journal])

    def _publish(self, what: str, minions: list[str], arguments: list[Any]) -> None:
        with self._ask_wake:
            self._asks.append((what, minions, arguments))
            self._ask_wake.notify()

    def _ask_forever(self) -> None:
        while not self._stopping:
            with self._ask_wake:
                if not self._asks:
                    self._ask_wake.wait(0.5)
                if not self._asks:
                    continue
                what, minions, arguments = self._asks.popleft()
            try:
                self._outside.publish(what, minions, arguments)
            except Exception as error:  # of Salt's, of many kinds; the question is asked again later
                log.warning("alerts: could not ask %s of %d minions: %s", what, len(minions), error)
                time.sleep(1)

    def expect(self, job: str, what: str) -> None:
        """Registers a job as a question of this engine. Called before the job is published."""
        self.pending[job] = Asked(what, time.time())

    # Configuration

    def _configure(self) -> bool:
        """Reads pillar/alerts.sls when it has changed; returns whether it took it. With mistakes the old one stays."""
        stamp = self._outside.stamp()
        if stamp == self._stamp:
            return False
        self._stamp, self._mistakes = stamp, []
        if not stamp:
            self.configuration = routes.default()
        else:
            try:
                made, self._mistakes = routes.check(self._outside.load(), self._sites.names())
                if not self._mistakes:
                    self.configuration = made
            except Exception as error:  # a renderer's, of many kinds; its text may hold a secret
                self._mistakes = [f"pillar/alerts.sls can not be rendered ({type(error).__name__}): "
                                  "salt-run alerts.validate"]
        for mistake in self._mistakes:
            log.error("alerts: %s", mistake)
        self._machine.settings = self.configuration.flapping
        return not self._mistakes

    def _start_senders(self) -> None:
        """Ends the threads of the old targets and starts one for each target."""
        for sender in self._senders.values():
            sender.stop()
        gone = self._spool.keep_only({routes.BUS, *self.configuration.targets})
        if gone:
            log.warning("alerts: dropped what waited for %s: these targets do not exist any more", ", ".join(gone))
        before = self._senders
        for sender in self._senders.values():
            sender.join(30)
        self._senders = {}
        ways: dict[str, Callable[[Message], str]] = {routes.BUS: self._outside.bus}
        ways |= {name: delivery.way_to(target) for name, target in self.configuration.targets.items()}
        for name, way in ways.items():
            sender = delivery.Sender(name, way, self._spool, self.configuration.limits[name])
            if name in before:
                sender.status = before[name].status.copy()
            self._senders[name] = sender
            sender.start()

    def _silence(self) -> None:
        try:
            stamp = (self._folder / files.SILENCES).stat().st_mtime_ns
        except OSError:
            stamp = 0
        if stamp == self._silences_stamp:
            return
        self._silences_stamp = stamp
        said: Any = files.read(self._folder / files.SILENCES) if stamp else {}
        if isinstance(said, dict):
            before = self._machine.silences
            self._machine.silences = {site: float(until) for site, until in said.items()
                                      if isinstance(until, (int, float)) and isinstance(site, str)}
            ended = before.keys() - {site for site, until in self._machine.silences.items() if until > time.time()}
            for incident in self._machine.incidents.values():
                if incident.site in ended and incident.held and incident.due is not None:
                    incident.due = time.time()

    # Files

    def _now_and_then(self, now: float) -> None:
        if self._dirty and now - self._last["save"] >= SAVE_SECONDS:
            self._save(now)
        if now - self._last["config"] >= 5:
            self._last["config"] = now
            if self._configure():
                self._start_senders()
        hours = self.configuration.heartbeat_hours
        if hours and now - self._last["life"] >= hours * 3600:
            self._last["life"], self._dirty = now, True
            targets = [name for name, target in self.configuration.targets.items() if target.get("heartbeat", True)]
            said = f"{self._name} watches {len(self._known)} gateways; " \
                   f"{len(self._machine.incidents)} incidents are open"
            self._spool.add([(message.simple("path", f"path-{int(now)}", now, "alert_path", said), targets)])
        if now - self._last["status"] >= STATUS_SECONDS:
            self._last["status"] = now
            files.write(self._folder / files.STATUS, self.status(now))

    def status(self, now: float) -> EngineStatus:
        """What `salt-run alerts.status` shows. Holds no secret and no address."""
        waiting = self._spool.counts()
        return {"at": now, "pid": os.getpid(), "rank": self._rank, "gateways": len(self._known),
                "silent": sorted(self._presence.silent) if self._presence else [],
                "waiting_events": len(self._in), "counts": dict(self._counts),
                "dropped": {**self._refused, **self._intake.dropped},
                "mistakes": [*self._mistakes, *self._reactions.settings.mistakes],
                "reactions": self._reactions.status(),
                "targets": {name: {**sender.status, "waiting": waiting.get(name, 0)}
                            for name, sender in self._senders.items()}}

    def _save(self, now: float) -> None:
        self._dirty, self._last["save"] = False, now
        files.write(self._folder / files.STATE, {
            "version": 1, "intake": self._intake.state(), "machine": self._machine.state(),
            "presence": self._presence.state() if self._presence else {"silent": {}}, "life": self._last["life"]})

    def _restore(self) -> None:
        state = files.read(self._folder / files.STATE)
        if state is None:
            return
        try:
            self._machine.restore(state["machine"])
            self._intake.restore(state["intake"])
            if self._presence:
                self._presence.restore(state["presence"])
            self._last["life"] = min(float(state["life"]), time.time())
        except (KeyError, TypeError, ValueError, AttributeError):
            log.error("alerts: %s is damaged: starting without it and asking the nodes for their conditions",
                      self._folder / files.STATE)
            self._machine, self._intake = IncidentMachine(self._machine.settings), Intake(self._rank)


def _light(event: authentic.Event) -> authentic.Event:
    """An event without its facts: no text of an alert uses them, and they are most of what an event may hold."""
    return event._replace(facts={})
