"""
One site as one of its nodes sees it
====================================

The pillar key ``gateway`` (from ``pillar/sites/SITE.sls``) describes a site. The pillar key ``gateway_schema`` (from
``pillar/schema.sls``) says which keys and values a site may have, defaults included. This module checks the site
against the schema and turns it into *settings*: plain data that has everything a formula needs for this one node.

The module does not touch the machine. :func:`derive` and :func:`find_mistakes` are plain functions on plain data, so
the Salt master (``salt-run gateway.validate``), the lab and the tests use the same code.
"""
from __future__ import annotations

import base64
import binascii
import copy
import difflib
import importlib.util
import ipaddress
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    from salt.exceptions import CommandExecutionError
except ImportError:  # the lab reads sites without Salt
    CommandExecutionError = RuntimeError

__virtualname__ = "gateway"


def _load_peers() -> ModuleType:
    # Trap: Salt's loader knows no import between its modules, and skips a file whose name begins with _.
    spec = importlib.util.spec_from_file_location("gateway_peers", Path(__file__).with_name("_peers.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_peers = _load_peers()

# Characters above U+FFFF become two surrogates in JSON, which no YAML reader takes: one of them breaks every SLS that
# has the settings in it. The others start a comment or a line, or are no characters.
_NOT_IN_A_RULE = r"#\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff\U00010000-\U0010ffff"
# A value that goes into a configuration file must not start a line, a comment or a quotation there.
_PATTERNS = {
    "name": (r"[A-Za-z][A-Za-z0-9_-]{0,62}", "a letter, then letters, digits, - and _, 63 characters at most"),
    "hostname": (r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
                 "lower-case letters, digits and -, without a dot, 63 characters at most, as `uname -n` prints it"),
    "fqdn": (r"(?=.{1,253}\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*"
             r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
             "a name such as gateway.site.example, without a leading @"),
    # Linux takes 15 bytes (IFNAMSIZ less the final zero); a colon or a slash is refused by dev_valid_name().
    "interface": (r"[A-Za-z][A-Za-z0-9._-]{0,14}",
                  "an interface's name: a letter, then letters, digits, . - and _, 15 characters at most"),
    "path": (r"(/[A-Za-z0-9._+-]+)+", "an absolute path of letters, digits and ._+-"),
    # No part of it is . or .., which would lead elsewhere. heartbeat writes to both devices, rsyslog to the log.
    "log": (r"/var/log(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._+-]+)+",
            "a file under /var/log, of letters, digits and ._+-, without .."),
    "serial": (r"/dev/(tty[A-Za-z]+[0-9]+|serial(/(?!\.{1,2}(/|\Z))[A-Za-z0-9:._+-]+)+)",
               "a serial line such as /dev/ttyS0, or one under /dev/serial"),
    "watchdog": (r"/dev/watchdog[0-9]*", "a watchdog such as /dev/watchdog or /dev/watchdog1"),
    # What a certificate calls somebody; the first three forms have no "=", a distinguished name has.
    "person": (r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*)?"
               r"|[A-Z]+=[A-Za-z0-9][A-Za-z0-9 .@_'+-]*(, ?[A-Z]+=[A-Za-z0-9][A-Za-z0-9 .@_'+-]*)*",
               "a name such as anna, anna.example or anna@site.example, or a certificate's subject, O=..., CN=..."),
    "email": (r"[A-Za-z0-9._+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", "a mail address such as ops@site.example"),
    "proposal": (r"[a-z0-9_]+([-;+][a-z0-9_]+)*", "algorithms such as aes_gcm256-sha2_512-dh19"),
    "sysctl": (r"[a-z0-9_]+([./][A-Za-z0-9_-]+)+", "a kernel parameter such as net.ipv4.ip_forward"),
    "levels": (r"[0-9]( [0-9]){3}", "four levels such as 4 4 1 7"),
    "option": (r"[A-Za-z0-9][A-Za-z0-9_.,:;+/% -]*", "a number, true, false, or letters, digits and _.,:;+/%-"),
    "subject": (r"any|(C|ST|L|O|OU|CN|DC|UID)=(\*|[A-Za-z0-9][A-Za-z0-9 ._@:/-]*)"
                r"(, *(C|ST|L|O|OU|CN|DC|UID)=(\*|[A-Za-z0-9][A-Za-z0-9 ._@:/-]*))*",
                "a certificate's subject such as OU=site, CN=*, of C, ST, L, O, OU, CN, DC and UID; or any"),
    "rule": (rf"([^{{}}{_NOT_IN_A_RULE}]|\{{[^{{}}{_NOT_IN_A_RULE}]*\}})+",
             "one nft rule on one line, without #, emoji and the like, and with its braces closed"),
    "unit": (r"[A-Za-z0-9][A-Za-z0-9@_.-]*", "a service's name such as rpcbind or cups.socket"),
    # To apt a name with - behind it is a package to remove.
    "package": (r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]", "a Debian package's name"),
}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)?")
# This host, loopback, link-local, multicast and broadcast.
_NO_HOST = [ipaddress.ip_network(network) for network in (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/127", "fe80::/10",
    "ff00::/8")]
_SHOWN_CHARACTERS = 60      # of a wrong value in a message
_ABSENT = object()          # the site does not have the key
# Bond modes. Twin: _PRIMARY_MODES and _ARP_MODES in _modules/_bond.py.
_WITH_PRIMARY = ("active-backup", "balance-tlb", "balance-alb")
_WITHOUT_ARP = ("802.3ad", "balance-tlb", "balance-alb")
_HA_CF_TIMES = ("keepalive", "warntime", "deadtime", "deadping", "initdead")
# heartbeat.c, POLL_INTERVAL: how often heartbeat looks for dead nodes.
_POLL_MILLISECONDS = 250
# For a site that fails back automatically and gives no delay.
_FAILBACK_DELAY_SECONDS = 300
_PATH_KINDS = ("unicast", "broadcast", "multicast", "serial")
# By port, what else on a gateway has it, with UDP or TCP.
_PORTS_IN_USE = {22: "SSH", 68: "DHCP", 123: "NTP", 323: "chrony", 500: "IKE", 546: "DHCPv6", 4500: "IKE behind NAT",
                 4505: "Salt", 4506: "Salt"}
# TCP, between the two nodes only; not registered with IANA for anything else that runs on a gateway.
_SESSIONS_PORT = 6946
# What other programs of a Debian host keep in /var/log, and would be overwritten or rotated twice.
_LOGS_IN_USE = ("alternatives.log", "apt", "audit", "auth.log", "btmp", "chrony", "cron.log", "dpkg.log", "faillog",
                "installer", "journal", "kern.log", "lastlog", "mail.log", "private", "salt", "syslog", "user.log",
                "wtmp")
# By service, why a gateway needs it; and those that one part of the tree needs.
_NEEDED = {"salt-minion": "the master would not reach this machine any more",
           **dict.fromkeys(("ssh", "sshd"), "nobody could log in any more"),
           **dict.fromkeys(("dbus", "dbus-broker", "systemd-journald", "systemd-logind", "systemd-modules-load",
                            "systemd-sysctl", "systemd-udevd"), "every Debian host needs it")}
_NEEDED_BY = {"firewall": ("nftables",), "heartbeat": ("heartbeat", "heartbeat-agent"),
              "logging": ("logrotate", "rsyslog", "syslog"), "openswan": ("ipsec",), "time": ("chrony", "chronyd"),
              "metrics": ("prometheus-node-exporter",)}
# What may bring the bonds up, unless network:manager is the other one.
_NEEDED_UNLESS = {"networkd": ("ifup", "networking"), "ifupdown": ("systemd-networkd",)}
# Names that Linux keeps for itself: the loopback interface, and what stands for every interface in /proc/sys/net.
_NO_BOND = ("lo", "all", "default")
_WHOLE = ("0.0.0.0/0", "::/0")
# What comes over the internet is no larger: Ethernet's (IEEE 802.3), whatever a gateway's own bond takes.
_INTERNET_MTU = 1500
# Sections that ipsec.conf has of itself: `conn %default` and `config setup`.
_NO_CONNECTION = ("default", "setup")


Mistake = tuple[str, str]      # the key's path, and what is wrong with it


# What Salt calls

def settings() -> dict:
    """
    This node's settings, complete and checked.

    Made from the pillar keys ``gateway``, ``gateway_schema`` and ``gateway_secrets`` and the grain ``nodename``. The
    secrets are only checked; they are never part of the settings.

    Returns:
        See :func:`derive`.

    Raises:
        CommandExecutionError: the site has mistakes; the text lists all of them, one a line.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.winterthur' gateway.settings
    """
    read_from = (__pillar__.get("gateway"), __pillar__.get("gateway_schema"), __pillar__.get("gateway_secrets"),
                 __grains__.get("nodename"), __opts__.get("id"))
    kept = __context__.get("gateway.settings")
    # The context may outlive the pillar.
    if kept is None or kept[0] != read_from:
        wrong = mistakes()
        if wrong:
            raise CommandExecutionError("\n".join(wrong))
        site, schema, _secrets, nodename, _id = read_from
        kept = (copy.deepcopy(read_from), derive(site, schema, nodename))
        __context__["gateway.settings"] = kept
    return copy.deepcopy(kept[1])


