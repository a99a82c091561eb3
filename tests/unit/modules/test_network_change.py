"""_modules/_network_change.py: the batch that makes the bonds, and the way back."""
from __future__ import annotations

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.modules.network_node import BARE, BONDED, but


def test_a_bare_hosts_only_interface_is_off_for_three_lines(bare):
    assert bare.way(BARE) == [
        "link add dev bond0 address 02:00:00:00:04:01 mtu 1500 type bond mode active-backup miimon 100 primary eth0"
        " num_grat_arp 3",
        "link add dev bond1 address 02:00:00:00:04:03 mtu 1500 type bond mode active-backup miimon 100 primary eth2"
        " num_grat_arp 3",
        "link set dev bond0 up", "addr replace 192.0.2.11/26 brd + dev bond0",
        "link set dev bond1 up", "addr replace 198.51.100.11/26 brd + dev bond1",
        "link set dev eth0 down", "link set dev eth0 master bond0", "link set dev eth0 up",
        "link set dev eth1 down", "link set dev eth1 master bond0", "link set dev eth1 up",
        "addr del 198.51.100.11/26 dev eth2",
        "link set dev eth2 down", "link set dev eth2 master bond1", "link set dev eth2 up",
        "route replace default via 192.0.2.1 dev bond0 proto static",
        "route replace 203.0.113.0/24 via 192.0.2.5 dev bond0 proto static",
    ]


def test_and_the_way_back(bare):
    assert bare.module.plan(BARE, "ifupdown")["inverse"] == [
        "link set dev eth0 nomaster", "link set dev eth1 nomaster", "link set dev eth2 nomaster",
        "link del dev bond0", "link del dev bond1",
        "link set dev eth0 mtu 1500", "link set dev eth1 mtu 1500",
        "link set dev eth2 mtu 1500", "link set dev eth2 up",
        "addr replace 198.51.100.11/26 brd 198.51.100.63 dev eth2",
        "route replace default via 198.51.100.1 dev eth2",
    ]


def test_a_bonded_node_needs_nothing(bonded):
    assert bonded.way(BONDED) == []
    live, its = bonded.module._live(), bonded.module._network_change
    assert its.differences(live, its.wanted(live, BONDED)) == {}


@pytest.mark.parametrize(("changes", "line"), [
    ({"primary": "eth3"}, "link set dev inside type bond primary eth3"),
    ({"monitor": {"arp_interval": 500, "arp_targets": ["198.51.100.61", "198.51.100.62"]}},
     "link set dev inside type bond arp_interval 500 arp_ip_target 198.51.100.61,198.51.100.62"),
    ({"monitor": {"miimon": 100}}, "link set dev inside type bond miimon 100 updelay 0 downdelay 0 arp_interval 0"),
    ({"options": {"num_grat_arp": 5}}, "link set dev inside type bond num_grat_arp 5"),
    ({"mtu": 9000}, "link set dev inside mtu 9000"),
])
def test_what_can_be_changed_live_touches_no_slave(bonded, changes, line):
    assert bonded.way(but(BONDED, "inside", **changes)) == [line]


def test_another_mode_takes_the_slaves_out_and_keeps_the_virtual_ip(bonded):
    lines = bonded.way(but(BONDED, "inside", mode="802.3ad", primary="", monitor={"miimon": 100}))
    option = next(number for number, line in enumerate(lines) if "type bond mode 802.3ad" in line)
    before = {"link set dev eth2 nomaster", "link set dev eth3 nomaster", "link set dev inside down"}
    assert before <= set(lines[:option])
    # a link that goes down loses its IPv6 addresses, and heartbeat would not notice
    assert "addr replace 2001:db8:be:1::a/128 nodad dev inside" in lines[option:]
    assert "addr replace 2001:db8:be:1::b/64 dev inside" in lines[option:]
    assert not any("198.51.100.74" in line or "eth0" in line or "outside" in line for line in lines)


def test_virtual_ips_and_the_daemons_routes_are_nobodys_business(bonded):
    everything = [{**bond, "addresses": bond["addresses"][:1], "gateways": [], "routes": []} for bond in BONDED]
    lines = bonded.way(everything)
    assert not any("/32" in line or "/128" in line for line in lines)
    assert not any("198.51.100.192/27" in line for line in lines if line.startswith("route del"))
    assert "addr del 2001:db8:be::b/64 dev outside" in lines


def test_another_address_comes_after_the_old_one_and_brings_the_routes_along(bonded):
    lines = bonded.way(but(BONDED, "outside", addresses=["192.0.2.80/26", "2001:db8:be::b/64"]))
    assert lines[:2] == ["addr del 192.0.2.75/26 dev outside", "addr replace 192.0.2.80/26 brd + dev outside"]
    assert "route replace default via 192.0.2.65 dev outside proto static" in lines[2:]


def test_a_new_name_for_a_bond_takes_all_along(bonded):
    lines = bonded.way([{**bond, "name": bond["name"].replace("outside", "wan")} for bond in BONDED])
    assert "link del dev outside" in lines and "link set dev eth1 master wan" in lines
    assert not any("inside" in line for line in lines)


def test_all_that_is_in_the_way_is_said_at_once(bare):
    wrong = but(BARE, "bond0", slaves=["eth0", "eth8"], options={"speed": 1})
    wrong[1]["name"] = "eth3"
    with pytest.raises(CommandExecutionError) as error:
        bare.way(wrong)
    said = str(error.value)
    assert "bond0: this machine has no interface eth8 (there are eth0, eth1, eth2, eth3)" in said
    assert "bond0: unknown bond option 'speed'" in said
    assert "eth3: an interface of this name exists and is not a bond" in said
