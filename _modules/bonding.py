"""
Bonds: read them, compare them with their description, change them live, and keep them over a reboot.

A live change is one batch of iproute2 commands, whose inverse is made beforehand. ``apply`` gives the inverse to
``commit_confirm``, so the node itself rolls the change back unless the Salt master is reached again. Files are written
for ifupdown (interfaces(5)) or systemd-networkd (systemd.netdev(5), systemd.network(5)). Bond options have their kernel
names (Documentation/networking/bonding.rst).
"""
from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import salt.utils.path
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

__virtualname__ = "bonding"

# All modes, those with ARP monitoring, those with a primary. Twin: _WITHOUT_ARP, _WITH_PRIMARY in _modules/gateway.py.
_ALL_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_ARP_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast")
_PRIMARY_MODES = ("active-backup", "balance-tlb", "balance-alb")


class _Option(NamedTuple):
    """A bond option: the kernel's default, and the name that each tool has for it."""

    default: object
    networkd: str                  # key in [Bond] of a .netdev; {} stands for the value
    modes: tuple[str, ...] = _ALL_MODES  # the kernel refuses the option in other modes
    json: str = ""                 # key in `ip -j -d link`, where it differs
    locked: bool = False           # settable only while the bond is down and has no slaves (bond_options.c)


_OPTIONS = {
    "mode": _Option("balance-rr", "Mode={}", locked=True),
    "miimon": _Option(0, "MIIMonitorSec={}ms"),
    "updelay": _Option(0, "UpDelaySec={}ms"),
    "downdelay": _Option(0, "DownDelaySec={}ms"),
    "arp_interval": _Option(0, "ARPIntervalSec={}ms", _ARP_MODES),
    "arp_ip_target": _Option("", "ARPIPTargets={}", _ARP_MODES),
    "arp_validate": _Option("none", "ARPValidate={}", _ARP_MODES),
    "arp_all_targets": _Option("any", "ARPAllTargets={}", _ARP_MODES),
    "primary": _Option("", "", _PRIMARY_MODES),
    "primary_reselect": _Option("always", "PrimaryReselectPolicy={}", _PRIMARY_MODES),
    "fail_over_mac": _Option("none", "FailOverMACPolicy={}", ("active-backup",), locked=True),
    "num_grat_arp": _Option(1, "GratuitousARP={}", json="num_peer_notif"),
    "xmit_hash_policy": _Option("layer2", "TransmitHashPolicy={}", ("balance-xor", "802.3ad", "balance-tlb")),
    "resend_igmp": _Option(1, "ResendIGMP={}"),
    "all_slaves_active": _Option(0, "AllSlavesActive={}"),
    "min_links": _Option(0, "MinLinks={}"),
    "lp_interval": _Option(1, "LearnPacketIntervalSec={}", ("balance-tlb", "balance-alb")),
    "packets_per_slave": _Option(1, "PacketsPerSlave={}", ("balance-rr",)),
    "tlb_dynamic_lb": _Option(1, "DynamicTransmitLoadBalancing={}", ("balance-tlb",), locked=True),
    "lacp_rate": _Option("slow", "LACPTransmitRate={}", ("802.3ad",), "ad_lacp_rate", locked=True),
    "ad_select": _Option("stable", "AdSelect={}", ("802.3ad",), locked=True),
    "ad_user_port_key": _Option(0, "AdUserPortKey={}", ("802.3ad",), locked=True),
    "ad_actor_sys_prio": _Option(65535, "AdActorSystemPriority={}", ("802.3ad",)),
}
# By option, the option without which the kernel ignores it; it then keeps its earlier value.
_ONLY_WITH = {"updelay": "miimon", "downdelay": "miimon", "arp_ip_target": "arp_interval",
              "arp_validate": "arp_interval", "arp_all_targets": "arp_interval"}
# This product's defaults, where the kernel's differ: one lost announcement after a failover of a bond costs seconds.
_OUR_DEFAULTS = {"num_grat_arp": 3}

_FOLDER = Path("/run/gateway/rollback/network")
# systemd gives a service 90 s to stop.
_COMMAND_SECONDS = 100
_PROC = Path("/proc/net/bonding")
_SYS = Path("/sys/class/net")
_SLAVE_HEADING = "\nSlave Interface: "
# bond_3ad.c, LACP_STATE_DEFAULTED, LACP_STATE_EXPIRED
_DEFAULTED, _EXPIRED = 0x40, 0x80
_MARK = "Written by Salt (state bonding.applied); what is changed here is lost. See docs/network.md."
_INTERFACES = "/etc/network/interfaces"
_INTERFACES_D = "/etc/network/interfaces.d"
_IFSTATE = "/run/network/ifstate"
_NETWORKD_D = "/etc/systemd/network"
# The socket first: it would start the service again at the next netlink message.
_NETWORKD_UNITS = ("systemd-networkd.socket", "systemd-networkd.service")


def __virtual__() -> str | tuple[bool, str]:
    if not salt.utils.path.which("ip"):
        return False, "bonding: iproute2 (the command ip) is missing"
    return __virtualname__


def _run(*argv: str) -> dict:
    return __salt__["cmd.run_all"](list(argv), python_shell=False, ignore_retcode=True, timeout=_COMMAND_SECONDS)


# reading


