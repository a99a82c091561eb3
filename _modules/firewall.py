"""
The packet filter: one nftables table, ``inet gateway``, loaded whole and kept only if the Salt master is reached again.

Other tables are not touched. Source of the format: nft(8).
"""
from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import salt.utils.path
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

__virtualname__ = "firewall"

_TABLE = ("table", "inet", "gateway")
_FILE = "/etc/nftables.conf"
_FOLDER = Path("/run/gateway/rollback/firewall")
_MARK = "Written by Salt (state firewall.applied); what is changed here is lost. See docs/network.md."
# Naming the table first makes the delete work without one. It is all one transaction: no packet passes unfiltered.
_WITHOUT = "table inet gateway\ndelete table inet gateway\n"
_COMMAND_SECONDS = 30
_WHOLE = {4: "0.0.0.0/0", 6: "::/0"}
# Trap: with a port of the gateway's own daemons, such as 4500, one peer could get what is meant for the IPsec daemon.
_TRANSLATED_PORTS = "10000-65535"
# Rules count at once, so heartbeats that are missing for longer than the longest keepalive (2 s) are cut off.
_PEER_SECONDS = 3.0
# nft(8), INCLUDING FILES. The others are skipped: quoted texts and comments.
_READS_A_FILE = re.compile(r'"[^"]*"|#[^\n]*|(\binclude\b)')
# Before its message, nft names the file, line and columns; `internal` and `netlink` stand for what it has itself made.
_SAID = re.compile(r"(?P<file>[^:]+):(?P<line>\d+):\d+-\d+: (?P<what>(?:Error|Warning): .*)")
_WITHOUT_A_PLACE = ("internal:", "netlink:", "unshare:", "sh:", "Error: Could not process rule:")


def __virtual__() -> str | tuple[bool, str]:
    # nft may be installed by the same state run that needs it
    return __virtualname__


def rules(settings: dict) -> dict:
    """
    The data for the ruleset's template, from ``gateway.settings``, by IP version.

    Returns ``external`` and ``internal`` (the bonds' names), ``clamped`` (whether any tunnel's MSS is lowered),
    ``outward`` (whether anything is translated), ``heartbeat_port``, ``log_dropped``, ``extra`` (further rules by
    chain), ``heartbeat`` (``interface``, ``from``, ``own`` of each path over a network) and ``families``. Each of these
    has ``ip`` and ``icmp`` (nft's words for this IP version), ``tunnels`` (``name``, ``local``, ``remote``, ``mss``),
    ``outward`` (see :func:`_outward`), and lists of networks that do not overlap: ``ike`` (the addresses on which the
    IPsec daemon serves), ``ssh_from``, ``scrape_from`` (who may ask for figures), ``neighbours``, ``pings`` (the ping
    nodes), and ``inside`` (networks that are never the source of clear text from outside).

    CLI Example:

    .. code-block:: bash

        salt-call firewall.rules "$SETTINGS"
    """
    sides = {bond["side"]: bond for bond in settings["bonds"]}
    inner = [net for side, bond in sides.items() if side != "external" for net in bond["networks"]]
    families = []
    for version, word, icmp in ((4, "ip", "icmp"), (6, "ip6", "icmpv6")):
        tunnels = []
        for connection in settings["connections"]:
            local = _networks(connection["local"]["subnets"], version)
            given = [*connection["pool"], *(each for addresses in connection["persons"].values() for each in addresses)]
            remote = _networks([*given, *connection.get("peer", {}).get("subnets", [])], version)
            if connection["kind"] == "roadwarrior" and not given:
                remote = [_WHOLE[version]]      # these clients keep their own address
            if local and remote:
                tunnels.append({"name": connection["name"], "local": local, "remote": remote,
                                "mss": _mss(connection, version)})
        families.append({
            "ip": word, "icmp": icmp,
            "ike": _networks([v["address"] for v in settings["virtual"] if v["side"] == "external"], version),
            "ssh_from": _networks(settings["firewall"]["ssh_from"], version),
            "scrape_from": _networks(settings["metrics"]["scrape_from"] if settings["features"]["metrics"] else [],
                                     version),
            "inside": _networks(inner, version),
            "neighbours": _networks([net for bond in settings["bonds"] for net in bond["networks"]], version),
            "pings": _networks(settings["ping_nodes"], version),
            "tunnels": tunnels,
            "outward": _outward(settings, version, tunnels, inner),
        })
    return {
        "external": sides["external"]["name"], "internal": sides["internal"]["name"], "families": families,
        "clamped": any(family["tunnels"] for family in families),
        "outward": any(family["outward"] for family in families),
        "heartbeat": _heartbeat_paths(settings), "heartbeat_port": settings["heartbeat"]["port"],
        "sessions": settings["sessions"]["paths"] if settings["sessions"] else [],
        "sessions_port": settings["sessions"]["port"] if settings["sessions"] else 0,
        "log_dropped": settings["firewall"]["log_dropped"],
        "extra": settings["firewall"]["extra"],
    }


