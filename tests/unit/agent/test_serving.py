"""A node that serves beside another one that serves: who gives way, and what a person is told."""
from __future__ import annotations

import pytest

from agent.decide import GIVE_WAY_SECONDS, Announce, Answer, Command, Peer, Released
from tests.unit.agent.alone import SITE, Node, active, state


def splits(seconds: float, **more: object) -> tuple[Node, list[str]]:
    """This node took over with epoch 8, and hears gw2 say each half second that it is active with 7."""
    node = Node(own=8, highest=8, held="held")
    return node, node.wait(seconds, state("active", 7, **more))


def test_a_node_gives_way_to_one_that_should_and_does_not():
    """gw1 took back what it had given away, since it heard nothing; gw2, which had it, heard gw1. Both served."""
    node, names = splits(GIVE_WAY_SECONDS - 0.2)
    assert node.role == "active" and "Park" not in names
    node.wait(1.1, state("active", 7))
    assert node.machine.public_role() == "standby"
    assert "gw2 stays active, with epoch 7, though this node has 8: it does not hear this node" in node.machine.cause
    assert "Hold" not in node.wait(60, state("active", 7))


def test_a_node_that_took_over_by_force_gives_way_too():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Command("takeover", True, 1))
    names = node.wait(1.2, state("active", 7))
    assert "Hold" in names
    node.wait(GIVE_WAY_SECONDS + 1.0, state("active", 7, hears=False))
    assert node.machine.public_role() == "standby"


def test_a_node_whose_peer_gives_up_in_time_stays():
    node, _names = splits(2.0)
    node.tell(state("standby", 7))
    node.wait(60, state("standby", 7))
    assert node.role == "active"


def test_splits_far_apart_do_not_add_up():
    node, _names = splits(2.0)
    node.tell(Peer("dead"), after=0.5)
    node.wait(10)
    node.tell(Peer("active"))
    node.wait(2.0, state("active", 7))
    assert node.role == "active"


def test_a_person_is_told_whom_the_node_hears():
    node = Node(own=8, highest=8, held="held")
    node.tell(state("active", 7, hears=False))
    assert "this node hears gw2: active, epoch 7, and gw2 does not hear this node" in node.said()
    assert Announce() in node.done
    node = active()
    node.tell(Command("standby", False, 1))
    node.wait(0.5)
    node.tell(Peer("dead"), after=0.1)
    assert "taken back: gw2 is dead" in node.machine.cause


def test_a_node_that_hears_an_old_word_of_the_other_one_while_it_hands_over_takes_the_role_back():
    """Both were active, and the other one gives up in the same moment: somebody must serve."""
    node = Node(own=8, highest=8, held="held")
    node.tell(state("standby", 7))
    node.tell(Command("standby", False, 1))
    node.tell(state("active", 7), after=0.1)
    assert "Hold" in node.wait(1.1, state("standby", 7))


@pytest.mark.parametrize("fence", [True, False])
def test_a_node_that_gives_the_role_to_one_that_is_active_already_lets_it_serve(fence):
    """It waited for ever for a newer epoch, with its addresses silenced, or took them back and made the split anew."""
    node = Node(SITE._replace(fence=fence), own=8, highest=8, held="held")
    node.tell(state("standby", 7))
    node.tell(Command("standby", False, 1))
    assert "Release" in node.wait(1.1, state("active", 7))
    node.tell(Released(), after=0.1)
    assert node.role == "standby" and Answer(1, "") in node.done


def test_where_nodes_are_fenced_a_hung_agent_of_the_other_one_does_not_silence_the_addresses_for_ever():
    node = Node(SITE._replace(fence=True), own=8, highest=8, held="held")
    node.tell(state("standby", 7))
    node.tell(Command("standby", False, 1))
    assert "Hold" not in node.wait(5.5)
    assert "Hold" in node.wait(1.0)
