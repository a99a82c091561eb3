"""Real faults of bonds and of the pair, and the events that reach the master."""
from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from lab import lacp, network, observe
from lab.bench.pairs import AGENT, Pair
from lab.master import MASTER_TREE
from lab.observe import Happened, eventually
from lab.results import apply
from tests.lab.conftest import AGENTS, heartbeat_cut, since

EVENT_SECONDS = 8       # for an event to come; these machines are slow and shared
QUIET_SECONDS = 10


def repeated(events: list[Happened]) -> list[Happened]:
    """The events that repeat what the event before said of the same subject."""
    last: dict[tuple, tuple] = {}
    found = []
    for event in events:
        its = event.data
        if not its["once"]:
            key, said = (its["id"], its["condition"], its["subject"]), (its["is"], its["severity"], its["recovered"])
            if last.get(key) == said:
                found.append(event)
            last[key] = said
    return found


def is_complete(event: Happened, site: str, node: str) -> None:
    """Check that an event is complete by itself."""
    its = event.data
    assert its["site"] == site and its["node"] == node and its["id"] == f"{node}.{site}" and its["version"] == 1
    assert its["severity"] in ("critical", "warning", "info")
    assert its["role"] in ("active", "standby", "transition", "stopped", "split", "unknown")
    assert its["since"] <= its["at"] and its["n"] > 0 and its["condition"] == event.tag.split("/")[-1]


@pytest.mark.long
def test_watching_an_idle_gateway_costs_little(quiet, capsys):
    """The minion's processor time with its beacons and without, on a kernel on which every system call is slow."""
    standby = observe.standby(quiet, "winterthur")

    def share(seconds: float) -> float:
        """The minion's share of one core, from 0 to 1."""
        def used() -> int:
            shown = standby.run(["cat", "/sys/fs/cgroup/system.slice/salt-minion.service/cpu.stat"], check=True).stdout
            return int(shown.split()[1])        # usage_usec

        before, begun = used(), time.monotonic()
        time.sleep(seconds)
        return (used() - before) / 1e6 / (time.monotonic() - begun)

    time.sleep(20)
    watching = share(120)
    # Trap: beacons.disable reports success, but beacons from pillar go on (Salt 3008, config.merge).
    file = MASTER_TREE / "pillar/beacons.sls"
    shipped = file.read_text()
    file.write_text("{}\n")
    try:
        observe.call(quiet, standby, "saltutil.refresh_pillar")
        time.sleep(20)
        blind = share(120)
    finally:
        file.write_text(shipped)
        observe.call(quiet, standby, "saltutil.refresh_pillar")
    # Reading files of /proc is most of the beacons' work: how much slower is it here than on a real machine?
    reads = ("import time; t = time.process_time(); [open('/proc/self/stat').read() for _ in range(3000)]; "
             "print(time.process_time() - t)")
    here, outside = (float(said) for said in (
        standby.run(["python3", "-c", reads], check=True).stdout,
        subprocess.run([sys.executable, "-c", reads], check=True, capture_output=True, text=True).stdout))
    with capsys.disabled():
        print(f"\nminion of an idle gateway: {watching:.1%} of a core, {blind:.1%} without beacons; to read a file of "
              f"/proc takes {here / outside:.1f} times what it takes outside")
    assert watching - blind < 0.1       # target: 1 %


