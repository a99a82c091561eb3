"""What stands at the other end (docs/peers.md): peers known by an address, a key id or a name, at places that change.

The peers are strongSwan's. One host on the street has the peers with addresses, the traveller's host is a branch behind
a router that translates addresses, whose address changes.
"""
from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lab import network, observe
from lab.bench.clients import PROPOSALS, STRONGSWAN_PACKAGES, tuned_charon
from lab.bench.pairs import AGENT, Pair
from lab.guest import Guest
from lab.laboratory import STRONGSWAN, Lab
from lab.observe import eventually
from lab.results import apply
from lab.topology import ROADWARRIOR_NETWORK
from tests.lab.conftest import TRAVELLER, without_copies

SITE = "winterthur"
SILENT, FIRST_HOME, SECOND_HOME, HOTEL_MOVED = (str(ROADWARRIOR_NETWORK[last]) for last in (250, 61, 62, 4))
NAME = "home.dyn.example"
BRANCH = "branch.winterthur.example"
# By connection: the network behind the peer, who the peer is, and who the gateway is to it ("": its address).
PEERS = {"cloud": ("10.71.0.0/24", "", ""), "keyed": ("10.72.0.0/24", "keyid:branch-7", "keyid:0x00ff10"),
         "second": ("10.73.0.0/24", "keyid:second", ""), "home": ("10.74.0.0/24", "vpn@home.example", ""),
         "branch": ("10.75.0.0/24", BRANCH, "gateway.winterthur.example")}
BACK_SECONDS = 90       # strongSwan asks every 5 s, gives up soon (tuned), and the second place has its 15 s


def source(name: str) -> str:
    """The peer's own address in the network behind it."""
    return PEERS[name][0].replace("0/24", "1")


def own(lab: Lab) -> str:
    return lab.sites[0].virtual("external")


def address(guest: Guest) -> str:
    return guest.host.addresses[0].split("/")[0]


def pillar(lab: Lab, psk: dict[str, str]) -> dict[str, Any]:
    """The site's lines for these peers."""
    strong = address(lab.roadwarriors[STRONGSWAN])
    places: dict[str, Any] = {"cloud": strong, "keyed": strong, "second": [SILENT, strong], "home": NAME,
                              "branch": "any"}
    return {"gateway": {"connections": {
        name: {"kind": "site-to-site", "auth": "psk", "local": {"id": mine or own(lab)},
               "peer": {"address": places[name], "subnets": net} | ({"id": its} if its else {})}
        for name, (net, its, mine) in PEERS.items()}}, "gateway_secrets": {"psk": psk}}


def swanctl(lab: Lab, names: list[str], psk: dict[str, str], calls: bool) -> bytes:
    """The peers' side, as their swanctl.conf(5) has it."""
    inner = lab.sites[0].settings[lab.sites[0].gateways[0].name]["bonds"][1]["networks"][0]
    found = ""
    for name in names:
        net, its, mine = PEERS[name]
        its, mine = its or address(lab.roadwarriors[STRONGSWAN]), mine or own(lab)
        mine = mine.replace("keyid:0x", "@#")
        found += f"""connections {{
  {name} {{
    version = 2
    mobike = no
    unique = replace
    remote_addrs = {own(lab)}
    proposals = {PROPOSALS}
    dpd_delay = 5s
    keyingtries = 0
    local {{
      auth = psk
      id = "{its}"
    }}
    remote {{
      auth = psk
      id = "{mine}"
    }}
    children {{
      {name} {{
        local_ts = {net}
        remote_ts = {inner}
        esp_proposals = aes256gcm16
        start_action = {"start" if calls else "none"}
        dpd_action = {"restart" if calls else "clear"}
        close_action = {"start" if calls else "none"}
      }}
    }}
  }}
}}
secrets {{
  ike-{name} {{
    id-1 = "{its}"
    id-2 = "{mine}"
    secret = "{psk[name]}"
  }}
}}
"""
    return found.encode()


