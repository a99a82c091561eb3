"""From a cause on real kernels to the alert at a web server, and to the message that it is over.

`LAB_ROUNDS=5 lab/run test tests/lab/test_alerts.py -s` measures: each cause 5 times, median and worst at the end.
"""
from __future__ import annotations

import datetime
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import yaml

from lab import observe
from lab.bench.pairs import AGENT
from lab.laboratory import Lab
from lab.master import MASTER_TREE
from lab.observe import eventually
from tests import sinks
from tests.lab.conftest import heartbeat_cut

ROUNDS = int(os.environ.get("LAB_ROUNDS", "1"))
ALERTS_FILE = MASTER_TREE / "pillar/alerts.sls"
SITE = "winterthur"
Act = Callable[[], object]


class Cause(NamedTuple):
    """`prepare` returns the function that causes it, and one that ends it, None if it ends by itself."""

    condition: str
    prepare: Callable[[Lab], tuple[Act, Act | None]]
    once: bool = False          # has no end that could be alerted


def _carrier_lost(lab: Lab) -> tuple[Act, Act | None]:
    standby = observe.standby(lab, SITE)
    slave = observe.active_slave(standby, "bond0")
    return lambda: standby.cable(slave, plugged=False), lambda: standby.cable(slave, plugged=True)


def _tunnel_ended(lab: Lab) -> tuple[Act, Act | None]:
    active = observe.active(lab, SITE)

    def up() -> bool:
        return observe.call(lab, active, "ipsec.status")["connections"]["bern"]["up"]

    assert eventually(up, 90)
    time.sleep(5)               # until the node's beacon has seen that
    return lambda: active.run(["ipsec", "whack", "--terminate", "--name", "bern"], check=True), None


def _daemon_killed(lab: Lab) -> tuple[Act, Act | None]:
    standby = observe.standby(lab, SITE)
    return lambda: standby.run(["sh", "-c", "kill -KILL $(cat /run/pluto/pluto.pid)"], check=True), None


def _role_moved(lab: Lab) -> tuple[Act, Act | None]:
    active = observe.active(lab, SITE)
    return lambda: active.run([AGENT, "standby"], check=True), None


CAUSES = [Cause("slave_down", _carrier_lost), Cause("tunnel_down", _tunnel_ended),
          Cause("daemon_dead", _daemon_killed), Cause("role_changed", _role_moved, once=True)]


@pytest.fixture(scope="module")
def sink(lab: Lab) -> Iterator[sinks.Sink]:
    """The one target of all alerts."""
    with sinks.web() as web:
        ALERTS_FILE.write_text(yaml.safe_dump({"alerts": {
            "targets": {"hook": {"type": "webhook", "url": f"http://127.0.0.1:{web.port}/"}},
            "routes": [{"targets": ["hook"]}],
            # several rounds, or a second try, must not count as flapping, whose end is alerted ten minutes later
            "flapping": {"times": 50}}}))
        ALERTS_FILE.chmod(0o600)
        # its exit status is not 0, because the former target, the machine's syslog, does not exist
        eventually(lambda: '"hook"' in lab.master.run("--out=json", "alerts.status", check=False), 60, every=2)
        try:
            yield web
        finally:
            ALERTS_FILE.unlink()


@pytest.fixture(scope="module")
def took() -> Iterator[dict[str, list[float]]]:
    """Seconds from cause to alert, by condition; printed at the end."""
    seconds: dict[str, list[float]] = {}
    yield seconds
    for condition, each in seconds.items():
        print(f"\n{condition}: median {statistics.median(each):.2f} s, worst {max(each):.2f} s of {len(each)}")


def told(sink: sinks.Sink, condition: str, since: float, kinds: set[str], seconds: float) -> sinks.Web:
    """The first message of these kinds with this condition after `since`; waits `seconds` for it."""
    def its(got: list[sinks.Web]) -> list[sinks.Web]:
        # of this site: the other end of a tunnel reports it too
        return [each for each in got if each.at > since and each.json["kind"] in kinds and each.json["site"] == SITE
                and any(line["condition"] == condition for line in each.json["conditions"])]

    found = its(sink.until(its, seconds))
    assert found, [each.json["subject"] for each in sink.got if each.at > since]
    return found[0]