def _outward(settings: dict, version: int, tunnels: list[dict], inner: list[str]) -> dict:
    """
    What leaves outside in clear text, and under which address, where some peers send everything through their tunnel.

    Returns ``sources`` (those peers' networks), ``to`` (the virtual address), ``ports`` (the same with the ports that
    translated connections may have) and ``kept`` (networks that are behind a tunnel or inside: to these nothing leaves
    in clear text); {} where nobody sends everything.
    """
    addresses = [each["address"] for each in settings["virtual"] if each["side"] == "external"
                 and ipaddress.ip_address(each["address"]).version == version]
    sources = [net for tunnel in tunnels if _WHOLE[version] in tunnel["local"] for net in tunnel["remote"]]
    if not sources or not addresses:
        return {}
    to = addresses[0]
    return {"sources": _networks(sources, version), "to": to,
            "ports": f"{f'[{to}]' if version == 6 else to}:{_TRANSLATED_PORTS}",
            "kept": _networks([*inner, *(net for tunnel in tunnels for net in tunnel["remote"])], version)}


def _mss(connection: dict, version: int) -> int:
    """The largest TCP segment, of this IP version inside, that may go through a connection's tunnels."""
    outer = ipaddress.ip_address(connection["local"]["address"]).version
    fits = __salt__["tunnel_sizes.segment"](connection["mtu"], outer, version,
                                            __salt__["ipsec.esp_proposals"](connection))
    said = connection["mss"]
    # What a site says is for IPv4; IPv6's header is 20 bytes longer.
    return min(fits, said - (20 if version == 6 else 0)) if said else fits


def _networks(texts: list[str], version: int) -> list[str]:
    """Networks, addresses and first-last ranges of one IP version, merged: nft refuses sets that overlap."""
    networks: list = []
    for text in texts:
        first, dash, last = text.partition("-")
        if ipaddress.ip_network(first, strict=False).version != version:
            continue
        if dash:
            networks += ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last))
        else:
            networks.append(ipaddress.ip_network(first, strict=False))
    merged = ipaddress.collapse_addresses(networks)
    return [str(net.network_address) if net.num_addresses == 1 else str(net) for net in merged]


def _heartbeat_paths(settings: dict) -> list[dict]:
    paths = []
    for path in settings["heartbeat"]["paths"]:
        bond = next((bond for bond in settings["bonds"] if bond["name"] == path.get("interface")), None)
        # heartbeat 3 is IPv4 only
        peers = _networks([path["peer"]] if path.get("peer") else bond["peer_addresses"] if bond else [], 4)
        own = _networks([each.partition("/")[0] for each in bond["addresses"]] if bond else [], 4)
        entry = {"interface": path.get("interface"), "from": peers, "own": own}
        if path["kind"] != "serial" and peers and entry not in paths:
            paths.append(entry)
    return paths


def render(source: str, settings: dict, saltenv: str = "base") -> str:
    """
    The ruleset as text, made from its template (salt://...) and ``gateway.settings``.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.render salt://firewall/files/ruleset.nft.jinja "$SETTINGS"
    """
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "ruleset")
        made = __salt__["cp.get_template"](source, target, "jinja", saltenv, rules=rules(settings))
        if not made or not Path(target).exists():
            raise CommandExecutionError(
                f"{source}: not on the file server, or the template has a mistake (see the minion's log)")
        return Path(target).read_text()


def plan(ruleset: str) -> dict:
    """
    The changes after which this ruleset is loaded, now and after a reboot.

    ruleset
        Rules for nft that define the table ``inet gateway`` and nothing else.

    Returns ``changes`` (for people; {} when nothing changes), ``table`` and ``file`` (whether each of them differs)
    and ``text`` (the content of the file).

    To compare, the wanted rules are loaded into a network namespace of their own, and nft lists both. So both texts
    come from the kernel and nft, whatever way the template or a person at the console wrote the rules. This also
    checks the ruleset completely before it is used.

    Raises:
        CommandExecutionError: nft is missing, the kernel has no such packet filter, or the ruleset has a mistake or
            reads another file.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.plan "$(cat ruleset.nft)"
    """
    if any(found.group(1) for found in _READS_A_FILE.finditer(ruleset)):
        # nft prints lines of a file that it can not read as rules, and it may read every file of root's.
        raise CommandExecutionError("the ruleset has an `include`, and no other file may become part of it; write the "
                                    "rules themselves into `firewall: extra`")
    text = f"#!/usr/sbin/nft -f\n# {_MARK}\n{_WITHOUT}{ruleset.strip()}\n"
    wanted, now = _as_loaded(text), loaded()
    old = Path(_FILE).read_text(errors="replace") if Path(_FILE).exists() else ""
    changes = {}
    if wanted != now:
        changes[" ".join(_TABLE)] = {"diff": _diff(now, wanted)}
    if old != text:
        changes[_FILE] = {"diff": _diff(old, text)}
    return {"changes": changes, "table": wanted != now, "file": old != text, "text": text}


def _diff(old: str, new: str) -> str:
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))


def _nft(*arguments: str) -> dict:
    return __salt__["cmd.run_all"](["nft", *arguments], python_shell=False, ignore_retcode=True,
                                   timeout=_COMMAND_SECONDS)