def mistakes() -> list[str]:
    """
    The mistakes in this node's site, one line for each; an empty list when there are none.

    Each line names the site, the key and the value, and says what would be right. Secrets are checked for presence
    and form; their values are never shown.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.mistakes
    """
    schema = __pillar__.get("gateway_schema")
    minion_id = str(__opts__.get("id"))
    if not schema or "gateway" not in __pillar__:
        return [f"{minion_id}: no pillar `gateway`; the minion's id has to be NODE.SITE, with NODE one of "
                f"gateway:nodes in pillar/sites/SITE.sls on the master"]
    return find_mistakes(__pillar__["gateway"], schema, nodename=__grains__.get("nodename"),
                         secrets=__pillar__.get("gateway_secrets") or {}, minion_id=minion_id)


def derive(site: dict, schema: dict, node: str) -> dict:
    """
    A site as one of its nodes sees it.

    Args:
        site: the pillar key ``gateway``; :func:`find_mistakes` must find nothing in it.
        schema: the pillar key ``gateway_schema``.
        node: one of the site's nodes.

    Returns:
        Plain data with these keys: ``site``, ``node``, ``peer``, ``nodes``,
        ``preferred`` (true on the first node of the site), ``features``, ``packages`` (of the features that are on),
        ``bonds``, ``virtual``, ``ping_nodes``, ``identity``, ``connections``, ``heartbeat`` (its key ``agent`` says
        whether the role agent decides), ``agent`` (the content of agent.json except ``daemon``; None without the
        agent), ``sessions`` (the content of sessions.json; None where tunnels are not copied), ``firewall``,
        ``network``, ``rollback``, ``kernel``, ``logging``, ``time``, ``sshd``, ``services``, ``metrics``. Times are in
        seconds, except bond options (milliseconds) and heartbeat's times (text as ha.cf takes it). Addresses are in
        canonical form.

    Raises:
        KeyError: the site has no such node.

    CLI Example:

    .. code-block:: bash

        salt-call gateway.derive "$SITE" "$SCHEMA" gw1
    """
    full = _complete(site, schema)
    nodes = list(full["nodes"])
    peer = next(name for name in nodes if name != node)
    bonds = [_bond(full, side, node, peer) for side in full["bonds"]]
    versions = {_version(net) for bond in full["bonds"].values() for net in bond["networks"]}
    kernel, rollback, packages = full["kernel"], full["rollback"], full["packages"]
    # The prefix has full length (/32, /128): the node then never uses a virtual IP as the source of its own traffic.
    virtual = [{"side": side, "interface": bond["name"], "address": address,
                "prefix": ipaddress.ip_address(address).max_prefixlen}
               for side, bond in full["bonds"].items() for address in bond["virtual"]]
    heartbeat = _heartbeat(full, schema, peer)
    sessions = _sessions(full, node, peer, virtual, heartbeat)
    also = [(packages.pop("agent"), heartbeat["agent"]), (packages.pop("mail"), heartbeat["mail_to"]),
            (packages.pop("sessions"), sessions)]
    packages["heartbeat"] += [name for names, wanted in also if wanted
                              for name in names if name not in packages["heartbeat"]]
    if 6 not in versions:
        kernel["sysctl"] = {key: value for key, value in kernel["sysctl"].items() if not key.startswith("net.ipv6.")}
    return {
        "site": full["site"],
        "node": node,
        "peer": peer,
        "nodes": nodes,
        "preferred": nodes[0] == node,
        "features": full["features"],
        "packages": {part: names for part, names in packages.items() if full["features"][part]},
        "bonds": bonds,
        "virtual": virtual,
        "ping_nodes": full["ping_nodes"],
        "identity": {**full["identity"], "certified": _peers.certified(full["connections"].values(), full["identity"])},
        "connections": [_connection(full, name) for name in full["connections"]],
        "heartbeat": heartbeat,
        "agent": _agent(full, node, peer, virtual, heartbeat) if heartbeat["agent"] else None,
        "sessions": sessions,
        "firewall": {**full["firewall"],
                     "ssh_from": full["firewall"]["ssh_from"] or full["bonds"]["internal"]["networks"]},
        "network": full["network"],
        "rollback": {**rollback, "confirm_with": rollback["confirm_with"] or [
            gateway for bond in bonds for gateway in bond["gateways"]]},
        "kernel": kernel,
        "logging": full["logging"],
        "time": full["time"],
        "sshd": full["sshd"],
        "services": {"off": full["services"]["disabled"]},
        "metrics": full["metrics"],
    }


def _bond(full: dict, side: str, node: str, peer: str) -> dict:
    """The settings of one bond on one node."""
    bond = full["bonds"][side]
    arp = bond["monitor"].get("arp")
    if arp:
        monitor = {"arp_interval": arp["interval"], "arp_targets": arp["targets"], "arp_validate": arp["validate"]}
    else:
        monitor = {key: bond["monitor"][key] for key in ("miimon", "updelay", "downdelay")}
    return {
        "side": side,
        "name": bond["name"],
        "slaves": list(bond["slaves"]),
        "primary": _primary(full, side, node) if bond["mode"] in _WITH_PRIMARY else "",
        "mode": bond["mode"],
        "monitor": monitor,
        "addresses": [_with_prefix(address, bond["networks"]) for address in full["nodes"][node][side]],
        "networks": bond["networks"],
        "gateways": bond["gateway"],
        "peer_addresses": full["nodes"][peer][side],
        "mtu": bond["mtu"],
        "options": bond["options"],
        "routes": bond["routes"],
    }


def _primary(full: dict, side: str, node: str) -> str:
    """
    The slave that a bond prefers on this node.

    The two nodes prefer different switches. If both preferred the same switch, a fault between that switch and the
    network would leave no path, although every carrier and heartbeat itself were fine (the paper's note in 4.3.2).
    """
    chosen = full["nodes"][node]["primary"].get(side)
    if chosen:
        return chosen
    slaves = full["bonds"][side]["slaves"]
    first = next(iter(slaves), "")
    nodes = list(full["nodes"])
    if node == nodes[0]:
        # The site may give a primary for the second node only; then the first node avoids that one's switch.
        avoid = full["nodes"][nodes[1]]["primary"].get(side) if len(nodes) > 1 else None
    else:
        avoid = full["nodes"][nodes[0]]["primary"].get(side) or first
    return next((name for name, switch in slaves.items() if avoid and switch != slaves.get(avoid)), first)


def _connection(full: dict, name: str) -> dict:
    """One connection, with the settings of both ends complete."""
    connection = full["connections"][name]
    site_to_site = connection["kind"] == "site-to-site"
    called = site_to_site and connection["peer"]["address"] != [_peers.ANY]
    own = _peers.own_identity(connection, full["identity"])
    result = {
        "name": name,
        "kind": connection["kind"],
        "ike": connection["ike"],
        "local": {**_local(full, name), "id": own, "id_kind": _peers.kind_of(own),
                  "certificate": full["identity"]["certificate"]},
        "auth": connection["auth"],
        "subject": connection["subject"] or "",
        "pool": connection["pool"],
        "persons": connection["persons"],
        "dns": connection["dns"],
        "initiate": called if connection["initiate"] is None else connection["initiate"],
        "dpd": connection["dpd"],
        "proposals": connection["proposals"],
        "lifetime": connection["lifetime"],
        "options": connection["options"],
        **_size(full, connection),
    }
    if site_to_site:
        result["peer"] = _peers.other_end(connection)
    return result


def _size(full: dict, connection: dict) -> dict:
    """
    ``mtu``, the largest packet that the way to the other end takes, and ``mss``, the largest TCP segment if the site
    says it itself, else 0. A connection that says one of them says all: nothing of gateway:tunnels is mixed in.
    """
    most = full["bonds"]["external"]["mtu"]
    if connection["kind"] == "roadwarrior":
        most = min(most, _INTERNET_MTU)
    said = connection if connection["mtu"] or connection["mss"] else full["tunnels"]
    return {"mtu": said["mtu"] or most, "mss": said["mss"] or 0}


def _local(full: dict, name: str) -> dict:
    """The address and the subnets of this end of a connection."""
    connection = full["connections"][name]
    local = connection["local"]["address"]
    virtual = full["bonds"].get("external", {}).get("virtual", [])
    if not local:
        versions = {_version(each) for each in _peers.given_addresses(connection)}
        local = next((address for address in virtual if not versions or _version(address) in versions), "")
    far = connection["peer"]["subnets"] or _inner(connection)
    # A roadwarrior that gets no address from here uses its own outer address in the tunnel.
    versions = {_version(network) for network in far} or {_version(local)}
    networks = full["bonds"].get("internal", {}).get("networks", [])
    return {
        "address": local,
        "subnets": connection["local"]["subnets"] or [net for net in networks if _version(net) in versions],
    }


