"""Watches from outside who answers for virtual addresses: one process, beside the hosts, without a part in them.

    python -m lab.storm.watch '[["internet", "winterthur", "192.0.2.10"], ...]'

Each place is a network namespace, its interface, and the virtual address. Five times a second all neighbours are asked
who has the address (ARP: every node that answers for it says so), ten times a second the address is pinged through the
namespace's own neighbour cache (so an announcement that was lost shows). One packet socket for each place sees the
answers; the kernel lets only ARP and ICMP through to it and stamps each with its time of arrival.

Prints lines of JSON:

    ["asking"]
    ["arp", TIME, ADDRESS, MAC]       a reply or an announcement
    ["ping", TIME, ADDRESS, MAC]      an answered ping
    ["stall", FROM, UNTIL]            it did not ask meanwhile: it got no processor
    ["tick", TIME, CPU]               each second; CPU: seconds of a processor that it has used so far

Times are seconds since the epoch. It imports nothing but the standard library: it shall be small.
"""
from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

PING_SECONDS = 0.1
ARP_EVERY = 2                     # pings
TICK_EVERY = 10                   # pings
STALL_SECONDS = 0.2               # so late for a ping: it stood still
NICENESS = -10
NOBODY = bytes.fromhex("0200000000fe")      # a hardware address that no card of the lab has (lab/topology.py, Counter)

CLONE_NEWNET = 0x40000000         # setns(2); Python has it from 3.12 on
ETH_P_ALL = 0x0003                # linux/if_ether.h
SO_ATTACH_FILTER = 26             # asm-generic/socket.h, like the next one
SO_TIMESTAMPNS = 35
PACKET_OUTGOING = 4               # linux/if_packet.h
ECHO_REPLY, ECHO_REQUEST = 0, 8   # RFC 792
ARP_REQUEST, ARP_REPLY = 1, 2     # RFC 826

# Classic BPF (linux/filter.h): code, jump if true, jump if false, value.
_ARP_OR_ICMP = (
    (0x28, 0, 0, 12),             # the frame's type
    (0x15, 3, 0, 0x0806),         # ARP: take it
    (0x15, 0, 3, 0x0800),         # not IPv4 either: drop it
    (0x30, 0, 0, 23),             # IPv4's protocol
    (0x15, 0, 1, 1),              # ICMP
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
_NOTHING = ((0x06, 0, 0, 0),)


class Place(NamedTuple):
    """Where to ask for an address."""

    namespace: str
    interface: str
    address: str


class Seen(NamedTuple):
    """An answer: its kind (`arp`, `ping`), the address, and the hardware address that it came from."""

    kind: str
    address: str
    mac: str


def parse(frame: bytes) -> Seen | None:
    """What an Ethernet frame says about who has an address; None when it says nothing.

    Replies to ARP count, and announcements (a request from an address for itself, RFC 5227), and answers to pings.
    """
    if frame[12:14] == b"\x08\x06" and len(frame) >= 42:
        kind = int.from_bytes(frame[20:22], "big")
        if kind == ARP_REPLY or kind == ARP_REQUEST and frame[28:32] == frame[38:42]:
            return Seen("arp", socket.inet_ntoa(frame[28:32]), frame[22:28].hex(":"))
    if frame[12:14] == b"\x08\x00" and len(frame) >= 42 and frame[23] == socket.IPPROTO_ICMP:
        body = 14 + (frame[14] & 15) * 4
        if len(frame) > body and frame[body] == ECHO_REPLY:
            return Seen("ping", socket.inet_ntoa(frame[26:30]), frame[6:12].hex(":"))
    return None


def who_has(address: str) -> bytes:
    """An ARP probe to all neighbours (RFC 5227, 2.1.1), as a frame. It comes from no address and no card.

    Trap: with the namespace's own addresses each answer would put the neighbour cache right through which the pings go,
    and a node that takes over without an announcement would not show.
    """
    return (b"\xff" * 6 + NOBODY + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, ARP_REQUEST) + NOBODY
            + bytes(4) + bytes(6) + socket.inet_aton(address))


def echo_request(number: int) -> bytes:
    """An ICMP echo request."""
    head = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, os.getpid() & 0xFFFF, number & 0xFFFF)
    total = sum(struct.unpack("!4H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[4:]


def attach(to: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    """Let the kernel filter what a socket receives (socket(7), SO_ATTACH_FILTER)."""
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    to.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer)))


class Eye:
    """Asks for one address and sees the answers. Raises OSError when there is no such namespace or interface."""

    def __init__(self, place: Place) -> None:
        self.place = place
        with _inside(place.namespace):
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)     # 0: nothing before the filter is there
            self.pinger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            attach(self.raw, _ARP_OR_ICMP)
            attach(self.pinger, _NOTHING)
            self.raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self.raw.bind((place.interface, ETH_P_ALL))
        for each in (self.raw, self.pinger):
            each.setblocking(False)
        self.question = who_has(place.address)

    def ask(self, number: int) -> None:
        """Ping, and every other time ask all neighbours. An error is the same as no answer."""
        with contextlib.suppress(OSError):
            self.pinger.sendto(echo_request(number), (self.place.address, 0))
        if number % ARP_EVERY == 0:
            with contextlib.suppress(OSError):
                self.raw.send(self.question)

    def look(self) -> list[tuple[float, Seen]]:
        """The answers that have come, with their times."""
        found: list[tuple[float, Seen]] = []
        while True:
            try:
                frame, more, _flags, sender = self.raw.recvmsg(2048, 64)
            except BlockingIOError:
                return found
            if sender[2] != PACKET_OUTGOING and (seen := parse(frame)) and seen.address == self.place.address:
                found.append((_time(more), seen))


def _time(more: list[tuple[int, int, bytes]]) -> float:
    for level, kind, data in more:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) >= 16:
            seconds, nanoseconds = struct.unpack_from("qq", data)
            return float(seconds + nanoseconds / 1e9)
    return time.time()


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Within the block this thread is in a named network namespace; sockets made there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        with open(path, "rb") as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {path}")

    with open("/proc/self/ns/net", "rb") as before:
        if namespace:
            enter(f"/run/netns/{namespace}")
        try:
            yield
        finally:
            if namespace and libc.setns(before.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns back")


def say(*words: object) -> None:
    """Print one line."""
    print(json.dumps(words), flush=True)


def watch(places: list[Place]) -> None:
    """Ask and say, for ever. Raises OSError when a place is not there."""
    eyes = [Eye(place) for place in places]
    waiting, by_number = select.poll(), {eye.raw.fileno(): eye for eye in eyes}
    for number in by_number:
        waiting.register(number, select.POLLIN)
    say("asking")
    asked, due = 0, time.monotonic()
    while True:
        late = time.monotonic() - due
        if late >= 0:
            if late > STALL_SECONDS:
                now = time.time()
                say("stall", now - late, now)
                due += late
            for eye in eyes:
                eye.ask(asked)
            if asked % TICK_EVERY == 0:
                say("tick", time.time(), time.process_time())
            asked, due = asked + 1, due + PING_SECONDS
        for number, _event in waiting.poll(max(0.0, due - time.monotonic()) * 1000):
            for at, seen in by_number[number].look():
                say(seen.kind, at, seen.address, seen.mac)


if __name__ == "__main__":
    with contextlib.suppress(OSError):      # without it the times of the answers are right all the same
        os.nice(NICENESS)
    watch([Place(*each) for each in json.loads(sys.argv[1])])
