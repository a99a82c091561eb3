"""
Who else this node hears, besides the request port of its master: what a change must not cut.

A new connection to the master's request port shows that a change has not cut the node off from it. It does not show
that jobs still come, that the master's name can still be looked up, or that the other node's heartbeats still arrive.
Without those, both nodes become active. So what was heard before a change has to be heard after it.
"""
from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict

__virtualname__ = "lifelines"

# The longest keepalive of the shipped profiles is 2 s.
_HEARTBEAT_SECONDS = 3.0
_CONNECT_SECONDS = 2.0
_LOOK_UP_SECONDS = 5.0
_SO_ATTACH_FILTER = 26      # asm-generic/socket.h; Python has no name for it
# A heartbeat begins with this line, in clear text (cluster glue's ha_msg.h, MSG_START_NETSTRING). What follows is
# LENGTH:(TYPE)NAME=VALUE, ... with a comma behind each.
_HEARTBEAT_START = b"###\n"
# Classic BPF (linux/filter.h): accept a packet whose UDP payload begins so. Without this, a gateway's ESP in UDP, at
# some 100,000 packets a second, would fill the socket. A raw socket's filter sees the packet from its IP header on.
_ONLY_HEARTBEATS = (
    (0xb1, 0, 0, 0),                                                # ldxb 4*([0]&0xf): the IP header's length
    (0x40, 0, 0, 8),                                                # ld [x + 8]: behind the UDP header
    (0x15, 0, 1, int.from_bytes(_HEARTBEAT_START, "big")),          # jeq
    (0x06, 0, 0, 0xffffffff), (0x06, 0, 0, 0))                      # accept, drop


def __virtual__() -> str | tuple[bool, str]:
    return __virtualname__


def alive(hosts: list[str]) -> dict:
    """
    What is heard now.

    hosts
        The masters, names or addresses.

    Returns ``publish`` (the masters whose publish port accepts a new connection), ``names`` (those of the hosts that
    are names and can be looked up) and ``peers`` (nodes whose heartbeats arrive over the network). Takes up to 3 s.

    CLI Example:

    .. code-block:: bash

        salt-call lifelines.alive '[salt]'
    """
    return {"publish": [host for host in hosts if _publishes(host)],
            "names": [host for host in hosts if not _is_address(host) and _looked_up(host)],
            "peers": _heard(_HEARTBEAT_SECONDS)}


def lost(before: dict, timeout: float = 10) -> list[str]:
    """
    What is not heard any more, in words; tries again until the timeout (seconds) is over.

    before
        What ``alive`` has returned. One of its masters, one of its names and each of its peers are asked for. A peer
        may be heard over a serial line instead.

    CLI Example:

    .. code-block:: bash

        salt-call lifelines.lost '{publish: [salt], names: [], peers: [gw2]}'
    """
    tests: list[tuple[str, Callable[[float], bool]]] = []
    if before["publish"]:
        tests.append((f"{' or '.join(before['publish'])} port {_publish_port()}",
                      lambda _left: any(_publishes(host) for host in before["publish"])))
    if before["names"]:
        tests.append((f"a name server (for {' or '.join(before['names'])})",
                      lambda _left: any(_looked_up(host) for host in before["names"])))
    tests += [(f"the heartbeat of {peer}", functools.partial(_is_heard, peer)) for peer in before["peers"]]
    deadline = time.monotonic() + timeout
    while True:
        left = max(0.5, min(_HEARTBEAT_SECONDS, deadline - time.monotonic()))
        tests = [(what, answers) for what, answers in tests if not answers(left)]
        if not tests or time.monotonic() >= deadline:
            return [what for what, _answers in tests]
        time.sleep(0.3)


def _publish_port() -> int:
    return int(__opts__.get("publish_port") or 4505)


def _publishes(host: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, _publish_port()), timeout=_CONNECT_SECONDS):
        return True
    return False


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False


def _looked_up(host: str) -> bool:
    # a program, as Python's getaddrinfo has no time limit
    return __salt__["cmd.retcode"](["getent", "ahosts", host], python_shell=False, ignore_retcode=True,
                                   timeout=_LOOK_UP_SECONDS) == 0


def _is_heard(peer: str, seconds: float) -> bool:
    return peer in _heard(seconds, peer) or _over_serial()


def _over_serial() -> bool:
    """Whether heartbeat hears the other node on a serial line: no packet shows that."""
    status = __salt__.get("heartbeat.status")
    links = status()["links"] if status else {}
    return any(name.startswith("/dev/") and state == "up" for name, state in links.items())


def _heard(seconds: float, wanted: str = "") -> list[str]:
    """
    The other nodes whose heartbeats arrive within these seconds, sorted; ends early when ``wanted`` is heard.

    A raw socket gets a packet only after the packet filter's input chain has let it in (raw(7), ip_input.c). heartbeat
    itself would say ``active`` until its deadtime is over.
    """
    own, found, deadline = os.uname().nodename.lower(), set(), time.monotonic() + seconds
    try:
        ear = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        return []
    with ear:
        code = b"".join(struct.pack("HBBI", *each) for each in _ONLY_HEARTBEATS)
        buffer = ctypes.create_string_buffer(code)
        ear.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                       struct.pack("HL", len(_ONLY_HEARTBEATS), ctypes.addressof(buffer)))
        while (left := deadline - time.monotonic()) > 0:
            ear.settimeout(left)
            try:
                packet = ear.recv(65535)
            except (TimeoutError, OSError):
                break
            sender = _sender(packet)
            if sender and sender != own:
                found.add(sender)
                if not wanted or sender == wanted:
                    break
    return sorted(found)


def _sender(packet: bytes) -> str:
    """The node that has sent a heartbeat, in lower case; "" when the packet is none."""
    payload = packet[4 * (packet[0] & 0xf) + 8:] if packet else b""
    said = re.search(rb"\d+:\(0\)src=([A-Za-z0-9._-]+),", payload)
    return said.group(1).decode().lower() if payload.startswith(_HEARTBEAT_START) and said else ""