def _timing(full: dict, schema: dict) -> dict:
    """heartbeat's times in the form that ha.cf takes; "" for a time that is not set."""
    heartbeat = full["heartbeat"]
    profile = schema["heartbeat"]["keys"]["profile"]["choices"][heartbeat["profile"]]
    return {key: heartbeat[key] or (_duration(profile[key], {}) if key in profile else "")
            for key in _HA_CF_TIMES}


def _heartbeat(full: dict, schema: dict, peer: str) -> dict:
    """heartbeat's settings, with every path complete."""
    heartbeat = full["heartbeat"]
    sides = {bond["name"]: side for side, bond in full["bonds"].items()}
    paths = []
    for path in heartbeat["paths"]:
        kind = next(kind for kind in _PATH_KINDS if path[kind])
        entry = {"kind": kind, "device" if kind == "serial" else "interface": path[kind]}
        if kind == "unicast":
            side = sides[path[kind]]
            addresses = {node: next(address for address in its[side] if _version(address) == 4)
                         for node, its in full["nodes"].items()}
            # Both addresses, in the order of the nodes: ha.cf is the same on both; heartbeat skips its own address.
            entry |= {"peer": addresses[peer], "addresses": list(addresses.values())}
        elif kind == "multicast":
            entry["group"] = path["group"]
        elif kind == "serial":
            entry["baud"] = path["baud"]
        paths.append(entry)
    rest = {key: value for key, value in heartbeat.items()
            if key not in ("profile", "one_path", "failback_delay", "fence", "compare")}
    return {**rest, **_timing(full, schema), "paths": paths, "ping_nodes": full["ping_nodes"],
            "agent": _has_agent(full, schema), "watchdog": heartbeat["watchdog"] or ""}


def _has_agent(full: dict, schema: dict) -> bool:
    """Whether the role agent decides about roles, rather than heartbeat's own scripts."""
    return schema["heartbeat"]["keys"]["profile"]["choices"][full["heartbeat"]["profile"]]["agent"]


def _agent(full: dict, node: str, peer: str, virtual: list[dict], heartbeat: dict) -> dict:
    """The content of agent.json, except ``daemon``, which _modules/ipsec.py adds with the tunnels."""
    its = full["heartbeat"]
    return {
        "node": node,
        "peer": peer,
        "preferred": node == next(iter(full["nodes"])),
        "addresses": [{key: each[key] for key in ("address", "prefix", "interface")} for each in virtual],
        "uplinks": [bond["name"] for side, bond in full["bonds"].items() if side == "external"],
        "ping_nodes": full["ping_nodes"],
        "failback": "auto" if its["auto_failback"] else "manual",
        "failback_delay": its["failback_delay"] or _FAILBACK_DELAY_SECONDS,
        "deadtime": _milliseconds(heartbeat["deadtime"]) / 1000,
        "deadping": _milliseconds(heartbeat["deadping"] or heartbeat["deadtime"]) / 1000,
        "fence": {"command": [its["fence"]["command"], peer], "timeout": its["fence"]["timeout"]}
        if "fence" in its else None,
        "compare": its["compare"] and full["features"]["monitoring"],
    }


def _sessions(full: dict, node: str, peer: str, virtual: list[dict], heartbeat: dict) -> dict | None:
    """
    The content of sessions.json: how the tunnels' states go to the other node (docs/session-takeover.md). None where
    the site does not want it, where no agent says which node is active, or where no path has addresses.
    """
    if not (full["sessions"] and heartbeat["agent"] and full["features"]["openswan"] and full["features"]["heartbeat"]):
        return None
    sides = {bond["name"]: side for side, bond in full["bonds"].items()}
    paths = []
    for path in heartbeat["paths"]:
        side = sides.get(path.get("interface"))
        own, its = ([address for address in full["nodes"][name][side] if _version(address) == 4] if side else []
                    for name in (node, peer))
        if own and its:
            paths.append({"interface": path["interface"], "own": own[0], "peer": its[0]})
    if not paths:
        return None
    return {
        "node": node,
        "peer": peer,
        "first": node == next(iter(full["nodes"])),
        "port": _SESSIONS_PORT,
        "paths": paths,
        "addresses": [each["address"] for each in virtual if each["side"] == "external"],
        # What was adopted ends at the latest when its peer must have made a new IKE SA.
        "lifetime": max((max(each["lifetime"].values()) for each in full["connections"].values()), default=3600),
        "deadtime": _milliseconds(heartbeat["deadtime"]) / 1000,
    }


# Mistakes

def find_mistakes(site: object, schema: dict, nodename: str | None = None, secrets: dict | None = None,
                  minion_id: str | None = None) -> list[str]:
    """
    The mistakes in a site, one line for each; an empty list when there are none.

    Args:
        site: the pillar key ``gateway``, whatever YAML made of it.
        schema: the pillar key ``gateway_schema``.
        nodename: the machine's ``uname -n``; None: it is not checked.
        secrets: the pillar key ``gateway_secrets``; None: secrets are not checked.
        minion_id: the minion's id, NODE.SITE; None: it is not checked.

    Returns:
        Lines such as ``winterthur: gateway:nodes:gw2:external: 192.0.2.200 is outside 192.0.2.0/26; give an
        address of that network``.

    CLI Example:

    .. code-block:: bash

        salt-call gateway.find_mistakes "$SITE" "$SCHEMA"
    """
    found: list[Mistake] = []
    full = _complete(site, schema, found)
    given = site if isinstance(site, dict) else {}
    if given:
        found += [
            *_check_nodes(full, given), *_check_bonds(full), *_check_addresses(full), *_check_monitors(full, given),
            *_check_ping_nodes(full), *_check_connections(full, given), *_check_tunnels(full), *_check_persons(full),
            *_check_sizes(full), *_check_whole(full),
            *_check_names(full), *_check_times(_timing(full, schema)), *_check_paths(full),
            *_check_way(full, given, schema), *_check_port(full), *_check_logs(full, schema), *_check_services(full),
            *_check_machine(full, nodename, minion_id), *_check_rules(full),
        ]
        if secrets is not None:
            found += _check_secrets(full, secrets)
    name = full["site"] or (minion_id or "").partition(".")[2] or _show(given.get("site", "?"))
    return list(dict.fromkeys(f"{name}: {path}: {text}" for path, text in found))


def _check_nodes(full: dict, given: dict) -> Iterator[Mistake]:
    """The site has two nodes; each bond's primary slaves are on different switches."""
    names = given.get("nodes")
    if isinstance(names, dict) and len(names) != 2:
        yield "gateway:nodes", f"{_list(names)}: that is {len(names)}; a gateway is a pair, give two"
    nodes = list(full["nodes"])
    for side, bond in full["bonds"].items():
        slaves = bond["slaves"]
        for node in nodes:
            path, slave = f"gateway:nodes:{node}:primary:{side}", full["nodes"][node]["primary"][side]
            if slave and slave not in slaves:
                yield path, f"{slave} is not a slave of {bond['name']}; give one of {_list(slaves)}"
            elif slave and bond["mode"] not in _WITH_PRIMARY:
                yield path, f"{slave} has no effect, as {bond['mode']} has no primary; leave it out"
        if len(nodes) == 2 and len(slaves) > 1 and bond["mode"] in _WITH_PRIMARY:
            first, second = (_primary(full, side, node) for node in nodes)
            if {first, second} <= set(slaves) and slaves[first] == slaves[second]:
                yield f"gateway:bonds:{side}:slaves", (
                    f"both nodes prefer {slaves[first]} ({first} on {nodes[0]}, {second} on {nodes[1]}), and a fault "
                    f"behind it would leave no path; give the second node's primary another switch")


