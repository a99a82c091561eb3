"""The active gateway dies, is cut off, or gives up the role: the tunnel comes back on the other, and all know."""
from __future__ import annotations

import time

from lab import network, observe
from lab.bench.pairs import AGENT, Pair
from lab.observe import eventually
from tests.lab.conftest import AGENTS, deaf, hardware_address, heartbeat_cut, interface

# on a client: drops everything that it sends to the gateway's daemon
_SILENT = "table inet silent { chain said { type filter hook output priority 0; udp dport { 500, 4500 } drop; }; }"


def test_after_a_crash_of_the_active_gateway_the_tunnel_comes_back(quiet):
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    with observe.pings(quiet) as seen:
        try:
            announced = observe.capture(
                network.ROUTER, site.name[:10], f"arp and src host {site.virtual('external')}",
                during=lambda: active.crash() or eventually(lambda: observe.holds_all(quiet, standby), 60))
            assert eventually(lambda: observe.ping_through_tunnel(quiet), 90), "the tunnel did not come back"
            # announced: the router knows the survivor already, without waiting for its cache to expire
            hardware = hardware_address(standby, interface(site, "external"))
            assert f"Reply {site.virtual('external')} is-at {hardware}" in announced, announced
            assert network.neighbours(network.ROUTER)[site.virtual("external")] == hardware
            assert seen.longest_gap() < 90
        finally:
            active.start()
            active.wait_up()
    quiet.master.wait_for({active.host.minion_id})
    # no automatic failback: the role stays until somebody asks
    wanted = {active.host.name: "standby", standby.host.name: "active"}
    assert eventually(lambda: observe.roles(quiet, site.name) == wanted, 150), observe.roles(quiet, site.name)
    assert observe.active(quiet, site.name) is standby


def test_a_switch_over_by_hand_moves_the_tunnel_and_leaves_nothing(quiet):
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    active.run([AGENT, "standby"], check=True)
    assert eventually(lambda: observe.holds_all(quiet, standby), 60)
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
    assert not observe.virtual_held(quiet, active)
    assert observe.tunnels(active) == 0


def test_a_switch_over_is_told_to_a_client_whose_answer_the_daemon_still_waits_for(quiet):
    """RFC 7296, 2.3: until it has that answer, a daemon may not send another request; but it must send the delete."""
    site, client = quiet.sites[0], quiet.roadwarrior
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    # Otherwise its tunnel may be one that this node has taken over, of which the daemon asks nobody.
    observe.connect_roadwarrior(quiet)
    begun = time.time()

    def waits() -> bool:
        said = active.journal(begun, "-u", "ipsec")
        return any("roadwarrior" in line and "retransmission" in line for line in said.splitlines())

    client.run(["nft", _SILENT], check=True)
    try:
        eventually(waits, 60)
        active.run([AGENT, "standby"], check=True)
    finally:
        client.run(["nft", "delete", "table", "inet", "silent"], check=True)
    assert observe.holds_all(quiet, standby)
    # by itself the client would notice after 10 s at the earliest: it waits 15 s for a dead peer
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 8)


def test_a_node_that_leaves_and_has_nobody_who_takes_over_tells_its_clients_all_the_same(quiet):
    """Otherwise each client waits for its own timers, strongSwan's as shipped for three minutes."""
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    observe.connect_roadwarrior(quiet)
    standby.run(["systemctl", "stop", "heartbeat"], check=True)
    try:
        begun = time.time()
        active.run(["systemctl", "stop", "heartbeat"], check=True, timeout=60)
        said = active.journal(begun, "-u", "ipsec")
        assert " and sending notification" in said and "failed in delete notification" not in said, said
        assert not observe.virtual_held(quiet, active) and observe.tunnels(active) == 0
    finally:
        standby.run(["systemctl", "start", "heartbeat"], check=True)
        active.run(["systemctl", "start", "heartbeat"], check=True)
    assert eventually(Pair(quiet, "default").settled, 60)
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 30)


def test_a_node_whose_heartbeat_dies_tells_its_clients_when_it_gives_up(quiet):
    site = quiet.sites[0]
    assert eventually(Pair(quiet, "default").settled, 60)
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    observe.connect_roadwarrior(quiet)
    active.run(["pkill", "-KILL", "-x", "heartbeat"], check=True)
    assert eventually(lambda: observe.holds_all(quiet, standby), 20)
    # by itself the client would notice after 15 s
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 8)
    assert eventually(Pair(quiet, "default").settled, 90)
    assert observe.active(quiet, site.name) is standby


