"""lab/lacp.py: the frames of a switch."""
from __future__ import annotations

from lab import lacp

SYSTEM = bytes.fromhex("02000000aa01")


def test_a_frame_is_as_long_as_the_standard_says_and_is_understood():
    theirs = bytes(range(15))
    said = lacp.frame(SYSTEM, 7, theirs)
    assert len(said) == 124 and said[:6] == lacp.MULTICAST and said[6:12] == SYSTEM
    ours = lacp.heard(said)
    assert ours is not None and ours[2:8] == SYSTEM and ours[14] == lacp.STATE
    assert said[36:38] == bytes([2, 20]) and said[38:53] == theirs and said[56:58] == bytes([3, 16])
    assert said[72:74] == bytes(2), "the terminator"


def test_anything_else_is_not_heard():
    assert lacp.heard(b"") is None and lacp.heard(bytes(124)) is None
