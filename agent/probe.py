"""Asks the ping nodes itself, in the moment in which it matters: heartbeat's word on them is up to `deadping` old."""
from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

from agent.announce import checksum

ECHO_REPLY, ECHO_REQUEST = 0, 8  # RFC 792
SOL_RAW, ICMP_FILTER = 255, 1  # linux/socket.h, linux/icmp.h; a bit that is set is a type that is not wanted
ONLY_REPLIES = struct.pack("=I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF)


class Probe:
    """One doubt: its questions, and whose answers come. heartbeat's ping nodes are IPv4 (ha.cf(5))."""

    def __init__(self, addresses: Iterable[str]) -> None:
        """Raises OSError."""
        self.addresses = tuple(addresses)
        self.asked = 0
        self.secret = os.urandom(8)  # else the answer to another program's question would count
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP)
        self.socket.setblocking(False)
        self.socket.setsockopt(SOL_RAW, ICMP_FILTER, ONLY_REPLIES)

    def ask(self) -> list[str]:
        """Each of them once. Returns what went wrong, one line an address."""
        self.asked += 1
        wrong = []
        for each in self.addresses:
            try:
                self.socket.sendto(question(self.asked, self.secret), (each, 0))
            except OSError as error:
                wrong.append(f"{each}: {error.strerror}")
        return wrong

    def heard(self) -> set[str]:
        """Who has answered since the last call."""
        found: set[str] = set()
        while True:
            try:
                packet, (sender, _port) = self.socket.recvfrom(2048)
            except OSError:  # nothing more, or what an earlier question met: read, and thereby gone
                return found
            if sender in self.addresses and answers(packet, self.secret):
                found.add(sender)

    def close(self) -> None:
        """The doubt is over."""
        self.socket.close()


def question(number: int, secret: bytes) -> bytes:
    """An echo request with an identifier out of `secret` (8 bytes), and all of it as its data (RFC 792)."""
    head, rest = struct.pack("!BB", ECHO_REQUEST, 0), secret[:2] + struct.pack("!H", number & 0xFFFF) + secret
    return head + struct.pack("!H", checksum(head + b"\0\0" + rest)) + rest


def answers(packet: bytes, secret: bytes) -> bool:
    """Whether a packet as a raw socket gives it, IP header included (raw(7)), answers such a question."""
    message = packet[(packet[0] & 0xF) * 4:] if packet else b""
    return message[:2] == struct.pack("!BB", ECHO_REPLY, 0) and message[4:6] == secret[:2] and message[8:] == secret