def _check_bonds(full: dict) -> Iterator[Mistake]:
    """The names, slaves, networks, gateways and routes of each bond, and of all bonds together."""
    bonds = full["bonds"]
    for side in ("external", "internal"):
        if bonds and side not in bonds:
            yield "gateway:bonds", f"{side} is missing; a gateway stands between an external and an internal network"
    slaves = {slave for bond in bonds.values() for slave in bond["slaves"]}
    owner: dict[str, str] = {}
    seen: list[tuple[str, str]] = []
    defaults: dict[int, str] = {}
    for side, bond in bonds.items():
        path = f"gateway:bonds:{side}"
        base, dot, _ = (bond["name"] or "").partition(".")
        if dot:
            yield f"{path}:name", (f"{bond['name']} is what a VLAN on {base} is called, and this is the bond itself; "
                                   f"give a name without a dot such as {base}")
        for key, names in (("name", [bond["name"]]), ("slaves", bond["slaves"])):
            for name in names:
                if name in _NO_BOND:
                    yield f"{path}:{key}", (f"{name} is a name that Linux has for something else; give a network "
                                            f"interface")
        if bond["name"] in slaves:
            yield f"{path}:name", f"{bond['name']} is a slave's name too; give the bond a name of its own"
        for name in filter(None, [bond["name"], *bond["slaves"]]):
            if owner.setdefault(name, side) != side:
                yield path, f"{name} is in the {owner[name]} bond already; an interface belongs to one bond"
        for network in bond["networks"]:
            for other, where in seen:
                if _overlap(network, other):
                    yield f"{path}:networks", f"{network} overlaps {other} of the {where} bond; give one that does not"
            seen.append((network, side))
        for gateway in bond["gateway"]:
            default = defaults.setdefault(_version(gateway), gateway)
            if not _network_of(gateway, bond["networks"]):
                yield f"{path}:gateway", _outside(gateway, bond["networks"])
            if default != gateway:
                yield f"{path}:gateway", (f"{gateway} is a second default gateway besides {default}; keep one for each "
                                          f"IP version and give the other's networks under routes")
        for to, via in ((route["to"], route["via"]) for route in bond["routes"]):
            if via and not _network_of(via, bond["networks"]):
                yield f"{path}:routes", _outside(via, bond["networks"])
            if to and via and _version(to) != _version(via):
                yield f"{path}:routes", f"{to} cannot be reached via {via}; give a router of the same IP version"


def _check_addresses(full: dict) -> Iterator[Mistake]:
    """Each address is in its network, each network has one address of each node, no address occurs twice."""
    bonds, nodes = full["bonds"], full["nodes"]
    entries = [(f"gateway:nodes:{node}:{side}", address, side, f"{node}'s own address")
               for node, its in nodes.items() for side in bonds for address in its[side]]
    entries += [(f"gateway:bonds:{side}:virtual", address, side, "a virtual address")
                for side, bond in bonds.items() for address in bond["virtual"]]
    taken: dict[str, str] = {}
    for path, address, side, what in entries:
        network = _network_of(address, bonds[side]["networks"])
        if not network:
            yield path, _outside(address, bonds[side]["networks"])
        elif network.prefixlen < network.max_prefixlen - 1:
            if address == str(network.network_address):
                yield path, f"{address} is the address of the network {network} itself; give one of its hosts"
            elif network.version == 4 and address == str(network.broadcast_address):
                yield path, f"{address} is the broadcast address of {network}; give one of its hosts"
        if address in taken:
            yield path, f"{address} is {taken[address]} already; give one that nothing else has"
        taken.setdefault(address, what)
    for side, bond in bonds.items():
        for gateway in bond["gateway"]:
            if gateway in taken:
                yield f"gateway:bonds:{side}:gateway", f"{gateway} is {taken[gateway]} already; give the router's"
        if side != "heartbeat" and not bond["virtual"]:
            yield f"gateway:bonds:{side}:virtual", "is missing; give the address that moves with the active role"
        for node, its in nodes.items():
            for network in bond["networks"]:
                inside = [address for address in its[side] if _network_of(address, [network])]
                if len(inside) > 1:
                    yield f"gateway:nodes:{node}:{side}", f"{_list(inside)} are both in {network}; give one of them"
                elif not inside:
                    yield f"gateway:nodes:{node}:{side}", f"has no address in {network}; give one"
    for node, its in nodes.items():
        if bonds and its["heartbeat"] and "heartbeat" not in bonds:
            yield f"gateway:nodes:{node}:heartbeat", (f"{_list(its['heartbeat'])}: there is no such bond; describe it "
                                                      f"in gateway:bonds:heartbeat")


def _check_monitors(full: dict, given: dict) -> Iterator[Mistake]:
    """Each bond has one kind of monitoring, and its targets can answer."""
    own = _own_addresses(full)
    for side, bond in full["bonds"].items():
        path, monitor = f"gateway:bonds:{side}:monitor", bond["monitor"]
        if "arp" not in monitor:
            for key in ("updelay", "downdelay"):
                if monitor[key] % monitor["miimon"]:
                    yield f"{path}:{key}", (f"{monitor[key]} is no multiple of miimon {monitor['miimon']}, the kernel "
                                            f"would round it down; give a multiple")
            continue
        for key in ("miimon", "updelay", "downdelay"):
            if key in given["bonds"][side]["monitor"]:
                yield f"{path}:{key}", f"{monitor[key]} and arp are two ways of monitoring; give one of them"
        if bond["mode"] in _WITHOUT_ARP:
            yield f"{path}:arp", f"the kernel has no ARP monitoring for {bond['mode']}; give miimon"
        for target in monitor["arp"]["targets"]:
            if _version(target) == 6:
                yield f"{path}:arp:targets", f"{target} is IPv6 and ARP is IPv4; give an IPv4 address"
            elif not _network_of(target, bond["networks"]):
                yield f"{path}:arp:targets", _outside(target, bond["networks"])
            elif target in own:
                yield f"{path}:arp:targets", (f"{target} is {own[target]}, which proves nothing about the network; "
                                              f"give a neighbour")


def _check_ping_nodes(full: dict) -> Iterator[Mistake]:
    """Ping nodes are neighbours on both sides of the gateway, and none of them is the gateway itself."""
    own = _own_addresses(full)
    path = "gateway:ping_nodes"
    reached = set()
    for ping in full["ping_nodes"]:
        if _version(ping) == 6:
            yield path, f"{ping} is IPv6 and heartbeat pings IPv4; give an IPv4 address"
        elif ping in own:
            yield path, f"{ping} is {own[ping]}, which answers whatever the network does; give a neighbour"
        else:
            reached.add(_side_of(ping, full))
    for side in ("external", "internal"):
        if full["ping_nodes"] and full["heartbeat"]["ipfail"] and side in full["bonds"] and side not in reached:
            yield path, (f"{_list(full['ping_nodes'])}: none is a neighbour on the {side} side, so a fault "
                         f"there would cause no takeover; add one in {_list(full['bonds'][side]['networks'])}")


def _check_rules(full: dict) -> Iterator[Mistake]:
    """A rule of the site's own is one rule: it ends nothing, names no variable and reads no file."""
    for chain, rules in full["firewall"]["extra"].items():
        for rule in rules:
            outside = re.sub(r'"[^"]*"', "", rule)
            word = re.search(r"\b(include|define|redefine|undefine)\b|[;\"\\\\$]", outside)
            if word:
                # nft prints lines of an included file, such as /etc/shadow, that it can not read.
                yield f"gateway:firewall:extra:{chain}", (
                    f"{_show(rule)} has {word.group()} in it; give one nft rule without include, define, variables, ; "
                    "and \\, its quotes closed")


def _check_connections(full: dict, given: dict) -> Iterator[Mistake]:
    """Each connection, and those that may come from anywhere together."""
    for name, connection in full["connections"].items():
        path = f"gateway:connections:{name}"
        if connection["kind"] == "site-to-site":
            yield from _check_site_to_site(path, connection, full)
        elif connection["kind"] == "roadwarrior":
            yield from _check_roadwarrior(path, connection, given["connections"][name])
            if connection["ike"] == "ikev2":
                yield from _check_reach(path, _local(full, name)["subnets"])
        yield from _peers.check_identities(path, connection, full["identity"])
        yield from _check_local(path, connection, full)
        yield from _check_ike(path, connection)
    yield from _peers.check_strangers(full["connections"],
                                      {name: _local(full, name)["address"] for name in full["connections"]})


def _check_site_to_site(path: str, connection: dict, full: dict) -> Iterator[Mistake]:
    """The peer is given, is not this gateway, and gets no addresses from here."""
    peer, own = connection["peer"], _own_addresses(full)
    for key in ("address", "subnets"):
        if not peer[key]:
            yield f"{path}:peer:{key}", f"is missing; a site-to-site connection needs the peer's {key}"
    for each in peer["address"]:
        if each in own:
            yield f"{path}:peer:address", f"{each} is {own[each]}; give the peer's"
    yield from _peers.check_addresses(path, connection)
    for key in ("pool", "persons", "dns"):
        if connection[key]:
            yield f"{path}:{key}", f"{_list(connection[key])}: that is for roadwarriors; leave it out"
    if connection["subject"]:
        yield f"{path}:subject", f"{connection['subject']}: that is for roadwarriors; leave it out"


