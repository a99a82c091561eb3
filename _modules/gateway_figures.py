"""
What a gateway says of itself in figures
========================================

``FAMILIES`` is the table of all metrics of a gateway; docs/metrics.md is made from it. :func:`samples` asks the modules
that know each part (``heartbeat``, ``bonding``, ``ipsec``, ``sessions``, ``certs``), and reads no file of theirs. It
waits for commands, so it is for a process of its own (``gateway_metrics.serve``), not for the minion's.

The kernel counts bytes by state, and a tunnel's next keys are a state that begins at zero. So this process adds up what
each state has counted since the last look. What a state counts between the last look and its end is lost.

Names: https://prometheus.io/docs/practices/naming/.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    from _modules.ipsec import Answer, Glance

    __salt__: dict[str, Callable]
    __context__: dict

log = logging.getLogger(__name__)

__virtualname__ = "gateway_figures"

_G, _C = "gauge", "counter"
# By name: kind, labels beside `site` and `node`, and what it is. A value that is not known is left out.
FAMILIES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "gateway_info": (_G, ("version", "way"), "1. The tree's version, and who decides: agent, scripts"),
    "gateway_written_timestamp_seconds": (_G, (), "When this file was written, seconds since 1970"),
    "gateway_collect_duration_seconds": (_G, (), "How long it took to collect these figures"),
    "gateway_collect_success": (_G, ("part",), "Whether this part could be asked; 0: figures of it are missing"),
    "gateway_role": (_G, ("role",), "1 for the role that the node has, 0 for the others"),
    "gateway_role_since_timestamp_seconds": (_G, (), "When the role began, seconds since 1970"),
    "gateway_role_epoch": (_G, (), "The number of the pair's last change of roles; with the agent"),
    "gateway_ready": (_G, (), "Whether the node could take over, or serves; with the agent"),
    "gateway_heartbeat_running": (_G, (), "Whether heartbeat runs here"),
    "gateway_agent_answering": (_G, (), "Whether the role agent answers"),
    "gateway_agent_starved": (_G, (), "Whether this machine or the other one stands still again and again"),
    "gateway_agent_stalls_total": (_C, (), "Standstills of this machine, or of the other one as heard here"),
    "gateway_peer_alive": (_G, (), "Whether heartbeat hears the other node"),
    "gateway_peer_clock_offset_seconds": (_G, (), "How far the other node's clock is ahead"),
    "gateway_link_up": (_G, ("link",), "Whether the other node is heard over this path of heartbeat"),
    "gateway_ping_node_up": (_G, ("address",), "Whether this ping node answers"),
    "gateway_virtual_addresses": (_G, (), "Virtual addresses of the site"),
    "gateway_virtual_addresses_held": (_G, (), "Virtual addresses that this node holds"),
    "gateway_bond_up": (_G, ("bond", "side"), "Whether the bond is there and a slave of it works"),
    "gateway_bond_slave_up": (_G, ("bond", "slave"), "Whether the slave is in the bond and its link is up"),
    "gateway_bond_slave_active": (_G, ("bond", "slave"), "Whether the bond uses this slave; with modes that use one"),
    "gateway_bond_slave_failures_total": (_C, ("bond", "slave"), "How often the slave's link failed, by the kernel"),
    "gateway_ipsec_daemon_up": (_G, (), "Whether the IPsec daemon runs and answers"),
    "gateway_tunnels_expected": (_G, ("connection",), "Tunnels to another site that must be up here; 0 on the standby"),
    "gateway_tunnels_up": (_G, ("connection",), "Tunnels to another site that are up here"),
    "gateway_tunnels_adopted": (_G, ("connection",), "Tunnels taken over from the other node, not negotiated anew yet"),
    "gateway_people_connected": (_G, ("connection",), "People with a tunnel here"),
    "gateway_person_connected_since_timestamp_seconds": (
        _G, ("connection", "person"), "When the person's oldest tunnel began; only with `metrics: {persons: true}`"),
    "gateway_tunnel_received_bytes_total": (_C, ("connection",), "Bytes that came through the connection's tunnels"),
    "gateway_tunnel_transmitted_bytes_total": (_C, ("connection",), "Bytes that went through the connection's tunnels"),
    "gateway_tunnel_replayed_packets_total": (_C, ("connection",), "Packets that the kernel dropped as replayed"),
    "gateway_xfrm_errors_total": (_C, ("counter",), "The kernel's counter of this name in /proc/net/xfrm_stat"),
    "gateway_certificate_end_timestamp_seconds": (_G, ("certificate",), "When the certificate ends"),
    "gateway_revocation_list_due_timestamp_seconds": (_G, ("issuer",), "When the issuer's next revocation list is due"),
    "gateway_sessions_connected": (_G, (), "Whether the nodes are connected, to copy tunnels"),
    "gateway_sessions_complete": (_G, (), "Whether the copies are whole"),
    "gateway_sessions_age_seconds": (_G, (), "How old the standby's copies are"),
    "gateway_sessions_max_age_seconds": (_G, (), "Copies that are older are not adopted"),
    "gateway_sessions_states": (_G, (), "States that are copied"),
    "gateway_sessions_policies": (_G, (), "Policies that are copied"),
    "gateway_sessions_adopted_states": (_G, (), "States that came from the other node"),
    "gateway_sessions_refused_states": (_G, (), "States that are not copied"),
}
ROLES = ("active", "standby", "transition", "stopped", "split", "unknown")
# Without the agent heartbeat is asked beside the caller: a second look has the answers.
_SCRIPTS_SECONDS = 1.5
_OTHER = "other"        # a tunnel of no connection of the site: one that was taken out of it, and still runs

Sample = tuple[str, tuple[str, ...], float]


def __virtual__() -> str | tuple[bool, str]:
    for function in ("heartbeat.glance", "bonding.glance", "ipsec.look", "nss.dates", "sessions.status"):
        if function not in __salt__:
            return False, f"gateway_figures: {function} is missing; run saltutil.sync_modules"
    return __virtualname__


def families() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """
    The table of all metrics: by name kind, labels and meaning.

    CLI Example:

    .. code-block:: bash

        salt-call --local gateway_figures.families
    """
    return FAMILIES


def samples(settings: dict[str, Any]) -> list[Sample]:
    """
    All figures as of now. A part that can not be asked is left out, and ``gateway_collect_success`` says so.

    Args:
        settings: what ``gateway_metrics.settings_json`` writes: ``bonds``; ``tunnels``: connection and kind by tunnel,
            None where the site has no IPsec; ``heartbeat`` and ``sessions``: whether the site has them; ``persons``:
            whether people are named.

    Returns:
        For each its name, the values of its labels, and its value.

    CLI Example:

    .. code-block:: bash

        salt-call --local gateway_metrics.show
    """
    began = time.monotonic()
    parts: dict[str, Callable[[dict], Iterable[Sample]]] = {"node": _node, "bonding": _bonding}
    if settings["heartbeat"]:
        parts["heartbeat"] = _heartbeat
    if settings["tunnels"] is not None:
        parts |= {"ipsec": _ipsec, "certificates": _certificates}
    if settings["sessions"]:
        parts["sessions"] = _sessions
    found: list[Sample] = []
    told: dict[str, str] = __context__.setdefault("gateway_figures.told", {})     # by part: logged once, not every time
    for part, ask in sorted(parts.items()):
        try:
            for each in ask(settings):      # what came before an error counts
                found.append(each)
        except Exception as error:  # the other parts are needed all the more when one of them fails
            if told.get(part) != str(error):
                told[part] = str(error)
                log.warning("gateway-metrics: %s: %s", part, error if isinstance(error, CommandExecutionError)
                            else f"{type(error).__name__}: {error}")
            found.append(("gateway_collect_success", (part,), 0))
        else:
            told.pop(part, None)
            found.append(("gateway_collect_success", (part,), 1))
    found.append(("gateway_collect_duration_seconds", (), round(time.monotonic() - began, 4)))
    return found


def _node(_settings: dict) -> Iterator[Sample]:
    yield "gateway_info", (__salt__["gateway_version.installed"](), __salt__["heartbeat.way"]()), 1


# heartbeat and the agent

def _heartbeat(_settings: dict) -> Iterator[Sample]:
    now = __salt__["heartbeat.glance"]()
    if now["way"] == "scripts" and now["running"]:
        time.sleep(_SCRIPTS_SECONDS)
        now = __salt__["heartbeat.glance"]()
    for role in ROLES:
        yield "gateway_role", (role,), now["role"] == role
    yield "gateway_heartbeat_running", (), now["running"]
    yield "gateway_virtual_addresses", (), len(now["held"]) + len(now["missing"])
    yield "gateway_virtual_addresses_held", (), len(now["held"])
    if now["way"] == "agent":
        yield "gateway_agent_answering", (), now["agent"] == "answers"
    if now["agent"] == "answers":
        yield "gateway_ready", (), now["ready"] or now["role"] == "active"
        yield "gateway_agent_starved", (), now["starved"]
        if now["stalls"] is not None:
            yield "gateway_agent_stalls_total", (), now["stalls"]
        if now["since"]:
            # Whole seconds: the agent works it out anew each time, from another clock.
            yield "gateway_role_since_timestamp_seconds", (), round(datetime.fromisoformat(now["since"]).timestamp())
        if now["epoch"] is not None:
            yield "gateway_role_epoch", (), now["epoch"]
    peer = now["peer"]
    if peer["heartbeat"] != "unknown":
        yield "gateway_peer_alive", (), peer["heartbeat"] in ("active", "up")
    if peer["clock_offset"] is not None:
        yield "gateway_peer_clock_offset_seconds", (), peer["clock_offset"]
    for link, status in now["links"].items():
        yield "gateway_link_up", (link,), status == "up"
    for address, status in now["ping_nodes"].items():
        yield "gateway_ping_node_up", (address,), status == "up"


# bonds

def _bonding(settings: dict) -> Iterator[Sample]:
    seen = __salt__["bonding.glance"](settings["bonds"])
    for wanted in settings["bonds"]:
        name, bond = wanted["name"], seen[wanted["name"]]
        slaves = bond["slaves"] if bond else {}
        up = {slave: bool(slaves.get(slave)) and slaves[slave]["link"] == "up" for slave in wanted["slaves"]}
        yield "gateway_bond_up", (name, wanted["side"]), any(up.values())
        for slave in wanted["slaves"]:
            yield "gateway_bond_slave_up", (name, slave), up[slave]
            if bond and bond["active_slave"]:
                yield "gateway_bond_slave_active", (name, slave), bond["active_slave"] == slave
            if slaves.get(slave):
                yield "gateway_bond_slave_failures_total", (name, slave), slaves[slave]["failures"]


# IPsec

def _ipsec(settings: dict) -> Iterator[Sample]:
    seen = __salt__["ipsec.look"]()
    if seen is None:        # the first state.apply has not written the configuration yet
        return
    yield "gateway_ipsec_daemon_up", (), seen["answer"] is not None
    for name, value in (seen["counters"] or {}).items():
        yield "gateway_xfrm_errors_total", (name,), value
    if seen["answer"] is None:
        return
    adopted = __salt__["ipsec.adopted"]() if settings["sessions"] and seen["serves"] else []
    yield from _tunnels(settings, seen, seen["answer"], adopted)
    yield from _traffic(settings, seen["answer"], adopted)


def _of(settings: dict, tunnel: str) -> str:
    """The connection that a tunnel belongs to."""
    return settings["tunnels"].get(tunnel, [_OTHER])[0]


def _tunnels(settings: dict, seen: Glance, answer: Answer, adopted: list[dict]) -> Iterator[Sample]:
    """Tunnels up and expected, and who is here."""
    kinds = dict(settings["tunnels"].values())
    expected, up, taken = (dict.fromkeys(kinds, 0) for _ in range(3))
    people: dict[str, dict[str, float]] = {name: {} for name, kind in kinds.items() if kind == "roadwarrior"}
    for tunnel, (connection, _kind) in settings["tunnels"].items():
        expected[connection] += 1
        up[connection] += bool(answer["connections"].get(tunnel, {}).get("up"))
    alive = [(tunnel, sa["peer_id"] or sa["peer"], sa["since"]) for tunnel, each in answer["connections"].items()
             for sa in each["sas"]]
    for each in adopted:
        connection = _of(settings, each["tunnel"])
        taken[connection] = taken.get(connection, 0) + 1
        alive.append((each["tunnel"], each["peer_id"] or each["peer"], each["since"]))
    for tunnel, who, since in alive:
        here = people.get(_of(settings, tunnel))
        if here is not None:
            here[who] = min(here.get(who, since), since)
    for connection, kind in kinds.items():
        if kind != "roadwarrior":
            # Nobody negotiates an adopted tunnel that is up already, so the two together are no more than there are.
            yield "gateway_tunnels_up", (connection,), min(up[connection] + taken[connection], expected[connection])
            yield "gateway_tunnels_expected", (connection,), expected[connection] if seen["serves"] else 0
    if settings["sessions"]:
        for connection, number in taken.items():
            yield "gateway_tunnels_adopted", (connection,), number
    for connection, here in people.items():
        yield "gateway_people_connected", (connection,), len(here)
        if settings["persons"]:
            for person, since in here.items():
                if since:
                    yield "gateway_person_connected_since_timestamp_seconds", (connection, person), since


def _traffic(settings: dict, answer: Answer, adopted: list[dict]) -> Iterator[Sample]:
    """What went through the connections since this process began, see the module's text."""
    by_reqid = {each["reqid"]: each["tunnel"] for each in adopted if each.get("reqid")}
    kept: dict[str, Any] = __context__.setdefault("gateway_figures.traffic", {"states": {}, "totals": {}})
    totals, before, now = kept["totals"], kept["states"], {}
    for connection, _kind in settings["tunnels"].values():
        for name in ("received_bytes", "transmitted_bytes", "replayed_packets"):
            totals.setdefault((name, connection), 0)
    for state in answer["states"]:
        tunnel = state["tunnel"] or by_reqid.get(state["reqid"], "")
        if not tunnel:
            continue        # the standby's copies: nothing goes through them
        key, connection = (state["spi"], state["out"]), _of(settings, tunnel)
        now[key] = (state["bytes"], state["replays"])
        last = before.get(key, (0, 0))
        for name, value, was in (("transmitted_bytes" if state["out"] else "received_bytes", state["bytes"], last[0]),
                                 ("replayed_packets", state["replays"], last[1])):
            # A number that fell is that of another state with the same SPI.
            totals[name, connection] = totals.get((name, connection), 0) + (value - was if value >= was else value)
    kept["states"] = now
    for (name, connection), value in totals.items():
        yield f"gateway_tunnel_{name}_total", (connection,), value


