"""agent/offset.py: the offset of the peer's clock, from messages that take some time to arrive."""
from __future__ import annotations

import pytest

from agent.offset import KEPT_OFFSETS, Offset


def test_the_message_that_took_the_shortest_time_counts() -> None:
    offset = Offset()
    for number, delay in enumerate((0.2, 0.15, 0.01, 0.3)):
        offset.heard({"clock": 1000.0 + number + 5}, 1000.0 + number + delay)
    assert offset.seconds() == pytest.approx(4.99)


def test_a_corrected_clock_is_seen_within_ten_messages() -> None:
    offset = Offset()
    offset.heard({"clock": 1060.0}, 1000.0)
    for number in range(KEPT_OFFSETS):
        offset.heard({"clock": 1001.0 + number}, 1001.0 + number)
    assert offset.seconds() == 0


@pytest.mark.parametrize("message", [
    {}, {"clock": "12"}, {"clock": True}, {"clock": None}, {"clock": float("nan")}, {"clock": float("inf")},
    {"clock": 2**60}, {"clock": 10**400}, None, [], "clock"])
def test_an_agent_that_sends_no_time_leaves_the_offset_unknown(message: object) -> None:
    offset = Offset()
    offset.heard(message, 1000.0)
    assert offset.seconds() is None


def test_the_offset_of_a_silent_peer_is_unknown() -> None:
    offset = Offset()
    offset.heard({"clock": 1001.0}, 1000.0)
    offset.forget()
    assert offset.seconds() is None