def _check_roadwarrior(path: str, connection: dict, given: dict) -> Iterator[Mistake]:
    """A roadwarrior's address is unknown, so nothing may depend on it."""
    if "peer" in given:
        yield f"{path}:peer", "is for site-to-site, a roadwarrior comes from anywhere; leave it out"
    if connection["initiate"]:
        yield f"{path}:initiate", "true: nobody can call a roadwarrior; leave it out"
    works = connection["auth"] == "certificate" and (connection["ike"] == "ikev2" or connection["subject"] == "any")
    if connection["subject"] and not works:
        yield f"{path}:subject", f"{connection['subject']}: that works only with IKEv2 and certificates; leave it out"
    if connection["dns"] and not _inner(connection):
        yield f"{path}:dns", f"{_list(connection['dns'])}: name servers are given along with an address; add a pool"
    if connection["persons"] and connection["auth"] != "certificate":
        yield f"{path}:persons", f"{_list(connection['persons'])}: need certificates; give auth: certificate"
    for number, pool in enumerate(connection["pool"]):
        # ipsec.conf(5), rightaddresspool: one pool for each IP version; an IPv6 pool must be a prefix.
        for other in connection["pool"][:number]:
            if _version(pool) == _version(other):
                yield f"{path}:pool", f"{pool} is a second IPv{_version(pool)} pool besides {other}; give one"
        if _version(pool) == 6 and len(list(ipaddress.summarize_address_range(*_ends(pool)))) > 1:
            yield f"{path}:pool", f"{pool} is no prefix, as an IPv6 pool must be; give one such as 2001:db8::/112"


def _check_reach(path: str, networks: list[str]) -> Iterator[Mistake]:
    """
    A roadwarrior gets one network. Libreswan 4.10 and 5.2 refuse a second tunnel to a peer that may come from anywhere
    (TS_UNACCEPTABLE, for clients of every make; libreswan issues 275 and 2380), and nothing would report it.
    """
    found = [ipaddress.ip_network(network) for network in networks]
    if len(found) < 2:
        return
    if len({network.version for network in found}) > 1:
        instead = "leave one IP version out, in pool and persons too"
    else:
        cover = found[0]
        while not all(network.subnet_of(cover) for network in found):  # type: ignore[arg-type]  # one IP version
            cover = cover.supernet()
        instead = f"give one that covers them, such as {cover}" + (
            ", all that a client sends" if not cover.prefixlen else "")
    yield f"{path}:local:subnets", (f"{_list(networks)}: a roadwarrior gets one tunnel, to the first of these "
                                    f"{len(found)}; {instead}")


def _check_local(path: str, connection: dict, full: dict) -> Iterator[Mistake]:
    """This end is a virtual IP, and both ends have the same IP versions, outside and inside."""
    virtual = full["bonds"].get("external", {}).get("virtual", [])
    networks = full["bonds"].get("internal", {}).get("networks", [])
    address = connection["local"]["address"]
    if not virtual or not networks:
        return
    if address and address not in virtual:
        yield f"{path}:local:address", f"{address} is no external virtual address; give one of {_list(virtual)}"
    use = [address] if address else virtual
    for peer in _peers.given_addresses(connection):
        if _version(peer) not in map(_version, use):
            yield f"{path}:peer:address", f"{peer} cannot be reached from {_list(use)}; give one of the same IP version"
    far = connection["peer"]["subnets"] or _inner(connection)
    there = {_version(network) for network in far}
    for subnet in connection["local"]["subnets"]:
        if far and _version(subnet) not in there:
            yield f"{path}:local:subnets", f"{subnet} has no IPv{_version(subnet)} counterpart; leave it out"
    here = {_version(subnet) for subnet in connection["local"]["subnets"] or networks}
    for network in far:
        if _version(network) not in here:
            yield f"{path}:local:subnets", (f"has nothing that {network} could reach; give an IPv{_version(network)} "
                                            f"network")


def _check_ike(path: str, connection: dict) -> Iterator[Mistake]:
    """Settings that do not fit the version of IKE, or one another."""
    delay, timeout = connection["dpd"]["delay"], connection["dpd"]["timeout"]
    if timeout < delay:
        yield f"{path}:dpd:timeout", f"{timeout} is less than the delay {delay}; give several times the delay"
    if connection["ike"] != "ikev1":
        return
    for key in ("pool", "persons"):
        if connection[key]:
            yield f"{path}:{key}", (f"{_list(connection[key])}: IKEv1 hands out no addresses without XAUTH; give "
                                    f"ike: ikev2, or leave the {key} out")
    for proposal in connection["proposals"]["ike"]:
        if re.search("gcm|ccm|chacha", proposal):
            yield f"{path}:proposals:ike", (f"{proposal} is for IKEv2, IKEv1 encrypts its own messages with CBC only; "
                                            f"give one such as aes256-sha2_256;modp2048")
    for key in ("narrowing", "ms-dh-downgrade"):
        if key in connection["options"]:
            yield f"{path}:options:{key}", f"{_show(connection['options'][key])}: that is for IKEv2; leave it out"


def _check_tunnels(full: dict) -> Iterator[Mistake]:
    """No packet belongs to more than one tunnel."""
    own = [(network, side) for side, bond in full["bonds"].items() for network in bond["networks"]]
    claims: list[tuple[str, str, str, list[str]]] = []
    for name, connection in full["connections"].items():
        near = _local(full, name)["subnets"]
        for key, fars in (("pool", connection["pool"]), ("peer:subnets", connection["peer"]["subnets"])):
            path = f"gateway:connections:{name}:{key}"
            for far in fars:
                for network, side in own:
                    if _overlap(far, network):
                        yield path, f"{far} overlaps the {side} network {network}; give one that does not"
                for other, other_key, taken, other_near in claims:
                    # Two tunnels to one network are allowed when each has another local network.
                    together = any(_overlap(one, two) for one in near for two in other_near)
                    if _overlap(far, taken) and (together or "pool" in (key, other_key)):
                        yield path, (f"{far} overlaps {taken} of the connection {other}, and a packet belongs to one "
                                     f"tunnel; give one that does not")
                claims.append((name, key, far, near))


def _check_whole(full: dict) -> Iterator[Mistake]:
    """Who sends everything through the tunnel has an address that can be translated, and there is a way outside."""
    ways = {_version(to): side for side, bond in full["bonds"].items()
            for to in (*bond["gateway"], *(each["to"] for each in bond["routes"] if each["to"] in _WHOLE))}
    for name, connection in full["connections"].items():
        path = f"gateway:connections:{name}:local:subnets"
        for network in connection["local"]["subnets"]:
            version = _version(network)
            if network not in _WHOLE or not full["features"]["firewall"]:
                continue
            if connection["kind"] == "roadwarrior" and not _inner(connection):
                yield path, (f"{network}: what leaves outside is translated, and these clients keep addresses of "
                             f"their own, which could be anybody's; give a pool, or the networks that are meant")
            elif version not in ways:
                yield path, (f"{network}: no bond has an IPv{version} gateway by which that could leave; give one, or "
                             f"the networks that are meant")
            elif ways[version] == "external" and not any(
                    _version(address) == version for address in full["bonds"]["external"]["virtual"]):
                yield path, (f"{network}: what leaves outside gets a virtual address, and the external bond has no "
                             f"IPv{version} one; give one, or the networks that are meant")


def _check_sizes(full: dict) -> Iterator[Mistake]:
    """What fits through a tunnel is said once, is possible, and there is a firewall that sees to it."""
    most = full["bonds"]["external"]["mtu"] if "external" in full["bonds"] else 0
    places = {"gateway:tunnels": full["tunnels"]}
    places |= {f"gateway:connections:{name}": connection for name, connection in full["connections"].items()}
    for path, said in places.items():
        mtu, mss = said["mtu"], said["mss"]
        if mtu and mss:
            yield f"{path}:mss", f"{mss} besides the mtu {mtu}: each says how large packets may be; give one of them"
        if mtu and most and mtu > most:
            yield f"{path}:mtu", f"{mtu} is more than the external bond's mtu {most}; give {most} or less"
        for key in ("mtu", "mss"):
            if said[key] and not full["features"]["firewall"]:
                yield f"{path}:{key}", (f"{said[key]} has no effect without features:firewall, whose ruleset lowers "
                                        f"the MSS; leave it out, and lower it in your own ruleset (docs/network.md)")
        if "mtu" in said.get("options", {}):
            yield f"{path}:options:mtu", (f"{_show(said['options']['mtu'])} has no effect, as the gateway's tunnels "
                                          f"have no routes; give {path}:mtu, the largest packet on the way to the "
                                          f"other end")


def _check_persons(full: dict) -> Iterator[Mistake]:
    """Each person has an address that nobody else gets."""
    taken: dict[str, str] = {}
    own = [(network, f"the {side} network {network}") for side, bond in full["bonds"].items()
           for network in bond["networks"]]
    for connection in full["connections"].values():
        own += [(far, f"the pool {far}, which any roadwarrior may get") for far in connection["pool"]]
        own += [(far, f"the peer's network {far}") for far in connection["peer"]["subnets"]]
    for name, connection in full["connections"].items():
        for person, addresses in connection["persons"].items():
            path = f"gateway:connections:{name}:persons:{person}"
            if not addresses or len(addresses) > len(set(map(_version, addresses))):
                yield path, f"{_list(addresses) or 'nothing'}: give one address"
            for address in addresses:
                if address in taken:
                    yield path, f"{address} is {taken[address]}'s already; give another"
                taken.setdefault(address, person)
                for network, what in own:
                    if _overlap(f"{address}-{address}", network):
                        yield path, f"{address} is in {what}; give an address outside"


