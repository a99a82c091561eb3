"""Epochs: every takeover has the next number, and where two nodes are active the newer one stays.

The numbers form a ring (serial number arithmetic, RFC 1982): after the last one comes 0, and of two numbers the newer
one is that which is less than half the ring ahead. So no number is the last: a damaged file or message with a huge one
costs nothing, where a plain count would leave no higher number for the next takeover, on either node, for ever.
"""
from __future__ import annotations

RING = 2**53  # JSON readers keep integers below this exactly (RFC 8259, section 6)


def valid(epoch: object) -> bool:
    """Whether a value from outside is an epoch: an integer within the ring, and no boolean."""
    return type(epoch) is int and 0 <= epoch < RING


def newer(one: int, other: int) -> bool:
    """Whether `one` is newer than `other`. For two numbers half a ring apart neither is."""
    return 0 < (one - other) % RING < RING // 2


def newest(one: int, other: int) -> int:
    """The newer of two epochs."""
    return other if newer(other, one) else one


def following(epoch: int) -> int:
    """The epoch of the next takeover."""
    return (epoch + 1) % RING
