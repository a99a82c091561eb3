"""The virtual IPs in the kernel, by netlink.

held      on their interface, answered
muted     there, and packets to them vanish: an agent that is not sure
parked    muted and on lo: only sending is left, neighbours get no answer. A node that leaves lets the daemon tell its
          peers from there; one that calls again at once has to reach the other node. The daemon does not see it there.

Written on the socket itself, not with pyroute2: that takes 0.12 s to load, longer than all the rest, and a restarted
agent has no time to spare. Formats: rtnetlink(7), netlink(7), linux/rtnetlink.h, linux/if_addr.h.
"""
from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from agent.settings import Address

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_CACHEINFO, IFA_F_NODAD = 1, 2, 3, 6, 0x02
# Trap: pluto (4.10, 5.2: free_dead_ifaces in iface.c) remembers for good an address that it saw and could not have,
# when it had none to let go of in the same look. Back on its interface that one is there twice: "matches both left lo
# ... and left bond0 ...", so that no connection is anybody's, and nobody gets in until it is restarted. It ignores what
# stands under a name that is no interface's, so a parked address has such a label. (IPv6 has no labels.)
PARKED_LABEL = b"parked\0"
RTA_DST, RTA_OIF, RTA_PRIORITY = 1, 4, 6
RTN_LOCAL, RTN_BLACKHOLE, RT_TABLE_LOCAL, RTPROT_KERNEL, RTPROT_BOOT = 2, 6, 255, 2, 3
RT_SCOPE_NOWHERE = 255  # of a route to delete: any
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
IFLA_IFNAME = 3
FOREVER = 0xFFFFFFFF
NETLINK_HEADER = struct.Struct("=IHHII")


class Step(NamedTuple):
    """One request to the kernel. An error (errno) in `fine` does not count."""
    kind: int
    flags: int
    body: bytes
    what: str
    fine: tuple[int, ...] = ()


