"""The IPsec daemon's faults, made for real, are told within moments; in quiet nothing is repeated."""
from __future__ import annotations

import time

import pytest

from lab import network, observe
from lab.observe import eventually


@pytest.fixture
def watched(quiet):
    """The lab with its events, both sites joined by their tunnel."""
    reach(quiet)
    with observe.events(quiet) as seen:
        quiet.seen = seen
        yield quiet
    reach(quiet)


def reach(lab) -> None:
    winterthur, bern = lab.sites
    target = winterthur.server.addresses[0].split("/")[0]
    assert eventually(lambda: network.ping(bern.server.name, target), 120)
    assert eventually(lambda: network.ping(bern.server.name, target), 120)


def wait(lab, guest, condition: str, since: float, within: float = 10, **more):
    return lab.seen.wait(within, minion=guest.host.minion_id, beacon="ipsec", since=since, condition=condition, **more)


def present(lab, guest) -> dict[tuple[str, str], dict]:
    """What the node says of its daemon at present."""
    return {(event["condition"], event["subject"]): event
            for event in observe.call(lab, guest, "gateway_events.conditions") if event["beacon"] == "ipsec"}


def sh(guest, command: str) -> str:
    return guest.run(["sh", "-c", command], check=True).stdout


def test_in_quiet_nothing_is_told(watched):
    """Nor is anything wrong, but that the lab's certificates are made for thirty days."""
    for site in ("winterthur", "bern"):
        for guest in watched.gateways(site):
            eventually(lambda guest=guest: ("certificate_expiring", "gateway") in present(watched, guest), 70)
            found = present(watched, guest)
            assert {condition for condition, _ in found} == {"certificate_expiring"}, found
            assert found["certificate_expiring", "gateway"]["severity"] == "warning"
    begun = time.time()
    time.sleep(40)
    assert not watched.seen.of(beacon="ipsec", since=begun)


def test_a_daemon_that_is_killed_is_told(watched):
    """On the standby: on the active node the agent hands over."""
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    sh(standby, "kill -9 $(cat /run/pluto/pluto.pid)")
    told = wait(watched, standby, "daemon_dead", begun, 15)
    assert told.data["severity"] == "critical"
    assert eventually(lambda: observe.call(watched, standby, "ipsec.running"), 30)
    eventually(lambda: ("daemon_dead", "pluto") not in present(watched, standby), 15)


def test_a_daemon_that_is_stopped_is_told_and_the_minion_stays_responsive(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    sh(standby, "cat /run/pluto/pluto.pid > /tmp/hung; kill -STOP $(cat /tmp/hung)")
    try:
        told = wait(watched, standby, "daemon_hung", begun, 20)
        assert told.data["severity"] == "critical"
        asked = time.monotonic()
        assert watched.master.ask(standby.host.minion_id, "test.ping", timeout=10)
        assert time.monotonic() - asked < 8
    finally:
        sh(standby, "kill -CONT $(cat /tmp/hung) || true")
    wait(watched, standby, "daemon_hung", begun, 60, recovered=True)


def test_a_connection_deleted_by_hand_is_told(watched):
    standby = observe.standby(watched, "winterthur")
    eventually(lambda: "bern" in observe.call(watched, standby, "ipsec.connections"), 60)
    # what the tests before this one did is over
    time.sleep(25)
    begun = time.time()
    sh(standby, "ipsec whack --delete --name bern")
    wait(watched, standby, "connection_missing", begun, 45, subject="bern", recovered=False)
    observe.call(watched, standby, "ipsec.reload")
    wait(watched, standby, "connection_missing", begun, 45, subject="bern", recovered=True)


def test_a_tunnel_ended_by_hand_is_told_at_once(watched):
    active, begun = observe.active(watched, "winterthur"), time.time()
    sh(active, "ipsec whack --terminate --name bern")
    told = wait(watched, active, "tunnel_down", begun, 10, subject="bern", recovered=False)
    assert told.data["severity"] == "critical" and told.came - begun < 4, told.came - begun
    # bern calls again
    wait(watched, active, "tunnel_down", begun, 90, subject="bern", recovered=True)


def test_a_site_that_is_cut_off_is_told(watched):
    winterthur, bern = watched.sites
    active, begun = observe.active(watched, "winterthur"), time.time()
    provider = next(iter(bern.switches))
    for switch in bern.switches[provider]:
        network.ip("link", "set", network.uplink(switch), "down")
    try:
        wait(watched, active, "tunnel_down", begun, 120, subject="bern", recovered=False)
        wait(watched, active, "liveness_timeout", begun, 10)
    finally:
        for switch in bern.switches[provider]:
            network.ip("link", "set", network.uplink(switch), "up")
    wait(watched, active, "tunnel_down", begun, 150, subject="bern", recovered=True)


def test_a_roadwarrior_that_comes_and_goes_is_told_with_its_name(watched):
    active, begun = observe.active(watched, "winterthur"), time.time()
    watched.roadwarrior.run(["systemctl", "stop", "ipsec"], check=True)
    told = wait(watched, active, "tunnel_down", begun, 60, severity="info")
    assert "roadwarrior/" in told.data["subject"], told.data
    again = time.time()
    observe.connect_roadwarrior(watched)
    assert wait(watched, active, "tunnel_up", again, 60).data["subject"] == told.data["subject"]


def test_a_takeover_is_no_false_alarm(watched):
    """The node that gives up tells of no tunnel, the one that takes over of none while the peers have time."""
    active, standby = observe.active(watched, "winterthur"), observe.standby(watched, "winterthur")
    begun = time.time()
    observe.call(watched, active, "heartbeat.standby")
    assert eventually(lambda: observe.active(watched, "winterthur") is standby, 30)
    reach(watched)
    time.sleep(5)
    wrong = [event for guest in (active, standby) for event in watched.seen.of(guest.host.minion_id, "ipsec", begun)
             if event.data["severity"] != "info"]
    assert not wrong, wrong
