"""Downloads through the tunnel over a path of 1,400 bytes, whose router says so, or drops in silence."""
from __future__ import annotations

import json

import pytest

from lab import network, observe
from lab.guest import Guest
from lab.laboratory import ROADWARRIOR, Lab
from lab.observe import eventually
from lab.results import apply
from lab.transfer import server, transfer
from tests.lab.conftest import TRAVELLER

SIZE = 1400                     # bytes: what the path takes
BYTES = 4_000_000
LIMIT_SECONDS = 30.0            # loose: the machine is not the tests' alone
HANGS_SECONDS = 10.0            # a transfer that has not moved in this time does not move later either
CLIENTS = [ROADWARRIOR, TRAVELLER]      # direct, and behind NAT
WAYS = ["down", "up"]


@pytest.fixture(scope="module")
def clients(lab: Lab):
    """By name, a roadwarrior on the street and one in the hotel, connected; a server behind the gateway is ready."""
    lab.equip_roadwarrior(lab.sites[0], TRAVELLER)
    traveller = lab.roadwarriors[TRAVELLER]
    traveller.run(["systemctl", "restart", "ipsec"], check=True)
    with server(lab.sites[0].server.name, observe.inner_target(lab)):
        yield {name: lab.roadwarriors[name] for name in CLIENTS}
    traveller.run(["systemctl", "stop", "ipsec"], check=True)


def reached(lab: Lab, guest: Guest) -> bool:
    """Whether small packets pass."""
    return guest.run(["ping", "-q", "-c", "2", "-W", "1", "-i", "0.2", observe.inner_target(lab)]).returncode == 0


def forget(lab: Lab) -> None:
    """Nobody remembers how large packets may be: what one test made known would help the next one."""
    for guest in (*lab.gateways("winterthur"), *(lab.roadwarriors[name] for name in CLIENTS)):
        guest.run(["ip", "route", "flush", "cache"], check=True)
    for kind in ("route", "tcp_metrics"):
        network.ip(kind, "flush", *(["cache"] if kind == "route" else ["all"]), namespace=lab.sites[0].server.name)


@pytest.fixture
def path(quiet: Lab, clients: dict[str, Guest]):
    """A function that narrows the path for a test, when small packets pass from every client."""
    for guest in clients.values():
        assert eventually(lambda guest=guest: reached(quiet, guest), 60)
    forget(quiet)
    yield lambda silent: network.narrow(quiet.sites[0], SIZE, silent)
    forget(quiet)


@pytest.fixture(scope="module")
def said(lab: Lab):
    """The site says what the path takes: its firewall changes live, on both nodes."""
    smaller = {"gateway": {"connections": {"roadwarrior": {"mtu": SIZE}}}}
    done = apply(lab, "*.winterthur", "firewall", f"pillar={json.dumps(smaller)}")
    assert not done.failed and len(done.changed) == 2, (done.failed, done.changed)
    yield
    done = apply(lab, "*.winterthur", "firewall")
    assert not done.failed, done.failed


@pytest.mark.parametrize("name", CLIENTS)
def test_over_a_path_that_is_silent_small_packets_pass_and_a_download_hangs(quiet, clients, path, name):
    """The fault itself: without it the tests below would show nothing."""
    with path(True):
        assert reached(quiet, clients[name])
        done = transfer(clients[name], observe.inner_target(quiet), "down", BYTES, HANGS_SECONDS)
    assert done.moved < BYTES / 10, done


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CLIENTS)
def test_over_a_path_whose_router_says_so_a_transfer_ends_in_seconds(quiet, clients, path, name, way):
    with path(False):
        done = transfer(clients[name], observe.inner_target(quiet), way, BYTES, LIMIT_SECONDS)
    assert done.moved == BYTES, done


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CLIENTS)
def test_over_a_silent_path_that_the_site_names_a_transfer_ends_in_seconds(quiet, clients, path, said, name, way):
    with path(True):
        done = transfer(clients[name], observe.inner_target(quiet), way, BYTES, LIMIT_SECONDS)
    assert done.moved == BYTES, done


def test_it_ends_in_seconds_through_the_tunnel_that_the_other_node_has_adopted_too(quiet, clients, path, said):
    standby, guest = observe.standby(quiet, "winterthur"), clients[ROADWARRIOR]
    with path(True):
        quiet.master.run("state.orch", "orch.switch_over", 'pillar={"site": "winterthur"}')
        assert eventually(lambda: observe.holder(quiet, "winterthur") is standby, 20)
        assert eventually(lambda: reached(quiet, guest), 60)
        done = transfer(guest, observe.inner_target(quiet), "down", BYTES, LIMIT_SECONDS)
    assert done.moved == BYTES, done
