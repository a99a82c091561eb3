"""Switches, cables and simple hosts: bridges, veth pairs and namespaces, all inside the lab's own namespace."""
from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import subprocess
from collections.abc import Iterator

from lab.topology import HOTEL_NETWORK, ROADWARRIOR_NETWORK, Host, Namespace, Site

ROUTER = "internet"
LAB_ON_THE_STREET = str(ROADWARRIOR_NETWORK[2])    # where the roadwarrior finds its packages
HOTEL = "hotel-router"
HOTEL_ON_THE_STREET = str(ROADWARRIOR_NETWORK[3])  # the hotel's one address, under which others see its guests
_TRANSLATE = """table ip hotel {
    chain out {
        type nat hook postrouting priority srcnat
        oifname "street" masquerade
    }
}
"""
_cables = itertools.count()
_SECONDS = 60       # that one of these tools may take


def ip(*words: str, namespace: str = "") -> None:
    """Run `ip`, in a named namespace if one is given."""
    subprocess.run(["ip", *(["-n", namespace] if namespace else []), *words], check=True, timeout=_SECONDS)


def _switch(name: str) -> None:
    ip("link", "add", name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    # no automatic addresses on a switch: only those that `build` gives
    subprocess.run(["sysctl", "-q", "-w", f"net.ipv6.conf.{name}.addr_gen_mode=1"], check=True,
                   timeout=_SECONDS)
    ip("link", "set", name, "up")


def _cable(one: str, other: str) -> None:
    """Join two switches. The cable's end at the second switch is named by `uplink`."""
    near = f"cable{next(_cables)}"
    ip("link", "add", near, "type", "veth", "peer", "name", uplink(other))
    ip("link", "set", near, "master", one, "up")
    ip("link", "set", uplink(other), "master", other, "up")


def uplink(switch: str) -> str:
    """The name of the interface that connects a switch to its site's core switch."""
    return f"up-{switch}"[:15]


def _namespace(host: Namespace) -> None:
    ip("netns", "add", host.name)
    ip("link", "set", "lo", "up", namespace=host.name)
    _plug_in(host.name, "eth0", host.switch, host.addresses)
    for network, via in host.routes:
        ip(*(["-6"] if ":" in via else []), "route", "add", network, "via", via, namespace=host.name)


def _plug_in(namespace: str, nic: str, switch: str, addresses: list[str]) -> None:
    """Connect a namespace to a switch: `nic` in the namespace, NAMESPACE-NIC (its last 15 characters) at the switch."""
    ip("link", "add", nic, "netns", namespace, "type", "veth", "peer", "name", f"{namespace}-{nic}"[-15:])
    ip("link", "set", f"{namespace}-{nic}"[-15:], "master", switch, "up")
    ip("link", "set", nic, "up", namespace=namespace)
    for address in addresses:
        ip("address", "add", address, "dev", nic, *(["nodad"] if ":" in address else []), namespace=namespace)


def build(sites: list[Site], hosts: list[Host]) -> None:
    """Lay the switches and cables, and set up the router, each site's server and the taps of the hosts."""
    ip("link", "set", "lo", "up")
    # The lab itself has an address in every inner network; it must not route between them.
    subprocess.run(["sysctl", "-q", "-w", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"], check=True,
                   timeout=_SECONDS)
    _switch("street")
    ip("address", "add", f"{LAB_ON_THE_STREET}/{ROADWARRIOR_NETWORK.prefixlen}", "dev", "street")
    ip("netns", "add", ROUTER)
    ip("link", "set", "lo", "up", namespace=ROUTER)
    for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
        subprocess.run(["ip", "netns", "exec", ROUTER, "sysctl", "-q", "-w", setting], check=True,
                       timeout=_SECONDS)
    _plug_in(ROUTER, "street", "street", [f"{ROADWARRIOR_NETWORK[1]}/{ROADWARRIOR_NETWORK.prefixlen}"])
    if any(nic.switch == "hotel" for host in hosts for nic in host.nics):
        _hotel()
    for site in sites:
        for core, plugged in site.switches.items():
            _switch(core)
            for switch in plugged:
                _switch(switch)
                _cable(core, switch)
        provider, lan = site.switches
        _plug_in(ROUTER, site.name[:10], provider, site.router)
        _namespace(site.server)
        for address in site.master:
            ip("address", "add", address, "dev", lan, *(["nodad"] if ":" in address else []))
    for host in hosts:
        for nic in host.nics:
            ip("tuntap", "add", nic.tap, "mode", "tap")
            ip("link", "set", nic.tap, "master", nic.switch, "up")


def _hotel() -> None:
    """Set up a router that translates its guests' addresses and ports, as home and hotel routers do."""
    _switch("hotel")
    ip("netns", "add", HOTEL)
    _plug_in(HOTEL, "street", "street", [f"{HOTEL_ON_THE_STREET}/{ROADWARRIOR_NETWORK.prefixlen}"])
    _plug_in(HOTEL, "rooms", "hotel", [f"{HOTEL_NETWORK[1]}/{HOTEL_NETWORK.prefixlen}"])
    ip("route", "add", "default", "via", str(ROADWARRIOR_NETWORK[1]), namespace=HOTEL)
    enter = ["ip", "netns", "exec", HOTEL]
    subprocess.run([*enter, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"], check=True, timeout=_SECONDS)
    subprocess.run([*enter, "nft", "-f", "-"], input=_TRANSLATE, text=True, check=True, timeout=_SECONDS)


@contextlib.contextmanager
def narrow(site: Site, size: int, silent: bool) -> Iterator[None]:
    """Between a site and the street the router passes no IPv4 packet of more than `size` bytes while the block runs.

    It tells the sender (RFC 1191), or with `silent` drops them and says nothing.
    """
    street = f"{ROADWARRIOR_NETWORK} dev street src {ROADWARRIOR_NETWORK[1]}"
    provider = next(address for address in site.router if ":" not in address)
    address, network = provider.split("/")[0], ipaddress.ip_interface(provider).network
    ways = [street, f"{network} dev {site.name[:10]} src {address}"]
    enter = ["ip", "netns", "exec", ROUTER]
    drop = f"table ip narrow {{ chain passing {{ type filter hook forward priority 0; meta length > {size} drop; }}; }}"
    try:
        if silent:
            subprocess.run([*enter, "nft", drop], check=True, timeout=_SECONDS)
        else:
            for way in ways:
                ip("route", "replace", *way.split(), "proto", "kernel", "scope", "link", "mtu", str(size),
                   namespace=ROUTER)
        yield
    finally:
        if silent:
            subprocess.run([*enter, "nft", "delete", "table", "ip", "narrow"], check=True, timeout=_SECONDS)
        for way in () if silent else ways:
            ip("route", "replace", *way.split(), "proto", "kernel", "scope", "link", namespace=ROUTER)


def ping(namespace: str, target: str, count: int = 3, timeout: float = 1) -> bool:
    """Whether `target` answers from a namespace."""
    return subprocess.run(["ip", "netns", "exec", namespace, "ping", "-q", "-c", str(count), "-W", str(timeout),
                           "-i", "0.2", target], capture_output=True, check=False,
                          timeout=_SECONDS + count * (timeout + 1)).returncode == 0


def neighbours(namespace: str) -> dict[str, str]:
    """A namespace's neighbour cache: address -> hardware address."""
    shown = subprocess.run(["ip", "-n", namespace, "-j", "neigh"], capture_output=True, text=True, check=True,
                           timeout=_SECONDS).stdout
    return {entry["dst"]: entry["lladdr"] for entry in json.loads(shown) if "lladdr" in entry}
