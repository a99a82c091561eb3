"""Tests that need the second site: Debian 12, the other version of the daemon, IPv6, ARP monitoring."""
from __future__ import annotations

import datetime
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import network, observe
from lab.bench.pairs import AGENT
from lab.guest import Guest
from lab.observe import eventually
from lab.results import apply
from tests.lab.conftest import hardware_address, interface, since, without_copies


def test_an_arp_monitored_bond_notices_a_dead_path_that_keeps_carrier(quiet):
    standby = observe.standby(quiet, "bern")
    before = observe.active_slave(standby, "inside")
    nic = next(nic for nic in standby.host.nics if nic.name == before)
    network.ip("link", "set", nic.tap, "nomaster")     # off the switch, with the carrier still there
    try:
        assert eventually(lambda: observe.active_slave(standby, "inside") not in ("", before), 10)
    finally:
        network.ip("link", "set", nic.tap, "master", nic.switch)
    assert eventually(lambda: observe.active_slave(standby, "inside") == before, 20)


def test_a_path_that_is_dead_behind_a_link_with_carrier(bus):
    """It is also the way to the master: the events may come only when the path is repaired."""
    lab, seen = bus
    standby = observe.standby(lab, "bern")
    slave = observe.active_slave(standby, "inside")
    nic = next(nic for nic in standby.host.nics if nic.name == slave)
    cut = since(lambda: network.ip("link", "set", nic.tap, "nomaster"))      # off the switch
    try:
        time.sleep(6)
    finally:
        network.ip("link", "set", nic.tap, "master", nic.switch)
    event = seen.wait(60, minion=standby.host.minion_id, condition="arp_silent", since=cut, recovered=False)
    assert event.data["subject"] == f"inside/{slave}" and event.data["facts"]["arp_targets"]
    seen.wait(60, minion=standby.host.minion_id, condition="arp_silent", since=cut, recovered=True)


def test_a_reboot_of_the_standby_brings_the_same_network_back(quiet):
    """One node of each Debian release at the same time."""
    standbys = [observe.standby(quiet, site.name) for site in quiet.sites]

    def network_now(guest):
        # link-local addresses come and go with duplicate address detection
        links = [line.split() for line in guest.run(["ip", "-br", "address"]).stdout.splitlines()]
        return {name: {word for word in words if not word.startswith("fe80")} for name, _, *words in links}

    before = {guest.host.minion_id: network_now(guest) for guest in standbys}
    with ThreadPoolExecutor() as pool:
        list(pool.map(Guest.reboot, standbys))
    for guest in standbys:
        assert eventually(lambda guest=guest: network_now(guest) == before[guest.host.minion_id], 60)
    quiet.master.wait_for(set(before))
    again = apply(quiet, list(before))
    assert not again.failed and not again.changed, (again.failed, again.changed)


@pytest.mark.parametrize("number", [0, 1], ids=["Debian 13", "Debian 12"])
def test_a_switch_over_is_told_to_the_other_site(quiet, number):
    """By a packet from the parked address, sent after the other node has the address. Both versions of the daemon.

    That is where the other node has no copies of the tunnels. With them nobody is told (test_sessions.py).
    """
    site = quiet.sites[number]
    assert eventually(lambda: network.ping(quiet.sites[1].server.name, observe.inner_target(quiet)), 60)
    assert eventually(lambda: observe.holder(quiet, site.name), 60)
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    virtual, hardware = site.virtual("external"), hardware_address(active, interface(site, "external"))
    begun = time.time()
    with without_copies(quiet, site.name):
        sent = observe.capture(network.ROUTER, site.name[:10],
                               f"udp port 500 and src host {virtual} and ether src {hardware}",
                               during=lambda: active.run([AGENT, "standby"], check=True))
    since = observe.agent(standby)["since"]
    taken = datetime.datetime.fromisoformat(since).timestamp() + standby.behind()
    assert [line for line in sent.splitlines() if line and float(line.split()[0]) > taken], (taken, sent)
    said = active.journal(begun, "-u", "ipsec")
    assert " and sending notification" in said and "failed in delete notification" not in said, said


def test_a_switch_over_is_announced_to_neighbours_of_both_families(quiet):
    site = quiet.sites[1]
    assert eventually(lambda: observe.holder(quiet, site.name), 60)
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    old, new = site.virtual("external"), site.virtual("external", 6)
    hardware = hardware_address(standby, interface(site, "external"))
    for address in (old, new):
        assert eventually(lambda address=address: network.ping(network.ROUTER, address, count=1), 10)
        assert network.neighbours(network.ROUTER)[address] != hardware

    def move():
        active.run([AGENT, "standby"], check=True)
        assert eventually(lambda: observe.holds_all(quiet, standby), 20)

    seen = observe.capture(network.ROUTER, site.name[:10],
                           f"ether src {hardware} and ((arp and src host {old}) or (icmp6 and ip6[40] == 136))", move)
    assert f"Reply {old} is-at {hardware}" in seen and f"who-has {old}" in seen, seen
    assert f"{new} > ff02::1: ICMP6, neighbor advertisement, tgt is {new}" in seen, seen
    known = network.neighbours(network.ROUTER)
    assert (known[old], known[new]) == (hardware, hardware), seen

