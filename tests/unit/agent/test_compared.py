"""A node that was not compared with the master since its boot."""
from __future__ import annotations

import pytest

from agent.decide import Answer, Command, Compared, Daemon, Peer, Ping, Terminate, Uplink
from tests.unit.agent.alone import SITE, Node, active, state

GATED = SITE._replace(compare=True)
STALE = {"ready": False, "able": True, "why": "it was not compared with the master since it booted"}


def test_a_node_that_was_not_compared_is_not_ready_and_says_so():
    node = Node(GATED)
    node.tell(state("active", 7))
    assert "not compared with the master" in node.machine.not_ready() and node.machine.not_able() == ""
    node.tell(state("transition", 7, kind="yield", cause="switch-over"))
    assert node.sent("refuse") and node.role == "standby"
    node.tell(Command("takeover", False, 1))
    assert [each.refused for each in node.done if isinstance(each, Answer)] == [STALE["why"]]
    node.tell(Compared(True))
    assert node.machine.not_ready() == "" and node.sent("state")[-1]["ready"] is True


def test_a_node_that_was_not_compared_takes_over_from_a_dead_one_at_once():
    node = Node(GATED)
    node.tell(state("active", 7))
    assert node.tell(Peer("dead"))[0] == "Hold"


def test_a_node_that_was_not_compared_takes_over_what_the_other_can_not_keep():
    node = Node(GATED)
    node.tell(state("active", 7))
    assert node.tell(state("transition", 7, kind="yield", need=True, cause="no carrier"))[0] == "Hold"


@pytest.mark.parametrize("fault", [Uplink("bond0", False), Ping("192.0.2.1", False), Daemon("dead"), Terminate()])
def test_a_fault_moves_the_role_to_a_node_that_was_not_compared(fault):
    node = active()
    node.tell(state(**STALE))
    done = node.tell(fault) + node.wait(1.5, state(**STALE))
    assert "Park" in done


def test_a_person_moves_the_role_there_only_by_force():
    node = active()
    node.tell(state(**STALE))
    node.tell(Command("standby", False, 1))
    assert "compared with the master" in next(each.refused for each in node.done if isinstance(each, Answer))
    assert "Park" in node.tell(Command("standby", True, 2))


def test_no_failback_to_a_node_that_was_not_compared():
    node = Node(GATED._replace(failback=True, failback_delay=10.0))
    node.tell(state("active", 7))
    node.wait(30, state("active", 7))
    assert not node.sent("claim")
    node.tell(Compared(True))
    node.wait(11, state("active", 7))
    assert node.sent("claim")


def test_after_a_power_cut_without_a_master_the_preferred_one_serves_at_once():
    assert "Hold" in Node(GATED).tell(state(**STALE))
    other = Node(GATED._replace(preferred=False))
    assert "Hold" not in other.tell(state(preferred=True, **STALE)) + other.wait(2.5, state(preferred=True, **STALE))
    assert "Hold" in other.wait(1, state(preferred=True, **STALE))


def test_of_two_nodes_the_compared_one_serves():
    node = Node(GATED)
    assert "Hold" not in node.tell(state()) + node.wait(4.5, state())
    assert "Hold" in node.wait(1, state())  # the preferred node does not: some node must serve
    other = Node(SITE._replace(preferred=False))
    assert "Hold" in other.tell(state(preferred=True, **STALE)) + other.wait(1.2, state(preferred=True, **STALE))


def test_a_site_that_does_not_compare_is_not_kept_waiting():
    node = Node()
    node.tell(Compared(False))
    assert node.machine.not_ready() == ""


def test_an_older_agent_does_not_report_whether_it_is_able():
    node = active()
    node.tell(state(ready=False, why="IPsec daemon dead"))
    assert node.machine.peer_unready(need=True)
