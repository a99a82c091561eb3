"""A roadwarrior in a hotel, behind a router that translates addresses (RFC 3948)."""
from __future__ import annotations

import json
import time

import pytest

from lab import network, observe
from lab.laboratory import ROADWARRIOR, Lab
from lab.observe import eventually
from lab.results import apply
from tests.lab.conftest import TRAVELLER

PERSONS = {f"{ROADWARRIOR}.example": "198.51.100.129", f"{TRAVELLER}.example": "198.51.100.130"}


@pytest.fixture(scope="module")
def traveller(lab: Lab):
    """The traveller's host, connected. Meanwhile both roadwarriors have inner addresses of their own."""
    guest, gateways = lab.roadwarriors[TRAVELLER], f"*.{lab.sites[0].name}"
    persons = {"gateway": {"connections": {"roadwarrior": {"persons": PERSONS}}}}
    lab.equip_roadwarrior(lab.sites[0], TRAVELLER)
    done = apply(lab, gateways, f"pillar={json.dumps(persons)}")
    assert not done.failed, done.failed
    for client in (guest, lab.roadwarrior):
        client.run(["systemctl", "restart", "ipsec"], check=True)
    yield guest
    guest.run(["systemctl", "stop", "ipsec"], check=True)
    done = apply(lab, gateways)
    assert not done.failed, done.failed
    observe.connect_roadwarrior(lab)


def answered(lab: Lab, guest) -> bool:
    """Whether the inner server answers a host."""
    return guest.run(["ping", "-q", "-c", "2", "-W", "1", "-i", "0.2", observe.inner_target(lab)]).returncode == 0


def test_its_traffic_goes_through_udp_4500_from_the_hotels_address(quiet, traveller):
    assert eventually(lambda: answered(quiet, traveller), 60)
    seen = observe.capture("", "street", f"host {network.HOTEL_ON_THE_STREET} and (udp port 4500 or esp or icmp)",
                           during=lambda: answered(quiet, traveller))
    assert "UDP-encap" in seen and observe.inner_target(quiet) not in seen, seen


def test_it_comes_back_after_a_switch_over(quiet, traveller):
    """The deletes of the node that gives up the role must pass through the hotel's router."""
    assert eventually(lambda: answered(quiet, traveller), 60)
    standby = observe.standby(quiet, "winterthur")
    with observe.pings(quiet, every=0.1, guest=traveller) as seen:
        quiet.master.run("state.orch", "orch.switch_over", 'pillar={"site": "winterthur"}')
        assert eventually(lambda: observe.holder(quiet, "winterthur") is standby, 20)
        assert eventually(lambda: answered(quiet, traveller), 60)
        assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
        time.sleep(1)
        assert seen.longest_gap() < 20
    # the same inner addresses as on the other node, no matter who called first
    loaded = observe.call(quiet, standby, "ipsec.status")["connections"]
    inner = {sa["peer_id"]: sa["inner"] for connection in loaded.values() for sa in connection["sas"]}
    inner |= {each["peer_id"]: each["inner"].split("/")[0] for each in observe.call(quiet, standby, "sessions.adopted")}
    assert {f"CN={name}": address for name, address in PERSONS.items()} == {
        name: address for name, address in inner.items() if name.startswith("CN=")}


def test_a_site_that_calls_is_not_taken_for_a_person(quiet, traveller):
    called, calls = quiet.sites
    eventually(lambda: observe.holder(quiet, calls.name), 60)
    caller, begun = observe.active(quiet, calls.name), time.time()
    caller.run(["ipsec", "whack", "--name", called.name, "--terminate"], check=True)
    caller.run(["ipsec", "whack", "--name", called.name, "--asynchronous", "--initiate"], check=True)
    assert eventually(lambda: network.ping(calls.server.name, observe.inner_target(quiet)), 20)
    said = observe.active(quiet, called.name).journal(begun, "-u", "ipsec")
    assert not [line for line in said.splitlines() if f'"{calls.name}"' in line and "switched to" in line], said


def test_it_is_let_in_beside_persons_by_the_other_version_of_the_daemon_too(quiet, traveller):
    """bern is Debian 12 with 4.10, lists another person by name, and has a pool for all others with a certificate."""
    bern = quiet.sites[1]
    target = bern.server.addresses[0].split("/")[0]
    assert eventually(lambda: observe.holder(quiet, bern.name), 60)
    configuration = quiet.master.run("gateway.roadwarrior", bern.name, f"certificate={TRAVELLER}.example", "key=ec")
    quiet.copy_to(traveller, "/etc/ipsec.conf", configuration.encode())
    traveller.run(["systemctl", "restart", "ipsec"], check=True)
    assert eventually(lambda: traveller.run(["ping", "-q", "-c", "2", "-W", "1", "-i", "0.2", target]).returncode == 0,
                      60)
    sas = observe.call(quiet, observe.active(quiet, bern.name), "ipsec.status")["connections"]["roadwarrior"]["sas"]
    assert [sa["inner"] for sa in sas if sa["peer_id"] == f"CN={TRAVELLER}.example"], sas
