"""
Reports when the IPsec daemon, a tunnel, or a certificate is not as it should be.

.. code-block:: yaml

    beacons:
      ipsec:
        - grace: 30        # seconds in which a peer brings its tunnel back after a takeover

``ipsec.glance`` looks at the daemon and never waits; this beacon judges what it returns. On the standby no tunnel is
expected. On the active node, a site-to-site tunnel that was up here and goes down is reported at once; one that has not
come up yet is reported after the grace time, and so is one whose peer may come back at another address. Roadwarriors
come and go as they like: that is reported as information.

``_ERROR_COUNTERS`` lists which of the kernel's counters (Documentation/networking/xfrm_proc) count as errors. It leaves
out counters that anybody on the internet can raise, and those that a tunnel raises merely by being down: packets
without an SA, which every takeover and every scan causes (XfrmInNoStates, XfrmOutNoStates), broken headers, clear text
where a tunnel should be (XfrmInTmplMismatch, XfrmInNoPols, XfrmInPolBlock, XfrmOutPolBlock), and SAs that end while
packets are on their way (...StateExpired, ...StateInvalid, XfrmOutPolDead, XfrmOutBundleCheckError, XfrmAcquireError).
"""
from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    from _modules.ipsec import Answer, Glance

    __salt__: dict[str, Callable]
    __context__: dict

__virtualname__ = "ipsec"

CONDITIONS = {
    "daemon_dead": "critical: the daemon does not run; once, when it died and systemd started it again",
    "daemon_hung": "critical: the daemon does not answer",
    "connection_missing": "warning: the daemon has not loaded a connection of its configuration",
    "tunnel_down": "critical: a site-to-site tunnel is down; info, once: a roadwarrior has gone",
    "tunnel_up": "info: a roadwarrior has come (once)",
    "rekey_failing": "warning: the time to renew a tunnel's keys has passed, and it still has the old ones",
    "liveness_timeout": "warning: a peer did not answer, and the daemon gave its tunnel up (once)",
    "one_way": "warning: packets go only one way through a tunnel in which they went both ways before",
    "xfrm_errors": "warning: the kernel's error counters rise (once)",
    "replay_drops": "warning: the kernel dropped packets as replayed (once)",
    "certificate_expiring": "warning, critical: a certificate ends soon, or has ended",
    "crl_expiring": "warning, critical: the next revocation list is due",
    "wrong_listen": "critical: the active node's daemon does not listen on the virtual IP",
    "connection_unserved": "critical: the active node's daemon does not recognise connections as its own",
    "address_of_node": "critical: the daemon serves on the node's own address",
}

GRACE_SECONDS = 30.0                    # in which a peer brings its tunnel back after a takeover
_COUNTER_REPORT_SECONDS = 60.0          # between two reports of the same counter
_ONE_WAY_SECONDS = 60.0                 # without a byte back: the tunnel carries one direction only
_TWO_WAY_SAMPLES = 3                    # in a row with bytes both ways: only then silence in one direction counts
_REKEY_LATE_SECONDS = 25.0              # after the time at which the keys should have been renewed
_REPLAY_PACKETS = 10                    # that make a report: single packets are only late
_LISTEN_SECONDS = 5.0                   # after a takeover the daemon must listen
_START_SECONDS = 20.0                   # after its start the daemon must have loaded its connections
_ADOPTED_SECONDS = 30.0                 # between two questions which tunnels this node has taken over
_BELIEVED_SECONDS = 3600.0              # after a takeover: then nobody knows whether the peer of an adopted one lives
_GONE_SECONDS = 5.0                     # without an SA: the roadwarrior has left
_REPORTED_SINGLY = 10                   # roadwarriors who come or leave at once get one event each; more share one
_CERTIFICATE_DAYS = (30, 7)             # before the end: warning, critical
_CRL_DAYS = (7, 2)                      # shorter: a list is published every few weeks, 30 days would always warn
_ERROR_COUNTERS = re.compile(
    r"Xfrm(InError|InBufferError|InStateProtoError|InStateModeError|InStateMismatch|InPolError|"
    r"OutError|OutBundleGenError|OutStateProtoError|OutStateModeError|OutStateSeqError|OutPolError|"
    r"(In|Out)StateDirError|InIptfsError|OutNoQueueSpace)")
