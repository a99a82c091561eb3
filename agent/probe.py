"""The agent's own questions to the ping nodes before a takeover: heartbeat's word on them is up to `deadping` old."""
from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

from agent.announce import checksum

ECHO_REPLY, ECHO_REQUEST = 0, 8  # RFC 792
SOL_RAW, ICMP_FILTER = 255, 1  # linux/socket.h, linux/icmp.h; a set bit hides that type
ONLY_REPLIES = struct.pack("=I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF)


class Probe:
    """One series of questions to the ping nodes, and their answers. heartbeat's ping nodes are IPv4 (ha.cf(5))."""

    def __init__(self, addresses: Iterable[str]) -> None:
        """Opens the socket. Raises OSError."""
        self.addresses = tuple(addresses)
        self.asked = 0
        self.secret = os.urandom(8)  # tells the answers to this agent's questions from those to another program
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP)
        self.socket.setblocking(False)
        self.socket.setsockopt(SOL_RAW, ICMP_FILTER, ONLY_REPLIES)

    def ask(self) -> list[str]:
        """Asks each ping node once. Returns what went wrong, one line for each address."""
        self.asked += 1
        wrong = []
        for each in self.addresses:
            try:
                self.socket.sendto(question(self.asked, self.secret), (each, 0))
            except OSError as error:
                wrong.append(f"{each}: {error.strerror}")
        return wrong

    def heard(self) -> set[str]:
        """The ping nodes that have answered since the last call."""
        found: set[str] = set()
        while True:
            try:
                packet, (sender, _port) = self.socket.recvfrom(2048)
            except OSError:  # no more answers, or an error from an earlier question, which is cleared by reading it
                return found
            if sender in self.addresses and answers(packet, self.secret):
                found.add(sender)

    def close(self) -> None:
        """Ends the series: the answer is known, or does not matter any more."""
        self.socket.close()


def question(number: int, secret: bytes) -> bytes:
    """An ICMP echo request (RFC 792). Its identifier is the start of `secret` (8 bytes), its data all of `secret`."""
    head, rest = struct.pack("!BB", ECHO_REQUEST, 0), secret[:2] + struct.pack("!H", number & 0xFFFF) + secret
    return head + struct.pack("!H", checksum(head + b"\0\0" + rest)) + rest


def answers(packet: bytes, secret: bytes) -> bool:
    """Whether a packet answers such a question. A raw socket gives it with its IP header (raw(7))."""
    message = packet[(packet[0] & 0xF) * 4:] if packet else b""
    return message[:2] == struct.pack("!BB", ECHO_REPLY, 0) and message[4:6] == secret[:2] and message[8:] == secret
