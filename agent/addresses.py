"""The virtual IPs in the kernel, read and changed over netlink.

none      on no interface of this node
held      on their interface; the kernel answers for them
muted     on their interface, but the kernel drops packets to them: the agent is not sure whether it may serve
parked    muted and moved to lo: the node can still send from them, but does not answer neighbours. From there the IPsec
          daemon of a node that gives up the role tells its peers that their tunnels end. A peer that calls again at
          once must reach the other node. The daemon does not see addresses on lo.

This file writes to the netlink socket itself. pyroute2 takes 0.12 s to load, longer than all the rest, and a restarted
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
# Trap: when pluto (4.10, 5.2: free_dead_ifaces in iface.c) sees an address that it can not bind, and has no address to
# let go of in the same look, it remembers that address for good. When the address returns to its interface, pluto has
# it twice ("matches both left lo ... and left bond0 ..."): no connection belongs to this node any more, and nobody gets
# in until pluto is restarted. pluto ignores an address whose label is the name of no interface, so a parked address
# gets such a label. (IPv6 has no labels.)
PARKED_LABEL = b"parked\0"
RTA_DST, RTA_OIF, RTA_PRIORITY = 1, 4, 6
RTN_LOCAL, RTN_BLACKHOLE, RT_TABLE_LOCAL, RTPROT_KERNEL, RTPROT_BOOT = 2, 6, 255, 2, 3
RT_SCOPE_NOWHERE = 255  # in a request to delete a route: any scope
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
IFLA_IFNAME = 3
FOREVER = 0xFFFFFFFF
# For an answer that the kernel has lost. A kernel that is only slow, because another process holds its lock of the
# network interfaces (rtnl_lock in net/core/rtnetlink.c), is waited for: agent/patient.py.
ANSWER_SECONDS = 30.0
NETLINK_HEADER = struct.Struct("=IHHII")


class Step(NamedTuple):
    """One request to the kernel.

    `kind`: the message's type. `what`: for error texts. `fine`: errors (errno) that do not count.
    """
    kind: int
    flags: int
    body: bytes
    what: str
    fine: tuple[int, ...] = ()


class Refused(Exception):
    """The kernel refused a request that the agent needs. The text says which."""


def attribute(kind: int, data: bytes) -> bytes:
    """One netlink attribute with its header, padded to four bytes (struct rtattr, rtnetlink(7))."""
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each netlink attribute in `data`."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3:]


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and body of each netlink message in `data` (struct nlmsghdr, netlink(7))."""
    while len(data) >= NETLINK_HEADER.size:
        size, kind, _flags, number, _port = NETLINK_HEADER.unpack_from(data)
        if size < NETLINK_HEADER.size:
            return
        yield kind, number, data[NETLINK_HEADER.size:size]
        data = data[(size + 3) & ~3:]


