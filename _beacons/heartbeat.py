"""
What happens to the pair of gateways, as one node sees it
=========================================================

At each look the beacon asks the role agent (``heartbeat.glance``, a tenth of a second at most) and reads its history,
which lists every change of the role with its cause, however short the role lasted. In the profile ``paper`` there is no
agent: the beacon takes the role from the addresses, does not know the causes, and what heartbeat itself reports is up
to five seconds old.

The beacon reports nothing that it can not know: while heartbeat or the agent is silent, links and ping nodes keep the
state that was last reported.

.. code-block:: yaml

    beacons:
      heartbeat: []
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

__virtualname__ = "heartbeat"

CONDITIONS = {
    "role_changed": "critical, warning or info, once: this node is active, or standby, now",
    "split": "critical: both nodes are active",
    "none_active": "critical: neither this node is active nor the other",
    "peer_dead": "critical: the other node's heartbeat is not heard any more",
    "heartbeat_stopped": "critical: heartbeat does not run on this node",
    "agent_missing": "critical: heartbeat runs, and its role agent does not answer",
    "not_ready": "warning: this node is standby and could not take over",
    "link_dead": "warning: the other node is not heard over one of the paths",
    "ping_node_dead": "warning: a ping node does not answer this node",
    "disagree": "warning: the decider and the addresses held do not agree on the role, or did not a moment ago",
    "clock_offset": "warning: the two nodes' clocks differ",
    "starved": "warning: this machine, or the other, stands still again and again",
    "sessions_lost": "warning: the tunnels of this node would not survive a takeover",
}
# Causes that a person or the site's own settings asked for. Any other is a fault. The texts are in agent/verbs.py,
# agent/standby.py, agent/serving.py and agent/group.py.
_ASKED = re.compile(r"(switch-over|asked for|failback|heartbeat ends on [a-z0-9-]+$|[a-z0-9-]+ (yields|asks)$)")
# Causes that nobody asked for, and still need no fault: both nodes were just switched on, or a hand-over was refused.
_UNCLEAR = re.compile(r"(nobody is active$|taken back)")
# How long a condition must last before it is reported. A restarted agent is back within 1 s, a hand-over takes 1 s.
_SETTLE_SECONDS, _NOT_READY_SECONDS = 2, 3
_SESSIONS_SECONDS = 10  # a restarted process, or one whose path has failed, has all copies again within some seconds
CLOCK_OFFSET_SECONDS = 1.0  # a larger difference between the two clocks is reported
_BY_PEER = ("peer_dead", "link_dead", "ping_node_dead", "clock_offset")


def __virtual__() -> str | tuple[bool, str]:
    if "gateway_events.changed" not in __salt__ or "heartbeat.glance" not in __salt__:
        return False, "heartbeat: the execution modules gateway_events and heartbeat are missing; run saltutil.sync_all"
    return __virtualname__


def validate(config: object) -> tuple[bool, str]:
    """Check the beacon's configuration. It takes none: the site says what to watch."""
    return __salt__["gateway_events.validate_config"](config)


def beacon(config: list) -> list[dict]:
    """The events since the last call."""
    settings = __salt__["gateway_events.watched"]("heartbeat")
    if not settings:
        return []
    now = __salt__["heartbeat.glance"]()
    if not now["way"]:
        return []       # no ha.cf yet: the first state.apply has not written it
    memory = __salt__["gateway_events.memory"]("heartbeat")
    once, known = _changes(settings, now, memory)
    # Nothing is reported of a pair that has never run: the first state.apply has yet to start it.
    known["ran"] = bool(now["running"] or memory.get("ran"))
    known["served"] = bool("active" in (now["role"], now["peer"]["role"]) or memory.get("served"))
    conditions, unknown = _conditions(settings, now, known)
    memory = known
    return __salt__["gateway_events.changed"]("heartbeat", conditions, once, unknown, memory)


def _changes(settings: dict, now: dict, memory: dict) -> tuple[list[dict], dict]:
    """The role changes since the last look, and what to remember for the next."""
    node = settings["node"]
    other = {"active": "standby", "standby": "active"}
    if now["way"] == "agent":
        # The very first look reports no earlier changes.
        news = __salt__["heartbeat.changes_since"](memory.get("history", ""))
        changes = news["changes"] if "history" in memory else []
        return [{"condition": "role_changed", "subject": node, "severity": severity(each["cause"] or ""),
                 "was": other[each["role"]], "is": each["role"], "since": each["at"], "cause": each["cause"] or "",
                 "facts": {"epoch": each["epoch"], "peer": settings["peer"]}} for each in changes], {
                     "history": news["mark"]}
    last = memory.get("role", "")
    if now["role"] not in other:
        return [], {"role": last}
    if last in ("", now["role"]):
        return [], {"role": now["role"]}
    return [{"condition": "role_changed", "subject": node, "severity": "critical", "was": last, "is": now["role"],
             "cause": "heartbeat's scripts decided it; its log says why", "facts": {"peer": settings["peer"]}}], {
                 "role": now["role"]}


