"""The standby's copies of the tunnels, and what clients see of a takeover with them (docs/session-takeover.md)."""
from __future__ import annotations

import re
import time

import pytest

from lab import observe
from lab.bench.pairs import AGENT, Pair
from lab.guest import Guest
from lab.laboratory import Lab
from lab.observe import eventually
from sessions.adoption import FIRST_REQID

# Seconds. Loose: the machine is not the tests' alone. Measured: benchmarks.md.
CRASH_GAP, SWITCH_GAP = 5.0, 2.0


def spis(guest: Guest) -> set[str]:
    """The client's tunnel: it changes with each negotiation."""
    return set(re.findall(r"spi (0x[0-9a-f]+)", guest.run(["ip", "xfrm", "state"]).stdout))


def held(guest: Guest) -> dict[str, int]:
    """The reqid of each ESP state in a gateway's kernel, by SPI."""
    said = guest.run(["ip", "xfrm", "state"]).stdout
    return {spi: int(reqid) for spi, reqid in re.findall(r"proto esp spi (0x[0-9a-f]+) reqid (\d+)", said)}


def copied(lab: Lab) -> bool:
    """Whether the standby has all that the active node has, told a moment ago."""
    site = lab.sites[0].name
    one, two = (observe.sessions(each) for each in (observe.active(lab, site), observe.standby(lab, site)))
    return bool(one.get("connected") and two.get("complete") and one["states"] == two["states"] >= 2
                and one["age"] is not None and one["age"] < 1)


@pytest.fixture
def connected(quiet: Lab) -> Lab:
    """A pair whose roadwarrior has a tunnel, which the standby has a copy of."""
    observe.connect_roadwarrior(quiet)
    assert eventually(lambda: copied(quiet), 30), [observe.sessions(each) for each in quiet.gateways("winterthur")]
    return quiet


def test_the_standby_holds_what_the_active_node_holds_and_says_no_key(connected):
    site = connected.sites[0]
    active, standby = observe.active(connected, site.name), observe.standby(connected, site.name)
    said = connected.master.ask(f"*.{site.name}", "sessions.verify", "7f03")
    digests = {each["digest"] for each in said.values()}
    assert len(said) == 2 and len(digests) == 1 and not any(each["wrong"] for each in said.values()), said
    assert held(standby).keys() == held(active).keys() >= spis(connected.roadwarrior)
    assert all(reqid >= FIRST_REQID for reqid in held(standby).values())
    keys = re.findall(r"(?:aead|enc|auth\S*) \S+ (0x[0-9a-f]{32,})", active.run(["ip", "xfrm", "state"]).stdout)
    assert keys
    status = connected.master.ask(f"*.{site.name}", "sessions.status")
    for guest in (active, standby):
        # where a key would lie: journal, logs, Salt's cache, what was made under /run; not the kernel's own memory
        for key in {each[2:26] for each in keys}:
            found = guest.run(["sh", "-c", f"journalctl -b --no-pager | grep -c {key}; "
                                           f"grep -rl {key} /var/log /var/cache/salt /run/gateway* /tmp 2>/dev/null"])
            assert found.stdout.split() == ["0"], found.stdout
            assert key not in str(said) + str(status)
        pid = guest.run(["systemctl", "show", "-P", "MainPID", "gateway-sessions"], check=True).stdout.strip()
        limits = guest.run(["cat", f"/proc/{pid}/limits", f"/proc/{pid}/status"], check=True).stdout
        assert re.search(r"Max core file size +0 +0", limits)
        assert int(re.search(r"VmLck:\s+(\d+)", limits)[1]) > 1000


def test_the_copies_catch_nothing_on_the_standby(connected):
    """Nothing there has the mark. And should it be encrypted all the same, it does not leave."""
    site = connected.sites[0]
    standby = observe.standby(connected, site.name)
    policies = standby.run(["ip", "xfrm", "policy"]).stdout
    mine = [block for block in re.split(r"\n(?=src )", policies) if "tmpl" in block]
    assert mine and all("mark 0x40000000/0x40000000" in block for block in mine), policies
    table = standby.run(["nft", "list", "table", "inet", "gateway_sessions"], check=True).stdout
    assert "mark set" not in table and re.search(r"chain sealed \{\s+drop", table), table


