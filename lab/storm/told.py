"""Whether each fault that must be told is told, and ends: from the alerts on the master's bus."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lab.storm.calendar import Burst
from lab.storm.invariants import Violation
from lab.storm.schedule import ACTIVE, STANDBY

TAG = "gateway/alert/"
# Until an alert names what happened: what joins an incident and ends soon is named only when the incident is over
# (docs/monitoring.md, "Limits"), and a silent node is asked twice, a minute apart.
TOLD_SECONDS = 240.0
# Conditions that are open without a fault: the lab's certificates are valid for a month; a node that has booted is
# compared by the engine gateway_resync, which is off in a lab unless --resync is given.
ALWAYS = ("the certificate ", "the revocation list ")


@dataclass(frozen=True)
class Expected:
    """One of these conditions must be told. `by`: the node that can see it: `itself`, `other` or `any`."""

    by: str
    conditions: frozenset[str]


def _any(*conditions: str, by: str = "any") -> Expected:
    return Expected(by, frozenset(conditions))


# What docs/takeover.md and docs/monitoring.md say is told. The death of an agent, which starts anew at once, is not.
EXPECTED = {
    "crash": _any("peer_dead", by="other"),
    "hang": _any("peer_dead", by="other"),
    "woken": _any("peer_dead", "role_changed", by="other"),
    "one NIC": _any("slave_down", "slave_flapped", by="itself"),
    "both NICs": _any("bond_down", by="itself"),
    "switch cut": _any("slave_down", "slave_flapped"),
    "upstream lost": _any("ping_node_dead", "role_changed"),
    "daemon killed": _any("daemon_dead", by="itself"),
    "daemon hung": _any("daemon_hung", "daemon_dead", by="itself"),
    "heartbeat killed": _any("heartbeat_stopped", "peer_dead", "role_changed", "agent_missing"),
    "switch-over": _any("role_changed"),
    "reboot": _any("peer_dead", "role_changed", "heartbeat_stopped"),
    "power-on": _any("peer_dead"),
    "one-way cut": _any("peer_dead", "link_dead", "apart"),
    "deaf": _any("peer_dead", "link_dead", "ping_node_dead", "apart"),
    "cut": _any("peer_dead", "apart"),
}

# What the pair notices of these ends with them; a shorter one may be over before anybody has noticed.
WHILE_IT_LASTS = {"hang", "both NICs", "upstream lost", "one-way cut", "deaf", "cut"}
LEAST_SECONDS = 4.0


@dataclass
class Owed:
    """Something that must be told. `since`, `until`: seconds since the epoch."""

    what: str
    conditions: frozenset[str]
    since: float
    until: float
    by: str = ""                 # the node that must say so; empty: any


@dataclass
class Told:
    """The alerts so far, and what must still come."""

    site: str
    said: list[tuple[float, str, str, str]] = field(default_factory=list)   # when, kind, node, condition
    owed: list[Owed] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    alerts: int = 0

    def hear(self, came: float, tag: str, data: dict[str, Any]) -> list[Violation]:
        """A message of the master's bus. What is no alert of this site is left out."""
        if not tag.startswith(f"{TAG}{self.site}/"):
            return []
        self.alerts += 1
        for line in data.get("conditions", ()):
            self.said.append((came, str(data.get("kind")), str(line.get("node")), str(line.get("condition"))))
        key = str(data.get("id")), str(data.get("kind"))
        if key in self.seen:
            return [Violation("alert repeated", f"the alert {key[0]} ({data.get('subject')}) came twice", came)]
        self.seen.add(key)
        return []

    def owe(self, burst: Burst, nodes: dict[str, str], moved_to: Iterable[str]) -> None:
        """What a burst that is over must have been told of. `nodes`: by role at its beginning, the node.

        A node that lost its power meanwhile need not have told what it saw; the other one tells its death.
        """
        until = burst.end + TOLD_SECONDS
        dark = {each.planned.target for each in burst.faults if each.planned.power}
        for each in burst.faults:
            expected = EXPECTED.get(each.planned.fault)
            if expected is None or not each.made or each.wrong or (
                    each.planned.fault in WHILE_IT_LASTS and each.planned.seconds < LEAST_SECONDS):
                continue
            target = each.planned.target
            seers = {"itself": [target], "other": [ACTIVE if target == STANDBY else STANDBY]}.get(
                expected.by, [ACTIVE, STANDBY])
            # power that goes is seen by the other node, so the struck node's darkness does not matter
            blind = dark - ({target} if each.planned.power and expected.by != "itself" else set())
            if not blind.intersection(seers) and len(dark) < 2:
                by = nodes[seers[0]] if len(seers) == 1 else ""
                self.owed.append(Owed(each.text(), expected.conditions, burst.begin, until, by))
        for node in moved_to:
            if node not in {nodes[role] for role in dark}:
                self.owed.append(Owed(f"{node} became active", frozenset({"role_changed"}), burst.begin, until, node))

    def check(self, now: float) -> list[Violation]:
        """What should have been told by now and was not."""
        left, found = [], []
        for each in self.owed:
            if any(came >= each.since and condition in each.conditions and each.by in ("", node)
                   for came, _kind, node, condition in self.said):
                continue
            if now <= each.until:
                left.append(each)
                continue
            heard = sorted({f"{node} {condition}" for came, _kind, node, condition in self.said if came >= each.since})
            found.append(Violation("alert lost", f"nobody was told {' or '.join(sorted(each.conditions))}"
                                   f"{each.by and ' of ' + each.by} within {TOLD_SECONDS:.0f} s: {each.what}; told "
                                   f"were: {', '.join(heard) or 'none'}", now))
        self.owed = left
        oldest = min((each.since for each in left), default=now - 2 * TOLD_SECONDS)
        self.said = [each for each in self.said if each[0] >= oldest]
        return found


def still_open(incidents: Iterable[dict[str, Any]], site: str) -> list[str]:
    """The conditions of `alerts.open` that must end: all but those that are open without a fault."""
    return [line for each in incidents if each["site"] == site for line in each["conditions"]
            if not line.startswith(ALWAYS)]
