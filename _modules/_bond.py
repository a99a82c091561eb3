"""
A bond as a site describes it: its options with the name that each tool has for them, its hardware address, its routes.

For ``bonding`` and its parts. Salt syncs this file and does not load it (its name begins with _); they load it by its
path. Nothing here reads or changes the node. Options have their kernel names (Documentation/networking/bonding.rst).
"""
from __future__ import annotations

import ipaddress
from typing import NamedTuple

# All modes, those with ARP monitoring, those with a primary. Twin: _WITHOUT_ARP, _WITH_PRIMARY in _modules/gateway.py.
_ALL_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_ARP_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast")
_PRIMARY_MODES = ("active-backup", "balance-tlb", "balance-alb")


class Option(NamedTuple):
    """A bond option: the kernel's default, and the name that each tool has for it."""

    default: object
    networkd: str                  # key in [Bond] of a .netdev; {} stands for the value
    modes: tuple[str, ...] = _ALL_MODES  # the kernel refuses the option in other modes
    json: str = ""                 # key in `ip -j -d link`, where it differs
    locked: bool = False           # settable only while the bond is down and has no slaves (bond_options.c)


OPTIONS = {
    "mode": Option("balance-rr", "Mode={}", locked=True),
    "miimon": Option(0, "MIIMonitorSec={}ms"),
    "updelay": Option(0, "UpDelaySec={}ms"),
    "downdelay": Option(0, "DownDelaySec={}ms"),
    "arp_interval": Option(0, "ARPIntervalSec={}ms", _ARP_MODES),
    "arp_ip_target": Option("", "ARPIPTargets={}", _ARP_MODES),
    "arp_validate": Option("none", "ARPValidate={}", _ARP_MODES),
    "arp_all_targets": Option("any", "ARPAllTargets={}", _ARP_MODES),
    "primary": Option("", "", _PRIMARY_MODES),
    "primary_reselect": Option("always", "PrimaryReselectPolicy={}", _PRIMARY_MODES),
    "fail_over_mac": Option("none", "FailOverMACPolicy={}", ("active-backup",), locked=True),
    "num_grat_arp": Option(1, "GratuitousARP={}", json="num_peer_notif"),
    "xmit_hash_policy": Option("layer2", "TransmitHashPolicy={}", ("balance-xor", "802.3ad", "balance-tlb")),
    "resend_igmp": Option(1, "ResendIGMP={}"),
    "all_slaves_active": Option(0, "AllSlavesActive={}"),
    "min_links": Option(0, "MinLinks={}"),
    "lp_interval": Option(1, "LearnPacketIntervalSec={}", ("balance-tlb", "balance-alb")),
    "packets_per_slave": Option(1, "PacketsPerSlave={}", ("balance-rr",)),
    "tlb_dynamic_lb": Option(1, "DynamicTransmitLoadBalancing={}", ("balance-tlb",), locked=True),
    "lacp_rate": Option("slow", "LACPTransmitRate={}", ("802.3ad",), "ad_lacp_rate", locked=True),
    "ad_select": Option("stable", "AdSelect={}", ("802.3ad",), locked=True),
    "ad_user_port_key": Option(0, "AdUserPortKey={}", ("802.3ad",), locked=True),
    "ad_actor_sys_prio": Option(65535, "AdActorSystemPriority={}", ("802.3ad",)),
}
# By option, the option without which the kernel ignores it; it then keeps its earlier value.
_ONLY_WITH = {"updelay": "miimon", "downdelay": "miimon", "arp_ip_target": "arp_interval",
              "arp_validate": "arp_interval", "arp_all_targets": "arp_interval"}
# This product's defaults, where the kernel's differ: one lost announcement after a failover of a bond costs seconds.
_OUR_DEFAULTS = {"num_grat_arp": 3}


def options_of(link: dict) -> dict:
    """A bond's options by their kernel names, from its entry in `ip -j -d link`."""
    data = link["linkinfo"]["info_data"]
    options = {}
    for name, option in OPTIONS.items():
        value = data.get(option.json or name)
        if isinstance(value, list):
            value = ",".join(value)
        # iproute2 6.15 prints null for a value 0 that has a name (arp_validate none)
        options[name] = option.default if value is None else value
    return options


def options(bond: dict) -> dict:
    """All options of a bond: from its description, else this product's default, else the kernel's default."""
    monitor = bond["monitor"]
    said = {"mode": bond["mode"], "primary": bond.get("primary") or "", **_OUR_DEFAULTS, **bond["options"]}
    if monitor.get("arp_interval"):
        said |= {"miimon": 0, "arp_ip_target": ",".join(monitor["arp_targets"]),
                 **{key: monitor[key] for key in ("arp_interval", "arp_validate") if key in monitor}}
    else:
        said |= {"miimon": monitor["miimon"], "arp_interval": 0}
        # The kernel rounds delays down to multiples of miimon.
        said |= {key: monitor.get(key, 0) // monitor["miimon"] * monitor["miimon"] for key in ("updelay", "downdelay")}
    return {name: said.get(name, option.default) for name, option in OPTIONS.items()}


def in_force(options: dict) -> dict:
    """The options that have an effect in this mode and with this monitoring, as texts."""
    return {name: str(value) for name, value in options.items()
            if options["mode"] in OPTIONS[name].modes and options.get(_ONLY_WITH.get(name, "mode"))}


def option_words(options: dict) -> str:
    """What follows `type bond` in `ip link` for these options."""
    # iproute2 has no word for "no primary"; bonding's _prepare_undo restores that
    return " ".join(f"{name} " + (value or '""') for name, value in options.items() if value or name != "primary")


def mac(live: dict, bond: dict) -> str:
    """
    A new bond's hardware address: the permanent one of its first slave, so that neighbours need not learn a new one.

    Trap: without it, udev gives the bond an invented address (MACAddressPolicy=persistent), some time after its start.
    """
    return "" if options(bond)["fail_over_mac"] == "active" else live[bond["slaves"][0]]["mac"]


def family(address: str) -> int:
    """The IP version of an address, with or without its prefix length."""
    return ipaddress.ip_interface(address).version


def routes(bond: dict) -> list[str]:
    """The bond's routes in the words of `ip route`."""
    default = {4: "default", 6: "::/0"}
    pairs = [(default[family(gateway)], gateway) for gateway in bond["gateways"]]
    pairs += [(route["to"], route["via"]) for route in bond["routes"]]
    return [f"{to} via {via} dev {bond['name']} proto static" for to, via in pairs]
