"""What gateway-peers asks and tells the IPsec daemon, and the loop. This is the only file here that knows Libreswan."""
from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from peers.decide import Call, Caller
from peers.settings import Peer

WHACK, ADDCONN = "/usr/libexec/ipsec/whack", "/usr/libexec/ipsec/addconn"
CONFIGURATION = "/etc/ipsec.conf"
FOLDER = Path("/run/gateway-peers")     # RuntimeDirectory of the unit
LOOK_SECONDS = 2.0
COMMAND_SECONDS = 10.0
LOOKUP_SECONDS = 5.0                    # resolv.conf(5): as long as one name server may take
MOST_ADDRESSES = 4                      # of one name
# `whack --trafficstatus`, one line for each SA: #4: "branch/1"[2] 203.0.113.5, type=ESP, ...
_UP = re.compile(r'#\d+: "(?P<name>[^"]+)"(?:\[\d+\])?[ ,]')


def run(*command: str, limit: float = COMMAND_SECONDS) -> str | None:
    """What a command prints; None when it fails or takes longer than `limit` seconds."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def holds(address: str) -> bool:
    """Whether this node has the address: only then can a socket be bound to it (ip(7), without ip_nonlocal_bind)."""
    with contextlib.suppress(OSError), socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        probe.bind((address, 0))
        return True
    return False


def up() -> set[str] | None:
    """The tunnels that are up; None when the daemon does not answer."""
    said = run(WHACK, "--trafficstatus")
    return None if said is None else {match["name"] for match in _UP.finditer(said)}


def lookup(version: int) -> Callable[[str], list[str]]:
    """A function that looks a name up, for addresses of this IP version (getent(1): as every program here would)."""
    def resolve(host: str) -> list[str]:
        # Without that option a host that has no address yet, as while it boots, finds none.
        said = run("getent", "--no-addrconfig", f"ahostsv{version}", host, limit=LOOKUP_SECONDS) or ""
        found = dict.fromkeys(line.split()[0] for line in said.splitlines() if line.strip())
        # What the daemon could not call, or would take for something else.
        return [each for each in found if _callable(each)][:MOST_ADDRESSES]

    return resolve


def _callable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local)


def load(peer: Peer, call: Call) -> None:
    """Load a peer's tunnels with another address in place of the loaded ones, and call it.

    One command replaces a connection, as `_load` in _modules/ipsec.py says.
    """
    for name, options in peer.tunnels.items():
        if not call.address:
            run(ADDCONN, "--config", CONFIGURATION, name)
            continue
        file = _written(name, {**options, "right": call.address, "rightid": call.id})
        run(ADDCONN, "--config", str(file), name)
        run(WHACK, "--asynchronous", "--initiate", "--name", name)


def _written(name: str, options: dict[str, str]) -> Path:
    lines = [f"conn {name}", *(f"    {key}={value}" for key, value in options.items())]
    descriptor, temporary = tempfile.mkstemp(dir=FOLDER)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write("\n".join(lines) + "\n")
    target = FOLDER / f"{name.replace('/', '_')}.conf"
    os.replace(temporary, target)
    return target


def serve(peers: list[Peer], rounds: float = float("inf"), wait: Callable[[float], None] = time.sleep) -> None:
    """Call the peers, for ever or for a number of looks."""
    callers = [Caller(peer, lookup(6 if ":" in peer.local else 4)) for peer in peers]
    while rounds > 0:
        rounds -= 1
        look(callers, time.monotonic())
        wait(LOOK_SECONDS)


def look(callers: list[Caller], now: float) -> None:
    """One look at all peers. The daemon is asked only where this node serves."""
    serves = {caller.peer.local: False for caller in callers}
    serves = {address: holds(address) for address in serves}
    tunnels = up() if any(serves.values()) else set()
    if tunnels is None:
        return      # it is starting, or hangs: the agent's matter
    for caller in callers:
        call = caller.look(now, serves[caller.peer.local], not tunnels.isdisjoint(caller.peer.tunnels))
        if call:
            print(f"{caller.peer.name}: " + (f"calling {call.address}" if call.address else "waiting for its call"),
                  flush=True)
            load(caller.peer, call)
