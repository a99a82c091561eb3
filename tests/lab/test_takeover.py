"""The active gateway dies, hangs, or is told to rest, and the tunnel comes back on the other."""
from __future__ import annotations

import time

from lab import network, observe
from lab.observe import eventually


def test_after_a_crash_of_the_active_gateway_the_tunnel_comes_back(quiet):
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    bond = next(virtual["interface"] for virtual in site.view["virtual"] if virtual["side"] == "external")
    with observe.pings(quiet) as seen:
        try:
            announced = observe.capture(
                network.ROUTER, site.name[:10], f"arp and src host {site.virtual('external')}",
                during=lambda: active.crash() or eventually(lambda: observe.holds_all(quiet, standby), 60))
            assert eventually(lambda: observe.ping_through_tunnel(quiet), 90), "the tunnel did not come back"
            # announced, not left to expire: the router already knows the survivor
            hardware = standby.run(["cat", f"/sys/class/net/{bond}/address"]).stdout.strip()
            assert f"Reply {site.virtual('external')} is-at {hardware}" in announced, announced
            assert network.neighbours(network.ROUTER)[site.virtual("external")] == hardware
            assert seen.longest_gap() < 90
        finally:
            active.start()
            active.wait_up()
    quiet.master.wait_for({active.host.minion_id})
    # no failback of its own: it stays until somebody asks
    wanted = {active.host.name: "standby", standby.host.name: "active"}
    assert eventually(lambda: observe.roles(quiet, site.name) == wanted, 150), observe.roles(quiet, site.name)
    assert observe.active(quiet, site.name) is standby


def test_a_switch_over_by_hand_moves_the_tunnel_and_leaves_nothing(quiet):
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    active.run(["/usr/local/lib/gateway/agent/run", "standby"], check=True)
    assert eventually(lambda: observe.holds_all(quiet, standby), 60)
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
    assert not observe.virtual_held(quiet, active)
    assert observe.tunnels(active) == 0


def test_a_stopped_node_that_goes_on_is_silent_within_a_moment(quiet):
    """A hung machine that comes back has everything it had: it must see that it is no longer the active one."""
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    address = site.virtual("external")
    bond = next(virtual["interface"] for virtual in site.view["virtual"] if virtual["side"] == "external")
    hardware = active.run(["cat", f"/sys/class/net/{bond}/address"]).stdout.strip()
    active.hang()
    try:
        assert eventually(lambda: observe.holds_all(quiet, standby), 60)
        resumed = []

        def go_on():
            # the requests of the time before are still in the hung machine's cables
            observe.ask_for(network.ROUTER, site.name[:10], site.router[0].split("/")[0], address, 1)
            resumed.append(time.time())
            active.resume()
            observe.ask_for(network.ROUTER, site.name[:10], site.router[0].split("/")[0], address, 3)

        seen = observe.capture(network.ROUTER, site.name[:10], f"ether src {hardware} and src host {address}", go_on)
    finally:
        active.resume()
    late = [float(line.split()[0]) - resumed[0] for line in seen.splitlines() if line.strip()]
    assert all(each < 0.5 for each in late), f"still answered after {late} s"
    assert eventually(lambda: not observe.virtual_held(quiet, active), 5)
    assert observe.active(quiet, site.name) is standby


def test_a_planned_switch_over_from_the_master_costs_little(quiet):
    site = quiet.sites[0]
    standby = observe.standby(quiet, site.name)
    with observe.pings(quiet, every=0.05) as seen:
        quiet.master.run("state.orch", "orch.switch_over", f'pillar={{"site": "{site.name}"}}')
        assert eventually(lambda: observe.holder(quiet, site.name) is standby, 20)
        time.sleep(2)
        # 1 s is asked; machines are noisy
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