def equip(lab: Lab, guest: Guest, names: list[str], psk: dict[str, str], calls: bool) -> None:
    guest.run(["systemctl", "stop", "ipsec"])       # where another test has installed Libreswan
    lab.install(guest, STRONGSWAN_PACKAGES)
    for name in names:
        guest.run(["ip", "address", "add", f"{source(name)}/32", "dev", "lo"])
    lab.copy_to(guest, "/etc/swanctl/conf.d/peers.conf", swanctl(lab, names, psk, calls))
    lab.copy_to(guest, "/etc/strongswan.d/lab.conf", tuned_charon().encode())
    guest.run(["systemctl", "restart", "strongswan"], check=True)


def name_leads_to(lab: Lab, where: str) -> None:
    """The gateways find the name at this address."""
    for gateway in lab.gateways(SITE):
        gateway.run(["sh", "-c", f"sed -i '/{NAME}/d' /etc/hosts; echo '{where} {NAME}' >>/etc/hosts"], check=True)


@pytest.fixture(scope="module")
def peers(lab: Lab) -> Iterator[dict[str, Guest]]:
    """By connection the host of its peer. Meanwhile the pair has these connections."""
    strong, traveller = lab.roadwarriors[STRONGSWAN], lab.roadwarriors[TRAVELLER]
    psk = {name: secrets.token_hex(16) for name in PEERS}
    name_leads_to(lab, FIRST_HOME)
    for each in (FIRST_HOME, SECOND_HOME):
        strong.run(["ip", "address", "add", f"{each}/32", "dev", "eth0"])
    done = apply(lab, f"*.{SITE}", f"pillar={json.dumps(pillar(lab, psk))}")
    assert not done.failed, done.failed
    equip(lab, strong, [name for name in PEERS if name != "branch"], psk, calls=False)
    equip(lab, traveller, ["branch"], psk, calls=True)
    yield {name: traveller if name == "branch" else strong for name in PEERS}
    for guest in (strong, traveller):
        guest.run(["systemctl", "stop", "strongswan"], check=True)
        guest.run(["rm", "/etc/swanctl/conf.d/peers.conf", "/etc/strongswan.d/lab.conf"], check=True)
    for each in (FIRST_HOME, SECOND_HOME):
        strong.run(["ip", "address", "del", f"{each}/32", "dev", "eth0"])
    done = apply(lab, f"*.{SITE}")
    assert not done.failed, done.failed
    observe.connect_roadwarrior(lab)


def reaches(lab: Lab, guest: Guest, name: str) -> bool:
    """Whether the inner server answers the network behind a peer."""
    return guest.run(["ping", "-q", "-c", "2", "-W", "1", "-i", "0.2", "-I", source(name),
                      observe.inner_target(lab)]).returncode == 0


def all_reach(lab: Lab, peers: dict[str, Guest]) -> list[str]:
    """The peers that do not reach the inner server."""
    missing = list(peers)

    def look() -> bool:
        missing[:] = [name for name in missing if not reaches(lab, peers[name], name)]
        return not missing

    eventually(look, BACK_SECONDS)
    return missing


def known(lab: Lab) -> dict[str, list[tuple[str, str]]]:
    """By connection, who the active node's daemon says the peer is, and where."""
    found = observe.call(lab, observe.active(lab, SITE), "ipsec.status")
    return {name: [(sa["peer_id"], sa["peer"]) for sa in each["sas"]] for name, each in found["connections"].items()}


def test_each_brings_its_tunnel_up_and_is_known_by_its_identity(quiet, peers):
    assert all_reach(quiet, peers) == []
    strong, now = address(quiet.roadwarriors[STRONGSWAN]), known(quiet)
    assert now["cloud"] == [(strong, strong)]
    assert now["keyed"] == [(f"@#0x{b'branch-7'.hex()}", strong)]
    assert now["second"] == [(f"@#0x{b'second'.hex()}", strong)]        # after the first address did not answer
    assert now["home"] == [("vpn@home.example", FIRST_HOME)]
    assert now["branch"] == [(f"@{BRANCH}", network.HOTEL_ON_THE_STREET)]