# pluto's messages about a peer that no longer answers, of 4.x and 5.x (retransmit.c, ikev2_liveness.c, ikev1_dpd.c).
# A peer that has not answered the first message is another case: its tunnel is not up yet.
_NO_ANSWER = re.compile(
    r'^"(?P<name>[^"]+)"(?:\[\d+\])?(?: (?P<peer>[0-9a-fA-F.:]+))? #\d+: '
    r"(?P<said>.*(?:second timeout exceeded after \d+ retransmits(?!.*our first)|liveness action - |DPD action - ).*)")
# systemd's message (service.c), in the daemon's journal
_DIED = re.compile(r"Main process exited, code=(?P<how>\w+, status=[\w/]+)")
_BY_STATES = ("daemon_dead", "connection_missing", "wrong_listen", "connection_unserved", "tunnel_down")
_RELOAD_SECONDS = 10.0        # after a state has loaded its connection again, a tunnel is back
_AGENT_WORDS = ("alive", "hung", "dead")      # what the agent says about the daemon, if it knows
_FROM_ANSWERS = ("connection_missing", "tunnel_down", "rekey_failing", "one_way", "wrong_listen", "connection_unserved",
               "address_of_node")


def __virtual__() -> str | tuple[bool, str]:
    for function in ("ipsec.glance", "gateway_events.changed"):
        if function not in __salt__:
            return False, f"ipsec: {function} is missing; run saltutil.sync_modules"
    return __virtualname__


def validate(config: object) -> tuple[bool, str]:
    """The configuration may have `grace`, a number of seconds, and nothing else."""
    valid, said = __salt__["gateway_events.validate_config"](config, ["grace"])
    grace = _grace(config) if valid and isinstance(config, list) else GRACE_SECONDS
    if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not 0 <= grace <= 3600:
        return False, f"grace is {grace!r:.60}; give a number of seconds"
    return valid, said


def _grace(config: list) -> Any:
    return next((each["grace"] for each in config if "grace" in each), GRACE_SECONDS)


def beacon(config: list) -> list[dict]:
    """The events since the last call, signed."""
    if not __salt__["gateway_events.watched"]("openswan"):
        return []
    seen = __salt__["ipsec.glance"]()
    watch = __context__.get("ipsec.beacon")
    if watch is None:
        watch = __context__["ipsec.beacon"] = Watch(__salt__["gateway_events.memory"]("ipsec"))
    if seen is None:
        return []       # Salt has not written the configuration yet: the first state.apply has not come that far
    if watch.missing(seen):
        watch.ask_for_adopted(time.monotonic())
    told = watch.judge(seen, _agents_word(), time.monotonic(), datetime.datetime.now(datetime.UTC), _grace(config))
    _hold_back(told, watch, time.monotonic())
    return __salt__["gateway_events.changed"]("ipsec", told["conditions"], told["once"], sorted(told["unknown"]),
                                              told["memory"])


def _hold_back(told: dict, watch: Watch, now: float) -> None:
    """
    Hold new conditions back while states run: a state run loads connections again and restarts the standby's daemon.

    A tunnel that stays down is reported even while states run.
    """
    doubtful = {key for key in told["conditions"] if key.partition(":")[0] in _BY_STATES}
    watch.doubtful = {key: watch.doubtful.get(key, now) for key in doubtful}
    new = {key for key in doubtful - watch.believed
           if not key.startswith("tunnel_down:") or now - watch.doubtful[key] < _RELOAD_SECONDS}
    if new and __salt__["watching.states_run"]():
        for key in new:
            del told["conditions"][key]
            told["unknown"].add(key.partition(":")[0])
        doubtful -= new
    watch.believed = doubtful


def _agents_word() -> str:
    """The agent's word about the daemon; "" without an agent."""
    found = __salt__["heartbeat.glance"]() if "heartbeat.glance" in __salt__ else {}
    return str(found.get("daemon") or "")


