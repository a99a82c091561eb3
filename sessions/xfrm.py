"""IPsec states and policies as the kernel tells and takes them: netlink messages of the family XFRM.

Formats: include/uapi/linux/xfrm.h, for a 64-bit kernel (struct xfrm_usersa_info has 224 bytes, xfrm_userpolicy_info
168). A message is passed on as it came; only the fields that must differ on the other node are changed
(sessions/adoption.py). This file knows where a field lies, and decides nothing.
"""
from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

NEWSA, DELSA, GETSA, NEWPOLICY, DELPOLICY, GETPOLICY = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
EXPIRE, UPDPOLICY, UPDSA = 0x18, 0x19, 0x1A
FLUSHSA, FLUSHPOLICY, NEWAE = 0x1C, 0x1D, 0x1E
# Multicast groups: enum xfrm_nlgroups.
GROUP_EXPIRE, GROUP_SA, GROUP_POLICY, GROUP_AEVENTS = 2, 3, 4, 5
# Attributes: enum xfrm_attr_type_t.
ALG_AUTH, ALG_CRYPT, ENCAP, TMPL, SA, POLICY, SEC_CTX, LTIME_VAL, REPLAY_VAL = 1, 2, 4, 5, 6, 7, 8, 9, 10
REPLAY_THRESH, ETIMER_THRESH, LASTUSED, ALG_AEAD, ALG_AUTH_TRUNC, MARK = 11, 12, 15, 18, 20, 21
REPLAY_ESN_VAL, SA_EXTRA_FLAGS, OFFLOAD_DEV, SA_DIR, SA_PCPU = 23, 24, 28, 33, 35
STATE_NOECN, STATE_ESN = 1, 128  # enum in struct xfrm_usersa_info: flags
EXTRA_OSEQ_MAY_WRAP = 2  # XFRM_SA_XFLAG_OSEQ_MAY_WRAP
IN, OUT, FORWARD = 0, 1, 2  # XFRM_POLICY_IN and so on
ESP = 50

STATE_SIZE, POLICY_SIZE, TEMPLATE_SIZE, STATE_ID_SIZE, POLICY_ID_SIZE, AEVENT_SIZE = 224, 168, 64, 24, 64, 48
SELECTOR_SIZE = 56
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr


class Malformed(ValueError):
    """Bytes that are no message of this kind."""