def test_a_pulled_cable_and_its_return(bus):
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    before = observe.active_slave(standby, "bond0")
    other = next(name for name in ("eth0", "eth1") if name != before)
    minion = standby.host.minion_id
    pulled = since(lambda: standby.cable(before, plugged=False))
    try:
        down = seen.wait(EVENT_SECONDS, minion=minion, condition="slave_down", subject=f"bond0/{before}", since=pulled)
        is_complete(down, "winterthur", standby.host.name)
        assert (down.data["was"], down.data["is"], down.data["cause"]) == ("up", "down", "no carrier")
        moved = seen.wait(EVENT_SECONDS, minion=minion, condition="active_slave_changed", since=pulled)
        assert (moved.data["was"], moved.data["is"]) == (before, other)
    finally:
        plugged = since(lambda: standby.cable(before, plugged=True))
    up = seen.wait(EVENT_SECONDS, minion=minion, condition="slave_down", recovered=True, since=plugged)
    assert (up.data["was"], up.data["is"], up.data["since"]) == ("down", "up", down.data["since"])
    back = seen.wait(EVENT_SECONDS, minion=minion, condition="active_slave_changed", since=plugged)
    assert back.data["is"] == before
    assert len(seen.of(minion=minion, beacon="bonding", since=pulled)) == 4


def test_a_loss_shorter_than_a_second(bus):
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    flapped = since(lambda: standby.run(["sh", "-c", "for way in down up; do ip -n phy link set plug-eth1 $way; "
                                         "sleep 0.3; done"], check=True))
    # a look of the beacon may fall into it; then a loss and its end are reported
    event = eventually(lambda: [each for each in seen.of(minion=standby.host.minion_id, beacon="bonding", since=flapped)
                                if each.data["subject"] == "bond0/eth1"], EVENT_SECONDS)[0]
    assert event.data["condition"] in ("slave_flapped", "slave_down")
    if event.data["condition"] == "slave_down":
        seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="slave_down", recovered=True, since=flapped)


def test_both_cables_of_the_standby_and_why_it_could_not_take_over(bus):
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    minion = standby.host.minion_id
    pulled = since(lambda: [standby.cable(name, plugged=False) for name in ("eth0", "eth1")])
    try:
        down = seen.wait(EVENT_SECONDS, minion=minion, condition="bond_down", since=pulled)
        assert down.data["severity"] == "critical"
        assert "no carrier" in seen.wait(
            EVENT_SECONDS + 5, minion=minion, condition="not_ready", since=pulled).data["cause"]
        for guest in lab.gateways("winterthur"):
            link = seen.wait(EVENT_SECONDS, minion=guest.host.minion_id, condition="link_dead", since=pulled)
            assert link.data["subject"] == "bond0"
        lost = seen.wait(EVENT_SECONDS, minion=minion, condition="ping_node_dead", since=pulled)
        assert lost.data["subject"] == "192.0.2.1"
    finally:
        plugged = since(lambda: [standby.cable(name, plugged=True) for name in ("eth0", "eth1")])
    for condition in ("bond_down", "not_ready", "link_dead", "ping_node_dead"):
        seen.wait(20, minion=minion, condition=condition, recovered=True, since=plugged)


def test_a_bond_that_somebody_moved_off_its_primary(bus):
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    primary = observe.active_slave(standby, "bond0")
    other = next(name for name in ("eth0", "eth1") if name != primary)
    move = ["ip", "link", "set", "bond0", "type", "bond", "active_slave"]
    moved = since(lambda: standby.run([*move, other], check=True))
    try:
        event = seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="not_on_primary", since=moved)
        assert (event.data["was"], event.data["is"], event.data["severity"]) == (primary, other, "info")
    finally:
        back = since(lambda: standby.run([*move, primary], check=True))
    seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="not_on_primary", recovered=True, since=back)


def test_a_card_that_is_not_in_its_bond(bus):
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    minion, used = standby.host.minion_id, observe.active_slave(standby, "bond0")
    other = next(name for name in ("eth0", "eth1") if name != used)
    taken = since(lambda: standby.run(["ip", "link", "set", other, "nomaster"], check=True))
    try:
        event = seen.wait(EVENT_SECONDS + 4, minion=minion, condition="slave_missing", since=taken)
        is_complete(event, "winterthur", standby.host.name)
        assert (event.data["subject"], event.data["severity"]) == (f"bond0/{other}", "warning")
    finally:
        standby.run(["ip", "link", "set", other, "down"], check=True)
        given = since(lambda: standby.run(["ip", "link", "set", other, "master", "bond0"], check=True))
    seen.wait(20, minion=minion, condition="slave_missing", recovered=True, since=given)


