"""A roadwarrior that sends everything through the tunnel: `local: {subnets: 0.0.0.0/0}`."""
from __future__ import annotations

import json

import pytest

from lab import network, observe
from lab.laboratory import ROADWARRIOR, Lab
from lab.observe import eventually
from lab.results import apply
from lab.transfer import PORT, server, transfer

BYTES = 4_000_000
LIMIT_SECONDS = 30.0            # loose: the machine is not the tests' alone


def web(lab: Lab) -> str:
    """An address on the internet: of the router, on a side that neither the client nor its gateway is on."""
    return next(address for address in lab.sites[1].router if ":" not in address).split("/")[0]


def answered(lab: Lab) -> bool:
    """Whether the address on the internet answers the client."""
    return lab.roadwarrior.run(["ping", "-q", "-c", "2", "-W", "1", "-i", "0.2", web(lab)]).returncode == 0


@pytest.fixture(scope="module")
def everything(lab: Lab):
    """The site lets its roadwarriors send everything, and the client does."""
    site = lab.sites[0]
    whole = {"gateway": {"connections": {"roadwarrior": {"local": {"subnets": "0.0.0.0/0"}}}}}
    done = apply(lab, f"*.{site.name}", f"pillar={json.dumps(whole)}")
    assert not done.failed, done.failed
    narrow = lab.master.run("gateway.roadwarrior", site.name, f"certificate={ROADWARRIOR}.example", "key=ec")
    inner = next(bond["networks"][0] for bond in site.view["bonds"] if bond["side"] == "internal")
    assert narrow.count(f"rightsubnet={inner}") == 1
    lab.copy_to(lab.roadwarrior, "/etc/ipsec.conf",
                narrow.replace(f"rightsubnet={inner}", "rightsubnet=0.0.0.0/0").encode())
    observe.connect_roadwarrior(lab)
    yield lab
    done = apply(lab, f"*.{site.name}")
    assert not done.failed, done.failed
    lab.copy_to(lab.roadwarrior, "/etc/ipsec.conf", narrow.encode())
    observe.connect_roadwarrior(lab)


@pytest.mark.parametrize("way", ["down", "up"])
def test_the_internet_is_reached_under_the_virtual_address(quiet, everything, way):
    assert eventually(lambda: answered(quiet), 60)
    with server(network.ROUTER, web(quiet)):
        done = transfer(quiet.roadwarrior, web(quiet), way, BYTES, LIMIT_SECONDS)
    assert (done.moved, done.seen_as) == (BYTES, quiet.sites[0].virtual("external")), done


def test_on_the_street_it_is_encrypted(quiet, everything):
    assert eventually(lambda: answered(quiet), 60)
    with server(network.ROUTER, web(quiet)):
        seen = observe.capture("", "street", f"tcp port {PORT} or icmp or esp or udp port 4500", during=lambda: (
            answered(quiet), transfer(quiet.roadwarrior, web(quiet), "down", 1000, LIMIT_SECONDS)))
    assert "ESP" in seen and web(quiet) not in seen, seen


def test_what_is_behind_the_gateway_is_reached_as_before(quiet, everything):
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)


def test_after_a_switch_over_the_internet_is_reached_again(quiet, everything):
    """By new connections: the other node knows nothing of what was translated before."""
    standby = observe.standby(quiet, "winterthur")
    quiet.master.run("state.orch", "orch.switch_over", 'pillar={"site": "winterthur"}')
    assert eventually(lambda: observe.holder(quiet, "winterthur") is standby, 20)
    assert eventually(lambda: answered(quiet), 60)
    with server(network.ROUTER, web(quiet)):
        done = transfer(quiet.roadwarrior, web(quiet), "down", BYTES, LIMIT_SECONDS)
    assert done.moved == BYTES, done
