"""Who serves the virtual IP, as the router sees it: twenty times a second it asks for IKE, and who has the address."""
from __future__ import annotations

import subprocess
import sys

from lab import network
from lab.topology import Site

# An answer needs everything: a node holds the address, has announced it to the router, and its daemon listens on it.
# The question is a bare header of IKE version 3, which any daemon refuses (RFC 7296, 2.5) with one line in its log. A
# whole IKE_SA_INIT would cost thirty lines, and at this rate more time than the takeover that is measured.
_ASK = """
import select, socket, sys, time
request = bytes(16) + bytes([0, 0x30, 34, 0x08]) + bytes(4) + (28).to_bytes(4, "big")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 0))
s.connect((sys.argv[1], 500))
print("asking", flush=True)
number = 0
while True:
    number += 1
    try:
        # a new initiator's SPI each time: no question is taken for the repetition of another
        s.send(number.to_bytes(8, "big") + request[8:])
    except OSError:
        pass
    until = time.monotonic() + 0.05
    while (left := until - time.monotonic()) > 0:
        if select.select([s], [], [], left)[0]:
            try:
                s.recv(4096)
                print(time.time(), flush=True)
            except OSError:
                pass
"""


# Sees what one machine sends from an address: ARP replies (RFC 826) and packets. It sends an ARP request each time.
_WHO_HAS = """
import select, socket, struct, sys, time
interface, hardware, address, own_address = sys.argv[1:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((interface, 3))
own = s.getsockname()[4]
sender, sought = bytes.fromhex(hardware.replace(":", "")), socket.inet_aton(address)
request = (b"\\xff" * 6 + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + own
           + socket.inet_aton(own_address) + bytes(6) + sought)
print("asking", flush=True)
while True:
    try:
        s.send(request)
    except OSError:
        pass
    until = time.monotonic() + 0.05
    while (left := until - time.monotonic()) > 0:
        if select.select([s], [], [], left)[0]:
            frame = s.recv(2048)
            kind = frame[12:14]
            if frame[6:12] == sender and (kind == b"\\x08\\x06" and frame[28:32] == sought
                                          or kind == b"\\x08\\x00" and frame[26:30] == sought):
                print(time.time(), flush=True)
"""


class _Asker:
    """Runs a program in the router until `stop`."""

    def __init__(self, program: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", network.ROUTER, sys.executable, "-I", "-c", program, *arguments],
            stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self._process.stdout.readline()

    def stop(self) -> list[float]:
        """When answers came (seconds since the epoch)."""
        self._process.kill()
        return [float(line) for line in self._process.communicate()[0].splitlines() if line.strip()]


class Prober(_Asker):
    """Records when the address answers IKE, whoever has it."""

    def __init__(self, address: str) -> None:
        super().__init__(_ASK, address)


class FromOne(_Asker):
    """Records when a packet from the address came from the machine with this hardware address."""

    def __init__(self, its: Site, hardware: str) -> None:
        super().__init__(_WHO_HAS, its.name[:10], hardware, its.virtual("external"), its.router[0].split("/")[0])
