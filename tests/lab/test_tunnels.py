"""Traffic goes through the tunnels, only to and from the virtual addresses."""
from __future__ import annotations

from lab import network, observe
from lab.observe import eventually


def test_a_roadwarriors_ping_reaches_the_inner_server(quiet):
    assert observe.ping_through_tunnel(quiet, count=5)


def test_the_ping_is_encrypted_on_the_street(quiet):
    seen = observe.capture("", "street", "icmp or esp or udp port 4500",
                           during=lambda: observe.ping_through_tunnel(quiet, count=3))
    assert "ESP" in seen, seen
    assert observe.inner_target(quiet) not in seen, seen


def test_two_sites_reach_each_other(quiet):
    winterthur, bern = quiet.sites
    target = winterthur.server.addresses[0].split("/")[0]
    assert eventually(lambda: network.ping(bern.server.name, target), 60)


def test_the_standby_has_every_connection_loaded_and_none_up(quiet):
    for site in quiet.sites:
        standby = observe.standby(quiet, site.name)
        loaded = observe.call(quiet, standby, "ipsec.status")["connections"]
        assert {connection["name"] for connection in site.view["connections"]} <= set(loaded), loaded
        assert not any(connection["up"] for connection in loaded.values()), loaded
        assert observe.tunnels(standby) == 0


def test_nobody_gets_an_answer_to_ike_on_a_nodes_own_address(quiet):
    """Not only because of the firewall: the daemon itself serves only the virtual addresses."""
    for site in quiet.sites:
        virtual = site.virtual("external")
        assert observe.ike_answers(network.ROUTER, virtual), f"no answer from {virtual}: this test would show nothing"
        for guest in quiet.gateways(site.name):
            own = next(address.split("/")[0] for bond in site.settings[guest.host.name]["bonds"]
                       if bond["side"] == "external" for address in bond["addresses"])
            guest.run(["nft", "delete", "table", "inet", "gateway"], check=True)
            try:
                assert not observe.ike_answers(network.ROUTER, own), f"{guest.host.name} answers IKE on {own}"
            finally:
                guest.run(["nft", "-f", "/etc/nftables.conf"], check=True)
