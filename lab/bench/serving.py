"""When the virtual IP is served again, seen from outside: the router asks for IKE every 20 ms."""
from __future__ import annotations

import subprocess
import sys

from lab import network, observe

# An answer needs all of it: the address held, announced to the router, and the daemon listening on it.
_ASK = """
import select, socket, sys, time
request = bytes.fromhex(sys.argv[2])
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
    until = time.monotonic() + 0.02
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
            ["ip", "netns", "exec", network.ROUTER, sys.executable, "-I", "-c", _ASK, address,
             observe.ike_sa_init(acceptable=False).hex()], stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()

    def stop(self) -> list[float]:
        """When answers came (seconds since the epoch)."""
        self._process.kill()
        return [float(line) for line in self._process.communicate()[0].splitlines() if line.strip()]
