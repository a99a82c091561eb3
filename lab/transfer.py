"""Large transfers over TCP: a server in a namespace, a client on a host."""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lab.guest import Guest

PORT = 5001
_START_SECONDS = 10         # that the server's first line may take
# A client's first line says `down` or `up`, and how many bytes. It is told the address that it comes from.
_SERVER = """
import socket, sys, threading

def serve(connection, peer):
    with connection, connection.makefile("rb") as said:
        way, size = said.readline().split()
        seen = f"{peer[0]}\\n".encode()
        if way == b"down":
            connection.sendall(seen + bytes(int(size)))
        elif len(said.read(int(size))) == int(size):
            connection.sendall(seen)

with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=server.accept(), daemon=True).start()
"""
_CLIENT = """
import json, socket, sys, time
address, port, way, size, limit = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
begun, moved, said = time.monotonic(), 0, b""

def left():
    if (seconds := begun + limit - time.monotonic()) <= 0:
        raise TimeoutError
    return seconds

try:
    with socket.create_connection((address, port), timeout=left()) as server:
        server.sendall(f"{way} {size}\\n".encode())
        if way == "up":
            server.sendall(bytes(size))
        while not said.endswith(b"\\n"):
            server.settimeout(left())
            if not (byte := server.recv(1)):
                raise ConnectionError
            said += byte
        moved = size if way == "up" else 0
        while moved < size:
            server.settimeout(left())
            if not (data := server.recv(65536)):
                raise ConnectionError
            moved += len(data)
except OSError:
    pass
print(json.dumps([time.monotonic() - begun, moved, said.decode().strip()]))
"""


class Transfer(NamedTuple):
    """What became of a transfer."""

    seconds: float
    moved: int          # bytes that arrived; an upload arrives whole or not at all
    seen_as: str        # the address that the server saw, "" where no answer came


@contextmanager
def server(namespace: str, address: str) -> Iterator[None]:
    """Serve transfers in a namespace while the block runs. Raises RuntimeError when that does not start."""
    # A server that finds smaller packets by trying them would hide a path that drops large ones in silence.
    subprocess.run(["ip", "netns", "exec", namespace, "sysctl", "-q", "-w", "net.ipv4.tcp_mtu_probing=0"], check=True,
                   timeout=_START_SECONDS)
    serving = subprocess.Popen(["ip", "netns", "exec", namespace, sys.executable, "-I", "-c", _SERVER, address,
                                str(PORT)], stdout=subprocess.PIPE, text=True)
    try:
        if not serving.stdout or serving.stdout.readline().strip() != "listening":
            raise RuntimeError(f"nothing listens on {address} in {namespace}")
        yield
    finally:
        serving.kill()
        serving.wait(timeout=_START_SECONDS)


def transfer(guest: Guest, address: str, way: str, size: int, limit: float) -> Transfer:
    """Move `size` bytes `down` from the server to a host, or `up`, within `limit` seconds."""
    said = guest.run(["python3", "-c", _CLIENT, address, str(PORT), way, str(size), str(limit)], timeout=limit + 30,
                     check=True).stdout
    return Transfer(*json.loads(said))
