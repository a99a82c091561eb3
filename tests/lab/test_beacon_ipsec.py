"""The IPsec daemon's faults, made for real, are reported within moments; without faults nothing is repeated."""
from __future__ import annotations

import subprocess
import time

import pytest

from lab import network, observe
from lab.bench.pairs import AGENT, Pair
from lab.identities import AUTHORITY
from lab.observe import eventually
from tests.lab.conftest import AGENTS


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
    """The node's open conditions of its daemon, by condition and subject."""
    return {(event["condition"], event["subject"]): event
            for event in observe.call(lab, guest, "gateway_events.conditions") if event["beacon"] == "ipsec"}


def sh(guest, command: str) -> str:
    return guest.run(["sh", "-c", command], check=True).stdout


def test_in_quiet_nothing_is_told(watched):
    """And no condition is open, except that the lab's certificates are valid for thirty days only."""
    for site in ("winterthur", "bern"):
        for guest in watched.gateways(site):
            eventually(lambda guest=guest: ("certificate_expiring", "gateway") in present(watched, guest), 70)
            found = present(watched, guest)
            assert {condition for condition, _ in found} == {"certificate_expiring"}, found
            assert found["certificate_expiring", "gateway"]["severity"] == "warning"
    begun = time.time()
    time.sleep(40)
    assert not watched.seen.of(beacon="ipsec", since=begun)


def test_a_connection_deleted_by_hand_is_told(watched):
    standby = observe.standby(watched, "winterthur")
    eventually(lambda: "bern" in observe.call(watched, standby, "ipsec.connections"), 60)
    begun = time.time()
    sh(standby, "ipsec whack --delete --name bern")
    wait(watched, standby, "connection_missing", begun, 45, subject="bern", recovered=False)
    observe.call(watched, standby, "ipsec.reload")
    wait(watched, standby, "connection_missing", begun, 45, subject="bern", recovered=True)


def test_a_daemon_that_is_killed_is_told(watched):
    """On the standby: on the active node the agent would hand over."""
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
        # whoever asks the daemon has an answer, yes or no (the agent may have restarted it by then)
        asked = time.monotonic()
        assert standby.host.minion_id in watched.master.ask(standby.host.minion_id, "ipsec.status", timeout=60)
        assert time.monotonic() - asked < 30
    finally:
        sh(standby, "kill -CONT $(cat /tmp/hung) || true")
    wait(watched, standby, "daemon_hung", begun, 60, recovered=True)


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


def test_packets_that_come_twice_or_are_forged_are_told(watched):
    """Sent from the router of the internet. The kernel's counters distinguish replays and forgeries."""
    site = watched.sites[0]
    active, begun = observe.active(watched, site.name), time.time()
    with observe.pings(watched):
        observe.send_esp_again(network.ROUTER, site.name[:10], site.virtual("external"), 20)
        told = wait(watched, active, "replay_drops", begun, 15, subject="XfrmInStateSeqError")
        assert told.data["severity"] == "warning" and told.data["facts"]["rise"] >= 10
        observe.send_esp_again(network.ROUTER, site.name[:10], site.virtual("external"), 20, forged=True)
        told = wait(watched, active, "xfrm_errors", begun, 15)
        assert told.data["subject"] == "XfrmInStateProtoError", told.data
    assert observe.active(watched, site.name) is active and observe.ping_through_tunnel(watched)


def test_a_virtual_address_that_somebody_gave_to_the_standby_is_taken_away_and_told(watched):
    site = watched.sites[0]
    active, standby, begun = observe.active(watched, site.name), observe.standby(watched, site.name), time.time()
    bond = next(each["name"] for each in site.view["bonds"] if each["side"] == "external")
    address = site.virtual("external")
    with observe.pings(watched, every=0.1) as pings:
        standby.run(["ip", "address", "add", "dev", bond, f"{address}/26"], check=True)
        assert observe.eventually(lambda: not observe.virtual_held(watched, standby), 3)
        told = watched.seen.wait(10, minion=standby.host.minion_id, condition="disagree", since=begun)
        assert f"somebody or something gave this node {address}" in told.data["cause"], told.data
        assert network.neighbours(network.ROUTER)[address] == active.run(
            ["cat", f"/sys/class/net/{bond}/address"], check=True).stdout.strip()
        assert pings.longest_gap() < 3
    # the condition lasts half a minute
    watched.seen.wait(45, minion=standby.host.minion_id, condition="disagree", since=begun, recovered=True)
    assert observe.active(watched, site.name) is active


def test_a_daemon_on_the_nodes_own_address_is_told(watched):
    """The daemon was started with a wrong file, which was corrected afterwards: on the disk everything is right."""
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    own = next(address.split("/")[0] for bond in watched.sites[0].settings[standby.host.name]["bonds"]
               if bond["side"] == "external" for address in bond["addresses"])
    sh(standby, f"cp -p /etc/ipsec.conf /etc/ipsec.kept; sed -i 's/^\\( *listen=\\).*/\\1{own}/' /etc/ipsec.conf; "
                "systemctl restart ipsec; mv /etc/ipsec.kept /etc/ipsec.conf")
    try:
        told = wait(watched, standby, "address_of_node", begun, 60, subject=own)
        assert told.data["severity"] == "critical" and told.data["is"] == "listens there"
    finally:
        healed = time.time()
        sh(standby, "systemctl restart ipsec")
    wait(watched, standby, "address_of_node", healed, 60, subject=own, recovered=True)