class Addresses:
    """This node's virtual IPs: their state in the kernel, and the changes between the states."""

    def __init__(self, wanted: Iterable[Address]) -> None:
        self.wanted = tuple(wanted)
        self.number = 0
        self.socket = self.open()

    def open(self) -> socket.socket:
        """A netlink socket (netlink(7)). Raises OSError."""
        new = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        new.bind((0, 0))
        new.settimeout(ANSWER_SECONDS)
        return new

    # Changes of state

    def hold(self) -> None:
        """All held and answered, whatever their state was. Raises Refused when the kernel does not give one."""
        steps: list[Step] = []
        muted = self.look()[0] == "muted"
        for each in self.wanted:
            if muted and ":" in each.address:
                # mute() has deleted its local route. The kernel makes a new one only when the address is added.
                steps.append(self.delete(each, each.interface, each.prefix))
            steps += [self.add(each, each.interface), *self.unmuted(each),
                      self.delete(each, "lo", self.length(each, "lo"))]
        self.run(steps, Refused)

    def mute(self) -> None:
        """The kernel drops packets to them from now on. They stay on their interface."""
        self.run([self.muted(each) for each in self.wanted])
        self.unlocal(lambda each: each.interface)

    def unmute(self) -> None:
        """Ends mute(): the kernel answers for them again."""
        self.hold()

    def park(self) -> None:
        """Mutes them first, then moves them to lo. At no moment are they on no interface."""
        steps: list[Step] = []
        there = self.there()
        for each in self.wanted:
            steps += [self.muted(each), self.add(each, "lo"), *self.gone(each, each.interface, there)]
        self.run(steps)
        self.unlocal(lambda _each: "lo")

    def leave(self) -> None:
        """Removes them, and all routes and addresses that mute() and park() have made."""
        steps: list[Step] = []
        there = self.there()
        for each in self.wanted:
            # The blackhole route goes last, so that no packet is answered while the addresses are removed.
            steps += [*self.gone(each, each.interface, there), *self.gone(each, "lo", there), *self.unmuted(each)]
        self.run(steps)

    # Reading the kernel's state

    def look(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """State (none, held, muted, parked), addresses held, addresses missing.

        The state is held as soon as one of them is on its interface.
        """
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
        """All addresses of this machine: (address, interface index) to the prefix lengths that it has there."""
        found: dict[tuple[str, int], list[int]] = {}
        for index, packed, length in self.addresses():
            found.setdefault((ipaddress.ip_address(packed).compressed, index), []).append(length)
        return found

    def addresses(self) -> Iterator[tuple[int, bytes, int]]:
        """Interface index, packed address and prefix length of each address of this machine."""
        for body in self.dump(RTM_GETADDR, bytes(8), RTM_NEWADDR):
            _family, length, _flags, _scope, index = struct.unpack_from("=BBBBI", body)
            values = dict(attributes(body[8:]))
            # Where there is a peer address, IFA_LOCAL is this node's. IPv6 has only IFA_ADDRESS (linux/if_addr.h).
            packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if packed:
                yield index, packed, length

    def blackholes(self) -> set[str]:
        """The addresses that have mute()'s blackhole route."""
        found: set[str] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self.dump(RTM_GETROUTE, struct.pack("=B11x", family), RTM_NEWROUTE):
                kind, table = body[7], body[4]
                packed = dict(attributes(body[12:])).get(RTA_DST)
                if kind == RTN_BLACKHOLE and table == RT_TABLE_LOCAL and packed:
                    found.add(ipaddress.ip_address(packed).compressed)
        return found

    def carriers(self) -> dict[str, bool]:
        """Each interface, and whether it is up and has carrier."""
        found: dict[str, bool] = {}
        for body in self.dump(RTM_GETLINK, bytes(16), RTM_NEWLINK):
            name, up = link(body)
            found[name] = up
        return found

    # Requests to the kernel

    def index(self, interface: str) -> int:
        """The interface's number, 0 when there is no such interface."""
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            return 0

    def add(self, each: Address, interface: str) -> Step:
        """The request that puts an address onto an interface."""
        packed = ipaddress.ip_address(each.address).packed
        six = len(packed) == 16
        head = struct.pack("=BBBBI", socket.AF_INET6 if six else socket.AF_INET, self.length(each, interface),
                           IFA_F_NODAD if six else 0, 0, self.index(interface))
        body = head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
        if interface == "lo" and not six:
            body += attribute(IFA_LABEL, PARKED_LABEL)
        if six:
            # A preferred lifetime of 0: the node's own traffic never leaves from a virtual address.
            body += attribute(IFA_CACHEINFO, struct.pack("=IIII", 0, FOREVER, 0, 0))
        return Step(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, f"{each.address} on {interface}")

    def gone(self, each: Address, interface: str, there: dict[tuple[str, int], list[int]]) -> list[Step]:
        """The requests that take an address off an interface, with each prefix length that it has there.

        A person may have added it with another prefix length than the agent. The agent's own is always included: a
        dump misses an address that changes meanwhile.
        """
        lengths = {self.length(each, interface), *there.get((each.address, self.index(interface)), ())}
        return [self.delete(each, interface, length) for length in sorted(lengths)]

    def length(self, each: Address, interface: str) -> int:
        """The prefix length with which the agent adds the address to that interface."""
        return ipaddress.ip_address(each.address).max_prefixlen if interface == "lo" else each.prefix

    def delete(self, each: Address, interface: str, length: int) -> Step:
        """The request that takes an address with this prefix length off an interface."""
        packed = ipaddress.ip_address(each.address).packed
        head = struct.pack("=BBBBI", socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, length, 0, 0,
                           self.index(interface))
        return Step(RTM_DELADDR, 0, head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed),
                    f"{each.address} off {interface}", (errno.EADDRNOTAVAIL, errno.ENODEV))

    def route(self, each: Address, verb: int, flags: int, kind: int, metric: int, interface: str) -> Step:
        """The request that makes or deletes (`verb`) an address's route of a kind in the table `local`."""
        packed = ipaddress.ip_address(each.address).packed
        # To find an IPv6 route that it has to delete, the kernel compares the protocol, and not the kind.
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
        """The request that makes the blackhole route."""
        # An IPv4 route that is added without APPEND comes before the others. An IPv6 route does not: see unlocal().
        return self.route(each, RTM_NEWROUTE, NLM_F_CREATE, RTN_BLACKHOLE, 1 if ":" in each.address else 0, "")

    def unmuted(self, each: Address) -> list[Step]:
        """The requests that delete the blackhole route: two, in case an agent has muted twice."""
        return [self.route(each, RTM_DELROUTE, 0, RTN_BLACKHOLE, 1 if ":" in each.address else 0, "")] * 2

    def unlocal(self, interface: Callable[[Address], str]) -> None:
        """Deletes the kernel's local route of each IPv6 address: it would come before the blackhole route.

        The kernel adds that route on a work queue, a moment after the address. So this tries for 20 ms.
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
        """One netlink message with the next sequence number."""
        self.number += 1
        head = NETLINK_HEADER.pack(NETLINK_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, self.number, 0)
        return head + body + b"\0" * (-len(body) % 4)

    def run(self, steps: list[Step], strict: type[Exception] | None = None) -> list[int]:
        """Sends all steps with one system call, then reads the answers. Returns the numbers of the refused steps.

        Raises `strict`, where it is given, for a refusal that counts.
        """
        if not steps:
            return []
        first = self.number + 1
        self.send(b"".join(self.request(step.kind, step.flags | NLM_F_ACK, step.body) for step in steps))
        wrong: list[str] = []
        refused: list[int] = []
        left = len(steps)
        while left:
            for kind, number, body in messages(self.receive()):
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
        """Asks the kernel for all objects of a kind. The bodies of its messages of the type `wanted`."""
        self.send(self.request(kind, NLM_F_DUMP, body))
        found: list[bytes] = []
        number, done = self.number, False
        while not done:
            for what, which, data in messages(self.receive()):
                if which != number:
                    continue  # an answer to an earlier question
                if what == wanted:
                    found.append(data)
                elif what in (NLMSG_DONE, NLMSG_ERROR):
                    done = True
                    # Both carry an error code, below zero (struct nlmsgerr; netlink_dump_done in af_netlink.c). Without
                    # this look a refusal would mean that there is nothing.
                    error = -struct.unpack_from("=i", data)[0] if len(data) >= 4 else 0
                    if error > 0:
                        raise OSError(error, os.strerror(error))
        return iter(found)

    def send(self, data: bytes) -> None:
        """Sends requests to the kernel. Raises OSError."""
        try:
            self.socket.send(data)
        except OSError:
            self.anew()
            raise

    def receive(self) -> bytes:
        """The kernel's next answers. Raises OSError."""
        try:
            return self.socket.recv(1 << 17)
        except OSError:
            self.anew()
            raise

    def anew(self) -> None:
        """Replaces the socket: it may hold half of an answer, and refuses a list (EBUSY) before all of it is read."""
        self.socket.close()
        self.socket = self.open()


def link(body: bytes) -> tuple[str, bool]:
    """A link message's interface name, and whether the interface is up and has carrier."""
    flags = struct.unpack_from("=I", body, 8)[0]
    name = dict(attributes(body[16:])).get(IFLA_IFNAME, b"").rstrip(b"\0").decode("ascii", "replace")
    return name, bool(flags & IFF_UP and flags & IFF_LOWER_UP)


class Watch:
    """Reports changes of links and addresses."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                                    socket.NETLINK_ROUTE)
        self.socket.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))

    def read(self, carrier: Callable[[str, bool], None]) -> bool:
        """Calls `carrier(name, up)` for each changed link. True when an address came or went, or a report was lost."""
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
