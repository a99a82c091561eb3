"""The content of gateway-peers.json, which Salt writes (``ipsec.tried`` in _modules/ipsec.py)."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path("/etc/ipsec.d/gateway-peers.json")
# No more than ipsec.conf(5) takes as one line: a value must not start another.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_VALUE = re.compile(r"[^\x00-\x1f\x7f]+")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]*")  # with a "-" before it getent(1) would take it for an option


@dataclass(frozen=True)
class Place:
    """Where a peer may be: `host`, an address or a name to look up, and who the peer says it is there (`rightid`)."""
    host: str
    id: str


@dataclass(frozen=True)
class Peer:
    """
    One connection's peer: `local`, this end's address; `patience`, the seconds in which a place has to answer; its
    `places` in order; and by name the options of its tunnels (ipsec.conf(5)).
    """
    name: str
    local: str
    patience: float
    places: tuple[Place, ...]
    tunnels: dict[str, dict[str, str]]


def parse(text: str) -> list[Peer]:
    """The peers. Raises ValueError: one line that says what is wrong and where."""
    try:
        return [_peer(each) for each in json.loads(text)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is not what ipsec.tried returns: {type(error).__name__} {error}") from None


def load(path: Path = FILE) -> list[Peer]:
    """The peers of a file. Raises OSError, ValueError."""
    return parse(path.read_text(encoding="utf-8"))


def _peer(told: dict[str, Any]) -> Peer:
    places = tuple(Place(_fits(_HOST, each["host"]), _fits(_VALUE, each["id"])) for each in told["places"])
    tunnels = {_fits(_NAME, name): {_fits(_NAME, key): _fits(_VALUE, value) for key, value in options.items()}
               for name, options in told["tunnels"].items()}
    return Peer(_fits(_NAME, told["name"]), _fits(_HOST, told["local"]), float(told["patience"]), places, tunnels)


def _fits(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.60} does not fit into ipsec.conf; apply the state openswan again")
    return value
