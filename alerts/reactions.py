"""Reactions: what the operator wants done by itself when something happens (`gateway_reactions`, docs/monitoring.md).

    the engine's loop                            a thread (reaction_worker.py)        a process (reactor.py)
    offer(): a verified, numbered event, which   begins what waits, in order   -->    renders the SLS with Salt's own
    fits an entry --> the queue on the disk -->                                <--    reactor, runs what it says
    tell(): events of the reactions' own

Nothing here waits for a reaction. An event is reacted to once: its name, made of node, journal, number and time, is on
the disk with its reactions before any of them runs.
"""
from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alerts import catalogue, message
from alerts.authentic import MASTER, Event, tag_of
from alerts.incidents import IncidentMachine, key_of
from alerts.intake import seconds
from alerts.reaction_queue import FILE, Item, ReactionQueue, Took
from alerts.reaction_settings import OWN_CONDITIONS, Rule, Settings, path_of
from alerts.reaction_worker import Worker
from alerts.shapes import Line

log = logging.getLogger(__name__)

WINDOW_SECONDS = 600.0  # for an entry's `limit`, and until something that did not happen again counts as over
ORDERS = "resync"  # the beacon of a person's orders (authentic.MASTER_BEACONS): nothing has happened
MAX_TOLD = 1_000  # conditions of the reactions' own that last; further ones are only counted


@dataclass
class Told:
    """A condition of the reactions' own that was told and lasts. Times are seconds since 1970."""

    first: float
    last: float
    times: int = 1


class Reactions:
    """All entries. One thread calls it: the engine's loop."""

    def __init__(self, folder: Path, settings: Settings | None = None, worker: Worker | None = None) -> None:
        """
        Args:
            folder: of the engine's files.
            settings: the entries; None: none.
            worker: runs the reactions; None: they wait.

        Raises:
            OSError: the queue can not be written.
        """
        self.settings = settings or Settings()
        for mistake in self.settings.mistakes:
            log.error("reactions: %s; nothing is reacted to until the master is restarted without it", mistake)
        self._journal, self._number = os.urandom(8).hex(), 0
        self._events: deque[Event] = deque()
        self._told: dict[tuple[str, str], Told] | None = None  # by condition and subject; None before the first round
        self._windows: dict[tuple[int, str], deque[float]] = {}
        self._counts = {"taken": 0, "ran": 0, "failed": 0, "left_out": 0, "silenced": 0, "old": 0}
        self._added = False
        self._worker: Worker | None = None
        if not self.settings.rules:
            return
        self._queue = ReactionQueue(folder / FILE)
        for took in sorted(self._queue.recent(0.0), key=lambda each: each.taken):
            for rule in took.rules:
                self._windows.setdefault((rule, took.site), deque()).append(took.taken)
        self._interrupted = self._queue.interrupted
        self._worker = worker
        if worker is not None:
            worker.start_with(self._queue)

    # Called by the loop

    def offer(self, now: float, event: Event, quiet: bool, machine: IncidentMachine) -> None:
        """
        An event that is verified and new, before `machine` takes it. Costs little.

        Args:
            now: the time, in seconds since 1970.
            event: see authentic.Event.
            quiet: the other master takes care of it.
            machine: knows which conditions are the case, and the silences.
        """
        if not self.settings.rules or quiet or event.condition in OWN_CONDITIONS or event.beacon == ORDERS:
            return
        self._remember(now, machine)
        phase = machine.phase(event)
        fit = [number for number, rule in enumerate(self.settings.rules) if phase and _fits(rule, event, phase)]
        if not fit:
            return
        if machine.silences.get(event.site, 0.0) > now:
            self._counts["silenced"] += 1
            return
        at, name = min(now, seconds(event.at)), name_of(event)
        in_time = [number for number in fit if now - at <= self.settings.rules[number].max_age]
        if not in_time or not self._queue.is_new(event.id, name, at):
            self._counts["old"] += 1
            return
        allowed = [number for number in in_time if self._within_limit(now, number, event.site)]
        items = [_item(self.settings.rules[number], number, event, phase, name) for number in allowed]
        if not items:
            return
        if not self._queue.has_room(items):
            self._left_out(now, "", "the queue", f"{len(self._queue)} reactions wait already")
            return
        try:
            self._queue.add(event.id, Took(name, at, now, event.site, allowed), items)
        except OSError as error:  # the engine goes on, and tries again with the next events
            log.error("reactions: can not be written to the disk: %s", error)
            return
        self._added = True
        self._counts["taken"] += 1
        for number in allowed:
            self._windows.setdefault((number, event.site), deque()).append(now)

    def tell(self, now: float, machine: IncidentMachine) -> list[Event]:
        """What is to be alerted of the reactions themselves. Brings what was offered to the disk first."""
        self._remember(now, machine)
        if self.settings.rules:
            self._look(now)
        self._over(now)
        out = list(self._events)
        self._events.clear()
        return out

    def _look(self, now: float) -> None:
        """Writes what was offered, and takes what has ended."""
        if self._added:
            try:
                self._queue.flush()
                self._added = False
                if self._worker is not None:
                    self._worker.wake()
            except OSError as error:
                log.error("reactions: can not be written to the disk: %s", error)
        for item in self._interrupted:
            self._failed(now, item, "the master ended while it ran. It may have done its work or not, and is not "
                                    "repeated")
        self._interrupted = []
        for ended in self._worker.ended() if self._worker is not None else []:
            self._counts["ran"] += 1
            if ended.wrong:
                self._failed(now, ended.item, ended.wrong)

    def status(self) -> dict[str, int]:
        """For `salt-run alerts.status`: how many reactions wait, and how many events came to what, since the start."""
        return {"entries": len(self.settings.rules), "waiting": len(self._queue), **self._counts} \
            if self.settings.rules else {}

    def stop(self) -> None:
        """Begins no further reaction. What waits stays in the queue."""
        if self._worker is not None:
            self._worker.stop()

    # What is told

    def _within_limit(self, now: float, number: int, site: str) -> bool:
        window = self._windows.get((number, site))
        if window is None:
            return True
        while window and now - window[0] >= WINDOW_SECONDS:
            window.popleft()
        if not window:
            del self._windows[number, site]
        limit = self.settings.rules[number].limit
        if len(window) < limit:
            return True
        self._left_out(now, site, ", ".join(map(path_of, self.settings.rules[number].sls)),
                       f"more than {limit} events within {WINDOW_SECONDS / 60:g} minutes")
        return False

    def _left_out(self, now: float, site: str, subject: str, why: str) -> None:
        self._counts["left_out"] += 1
        self._say(now, "reactions_left_out", f"{subject} at {site}" if site else subject, why)

    def _failed(self, now: float, item: Item, why: str) -> None:
        self._counts["failed"] += 1
        subject = f"{', '.join(item['sls'])} at {item['site'] or 'all sites'}"
        log.error("reactions: %s, to %s of %s: %s", subject, item["data"]["condition"], item["data"]["id"], why)
        self._say(now, "reaction_failed", subject, why)

    def _say(self, now: float, condition: str, subject: str, why: str) -> None:
        """Something is wrong. One event for the same thing; what follows is only counted, until it is over."""
        assert self._told is not None
        key = condition, subject[:300]
        if key in self._told:
            self._told[key].last, self._told[key].times = now, self._told[key].times + 1
        elif len(self._told) < MAX_TOLD:
            self._told[key] = Told(now, now)
            self._event(now, key, now, why, False)

    def _over(self, now: float) -> None:
        """What has not happened again for long enough is over."""
        for key, told in list((self._told or {}).items()):
            if now - told.last >= WINDOW_SECONDS:
                del (self._told or {})[key]
                self._event(now, key, told.first, f"{told.times} in all", True)

    def _event(self, now: float, key: tuple[str, str], since: float, why: str, over: bool) -> None:
        # Not of the site: it would hold up the end of the site's own incident.
        self._number += 1
        log.warning("reactions: %s %s: %s", key[0], key[1], f"over, {why}" if over else why)
        self._events.append(Event(self._journal, self._number, MASTER, "", "", "unknown", "master", key[0], key[1],
                                  "warning", "", why[:500], message.iso(since), message.iso(now), over, False, "", {}))

    def _remember(self, now: float, machine: IncidentMachine) -> None:
        """In the first round: what an earlier engine has told and what is not over."""
        if self._told is None:
            lines = [line for incident in machine.incidents.values() for line in incident.lines.values()]
            self._told = {(line["condition"], line["subject"]): Told(seconds(line["since"]), now) for line in lines
                          if line["open"] and line["id"] == MASTER and line["condition"] in OWN_CONDITIONS}


