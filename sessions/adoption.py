"""What of a state or policy must differ on the other node, and which ones are not copied at all.

The safety of the whole capability is the arithmetic in this file (docs/session-takeover.md, "Numbers"):

- Nothing is sent twice under one number. The copy of an outbound state stands `jump` numbers ahead of the last
  confirmed
  one: more than the other node can have sent since.
- Nothing that the peer sends is refused. The copy of an inbound state is never ahead of the peer.
- No number wraps. Without extended numbers (ESN) a state near 2^32 is not copied: its tunnel renegotiates.

No I/O, no clock: tests try it with made-up numbers.
"""
from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sessions import xfrm
from sessions.xfrm import Counters, Policy, State

# Adopted policies match only packets with this bit in their mark. Where this node does not serve no packet has it
# (sessions/switch.py), so what is adopted catches nothing.
MARK = 0x40000000
MARK_ATTRIBUTE = struct.pack("=II", MARK, MARK)  # struct xfrm_mark: value, mask
# pluto counts its reqids from 16388 up, on both nodes alike (lib/libswan/reqid.c). Adopted ones are of a range that it
# does not reach, or two clients behind one address translation would get each other's packets.
FIRST_REQID, LAST_REQID = 0x40000000, 0x7FFFFFFF
WORSE_PRIORITY = 0x40000000  # added to an adopted policy's priority: the daemon's own policies come first
MIN_JUMP = 1 << 24
NUMBERS, ESN_NUMBERS = 1 << 32, 1 << 64
SMALLEST_FRAME_BITS = 84 * 8  # on Ethernet: 64 bytes, preamble and gap (IEEE 802.3)


@dataclass(frozen=True)
class Rules:
    """What the copies of a site's tunnels follow.

    `addresses`: the virtual IPs, as xfrm_address_t. `jump`: numbers by which outbound states go ahead. `end`: seconds
    after its making at which the kernel itself ends an adopted state.
    """
    addresses: frozenset[bytes]
    jump: int
    end: int


def jump(megabits: float, seconds: float) -> int:
    """How many packets a link of that speed can send in that time, doubled; MIN_JUMP at least."""
    return max(MIN_JUMP, int(2 * megabits * 1e6 * seconds / SMALLEST_FRAME_BITS))


def is_adopted(reqid: int) -> bool:
    """Whether a reqid is of the range for adopted states and policies."""
    return FIRST_REQID <= reqid <= LAST_REQID


class Reqids:
    """Gives each reqid of the other node's daemon one of the adopted range, which nothing else uses.

    The two nodes give out different ones: `parity` is 0 on one and 1 on the other. A reqid that is adopted already
    stays.
    """

    def __init__(self, parity: int, start: int) -> None:
        """`start`: any number that differs from one start to the next, such as the time."""
        self.parity = parity
        self.next = start % (1 << 29)
        self.given: dict[int, int] = {}
        self.used: set[int] = set()

    def adopted(self, reqid: int) -> int:
        """The reqid for the copy."""
        if not reqid or is_adopted(reqid):
            return reqid
        if reqid not in self.given:
            while True:
                self.next = (self.next + 1) % (1 << 29)
                new = FIRST_REQID + 2 * self.next + self.parity
                if new not in self.used:
                    break
            self.given[reqid] = new
            self.used.add(new)
        return self.given[reqid]

    def seen(self, reqids: Iterable[int]) -> None:
        """These are in use: they are not given out."""
        self.used.update(each for each in reqids if is_adopted(each))

    def forget(self) -> None:
        """The other node's daemon has started anew: its reqids mean other tunnels from now on."""
        self.given.clear()


def direction(state: State, addresses: frozenset[bytes]) -> int | None:
    """xfrm.IN or xfrm.OUT for a state of a tunnel that ends on a virtual IP; None for others."""
    if state.id.destination in addresses:
        return xfrm.IN
    return xfrm.OUT if state.source in addresses else None


def refusal(state: State, rules: Rules) -> str:
    """Why a state is not copied; empty when it is."""
    if state.protocol != xfrm.ESP:
        return "it is no ESP state"
    if direction(state, rules.addresses) is None:
        return "it does not end on a virtual IP"
    if not state.keyed:
        return "it has no key yet"
    if state.get(xfrm.OFFLOAD_DEV):
        return "a network card encrypts for it (offload): nobody can tell which numbers it has sent"
    if state.get(xfrm.SEC_CTX) or state.get(xfrm.SA_PCPU):
        return "it has a security context, or belongs to one processor"
    extra = state.get(xfrm.SA_EXTRA_FLAGS)
    if extra and struct.unpack_from("=I", extra)[0] & xfrm.EXTRA_OSEQ_MAY_WRAP:
        return "its numbers may wrap (oseq-may-wrap)"
    if not all(any(key) for key in state.keys):
        return "the kernel does not tell its key (lockdown)"
    counters = state.counters
    if counters is None:
        return "the kernel does not tell its numbers"
    if direction(state, rules.addresses) == xfrm.OUT and not room(counters, extended(state), rules.jump):
        return "its numbers come near the end of their range: it has to renegotiate"
    return ""


def extended(state: State) -> bool:
    """Whether it counts with 64 bits (RFC 4304). The bitmap's format alone does not say so; the flag does."""
    return bool(state.flags & xfrm.STATE_ESN)


def room(counters: Counters, esn: bool, ahead: int) -> bool:
    """Whether an outbound state may be moved ahead: afterwards it must be able to send as many packets again."""
    return counters.out + 2 * ahead < (ESN_NUMBERS if esn else NUMBERS)


def moved(counters: Counters, way: int, rules: Rules) -> Counters:
    """The copy's numbers: an outbound state's are ahead, an inbound state's as they are."""
    return replace(counters, out=counters.out + rules.jump) if way == xfrm.OUT else counters


def copied_state(state: State, rules: Rules, reqid: int) -> State:
    """The state as the other node's kernel takes it. Call refusal() before.

    Without LTIME_VAL the kernel would take it for new: of two outbound states with one reqid it uses the newest.
    """
    way = direction(state, rules.addresses)
    counters = state.counters
    assert way is not None and counters is not None  # refusal() has said so
    left, = struct.unpack_from("=Q", state.head, 136)  # lft.hard_add_expires_seconds; 0 or XFRM_INF: none
    end = min(left, rules.end) if left else rules.end
    new = state.with_head(204, struct.pack("=I", 0)).with_head(208, struct.pack("=I", reqid))
    new = new.with_head(136, struct.pack("=Q", end))
    return new.without(xfrm.LASTUSED).with_attribute(xfrm.LTIME_VAL, state.head[160:192]).with_counters(
        moved(counters, way, rules))


def is_copied(policy: Policy, rules: Rules) -> bool:
    """Whether a policy belongs to a tunnel that ends on a virtual IP and can be copied."""
    return (policy.direction in (xfrm.IN, xfrm.OUT, xfrm.FORWARD) and policy.get(xfrm.MARK) in (b"", MARK_ATTRIBUTE)
            and bool(policy.ends & rules.addresses))


def copied_policy(policy: Policy, reqids: Reqids) -> Policy:
    """The policy as the other node's kernel takes it: effective for marked packets only, after the daemon's own."""
    priority = policy.priority if policy.priority >= WORSE_PRIORITY else policy.priority + WORSE_PRIORITY
    new = policy.with_head(152, struct.pack("=II", priority, 0)).with_reqids(reqids.adopted)
    return new.without(xfrm.LASTUSED).with_attribute(xfrm.MARK, MARK_ATTRIBUTE)