@pytest.mark.parametrize("copies", [True, False], ids=["with copies of the tunnels", "without"])
def test_each_is_back_after_a_takeover(quiet, peers, copies):
    assert all_reach(quiet, peers) == []
    standby = observe.standby(quiet, SITE)
    with contextlib.ExitStack() as stack:
        if not copies:
            stack.enter_context(without_copies(quiet, SITE))
        observe.active(quiet, SITE).run([AGENT, "standby"], check=True)
        assert eventually(lambda: observe.holder(quiet, SITE) is standby, 30)
        assert all_reach(quiet, peers) == []
    assert eventually(Pair(quiet, "default").settled, 60)


def test_each_is_back_after_a_crash(quiet, peers):
    assert all_reach(quiet, peers) == []
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    try:
        active.crash()
        assert eventually(lambda: observe.holds_all(quiet, standby), 60)
        assert all_reach(quiet, peers) == []
    finally:
        active.start()
        active.wait_up()
    quiet.master.wait_for({active.host.minion_id})
    assert eventually(Pair(quiet, "default").settled, 120)


@contextlib.contextmanager
def hotel_at(new: str) -> Iterator[None]:
    """The hotel's router has another address meanwhile, as after a line's nightly reconnection."""
    def move(old: str, new: str) -> None:
        mask = ROADWARRIOR_NETWORK.prefixlen
        network.ip("address", "add", f"{new}/{mask}", "dev", "street", namespace=network.HOTEL)
        network.ip("address", "del", f"{old}/{mask}", "dev", "street", namespace=network.HOTEL)
        network.ip("route", "replace", "default", "via", str(ROADWARRIOR_NETWORK[1]), namespace=network.HOTEL)

    # without it the second address would go with the first
    subprocess.run(["ip", "netns", "exec", network.HOTEL, "sysctl", "-q", "-w",
                    "net.ipv4.conf.street.promote_secondaries=1"], check=True, timeout=10)
    move(network.HOTEL_ON_THE_STREET, new)
    try:
        yield
    finally:
        move(new, network.HOTEL_ON_THE_STREET)


def test_a_branch_whose_address_changes_is_known_by_its_name(quiet, peers):
    assert eventually(lambda: reaches(quiet, peers["branch"], "branch"), BACK_SECONDS)
    with hotel_at(HOTEL_MOVED):
        assert eventually(lambda: (f"@{BRANCH}", HOTEL_MOVED) in known(quiet)["branch"], BACK_SECONDS), known(quiet)
        assert eventually(lambda: reaches(quiet, peers["branch"], "branch"), BACK_SECONDS)
        # and on the other node, which has never heard from there
        with without_copies(quiet, SITE):
            standby = observe.standby(quiet, SITE)
            observe.active(quiet, SITE).run([AGENT, "standby"], check=True)
            assert eventually(lambda: observe.holder(quiet, SITE) is standby, 30)
            assert eventually(lambda: reaches(quiet, peers["branch"], "branch"), BACK_SECONDS)
    assert eventually(lambda: reaches(quiet, peers["branch"], "branch"), BACK_SECONDS)


def test_a_name_is_looked_up_again_when_the_peer_is_lost(quiet, peers):
    assert eventually(lambda: reaches(quiet, peers["home"], "home"), BACK_SECONDS)
    peers["home"].run(["ip", "address", "del", f"{FIRST_HOME}/32", "dev", "eth0"], check=True)
    name_leads_to(quiet, SECOND_HOME)
    try:
        assert eventually(lambda: ("vpn@home.example", SECOND_HOME) in known(quiet)["home"], BACK_SECONDS), known(quiet)
        assert eventually(lambda: reaches(quiet, peers["home"], "home"), 20)
    finally:
        peers["home"].run(["ip", "address", "add", f"{FIRST_HOME}/32", "dev", "eth0"], check=True)


def test_the_standby_has_its_program_and_calls_nobody(quiet, peers):
    assert all_reach(quiet, peers) == []
    for guest in (observe.active(quiet, SITE), observe.standby(quiet, SITE)):
        assert guest.run(["systemctl", "is-active", "gateway-peers"]).stdout.strip() == "active"
    loaded = observe.call(quiet, observe.standby(quiet, SITE), "ipsec.status")["connections"]
    assert {name: loaded[name]["remote"] for name in ("second", "home", "branch")} == {
        "second": SILENT, "home": "%any", "branch": "%any"}
    assert not any(each["up"] for each in loaded.values()), loaded
