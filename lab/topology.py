"""The lab's wiring, read from the sites' own pillar. There is no second copy of anything about a gateway here.

    internet (router) --- switches of the external bonds === gateways === switches of the internal bonds --- server
        |                                                                              |
      street --- roadwarrior                                             the lab itself: Salt master, packages
        |
      hotel (a router that translates addresses) --- roadwarrior
"""
from __future__ import annotations

import importlib.util
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from lab.image import BOOKWORM, TRIXIE, Release

TREE = Path(__file__).resolve().parent.parent
EXAMPLE_SITES = TREE / "examples/sites"        # winterthur and bern; an operator's own sites are in pillar/sites
# The Debian release of each example site's hosts; all other sites' hosts are Debian 13.
RELEASE_OF_SITE = {"bern": BOOKWORM}
ROADWARRIOR_NETWORK = ipaddress.ip_network("203.0.113.0/24")
# Guests of a hotel: behind its one address, in a network that very many home routers use.
HOTEL_NETWORK = ipaddress.ip_network("192.168.1.0/24")

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass
class Nic:
    """One network interface of a host, and the switch that its cable goes to."""

    name: str
    switch: str
    mac: str
    tap: str


@dataclass
class Host:
    """A real-kernel host as an installer leaves it: with one configured interface and a minion."""

    name: str                     # uname -n
    domain: str                   # the site; the minion id is NAME.DOMAIN
    release: Release
    nics: list[Nic]
    configured: str               # the interface the installer configured
    addresses: list[str]          # with prefix length
    gateway: str = ""
    master: str = ""              # the Salt master's address; if empty, no minion runs

    @property
    def minion_id(self) -> str:
        """The minion's id on the master."""
        return f"{self.name}.{self.domain}"


@dataclass
class Namespace:
    """A host that needs no kernel of its own, with one interface on one switch."""

    name: str
    switch: str
    addresses: list[str]
    routes: list[tuple[str, str]] = field(default_factory=list)   # (network, via)


@dataclass
class Site:
    """One site's hosts and switches. `settings` is by node what `gateway.settings` returns there."""

    name: str
    settings: dict[str, dict[str, Any]]
    gateways: list[Host]
    server: Namespace
    switches: dict[str, list[str]]      # core switch -> the switches connected to it
    master: list[str]                   # the lab's own addresses in the inner network, with prefix length
    router: list[str]                   # the router's addresses in the outer network, with prefix length

    @property
    def view(self) -> dict[str, Any]:
        """The settings of the first node, for values that are the same on both."""
        return next(iter(self.settings.values()))

    def virtual(self, side: str, version: int = 4) -> str:
        """The virtual IP of one side (`external` or `internal`) and IP version."""
        return next(str(v["address"]) for v in self.view["virtual"]
                    if v["side"] == side and ipaddress.ip_address(v["address"]).version == version)


def loaded(path: Path, name: str) -> ModuleType:
    """A Python file of the tree, loaded by its path under this name, as Salt's loader does."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, f"{path} is no Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def product(name: str) -> ModuleType:
    """One of the tree's execution modules, as plain Python."""
    return loaded(TREE / "_modules" / f"{name}.py", name)


def _pillar(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


def sites() -> list[str]:
    """The sites that the lab can boot: the examples, and the operator's own under pillar/sites."""
    return sorted({path.stem for folder in (EXAMPLE_SITES, TREE / "pillar/sites") for path in folder.glob("*.sls")})


def _site_file(name: str) -> Path:
    """A site's file. An operator's own file wins over an example of the same name, as on the lab's master."""
    own = TREE / f"pillar/sites/{name}.sls"
    return own if own.exists() else EXAMPLE_SITES / own.name


def _host_address(networks: list[str], last: int) -> list[str]:
    """One address of each network, with its prefix length: number `last`, counted from the end in IPv4 networks."""
    nets = [ipaddress.ip_network(net) for net in networks]
    return [f"{net[last] if net.version == 6 else net[-1 - last]}/{net.prefixlen}" for net in nets]


class Counter:
    """Gives out taps and hardware addresses, each once in a lab."""

    def __init__(self) -> None:
        self.taken = 0

    def nic(self, name: str, switch: str) -> Nic:
        """A new interface on a switch, with the next tap and hardware address."""
        self.taken += 1
        return Nic(name, switch, f"02:00:00:00:00:{self.taken:02x}", f"tap{self.taken}")


def site(name: str, counter: Counter) -> Site:
    """Wire one site."""
    gateway = product("gateway")
    data, schema = _pillar(_site_file(name))["gateway"], _pillar(TREE / "pillar/schema.sls")["gateway_schema"]
    settings = {node: gateway.derive(data, schema, node) for node in data["nodes"]}
    view = next(iter(settings.values()))
    bonds = {bond["side"]: bond for bond in view["bonds"]}
    slaves = {side: data["bonds"][side]["slaves"] for side in bonds}

    def switch(site_switch: str) -> str:
        return f"{name[:3]}-{site_switch}"[:15]

    core = {"external": f"{name[:3]}-provider", "internal": f"{name[:3]}-lan"}
    switches = {core[side]: sorted({switch(s) for s in slaves[side].values()}) for side in bonds}
    release = RELEASE_OF_SITE.get(name, TRIXIE)
    master = _host_address(bonds["internal"]["networks"], 2)
    gateways = []
    for node, its in settings.items():
        inner = next(bond for bond in its["bonds"] if bond["side"] == "internal")
        gateways.append(Host(
            name=node, domain=name, release=release, configured=inner["slaves"][0], addresses=inner["addresses"],
            nics=[counter.nic(nic, switch(plug)) for side in bonds for nic, plug in slaves[side].items()],
            master=master[0].split("/")[0]))
    behind = [ping for ping in view["ping_nodes"] if _inside(ping, bonds["internal"]["networks"])]
    virtual = [v["address"] for v in view["virtual"] if v["side"] == "internal"]
    server = Namespace(
        name=f"server-{name}", switch=core["internal"],
        addresses=[f"{address}/{net.split('/')[1]}" for net in bonds["internal"]["networks"]
                   for address in (behind if ":" not in net else [str(ipaddress.ip_network(net)[0x53])])],
        routes=[("default", address) for address in virtual])
    router = [f"{gw}/{net.split('/')[1]}" for net in bonds["external"]["networks"]
              for gw in bonds["external"]["gateways"] if _inside(gw, [net])]
    return Site(name, settings, gateways, server, switches, master, router)


def _inside(address: str, networks: list[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in networks)


def roadwarrior(counter: Counter, name: str, number: int, behind_nat: bool = False) -> Host:
    """A person's machine on the internet, or in the hotel. `number` is the person's, from 0 on."""
    network, switch = (HOTEL_NETWORK, "hotel") if behind_nat else (ROADWARRIOR_NETWORK, "street")
    return Host(name=name, domain="somewhere", release=TRIXIE, nics=[counter.nic("eth0", switch)],
                configured="eth0", addresses=[f"{network[10 + number]}/{network.prefixlen}"], gateway=str(network[1]))
