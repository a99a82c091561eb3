"""Epochs: no value that a file or a message may hold keeps two nodes from agreeing again."""
from __future__ import annotations

import pytest

from agent import epochs
from agent.decide import Keep, Peer, Received, Released
from tests.unit.agent.alone import SITE, Node, state

LAST = 2**53 - 1


def short(value: object) -> str:
    """A test's name for a value: not hundreds of digits."""
    return repr(value)[:20]


@pytest.mark.parametrize("poison", [LAST, LAST - 1, 2**52, 2**52 + 7, 2**52 + 8, 2**51, 10**12, 1000])
def test_one_message_with_a_huge_epoch_does_not_keep_a_pair_from_agreeing(poison):
    """The next takeover had the number 2^53, which the other node dropped as no count: both stayed active for ever."""
    one = Node(own=7, highest=7, held="held")
    other = Node(SITE._replace(node="gw2", peer="gw1", preferred=False), own=6, highest=7)
    other.tell(state("active", 7))
    other.tell(state("active", poison))
    other.tell(state("active", 7))
    # each serves without hearing the other one; then they meet, and the one that took over later stays
    other.tell(Peer("dead"))
    assert other.role == "active"
    other.tell(Peer("active"))
    for _ in range(2):
        for sender, receiver in ((other, one), (one, other)):
            sender.wait(1.0)
            for message in sender.sent("state")[-1:]:
                receiver.tell(Received(message))
        if one.role == "parting":
            one.tell(Released())
    assert (one.role, other.role) == ("standby", "active")
    assert all(epochs.valid(node.machine.highest) for node in (one, other))


def test_a_huge_epoch_is_not_kept():
    node = Node(own=7, highest=7)
    node.tell(state("active", LAST))
    assert not [each for each in node.done if isinstance(each, Keep)] and node.machine.highest == 7


@pytest.mark.parametrize("highest", [LAST, LAST - 1])
def test_after_the_last_epoch_comes_one_that_the_other_node_takes_for_newer(highest):
    node = Node(own=highest, highest=highest)
    node.tell(state("active", highest))
    node.tell(Peer("dead"))
    node.tell(Peer("active"))
    node.tell(Peer("dead"))
    mine = node.machine.epoch
    assert epochs.valid(mine) and epochs.newer(mine, highest)
    other = Node(SITE._replace(node="gw2", peer="gw1", preferred=False), own=highest, highest=highest, held="held")
    other.tell(state("active", mine))
    assert other.machine.public_role() == "standby"


@pytest.mark.parametrize("epoch", [
    -1, True, False, 7.0, float("nan"), float("inf"), "7", None, [7], 2**53, 2**60, 10**400, -10**400], ids=short)
def test_what_is_no_epoch_is_dropped(epoch):
    node = Node(own=7, highest=7, held="held")
    node.tell(state("standby", 7))
    before = node.machine.state
    node.tell(state("active", epoch))
    assert node.machine.state == before and node.machine.highest == 7 and node.role == "active"
    assert "dropped" in node.said()


@pytest.mark.parametrize(("key", "value"), [
    (key, value)
    for key in ("pings", "stall", "ask", "re", "at", "echo", "ago", "request", "answers", "within", "highest")
    for value in (-1, True, "1", None, [], 10**400, -10**400, float("nan"), float("inf"), 1e300)], ids=short)
def test_no_value_of_a_message_raises_anything(key, value):
    node = Node(own=7, highest=7)
    node.tell(state("active", 7))
    node.tell(Received(state("transition", 7, kind="yield").message | {key: value}))
    node.wait(1.0)


def test_one_ping_node_too_many_is_believed_and_a_million_are_not():
    node = Node(own=7, highest=7, held="held")
    node.tell(state("standby", 7, pings=2**52))
    assert "dropped" in node.said() and node.machine.state is None


@pytest.mark.parametrize(("one", "other"), [(1, 0), (8, 7), (0, LAST), (5, LAST - 3), (2**52 - 1, 0), (0, 2**52 + 1)])
def test_newer(one, other):
    assert epochs.newer(one, other) and not epochs.newer(other, one) and epochs.newest(other, one) == one
