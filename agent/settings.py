"""agent.json: reads it, and checks all of it before the agent uses any."""
from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
AGENT_JSON = Path("/etc/ha.d/agent.json")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TUNNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[0-9]{1,4})?")  # bern/1: a peer with several networks
INTERFACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}")  # IFNAMSIZ in linux/if.h is 16 with the final zero


class Mistakes(Exception):
    """The settings are wrong. `args` has one line for each mistake."""


class Address(NamedTuple):
    """A virtual IP."""
    address: str
    prefix: int
    interface: str


class DaemonSettings(NamedTuple):
    """`initiate`: the tunnels that this node calls itself."""
    initiate: tuple[str, ...]


class FenceSettings(NamedTuple):
    """The command that switches a dead peer off, and the seconds that it may take."""
    command: tuple[str, ...]
    timeout: float


class Settings(NamedTuple):
    """What agent.json says. Times in seconds; `failback`: manual or auto."""
    node: str
    peer: str
    preferred: bool
    addresses: tuple[Address, ...]
    uplinks: tuple[str, ...]
    ping_nodes: tuple[str, ...]
    failback: str
    failback_delay: float
    daemon: DaemonSettings | None
    deadtime: float
    deadping: float
    fence: FenceSettings | None
    compare: bool


class Reader:
    """Takes values out of a mapping and collects what is wrong with them."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def take(self, values: dict[str, Any], where: str, key: str, kind: type[T] | tuple[type[T], ...], default: T) -> T:
        """A value of the type `kind`. `default` replaces a missing or wrong one, so that one run finds all mistakes."""
        if key not in values:
            self.wrong.append(f"{where}{key} is missing")
            return default
        value = values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.wrong.append(f"{where}{key}: {value!r} has the wrong type")
            return default
        return value

    def names(self, values: dict[str, Any], where: str, key: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
        """A list of names, each of which matches `pattern`."""
        each = self.take(values, where, key, list, [])
        for name in each:
            if not isinstance(name, str) or not pattern.fullmatch(name):
                self.wrong.append(f"{where}{key}: {name!r} is no name")
        return tuple(str(name) for name in each)

    def unknown(self, values: dict[str, Any], where: str, known: tuple[str, ...]) -> None:
        """Notes every key that is not among the known ones."""
        self.wrong += [f"{where}{key} is unknown" for key in sorted(set(map(str, values)) - set(known))]

    def number(self, values: dict[str, Any], where: str, key: str, low: float, high: float) -> float:
        """A number between `low` and `high`, both included."""
        value = self.take(values, where, key, (int, float), low)
        if not low <= value <= high:
            self.wrong.append(f"{where}{key}: {value!r} is not between {low:g} and {high:g}")
        return float(value)

    def name(self, values: dict[str, Any], key: str) -> str:
        """A node's name."""
        value = self.take(values, "", key, str, "x")
        if not NODE_NAME.fullmatch(value):
            self.wrong.append(f"{key}: {value!r} is no node name")
        return value

    def address(self, number: int, value: object) -> Address:
        """One entry of `addresses`, the one with this number."""
        where = f"addresses[{number}]: "
        if not isinstance(value, dict):
            self.wrong.append(f"{where}{value!r} is no mapping")
            return Address("192.0.2.1", 32, "lo")
        self.unknown(value, where, Address._fields)
        text = self.take(value, where, "address", str, "192.0.2.1")
        prefix = self.take(value, where, "prefix", int, 0)
        interface = self.take(value, where, "interface", str, "x")
        try:
            parsed = ipaddress.ip_address(text)
            text = str(parsed)
            if not 1 <= prefix <= parsed.max_prefixlen:
                self.wrong.append(f"{where}prefix: {prefix} is not between 1 and {parsed.max_prefixlen}")
        except ValueError:
            self.wrong.append(f"{where}address: {text!r} is no address")
        if not INTERFACE_NAME.fullmatch(interface) or interface == "lo":
            self.wrong.append(f"{where}interface: {interface!r} is no interface for a virtual address")
        return Address(text, prefix, interface)


def parse(values: object) -> Settings:
    """The settings from a parsed JSON value. Raises Mistakes with all mistakes."""
    if not isinstance(values, dict):
        raise Mistakes("not a mapping")
    reader = Reader()
    reader.unknown(values, "", Settings._fields)
    node, peer = reader.name(values, "node"), reader.name(values, "peer")
    if node.lower() == peer.lower():
        reader.wrong.append(f"node and peer are both {node}")
    addresses = tuple(reader.address(n, each) for n, each in enumerate(reader.take(values, "", "addresses", list, [])))
    if not addresses:
        reader.wrong.append("addresses: none, so there is nothing to take over")
    if len({each.address for each in addresses}) < len(addresses):
        reader.wrong.append("addresses: one is listed twice")
    pings = reader.take(values, "", "ping_nodes", list, [])
    for each in pings:
        try:
            ipaddress.ip_address(each)
        except ValueError:
            reader.wrong.append(f"ping_nodes: {each!r} is no address")
    failback = reader.take(values, "", "failback", str, "manual")
    if failback not in ("manual", "auto"):
        reader.wrong.append(f"failback: {failback!r} is neither manual nor auto")
    about_daemon: dict[str, Any] | None = reader.take(values, "", "daemon", (dict, type(None)), None)
    about_fence: dict[str, Any] | None = reader.take(values, "", "fence", (dict, type(None)), None)
    daemon, fence = None, None
    if about_daemon is not None:
        reader.unknown(about_daemon, "daemon: ", DaemonSettings._fields)
        daemon = DaemonSettings(reader.names(about_daemon, "daemon: ", "initiate", TUNNEL_NAME))
    if about_fence is not None:
        reader.unknown(about_fence, "fence: ", FenceSettings._fields)
        command = reader.take(about_fence, "fence: ", "command", list, ["/"])
        if not command or not all(isinstance(each, str) for each in command) or not command[0].startswith("/"):
            reader.wrong.append("fence: command is not a list of words that begins with an absolute path")
        fence = FenceSettings(tuple(map(str, command)), reader.number(about_fence, "fence: ", "timeout", 0.1, 600))
    settings = Settings(
        node.lower(), peer.lower(), reader.take(values, "", "preferred", bool, False), addresses,
        reader.names(values, "", "uplinks", INTERFACE_NAME), tuple(map(str, pings)), failback,
        reader.number(values, "", "failback_delay", 0, 7 * 86400), daemon,
        reader.number(values, "", "deadtime", 0.25, 600), reader.number(values, "", "deadping", 0.1, 600), fence,
        reader.take(values, "", "compare", bool, False))
    if reader.wrong:
        raise Mistakes(*reader.wrong)
    return settings


def load(path: Path = AGENT_JSON) -> Settings:
    """The settings in a file. Raises Mistakes, also when the file can not be read."""
    try:
        return parse(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise Mistakes(f"{path}: {error}") from None
