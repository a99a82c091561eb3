"""Decides which alerts people get: events in, alerts out. No I/O.

Each call gets the time (in seconds since 1970, because incidents outlive a restart). One cause makes many events. So
what a site reports within 30 s is one *incident*. People get one alert when it begins, another one when it becomes more
severe or when further conditions join it and last, and a last one when all of it is over. A condition that comes and
goes all the time *flaps*: people get one alert when this begins and one when it has ended.

    event --> incident (waits 150 ms for further events) --> alert
                 |  a more severe condition joins                                         --> escalation
                 |  another condition joins, and still lasts after 10 s (critical) or 30 s --> update
                 |  something happens once more (a role that moves back), and not again for 10 s --> update
                 |  all of it is over                                                     --> recovery
    the same condition more than 4 times in 10 minutes --> flapping ... 10 minutes without it --> calm

A silence holds back everything but the end of what was told: a recovery or a calm goes out at once, with what people
were told of, and as severe as they were told. What began and ended during the silence is told nobody.
"""
from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from alerts.authentic import MASTER, Event, rank, within, worse
from alerts.incident import Alert, Flap, Incident, Settings
from alerts.shapes import Line

GATHER_SECONDS = 0.15  # a new incident waits this long for further events before its alert goes out
JOIN = 30.0  # seconds: events of the site within this time join the incident
STAYS_SECONDS = 10.0  # a critical condition that has joined, or something that has happened again: update after this
# Conditions of one node that the open incidents name, and their bytes as JSON. Of more, the least severe and the oldest
# of those that an alert has named already are only counted.
MAX_LINES_OF_NODE, MAX_BYTES_OF_NODE = 100, 64 * 1024
_LINE_BYTES = 6000  # of a condition, at most: authentic.py cuts what a node says
MORE_SECONDS = 60.0  # a critical condition joins an incident that was told and is only counted: update after this
MAX_INCIDENTS_OF_SITE = 30  # open incidents of a site; further conditions join the newest
MAX_RAISED_OF_NODE = 100  # conditions of a node that are watched for flapping
MAX_REMEMBERED_OF_NODE = 1000  # conditions of a node of which the newest event's number is kept
MAX_OF_MASTER = 20_000  # both, of the master itself, which speaks of all nodes
MAX_COUNTED = 500  # conditions of an incident that are not named and are counted only once