def _check_names(full: dict) -> Iterator[Mistake]:
    """No two tunnels have one name, or ipsec.conf would have one of them only."""
    taken: dict[str, str] = {}
    for name, connection in full["connections"].items():
        path = f"gateway:connections:{name}"
        if name in _NO_CONNECTION:
            yield path, f"{name} is the name of a section that ipsec.conf has of itself; give the connection another"
        for key, tunnel in _tunnel_names(name, connection):
            what = f"the person {key} of the connection {name}" if key else f"the connection {name}"
            other = taken.setdefault(tunnel, what)
            if other != what:
                yield path + (f":persons:{key}" if key else ""), (
                    f"{what} and {other} would both be called {tunnel} in ipsec.conf, and one would vanish; give one "
                    f"of them another name, or a person another connection")


def _tunnel_names(name: str, connection: dict) -> Iterator[tuple[str, str]]:
    """
    What a connection's sections in ipsec.conf are called, without /1, /2 and so on; each with the person it is for.

    Twin: _tunnels(), _identities() and _alias() in _modules/ipsec.py; a unit test compares them.
    """
    persons = connection["persons"]
    if connection["pool"] or not persons:
        yield "", name
    if persons:
        yield "", f"{name}-persons"         # no section, but the common name of all of them (connalias)
    for person in persons:
        tunnel = f"{name}-{re.sub('[^A-Za-z0-9._-]+', '_', person)}"
        yield person, tunnel
        if "=" not in person:
            yield person, f"{tunnel}-dn"


def _check_port(full: dict) -> Iterator[Mistake]:
    """heartbeat's port is nothing else's."""
    port = full["heartbeat"]["port"]
    if port in _PORTS_IN_USE:
        yield "gateway:heartbeat:port", f"{port} is the port of {_PORTS_IN_USE[port]}; give another, or leave it out"


def _check_logs(full: dict, schema: dict) -> Iterator[Mistake]:
    """Each log is a file of its own."""
    keys = [("heartbeat", "log_file"), ("logging", "warn_file")]
    if not _has_agent(full, schema):
        keys.insert(1, ("heartbeat", "debug_file"))
    taken: dict[str, str] = {}
    for part, key in keys:
        path, file = f"gateway:{part}:{key}", full[part][key]
        name = file.split("/")[3]
        other = taken.setdefault(file, path)
        if name in _LOGS_IN_USE:
            yield path, f"{file} is another program's; give a file of its own"
        elif other != path:
            yield path, f"{file} is {other} already; give a file of its own"


def _check_services(full: dict) -> Iterator[Mistake]:
    """No service is switched off that the gateway or its operator needs."""
    needed = _NEEDED | {unit: f"features:{part} needs it" for part, units in _NEEDED_BY.items()
                        if full["features"][part] for unit in units}
    needed |= {unit: f"it may be what brings the bonds up, unless network:manager is {other}"
               for other, units in _NEEDED_UNLESS.items() if full["network"]["manager"] != other for unit in units}
    for unit in full["services"]["disabled"]:
        name = re.sub(r"\.(service|socket|timer|path|target)\Z", "", unit).partition("@")[0]
        reason = "it is the gateway's own" if name.startswith("gateway-") else needed.get(name)
        if reason:
            yield "gateway:services:disabled", f"{unit} has to run: {reason}; leave it out"


def _check_times(times: dict[str, str]) -> Iterator[Mistake]:
    """heartbeat's times are in the right order."""
    path = "gateway:heartbeat"
    keepalive, warntime, deadtime, deadping, initdead = (_milliseconds(times[key]) for key in _HA_CF_TIMES)
    if deadtime <= keepalive:
        yield f"{path}:deadtime", (f"{times['deadtime']} is not above the keepalive {times['keepalive']}, every "
                                   f"heartbeat would be late; give several times the keepalive")
    elif warntime and not keepalive < warntime < deadtime:
        yield f"{path}:warntime", (f"{times['warntime']} is not between the keepalive {times['keepalive']} and the "
                                   f"deadtime {times['deadtime']}; give a time between them")
    if keepalive < deadtime < _POLL_MILLISECONDS:
        yield f"{path}:deadtime", (
            f"{times['deadtime']} is less than the {_POLL_MILLISECONDS} ms after which heartbeat looks again for dead "
            f"nodes, which makes nothing faster; give {_POLL_MILLISECONDS}ms or more")
    if deadping and deadping < 2 * keepalive:
        yield f"{path}:deadping", (f"{times['deadping']} is less than twice the keepalive {times['keepalive']}, one "
                                   f"lost ping would count; give several times the keepalive")
    if initdead < 2 * deadtime:
        yield f"{path}:initdead", (f"{times['initdead']} is less than twice the deadtime {times['deadtime']}; give "
                                   f"more, the network may come up late")


def _check_paths(full: dict) -> Iterator[Mistake]:
    """Each heartbeat path is of one kind and uses a bond that the site has."""
    path = "gateway:heartbeat:paths"
    sides = {bond["name"]: side for side, bond in full["bonds"].items()}
    for entry in full["heartbeat"]["paths"]:
        kinds = [kind for kind in _PATH_KINDS if entry[kind]]
        name = entry[kinds[0]] if kinds else None
        if len(kinds) != 1:
            yield path, f"{_list(kinds) or 'no kind'}: a path is of one kind; give one of {_list(_PATH_KINDS)}"
        elif sides and kinds != ["serial"] and name not in sides:
            yield path, (f"{name} is no bond of the site; give one of {_list(sides)}, or describe a link of the "
                         f"nodes' own in gateway:bonds:heartbeat")
        elif sides and kinds == ["unicast"]:
            for node, its in full["nodes"].items():
                if not any(_version(address) == 4 for address in its[sides[name]]):
                    yield path, f"{name} has no IPv4 address on {node}, and heartbeat's unicast is IPv4; give one"
    # Two kinds of path over one bond count as one path.
    ways = sorted({entry[kind] for entry in full["heartbeat"]["paths"] for kind in _PATH_KINDS if entry[kind]})
    if not {name for name in ways if not name.startswith("/dev/")} <= set(sides):
        return      # a mistake above reports the missing bond
    wanted = full["heartbeat"]["one_path"]
    if len(ways) == 1 and not wanted:
        yield path, (f"{_list(ways)}: when this one is cut both nodes become active; give a second path over something "
                     f"else, or one_path: true if there is nothing else")
    elif len(ways) > 1 and wanted:
        yield "gateway:heartbeat:one_path", f"true, and there are {len(ways)}: {_list(ways)}; leave it out"


def _check_way(full: dict, given: dict, schema: dict) -> Iterator[Mistake]:
    """With the agent no key of heartbeat's scripts is set, and without it no key of the agent."""
    its, said = full["heartbeat"], given.get("heartbeat")
    path, said = "gateway:heartbeat", said if isinstance(said, dict) else {}
    if _has_agent(full, schema):
        if not its["ipfail"]:
            yield f"{path}:ipfail", (f"false is for the profile paper; in {its['profile']} the agent compares ping "
                                     f"nodes itself; leave it out")
        if its["mail_to"]:
            yield f"{path}:mail_to", (f"{_list(its['mail_to'])}: only heartbeat's scripts send mails, in the profile "
                                      f"paper; leave it out")
        if its["failback_delay"] and not its["auto_failback"]:
            yield f"{path}:failback_delay", (f"{its['failback_delay']} has no effect with auto_failback: "
                                             f"false; leave one of them out")
    else:
        for key in ("failback_delay", "fence", "compare"):
            if key in said:
                yield f"{path}:{key}", (f"works only with the agent, and the profile {its['profile']} has none; "
                                         f"leave it out")


def _check_machine(full: dict, nodename: str | None, minion_id: str | None) -> Iterator[Mistake]:
    """The machine is a node of this site, and the minion id names the same node and site."""
    if nodename is not None and full["nodes"] and nodename not in full["nodes"]:
        yield "gateway:nodes", (f"this machine's `uname -n` is {_show(nodename)}, which is none of "
                                f"{_list(full['nodes'])}; rename the machine, or the node")
    if minion_id is None:
        return
    node, _, rest = minion_id.partition(".")
    if full["site"] and rest.partition(".")[0] != full["site"]:
        yield "gateway:site", f"{full['site']} is not the site in the minion id {_show(minion_id)}, which is NODE.SITE"
    if nodename is not None and node != nodename:
        yield "gateway:nodes", (f"{_show(node)} in the minion id {_show(minion_id)} is not this machine's `uname -n` "
                                f"{_show(nodename)}; change the id, or the machine's name")


