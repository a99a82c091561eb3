"""sessions.json: reads it, and checks all of it before anything is used."""
from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import NamedTuple

from agent.settings import INTERFACE_NAME, Mistakes, Reader

SESSIONS_JSON = Path("/etc/ha.d/sessions.json")


class HeartbeatPath(NamedTuple):
    """A heartbeat path with addresses: this node's and the other node's."""
    interface: str
    own: str
    peer: str


class Settings(NamedTuple):
    """What sessions.json says.

    `first`: whether this node stands first in the site. `addresses`: the virtual IPs. `lifetime`: seconds for which a
    state may be used at most. `deadtime`: heartbeat's, in seconds.
    """
    node: str
    peer: str
    first: bool
    port: int
    paths: tuple[HeartbeatPath, ...]
    addresses: tuple[str, ...]
    lifetime: float
    deadtime: float


def path(reader: Reader, number: int, value: object) -> HeartbeatPath:
    """One entry of `paths`."""
    where = f"paths[{number}]: "
    if not isinstance(value, dict):
        reader.wrong.append(f"{where}{value!r} is no mapping")
        return HeartbeatPath("x", "192.0.2.1", "192.0.2.2")
    reader.unknown(value, where, HeartbeatPath._fields)
    found = []
    for key in ("own", "peer"):
        text = reader.take(value, where, key, str, "192.0.2.1")
        try:
            found.append(str(ipaddress.ip_address(text)))
        except ValueError:
            reader.wrong.append(f"{where}{key}: {text!r} is no address")
            found.append("192.0.2.1")
    interface = reader.take(value, where, "interface", str, "x")
    if not INTERFACE_NAME.fullmatch(interface):
        reader.wrong.append(f"{where}interface: {interface!r} is no interface")
    return HeartbeatPath(interface, *found)


def parse(values: object) -> Settings:
    """The settings from a parsed JSON value. Raises Mistakes with all mistakes."""
    if not isinstance(values, dict):
        raise Mistakes("not a mapping")
    reader = Reader()
    reader.unknown(values, "", Settings._fields)
    paths = tuple(path(reader, number, each) for number, each in enumerate(reader.take(values, "", "paths", list, [])))
    if not paths:
        reader.wrong.append("paths: none, so the nodes can not reach each other")
    addresses = []
    for each in reader.take(values, "", "addresses", list, []):
        try:
            addresses.append(str(ipaddress.ip_address(each)))
        except ValueError:
            reader.wrong.append(f"addresses: {each!r} is no address")
    if not addresses:
        reader.wrong.append("addresses: none, so there are no tunnels to copy")
    settings = Settings(
        reader.name(values, "node"), reader.name(values, "peer"), reader.take(values, "", "first", bool, False),
        int(reader.number(values, "", "port", 1, 65535)), paths, tuple(addresses),
        reader.number(values, "", "lifetime", 60, 86400 * 7), reader.number(values, "", "deadtime", 0.25, 600))
    if reader.wrong:
        raise Mistakes(*reader.wrong)
    return settings


def load(file: Path = SESSIONS_JSON) -> Settings:
    """The settings in a file. Raises Mistakes, also when the file can not be read."""
    try:
        return parse(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise Mistakes(f"{file}: {error}") from None