def test_a_bond_that_is_gone(bus):
    """The external bond. The way to the master may be the internal one, or the event comes when the bond is back."""
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    gone = since(lambda: standby.run(["ip", "link", "delete", "bond0"], check=True))
    try:
        time.sleep(8)
    finally:
        back = since(lambda: standby.run(["sh", "-c", "ifdown --force bond0; ifup bond0"], timeout=60))
    event = seen.wait(90, minion=standby.host.minion_id, condition="bond_missing", since=gone)
    assert (event.data["subject"], event.data["severity"]) == ("bond0", "critical")
    seen.wait(60, minion=standby.host.minion_id, condition="bond_missing", recovered=True, since=back)
    # heartbeat is deaf on the new interface until the agent has made it reopen it (tests/lab/test_paths.py)
    for guest in lab.gateways("winterthur"):
        seen.wait(20, minion=guest.host.minion_id, condition="link_dead", recovered=True, since=gone)


@pytest.mark.long
def test_switches_that_do_not_speak_lacp_or_are_two(bus):
    """An LACP bond expects one switch that speaks LACP: there is none, then two that know nothing of each other."""
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    minion = standby.host.minion_id
    taps = [nic.tap for nic in standby.host.nics if nic.name in ("eth0", "eth1")]
    one, other = "02:00:00:00:aa:01", "02:00:00:00:aa:02"
    lacp.pass_through(standby)
    begun = time.time()
    expects = {"gateway": {"bonds": {"external": {"mode": "802.3ad"}}}}
    done = apply(lab, minion, "bonding", f"pillar={json.dumps(expects)}")
    try:
        assert not done.failed, done.failed
        event = seen.wait(60, minion=minion, condition="lacp_partner_lost", since=begun)
        assert event.data["subject"].startswith("bond0/eth") and event.data["severity"] == "warning"
        speaks = time.time()
        with lacp.partner({taps[0]: one, taps[1]: other}):
            seen.wait(60, minion=minion, condition="lacp_partner_lost", recovered=True, since=speaks)
            event = seen.wait(60, minion=minion, condition="lacp_churn", since=speaks)
            assert event.data["severity"] == "warning" and "aggregation of its own" in event.data["cause"]
            assert {event.data["facts"]["partner"]} <= {one, other}
        agrees = time.time()
        with lacp.partner(dict.fromkeys(taps, one)):
            seen.wait(90, minion=minion, condition="lacp_churn", recovered=True, since=agrees)
    finally:
        done = apply(lab, minion)
    assert not done.failed, done.failed
    for condition in ("lacp_partner_lost", "lacp_churn"):
        assert eventually(lambda condition=condition: not [
            each for each in observe.call(lab, standby, "gateway_events.conditions")
            if each["condition"] == condition], 60, every=2), condition


def test_a_heartbeat_path_that_is_cut_alone(bus):
    """The other path still works: without the event nobody would notice that the redundancy is lost."""
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    drop = "add table inet cut; add chain inet cut in { type filter hook input priority -10; }; " \
           "add rule inet cut in iifname bond1 udp dport 694 drop"
    cut = since(lambda: standby.run(["nft", drop], check=True))
    try:
        event = seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="link_dead", since=cut)
        is_complete(event, "winterthur", standby.host.name)
        assert event.data["subject"] == "bond1" and not seen.of(condition="peer_dead", since=cut)
    finally:
        mended = since(lambda: standby.run(["nft", "delete table inet cut"], check=True))
    seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="link_dead", recovered=True, since=mended)