def status(name: str = "") -> dict:
    """
    The bonds of this node as the kernel has them, or only the bond ``name`` ({} if there is none).

    Each has ``mode``, ``up``, ``mii_status``, ``active_slave``, ``primary``, ``monitor`` (``miimon``, ``updelay``,
    ``downdelay`` or ``arp_interval``, ``arp_targets``, ``arp_validate``; ms), ``mac``, ``mtu``, ``addresses``, and
    ``slaves``: by name ``link`` (up, down, going back or going down), ``active``, ``failures`` (since enslaved),
    ``permanent_mac``, ``speed`` (Mbit/s, 0 unknown), ``duplex``.

    Source: /sys/class/net/NAME/bonding, /proc/net/bonding/NAME.

    CLI Example:

    .. code-block:: bash

        salt '*' bonding.status bond0
    """
    links = {link["ifname"]: link for link in _ip("-d", "addr", "show")}
    found = {}
    for bond in [name] if name else sorted(path.name for path in _PROC.glob("*")):
        proc = _PROC / bond
        link = links.get(bond, {})
        if proc.exists() and link:
            found[bond] = _bond_status(proc.read_text(), link)
    return found.get(name, {}) if name else found


def glance(bonds: list[dict]) -> dict:
    """
    The bonds that a site wants, as the kernel has them. Reads files only, so it may be called once a second.

    Args:
        bonds: as ``gateway.settings`` has them; only ``name`` and ``slaves`` are used.

    Returns:
        By name; None for a missing bond. ``mii_status``; ``active_slave`` ("" without one); ``monitor``
        (``miimon``, ``arp``); ``aggregator`` (802.3ad: ``number`` and ``partner``, else empty); ``slaves``, by name:
        None for one that is not in the bond, else ``link`` (up, down, going back, going down), ``failures`` (since it
        joined the bond), ``carrier`` (None: the interface is off; read only when the link is not up) and in
        802.3ad ``aggregator``, ``partner`` (hardware address; "" without a partner, or if it is no longer heard) and
        ``churn`` (the actor's and the partner's state: none, monitoring, churned).

    Source: /proc/net/bonding/NAME (bond_procfs.c), /sys/class/net/NAME/carrier.

    CLI Example:

    .. code-block:: bash

        salt-call bonding.glance '[{name: bond0, slaves: [eth0, eth1]}]'
    """
    found: dict = {}
    for bond in bonds:
        try:
            proc = (_PROC / bond["name"]).read_text()
        except OSError:
            found[bond["name"]] = None
            continue
        head, *parts = proc.split(_SLAVE_HEADING)
        its = {part.split("\n", 1)[0].strip(): part for part in parts}
        lacp = "\n802.3ad info" in head
        active = _field(head, "Currently Active Slave")
        found[bond["name"]] = {
            "mii_status": _field(head, "MII Status"),
            "active_slave": "" if active == "None" else active,
            # Without an interval the kernel leaves the line out.
            "monitor": "arp" if _field(head, "ARP Polling Interval (ms)") not in ("", "0") else "miimon",
            "aggregator": {"number": _field(head, "Aggregator ID"),
                           "partner": _partner(_field(head, "Partner Mac Address"))} if lacp else {},
            "slaves": {slave: _slave_glance(slave, its[slave], lacp) if slave in its else None
                       for slave in bond["slaves"]}}
    return found


def _slave_glance(slave: str, part: str, lacp: bool) -> dict:
    link = _field(part, "MII Status")
    its: dict = {"link": link, "failures": int(_field(part, "Link Failure Count") or 0),
                 "carrier": True if link == "up" else _carrier(slave)}
    if lacp:
        ours, _words, theirs = part.partition("details actor lacp pdu:")[2].partition("details partner lacp pdu:")
        state = int(_field(ours, "port state") or 0)
        # The kernel keeps the partner's address for one more timeout after its last message.
        partner = "" if state & (_DEFAULTED | _EXPIRED) else _partner(_field(theirs, "system mac address"))
        its |= {"aggregator": _field(part, "Aggregator ID"), "partner": partner,
                "churn": [_field(part, f"{who} Churn State") for who in ("Actor", "Partner")]}
    return its


def _carrier(interface: str) -> bool | None:
    try:
        return (_SYS / interface / "carrier").read_text().strip() == "1"
    except OSError:     # EINVAL: the interface is off
        return None


def _partner(mac: str) -> str:
    return "" if not mac.strip("0:") else mac