def alone(lab: Lab, sink: sinks.Sink) -> bool:
    """Whether an event now would be an incident of its own: nothing is wrong, nothing began in the last 30 s (JOIN).

    One alert is always open: the lab's own certificates are valid for a month only.
    """
    its = [each for each in json.loads(lab.master.run("--out=json", "alerts.open")) if each["site"] == SITE]
    known = all(line.startswith("the certificate ") for each in its for line in each["conditions"])
    begun = [datetime.datetime.fromisoformat(f"{each['since']}+00:00").timestamp() for each in its]
    # conditions without an end are not among them
    begun += [each.at for each in sink.got if any(line["condition"] == "role_changed"
                                                  for line in each.json["conditions"])]
    return known and time.time() - max(begun, default=0) > 32


@pytest.mark.parametrize("cause", CAUSES * ROUNDS, ids=lambda cause: cause.condition)
def test_an_alert_comes_within_moments_and_its_end_too(quiet, sink, took, cause: Cause):
    eventually(lambda: alone(quiet, sink), 150, every=2)
    act, heal = cause.prepare(quiet)
    begun = time.time()
    act()
    try:
        alert = told(sink, cause.condition, begun, {"alert", "escalation", "update"}, 20)
    finally:
        if heal:
            heal()
    took.setdefault(cause.condition, []).append(alert.at - begun)
    if cause.once:
        # the command starts Python and asks the agent, which asks the other node's: only then the role changes
        changed = next(line["since"] for line in alert.json["conditions"] if line["condition"] == cause.condition)
        took.setdefault(f"{cause.condition}, from the change itself", []).append(
            alert.at - datetime.datetime.fromisoformat(changed).timestamp())
    assert alert.json["site"] == SITE and alert.at - begun < 10, alert.at - begun
    for part in ("What happened", "What it means for users", "What to do"):
        assert part in alert.json["text"], alert.json["text"]
    # what is over before it could be alerted is alerted together with its end
    over = any(line["recovered_at"] for line in alert.json["conditions"] if line["condition"] == cause.condition)
    if not cause.once and not over:
        told(sink, cause.condition, begun, {"recovery"}, 150)


def test_a_role_that_moves_back_is_told_too(quiet, sink):
    """Within half a minute of the first move. With the first alert alone a person would look at the wrong node."""
    eventually(lambda: alone(quiet, sink), 150, every=2)
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    begun = time.time()
    active.run([AGENT, "standby"], check=True)
    told(sink, "role_changed", begun, {"alert"}, 20)
    assert eventually(lambda: standby.run([AGENT, "standby"]).returncode == 0, 15, every=1)
    back = time.time()
    update = told(sink, "role_changed", back, {"update"}, 40)
    roles = {line["node"]: line["is"] for line in update.json["conditions"] if line["condition"] == "role_changed"}
    assert roles[active.host.name] == "active" and observe.active(quiet, SITE) is active, roles
    observe.connect_roadwarrior(quiet)


def test_nodes_that_both_live_and_do_not_hear_each_other_are_told_as_that(quiet, sink):
    """Each of them can only say that the other one is dead; both serve, and only the master can tell."""
    eventually(lambda: alone(quiet, sink), 150, every=2)
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    begun = time.time()
    with heartbeat_cut(active, standby):
        alert = told(sink, "apart", begun, {"alert", "escalation", "update"}, 60)
        assert observe.holds_all(quiet, standby) and observe.holds_all(quiet, active)
    print(f"\ntold {alert.at - begun:.1f} s after the cut")
    assert alert.json["severity"] == "critical" and "both live" in alert.json["text"], alert.json["text"]
    told(sink, "apart", begun, {"recovery"}, 150)
    assert eventually(lambda: observe.holder(quiet, SITE) is standby, 15)
    observe.connect_roadwarrior(quiet)