def test_an_active_node_whose_daemon_does_not_listen_on_its_address_is_told(watched):
    """The address went and came back while the agent stood still: the daemon saw it go, but not come back."""
    site = watched.sites[0]
    active, begun = observe.active(watched, site.name), time.time()
    virtual = next(each for each in site.view["virtual"] if each["side"] == "external" and ":" not in each["address"])
    address, where = f"{virtual['address']}/32", virtual["interface"]
    sh(active, f"kill -STOP {AGENTS}; ip address delete {address} dev {where}; ipsec whack --listen; "
               f"ip address add {address} dev {where}")
    try:
        told = wait(watched, active, "wrong_listen", begun, 20)
        assert told.data["severity"] == "critical" and virtual["address"] in told.data["is"], told.data
    finally:
        healed = time.time()
        sh(active, f"kill -CONT {AGENTS}")
    # the agent has stood still: it asks the other node, and then makes the daemon read its addresses again
    wait(watched, active, "wrong_listen", healed, 20, recovered=True)
    assert eventually(lambda: observe.active(watched, site.name) is active, 10)
    observe.connect_roadwarrior(watched)


# The daemon sees an address that it can not use, behind a blackhole route, as the agent parks one; but without the
# agent's label, which hides a parked address from the daemon.
_SEES_IT_IN_VAIN = """
ip route add table local blackhole ADDRESS; ip address add ADDRESS/32 dev lo; ipsec whack --listen
ip address delete ADDRESS/32 dev lo; ip route delete table local blackhole ADDRESS; ipsec whack --listen
"""


def test_an_active_node_whose_daemon_takes_connections_for_nobodys_is_told(watched):
    """The daemon has the address twice when it comes: it listens, and nobody can connect (5.2; 4.10 still serves)."""
    site, pair = watched.sites[0], Pair(watched, "default")
    active, standby = observe.active(watched, site.name), observe.standby(watched, site.name)
    sh(standby, "systemctl stop heartbeat")
    try:
        sh(standby, _SEES_IT_IN_VAIN.replace("ADDRESS", site.virtual("external")))
    finally:
        sh(standby, "systemctl start heartbeat")
    assert eventually(pair.settled, 60)
    begun = time.time()
    sh(active, f"{AGENT} standby")
    try:
        told = wait(watched, standby, "connection_unserved", begun, 45)
        assert told.data["severity"] == "critical" and set(told.data["facts"]["connections"]) == set(
            observe.call(watched, standby, "ipsec.connections")), told.data
        said = observe.call(watched, standby, "heartbeat.healthy", "active", "timeout=1")
        assert "for nobody's" in str(said), said
    finally:
        healed = time.time()
        sh(standby, "systemctl restart ipsec")
    wait(watched, standby, "connection_unserved", healed, 60, recovered=True)
    assert eventually(pair.settled, 60)


@pytest.mark.long
def test_a_revocation_list_that_is_due_is_told(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    path = "/var/lib/ipsec/gateway-lists/lab.crl"
    sh(standby, "mkdir -p /var/lib/ipsec/gateway-lists")
    watched.copy_to(standby, path, watched.authority.revocation_list(days=1))
    try:
        told = wait(watched, standby, "crl_expiring", begun, 90)
        assert told.data["severity"] == "critical" and AUTHORITY in told.data["subject"]
        renewed = time.time()
        watched.copy_to(standby, path, watched.authority.revocation_list(days=40))
        wait(watched, standby, "crl_expiring", renewed, 90, recovered=True)
    finally:
        sh(standby, f"rm {path}; rmdir --ignore-fail-on-non-empty /var/lib/ipsec/gateway-lists")


@pytest.mark.long
def test_a_tunnel_that_carries_one_way_only_is_told(watched):
    """The other side's ESP is lost on the way, and its IKE is not: no end has a reason to give the tunnel up."""
    winterthur, bern = watched.sites
    active, target = observe.active(watched, "winterthur"), bern.server.addresses[0].split("/")[0]
    drop = ("add table inet lost; add chain inet lost forward { type filter hook forward priority 0; }; "
            f"add rule inet lost forward ip saddr {bern.virtual('external')} ip protocol esp drop")
    router = ["ip", "netns", "exec", network.ROUTER, "nft"]
    pings = subprocess.Popen(["ip", "netns", "exec", winterthur.server.name, "ping", "-q", "-i", "1", target])
    try:
        time.sleep(130)         # the beacon sees it go both ways, every half a minute
        begun = time.time()
        subprocess.run([*router, drop], check=True)
        try:
            told = wait(watched, active, "one_way", begun, 180, subject="bern", recovered=False)
            assert told.data["severity"] == "warning" and told.data["is"] == "packets out only"
        finally:
            subprocess.run([*router, "delete table inet lost"], check=True)
        wait(watched, active, "one_way", time.time(), 90, subject="bern", recovered=True)
    finally:
        pings.kill()
        pings.wait()


@pytest.mark.long
def test_keys_that_can_not_be_renewed_are_told(watched):
    """A group for the renewal that the peer refuses; the first keys come without one (RFC 7296, 1.2)."""
    active = observe.active(watched, "winterthur")
    sh(active, "cp -p /etc/ipsec.conf /etc/ipsec.kept; "
               "sed -i '/^conn bern/,/^conn /s/^\\( *esp=\\).*/\\1aes_gcm256-none;dh16/' /etc/ipsec.conf; "
               "ipsec add bern; mv /etc/ipsec.kept /etc/ipsec.conf")
    try:
        reach(watched)
        begun = time.time()
        sh(active, "ipsec whack --rekey-child --name bern --async")
        told = wait(watched, active, "rekey_failing", begun, 90, subject="bern")
        assert told.data["severity"] == "warning"
    finally:
        healed = time.time()
        sh(active, "ipsec add bern")
    wait(watched, active, "rekey_failing", healed, 90, subject="bern", recovered=True)


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