def _field(text: str, key: str) -> str:
    """A field of a /proc/net/bonding file, the first of that name; some fields are indented."""
    found = re.search(rf"^[ \t]*{re.escape(key)}: (.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _bond_status(proc: str, link: dict) -> dict:
    """One bond, from the text of its /proc/net/bonding file and its entry in `ip -j -d addr`."""
    head, *parts = proc.split(_SLAVE_HEADING)
    data = _options_of(link)
    monitor = {key: data[key] for key in ("miimon", "updelay", "downdelay")}
    if data["arp_interval"]:
        monitor = {"arp_interval": data["arp_interval"], "arp_validate": data["arp_validate"],
                   "arp_targets": data["arp_ip_target"].split(",") if data["arp_ip_target"] else []}
    active = link["linkinfo"]["info_data"].get("active_slave", "")
    slaves = {}
    for part in parts:
        slave = part.split("\n", 1)[0].strip()
        speed = _field(part, "Speed").removesuffix(" Mbps")
        slaves[slave] = {"link": _field(part, "MII Status"), "active": slave == active,
                         "failures": int(_field(part, "Link Failure Count") or 0),
                         "permanent_mac": _field(part, "Permanent HW addr"),
                         "speed": int(speed) if speed.isdigit() else 0, "duplex": _field(part, "Duplex").lower()}
    addresses = [f"{a['local']}/{a['prefixlen']}" for a in link.get("addr_info", []) if a["scope"] == "global"]
    return {"mode": data["mode"], "up": "UP" in link["flags"], "mii_status": _field(head, "MII Status"),
            "active_slave": active, "primary": data["primary"], "monitor": monitor, "mac": link["address"],
            "mtu": link["mtu"], "slaves": slaves, "addresses": addresses}


def _ip(*arguments: str) -> list[dict]:
    """The JSON output of iproute2, without the empty entries that it prints for links that a filter left out."""
    done = _run("ip", "-j", *arguments)
    if done["retcode"]:
        raise CommandExecutionError(f"ip -j {' '.join(arguments)}: {done['stderr']}")
    return [entry for entry in json.loads(done["stdout"] or "[]") if entry]


def _options_of(link: dict) -> dict:
    """A bond's options by their kernel names, from its entry in `ip -j -d link`."""
    data = link["linkinfo"]["info_data"]
    options = {}
    for name, option in _OPTIONS.items():
        value = data.get(option.json or name)
        if isinstance(value, list):
            value = ",".join(value)
        # iproute2 6.15 prints null for a value 0 that has a name (arp_validate none)
        options[name] = option.default if value is None else value
    return options


# the network as a value: the live one, the wanted one, and the commands that lead from one to the other


def _live() -> dict:
    """
    The links of this node and the addresses and routes on them, as ``_batch`` compares them.

    Left out: link-local addresses, and what the kernel or a router advertisement made. ``held`` has the addresses of
    single hosts (/32, /128), above all the virtual IPs. They belong to heartbeat and are never compared.
    """
    links = {}
    for link in _ip("-d", "addr", "show"):
        info = link.get("linkinfo", {})
        bond = info.get("info_kind") == "bond"
        permanent = info.get("info_slave_data", {}).get("perm_hwaddr") or link.get("permaddr")
        entry = {
            "bond": bond, "up": "UP" in link["flags"], "mtu": link["mtu"], "master": link.get("master", ""),
            "mac": permanent or link.get("address", ""),
            # `link` of a veth names its peer
            "over": link.get("link", "") if info.get("info_kind") != "veth" else "",
            "options": _options_of(link) if bond else {},
            "addresses": {}, "held": {}, "routes": {},
        }
        for address in link.get("addr_info", []):
            if address["scope"] == "link" or address.get("protocol") == "kernel_ra" or address.get("temporary"):
                continue
            kind = "held" if address["prefixlen"] == {"inet": 32, "inet6": 128}[address["family"]] else "addresses"
            entry[kind][f"{address['local']}/{address['prefixlen']}"] = _address_words(address)
        links[link["ifname"]] = entry
    for family in ("-4", "-6"):
        for route in _ip(family, "route", "show", "table", "main"):
            if route.get("protocol") not in ("kernel", "ra", "redirect") and route.get("dev") in links:
                words = _route_words(route, family)
                links[route["dev"]]["routes"][_route_key(words)] = words
    return links


def _address_words(address: dict) -> str:
    """The words that follow the address in `ip address add`, to make the same address again."""
    words = [f"brd {address['broadcast']}"] if "broadcast" in address else []
    words += [flag for flag in ("nodad", "noprefixroute") if address.get(flag)]
    if address["scope"] != "global":
        words.append(f"scope {address['scope']}")
    if address.get("dynamic"):
        words.append(f"valid_lft {address['valid_life_time']} preferred_lft {address['preferred_life_time']}")
    return " ".join(words)


def _route_words(route: dict, family: str) -> str:
    # ::/0 rather than default: a batch has no -6, so the family must be visible in the prefix
    words = ["::/0" if family == "-6" and route["dst"] == "default" else route["dst"]]
    if "gateway" in route:
        words.append(f"via {route['gateway']}")
    elif "via" in route:
        words.append(f"via {route['via']['family']} {route['via']['host']}")
    words.append(f"dev {route['dev']}")
    for key, word in (("protocol", "proto"), ("scope", "scope"), ("prefsrc", "src"), ("metric", "metric")):
        if key in route:
            words.append(f"{word} {route[key]}")
    if "onlink" in route.get("flags", []):
        words.append("onlink")
    return " ".join(words)


def _route_key(words: str) -> str:
    """A route's destination and way; another origin (protocol) or metric does not make it another route."""
    return re.split(r" (?:proto|scope|src|metric|onlink)\b", words)[0]


def _wanted(live: dict, bonds: list[dict]) -> dict:
    """The network as it should be. Raises CommandExecutionError with all obstacles, before anything changes."""
    then = {name: {**link} for name, link in live.items()}
    problems = []
    ours = {bond["name"] for bond in bonds}
    claimed = {slave: bond["name"] for bond in bonds for slave in bond["slaves"]}
    moving = {address.split("/")[0] for bond in bonds for address in bond["addresses"]}
    for slave, bond in claimed.items():
        problems += _slave_problems(live, slave, bond)
    for bond in bonds:
        name = bond["name"]
        if name in live and not live[name]["bond"]:
            problems.append(f"{name}: an interface of this name exists and is not a bond")
        for option in bond["options"]:
            if option not in _OPTIONS:
                problems.append(f"{name}: unknown bond option '{option}'; known are {', '.join(_OPTIONS)}")
    if problems:
        raise CommandExecutionError("; ".join(problems))

    for name, link in then.items():
        if name in claimed:
            master = next(bond for bond in bonds if bond["name"] == claimed[name])
            link |= {"master": claimed[name], "up": True, "mtu": master["mtu"], "addresses": {}, "routes": {}}
        elif name not in ours:
            if link["master"] in ours:
                link |= {"master": "", "up": False}     # no longer a slave
            # An address that now belongs to a bond must not be on another interface.
            link["addresses"] = {a: words for a, words in link["addresses"].items() if a.split("/")[0] not in moving}
    # A bond with another name, whose slaves all go into one of ours, is the same bond under its old name.
    for name, link in live.items():
        slaves = [slave for slave, its in live.items() if its["master"] == name]
        if link["bond"] and name not in ours and slaves and all(slave in claimed for slave in slaves):
            del then[name]
    for bond in bonds:
        old = live.get(bond["name"], {"held": {}, "routes": {}, "over": "", "mac": ""})
        routes = {key: words for key, words in old["routes"].items() if not _our_route(words)}
        for words in _bond_routes(bond):
            key = _route_key(words)
            routes[key] = old["routes"].get(key, words)
        then[bond["name"]] = {**old, "bond": True, "up": True, "mtu": bond["mtu"], "master": "", "routes": routes,
                              "mac": old["mac"] or _mac(live, bond), "options": _bond_options(bond),
                              "addresses": {address: _new_address_words(address) for address in bond["addresses"]}}
    # One default route for each IP version: a second one on any interface would compete, unless its metric is higher.
    for family in {_family(gateway) for bond in bonds for gateway in bond["gateways"]}:
        for name, link in then.items():
            if name not in ours:
                link["routes"] = {key: words for key, words in link["routes"].items()
                                  if not (_is_default(words, family) and _competes(words, family))}
    return then


def _slave_problems(live: dict, slave: str, bond: str) -> list[str]:
    if slave not in live:
        cards = [name for name, link in live.items() if not link["bond"] and name != "lo"]
        return [f"{bond}: this machine has no interface {slave} (there are {', '.join(sorted(cards)) or 'none'})"]
    master = live[slave]["master"]
    if master and not live.get(master, {}).get("bond"):
        return [f"{bond}: {slave} already belongs to {master}; remove it there first"]
    stacked = [name for name, link in live.items() if link["over"] == slave]
    return [f"{bond}: {', '.join(stacked)} is based on {slave}; base it on {bond} instead"] if stacked else []


def _bond_options(bond: dict) -> dict:
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
    return {name: said.get(name, option.default) for name, option in _OPTIONS.items()}


def _options_in_force(options: dict) -> dict:
    """The options that have an effect in this mode and with this monitoring, as texts."""
    return {name: str(value) for name, value in options.items()
            if options["mode"] in _OPTIONS[name].modes and options.get(_ONLY_WITH.get(name, "mode"))}


def _mac(live: dict, bond: dict) -> str:
    """
    A new bond's hardware address: the permanent one of its first slave, so that neighbours need not learn a new one.

    Trap: without it, udev gives the bond an invented address (MACAddressPolicy=persistent), some time after its start.
    """
    return "" if _bond_options(bond)["fail_over_mac"] == "active" else live[bond["slaves"][0]]["mac"]


def _family(address: str) -> int:
    return ipaddress.ip_interface(address).version


def _new_address_words(address: str) -> str:
    return "brd +" if _family(address) == 4 and ipaddress.ip_interface(address).network.prefixlen < 31 else ""


def _bond_routes(bond: dict) -> list[str]:
    default = {4: "default", 6: "::/0"}
    pairs = [(default[_family(gateway)], gateway) for gateway in bond["gateways"]]
    pairs += [(route["to"], route["via"]) for route in bond["routes"]]
    return [f"{to} via {via} dev {bond['name']} proto static" for to, via in pairs]


def _our_route(words: str) -> bool:
    """Whether the description decides on a route: default and static ones. Others may be the IPsec daemon's (boot)."""
    return words.startswith(("default ", "::/0 ")) or " proto static" in words


def _is_default(words: str, family: int) -> bool:
    return words.startswith({4: "default ", 6: "::/0 "}[family])


def _competes(words: str, family: int) -> bool:
    metric = re.search(r" metric (\d+)", words)
    return not metric or int(metric.group(1)) <= {4: 0, 6: 1024}[family]


def _batch(now: dict, then: dict) -> list[str]:
    """
    The lines for `ip -batch` that lead from one network to another.

    With the arguments swapped it gives the way back, which works from any point on the way: each line says what must
    be, not what must change, and `ip -force` skips the lines that already hold.
    """
    def changed_options(bond: str) -> dict:
        old, new = _options_in_force(now[bond]["options"]), _options_in_force(then[bond]["options"])
        return {name: value for name, value in new.items() if old.get(name) != value}

    both = [name for name in then if name in now]
    gone = [name for name in now if name not in then]
    made = [name for name in then if name not in now]
    rebuilt = {name for name in both if then[name]["bond"] and any(_OPTIONS[o].locked for o in changed_options(name))}
    moved = [n for n in both if now[n]["master"] != then[n]["master"] or now[n]["master"] in rebuilt]
    leaving = [name for name in moved if now[name]["master"]]
    joining = [name for name in moved if then[name]["master"]]
    # Slaves without addresses join first, so the interface that carries the traffic is down for the shortest time.
    joining.sort(key=lambda name: bool(now[name]["addresses"]))
    lines = [f"link set dev {name} nomaster" for name in leaving]
    lines += [f"link del dev {name}" for name in gone]
    for name in both:
        options = changed_options(name) if then[name]["bond"] else {}
        if name in rebuilt:
            lines.append(f"link set dev {name} down")
        if options:
            lines.append(f"link set dev {name} type bond {_option_words(options)}")
    for name in made:
        mac = f"address {then[name]['mac']} " if then[name]["mac"] else ""
        options = {k: v for k, v in _options_in_force(then[name]["options"]).items() if v != str(_OPTIONS[k].default)}
        lines.append(f"link add dev {name} {mac}mtu {then[name]['mtu']} type bond {_option_words(options)}")
    lost = {*gone, *rebuilt, *leaving, *joining}      # they go down meanwhile: their routes and IPv6 addresses are lost
    for name in then:
        lines += _link_lines(name, now.get(name), then[name], name in rebuilt, name in leaving, name in joining)
    for name in joining:
        lines += [f"addr del {address} dev {name}" for address in now[name]["addresses"]]
        # The kernel enslaves only an interface that is down.
        lines += [f"link set dev {name} {word}" for word in ("down", f"master {then[name]['master']}", "up")]
    # An address that is removed takes the routes over its network with it.
    lost |= {name for name in both if set(now[name]["addresses"]) - set(then[name]["addresses"])}
    for name in both:
        if name not in lost:
            lines += [f"route del {w}" for k, w in now[name]["routes"].items() if k not in then[name]["routes"]]
    for name, link in then.items():
        known = {} if name in lost or name not in now or not now[name]["up"] else now[name]["routes"]
        lines += [f"route replace {words}" for key, words in link["routes"].items() if key not in known]
    return lines


def _link_lines(name: str, old: dict | None, new: dict, rebuilt: bool, left: bool, joins: bool) -> list[str]:
    """The lines for one link's MTU, addresses, up and down. A slave has none: its bond decides all of these."""
    if new["master"]:
        return []
    lines = []
    if old and (old["mtu"] != new["mtu"] or left):
        lines.append(f"link set dev {name} mtu {new['mtu']}")
    # Old addresses first: with the first address of a network the kernel may drop the others (promote_secondaries).
    lines += [f"addr del {a} dev {name}" for a in (old or new)["addresses"] if a not in new["addresses"]]
    addresses = {a: w for a, w in new["addresses"].items() if not old or a not in old["addresses"] or left}
    if new["up"]:
        if not old or not old["up"] or rebuilt or left:
            lines.append(f"link set dev {name} up")
        if rebuilt or left:      # a link that goes down loses its IPv6 addresses
            addresses |= {a: w for a, w in {**new["addresses"], **new["held"]}.items() if _family(a) == 6}
    return lines + [f"addr replace {a} {words} dev {name}".replace("  ", " ") for a, words in addresses.items()]


def _option_words(options: dict) -> str:
    # iproute2 has no word for "no primary"; _prepare_undo restores that
    return " ".join(f"{name} " + (value or '""') for name, value in options.items() if value or name != "primary")


def _differences(now: dict, then: dict) -> dict:
    """What changes, by interface, for people: {interface: {what: {old, new}}}."""
    changes: dict = {}
    for name in sorted({*now, *then}):
        old, new = _described(now.get(name)), _described(then.get(name))
        if "master" in {*old, *new}:     # whether a slave is up, and its MTU, depend on its bond
            old, new = ({key: value for key, value in side.items() if key not in ("up", "mtu")} for side in (old, new))
        differ = {key: {"old": old.get(key, ""), "new": new.get(key, "")}
                  for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
        if differ:
            changes[name] = differ
    return changes


def _described(link: dict | None) -> dict:
    if link is None:
        return {}
    words: dict = {"up": link["up"], "mtu": link["mtu"]}
    words |= {key: link[key] for key in ("master",) if link[key]}
    words |= {key: sorted(link[key]) for key in ("addresses", "routes") if link[key]}
    if link["bond"]:
        words |= {k: v for k, v in _options_in_force(link["options"]).items() if v != str(_OPTIONS[k].default)}
    return words


def plan(bonds: list[dict], manager: str = "auto") -> dict:
    """
    The changes after which this node's bonds are as described, now and after a reboot.

    bonds
        As ``gateway.settings`` has them: ``name``, ``slaves``, ``mode``, ``monitor``, ``primary``, ``mtu``,
        ``options``, ``addresses``, ``gateways``, ``routes``.
    manager
        ``ifupdown``, ``networkd``, or ``auto`` for the one that manages the network here.

    Returns ``changes`` (for people; {} when nothing changes), ``forward`` and ``inverse`` (lines for `ip -batch`),
    ``files`` (path: text, or None for a file to be deleted; only files that change) and ``manager``.

    Raises:
        CommandExecutionError: a slave is missing or in use elsewhere, a bond's name is taken, an option is unknown.

    CLI Example:

    .. code-block:: bash

        salt-call bonding.plan "$BONDS"
    """
    manager = _manager() if manager == "auto" else manager
    now = _live()
    then = _wanted(now, bonds)
    files = _files_to_change(bonds, now, manager)
    changes = _differences(now, then)
    for path, text in files.items():
        old = Path(path).read_text() if Path(path).exists() else ""
        diff = difflib.unified_diff(old.splitlines(), (text or "").splitlines(), lineterm="", n=1)
        changes[path] = {"diff": "\n".join(diff)}
    return {"changes": changes, "files": files, "manager": manager,
            "forward": _batch(now, then), "inverse": _batch(then, now)}


# files


def _manager() -> str:
    """What manages this node's network: systemd-networkd if it is enabled and has configuration, else ifupdown."""
    def is_on(question: str, unit: str) -> bool:
        return _run("systemctl", question, "--quiet", unit)["retcode"] == 0

    if is_on("is-active", "NetworkManager.service"):
        raise CommandExecutionError(
            "NetworkManager manages this node's network, but bonds are kept by ifupdown or systemd-networkd; "
            "configure the network with one of these and `apt purge network-manager`")
    networkd = is_on("is-active", "systemd-networkd.service") or is_on("is-enabled", "systemd-networkd.service")
    described = any(path for folder in ("/etc", "/run") for path in Path(folder, "systemd/network").glob("*.network"))
    if networkd and (described or not salt.utils.path.which("ifup")):
        return "networkd"
    if salt.utils.path.which("ifup"):
        return "ifupdown"
    raise CommandExecutionError(
        "nothing manages this node's network: ifupdown is not installed, and systemd-networkd is not enabled; "
        "`apt install ifupdown` or `systemctl enable systemd-networkd`")


def _files_to_change(bonds: list[dict], live: dict, manager: str) -> dict[str, str | None]:
    files = {"ifupdown": _ifupdown_files, "networkd": _networkd_files}[manager](bonds, live)
    return {path: text for path, text in files.items()
            if (Path(path).read_text() if Path(path).exists() else None) != text}


def files(bonds: list[dict], manager: str = "auto") -> list[str]:
    """
    The files that keep the bonds over a reboot, sorted.

    bonds, manager
        As for ``plan``.

    CLI Example:

    .. code-block:: bash

        salt-call bonding.files "$BONDS"
    """
    manager = _manager() if manager == "auto" else manager
    ours = {"ifupdown": (_INTERFACES_D, "gateway-*"), "networkd": (_NETWORKD_D, "05-gateway-*")}[manager]
    found = {str(path) for path in Path(ours[0]).glob(ours[1])} | ({_INTERFACES} if manager == "ifupdown" else set())
    return sorted(path for path in found if Path(path).is_file())


def _stale(folder: str, pattern: str) -> dict[str, str | None]:
    """Files that an earlier run wrote, marked for deletion; the caller replaces the entries of those still wanted."""
    return {str(path): None for path in Path(folder).glob(pattern)}


def _ifupdown_files(bonds: list[dict], live: dict) -> dict[str, str | None]:
    """
    One file for each bond, and the existing files without the stanzas of bonds and slaves.

    Trap: a stanza that gives a slave an address would do so at every boot, in addition to the bond's address.
    iproute2 makes the bond, with the same words as the live change; Debian's package ifenslave is not needed.
    """
    files = _stale(_INTERFACES_D, "gateway-*")
    names = {name for bond in bonds for name in (bond["name"], *bond["slaves"])}
    for path in [Path(_INTERFACES), *sorted(Path(_INTERFACES_D).glob("*"))]:
        if str(path) in files or not path.is_file():
            continue
        files[str(path)] = _without_stanzas(path.read_text(), names)
    main = files.get(_INTERFACES) or "auto lo\niface lo inet loopback\n"
    if not re.search(rf"^\s*source(-directory)?\s+{_INTERFACES_D}(/\*)?\s*$", main, re.MULTILINE):
        main = f"source {_INTERFACES_D}/*\n\n{main}"
    files[_INTERFACES] = main
    for bond in bonds:
        files[f"{_INTERFACES_D}/gateway-{bond['name']}"] = _stanzas(bond, live)
    return files


def _without_stanzas(text: str, names: set[str]) -> str:
    """An interfaces(5) file without what it says about these interfaces; everything else stays, comments included."""
    kept, skipping = [], False
    for line in text.splitlines():
        words = line.split()
        head = words[0] if words else ""
        if head == "iface" or head == "mapping":
            skipping = words[1].split(":")[0] in names
        elif head == "auto" or head == "no-auto-down" or head.startswith("allow-"):
            skipping = False
            left = [name for name in words[1:] if name.split(":")[0] not in names]
            if len(left) < len(words) - 1:
                if left:
                    kept.append(" ".join([head, *left]))
                continue
        elif head in ("source", "source-directory", "template", "rename", "no-scripts"):
            skipping = False
        if not skipping:
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept) + "\n"


def _stanzas(bond: dict, live: dict) -> str:
    name, options = bond["name"], _bond_options(bond)
    primary = options.pop("primary")
    mac = _mac(live, bond)
    given = {k: v for k, v in _options_in_force(options).items() if v != str(_OPTIONS[k].default)}
    make = [f"pre-up [ -e /sys/class/net/{name} ] || ip link add dev {name} {f'address {mac} ' if mac else ''}"
            f"mtu {bond['mtu']} type bond {_option_words(given)}"]
    # A missing card must not keep the bond down.
    for slave in bond["slaves"]:
        enslave = f"ip link set dev {slave} down && ip link set dev {slave} master {name}"
        make.append(f"pre-up [ -e /sys/class/net/{name}/lower_{slave} ] || {{ {enslave}; }} || true")
    if primary:
        make.append(f"pre-up ip link set dev {name} type bond primary {primary} || true")
    lines = [f"# {_MARK}", f"auto {name}"]
    for number, address in enumerate(bond["addresses"] or [""]):
        family = {4: "inet", 6: "inet6"}[_family(address)] if address else "inet"
        lines += ["", f"iface {name} {family} {'static' if address else 'manual'}"]
        body = list(make) if number == 0 else []
        body += [f"address {address}"] if address else [f"up ip link set dev {name} up"]
        if family == "inet6":
            # A router advertisement must not give a gateway another default route.
            body += ["accept_ra 0", "autoconf 0"]
        if number == len(bond["addresses"] or [""]) - 1:
            body += [f"up ip route replace {words}" for words in _bond_routes(bond)]
            body.append(f"post-down ip link del dev {name} 2>/dev/null || true")
        lines += [f"    {line}" for line in body]
    return "\n".join(lines) + "\n"


def _networkd_files(bonds: list[dict], live: dict) -> dict[str, str | None]:
    """
    A .netdev and a .network for each bond, a .network for each slave. Low numbers, as the first matching file counts.

    Traps: whenever networkd configures a link again, it drops addresses that it did not set, such as the virtual IPs
    (hence KeepConfiguration=static); and it removes a bond's addresses when both cables are out (hence
    ConfigureWithoutCarrier).
    """
    files = _stale(_NETWORKD_D, "05-gateway-*")
    for bond in bonds:
        name, options = bond["name"], _bond_options(bond)
        mac = _mac(live, bond)
        netdev = [f"# {_MARK}", "[NetDev]", f"Name={name}", "Kind=bond", f"MTUBytes={bond['mtu']}",
                  f"MACAddress={mac or 'none'}", "", "[Bond]", f"Mode={bond['mode']}"]
        for option, value in _options_in_force(options).items():
            if option not in ("mode", "primary") and value != str(_OPTIONS[option].default):
                netdev.append(_OPTIONS[option].networkd.format(value.replace(",", " ")))
        network = [*_network_head(name, "no-carrier"), *(f"Address={address}" for address in bond["addresses"]),
                   "LinkLocalAddressing=ipv6", "IPv6AcceptRA=no",
                   "ConfigureWithoutCarrier=yes", "KeepConfiguration=static"]
        for words in _bond_routes(bond):
            to, _, via = words.split()[:3]
            network += ["", "[Route]", f"Destination={'0.0.0.0/0' if to == 'default' else to}", f"Gateway={via}"]
        files[f"{_NETWORKD_D}/05-gateway-{name}.netdev"] = "\n".join(netdev) + "\n"
        files[f"{_NETWORKD_D}/05-gateway-{name}.network"] = "\n".join(network) + "\n"
        for slave in bond["slaves"]:
            lines = [*_network_head(slave, "no"), f"Bond={name}"]
            lines += ["PrimarySlave=yes"] if slave == options["primary"] else []
            files[f"{_NETWORKD_D}/05-gateway-{slave}.network"] = "\n".join(lines) + "\n"
    return files


def _network_head(interface: str, online: str) -> list[str]:
    # A cable that is out must not delay the boot (network-online.target). Trap: with `no` on all interfaces,
    # systemd-networkd-wait-online waits for its full two minutes.
    return [f"# {_MARK}", "[Match]", f"Name={interface}", "", "[Link]", f"RequiredForOnline={online}", "", "[Network]"]


# changing


def apply(bonds: list[dict], manager: str = "auto", seconds: int = 60, confirm_with: list[str] | None = None) -> dict:
    """
    Make the bonds as described. The node itself rolls the change back unless the master is reached afterwards.

    bonds, manager
        As for ``plan``.
    seconds, confirm_with
        As for ``commit_confirm.guarded``.

    Returns ``changes`` (as ``plan``; {} when nothing changed in the end) and ``problem`` ("" when all went well).

    Raises:
        CommandExecutionError: nothing was changed; see ``plan`` and ``commit_confirm.arm``.

    CLI Example:

    .. code-block:: bash

        salt-call bonding.apply "$BONDS" seconds=120
    """
    todo = plan(bonds, manager)
    if not todo["changes"]:
        return {"changes": {}, "problem": ""}
    before = _live()
    networkd = todo["manager"] == "networkd"
    undo_argv = _prepare_undo(before, todo | {"bonds": [bond["name"] for bond in bonds]}, networkd)

    def change() -> None:
        if networkd:
            # A running networkd would put its old addresses back on the slaves as soon as these are up again.
            _systemctl("stop", *_NETWORKD_UNITS)
        done = _run("ip", "-batch", str(_FOLDER / "forward"))
        if done["retcode"]:
            raise CommandExecutionError(f"iproute2 refused a step: {done['stderr']}")

    def keep() -> None:
        _write_files(todo["files"])
        # Trap: with a slow disk this may come late, and what follows would change a network that is back already.
        if __salt__["commit_confirm.rolled_back"]("network"):
            raise CommandExecutionError("the node's own timer has rolled it back while its files were written")
        if networkd:
            _systemctl("enable", "systemd-networkd.service")
            _systemctl("start", *reversed(_NETWORKD_UNITS))
        else:
            _tell_ifupdown(bonds)
        _stop_dhcp_clients({slave for bond in bonds for slave in bond["slaves"]})
        left = _settled(lambda: not _batch(live := _live(), _wanted(live, bonds)))
        if not left:
            raise CommandExecutionError(f"with its new files {todo['manager']} makes a network other than described")

    problem = __salt__["commit_confirm.guarded"]("network", undo_argv, change, keep, seconds, confirm_with)
    if not problem:
        return {"changes": todo["changes"], "problem": ""}
    if _settled(lambda: not _differences(before, _live())):
        return {"changes": {}, "problem": f"{problem}; the old network is back"}
    rest = _differences(before, _live())
    return {"changes": rest, "problem": f"{problem}; the old network is NOT fully back ({', '.join(rest)} differ)"}


def _settled(check: Callable[[], bool], timeout: float = 10) -> bool:
    """Whether `check` becomes true within the timeout (seconds); what starts in the background needs a moment."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def _systemctl(action: str, *units: str) -> None:
    done = _run("systemctl", action, *units)
    if done["retcode"]:
        raise CommandExecutionError(f"systemctl {action} {' '.join(units)}: {done['stderr']}")


def _prepare_undo(before: dict, todo: dict, networkd: bool) -> list[str]:
    """Prepare the command that restores the old network. It needs only a shell and iproute2."""
    afterwards: list[list[str]] = []
    commands = [["ip", "-force", "-batch", str(_FOLDER / "inverse")]]
    # iproute2 has no word for "no primary"
    commands += [["sh", "-c", 'echo > "$0"', f"/sys/class/net/{name}/bonding/primary"] for name, link in before.items()
                 if link["bond"] and not link["options"]["primary"]]
    if networkd:
        # One that stands on its disk does not stop: the network must not wait for it.
        commands = [["timeout", "10", "systemctl", "stop", *_NETWORKD_UNITS], *commands]
        # It reads the files when it starts.
        afterwards = [["systemctl", "start", *reversed(_NETWORKD_UNITS)]]
    batches = {name: "".join(f"{line}\n" for line in todo[name]) for name in ("forward", "inverse")}
    files = [*todo["files"], *([] if networkd else _ifupdown_records(before, todo["bonds"]))]
    return __salt__["commit_confirm.prepare"]("network", files, commands, afterwards, batches)


def _ifupdown_records(before: dict, bonds: list[str]) -> list[str]:
    """Where ifupdown notes what is up; see `_tell_ifupdown`."""
    return [_IFSTATE, *(f"{_IFSTATE}.{name}" for name in sorted({*before, *bonds}))] if Path(_IFSTATE).exists() else []


def _write_files(files: dict) -> None:
    for path, text in files.items():
        # The copy is kept in another folder: ifupdown reads every file in this one.
        __salt__["commit_confirm.keep_original"](path, _MARK)
        if text is None:
            Path(path).unlink(missing_ok=True)
        else:
            __salt__["commit_confirm.replace_file"](path, text)


def _tell_ifupdown(bonds: list[dict]) -> None:
    """
    Tell ifupdown what is up, for `ifdown bond0`, `ifdown -a` and `ifquery --state`. ifupdown (0.8) records this twice:
    in `ifstate`, one INTERFACE=STANZA a line, and in `ifstate.INTERFACE`, the stanza or nothing, which it goes by.
    """
    record = Path(_IFSTATE)
    if record.exists():
        slaves = {slave for bond in bonds for slave in bond["slaves"]}
        bond_names = [bond["name"] for bond in bonds]
        kept = [line for line in record.read_text().splitlines() if line.split("=")[0] not in {*slaves, *bond_names}]
        lines = [*kept, *(f"{name}={name}" for name in bond_names)]
        __salt__["commit_confirm.replace_file"](str(record), "\n".join(lines) + "\n")
        for slave in slaves:
            if Path(f"{record}.{slave}").exists():
                __salt__["commit_confirm.replace_file"](f"{record}.{slave}", "")
        for name in bond_names:
            __salt__["commit_confirm.replace_file"](f"{record}.{name}", f"{name}\n")


def _stop_dhcp_clients(slaves: set[str]) -> None:
    """Stop DHCP clients on slaves: at the next renewal they would give the slave its address again."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if Path(argv[0]).name.rstrip(":") in ("dhclient", "dhcpcd", "udhcpc") and slaves & set(argv[1:]):
            os.kill(int(process.name), 15)