def test_a_switch_over_that_was_asked_for(bus):
    lab, seen = bus
    active, standby = observe.active(lab, "winterthur"), observe.standby(lab, "winterthur")
    asked = since(lambda: active.run([AGENT, "standby"], check=True))
    for guest, role in ((active, "standby"), (standby, "active")):
        event = seen.wait(EVENT_SECONDS, minion=guest.host.minion_id, condition="role_changed", since=asked)
        is_complete(event, "winterthur", guest.host.name)
        assert event.data["is"] == role and event.data["severity"] == "info"
        assert event.data["cause"] == f"switch-over, asked for on {active.host.name}"
    assert eventually(lambda: observe.ping_through_tunnel(lab), 60)
    assert not seen.of(condition="none_active", since=asked) and not seen.of(condition="split", since=asked)


def test_a_heartbeat_that_is_stopped(bus):
    lab, seen = bus
    active, standby = observe.active(lab, "winterthur"), observe.standby(lab, "winterthur")
    stopped = since(lambda: standby.run(["systemctl", "stop", "heartbeat"], check=True))
    try:
        seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="heartbeat_stopped", since=stopped)
        seen.wait(EVENT_SECONDS, minion=active.host.minion_id, condition="peer_dead", since=stopped)
    finally:
        started = since(lambda: standby.run(["systemctl", "start", "heartbeat"], check=True))
    seen.wait(30, minion=standby.host.minion_id, condition="heartbeat_stopped", recovered=True, since=started)
    seen.wait(30, minion=active.host.minion_id, condition="peer_dead", recovered=True, since=started)
    assert not seen.of(condition="link_dead", since=stopped), "the paths are as they were"


def test_an_agent_that_hangs(bus):
    """Supervisor and worker hang: nothing is left that would restart it."""
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    agent = standby.run(["pgrep", "-f", AGENT], check=True).stdout.split()
    hung = since(lambda: standby.run(["kill", "-STOP", *agent], check=True))
    try:
        event = seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="agent_missing", since=hung)
        assert event.data["severity"] == "critical" and event.data["cause"] == "it hangs, or the machine does"
    finally:
        goes_on = since(lambda: standby.run(["kill", "-CONT", *agent]))
    seen.wait(EVENT_SECONDS + 10, minion=standby.host.minion_id, condition="agent_missing", recovered=True,
              since=goes_on)


def test_the_active_node_is_killed_and_comes_back(bus):
    lab, seen = bus
    active, standby = observe.active(lab, "winterthur"), observe.standby(lab, "winterthur")
    killed = since(active.crash)
    try:
        role = seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="role_changed", since=killed)
        assert role.data["is"] == "active" and role.data["severity"] == "critical"
        assert role.data["cause"] == f"{active.host.name} is dead"
        dead = seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="peer_dead", since=killed)
        is_complete(dead, "winterthur", standby.host.name)
        assert dead.data["subject"] == active.host.name
    finally:
        active.start()
        active.wait_up()
    lab.master.wait_for({active.host.minion_id})
    seen.wait(120, minion=standby.host.minion_id, condition="peer_dead", recovered=True, since=killed)
    assert eventually(lambda: observe.roles(lab, "winterthur") == {
        active.host.name: "standby", standby.host.name: "active"}, 150)


def test_a_machine_that_stands_still_again_and_again_is_told_and_its_peer_given_longer(bus):
    """The standby's agent stands still; then it hears nothing of the active node for longer than the deadtime.

    Not the whole machine stands still: heartbeat restarts itself after some standstills, and the agent with it.
    """
    lab, seen = bus
    active, standby, pair = observe.active(lab, "winterthur"), observe.standby(lab, "winterthur"), Pair(lab, "default")
    began = time.time()
    try:
        for _ in range(3):
            standby.run(["sh", "-c", f"kill -STOP {AGENTS}; sleep 1.7; kill -CONT {AGENTS}"], check=True)
            time.sleep(3)
        event = seen.wait(EVENT_SECONDS, minion=standby.host.minion_id, condition="starved", since=began)
        is_complete(event, "winterthur", standby.host.name)
        silent = time.time()
        with heartbeat_cut(standby):
            time.sleep(1.8)
        time.sleep(3)
        assert pair.said(standby, "says that PEER is dead", silent) == 1
        assert observe.active(lab, "winterthur") is active
        assert not seen.of(condition="role_changed", since=began)
        active.hang()
        assert eventually(lambda: observe.holds_all(lab, standby), 8), "and for good it is dead"
    finally:
        active.resume()
        for guest in (active, standby):  # a new agent begins without the standstills that the old one has measured
            guest.run(["kill", "-KILL", *pair.agent(guest)])
    seen.wait(30, minion=standby.host.minion_id, condition="starved", recovered=True, since=began)
    assert eventually(lambda: observe.holder(lab, "winterthur") is standby, 15)


