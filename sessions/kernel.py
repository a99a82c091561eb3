"""The kernel's XFRM socket: events as they happen, dumps, and requests in batches."""
from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sessions import xfrm

NETLINK_XFRM = 6
ADD_MEMBERSHIP, SOL_NETLINK = 1, 270  # netlink(7)
ACK, DUMP, REPLACE, CREATE = 0x4, 0x300, 0x100, 0x400
ERROR, DONE = 2, 3
EVENT_BUFFER_BYTES = 16 << 20  # some 20,000 events
BATCH_BYTES = 48 << 10
ANSWER_SECONDS = 5.0
# How often the kernel tells where a state's numbers stand: after so many packets, or when so much time has passed and
# they moved. Units: packets, 100 ms (net/core sysctls in Documentation/networking/xfrm_sync.rst).
TELL_AFTER_PACKETS, TELL_AFTER_100MS = 1 << 20, 3
TELL_AFTER_JIFFIES = 100  # for a state that exists: 1 s, 0.4 s or 0.1 s, as the kernel's HZ is 100, 250 or 1000
SYSCTL = Path("/proc/sys/net/core")


class Event(NamedTuple):
    """`port`: that of the socket whose request led to it, 0 for the kernel itself."""
    kind: int
    port: int
    body: bytes


class Request(NamedTuple):
    """One change. `what`: for error texts. `fine`: errors (errno) that do not count."""
    kind: int
    flags: int
    body: bytes
    what: str
    fine: tuple[int, ...] = ()


class Lost(Exception):
    """The kernel had more events than the socket holds: some are lost, and a dump has to tell."""


def open_socket() -> socket.socket:
    """An XFRM socket. Raises OSError."""
    new = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM)
    new.bind((0, 0))
    new.settimeout(ANSWER_SECONDS)
    return new


def tell_often(folder: Path = SYSCTL) -> None:
    """Makes the kernel tell the numbers of states that are made from now on. Raises OSError."""
    (folder / "xfrm_aevent_rseqth").write_text(f"{TELL_AFTER_PACKETS}\n")
    (folder / "xfrm_aevent_etime").write_text(f"{TELL_AFTER_100MS}\n")


def tell_often_of(state: xfrm.State) -> Request:
    """The same for a state that exists. Trap: here the kernel takes the time in jiffies, not in units of 100 ms."""
    identity = state.id
    body = xfrm.new_counters(identity, xfrm.Counters(0, 0, 0, b"", True))[:xfrm.AEVENT_SIZE]
    body += xfrm.attribute(xfrm.REPLAY_THRESH, struct.pack("=I", TELL_AFTER_PACKETS))
    body += xfrm.attribute(xfrm.ETIMER_THRESH, struct.pack("=I", TELL_AFTER_JIFFIES))
    if identity.mark:
        body += xfrm.attribute(xfrm.MARK, identity.mark)
    return Request(xfrm.NEWAE, REPLACE, body, f"numbers of {identity}", (errno.ESRCH, errno.EINVAL))


class Events:
    """Everything that happens to states and policies, whoever does it."""

    def __init__(self) -> None:
        self.socket = open_socket()
        self.socket.setblocking(False)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, 33, EVENT_BUFFER_BYTES)  # SO_RCVBUFFORCE, socket(7)
        except OSError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EVENT_BUFFER_BYTES)
        for group in (xfrm.GROUP_EXPIRE, xfrm.GROUP_SA, xfrm.GROUP_POLICY, xfrm.GROUP_AEVENTS):
            self.socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self, most: int = 1000) -> list[Event]:
        """What has happened since the last call, some `most` events at once. Raises Lost, and OSError."""
        found: list[Event] = []
        while len(found) < most:
            try:
                data = self.socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise Lost from None
            found += [Event(kind, port, body) for kind, _number, port, body in xfrm.messages(data)]
        return found


class Kernel:
    """Dumps and changes."""

    def __init__(self) -> None:
        self.socket = open_socket()
        # A dump's messages are as large as the reader's buffer allows (netlink_dump in net/netlink/af_netlink.c).
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.port = self.socket.getsockname()[0]
        self.number = 0

    def states(self) -> list[xfrm.State]:
        """All states. Raises OSError."""
        return [xfrm.State.parse(body) for body in self.dump(xfrm.GETSA, b"", xfrm.NEWSA)]

    def policies(self) -> list[xfrm.Policy]:
        """All policies but those of sockets. Raises OSError."""
        return [xfrm.Policy.parse(body) for body in self.dump(xfrm.GETPOLICY, bytes(xfrm.POLICY_ID_SIZE),
                                                              xfrm.NEWPOLICY)]

    def dump(self, kind: int, body: bytes, wanted: int) -> Iterator[bytes]:
        """The bodies of all objects of a kind."""
        self.number += 1
        self.socket.send(xfrm.request(kind, DUMP, self.number, self.port, body))
        while True:
            for which, number, _port, data in xfrm.messages(self.socket.recv(1 << 18)):
                if number != self.number:
                    continue
                if which == DONE:
                    return
                if which == ERROR:
                    code = -struct.unpack_from("=i", data)[0]
                    raise OSError(code, os.strerror(code))
                if which == wanted:
                    yield data

    def change(self, requests: Iterable[Request]) -> list[tuple[Request, int]]:
        """Makes changes, in their order, many at a time. Returns those that the kernel refused, with the errno."""
        refused: list[tuple[Request, int]] = []
        batch: list[Request] = []
        size = 0
        for each in requests:
            batch.append(each)
            size += len(each.body) + 20
            if size >= BATCH_BYTES or len(batch) >= 64:
                refused += self.batch(batch)
                batch, size = [], 0
        return refused + self.batch(batch)

    def batch(self, batch: Sequence[Request]) -> list[tuple[Request, int]]:
        """One system call for all of them, then their answers."""
        if not batch:
            return []
        first = self.number + 1
        self.socket.send(b"".join(xfrm.request(each.kind, each.flags | ACK, first + at, self.port, each.body)
                                  for at, each in enumerate(batch)))
        self.number += len(batch)
        refused: list[tuple[Request, int]] = []
        left = len(batch)
        while left:
            for kind, number, _port, data in xfrm.messages(self.socket.recv(1 << 18)):
                if kind != ERROR or not first <= number <= self.number:
                    continue
                left -= 1
                code = -struct.unpack_from("=i", data)[0]
                each = batch[number - first]
                if code and code not in each.fine:
                    refused.append((each, code))
        return refused


def add_state(state: xfrm.State) -> Request:
    """The request that makes a state."""
    return Request(xfrm.NEWSA, CREATE, state.body(), f"state {state.id}")


def delete_state(identity: xfrm.StateId) -> Request:
    """The request that ends a state, if it is there."""
    return Request(xfrm.DELSA, 0, identity.body(), f"state {identity}", (errno.ESRCH,))


def set_policy(policy: xfrm.Policy) -> Request:
    """The request that makes or replaces a policy."""
    return Request(xfrm.UPDPOLICY, CREATE | REPLACE, policy.body(), f"policy {policy.id}")


def delete_policy(identity: xfrm.PolicyId) -> Request:
    """The request that ends a policy, if it is there."""
    return Request(xfrm.DELPOLICY, 0, identity.body(), f"policy {identity}", (errno.ENOENT,))


def set_counters(identity: xfrm.StateId, counters: xfrm.Counters) -> Request:
    """The request that sets a state's numbers."""
    return Request(xfrm.NEWAE, REPLACE, xfrm.new_counters(identity, counters), f"numbers of {identity}")