def name_of(event: Event) -> str:
    """An event's name. With the time, because a machine that was set back gives its numbers a second time."""
    return hashlib.sha256(f"{event.id}|{event.journal}|{event.n}|{event.at}".encode()).hexdigest()[:16]


def _fits(rule: Rule, event: Event, phase: str) -> bool:
    return phase in rule.phases and all(not wanted or its in wanted for wanted, its in (
        (rule.conditions, event.condition), (rule.beacons, event.beacon), (rule.severities, event.severity),
        (rule.sites, event.site)))


def _item(rule: Rule, number: int, event: Event, phase: str, name: str) -> Item:
    """The reaction of an entry to an event. `number` 0: the queue gives it one."""
    data: dict[str, Any] = {
        "event": name, "key": hashlib.sha256(key_of(event).encode()).hexdigest()[:16], "phase": phase,
        "id": event.id, "site": event.site, "node": event.node, "role": event.role, "beacon": event.beacon,
        "condition": event.condition, "severity": event.severity, "since": event.since, "at": event.at,
        "journal": event.journal, "number": event.n, "settings": rule.settings}
    line: Line = {
        "id": event.id, "node": event.node, "role": event.role, "beacon": event.beacon, "condition": event.condition,
        "subject": event.subject, "severity": event.severity, "was": event.was, "is": event.now, "since": event.since,
        "at": event.at, "cause": event.cause, "once": event.once, "n": event.n, "journal": event.journal,
        "open": not event.recovered, "recovered_at": ""}
    said = catalogue.describe(line, event.site)
    texts = {"subject": event.subject, "was": event.was, "now": event.now, "cause": event.cause,
             "happened": said["happened"], "means": said["means"], "todo": said["todo"]}
    return {"number": 0, "site": event.site, "order": f"{number} {event.site}", "sls": [*map(path_of, rule.sls)],
            "tag": tag_of(event), "data": data, "texts": texts, "timeout": rule.timeout}
