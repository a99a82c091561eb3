"""When the virtual IP is served again, seen from outside: the router asks for IKE twenty times a second."""
from __future__ import annotations

import subprocess
import sys

from lab import network

# An answer needs all of it: the address held, announced to the router, and the daemon listening on it. The question is
# a bare header of IKE version 3, which any daemon refuses (RFC 7296, 2.5) with one line in its log. A whole
# IKE_SA_INIT would cost it thirty, and as often as this, more time than the takeover that is measured.
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


class Prober:
    """Asks from its making until `stop`."""

    def __init__(self, address: str) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", network.ROUTER, sys.executable, "-I", "-c", _ASK, address],
            stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()

    def stop(self) -> list[float]:
        """When answers came (seconds since the epoch)."""
        self._process.kill()
        return [float(line) for line in self._process.communicate()[0].splitlines() if line.strip()]
