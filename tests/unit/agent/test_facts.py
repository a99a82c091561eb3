"""What a node observes: interfaces that were recreated under heartbeat, and whether it hears anybody at all."""
from __future__ import annotations

from typing import Any

import pytest

from agent.decide import Deaf, Gap, Peer, PeerAgent, Ping, Probe, Reached, Site, Trust
from tests.unit.agent.alone import SITE, Node, active, state


@pytest.mark.parametrize("together", [True, False])
def test_cut_off_node_does_not_take_over(together):
    node = Node()
    node.tell(state("active", 7))
    lost = [Ping("192.0.2.1", False), Ping("192.0.2.2", False)]
    if together:
        node.tell(*lost, Peer("dead"))
        assert node.role == "standby" and "cut off" in node.said()
    else:  # heartbeat reports in the other order, and a ping node answered just before it fell silent: step back
        node.tell(Peer("dead"))
        assert node.role == "active"
        assert "Park" in node.tell(*lost, after=0.5)
    assert "Hold" not in node.wait(20)
    # It hears again, and the ping node first: it may hear the other node next.
    assert "Hold" not in node.tell(Ping("192.0.2.2", True))
    assert "Hold" not in node.wait(1.2)
    assert "Hold" in node.wait(0.1)


def test_ping_nodes_silent_long_before_do_not_prevent_a_takeover():
    """Otherwise a ping node that somebody switched off would prevent a failover."""
    node = Node()
    node.tell(state("active", 7))
    node.tell(Ping("192.0.2.1", False), Ping("192.0.2.2", False))
    node.wait(60)
    assert "Hold" in node.tell(Peer("dead"))
    assert node.role == "active" and "Leave" not in node.wait(5)


def deaf(site: Site = SITE) -> Node:
    """heartbeat has just told this standby that the active node is dead, and the standby hears nobody itself."""
    node = Node(site)
    node.tell(state("active", 7))
    node.hears = False
    node.tell(Peer("dead"))
    return node


@pytest.mark.parametrize("fence", [False, True])
def test_a_node_that_hears_nobody_neither_takes_over_nor_fences_in_the_moment_before_heartbeat_says_so(fence):
    """A standby that went deaf took the role with the higher epoch, and both nodes were active for a moment."""
    node = deaf(SITE._replace(fence=fence))
    assert Probe() in node.done
    assert not {"Hold", "Fence", "Send"} & set(node.wait(0.9))
    assert node.done.count(Probe()) > 4
    node.tell(Ping("192.0.2.1", False), Ping("192.0.2.2", False))
    assert not {"Hold", "Fence"} & set(node.wait(20))
    assert Probe() not in node.done
    # and back
    node.tell(Peer("active"), state("active", 7))
    assert Trust() in node.done
    assert node.role == "standby" and node.machine.epoch == 0


def test_one_ping_node_that_answers_proves_that_the_node_hears():
    node = deaf()
    assert "Hold" not in node.wait(0.1)
    assert node.tell(Reached("192.0.2.77")) == []  # no ping node of this site
    assert node.tell(Reached("192.0.2.2"))[0] == "Hold"
    assert Trust() in node.done


def test_a_node_that_was_deaf_for_a_moment_gives_the_other_one_the_time_to_be_heard():
    node = deaf()
    assert "Hold" not in node.wait(0.3)
    assert "Hold" not in node.tell(Reached("192.0.2.1")) and Trust() in node.done
    node.hears = True
    assert "Hold" not in node.wait(1.2)
    assert "Hold" in node.wait(0.1)  # it did not come back: dead


def test_an_answer_of_before_the_silence_proves_nothing():
    node = Node()
    node.tell(state("active", 7))
    node.hears = False
    node.tell(Reached("192.0.2.1"))
    node.tell(Peer("dead"), after=0.05)
    assert "Hold" not in node.wait(0.9)


def test_heartbeat_is_believed_where_it_hears_ping_nodes_that_answer_only_heartbeat():
    """Otherwise a router that answers few questions would prevent a failover."""
    node = deaf()
    assert "Hold" not in node.wait(1.9)
    assert "Hold" in node.wait(0.2) and "it is believed" in node.said()


def test_an_interrupted_series_of_questions_starts_again():
    node = deaf()
    node.tell(Gap(5.0), after=5.0)
    assert "Hold" not in node.wait(2.9)  # careful for a second, then deadping, in which heartbeat would notice
    assert "Hold" in node.wait(0.3)




# Interfaces that were recreated under heartbeat

ACTIVE = state("active", 1)
BOTH = ("bond0", "bond1")


def looks(node: Node, event: Deaf, times: int, *more: Any) -> list[str]:
    """The worker looks once a second."""
    found = []
    for _ in range(times):
        found += node.tell(*more, event, after=1.0)
    return found


@pytest.mark.parametrize("role", ["standby", "active"])
def test_a_deaf_path_is_opened_again_when_its_interface_is_back_and_left_alone(role):
    node = active() if role == "active" else Node()
    peer = state() if role == "active" else ACTIVE
    assert "Reopen" not in looks(node, Deaf(("bond0",), there=False), 10, peer)
    assert looks(node, Deaf(("bond0",)), 4, peer).count("Reopen") == 1
    assert "Reopen" not in looks(node, Deaf(), 10, peer) and node.role == role


def test_a_path_that_stays_deaf_is_opened_again():
    node = Node()
    assert looks(node, Deaf(("bond0",)), 9, ACTIVE).count("Reopen") == 4


def test_a_deaf_standby_does_not_take_over():
    node = Node()
    node.tell(ACTIVE, Deaf(BOTH, True, False))
    node.tell(Peer("dead"), after=1.2)
    assert "Hold" not in node.wait(10.0)
    assert "heartbeat hears nothing: bond0, bond1" in node.machine.not_able()
    assert looks(node, Deaf(BOTH, True), 4).count("Reopen") == 1
    node.tell(Deaf())
    assert "Hold" not in node.wait(1.5), "the first packet is still on the way"
    assert "Hold" not in node.tell(Peer("active"), PeerAgent(True), ACTIVE)
    assert "Hold" not in node.wait(10.0, ACTIVE)


def test_a_peer_that_stays_silent_after_that_is_dead():
    node = Node()
    node.tell(ACTIVE, Deaf(BOTH, True, False), Peer("dead"))
    looks(node, Deaf(BOTH, True), 4)
    node.tell(Deaf())
    assert "Hold" in node.wait(3.0)


def test_an_active_node_that_heard_nothing_gives_up_when_it_hears_who_took_over():
    node = active()
    node.tell(Deaf(BOTH, True), Peer("dead"))
    looks(node, Deaf(BOTH, True), 3)
    assert node.role == "active"
    node.tell(Deaf(), Peer("active"), state("active", 9))
    assert node.machine.public_role() == "standby"