def _complaint(stderr: str, path: str, text: str) -> str:
    """
    What nft says of a ruleset, without what it shows of any file: its messages about this file (`path`), each with the
    line of the text. Of another file, not even the message: it contains words of that file.
    """
    said, lines = [], text.splitlines()
    for each in stderr.splitlines():
        found = _SAID.fullmatch(each.strip())
        if found and found["file"] == path:
            number = int(found["line"])
            source = lines[number - 1].strip() if 0 < number <= len(lines) else ""
            said.append(f"{found['what']} (line {number}: {source})")
        elif each.startswith(_WITHOUT_A_PLACE):
            said.append(each.strip())
    return "; ".join(said) or "nft names no place in it; `nft -c -f` with the ruleset at the console says more"


def file() -> str:
    """
    The file that keeps the ruleset over a reboot.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.file
    """
    return _FILE


def listing() -> list[str]:
    """
    The command that prints what :func:`loaded` returns, for callers that can not wait for it.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.listing
    """
    return ["nft", "--stateless", "list", *_TABLE]


def loaded() -> str:
    """
    The table as it is loaded now, without counters; "" without the table.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.loaded
    """
    done = _nft(*listing()[1:])
    return done["stdout"].strip() if done["retcode"] == 0 else ""


def _as_loaded(text: str) -> str:
    """The text that `loaded` would return with this ruleset. See `plan`."""
    _check_kernel()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ruleset")
        Path(path).write_text(text)
        done = __salt__["cmd.run_all"](
            ["unshare", "--net", "sh", "-c", 'nft -f "$0" && nft --stateless list table inet gateway', path],
            python_shell=False, ignore_retcode=True, timeout=_COMMAND_SECONDS)
    if done["retcode"]:
        raise CommandExecutionError(f"the ruleset has a mistake: {_complaint(done['stderr'], path, text)}")
    return done["stdout"].strip()


def _check_kernel() -> None:
    """Trap: a kernel may have nf_tables for bridges only (the packaged user-mode-linux); nft starts there as usual."""
    if not salt.utils.path.which("nft"):
        raise CommandExecutionError("the command nft is missing: `apt install nftables`")
    done = __salt__["cmd.run_all"](["nft", "--check", "--file", "-"], stdin="table inet gateway_probe { }\n",
                                   python_shell=False, ignore_retcode=True, timeout=_COMMAND_SECONDS)
    if done["retcode"]:
        said = done["stderr"].strip().splitlines()
        raise CommandExecutionError(
            f"this kernel ({os.uname().release}) has no packet filter of the family inet (CONFIG_NF_TABLES_INET; "
            f"nft says: {said[0] if said else 'nothing'}). Boot a kernel that has it, as Debian's do, or deliberately "
            "leave the firewall out: `features: {firewall: false}` in the site's pillar")


def apply(ruleset: str, seconds: int = 60, confirm_with: list[str] | None = None) -> dict:
    """
    Load a ruleset and keep it. The node itself restores the old one unless the master is reached afterwards.

    ruleset
        As for ``plan``.
    seconds, confirm_with
        As for ``commit_confirm.guarded``.

    Returns ``changes`` (as ``plan``; {} when nothing changed in the end) and ``problem`` ("" when all went well).

    Raises:
        CommandExecutionError: nothing was changed; see ``plan`` and ``commit_confirm.arm``.

    CLI Example:

    .. code-block:: bash

        salt '*' firewall.apply "$(cat ruleset.nft)" seconds=120
    """
    todo = plan(ruleset)
    if not todo["changes"]:
        return {"changes": {}, "problem": ""}
    before = loaded()
    # Numbers of protocols: the way back must not look names up in a file.
    with_counters = _nft("--numeric-protocol", "list", *_TABLE)["stdout"] if before else ""
    undo_argv = __salt__["commit_confirm.prepare"](
        "firewall", [_FILE], [["nft", "-f", str(_FOLDER / "old")]],
        texts={"old": f"{_WITHOUT}{with_counters}\n", "new": todo["text"]})

    def load() -> None:
        if todo["table"]:
            done = _nft("-f", str(_FOLDER / "new"))
            if done["retcode"]:
                said = _complaint(done["stderr"], str(_FOLDER / "new"), todo["text"])
                raise CommandExecutionError(f"nft refused the ruleset: {said}")

    def keep() -> None:
        __salt__["commit_confirm.keep_original"](_FILE, _MARK)
        # the rules say who is let in: readable by root only
        __salt__["commit_confirm.replace_file"](_FILE, todo["text"], 0o600)

    problem = __salt__["commit_confirm.guarded"]("firewall", undo_argv, load, keep, seconds, confirm_with,
                                                 _PEER_SECONDS)
    if not problem:
        return {"changes": todo["changes"], "problem": ""}
    if loaded() == before:
        return {"changes": {}, "problem": f"{problem}; the old ruleset is back"}
    return {"changes": todo["changes"],
            "problem": f"{problem}; the old ruleset is NOT back, so load it: `nft -f {_FOLDER / 'old'}`"}
