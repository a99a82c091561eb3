"""
Bonds: read them, compare them with their description, change them live, and keep them over a reboot.

A live change is one batch of iproute2 commands, whose inverse is made beforehand. ``apply`` gives the inverse to
``commit_confirm``, so the node itself rolls the change back unless the Salt master is reached again. Files are written
for ifupdown or systemd-networkd. ``_bond`` has the bonds as they are described, ``_network_change`` the way from one
network to another, ``_network_files`` the files.
"""
from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import salt.utils.path
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    from _modules import _bond, _network_change, _network_files

    __salt__: dict[str, Callable]

__virtualname__ = "bonding"

_FOLDER = Path("/run/gateway/rollback/network")
# systemd gives a service 90 s to stop.
_COMMAND_SECONDS = 100
_PROC = Path("/proc/net/bonding")
_SYS = Path("/sys/class/net")
_SLAVE_HEADING = "\nSlave Interface: "
# bond_3ad.c, LACP_STATE_DEFAULTED, LACP_STATE_EXPIRED
_DEFAULTED, _EXPIRED = 0x40, 0x80
_IFSTATE = "/run/network/ifstate"
# The socket first: it would start the service again at the next netlink message.
_NETWORKD_UNITS = ("systemd-networkd.socket", "systemd-networkd.service")


def _load_beside(name: str) -> ModuleType:
    # Trap: Salt's loader knows no import between its modules, and skips a file whose name begins with _.
    spec = importlib.util.spec_from_file_location(f"gateway{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _bond, _network_change = _load_beside("_bond"), _load_beside("_network_change")
    _network_files = _load_beside("_network_files")


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
    data = _bond.options_of(link)
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


def _live() -> dict:
    """
    The links of this node and the addresses and routes on them, as ``_network_change`` compares them.

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
            "options": _bond.options_of(link) if bond else {},
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
                links[route["dev"]]["routes"][_network_change.route_key(words)] = words
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


# what has to change


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
    then = _network_change.wanted(now, bonds)
    files = _network_files.to_change(bonds, now, manager)
    changes = _network_change.differences(now, then)
    for path, text in files.items():
        old = Path(path).read_text() if Path(path).exists() else ""
        diff = difflib.unified_diff(old.splitlines(), (text or "").splitlines(), lineterm="", n=1)
        changes[path] = {"diff": "\n".join(diff)}
    return {"changes": changes, "files": files, "manager": manager,
            "forward": _network_change.batch(now, then), "inverse": _network_change.batch(then, now)}


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
    return _network_files.there(manager)


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
        left = _settled(lambda: not _network_change.batch(live := _live(), _network_change.wanted(live, bonds)))
        if not left:
            raise CommandExecutionError(f"with its new files {todo['manager']} makes a network other than described")

    problem = __salt__["commit_confirm.guarded"]("network", undo_argv, change, keep, seconds, confirm_with)
    if not problem:
        return {"changes": todo["changes"], "problem": ""}
    if _settled(lambda: not _network_change.differences(before, _live())):
        return {"changes": {}, "problem": f"{problem}; the old network is back"}
    rest = _network_change.differences(before, _live())
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
        __salt__["commit_confirm.keep_original"](path, _network_files.MARK)
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