def test_a_crash_costs_the_client_no_negotiation(connected):
    site, client = connected.sites[0], connected.roadwarrior
    active, standby = observe.active(connected, site.name), observe.standby(connected, site.name)
    before = spis(client)
    with observe.pings(connected) as seen:
        try:
            begun = time.time()
            active.crash()
            assert eventually(lambda: observe.holds_all(connected, standby), 60)
            time.sleep(2)
            assert seen.longest_gap(begun) < CRASH_GAP
            assert spis(client) == before, "the client has negotiated"
            adopted = held(standby)
            assert before <= adopted.keys() and all(adopted[spi] >= FIRST_REQID for spi in before), adopted
        finally:
            active.start()
            active.wait_up()
    connected.master.wait_for({active.host.minion_id})
    # The node that comes back holds copies of what there is by then: an idle client of Libreswan has noticed after some
    # 20 s that nobody answers its questions, and has a new tunnel.
    assert eventually(lambda: copied(connected) and held(active).keys() == held(standby).keys(), 120), (
        observe.sessions(active))


def test_a_switch_over_there_and_back_costs_no_negotiation_either(connected):
    site, client = connected.sites[0], connected.roadwarrior
    before = spis(client)
    for _ in range(2):
        active, standby = observe.active(connected, site.name), observe.standby(connected, site.name)
        with observe.pings(connected) as seen:
            active.run([AGENT, "standby"], check=True)
            assert eventually(lambda standby=standby: observe.holds_all(connected, standby), 60)
            time.sleep(1)
            assert seen.longest_gap() < SWITCH_GAP
        assert spis(client) == before, "the client has negotiated"
        assert eventually(Pair(connected, "default").settled, 60) and eventually(lambda: copied(connected), 30)
        # the node that gave it away sends nothing under these keys: it has only copies
        assert observe.tunnels(active) == 0


def test_a_daemon_that_crashes_takes_no_tunnel_with_it(connected):
    site, client = connected.sites[0], connected.roadwarrior
    before = spis(client)
    with observe.pings(connected) as seen:
        observe.active(connected, site.name).run(["pkill", "-KILL", "-x", "pluto"], check=True)
        time.sleep(8)
        assert seen.longest_gap() < CRASH_GAP
    assert spis(client) == before, "the client has negotiated"
    assert eventually(Pair(connected, "default").settled, 90)


def test_a_client_that_calls_again_replaces_its_adopted_tunnel(connected):
    site = connected.sites[0]
    active, standby = observe.active(connected, site.name), observe.standby(connected, site.name)
    before = spis(connected.roadwarrior)
    active.run([AGENT, "standby"], check=True)
    assert eventually(lambda: before <= held(standby).keys() and observe.sessions(standby)["role"] == "active", 30)
    observe.connect_roadwarrior(connected)
    assert eventually(lambda: observe.tunnels(standby) >= 2, 30)
    assert eventually(lambda: not before & held(standby).keys(), 30), "the adopted tunnel is left over"
    assert eventually(lambda: not before & held(active).keys(), 30), "its copy is left over"
    assert observe.ping_through_tunnel(connected)


def test_a_process_that_dies_ends_no_tunnel_and_is_whole_again(connected):
    site, client = connected.sites[0], connected.roadwarrior
    before = spis(client)
    with observe.pings(connected) as seen:
        for guest in (observe.active(connected, site.name), observe.standby(connected, site.name)):
            guest.run(["systemctl", "kill", "-s", "KILL", "gateway-sessions"], check=True)
            assert eventually(lambda: copied(connected), 30)
        assert seen.longest_gap() < 1.5
    assert spis(client) == before
