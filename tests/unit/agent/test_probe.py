"""Questions to ping nodes, over the loopback of this machine."""
from __future__ import annotations

import select
import time

import pytest

from agent import probe

SECRET = b"\x12\x34abcdef"
# Recorded: the loopback's answer to question(7, SECRET) as a raw socket gives it, 127.0.0.1
REPLY = bytes.fromhex("450000248d3900004001ef9d7f0000017f0000010000b163123400071234616263646566")


def test_a_question_is_an_echo_request_with_a_checksum_that_is_right():
    packet = probe.question(7, SECRET)
    assert packet[:2] == b"\x08\0" and packet[4:8] == SECRET[:2] + b"\x00\x07" and packet[8:] == SECRET
    assert probe.checksum(packet) == 0


@pytest.mark.parametrize(("packet", "yes"), [
    (REPLY, True),
    (REPLY[:20] + b"\x08" + REPLY[21:], False),  # a question
    (REPLY[:-1], False), (REPLY[:28] + b"12345678", False), (REPLY[:24] + b"zz" + REPLY[26:], False),
    (b"\x46" + REPLY[1:20] + b"\x01\x01\x01\x00" + REPLY[20:], True),  # with an IP option
    (b"", False), (b"\x45", False), (b"\x4f" * 30, False),
])
def test_only_the_answer_to_its_own_question_counts(packet, yes):
    assert probe.answers(packet, SECRET) is yes


@pytest.fixture
def doubt():
    try:
        made = probe.Probe(["127.0.0.1", "127.0.0.2"])
    except PermissionError:
        pytest.skip("raw sockets are root's")
    yield made
    made.close()


def test_only_nodes_that_answer_are_heard(doubt):
    other = probe.Probe(["127.0.0.1", "127.0.0.3"])
    assert (other.ask(), doubt.ask()) == ([], [])
    heard, until = set(), time.monotonic() + 5
    while heard != {"127.0.0.1", "127.0.0.2"} and time.monotonic() < until:
        select.select([doubt.socket], [], [], 0.1)
        heard |= doubt.heard()
    assert heard == {"127.0.0.1", "127.0.0.2"}
    assert doubt.heard() == set()
    other.close()


def test_it_says_where_nothing_can_be_sent(doubt):
    # lo's broadcast address is refused without SO_BROADCAST (ip(7)), on a host without any other route, too
    doubt.addresses = ("127.255.255.255", "127.0.0.1")
    assert doubt.ask() == ["127.255.255.255: Permission denied"]
