"""The active gateway dies, or is told to rest, and the tunnel comes back on the other."""
from __future__ import annotations

from lab import network, observe
from lab.observe import eventually


def test_after_a_crash_of_the_active_gateway_the_tunnel_comes_back(quiet):
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    bond = next(virtual["interface"] for virtual in site.view["virtual"] if virtual["side"] == "external")
    with observe.pings(quiet) as seen:
        active.crash()
        try:
            assert eventually(lambda: observe.holds_all(quiet, standby), 60), "the standby did not take the addresses"
            assert eventually(lambda: observe.ping_through_tunnel(quiet), 90), "the tunnel did not come back"
            # announced, not left to expire: the router already knows the survivor
            hardware = standby.run(["cat", f"/sys/class/net/{bond}/address"]).stdout.strip()
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
