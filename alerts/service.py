"""The engine without Salt: takes events, writes messages into the queue, asks nodes. Has threads, files and clocks.

    reader thread (bus.py) --> the feed (feed.py): what is verified, each event once and in order
                                   |                      questions to nodes --> asking thread
                               the loop: incidents, routes --> queue on disk --> sender threads, one per target

Order of writing: a message is in the queue on disk before the number of its event counts as done. After a crash in
between, the engine fetches the event again and decides the same, and the queue recognises the message by its id.
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from alerts import authentic, delivery, files, message, routes
from alerts.apart import Apart
from alerts.incident import Alert
from alerts.incidents import IncidentMachine
from alerts.intake import Intake, Taken
from alerts.presence import Change, Presence
from alerts.reactions import Reactions
from alerts.shapes import EngineStatus, Message
from alerts.spool import Spool
from nodes import answers, feed
from nodes.answers import TRIMMED
from nodes.keys import Keys, keys_of

__all__ = ["TRIMMED", "Outside", "Service"]

log = logging.getLogger(__name__)

SAVE_SECONDS = 2.0  # at least, between two writes of the state
STATUS_SECONDS = 2.0  # between two writes of status.json
APART_SECONDS = 0.5  # between two searches for nodes that do not hear each other
NEWEST_ROUND_SECONDS = 60.0  # between two questions to all nodes for their newest number, where `presence` is 0


class Outside(NamedTuple):
    """What the service needs from Salt."""

    publish: Callable[[str, list[str], list[Any]], str]  # sends a question (see feed.Outside); the job's id
    known: Callable[[], Iterable[str]]  # the ids of minions with an accepted key
    bus: Callable[[Message], str]  # delivers a message to the master's bus
    stamp: Callable[[], float]  # the time of pillar/alerts.sls, 0 when there is none
    load: Callable[[], Any]  # the value of its key `alerts`
    cached: Callable[[str, str], Any]  # a minion's answer to a job (id, minion) from the job cache; None without one
    other_alive: Callable[[], bool]  # whether this master reaches the one with rank 0


class Service:
    """All parts of the engine."""

    def __init__(self, folder: Path, secret: bytes | Keys, sites: authentic.Sites, outside: Outside,
                 rank: int | None = None, presence: float = 60.0, name: str = "master",
                 reactions: Reactions | None = None, mistakes: Iterable[str] = ()) -> None:
        """
        Args:
            folder: for the engine's files.
            secret: the master's, which does not change; or the keys that read it from its file.
            sites: the sites in the master's pillar.
            outside: the functions that reach Salt.
            rank: 0 or 1 where two masters share the minions, otherwise None.
            presence: seconds between two rounds of asking all nodes whether they answer; 0: no rounds.
            name: this master's name, for the sign of life.
            reactions: what the operator wants done by itself; None: nothing.
            mistakes: in the master's configuration, for the status.
        """
        self._folder, self._sites, self._outside = folder, sites, outside
        self._rank, self._name = rank, name
        now = time.time()
        self.feed = feed.Feed(keys_of(secret), sites, feed.Outside(outside.publish, outside.known, outside.cached),
                              rank)
        self._machine = IncidentMachine()
        self._presence = Presence(now, every=presence or 3600.0, answer=min(20.0, presence / 4),
                                  first=min(30.0, presence / 2)) if presence else None
        self._apart, self._heard = Apart(), dict[str, float]()
        self._reactions, self._configured_wrong = reactions or Reactions(folder), tuple(mistakes)
        self._own_journal, self._own_number = os.urandom(8).hex(), 0
        self._alerts = 0
        self._last = {"save": now, "status": 0.0, "config": 0.0, "life": now, "round": now, "apart": 0.0}
        self._dirty = False
        self._stopping = False
        self._stamp: float | None = -1.0
        self._mistakes: list[str] = []
        self._silences_stamp = 0
        self.configuration = routes.default()
        self._senders: dict[str, delivery.Sender] = {}
        self._restore()
        self._configure()
        self._spool = Spool(folder / files.SPOOL, self.configuration.queue)
        self._start_senders()

    @property
    def _intake(self) -> Intake:
        return self.feed.intake

    @_intake.setter
    def _intake(self, intake: Intake) -> None:
        self.feed.intake = intake

    # Passed on to the feed, by the reader thread

    def offer(self, tag: str, data: object) -> None:
        """A message on the bus with the tag of an event."""
        self.feed.offer(tag, data)

    def answer(self, job: str, minion: str, said: object) -> None:
        """A minion's answer on the bus to a job."""
        self.feed.answer(job, minion, said)

    def expect(self, job: str, what: str, minions: Iterable[str] | None = None) -> answers.Question:
        """Registers a job as a question of this engine. Called before the job is published."""
        return self.feed.expect(job, what, minions)

    # The loop

    def run(self) -> None:
        """Works until :meth:`stop`."""
        asking = threading.Thread(target=self.feed.ask_forever, args=(lambda: self._stopping,), name="alerts-asks",
                                  daemon=True)
        asking.start()
        while not self._stopping:
            with self.feed.wake:
                if not self.feed.waiting():
                    due = self._machine.next_due()
                    self.feed.wake.wait(0.2 if due is None else min(0.2, max(0.0, due - time.time())))
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
        self._silence()
        alerts: list[Alert] = []
        for came in self.feed.step(now):
            alerts += self._came(now, came)
        alerts += self._look(now)
        alerts += self._look_apart(now)
        for event in self._reactions.tell(now, self._machine):
            alerts += self._take(now, event, False)
        alerts += self._machine.tick(now)
        if alerts:
            self._tell(alerts)
        self.feed.ask_conditions(self._machine.unsure & self.feed.known)
        self._machine.unsure.clear()
        self.feed.questions(now)
        self._now_and_then(now)

    def _came(self, now: float, came: feed.Came) -> list[Alert]:
        alerts = self._speaks(now, came.minion) if came.alive else []
        alerts += self._took(now, came.taken)
        if came.conditions is not None:
            alerts += self._machine.present(now, came.minion, [(each.event, each.quiet) for each in came.conditions],
                                            came.asked)
            self._dirty = True
        return alerts

    def _speaks(self, now: float, minion: str) -> list[Alert]:
        """A verified event or an answer came from a node."""
        self._heard[minion] = now
        return self._changes(now, self._presence.heard(now, minion)) if self._presence else []

    def _took(self, now: float, taken: Iterable[Taken]) -> list[Alert]:
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
        self._alerts += len(alerts)
        self._spool.add([(message.compose(alert), self.configuration.of(alert.site, alert.severity))
                         for alert in alerts])

    # Presence

    def _look(self, now: float) -> list[Alert]:
        if self._presence is None:
            if now - self._last["round"] >= NEWEST_ROUND_SECONDS:
                self._last["round"] = now
                self.feed.ask_newest(minion for minion in self.feed.known if self._intake.has_journal(minion))
            return []
        ask, changes = self._presence.tick(now, self.feed.known)
        self.feed.ask_newest(ask)
        return self._changes(now, changes)

    def _look_for_gateways(self, now: float) -> None:
        self.feed.look_for_gateways(now)

    def _changes(self, now: float, changes: list[Change]) -> list[Alert]:
        alerts = []
        for change in changes:
            node, site = authentic.whose(change.minion) or ("", "")
            why = self.feed.unproven.get(change.minion, "") if change.silent else ""
            alerts += self._said(now, site, node, "node_silent", change.minion, change.since, not change.silent,
                                 ("answers", "silent"), answers.explained(change.minion, why))
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
        self.feed.ask_newest(ask & self.feed.known)
        alerts = []
        for change in changes:
            alerts += self._said(now, change.site, "", "apart", change.site, change.since, not change.apart,
                                 ("hear each other", "do not hear each other"))
        return alerts

    def _said(self, now: float, site: str, node: str, condition: str, subject: str, since: float, over: bool,
              words: tuple[str, str], cause: str = "") -> list[Alert]:
        """A critical event of the engine's own. `words`: the good state and the bad one."""
        self._own_number += 1
        was, is_now = reversed(words) if over else words
        event = authentic.Event(self._own_journal, self._own_number, authentic.MASTER, site, node, "unknown", "master",
                                condition, subject, "critical", was, is_now, message.iso(since), message.iso(now), over,
                                False, cause, {})
        return self._take(now, event, self._rank == 1 and self._outside.other_alive())

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
            said = f"{self._name} watches {len(self.feed.known)} gateways; " \
                   f"{len(self._machine.incidents)} incidents are open"
            self._spool.add([(message.simple("path", f"path-{int(now)}", now, "alert_path", said), targets)])
        if now - self._last["status"] >= STATUS_SECONDS:
            self._last["status"] = now
            files.write(self._folder / files.STATUS, self.status(now))

    def status(self, now: float) -> EngineStatus:
        """What `salt-run alerts.status` shows. Holds no secret and no address."""
        waiting = self._spool.counts()
        incidents = dict.fromkeys(authentic.SEVERITIES, 0)
        for each in self._machine.incidents.values():
            incidents[each.severity] += not each.over
        return {"at": now, "pid": os.getpid(), "rank": self._rank, "gateways": len(self.feed.known),
                "silent": sorted(self._presence.silent) if self._presence else [],
                "waiting_events": self.feed.waiting(), "counts": {**self.feed.counts, "alerts": self._alerts},
                "dropped": {**self.feed.refused, **self._intake.dropped},
                "mistakes": [*self._configured_wrong, *self._mistakes, *self._reactions.settings.mistakes],
                "incidents": incidents, "reactions": self._reactions.status(),
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
