"""Packets against the firewall, sent from where an attacker would be."""
from __future__ import annotations

import json

from lab import network, observe
from lab.observe import eventually
from lab.results import apply


def test_from_outside_only_ipsec_is_answered(quiet):
    site = quiet.sites[0]
    virtual, active = site.virtual("external"), observe.active(quiet, "winterthur")
    own = next(address.split("/")[0] for bond in site.settings[active.host.name]["bonds"] if bond["side"] == "external"
               for address in bond["addresses"])
    assert observe.ike_answers(network.ROUTER, virtual)
    # a program listens that would answer
    active.run(["sh", "-c", "python3 -m http.server 80 >/dev/null 2>&1 & echo $! > /tmp/web"], check=True)
    try:
        assert eventually(lambda: active.run(["sh", "-c", "ss -Hltn sport = :80"]).stdout, 10)
        for address in (virtual, own):
            answering = [port for port in (22, 80, 111, 694, 4505, 4506)
                         if observe.tcp_answers(network.ROUTER, address, port)]
            assert not answering, f"{address} answers from outside on {answering}"
    finally:
        active.run(["sh", "-c", "kill $(cat /tmp/web)"])


def test_ssh_answers_the_inner_network(quiet):
    site = quiet.sites[0]
    for host in site.gateways:
        assert observe.tcp_answers(site.server.name, host.addresses[0].split("/")[0], 22) == "accepted"


def test_clear_text_to_the_inner_network_is_dropped(quiet):
    """With a route through the gateway but without a tunnel no packet comes through."""
    site, target = quiet.sites[0], observe.inner_target(quiet)
    network.ip("route", "add", f"{target}/32", "via", site.virtual("external"), namespace=network.ROUTER)
    try:
        # the server is also a ping node: heartbeat's own pings come from the nodes themselves
        inner = next(bond["networks"][0] for bond in site.view["bonds"] if bond["side"] == "internal")
        seen = observe.capture(site.server.name, "eth0", f"icmp and not src net {inner}",
                               during=lambda: network.ping(network.ROUTER, target))
        assert not seen.strip(), seen
    finally:
        network.ip("route", "del", f"{target}/32", namespace=network.ROUTER)


def test_a_third_hosts_heartbeat_never_reaches_the_daemon(quiet):
    site = quiet.sites[0]
    for guest in quiet.gateways(site.name):
        address = guest.host.addresses[0].split("/")[0]
        guest.run(["sh", "-c", "nft list table inet gateway > /tmp/before"], check=True)
        dropped = observe.dropped(guest)
        for _ in range(5):
            observe.send_udp(site.server.name, address, 694, b"###\nt=status\nst=active\nsrc=gw9\n%%%\n")
        assert eventually(lambda guest=guest, dropped=dropped: observe.dropped(guest) >= dropped + 5, 5)


def test_a_ruleset_that_cuts_the_master_off_is_taken_back(quiet):
    standby = observe.standby(quiet, "winterthur")
    before = standby.run(["nft", "-s", "list", "table", "inet", "gateway"]).stdout
    wrong = {"gateway": {"rollback": {"seconds": 30},
                         "firewall": {"extra": {"output": [f"ip daddr {standby.host.master} drop"]}}}}
    run = apply(quiet, standby.host.minion_id, "firewall", f"pillar={json.dumps(wrong)}")
    assert "was undone: no answer from" in json.dumps(run.failed), run.returns
    assert standby.run(["nft", "-s", "list", "table", "inet", "gateway"]).stdout == before
    again = apply(quiet, standby.host.minion_id)
    assert not again.failed and not again.changed, (again.failed, again.changed)


def test_a_rule_added_by_hand_is_put_right(quiet):
    standby = observe.standby(quiet, "winterthur")
    standby.run(["nft", "add", "rule", "inet", "gateway", "input", "tcp", "dport", "23", "accept"], check=True)
    run = apply(quiet, standby.host.minion_id)
    assert not run.failed and run.changed, (run.failed, run.changed)
    assert "dport 23" not in standby.run(["nft", "list", "ruleset"]).stdout