class Refused(Exception):
    """The kernel refuses something that is needed. The text says what."""


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3:]


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number, body."""
    while len(data) >= NETLINK_HEADER.size:
        size, kind, _flags, number, _port = NETLINK_HEADER.unpack_from(data)
        if size < NETLINK_HEADER.size:
            return
        yield kind, number, data[NETLINK_HEADER.size:size]
        data = data[(size + 3) & ~3:]


class Addresses:
    """This node's virtual IPs."""

    def __init__(self, wanted: Iterable[Address]) -> None:
        self.wanted = tuple(wanted)
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self.socket.bind((0, 0))
        self.socket.settimeout(1.0)
        self.number = 0

    # What happens in one go

    def hold(self) -> None:
        """All held and answered, whatever there was before. Raises Refused when one can not be had."""
        steps: list[Step] = []
        muted = self.look()[0] == "muted"
        for each in self.wanted:
            if muted and ":" in each.address:
                # Its local route is gone, and comes back only with the address.
                steps.append(self.delete(each, each.interface, each.prefix))
            steps += [self.add(each, each.interface), *self.unmuted(each),
                      self.delete(each, "lo", self.length(each, "lo"))]
        self.run(steps, Refused)

    def mute(self) -> None:
        """Packets to them vanish; they stay where they are."""
        self.run([self.muted(each) for each in self.wanted])
        self.unlocal(lambda each: each.interface)

    def unmute(self) -> None:
        """Ends mute()."""
        self.hold()

    def park(self) -> None:
        """Muted first, then off the interface, without a moment in which they are nowhere."""
        steps: list[Step] = []
        there = self.there()
        for each in self.wanted:
            steps += [self.muted(each), self.add(each, "lo"), *self.gone(each, each.interface, there)]
        self.run(steps)
        self.unlocal(lambda _each: "lo")

    def leave(self) -> None:
        """Nothing of them is left, nor of mute() and park()."""
        steps: list[Step] = []
        there = self.there()
        for each in self.wanted:
            # The blackhole goes last: no packet is answered on the way out.
            steps += [*self.gone(each, each.interface, there), *self.gone(each, "lo", there), *self.unmuted(each)]
        self.run(steps)

    # What is there

    def look(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """State (none, held, muted, parked), addresses held, addresses missing. Partly there counts as held."""
        there = self.there()
        held: list[str] = []
        missing: list[str] = []
        parked = False
        for each in self.wanted:
            here = (each.address, self.index(each.interface)) in there
            (held if here else missing).append(each.address)
            parked = parked or (each.address, self.index("lo")) in there
        state = "parked" if parked else "held" if held else "none"
        if state == "held" and self.blackholes() & set(held):
            state = "muted"
        return state, tuple(held), tuple(missing)

    def there(self) -> dict[tuple[str, int], list[int]]:
        """All addresses with their interface's index: the prefix lengths that each is there with."""
        found: dict[tuple[str, int], list[int]] = {}
        for index, packed, length in self.addresses():
            found.setdefault((ipaddress.ip_address(packed).compressed, index), []).append(length)
        return found

    def addresses(self) -> Iterator[tuple[int, bytes, int]]:
        """Interface index, address and prefix length of all there are."""
        for body in self.dump(RTM_GETADDR, bytes(8), RTM_NEWADDR):
            _family, length, _flags, _scope, index = struct.unpack_from("=BBBBI", body)
            values = dict(attributes(body[8:]))
            # With a peer address IFA_LOCAL is the own one; IPv6 has only IFA_ADDRESS (linux/if_addr.h)
            packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if packed:
                yield index, packed, length

    def blackholes(self) -> set[str]:
        """Addresses that mute() silenced."""
        found: set[str] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self.dump(RTM_GETROUTE, struct.pack("=B11x", family), RTM_NEWROUTE):
                kind, table = body[7], body[4]
                packed = dict(attributes(body[12:])).get(RTA_DST)
                if kind == RTN_BLACKHOLE and table == RT_TABLE_LOCAL and packed:
                    found.add(ipaddress.ip_address(packed).compressed)
        return found

    def carriers(self) -> dict[str, bool]:
        """Interface: up and with carrier."""
        found: dict[str, bool] = {}
        for body in self.dump(RTM_GETLINK, bytes(16), RTM_NEWLINK):
            name, up = link(body)
            found[name] = up
        return found

    # Single steps

    def index(self, interface: str) -> int:
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            return 0

    def add(self, each: Address, interface: str) -> Step:
        packed = ipaddress.ip_address(each.address).packed
        six = len(packed) == 16
        head = struct.pack("=BBBBI", socket.AF_INET6 if six else socket.AF_INET, self.length(each, interface),
                           IFA_F_NODAD if six else 0, 0, self.index(interface))
        body = head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
        if interface == "lo" and not six:
            body += attribute(IFA_LABEL, PARKED_LABEL)
        if six:
            # Not preferred: the node's own traffic never leaves from a virtual address.
            body += attribute(IFA_CACHEINFO, struct.pack("=IIII", 0, FOREVER, 0, 0))
        return Step(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, f"{each.address} on {interface}")

    def gone(self, each: Address, interface: str, there: dict[tuple[str, int], list[int]]) -> list[Step]:
        """Off an interface, with whatever prefix lengths it is there: a person's need not be ours.

        With ours in any case: a dump during which addresses change may lack one.
        """
        lengths = {self.length(each, interface), *there.get((each.address, self.index(interface)), ())}
        return [self.delete(each, interface, length) for length in sorted(lengths)]

    def length(self, each: Address, interface: str) -> int:
        """The prefix length that it has there when we put it there."""
        return ipaddress.ip_address(each.address).max_prefixlen if interface == "lo" else each.prefix

    def delete(self, each: Address, interface: str, length: int) -> Step:
        packed = ipaddress.ip_address(each.address).packed
        head = struct.pack("=BBBBI", socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, length, 0, 0,
                           self.index(interface))
        return Step(RTM_DELADDR, 0, head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed),
                    f"{each.address} off {interface}", (errno.EADDRNOTAVAIL, errno.ENODEV))

    def route(self, each: Address, verb: int, flags: int, kind: int, metric: int, interface: str) -> Step:
        packed = ipaddress.ip_address(each.address).packed
        # Of an IPv6 route to delete the kernel looks at the protocol, and not at the kind.
        protocol = RTPROT_KERNEL if kind == RTN_LOCAL else RTPROT_BOOT
        scope = 0 if verb == RTM_NEWROUTE else RT_SCOPE_NOWHERE
        family = socket.AF_INET6 if len(packed) == 16 else socket.AF_INET
        body = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, RT_TABLE_LOCAL, protocol, scope, kind, 0)
        body += attribute(RTA_DST, packed)
        if metric:
            body += attribute(RTA_PRIORITY, struct.pack("=I", metric))
        if interface:
            body += attribute(RTA_OIF, struct.pack("=I", self.index(interface)))
        return Step(verb, flags, body, f"route of {each.address}", (errno.ESRCH, errno.EEXIST, errno.ENODEV))

    def muted(self, each: Address) -> Step:
        # Of IPv4 routes the one that comes without APPEND is the first. Of IPv6 routes it is not: see unlocal().
        return self.route(each, RTM_NEWROUTE, NLM_F_CREATE, RTN_BLACKHOLE, 1 if ":" in each.address else 0, "")

    def unmuted(self, each: Address) -> list[Step]:
        # More than one, if a hasty agent muted twice
        return [self.route(each, RTM_DELROUTE, 0, RTN_BLACKHOLE, 1 if ":" in each.address else 0, "")] * 2

    def unlocal(self, interface: Callable[[Address], str]) -> None:
        """Takes the kernel's local route of an IPv6 address away, which would come before the blackhole.

        The kernel adds it a moment after the address, on a work queue: so it is tried for 20 ms.
        """
        left = [each for each in self.wanted if ":" in each.address]
        for _ in range(20):
            steps = [self.route(each, RTM_DELROUTE, 0, RTN_LOCAL, 0, interface(each)) for each in left]
            left = [left[number] for number in self.run(steps)]
            if not left:
                return
            time.sleep(0.001)

    # The socket

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        self.number += 1
        head = NETLINK_HEADER.pack(NETLINK_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, self.number, 0)
        return head + body + b"\0" * (-len(body) % 4)

    def run(self, steps: list[Step], strict: type[Exception] | None = None) -> list[int]:
        """All steps with one system call; the answers are read afterwards. Returns which of them were refused.

        With `strict` a refusal that counts raises it.
        """
        if not steps:
            return []
        first = self.number + 1
        self.socket.send(b"".join(self.request(step.kind, step.flags | NLM_F_ACK, step.body) for step in steps))
        wrong: list[str] = []
        refused: list[int] = []
        left = len(steps)
        while left:
            for kind, number, body in messages(self.socket.recv(1 << 17)):
                if kind != NLMSG_ERROR or not first <= number <= self.number:
                    continue
                left -= 1
                error = -struct.unpack_from("=i", body)[0]
                step = steps[number - first]
                if error:
                    refused.append(number - first)
                if error and error not in step.fine:
                    wrong.append(f"{step.what}: {os.strerror(error)}")
        if wrong and strict:
            raise strict("; ".join(wrong))
        return refused

    def dump(self, kind: int, body: bytes, wanted: int) -> Iterator[bytes]:
        self.socket.send(self.request(kind, NLM_F_DUMP, body))
        found: list[bytes] = []
        number, done = self.number, False
        while not done:
            for what, which, data in messages(self.socket.recv(1 << 17)):
                if which == number and what == wanted:
                    found.append(data)
                done = done or which == number and what in (NLMSG_DONE, NLMSG_ERROR)
        return iter(found)


def link(body: bytes) -> tuple[str, bool]:
    """Name and carrier of a link message."""
    flags = struct.unpack_from("=I", body, 8)[0]
    name = dict(attributes(body[16:])).get(IFLA_IFNAME, b"").rstrip(b"\0").decode("ascii", "replace")
    return name, bool(flags & IFF_UP and flags & IFF_LOWER_UP)


class Watch:
    """Tells of links and addresses that change."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                                    socket.NETLINK_ROUTE)
        self.socket.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))

    def read(self, carrier: Callable[[str, bool], None]) -> bool:
        """Calls `carrier` for each link; True when an address came or went, or something was missed."""
        look = False
        while True:
            try:
                data = self.socket.recv(1 << 17)
            except BlockingIOError:
                return look
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                look = True
                continue
            for kind, _number, body in messages(data):
                if kind == RTM_NEWLINK:
                    carrier(*link(body))
                elif kind == RTM_DELLINK:
                    carrier(link(body)[0], False)
                look = look or kind in (RTM_NEWADDR, RTM_DELADDR, RTM_DELLINK)
