"""A person's commands: what they may pass by, and what they wait for."""
from __future__ import annotations

import pytest

from agent.decide import Answer, Command, Fenced, Gap, Peer, Ping, Reached
from tests.unit.agent.alone import SITE, Node, state

FENCED = SITE._replace(fence=True)


def refusals(node: Node) -> list[str]:
    """What the last step answered to persons; "" is done."""
    return [each.refused for each in node.done if isinstance(each, Answer)]


def failed_to_fence() -> Node:
    """A standby whose peer is dead, and whose fence has just failed."""
    node = Node(FENCED)
    node.tell(state("active", 7))
    assert "Fence" in node.tell(Peer("dead"))
    node.tell(Fenced(False, "the power switch does not answer"), after=1.0)
    return node


def test_takeover_without_force_has_the_dead_peer_fenced_first_and_fails_with_the_fence():
    node = failed_to_fence()
    names = node.tell(Command("takeover", False, 1), after=1.0)
    assert "Fence" in names and "Hold" not in names and not refusals(node)  # not ten seconds later: a person waits
    assert "Hold" not in node.tell(Fenced(False, "the power switch does not answer"), after=1.0)
    assert "could not be fenced (the power switch does not answer)" in refusals(node)[0]


def test_takeover_without_force_is_done_when_the_fence_has_succeeded():
    node = failed_to_fence()
    node.tell(Command("takeover", False, 1), after=1.0)
    assert node.tell(Fenced(True, ""), after=1.0)[0] == "Hold" and refusals(node) == [""]


@pytest.mark.parametrize("ok", [True, False])
def test_takeover_while_the_fence_runs_waits_for_its_end(ok):
    node = Node(FENCED)
    node.tell(Peer("dead"))
    names = node.tell(Command("takeover", False, 1), after=1.0)
    assert not {"Hold", "Fence", "Answer"} & set(names)
    assert ("Hold" in node.tell(Fenced(ok, "it fails"), after=1.0)) is ok
    assert [bool(each) for each in refusals(node)] == [not ok]


def test_a_person_is_told_that_the_fence_takes_long():
    node = Node(FENCED)
    node.tell(Peer("dead"), Command("takeover", False, 1))
    node.wait(8.1)
    assert "gw2 is dead and is being fenced" in refusals(node)[0] and node.role == "fencing"


def test_only_force_passes_the_fence_by():
    node = failed_to_fence()
    assert "Hold" in node.tell(Command("takeover", True, 1), after=1.0) and refusals(node) == [""]
    node = Node(FENCED)
    node.tell(Peer("dead"))
    assert "Hold" in node.tell(Command("takeover", True, 1), after=1.0)


def cut_off(**more: bool) -> Node:
    """A standby that has just lost its peer and all ping nodes."""
    node = Node(SITE._replace(**more))
    node.tell(state("active", 7))
    node.tell(*(Ping(each, False) for each in SITE.ping_nodes), Peer("dead"))
    node.wait(20)
    return node


@pytest.mark.parametrize("fence", [True, False])
def test_a_node_that_is_cut_off_takes_over_only_by_force(fence):
    node = cut_off(fence=fence)
    assert not {"Hold", "Fence"} & set(node.tell(Command("takeover", False, 1)))
    assert "probably the one that is cut off" in refusals(node)[0]
    assert "Hold" in node.tell(Command("takeover", True, 2))


def test_takeover_without_force_asks_the_ping_nodes_as_every_takeover_does():
    node = Node()
    node.tell(state("active", 7))
    node.hears = False
    node.tell(Peer("dead"))
    assert "Hold" not in node.tell(Command("takeover", False, 1), after=0.05)
    assert "Hold" in node.tell(Reached("192.0.2.1"), after=0.05) and refusals(node) == [""]


def test_after_a_standstill_takeover_waits_until_the_peer_could_be_heard():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Gap(5.0), Peer("dead"), Command("takeover", False, 1), after=5.0)
    assert node.role == "standby" and not refusals(node)
    node.tell(Peer("active"), state("active", 7), after=0.2)
    names = node.wait(1.2)
    assert "Hold" not in names and node.sent("claim")  # it was never dead, and is asked


def test_takeover_from_a_peer_that_is_back_asks_the_peer():
    node = Node(FENCED._replace(fence=False))
    node.hears = False
    node.tell(state("active", 7))
    node.tell(Peer("dead"), Command("takeover", False, 1))
    node.tell(Peer("active"), after=0.1)
    node.tell(state("active", 7), after=0.1)
    assert node.sent("claim") and node.role == "standby"


def test_who_is_refused_learns_whom_this_node_hears():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Command("takeover", False, 1))
    node.wait(3.2, state("active", 7, hears=False))
    assert "this node hears gw2: active, epoch 7, and gw2 does not hear this node" in refusals(node)[0]


def test_a_person_who_forces_a_node_to_standby_does_not_keep_it_from_serving_once_the_peer_has_served():
    node = Node(own=4, highest=4, held="held")
    node.tell(state(ready=False, able=False, why="IPsec daemon dead"))
    node.tell(Command("standby", True, 1))
    assert node.role == "parting"
    node.wait(2.1)
    node.tell(state("active", 5), after=0.5)
    assert "Hold" in node.tell(Peer("dead"), after=0.5)


@pytest.mark.parametrize("fence", [True, False])
def test_force_passes_everything_by_when_the_peer_dies_while_it_is_asked(fence):
    node = Node(SITE._replace(fence=fence))
    node.tell(state("active", 7))
    assert "Hold" not in node.tell(Command("takeover", True, 1))
    node.hears = False
    names = node.tell(*(Ping(each, False) for each in SITE.ping_nodes), Peer("dead"), after=0.5)
    assert "Hold" in names and "Fence" not in names and refusals(node) == [""]