# certificates and copies of tunnels

def _certificates(_settings: dict) -> Iterator[Sample]:
    dates = __salt__["nss.dates"]()
    if dates is None:
        raise CommandExecutionError("the certificates can not be read now: somebody writes them, or they are damaged")
    for name, end in dates["certificates"].items():
        yield "gateway_certificate_end_timestamp_seconds", (name,), datetime.fromisoformat(end).timestamp()
    for issuer, each in dates["lists"].items():
        due = datetime.fromisoformat(each["next_update"]).timestamp()
        yield "gateway_revocation_list_due_timestamp_seconds", (issuer,), due


def _sessions(_settings: dict) -> Iterator[Sample]:
    now = __salt__["sessions.status"]()
    if not now["on"]:
        return
    yield "gateway_sessions_connected", (), now["connected"]
    yield "gateway_sessions_complete", (), now["complete"]
    if now["age"] is not None:
        yield "gateway_sessions_age_seconds", (), now["age"]
    if now["max_age"] is not None:
        yield "gateway_sessions_max_age_seconds", (), now["max_age"]
    yield "gateway_sessions_states", (), now["states"]
    yield "gateway_sessions_policies", (), now["policies"]
    yield "gateway_sessions_adopted_states", (), now["adopted"]
    yield "gateway_sessions_refused_states", (), sum(now["refused"].values())