def test_a_clock_that_was_set_wrong(bus):
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    active = observe.active(lab, "winterthur")
    set_wrong = since(lambda: standby.run(["sh", "-c", "systemctl stop chrony; date -s '+4 seconds'"], check=True))
    try:
        event = seen.wait(20, minion=active.host.minion_id, condition="clock_offset", since=set_wrong)
        assert 3 < event.data["facts"]["offset_seconds"] < 5 and event.data["subject"] == standby.host.name
    finally:
        right = since(lambda: standby.run(["sh", "-c", "date -s '-4 seconds'; systemctl start chrony"], check=True))
    seen.wait(30, minion=active.host.minion_id, condition="clock_offset", recovered=True, since=right)


def test_a_site_whose_upstream_is_gone(bus):
    """Both nodes lose the ping node; no role moves, and both report it."""
    lab, seen = bus
    site = lab.sites[0]
    router = f"{site.name[:10]}"
    cut = since(lambda: network.ip("-n", network.ROUTER, "link", "set", router, "down"))
    try:
        for guest in lab.gateways("winterthur"):
            event = seen.wait(EVENT_SECONDS, minion=guest.host.minion_id, condition="ping_node_dead", since=cut)
            assert event.data["subject"] == "192.0.2.1"
    finally:
        network.ip("-n", network.ROUTER, "link", "set", router, "up")
    for guest in lab.gateways("winterthur"):
        seen.wait(20, minion=guest.host.minion_id, condition="ping_node_dead", recovered=True, since=cut)
    assert not seen.of(condition="role_changed", since=cut)


def test_nothing_is_repeated_while_nothing_changes_nor_after_a_restart_of_the_minion(bus):
    """Also while a condition is open: it was reported once and is not reported again."""
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    minion = standby.host.minion_id
    standby.cable("eth1", plugged=False)
    try:
        seen.wait(EVENT_SECONDS, minion=minion, condition="slave_down")
        begun = time.time()
        time.sleep(QUIET_SECONDS)
        assert not seen.of(minion=minion, beacon="bonding", since=begun + 1)
        standby.run(["systemctl", "restart", "salt-minion"], check=True)
        lab.master.wait_for({minion})
        time.sleep(QUIET_SECONDS)
        assert not seen.of(minion=minion, beacon="bonding", since=begun + 1)
    finally:
        plugged = since(lambda: standby.cable("eth1", plugged=True))
    seen.wait(EVENT_SECONDS, minion=minion, condition="slave_down", recovered=True, since=plugged)
    assert not repeated(seen.of())      # of all nodes; what they report besides, on a busy machine, comes once, too


def test_what_happened_while_the_minion_did_not_run_is_told_when_it_does(bus):
    lab, seen = bus
    standby = observe.standby(lab, "winterthur")
    minion = standby.host.minion_id
    standby.run(["systemctl", "stop", "salt-minion"], check=True)
    try:
        standby.run(["sh", "-c", "for way in down up; do ip -n phy link set plug-eth1 $way; sleep 0.5; done"],
                    check=True)
    finally:
        started = since(lambda: standby.run(["systemctl", "start", "salt-minion"], check=True))
    lab.master.wait_for({minion})
    event = seen.wait(30, minion=minion, condition="slave_flapped", since=started)
    kept = observe.call(lab, standby, "gateway_events.since", str(event.data["n"] - 1), event.data["journal"])
    assert [each["n"] for each in kept["events"]][0] == event.data["n"]