class Watch:
    """What is remembered of the daemon from one look to the next, and the conclusions from it."""

    def __init__(self, memory: dict) -> None:
        self.up: set[str] = set()               # tunnels that are up, by the daemon's last answer
        self.was_up = set(memory.get("up", []))
        self.down = set(memory.get("down", []))     # reported as down
        self.missed: dict[str, float] = {}      # since when a tunnel is down whose peer may come back elsewhere
        self.people: dict[str, str] | None = memory.get("people")
        self.leaving: dict[str, float] = {}
        self.serves: bool | None = None
        self.since = self.started = float("-inf")       # when this node became active; when the daemon started
        self.pid: int | None = None
        self.adopted: set[str] = set()          # tunnels that this node carries and its daemon does not know
        self.asked = float("-inf")              # when that was last asked
        self.dead = float("-inf")               # when the daemon's death was last reported
        self.lived = False                      # the agent has called it alive: it is not still starting at boot
        self.late: dict[str, float] = {}
        self.answer: Answer | None = None       # the daemon's last one
        self.answered = 0.0
        self.traffic: dict[str, dict] = {}
        self.replays: dict[str, int] = {}
        self.counters: dict[str, int] | None = None
        self.counted: dict[str, float] = {}
        self.dates: dict[str, dict] | None = None
        self.believed: set[str] = set()         # reported conditions that a state run may cause
        self.doubtful: dict[str, float] = {}    # such conditions, and when each began

    def judge(self, seen: Glance, word: str, now: float, date: datetime.datetime, grace: float) -> dict:
        """
        Args: what ``ipsec.glance`` returned; the agent's word about the daemon; seconds; the date; grace seconds.

        Returns ``conditions``, ``once``, ``unknown`` and ``memory`` for ``gateway_events.changed``.
        """
        conditions: dict[str, dict] = {}
        once: list[dict] = []
        unknown: set[str] = set()
        self._note_changes(seen, now)
        self.lived = self.lived or bool(seen["process"]) and word == "alive"
        # The agent knows at once, and says "dead" until the next daemon answers; systemd starts that within 0.5 s.
        dead = seen["process"] is False or bool(seen["process"]) and self.lived and word == "dead"
        hung = bool(seen["process"]) and (word == "hung" or word not in _AGENT_WORDS and seen["hung"])
        if seen["process"] is None:
            unknown.update(("daemon_dead", "daemon_hung"))
        elif dead:
            self.dead = now
            conditions["daemon_dead:pluto"] = _condition(
                "critical", "running", "dead", "its process has ended" + (
                    ", and the next one does not answer yet" if seen["process"] else ""), {"serves": seen["serves"]})
        elif hung:
            conditions["daemon_hung:pluto"] = _condition(
                "critical", "answering", "does not answer", "its process is there and leaves questions unanswered",
                {"pid": seen["pid"], "serves": seen["serves"]})
        if seen["answer"]:
            self._take(seen["answer"], now)
        self.up -= set(seen["gone"])
        if not seen["process"] or hung or self.answer is None:
            unknown.update(_FROM_ANSWERS)
        else:
            self._connections(seen, self.answer, now, conditions)
            self._tunnels(seen, now, grace, conditions)
            if seen["answer"] and seen["serves"]:
                self._people(seen, seen["answer"], now, once)
            self._listens(seen, self.answer, now, conditions)
            if seen["answer"]:
                self._one_way(seen["answer"], now)
            conditions |= self._silences(now)
            conditions |= {f"rekey_failing:{name}": _condition(
                "warning", "renewed in time", "not renewed", "the time to renew the keys has passed; the tunnel ends "
                "when they do", {"peer": seen["tunnels"][name]["peer"]})
                for name, when in self.late.items() if now - when >= _REKEY_LATE_SECONDS and name in seen["tunnels"]}
        once += self._journal(seen, now)
        once += self._counters(seen, now)
        if seen["dates"] is not None:
            self.dates = seen["dates"]
        if self.dates is None:
            unknown.update(("certificate_expiring", "crl_expiring"))
        else:
            conditions |= _expiring(self.dates, date)
        return {"conditions": conditions, "once": once, "unknown": unknown, "memory": {
            "up": sorted(self.was_up), "down": sorted(self.down), "people": self.people}}

    def _note_changes(self, seen: Glance, now: float) -> None:
        """After a change of the daemon or the role, what was known of the tunnels no longer holds."""
        if seen["serves"] != self.serves:
            if self.serves is not None:
                self.was_up.clear()
                self.leaving.clear()
                self.people = None if seen["serves"] else {}
                self.adopted, self.asked = set(), float("-inf")
            self.serves, self.since = seen["serves"], now
            self.traffic.clear()
        if seen["pid"] != self.pid:
            if self.pid is not None:
                # It takes a while until all tunnels are back; the daemon's death is reported for this.
                self.was_up.clear()
            self.pid, self.started, self.answer = seen["pid"], now, None
            self.up.clear()
            self.traffic.clear()
            self.replays.clear()

    def _take(self, answer: Answer, now: float) -> None:
        self.answer, self.answered = answer, now
        self.late = {name: self.late.get(name, now) for name in answer["late"]}
        self.up = {name for name, each in answer["connections"].items() if each["up"]}
        self.adopted -= self.up     # its peer has called: the adopted one ends within seconds

    def _connections(self, seen: Glance, answer: Answer, now: float, conditions: dict) -> None:
        missing = seen["tunnels"].keys() - answer["connections"].keys()
        if now - self.started >= _START_SECONDS:
            for name in missing:
                conditions[f"connection_missing:{name}"] = _condition(
                    "warning", "loaded", "not loaded", "the configuration has it and the daemon has not",
                    {"peer": seen["tunnels"][name]["peer"]})

    def missing(self, seen: Glance) -> bool:
        """Whether this node serves and a site-to-site tunnel is not up, by the daemon's last answer."""
        return seen["serves"] and any(each["site"] and name not in self.up for name, each in seen["tunnels"].items())

    def ask_for_adopted(self, now: float) -> None:
        """
        Learn which tunnels were adopted at a takeover: they work until their peer calls again.

        Seldom, because the answer may take seconds where that process hangs, and a beacon must not wait.
        """
        if now - self.asked < _ADOPTED_SECONDS or "ipsec.adopted" not in __salt__:
            return
        self.asked = now
        try:
            self.adopted = {each["tunnel"] for each in __salt__["ipsec.adopted"]()}
        except CommandExecutionError:
            self.adopted = set()        # heartbeat/sessions_lost tells that

    def _tunnels(self, seen: Glance, now: float, grace: float, conditions: dict) -> None:
        expected = {name for name, each in seen["tunnels"].items()
                    if seen["serves"] and each["site"]}
        if now - self.since < _BELIEVED_SECONDS:
            expected -= self.adopted
        self.was_up = (self.was_up | self.up) & expected
        self.down &= expected - self.up
        late = now - max(self.since, self.started) >= grace
        # A line that gets a new address every night, or a second line that takes over, is no fault for a moment.
        self.missed = {name: self.missed.get(name, now) for name in expected - self.up
                       if seen["tunnels"][name]["moves"]}
        self.down |= {name for name in expected - self.up if (late or name in self.was_up)
                      and now - self.missed.get(name, float("-inf")) >= grace}
        for name in self.down:
            each = seen["tunnels"][name]
            cause = "it was up on this node" if name in self.was_up else "it has not come up on this node"
            waits = "this end calls" if each["calls"] else "the peer calls"
            conditions[f"tunnel_down:{name}"] = _condition(
                "critical", "up", "down", f"{cause}; {waits}", {"peer": each["peer"], "kind": "site-to-site"})

    def _people(self, seen: Glance, answer: Answer, now: float, once: list[dict]) -> None:
        """Report who has come and gone. A roadwarrior who calls again within a moment was never away."""
        here: dict[str, str] = {}
        for name, each in answer["connections"].items():
            if name in seen["tunnels"] and not seen["tunnels"][name]["site"]:
                here |= {f"{name}/{sa['peer_id'] or sa['peer']}": sa["peer"] for sa in each["sas"]}
        if self.people is None:
            # After a takeover, or at the first look: they are here already, and did not just come.
            self.people = here
            return
        come = sorted(here.keys() - self.people.keys())
        for key in self.people.keys() & here.keys():
            self.leaving.pop(key, None)
        for key in self.people.keys() - here.keys():
            self.leaving.setdefault(key, now)
        left = sorted(key for key, when in self.leaving.items()
                      if now - when >= _GONE_SECONDS or key not in self.people)
        once += _of_people("tunnel_up", "away", "connected", {key: here[key] for key in come})
        once += _of_people("tunnel_down", "connected", "gone", {key: self.people.get(key, "") for key in left})
        for key in left:
            del self.leaving[key]
        self.people = {**{key: peer for key, peer in self.people.items() if key in self.leaving}, **here}

    def _listens(self, seen: Glance, answer: Answer, now: float, conditions: dict) -> None:
        on = {each["address"] for each in answer["listening"]}
        unheard, unserved, fixed = answer["unheard"], answer["unserved"], answer["fixed"]
        has_to = seen["serves"] and self.answered - max(self.since, self.started) >= _LISTEN_SECONDS
        if has_to and unheard:
            conditions["wrong_listen:pluto"] = _condition(
                "critical", "listens on the virtual address", f"does not listen on {', '.join(unheard)}",
                "the daemon was not told of the address", {"listens": sorted(on)[:20]})
        if has_to and unserved:
            conditions["connection_unserved:pluto"] = _condition(
                "critical", "serves its connections", f"takes {_some(unserved)} for nobody's",
                "it listens, but refuses every peer; its journal has \"connection matches both\" if it knows an "
                "address twice", {"connections": unserved[:20]})
        own = on - {fixed} if fixed else set()
        for address in sorted(own | set(answer["foreign"])):
            conditions[f"address_of_node:{address}"] = _condition(
                "critical", "the virtual address only", "listens there" if address in own else "a tunnel ends there",
                "peers would stay with this node after a takeover", {})

    def _one_way(self, answer: Answer, now: float) -> None:
        """
        Take a sample of each tunnel's bytes.

        Silence in one direction is normal for some uses (logs, video). So it counts only if bytes went both ways in
        three samples in a row before, and only while the other direction continues.
        """
        for name, each in answer["connections"].items():
            total = [sum(sa[key] for sa in each["sas"]) for key in ("in_bytes", "out_bytes")]
            numbers = sorted(sa["number"] for sa in each["sas"])
            old = self.traffic.get(name)
            if not numbers:
                self.traffic.pop(name, None)
                continue
            if old is None or old["numbers"] != numbers:
                # A new SA counts from 0; what was learned about the tunnel stays.
                self.traffic[name] = {"numbers": numbers, "total": total, "both": old["both"] if old else 0,
                                      "at": now, "silent": None}
                continue
            if now - old["at"] < 10:
                continue
            rose = [after > before for before, after in zip(old["total"], total, strict=True)]
            old |= {"total": total, "at": now}
            if all(rose):
                old |= {"both": old["both"] + 1, "silent": None}
            elif any(rose) and old["both"] >= _TWO_WAY_SAMPLES:
                way = "in" if rose[1] else "out"
                if not old["silent"] or old["silent"][0] != way:
                    old["silent"] = (way, now)
            elif any(rose):
                old["both"] = 0

    def _silences(self, now: float) -> dict[str, dict]:
        found = {}
        for name, each in self.traffic.items():
            if each["silent"] and now - each["silent"][1] >= _ONE_WAY_SECONDS:
                way = "in" if each["silent"][0] == "in" else "out"
                other = {"in": "out", "out": "in"}[way]
                found[f"one_way:{name}"] = _condition(
                    "warning", "packets both ways", f"packets {other} only",
                    f"for a minute bytes went {other} and none {way}",
                    {"in_bytes": each["total"][0], "out_bytes": each["total"][1]})
        return found

    def _journal(self, seen: Glance, now: float) -> list[dict]:
        found = {}
        for line in seen["journal"]:
            died = _DIED.search(line)
            if died and now - self.dead > _START_SECONDS:
                # It had died and was running again before this beacon looked.
                self.dead = now
                found["pluto"] = _condition("critical", "running", "died, and was started again",
                                            f"its process ended: {died['how']}", {"serves": seen["serves"]}) | {
                    "condition": "daemon_dead", "subject": "pluto"}
            match = _NO_ANSWER.match(line)
            if match:
                subject = match["name"] + (f"/{match['peer']}" if match["peer"] else "")
                found[subject] = _condition("warning", "answering", "silent", match["said"][:300], {}) | {
                    "condition": "liveness_timeout", "subject": subject}
        return list(found.values())[:_REPORTED_SINGLY]

    def _counters(self, seen: Glance, now: float) -> list[dict]:
        found = []
        if seen["counters"] is not None:
            before, self.counters = self.counters or seen["counters"], self.counters or dict(seen["counters"])
            for name, value in seen["counters"].items():
                rise = value - before.get(name, 0)
                replay = name == "XfrmInStateSeqError"
                if value < before.get(name, 0) or not (replay or _ERROR_COUNTERS.fullmatch(name)):
                    self.counters[name] = value
                elif rise >= (_REPLAY_PACKETS if replay else 1) and self._may_report(name, now):
                    self.counters[name], self.counted[name] = value, now
                    found.append(_condition("warning", str(before.get(name, 0)), str(value), "", {"rise": rise}) | {
                        "condition": "replay_drops" if replay else "xfrm_errors", "subject": name})
        if seen["answer"]:
            for name, value in seen["answer"]["replays"].items():
                rise, key = value - self.replays.get(name, value), f"replay {name}"
                if rise <= 0:
                    self.replays[name] = value
                elif rise >= _REPLAY_PACKETS and self._may_report(key, now):
                    self.replays[name], self.counted[key] = value, now
                    found.append(_condition("warning", str(value - rise), str(value), "", {"rise": rise}) | {
                        "condition": "replay_drops", "subject": name})
        return found

    def _may_report(self, counter: str, now: float) -> bool:
        """Whether this counter's last report is long enough ago."""
        return now - self.counted.get(counter, -_COUNTER_REPORT_SECONDS) >= _COUNTER_REPORT_SECONDS


