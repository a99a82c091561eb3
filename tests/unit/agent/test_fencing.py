"""A dead peer is fenced before its addresses are taken."""
from __future__ import annotations

import pytest

from agent.decide import Command, Connected, Fenced, Gap, Peer, Ping, Released, Terminate
from tests.unit.agent.alone import SITE, Node, state


def test_fencing_comes_before_the_addresses():
    node = Node(SITE._replace(fence=True))
    node.tell(state("active", 7))
    assert node.tell(Peer("dead")) == ["Fence", "Send"]
    assert "Hold" not in node.tell(Fenced(False, "took longer than 10 s"))
    assert "could not be fenced" in node.said()
    assert node.wait(9.5) .count("Fence") == 0
    assert node.wait(1.0).count("Fence") == 1
    assert node.tell(Fenced(True, ""))[0] == "Hold"


def test_fencing_is_given_up_when_the_peer_is_back():
    node = Node(SITE._replace(fence=True))
    node.tell(Peer("dead"))
    node.tell(Peer("active"))
    assert node.role == "standby"
    assert "Hold" not in node.tell(Fenced(True, ""))


FENCED = SITE._replace(fence=True)


def fencing() -> Node:
    """A standby that has its dead peer fenced."""
    node = Node(FENCED)
    node.tell(state("active", 7))
    assert "Fence" in node.tell(Peer("dead"))
    return node


@pytest.mark.parametrize("sign", [
    Peer("active"), state("active", 7), state("transition", 7, kind="yield"), Terminate(), Connected(False)])
def test_a_fence_that_runs_is_called_off_once_the_peer_lives_or_nobody_knows(sign):
    """A healthy node was powered off: the command went on, and its end was forgotten."""
    node = fencing()
    names = node.tell(sign, after=1.0)
    assert names.count("CallOff") == 1 and node.role != "fencing"


def test_a_fence_that_was_called_off_leaves_nothing_behind():
    node = fencing()
    node.tell(Peer("active"), state("active", 7), after=1.0)
    node.tell(Fenced(False, "killed"), after=0.1)
    assert "could not be fenced" not in node.said()
    # dead again: it is fenced at once, not ten seconds later
    node.wait(5, state("active", 7))
    assert "Fence" in node.tell(Peer("dead"))


def test_no_second_fence_runs_beside_one_that_was_called_off_a_moment_ago():
    node = fencing()
    node.tell(Peer("active"), after=1.0)
    assert "Fence" not in node.tell(Peer("dead"), after=0.5)
    assert "Fence" in node.tell(Fenced(False, "killed"), after=0.1)


def test_a_fence_that_could_not_be_called_off_in_time_counts_when_the_peer_falls_silent():
    node = fencing()
    node.tell(Peer("active"), state("active", 7), after=1.0)
    assert "Hold" not in node.tell(Fenced(True, ""), after=0.2)
    assert "has been switched off all the same" in node.said()
    names = node.tell(Peer("dead"), after=1.0)
    assert "Hold" in names and "Fence" not in names


def test_a_node_that_has_booted_since_it_was_fenced_is_fenced_again():
    node = fencing()
    node.tell(Fenced(True, ""), after=1.0)
    assert node.role == "active"
    node.tell(Peer("active"), state("standby", 7), after=60.0)
    node.tell(Command("standby", False, 1), after=1.0)
    node.tell(state("active", 9), after=0.1)
    node.tell(Released(), after=0.1)
    assert node.role == "standby"
    assert "Fence" in node.tell(Peer("dead"), after=60.0)


def test_a_peer_that_runs_long_after_a_fence_is_fenced_again():
    """The command said that the peer is off, and it was wrong."""
    node = fencing()
    node.tell(Peer("active"), after=0.5)
    node.tell(Fenced(True, ""), after=0.1)
    node.wait(10, state("active", 7))
    assert "Fence" in node.tell(Peer("dead"))


def test_a_node_that_gave_the_role_away_takes_it_again_without_a_second_fence():
    node = fencing()
    node.tell(Fenced(True, ""), after=1.0)
    node.tell(*(Ping(each, False) for each in SITE.ping_nodes), after=1.0)
    assert node.role == "parting"
    node.tell(*(Ping(each, True) for each in SITE.ping_nodes), Released(), after=0.5)
    names = node.wait(2.5)
    assert "Hold" in names and "Fence" not in names


def test_after_a_standstill_a_fence_that_succeeded_is_used_only_once_the_peer_could_be_heard():
    node = fencing()
    assert "Hold" not in node.tell(Gap(4.0), Fenced(True, ""), after=4.0)
    names = node.wait(1.2)
    assert "Hold" in names and "Fence" not in names


def test_a_node_that_has_yielded_to_a_peer_that_dies_fences_it_before_it_serves_again():
    """The peer may have taken over, and be alive: only what was heard of it is missing."""
    node = Node(FENCED, own=4, highest=4, held="held")
    node.tell(state())
    node.tell(Command("standby", False, 1))
    assert "Hold" not in node.wait(1.2), "nothing was heard of the peer since it was asked to take over"
    names = node.tell(Peer("dead"), after=0.1) + node.tell(Released(), after=0.1)
    assert "Hold" not in names and "Fence" in names + node.wait(0.2)
    assert "Hold" in node.tell(Fenced(True, ""), after=1.0)