def test_after_a_split_the_node_that_took_over_stays_and_no_address_is_left_on_both(quiet):
    """Every path between the nodes is cut while both reach their ping nodes: both serve, until they hear each other."""
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    with heartbeat_cut(active, standby):
        assert eventually(lambda: observe.holds_all(quiet, standby), 20)
        assert observe.holds_all(quiet, active)
        assert "split" in quiet.master.run("gateway.roles", site.name)
    assert eventually(lambda: not observe.virtual_held(quiet, active), 15), "both keep the addresses"
    assert observe.active(quiet, site.name) is standby
    # the neighbours follow: the node that stays active announces itself once more
    hardware = hardware_address(standby, interface(site, "external"))
    assert eventually(lambda: network.ping(network.ROUTER, site.virtual("external"), count=1), 5)
    assert network.neighbours(network.ROUTER)[site.virtual("external")] == hardware
    observe.connect_roadwarrior(quiet)


def test_under_a_link_that_works_in_one_direction_a_takeover_by_force_does_not_split_the_pair(quiet):
    """The active node does not hear the standby, which hears it. Both would serve for as long as the cut lasts."""
    pair, site = Pair(quiet, "default"), quiet.sites[0]
    assert eventually(pair.settled, 60)
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    since = time.time()
    with heartbeat_cut(active):
        assert eventually(lambda: pair.said(active, "says that PEER is dead", since), 10)
        standby.run([AGENT, "takeover", "--force"], check=True)
        assert eventually(lambda: not observe.virtual_held(quiet, standby), 8), "both keep the addresses"
        assert "does not hear this node, which hears it" in standby.journal(since, "-t", "gateway-agent")
        time.sleep(5)
        assert observe.holds_all(quiet, active) and not observe.virtual_held(quiet, standby)
    assert eventually(pair.settled, 60)
    assert observe.active(quiet, site.name) is active
    observe.connect_roadwarrior(quiet)


# The agent stands still, and the daemon reads its addresses meanwhile: once while the address is missing, once while it
# is silenced (by a blackhole route, as the agent does before it asks the other node).
_DEAF = f"""
kill -STOP {AGENTS}
ip address delete ADDRESS/32 dev WHERE; ipsec whack --listen
ip route add table local blackhole ADDRESS; ip address add ADDRESS/32 dev WHERE; ipsec whack --listen
sleep 1.3; kill -CONT {AGENTS}
"""


def test_a_node_whose_daemon_looked_while_its_addresses_were_silenced_serves_all_the_same(quiet):
    """The daemon could not open them then, and was deaf from then on."""
    site = quiet.sites[0]
    assert eventually(Pair(quiet, "default").settled, 60)
    active, since = observe.active(quiet, site.name), time.time()
    script = _DEAF.replace("ADDRESS", site.virtual("external")).replace("WHERE", interface(site, "external"))
    active.run(["sh", "-c", script], timeout=30)
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 45), "nobody gets in"
    log = active.journal(since, "-t", "gateway-agent")
    assert "stood still for" in log, log
    assert log.count("the IPsec daemon does not listen on the virtual addresses: restarting it") == 1, log
    assert eventually(Pair(quiet, "default").settled, 60) and observe.active(quiet, site.name) is active


# A node gives up the role, and its daemon reads its addresses once more after it has released them: because it was told
# to for another reason, or was started just then.
_LOOKS_WHILE_PARKED = """
import subprocess, sys
sys.path.insert(0, "/usr/local/lib/gateway")
sys.dont_write_bytecode = True
from agent.addresses import Addresses
from agent.settings import Address

its = Addresses([Address(sys.argv[1], 32, sys.argv[2])])
for way in (its.park, its.leave):
    way()
    subprocess.run(["/usr/libexec/ipsec/whack", "--listen"], check=True)
"""


def test_a_daemon_that_looks_while_its_node_leaves_serves_the_next_time(quiet):
    """From then on it had the address twice, and every connection was without an owner until it was restarted."""
    pair, site = Pair(quiet, "default"), quiet.sites[0]
    assert eventually(pair.settled, 60)
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    standby.run(["systemctl", "stop", "heartbeat"], check=True)
    try:
        standby.run(["python3", "-c", _LOOKS_WHILE_PARKED, site.virtual("external"), interface(site, "external")],
                    check=True)
    finally:
        standby.run(["systemctl", "start", "heartbeat"], check=True)
    assert eventually(pair.settled, 60)
    since = time.time()
    active.run([AGENT, "standby"], check=True)
    assert eventually(lambda: observe.holds_all(quiet, standby), 60)
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 30)
    assert "connection matches both" not in standby.journal(since, "-t", "pluto")