def attribute(kind: int, data: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute in `data`."""
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4 or at + size > len(data):
            raise Malformed(f"attribute {kind & 0x3FFF} of {size} bytes")
        yield kind & 0x3FFF, data[at + 4:at + size]
        at += (size + 3) & ~3


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, sequence number, port and body of each netlink message in `data`.

    The port of an event is that of the socket whose request led to it; 0 where the kernel itself did.
    """
    at = 0
    while at + 16 <= len(data):
        size, kind, _flags, number, port = HEADER.unpack_from(data, at)
        if size < 16 or at + size > len(data):
            raise Malformed(f"message {kind} of {size} bytes")
        yield kind, number, port, data[at + 16:at + size]
        at += (size + 3) & ~3


def request(kind: int, flags: int, number: int, port: int, body: bytes) -> bytes:
    """One netlink message. NLM_F_REQUEST is added to `flags`.

    Trap: the kernel puts the port that stands in the request into the events that follow from it, not the socket's.
    Without it this process would take its own changes for those of others, and answer them.
    """
    return HEADER.pack(16 + len(body), kind, flags | 1, number, port) + body + b"\0" * (-len(body) % 4)


def address(packed: bytes, family: int) -> str:
    """An xfrm_address_t as text."""
    return socket.inet_ntop(family, packed[:4 if family == socket.AF_INET else 16])


@dataclass(frozen=True)
class Counters:
    """Where the sequence numbers of a state stand: struct xfrm_replay_state_esn, or xfrm_replay_state without `wide`.

    `out`: the last number sent; `into`: the highest number received (64 bits with ESN, else 32). `window`: how many
    numbers are remembered; `seen`: the bitmap of those, as the kernel has it.
    """
    out: int
    into: int
    window: int
    seen: bytes
    wide: bool

    @classmethod
    def parse(cls, kind: int, data: bytes) -> Counters:
        """From the attribute REPLAY_ESN_VAL or REPLAY_VAL. Raises Malformed."""
        if kind == REPLAY_ESN_VAL:
            if len(data) < 24:
                raise Malformed("xfrm_replay_state_esn is cut off")
            words, out, into, out_high, into_high, window = struct.unpack_from("=6I", data)
            if len(data) < 24 + 4 * words:
                raise Malformed("bitmap is cut off")
            return cls(out_high << 32 | out, into_high << 32 | into, window, data[24:24 + 4 * words], True)
        if len(data) < 12:
            raise Malformed("xfrm_replay_state is cut off")
        out, into = struct.unpack_from("=2I", data)
        return cls(out, into, 32, data[8:12], False)

    def attribute(self) -> bytes:
        """The attribute again."""
        if self.wide:
            low = 0xFFFFFFFF
            return attribute(REPLAY_ESN_VAL, struct.pack(
                "=6I", len(self.seen) // 4, self.out & low, self.into & low, self.out >> 32, self.into >> 32,
                self.window) + self.seen)
        return attribute(REPLAY_VAL, struct.pack("=2I", self.out, self.into) + self.seen)


@dataclass(frozen=True)
class StateId:
    """What identifies a state in the kernel. `destination`: an xfrm_address_t, 16 bytes. `spi`: in network order."""
    destination: bytes
    spi: bytes
    family: int
    mark: bytes = b""  # the attribute MARK, where there is one

    def body(self) -> bytes:
        """struct xfrm_usersa_id for a DELSA request."""
        head = self.destination + self.spi + struct.pack("=HBx", self.family, ESP)
        return head + (attribute(MARK, self.mark) if self.mark else b"")

    def __str__(self) -> str:
        return f"{address(self.destination, self.family)} 0x{self.spi.hex()}"


@dataclass(frozen=True)
class Message:
    """A state or a policy: the fixed part of its message, and its attributes in their order."""
    head: bytes
    rest: tuple[tuple[int, bytes], ...]

    def body(self) -> bytes:
        """The body of a NEWSA or NEWPOLICY message."""
        return self.head + b"".join(attribute(kind, data) for kind, data in self.rest)

    def get(self, kind: int) -> bytes:
        """An attribute's value, empty where there is none."""
        return next((data for which, data in self.rest if which == kind), b"")

    def with_head(self, at: int, data: bytes) -> Self:
        """A copy with other bytes in the fixed part."""
        return replace(self, head=self.head[:at] + data + self.head[at + len(data):])

    def with_attribute(self, kind: int, data: bytes) -> Self:
        """A copy with another value of an attribute, added where there was none."""
        rest = tuple((which, data if which == kind else value) for which, value in self.rest)
        return replace(self, rest=rest if any(which == kind for which, _ in rest) else (*rest, (kind, data)))

    def without(self, *kinds: int) -> Self:
        """A copy without these attributes."""
        return replace(self, rest=tuple(each for each in self.rest if each[0] not in kinds))


class State(Message):
    """An IPsec state (SA): NEWSA."""

    @classmethod
    def parse(cls, body: bytes) -> State:
        """From the body of a NEWSA or UPDSA message. Raises Malformed."""
        if len(body) < STATE_SIZE:
            raise Malformed("xfrm_usersa_info is cut off")
        return cls(body[:STATE_SIZE], tuple(attributes(body[STATE_SIZE:])))

    @property
    def id(self) -> StateId:
        return StateId(self.head[56:72], self.head[72:76], self.family, self.get(MARK))

    @property
    def protocol(self) -> int:
        return self.head[76]

    @property
    def source(self) -> bytes:
        return self.head[80:96]

    @property
    def family(self) -> int:
        return int(struct.unpack_from("=H", self.head, 212)[0])

    @property
    def reqid(self) -> int:
        return int(struct.unpack_from("=I", self.head, 208)[0])

    @property
    def flags(self) -> int:
        return self.head[216]

    @property
    def keyed(self) -> bool:
        """Whether it has a key. A state that waits for the other side's answer has none yet."""
        return any(kind in (ALG_AEAD, ALG_CRYPT) for kind, _ in self.rest)

    @property
    def keys(self) -> list[bytes]:
        """The keys' bytes: struct xfrm_algo_aead and xfrm_algo_auth have the key at 72, xfrm_algo at 68."""
        return [data[68 if kind in (ALG_CRYPT, ALG_AUTH) else 72:] for kind, data in self.rest
                if kind in (ALG_AEAD, ALG_CRYPT, ALG_AUTH, ALG_AUTH_TRUNC)]

    def fixed(self) -> tuple[bytes, list[bytes], bytes, int, int]:
        """What does not change while the state exists: its source, keys, encapsulation, reqid, flags."""
        return self.source, self.keys, self.get(ENCAP), self.reqid, self.flags

    @property
    def added(self) -> int:
        """When the kernel got it, seconds since 1970: curlft.add_time."""
        return int(struct.unpack_from("=Q", self.head, 176)[0])

    @property
    def counters(self) -> Counters | None:
        """Its sequence numbers: of REPLAY_ESN_VAL where it has both."""
        for kind in (REPLAY_ESN_VAL, REPLAY_VAL):
            data = self.get(kind)
            if data:
                return Counters.parse(kind, data)
        return None

    def with_counters(self, counters: Counters) -> State:
        """A copy with other sequence numbers."""
        kind = REPLAY_ESN_VAL if counters.wide else REPLAY_VAL
        return self.with_attribute(kind, counters.attribute()[4:4 + (24 if counters.wide else 8) + len(counters.seen)])


@dataclass(frozen=True)
class PolicyId:
    """What identifies a policy in the kernel."""
    selector: bytes
    direction: int
    mark: bytes = b""

    def body(self) -> bytes:
        """struct xfrm_userpolicy_id for a DELPOLICY request."""
        head = self.selector + struct.pack("=IB3x", 0, self.direction)
        return head + (attribute(MARK, self.mark) if self.mark else b"")

    def __str__(self) -> str:
        source, to = networks(self.selector)
        return f"{('in', 'out', 'forward')[self.direction]} {source} to {to}"


def networks(selector: bytes) -> tuple[str, str]:
    """Source and destination network of a struct xfrm_selector."""
    family = struct.unpack_from("=H", selector, 40)[0]
    to, source = selector[42], selector[43]
    family = family or socket.AF_INET
    return f"{address(selector[16:32], family)}/{source}", f"{address(selector[:16], family)}/{to}"


class Policy(Message):
    """An IPsec policy: NEWPOLICY."""

    @classmethod
    def parse(cls, body: bytes) -> Policy:
        """From the body of a NEWPOLICY or UPDPOLICY message. Raises Malformed."""
        if len(body) < POLICY_SIZE:
            raise Malformed("xfrm_userpolicy_info is cut off")
        policy = cls(body[:POLICY_SIZE], tuple(attributes(body[POLICY_SIZE:])))
        if len(policy.get(TMPL)) % TEMPLATE_SIZE:
            raise Malformed("xfrm_user_tmpl is cut off")
        return policy

    @property
    def selector(self) -> bytes:
        return self.head[:SELECTOR_SIZE]

    @property
    def family(self) -> int:
        """That of the outer addresses, from the first template."""
        return int(struct.unpack_from("=H", self.get(TMPL), 24)[0])

    @property
    def priority(self) -> int:
        return int(struct.unpack_from("=I", self.head, 152)[0])

    @property
    def direction(self) -> int:
        return self.head[160]

    @property
    def id(self) -> PolicyId:
        return PolicyId(self.selector, self.direction, self.get(MARK))

    @property
    def templates(self) -> list[bytes]:
        """Each struct xfrm_user_tmpl."""
        data = self.get(TMPL)
        return [data[at:at + TEMPLATE_SIZE] for at in range(0, len(data), TEMPLATE_SIZE)]

    @property
    def ends(self) -> set[bytes]:
        """The outer addresses in its templates, each an xfrm_address_t."""
        return {each for data in self.templates for each in (data[:16], data[28:44])}

    @property
    def reqids(self) -> set[int]:
        """The reqids in its templates."""
        return {struct.unpack_from("=I", data, 44)[0] for data in self.templates}

    def with_reqids(self, other: Callable[[int], int]) -> Policy:
        """A copy whose templates have other reqids."""
        data = b"".join(each[:44] + struct.pack("=I", other(struct.unpack_from("=I", each, 44)[0])) + each[48:]
                        for each in self.templates)
        return self.with_attribute(TMPL, data) if data else self


def counters_of_event(body: bytes) -> tuple[StateId, Counters] | None:
    """The state and its numbers in a NEWAE event (struct xfrm_aevent_id). None where it carries no numbers."""
    if len(body) < AEVENT_SIZE:
        raise Malformed("xfrm_aevent_id is cut off")
    destination, spi = body[:16], body[16:20]
    family, protocol = struct.unpack_from("=HB", body, 20)
    if protocol != ESP:
        return None
    rest = dict(attributes(body[AEVENT_SIZE:]))
    for kind in (REPLAY_ESN_VAL, REPLAY_VAL):
        if kind in rest:
            return StateId(destination, spi, family, rest.get(MARK, b"")), Counters.parse(kind, rest[kind])
    return None


def deleted_state(body: bytes) -> StateId:
    """The state of a DELSA event (struct xfrm_usersa_id)."""
    if len(body) < STATE_ID_SIZE:
        raise Malformed("xfrm_usersa_id is cut off")
    return StateId(body[:16], body[16:20], struct.unpack_from("=H", body, 20)[0],
                   dict(attributes(body[STATE_ID_SIZE:])).get(MARK, b""))


def deleted_policy(body: bytes) -> PolicyId:
    """The policy of a DELPOLICY event (struct xfrm_userpolicy_id)."""
    if len(body) < POLICY_ID_SIZE:
        raise Malformed("xfrm_userpolicy_id is cut off")
    return PolicyId(body[:SELECTOR_SIZE], body[60], dict(attributes(body[POLICY_ID_SIZE:])).get(MARK, b""))


def expired_state(body: bytes) -> StateId | None:
    """The state of an EXPIRE event (struct xfrm_user_expire) that the kernel has deleted; None for a soft limit."""
    if len(body) < STATE_SIZE + 1:
        raise Malformed("xfrm_user_expire is cut off")
    return State(body[:STATE_SIZE], tuple(attributes(body[STATE_SIZE + 8:]))).id if body[STATE_SIZE] else None


def new_counters(identity: StateId, counters: Counters) -> bytes:
    """The body of a NEWAE request that sets a state's numbers."""
    head = identity.destination + identity.spi + struct.pack("=HBx", identity.family, ESP)
    mark = attribute(MARK, identity.mark) if identity.mark else b""
    return head + bytes(16) + struct.pack("=II", 0, 0) + counters.attribute() + mark
