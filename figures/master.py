"""What the master says of itself in figures: from the files in which both engines tell their status. No I/O.

Names: https://prometheus.io/docs/practices/naming/.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alerts.authentic import SEVERITIES

_G, _C = "gauge", "counter"
# By name: kind, labels, and what it is. A value that is not known is left out.
FAMILIES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "gateway_master_info": (_G, ("version",), "1. The version of the master's tree"),
    "gateway_master_written_timestamp_seconds": (_G, (), "When this file was written, seconds since 1970"),
    "gateway_alerts_last_word_timestamp_seconds": (_G, (), "When the alerts engine last told its status"),
    "gateway_alerts_nodes": (_G, (), "Nodes that the alerts engine watches"),
    "gateway_alerts_nodes_silent": (_G, (), "Nodes that do not answer"),
    "gateway_alerts_incidents_open": (_G, ("severity",), "Incidents that are open, by their severity"),
    "gateway_alerts_events_total": (_C, (), "Verified events since the engine started"),
    "gateway_alerts_alerts_total": (_C, (), "Alerts since the engine started"),
    "gateway_alerts_events_waiting": (_G, (), "Events that are not processed yet"),
    "gateway_alerts_dropped_messages_total": (_C, ("reason",), "Messages on the bus that were no verified event"),
    "gateway_alerts_mistakes": (_G, (), "Mistakes in the engine's configuration"),
    "gateway_alerts_silences": (_G, (), "Sites whose alerts are held back"),
    "gateway_alerts_target_delivered_total": (_C, ("target",), "Alerts that the target took"),
    "gateway_alerts_target_failures_total": (_C, ("target",), "Tries that the target did not take"),
    "gateway_alerts_target_failing": (_G, ("target",), "Whether the target's last try failed"),
    "gateway_alerts_target_waiting": (_G, ("target",), "Alerts that wait for the target"),
    "gateway_alerts_target_last_delivery_timestamp_seconds": (_G, ("target",), "When the target last took an alert"),
    "gateway_resync_last_word_timestamp_seconds": (_G, (), "When the resync engine last told its status"),
    "gateway_resync_enabled": (_G, (), "Whether the resync engine is on and its configuration has no mistake"),
    "gateway_resync_sites": (_G, ("state",), "Sites that are in this state; a site can be in several"),
    "gateway_resync_stopped": (_G, (), "Whether a person has stopped all roll-outs"),
    "gateway_resync_halted": (_G, (), "Whether a failed site has stopped the roll-out to all sites"),
    "gateway_resync_repairs_waiting": (_G, (), "Changes made by hand that are to be repaired"),
    "gateway_resync_rollouts_total": (_C, ("outcome",), "Roll-outs that have ended since the engine started"),
    "gateway_resync_last_rollout_timestamp_seconds": (_G, (), "When a site was last rolled out"),
    "gateway_resync_mistakes": (_G, (), "Mistakes in the engine's configuration"),
}
# Named from the start, because a counter that appears with 1 has not risen for Prometheus.
OUTCOMES = ("done", "failed", "refused")

Sample = tuple[str, tuple[str, ...], float]


def of_alerts(status: Mapping[str, Any] | None, silences: Mapping[str, float], now: float) -> Iterator[Sample]:
    """
    Args:
        status: alerts/shapes.py, EngineStatus; None when the engine has never run.
        silences: by site, until when.
        now: seconds since 1970.
    """
    yield "gateway_alerts_silences", (), sum(until > now for until in silences.values())
    if not status:
        return
    yield "gateway_alerts_last_word_timestamp_seconds", (), status["at"]
    yield "gateway_alerts_nodes", (), status["gateways"]
    yield "gateway_alerts_nodes_silent", (), len(status["silent"])
    if "incidents" in status:       # an engine of an older release does not say
        for severity in SEVERITIES:
            yield "gateway_alerts_incidents_open", (severity,), status["incidents"][severity]
    yield "gateway_alerts_events_total", (), status["counts"]["events"]
    yield "gateway_alerts_alerts_total", (), status["counts"]["alerts"]
    yield "gateway_alerts_events_waiting", (), status["waiting_events"]
    for reason, number in status["dropped"].items():
        yield "gateway_alerts_dropped_messages_total", (reason,), number
    yield "gateway_alerts_mistakes", (), len(status["mistakes"])
    for target, its in status["targets"].items():
        yield "gateway_alerts_target_delivered_total", (target,), its["sent"]
        yield "gateway_alerts_target_failures_total", (target,), its.get("failed", 0)
        yield "gateway_alerts_target_failing", (target,), its["failing_since"] is not None
        yield "gateway_alerts_target_waiting", (target,), its["waiting"]
        if its["last_taken"] is not None:
            yield "gateway_alerts_target_last_delivery_timestamp_seconds", (target,), its["last_taken"]


def of_resync(status: Mapping[str, Any], now: float) -> Iterator[Sample]:
    """
    Args:
        status: as from resync.files.read_status; empty when the engine has never run.
        now: seconds since 1970.
    """
    if not status:
        return
    yield "gateway_resync_enabled", (), bool(status["enabled"])
    yield "gateway_resync_mistakes", (), len(status["mistakes"])
    if not status["enabled"]:
        return      # it tells its status once, and no more
    yield "gateway_resync_last_word_timestamp_seconds", (), round(now - status["at"], 3)
    # In the queue a site stays until its roll-out has ended.
    sites = {"waiting": set(status["queue"]) - set(status["running"]), "running": status["running"],
             "failed": status["failed"], "refused": status["refused"], "stopped": set(status["stopped"]) - {"all"}}
    for state, those in sites.items():
        yield "gateway_resync_sites", (state,), len(those)
    yield "gateway_resync_stopped", (), "all" in status["stopped"]
    yield "gateway_resync_halted", (), bool(status["halted_by"])
    yield "gateway_resync_repairs_waiting", (), len(status["drift"])
    counted = status.get("rollouts", {})
    for outcome in {**dict.fromkeys(OUTCOMES), **counted}:
        yield "gateway_resync_rollouts_total", (outcome,), counted.get(outcome, 0)
    if status.get("last_rollout"):
        yield "gateway_resync_last_rollout_timestamp_seconds", (), status["last_rollout"]