class IncidentMachine:
    """All open incidents. :meth:`state` has what must outlive a restart."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.incidents: dict[str, Incident] = {}
        self.silences: dict[str, float] = {}  # by site, until when
        self._of: dict[str, str] = {}  # by condition, the open incident that it is in
        # By minion id and condition, when it began within the last minutes.
        self._raised: dict[str, OrderedDict[str, list[float]]] = {}
        self._flaps: dict[str, Flap] = {}  # by condition
        # By minion id and condition, the last event's journal and n.
        self._newest: dict[str, OrderedDict[str, tuple[str, int]]] = {}
        self.unsure: set[str] = set()  # minion ids whose conditions are to be asked for: an incident did not name all

    # Events

    def take(self, now: float, event: Event, quiet: bool = False) -> list[Alert]:
        """
        Take a verified event.

        Args:
            now: the time.
            event: see authentic.Event.
            quiet: the other master has sent an alert of it: only remember it.

        Returns:
            The alerts that go out at once. :meth:`tick` returns the others.
        """
        key = key_of(event)
        if self._is_old(key, event):
            return []
        if not quiet:
            alerts = self._flapping(now, key, event)
            if alerts is not None:
                return alerts
        if event.recovered:
            return self._recovered(now, key, event, quiet)
        incident = self._note(now, key, event)
        if quiet:
            if key in incident.lines:
                incident.lines[key]["told"] = True
                incident.lines[key].pop("hushed", None)
            incident.told = max(incident.told, 1)
            incident.due = None
            incident.severity = worse(incident.severity, event.severity)
        elif not incident.told:
            incident.severity = worse(incident.severity, event.severity)
            incident.due = now + GATHER_SECONDS if incident.due is None else incident.due
        elif rank(event.severity) > rank(incident.severity):
            incident.severity, incident.update = event.severity, False
            incident.due = now + GATHER_SECONDS if incident.due is None else incident.due
        return []

    def present(self, now: float, minion: str, events: list[tuple[Event, bool]], asked: float) -> list[Alert]:
        """
        Take a node's list of all its conditions. A condition that is not in it is over, also without an event.

        Args:
            now: the time.
            minion: the node's minion id.
            events: the conditions, each with whether the other master has sent an alert of it.
            asked: when the node was asked; what came later may be missing in the answer.
        """
        for event, quiet in events:
            if key_of(event) not in self._of:
                self.take(now, event, quiet)
        still = {key_of(event) for event, _ in events}
        alerts = []
        for key in [key for key in self._of if key.startswith(f"{minion}|") and key not in still]:
            if key not in self._of:
                continue  # its incident has just ended with another condition
            line = self.incidents[self._of[key]].lines[key]
            if line["open"] and not line["once"] and line["taken"] < asked:
                alerts += self._over(now, key, None, quiet=False)
        return alerts

    def tick(self, now: float) -> list[Alert]:
        """Returns the alerts that are due at this time."""
        self.silences = {site: until for site, until in self.silences.items() if until > now}
        alerts = [self._flaps_now(now, key, flap) for key, flap in self._flaps.items()
                  if not flap.told and not self._silent(now, self.incidents[flap.incident])]
        for incident in list(self.incidents.values()):
            if incident.due is None and self._has_more(now, incident):
                incident.due, incident.update = now, True
            if incident.due is not None and incident.due <= now:
                alerts += self._tell(now, incident)
            if (incident.due is None and incident.over and now - incident.opened > JOIN
                    and not self._flaps_in(incident) and not any(map(_again, incident.lines.values()))):
                self._close(incident)
        for key, flap in list(self._flaps.items()):
            if now - flap.last >= self.settings.minutes * 60:
                alerts += self._calm(now, key, flap)
        oldest = now - self.settings.minutes * 60
        for minion, of in list(self._raised.items()):
            for key in [key for key, times in of.items() if times[-1] < oldest]:
                del of[key]
            if not of:
                del self._raised[minion]
        return alerts

    def phase(self, event: Event) -> str:
        """What an event that is not taken yet is to its condition: one of reaction_settings.PHASES. "" when a later one
        of it was taken: this one was missed and fetched afterwards."""
        key = key_of(event)
        before = self._newest.get(event.id, OrderedDict()).get(key)
        if before is not None and before[0] == event.journal and event.n <= before[1]:
            return ""
        if event.recovered or event.once:
            return "recovery" if event.recovered else "happened"
        line = self.incidents[self._of[key]].lines.get(key) if key in self._of else None
        if line is None or not line["open"]:
            return "opened"
        return "escalation" if rank(event.severity) > rank(line["severity"]) else "update"

    def open_now(self, beacon: str, condition: str) -> list[tuple[str, str, float]]:
        """Where a condition is the case now: site, minion id, and since when this engine knows of it."""
        # Not by a piece of the key: a subject can hold any text.
        lines = [(self.incidents[name].site, self.incidents[name].lines[key]) for key, name in self._of.items()]
        return [(site, line["id"], line["taken"]) for site, line in lines
                if line["open"] and (line["beacon"], line["condition"]) == (beacon, condition)]

    def next_due(self) -> float | None:
        """When the next alert is due, so that :meth:`tick` is called in time; None when none is."""
        return min((incident.due for incident in self.incidents.values() if incident.due is not None), default=None)

    # Incidents

    def _has_more(self, now: float, incident: Incident) -> bool:
        """Whether an update is due: since the last alert a condition has joined and has lasted long enough, or
        something has happened once more and not again for a while."""
        return any(_again(line) and now - line["taken"] >= STAYS_SECONDS
                   or line["open"] and not line["told"] and not line["once"] and line["severity"] != "info"
                   and now - line["taken"] >= (STAYS_SECONDS if line["severity"] == "critical" else JOIN)
                   for key, line in incident.lines.items() if key not in self._flaps)

    def _is_old(self, key: str, event: Event) -> bool:
        """Whether a later event of this condition was taken already: this one was missed and fetched afterwards."""
        of = self._newest.setdefault(event.id, OrderedDict())
        journal, number = of.get(key, ("", 0))
        if journal == event.journal and event.n <= number:
            return True
        of[key] = event.journal, event.n
        of.move_to_end(key)
        if len(of) > (MAX_OF_MASTER if event.id == MASTER else MAX_REMEMBERED_OF_NODE):
            of.popitem(last=False)
        return False

    def _incident_for(self, now: float, key: str, event: Event) -> Incident:
        if key in self._of:
            return self.incidents[self._of[key]]
        of_site = [incident for incident in self.incidents.values() if incident.site == event.site]
        joined = [incident for incident in of_site if now - incident.opened <= JOIN
                  and not (incident.told and incident.lasting and incident.over)]
        if not joined and len(of_site) >= MAX_INCIDENTS_OF_SITE:
            joined = of_site
        if joined:
            return joined[-1]
        name = hashlib.sha256(f"{event.id}|{event.journal}|{event.n}|{event.at}".encode()).hexdigest()[:12]
        incident = Incident(name, event.site, now, event.severity)
        self.incidents[name] = incident
        return incident

    def _note(self, now: float, key: str, event: Event) -> Incident:
        """Writes the event into the line of its condition, or counts it. Returns the incident that has it."""
        incident = self._incident_for(now, key, event)
        before = incident.lines.get(key)
        still = before if before and before["open"] else None  # it was the case already
        # Something that only happens has happened once more: the last alert is out of date.
        again = event.once and incident.told > 0 and before is not None
        line: Line = {
            "id": event.id, "node": event.node, "role": event.role, "beacon": event.beacon,
            "condition": event.condition, "subject": event.subject, "severity": event.severity, "was": event.was,
            "since": event.since, "at": event.at, "cause": event.cause, "once": event.once,
            "n": event.n, "journal": event.journal, "is": event.now, "open": not event.once, "again": again,
            "recovered_at": "", "told": still is not None and still["told"],
            "taken": still["taken"] if still else now}
        if self._silent(now, incident) and (before is None or before.get("hushed")):
            line["hushed"] = True
        if not self._make_room(incident, key, line):
            if before is None:
                if not incident.lines:
                    # It would name nothing. The newest one that names something says that there is more.
                    del self.incidents[incident.id]
                    incident = [each for each in self.incidents.values() if each.site == event.site and each.lines][-1]
                if self._count(incident, key, line) and line["severity"] == "critical" and incident.told \
                        and incident.due is None:
                    incident.due, incident.update = now + MORE_SECONDS, True
                return incident
            line["was"], line["cause"], line["is"] = "", "", within(line["is"], 60)
        incident.lines[key] = line
        if not event.once:
            self._of[key] = incident.id
        return incident

    # What one node may say at all

    def _make_room(self, incident: Incident, key: str, line: Line) -> bool:
        """Whether the open incidents may name one more condition of this node. For a more severe one, and for a new
        one in place of one that an alert has named, the lesser ones are counted from now on."""
        its = [(other, name, each) for other in self.incidents.values() if other.site == incident.site
               for name, each in other.lines.items() if each["id"] == line["id"] and name != key]
        lines = len(its) + 1 - MAX_LINES_OF_NODE
        if not its or lines <= 0 and (len(its) + 1) * _LINE_BYTES <= MAX_BYTES_OF_NODE:
            return True
        size = sum(_size(name, each) for _, name, each in its) + _size(key, line) - MAX_BYTES_OF_NODE
        lesser = []
        for other, name, each in sorted(its, key=lambda one: (rank(one[2]["severity"]), not one[2]["told"],
                                                              one[2]["taken"])):
            if lines <= 0 and size <= 0:
                break
            if (rank(each["severity"]), not each["told"]) >= (rank(line["severity"]), True):
                return False
            lesser.append((other, name))
            lines, size = lines - 1, size - _size(name, each)
        if lines > 0 or size > 0:
            return False
        for other, name in lesser:
            self._condense(other, name, incident)
        return True

    def _condense(self, incident: Incident, key: str, into: Incident) -> None:
        """From now on a condition is only counted, in another incident of the same site."""
        self._count(into, key, incident.lines.pop(key))
        self._flaps.pop(key, None)
        if self._of.get(key) == incident.id:
            del self._of[key]
        if not incident.lines and incident is not into:
            into.more, into.severe = into.more + incident.more, into.severe + incident.severe
            into.unnamed = sorted({*into.unnamed, *incident.unnamed})
            into.counted = [*into.counted, *incident.counted][-MAX_COUNTED:]
            del self.incidents[incident.id]

    def _count(self, incident: Incident, key: str, line: Line) -> bool:
        """Counts a condition that its incident does not name. Returns whether it was not counted already."""
        # So that the node's own list can bring it back (present).
        self._newest.get(line["id"], OrderedDict()).pop(key, None)
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        if digest in incident.counted:
            return False
        incident.counted = [*incident.counted, digest][-MAX_COUNTED:]
        incident.more += 1
        incident.severe += line["severity"] == "critical"
        incident.unnamed = sorted({*incident.unnamed, line["id"]})
        return True

    def _recovered(self, now: float, key: str, event: Event, quiet: bool) -> list[Alert]:
        if key not in self._of:
            return []
        return self._over(now, key, event, quiet)

    def _over(self, now: float, key: str, event: Event | None, quiet: bool) -> list[Alert]:
        """Ends a condition. `event`: the one that says so; None when the node only stopped listing the condition."""
        incident = self.incidents[self._of[key]]
        _end(incident.lines[key], event)
        if not incident.over or self._flaps_in(incident):
            return []
        if not incident.told:
            if incident.held:
                self._close(incident)  # it began and ended during a silence
            return []  # its alert is due in a moment, and will name the end too
        alert = self._alert(now, incident, "recovery")
        self._close(incident)
        return [] if quiet else [alert]

    def _silent(self, now: float, incident: Incident) -> bool:
        """Whether its site is silenced."""
        return self.silences.get(incident.site, 0.0) > now

    def _tell(self, now: float, incident: Incident) -> list[Alert]:
        if self._silent(now, incident):
            incident.due, incident.held = self.silences[incident.site], True
            return []
        if incident.held and not incident.told and incident.over and not self._flaps_in(incident) and all(
                line.get("hushed") for line in incident.lines.values()):
            self._close(incident)  # it began and ended during the silence
            return []
        incident.due = None
        kind = "alert" if not incident.told else "update" if incident.update else "escalation"
        alert = self._alert(now, incident, kind)
        incident.held = incident.update = False
        if incident.over and incident.lasting and not self._flaps_in(incident):
            self._close(incident)
        return [alert]

    def _alert(self, now: float, incident: Incident, kind: str, only: str = "") -> Alert:
        """The alert of an incident as it is now; with `only`, of this one condition."""
        incident.told += 1
        ends = kind == "recovery"
        chosen = [line for key, line in incident.lines.items() if (not only or key == only)
                  and not (ends and line.get("hushed"))] or [*incident.lines.values()]
        new = kind == "update"
        lines = sorted((line.copy() for line in chosen), key=lambda line: (
            new and (line["told"] or not line["open"] and not line["once"]), -rank(line["severity"]), line["at"]))
        for line in chosen:
            line["told"] = True
            line.pop("hushed", None)
        severity = lines[0]["severity"] if only and lines else incident.severity
        if ends and (incident.held or self._silent(now, incident)):
            severity = incident.told_severity or severity  # a silence has held back that it was more severe
        incident.told_severity = worse(incident.told_severity or severity, severity)
        return Alert(f"{incident.id}-{incident.told}", kind, incident.site, severity, now, incident.id, lines,
                     0 if only else incident.more, 0 if only else incident.severe, incident.held and not ends)

    def _close(self, incident: Incident) -> None:
        self.incidents.pop(incident.id, None)
        self.unsure |= set(incident.unnamed)  # what was only counted may last
        for key in incident.lines:
            if self._of.get(key) == incident.id:
                del self._of[key]

    # Flapping

    def _flapping(self, now: float, key: str, event: Event) -> list[Alert] | None:
        """The alerts of a condition that flaps; None when it does not."""
        flap = self._flaps.get(key)
        if not event.recovered:
            of = self._raised.setdefault(event.id, OrderedDict())
            times = of.setdefault(key, [])
            of.move_to_end(key)
            if len(of) > (MAX_OF_MASTER if event.id == MASTER else MAX_RAISED_OF_NODE):
                of.popitem(last=False)
            times[:] = [at for at in times if now - at <= self.settings.minutes * 60][-self.settings.times:] + [now]
            if flap is None and len(times) <= self.settings.times:
                return None
        if flap is None:
            if event.recovered:
                return None
            incident = self._note(now, key, event)
            if key not in incident.lines:
                incident.severity = worse(incident.severity, event.severity)
                return []
            self._of[key] = incident.id
            incident.severity = worse(incident.severity, event.severity)
            self._flaps[key] = flap = Flap(incident.id, now, now, len(times), told=False)
            if self._silent(now, incident):
                incident.held = True
                return []
            return [self._flaps_now(now, key, flap)]
        flap.last = now
        flap.times += not event.recovered
        incident = self.incidents[flap.incident]
        if event.recovered:
            _end(incident.lines[key], event)
        else:
            self._note(now, key, event)
        incident.lines[key]["times"] = flap.times
        return []

    def _flaps_now(self, now: float, key: str, flap: Flap) -> Alert:
        """The alert that a condition flaps."""
        incident = self.incidents[flap.incident]
        incident.due, flap.told = None, True
        alert = self._alert(now, incident, "flapping", key)
        incident.held = False
        return alert

    def _flaps_in(self, incident: Incident) -> bool:
        return any(flap.incident == incident.id for flap in self._flaps.values())

    def _calm(self, now: float, key: str, flap: Flap) -> list[Alert]:
        del self._flaps[key]
        incident = self.incidents[flap.incident]
        self._raised.get(incident.lines[key]["id"], OrderedDict()).pop(key, None)
        alerts = [self._alert(now, incident, "calm", key)] if flap.told else []
        if incident.over and not self._flaps_in(incident):
            if incident.told and not flap.told:
                alerts = [self._alert(now, incident, "recovery")]
            self._close(incident)
        return alerts

    # What outlives a restart

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes, as JSON."""
        return {"incidents": [asdict(incident) for incident in self.incidents.values()],
                "raised": {key: times for of in self._raised.values() for key, times in of.items()},
                "flaps": {key: asdict(flap) for key, flap in self._flaps.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """
        Continue from :meth:`state`.

        Raises:
            KeyError, TypeError, ValueError: `state` is something else.
        """
        self.incidents, self._raised = {each["id"]: Incident(**each) for each in state["incidents"]}, {}
        for key, times in state["raised"].items():
            of = self._raised.setdefault(key.partition("|")[0], OrderedDict())
            if times and len(of) < MAX_RAISED_OF_NODE:
                of[key] = [float(at) for at in times]
        self._shorten()
        self._flaps = {key: Flap(**flap) for key, flap in state["flaps"].items() if flap["incident"] in self.incidents}
        self._of = {key: incident.id for incident in self.incidents.values() for key, line in incident.lines.items()
                    if line["open"] or key in self._flaps}

    def _shorten(self) -> None:
        """Brings what an earlier tree has saved within the limits: the newest incidents and the most severe stay."""
        left: dict[tuple[str, str], list[int]] = {}
        for incident in reversed([*self.incidents.values()]):
            for key, line in sorted(incident.lines.items(), key=lambda each: -rank(each[1]["severity"])):
                line.pop("facts", None)  # type: ignore[typeddict-item]
                of, size = left.setdefault((incident.site, line["id"]), [MAX_LINES_OF_NODE, MAX_BYTES_OF_NODE]), \
                    _size(key, line)
                if of[0] > 0 and of[1] >= size or of[0] == MAX_LINES_OF_NODE:
                    of[0], of[1] = of[0] - 1, of[1] - size
                else:
                    self._count(incident, key, incident.lines.pop(key))
            if not incident.lines:
                self._close(incident)

def _end(line: Line, event: Event | None) -> None:
    """The condition is over, as `event` says (None: without an event)."""
    line["open"], line["recovered_at"] = False, event.at if event else ""
    if event:
        line["was"], line["is"] = event.was, event.now


def _again(line: Line) -> bool:
    """Whether it has happened once more since the last alert. (Lines saved by an earlier tree have no key `again`.)"""
    return bool(line.get("again")) and not line["told"] and not line.get("hushed")


def _size(key: str, line: Line) -> int:
    """The bytes of a condition in the state."""
    return len(json.dumps(key)) + len(json.dumps(line))


def key_of(event: Event) -> str:
    """The key of an event's condition: two events with the same key are about the same condition."""
    return f"{event.id}|{event.beacon}|{event.condition}|{event.subject}"


Machine = IncidentMachine  # its name before 1.0.0; goes with 1.1