def test_a_standby_that_hears_nobody_takes_nothing(quiet):
    """Deaf, but able to announce itself: it must not take over before heartbeat calls its ping nodes dead."""
    pair = Pair(quiet, "default")
    assert eventually(pair.settled, 60)
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    since = time.time()
    for more in range(6):  # peer and ping nodes fall silent in a different order each time
        with deaf(standby):
            time.sleep(3 + more * 0.07)
        assert eventually(pair.settled, 60)
    assert pair.said(standby, "says that PEER is dead", since) == 6
    assert pair.said(standby, pair.held, since) == pair.said(active, pair.held, since) == 0
    assert observe.active(quiet, site.name) is active


def test_a_standby_that_is_cut_off_takes_nothing_when_a_person_asks_without_force(quiet):
    pair, site = Pair(quiet, "default"), quiet.sites[0]
    assert eventually(pair.settled, 60)
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    with deaf(standby):
        time.sleep(4)
        refused = standby.run([AGENT, "takeover"])
        assert refused.returncode == 1 and "the one that is cut off" in refused.stderr, refused
        assert not observe.virtual_held(quiet, standby)
    assert eventually(pair.settled, 60)
    assert observe.active(quiet, site.name) is active


def test_a_planned_switch_over_from_the_master_costs_little(quiet):
    site = quiet.sites[0]
    standby = observe.standby(quiet, site.name)
    with observe.pings(quiet, every=0.05) as seen:
        quiet.master.run("state.orch", "orch.switch_over", f'pillar={{"site": "{site.name}"}}')
        assert eventually(lambda: observe.holder(quiet, site.name) is standby, 20)
        time.sleep(2)
        # target: 1 s; machines are noisy
        assert seen.longest_gap() < 5


def test_a_rolling_update_reaches_both_nodes_one_after_the_other(quiet):
    site = quiet.sites[0]
    standby = observe.standby(quiet, site.name)
    setting = "net.ipv4.conf.all.send_redirects"
    for guest in quiet.gateways(site.name):
        guest.run(["sysctl", "-w", f"{setting}=1"], check=True)
    with observe.pings(quiet) as seen:
        quiet.master.run("state.orch", "orch.update", f'pillar={{"site": "{site.name}"}}')
        assert seen.longest_gap() < 30
    assert observe.active(quiet, site.name) is standby
    assert [guest.run(["sysctl", "-n", setting]).stdout.strip() for guest in quiet.gateways(site.name)] == ["0", "0"]


def test_a_failback_from_the_master_gives_the_role_to_the_preferred_node(quiet):
    site = quiet.sites[0]
    preferred = next(guest for guest in quiet.gateways(site.name) if guest.host.name == next(iter(site.settings)))
    if observe.active(quiet, site.name) is preferred:
        preferred.run([AGENT, "standby"], check=True)
        assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
    with observe.pings(quiet, every=0.05) as seen:
        quiet.master.run("state.orch", "orch.failback", f'pillar={{"site": "{site.name}"}}')
        assert eventually(lambda: observe.holder(quiet, site.name) is preferred, 20)
        time.sleep(2)
        # target: 1 s; machines are noisy
        assert seen.longest_gap() < 5


def test_an_agent_that_keeps_dying_leads_to_a_takeover_and_leaves_nothing(quiet):
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    pair = Pair(quiet, "default")
    pair.forgive(active)                    # do not count deaths of the tests before
    assert eventually(pair.settled, 30)
    try:
        for _ in range(3):
            worker = eventually(lambda: pair.agent(active), 5)
            active.run(["kill", "-KILL", *worker], check=True)
            eventually(lambda worker=worker: pair.agent(active) != worker, 5)
        assert eventually(lambda: observe.holds_all(quiet, standby), 20)
        assert not observe.virtual_held(quiet, active)
    finally:
        eventually(lambda: active.run(["systemctl", "is-active", "heartbeat"]).stdout.strip() == "inactive", 30)
        active.run(["systemctl", "start", "heartbeat"], check=True)
    observe.connect_roadwarrior(quiet)
    assert eventually(pair.settled, 60)