def severity(cause: str) -> str:
    """How severe a role change with this cause is: info, warning or critical."""
    if _ASKED.match(cause):
        return "info"
    return "warning" if _UNCLEAR.match(cause) else "critical"


def _conditions(settings: dict, now: dict, known: dict) -> tuple[dict[str, dict], list[str]]:
    """All that is wrong with the pair (by condition and subject), and the conditions that can not be judged now."""
    node, peer = settings["node"], settings["peer"]
    found: dict[str, dict] = {}
    facts = {"peer": peer, "role_of_peer": now["peer"]["role"], "epoch": now["epoch"]}

    def add(condition: str, subject: str, severity: str, was: str, word: str, after: float = 0, **more: object) -> None:
        found[f"{condition}:{subject}"] = {
            "severity": severity, "was": was, "is": word, "cause": more.pop("cause", ""), "facts": facts | more,
            "after": after}

    if not known["ran"]:
        return found, [*_BY_PEER, "none_active"]
    if not now["running"]:
        held = f"still held: {', '.join(now['held'])}" if now["held"] else ""
        add("heartbeat_stopped", node, "critical", "runs", "stopped", _SETTLE_SECONDS / 2, cause=held)
        return found, [*_BY_PEER, "none_active", "starved", "sessions_lost"]
    if now["agent"] in ("missing", "silent"):
        add("agent_missing", node, "critical", "answers", "does not answer", _SETTLE_SECONDS,
            cause={"missing": "it does not run", "silent": "it hangs, or the machine does"}[now["agent"]])
        return found, [*_BY_PEER, "none_active", "split", "not_ready", "disagree", "starved",
                       "sessions_lost"]

    if now["role"] == "split":
        add("split", node, "critical", "one active node", "both active")
    if now["disagree"]:
        add("disagree", node, "warning", "agree", "disagree", _SETTLE_SECONDS, cause=now["disagree"], held=now["held"],
            missing=now["missing"])
    if now["starved"]:
        add("starved", node, "warning", "runs", "stands still again and again",
            cause="this machine, or what is heard of the other, stood still three times within a minute")
    if now.get("sessions") and now["role"] == "active" and now["peer"]["heartbeat"] in ("active", "up"):
        add("sessions_lost", node, "warning", "copied", "not copied", _SESSIONS_SECONDS, cause=now["sessions"])
    if now["role"] == "standby" and now["agent"] and not now["ready"]:
        add("not_ready", node, "warning", "ready", "not ready", _NOT_READY_SECONDS, cause=now["not_ready_because"])
    for address, status in now["ping_nodes"].items():
        if now["connected"] and status == "dead":
            add("ping_node_dead", address, "warning", "answers", "dead", ping_nodes=now["ping_nodes"])
    unknown = [] if now["connected"] else ["ping_node_dead"]
    theirs = now["peer"]["heartbeat"]
    if theirs == "dead":
        add("peer_dead", peer, "critical", "alive", "dead")
    if theirs in ("active", "up"):
        for link, status in now["links"].items():
            if status == "dead":
                # While a heartbeat has just started, its first packet on each path is still on the way.
                add("link_dead", link, "warning", "up", "dead", _SETTLE_SECONDS, links=now["links"])
    else:
        # When the other node is dead every path is dead, which says nothing about the paths.
        unknown.append("link_dead")
    if theirs not in ("active", "up", "dead"):
        unknown.append("peer_dead")
    inactive = ("standby", "transition")
    if known["served"] and now["role"] in inactive and (theirs == "dead" or now["peer"]["role"] in inactive):
        why = now["not_ready_because"] and f"{node} is not ready: {now['not_ready_because']}"
        add("none_active", settings["site"], "critical", "served", "nobody active", _SETTLE_SECONDS, cause=why)
    elif now["role"] in inactive and now["peer"]["role"] not in ("active", *inactive):
        unknown.append("none_active")
    offset = now["peer"]["clock_offset"]
    if offset is None:
        unknown.append("clock_offset")
    elif abs(offset) > CLOCK_OFFSET_SECONDS:
        add("clock_offset", peer, "warning", "same time", "other time", _SETTLE_SECONDS, offset_seconds=offset,
            cause=f"{peer} is {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}")
    return found, unknown