def _check_secrets(full: dict, secrets: object) -> Iterator[Mistake]:
    """pillar/secrets/SITE.sls has every secret that the site needs, in the right form. Never shows a value."""
    file = f"pillar/secrets/{full['site'] or 'SITE'}.sls"
    connections = full["connections"] if full["features"]["openswan"] else {}
    if full["features"]["heartbeat"]:
        # authkeys takes the whole rest of the line as the key.
        yield from _check_word("heartbeat:key", _at(secrets, "heartbeat", "key"), file, r"[^\s\"'#]+")
    for name, connection in connections.items():
        if connection["auth"] == "psk":
            given = _peers.secrets_of(connection, _at(secrets, "psk", name))
            if given is None:
                yield f"gateway_secrets:psk:{name}", (
                    f"is a list; give one secret, or in {file} one for each address of a peer that has several "
                    f"addresses and no id")
            for number, secret in enumerate(given or []):
                place = f"psk:{name}" if len(given) == 1 else f"psk:{name}:{number}"
                yield from _check_word(place, secret, file, r"[^\"\x00-\x1f\x7f]+")
    yield from _peers.check_told_apart(connections, full["identity"], _at(secrets, "psk"))
    if any(connection["auth"] == "certificate" for connection in connections.values()):
        name = full["identity"]["certificate"]
        yield from _check_certificate(name, _at(secrets, "certificates", name), file)
    crls = _at(secrets, "crls")
    for name, crl in crls.items() if isinstance(crls, dict) else ():
        if isinstance(name, str) and re.search(rf"[{_NOT_IN_A_RULE}]", name):
            yield f"gateway_secrets:crls:{_show(name)}", "the name has characters that no SLS can hold; give another"
        if not _is_pem(crl, "X509 CRL") and not _is_der(crl):
            yield f"gateway_secrets:crls:{_show(name)}", "is no certificate revocation list; give PEM, or DER in base64"


def _check_certificate(name: str, entry: object, file: str) -> Iterator[Mistake]:
    """The gateway's certificate and key, as PKCS#12 or PEM."""
    path = f"gateway_secrets:certificates:{name}"
    if not isinstance(entry, dict):
        yield path, (f"is missing, and gateway:identity:certificate names it; give it in {file}, as pkcs12 and "
                     f"passphrase, or as certificate, key and chain")
    elif "pkcs12" in entry:
        if not _is_der(entry["pkcs12"]):
            yield f"{path}:pkcs12", "is no PKCS#12 file in base64; give what `base64 FILE.p12` prints"
        yield from _check_word(f"certificates:{name}:passphrase", entry.get("passphrase"), file, r"[^\r\n\x00]*")
    else:
        chain = entry.get("chain", [])
        texts = [("certificate", "CERTIFICATE", entry.get("certificate")), ("key", "PRIVATE KEY", entry.get("key"))]
        texts += [("chain", "CERTIFICATE", text) for text in (chain if isinstance(chain, list) else [chain])]
        for key, label, text in texts:
            if not _is_pem(text, label):
                yield f"{path}:{key}", f"is missing or no PEM; give it in {file}, from -----BEGIN {label}----- on"


def _check_word(name: str, value: object, file: str, pattern: str) -> Iterator[Mistake]:
    """A secret that becomes part of one line of a file and must not break out of it."""
    if value is None:
        yield f"gateway_secrets:{name}", f"is missing; give it in {file}"
    elif not isinstance(value, str):
        yield f"gateway_secrets:{name}", f"{_kind(value)}; put it in quotes in {file}"
    elif not re.fullmatch(pattern, value):
        yield f"gateway_secrets:{name}", ("is empty or has characters that its line cannot hold; make a new one in "
                                          f"{file}, for example with `openssl rand -hex 32`")


def _is_der(value: object) -> bool:
    """Whether the value is base64 of an ASN.1 sequence, as every PKCS#12 file and every CRL is."""
    try:
        return isinstance(value, str) and base64.b64decode("".join(value.split()), validate=True)[:1] == b"\x30"
    except (binascii.Error, ValueError):
        return False


def _is_pem(value: object, label: str) -> bool:
    """Whether the value is PEM with this label, such as CERTIFICATE or (RSA, EC) PRIVATE KEY."""
    pattern = rf"-----BEGIN ([A-Z]+ )?{label}-----\s.+\s-----END ([A-Z]+ )?{label}-----"
    return isinstance(value, str) and re.search(pattern, value, re.DOTALL) is not None


# Checking values against the schema

def _complete(site: object, schema: dict, found: list[Mistake] | None = None) -> dict:
    """
    The site with every key of the schema, in canonical form. The result always has the structure of the schema.

    A value that does not fit is left out and added to `found`.
    """
    return _fill(site, {"keys": schema, "required": True}, "gateway", [] if found is None else found)


def _fill(value: object, rule: dict, path: str, found: list[Mistake]) -> Any:
    """One value, checked against its rule and completed with defaults."""
    if value is _ABSENT and rule.get("required"):
        found.append((path, f"is missing; {rule.get('about', 'describe the site')}"))
        found = []      # one message is enough: everything below is missing for the same reason
    if "keys" in rule:
        return _fill_keys(value, rule, path, found)
    if rule["type"] == "mapping":
        return _fill_mapping(value, rule, path, found)
    if rule["type"] == "list":
        return _fill_list(value, rule, path, found)
    if value is _ABSENT:
        value = rule.get("default", _ABSENT)
        if value is _ABSENT:
            return None
    try:
        return _scalar(value, rule)
    except ValueError as error:
        found.append((path, f"{_show(value)} {error}"))
        return rule.get("default")


