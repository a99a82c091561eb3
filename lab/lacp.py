"""A switch's side of LACP on one port, because the bridges of the lab do not speak it.

It runs as a process of its own (`partner()`), so that it answers while a test waits for something else.

    python3 -I lab/lacp.py INTERFACE SYSTEM PORT

Frames: IEEE 802.1AX, 6.4.2.3 (LACPDU structure), as the kernel has it in include/net/bond_3ad.h.
"""
from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.guest import Guest

SLOW_PROTOCOLS = 0x8809
ETH_P_ALL = 0x0003  # linux/if_ether.h
MULTICAST = bytes.fromhex("0180c2000002")
LACP, VERSION = 1, 1
ACTOR, PARTNER, COLLECTOR = (1, 20), (2, 20), (3, 16)  # type and length of each part
# bits: active, fast, aggregates, in sync, collects, distributes
STATE = 0x3F
AGGREGATION_KEY, PORT_PRIORITY = 1, 255


def frame(system: bytes, port: int, theirs: bytes) -> bytes:
    """A switch's LACPDU: its own part, and `theirs`, the 15 octets of the other side's actor as last received."""
    ours = struct.pack("!H6sHHHB", 65535, system, AGGREGATION_KEY, PORT_PRIORITY, port, STATE)
    return (MULTICAST + system + struct.pack("!HBB", SLOW_PROTOCOLS, LACP, VERSION)
            + bytes(ACTOR) + ours + bytes(3) + bytes(PARTNER) + theirs + bytes(3) + bytes(COLLECTOR) + bytes(14)
            + bytes(52))


def heard(data: bytes) -> bytes | None:
    """The sender's own part of a LACPDU (the actor's 15 octets), None for any other frame."""
    if len(data) < 124 or data[12:16] != struct.pack("!HBB", SLOW_PROTOCOLS, LACP, VERSION):
        return None
    return data[18:33]


def serve(interface: str, system: bytes, port: int) -> None:
    """Send a LACPDU every one to two seconds and read the other side's, for ever."""
    theirs = bytes(15)
    # All protocols: a socket for a single protocol gets a frame only after the bridge.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.bind((interface, ETH_P_ALL))
        wire.settimeout(1.0)
        while True:
            wire.send(frame(system, port, theirs))
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    data, (_name, _protocol, direction, *_) = wire.recvfrom(65535)
                    if direction != socket.PACKET_OUTGOING:
                        theirs = heard(data) or theirs


def pass_through(guest: Guest) -> None:
    """Make a host's own cables carry LACP: they are bridges, and by the standard a bridge does not forward it.

    Source: Documentation/networking/bridge.rst; IFLA_BRPORT_GROUP_FWD_MASK, bit 2 is 01:80:C2:00:00:02.
    """
    for number, nic in enumerate(guest.host.nics):
        for port in (f"vec{number}", f"plug-{nic.name}"):
            guest.run(["ip", "-n", "phy", "link", "set", port, "type", "bridge_slave", "group_fwd_mask", "4"],
                      check=True)


@contextlib.contextmanager
def partner(ports: dict[str, str]) -> Iterator[None]:
    """Speak LACP on these ports while the block runs. `ports`: by interface the hardware address of its switch."""
    running = [subprocess.Popen([sys.executable, "-I", str(Path(__file__)), interface, system, str(number)])
               for number, (interface, system) in enumerate(ports.items(), 1)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


if __name__ == "__main__":
    serve(sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), int(sys.argv[3]))