def _condition(severity: str, was: str, now: str, cause: str, facts: dict) -> dict:
    return {"severity": severity, "was": was, "is": now, "cause": cause, "facts": facts}


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _of_people(condition: str, was: str, now: str, people: dict[str, str]) -> list[dict]:
    """One event for each person; if there are many at once, as after a takeover, one for all of them."""
    if len(people) > _REPORTED_SINGLY:
        text = f"{len(people)} roadwarriors"
        return [_condition("info", was, now, "", {"people": sorted(people)[:50]}) | {
            "condition": condition, "subject": text}]
    return [_condition("info", was, now, "", {"peer": peer, "kind": "roadwarrior"}) | {
        "condition": condition, "subject": key} for key, peer in people.items()]


def _expiring(dates: dict[str, dict], date: datetime.datetime) -> dict[str, dict]:
    """The conditions of certificates and lists that end soon. `dates`: as from ``nss.dates``."""
    found: dict[str, dict] = {}
    for name, text in dates["certificates"].items():
        found |= _ending(f"certificate_expiring:{name}", text, date, _CERTIFICATE_DAYS, "renew it")
    for name, each in dates["lists"].items():
        found |= _ending(f"crl_expiring:{name}", each["next_update"], date, _CRL_DAYS, "publish the next one")
    return found


def _ending(key: str, text: str, now: datetime.datetime, days: tuple[int, int], what: str) -> dict[str, dict]:
    end = datetime.datetime.fromisoformat(text)
    left = end - now
    if left > datetime.timedelta(days=days[0]):
        return {}
    severity = "warning" if left > datetime.timedelta(days=days[1]) else "critical"
    # The date, not the remaining time: that would be a different text every day.
    words = f"{'ends' if left > datetime.timedelta(0) else 'ended'} on {end:%Y-%m-%d %H:%M} UTC"
    return {key: _condition(severity, "valid for long", words, f"nobody has renewed it yet; {what}", {"end": text})}