def _fill_keys(value: object, rule: dict, path: str, found: list[Mistake]) -> dict:
    """A mapping whose keys the schema names."""
    keys = rule["keys"]
    given: dict = value if isinstance(value, dict) else {}
    if not isinstance(value, dict) and value is not _ABSENT:
        found.append((path, f"{_show(value)} {_kind(value)}; give a mapping with {_list(keys)}"))
        found = []
    for key in given:
        if key not in keys:
            near = difflib.get_close_matches(_show(key), keys, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {_list(keys)}"
            quote = " (YAML reads on, off, yes and no as true and false)" if isinstance(key, bool) else ""
            found.append((f"{path}:{_show(key)}", f"is no known key{quote}; {hint}"))
    return {key: _fill(given.get(key, _ABSENT), sub, f"{path}:{key}", found)
            for key, sub in keys.items() if key in given or not sub.get("optional")}


def _fill_mapping(value: object, rule: dict, path: str, found: list[Mistake]) -> dict:
    """A mapping whose keys the site chooses."""
    names = _rule(rule["names"])
    given = {} if value is _ABSENT else value
    if not isinstance(given, dict):
        found.append((path, f"{_show(value)} {_kind(value)}; give a mapping"))
        given = {}
    elif not given and value is not _ABSENT and rule.get("required"):
        found.append((path, f"is empty; {rule['about']}"))
    result = {}
    for name, entry in {**rule.get("default", {}), **given}.items():
        try:
            result[_scalar(name, names)] = _fill(entry, rule["of"], f"{path}:{_show(name)}", found)
        except ValueError as error:
            found.append((f"{path}:{_show(name)}", f"the name {error}"))
    return result


def _fill_list(value: object, rule: dict, path: str, found: list[Mistake]) -> list:
    """A list; a single value counts as a list of one."""
    of = _rule(rule["of"])
    given = rule.get("default", []) if value is _ABSENT else value if isinstance(value, list) else [value]
    if not given and value is not _ABSENT and rule.get("required"):
        found.append((path, f"is empty; {rule['about']}"))
    if len(given) > rule.get("max", len(given)):
        found.append((path, f"has {len(given)} entries; {rule['max']} are possible"))
    result = []
    for number, entry in enumerate(given):
        if "keys" in of:
            result.append(_fill(entry, of, f"{path}:{number}", found))
            continue
        try:
            entry = _scalar(entry, of)
        except ValueError as error:
            found.append((path, f"{_show(entry)} {error}"))
            continue
        if entry in result:
            found.append((path, f"{_show(entry)} occurs twice; leave one out"))
        else:
            result.append(entry)
    return result


def _rule(of: str | dict) -> dict:
    """The complete rule; the schema may give only its type."""
    return {"type": of} if isinstance(of, str) else of


def _scalar(value: object, rule: dict) -> Any:
    """
    One value in canonical form.

    Raises:
        ValueError: what is wrong and what would be right, worded to follow the value in a sentence.
    """
    kind = rule["type"]
    if kind in _SPECIAL:
        return _SPECIAL[kind][0](value, rule)
    return _pattern(value, kind)


def _pattern(value: object, kind: str) -> str:
    """Text that matches the pattern of this type."""
    pattern, right = _PATTERNS[kind]
    text = _string(value)
    if not re.fullmatch(pattern, text):
        raise ValueError(f"does not fit; give {right}")
    return text


def _string(value: object) -> str:
    """The value, if YAML read it as text."""
    if isinstance(value, str):
        return value
    right = "give one text" if isinstance(value, (dict, list)) else "put it in quotes if it is meant as text"
    raise ValueError(f"{_kind(value)}; {right}")


def _boolean(value: object, _rule: dict) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{_kind(value)}; give true or false, without quotes")
    return value


def _integer(value: object, rule: dict) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{_kind(value)}; give a whole number, without quotes")
    if not rule.get("min", value) <= value <= rule.get("max", value):
        limits = f"{rule['min']} to {rule['max']} {rule.get('unit', '')}".rstrip()
        raise ValueError(f"is outside {limits}; give a number in between (YAML reads 0100 as 64 and 1:20 as 80)")
    return value


def _choice(value: object, rule: dict) -> str:
    word = {True: "yes", False: "no"}[value] if isinstance(value, bool) else _show(value)
    if word not in rule["choices"]:
        near = difflib.get_close_matches(word, rule["choices"], 1, 0.6)
        right = f"did you mean {near[0]}?" if near else f"give one of {_list(rule['choices'])}"
        raise ValueError(f"is not known; {right}")
    return word


def _option(value: object, rule: dict) -> int | str:
    """A value for an option of the kernel or of ipsec.conf: the kernel gets 1 and 0, ipsec.conf yes and no."""
    if isinstance(value, bool):
        return int(value) if rule["type"] == "value" else {True: "yes", False: "no"}[value]
    if not isinstance(value, int):
        return _pattern(value, "option")
    if not -1 << 63 <= value < 1 << 64:
        raise ValueError("has more than 64 bits; give a smaller number")
    return value


def _duration(value: object, _rule: dict) -> str:
    """A time as ha.cf takes it: seconds, or milliseconds with ms."""
    right = "give seconds, or milliseconds such as 500ms"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{_kind(value)}; {right}")
    match = _DURATION.fullmatch(value if isinstance(value, str) else _show(value))
    if not match:
        raise ValueError(f"is no time; {right}")
    number = float(match[1]) * (1 if match[2] == "ms" else 1000)
    if not 1 <= number <= 3_600_000:
        raise ValueError(f"is outside 1 ms to one hour; {right}")
    return f"{number / 1000:.0f}" if number % 1000 == 0 else f"{number:.0f}ms"


def _milliseconds(text: str) -> int:
    """A time of :func:`_duration` in milliseconds; 0 for an empty text."""
    if not text:
        return 0
    return int(text[:-2]) if text.endswith("ms") else int(text) * 1000


def _address(value: object, _rule: dict) -> str:
    text = _string(value)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        right = "without the prefix length" if "/" in text else "such as 192.0.2.11 or 2001:db8::11"
        raise ValueError(f"is no IP address; give one {right}") from None
    if "%" in text or any(address in network for network in _NO_HOST):
        raise ValueError("is no address of one host in a network; give one such as 192.0.2.11 or 2001:db8::11")
    return str(address)


def _group(value: object, _rule: dict) -> str:
    text = _string(value)
    try:
        if ipaddress.IPv4Address(text).is_multicast:
            return text
    except ipaddress.AddressValueError:
        pass
    raise ValueError("is no IPv4 multicast group; give one such as 239.0.0.43")


def _network(value: object, _rule: dict) -> str:
    text = _string(value)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is no network; give one such as 192.0.2.0/26 or 2001:db8::/64") from None
    if "/" not in text:
        raise ValueError(f"has no prefix length; give one such as {text}/{24 if network.version == 4 else 64}")
    if "%" in text or ipaddress.ip_address(text.split("/")[0]) != network.network_address:
        raise ValueError(f"is an address in a network; give the network, {network}")
    return str(network)


def _identity(value: object, _rule: dict) -> str:
    """Who an end of a connection is."""
    return str(_peers.identity(_string(value)))


def _peer(value: object, _rule: dict) -> str:
    """Where the other end of a connection is."""
    return str(_peers.address(_string(value)))


def _pool(value: object, rule: dict) -> str:
    """A range of addresses, FIRST-LAST."""
    text = _string(value)
    if "-" not in text:
        network = ipaddress.ip_network(_network(text, rule))
        return f"{network[0]}-{network[-1]}"
    first, _, last = text.partition("-")
    try:
        ends = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
        if ends[0].version == ends[1].version and int(ends[0]) <= int(ends[1]) and "%" not in text:
            return f"{ends[0]}-{ends[1]}"
    except ValueError:
        pass
    raise ValueError("is no range of addresses; give a network such as 192.0.2.192/27, or first-last")


def _server(value: object, _rule: dict) -> str:
    text = _string(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _scalar(text, {"type": "fqdn"})


# By type: the function that checks a value and brings it into canonical form, and the description of a valid value.
_SPECIAL = {
    "bool": (_boolean, "true or false"),
    "integer": (_integer, "a whole number"),
    "choice": (_choice, "one of some words"),
    "value": (_option, "a number, true or false (1 or 0), or a word, as the kernel takes it"),
    "option": (_option, f"{_PATTERNS['option'][1]}, as ipsec.conf takes it; true and false become yes and no"),
    "duration": (_duration, "seconds, or milliseconds such as 500ms"),
    "address": (_address, "an IPv4 or IPv6 address of one host, without a prefix length"),
    "group": (_group, "an IPv4 multicast group"),
    "network": (_network, "a network with its prefix length, such as 192.0.2.0/26 or 2001:db8::/64"),
    "identity": (_identity, _peers.RIGHT),
    "peer": (_peer, "an address, a DNS name such as branch.site.example, or any"),
    "pool": (_pool, "a network, or a range of addresses first-last"),
    "server": (_server, "an address or a name such as time.site.example"),
}
# By type: the description of a valid value, for docs/site-reference.md.
TYPES = {kind: right for kind, (_, right) in {**_PATTERNS, **_SPECIAL}.items()}


# Words and addresses

def _show(value: object) -> str:
    """A value, shortened to fit into a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nothing"
    try:
        # ascii(): the message becomes JSON in an SLS, see _NOT_IN_A_RULE.
        write = ascii if isinstance(value, str) and max(value, default="") > "\uffff" else repr
        text = value if isinstance(value, str) and value and value.isprintable() and write is repr else write(value)
    except ValueError:      # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value with hundreds of levels"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _kind(value: object) -> str:
    """Which type YAML has read, worded to follow the value in a sentence."""
    kinds = {
        type(None): "is empty", bool: "is a boolean (YAML reads on, off, yes and no as true and false)",
        int: "is a number (YAML reads 010 as 8 and 1:20 as 80)", float: "is a number with a point",
        str: "is text", dict: "is a mapping", list: "is a list",
    }
    return kinds.get(type(value), f"is a {type(value).__name__}")


def _list(words: Iterable[object]) -> str:
    """Words, separated by commas."""
    return ", ".join(_show(word) for word in words)


def _at(tree: object, *keys: str) -> object:
    """The value at a path in nested mappings; None when there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _version(text: str) -> int:
    """The IP version, 4 or 6, of an address, a network or a range."""
    return 6 if ":" in text else 4


def _network_of(address: str, networks: list[str]) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network that contains the address; None when there is none."""
    return next((net for net in map(ipaddress.ip_network, networks) if ipaddress.ip_address(address) in net), None)


def _with_prefix(address: str, networks: list[str]) -> str:
    """An address with the prefix length of its network, as ``ip address`` takes it."""
    network = _network_of(address, networks)
    if network is None:
        raise ValueError(_outside(address, networks))
    return f"{address}/{network.prefixlen}"


def _outside(address: str, networks: list[str]) -> str:
    """The end of a message about an address outside its networks."""
    return f"{address} is outside {_list(networks) or 'every network of its bond'}; give an address of that network"


def _ends(text: str) -> tuple:
    """The first and last address of a network or a range."""
    if "-" in text:
        first, last = text.split("-")
        return ipaddress.ip_address(first), ipaddress.ip_address(last)
    network = ipaddress.ip_network(text)
    return network[0], network[-1]


def _overlap(one: str, other: str) -> bool:
    """Whether two networks or ranges have an address in common."""
    if _version(one) != _version(other):
        return False
    (first, last), (start, end) = _ends(one), _ends(other)
    return first <= end and start <= last


def _own_addresses(full: dict) -> dict[str, str]:
    """Every address of the gateway, with a description of it."""
    own = {address: f"{node}'s own address" for node, its in full["nodes"].items()
           for side in ("external", "internal", "heartbeat") for address in its[side]}
    return own | {address: "a virtual address" for bond in full["bonds"].values() for address in bond["virtual"]}


def _inner(connection: dict) -> list[str]:
    """The addresses that a connection gives its roadwarriors: ranges and single addresses."""
    return [*connection["pool"], *(each for addresses in connection["persons"].values() for each in addresses)]


def _side_of(address: str, full: dict) -> str:
    """The side (external, internal, heartbeat) on which an address is reached."""
    for side, bond in full["bonds"].items():
        reached = bond["networks"] + [route["to"] for route in bond["routes"] if route["to"]]
        if _network_of(address, reached):
            return side
    return next((side for side, bond in full["bonds"].items() if bond["gateway"]), "")
