"""A starved machine: it stands still again and again."""
from __future__ import annotations

from typing import Any

import pytest

from agent.decide import Connected, Fenced, Gap, Peer, Ping, Tick
from tests.unit.agent.alone import SITE, Node, state

FAST = SITE._replace(deadtime=0.3)
SERVES = state("active", 7)


def fast(*stalls: float, every: float = 5.0, **more: Any) -> Node:
    """A standby that stood still for so many seconds each time, and hears an active node."""
    node = Node(FAST._replace(**more))
    node.tell(SERVES)
    for seconds in stalls:
        node.wait(every - seconds, SERVES)
        node.tell(Gap(seconds), after=seconds)
    node.wait(1.5, SERVES)
    return node


def taken_after(node: Node) -> float:
    """Seconds from "dead" until it serves."""
    began = node.now
    node.tell(Peer("dead"))
    while node.role != "active" and node.now - began < 30:
        node.wait(0.05)
    return round(node.now - began, 2)


def test_all_standstills_since_the_start_are_counted_and_two_at_once_are_one():
    node = fast(0.4, 0.4)
    node.wait(400.0)
    node.tell(Gap(0.5), after=0.5)
    node.tell(Gap(0.5), after=0.5)
    assert node.machine.stall_count == 3 and len(node.machine.stalls) == 1


def test_without_standstills_a_dead_peer_is_dead():
    node = fast(0.4, 6.0)
    assert not node.machine.starved() and taken_after(node) <= 0.1


@pytest.mark.parametrize(("stalls", "silent"), [
    ((0.4, 0.4, 0.4), 1.0),
    ((0.4, 9.0, 9.0), 1.0),         # two much longer ones may be accidents
    ((0.4, 1.2, 0.8, 1.3), 1.2),
    ((9.0, 9.5, 9.0), 10.0),
])
def test_a_machine_that_stands_still_again_and_again_gives_a_silent_peer_longer(stalls, silent):
    node = fast(*stalls, every=10.0)
    assert node.machine.starved()
    assert node.sent("state")[-1]["stall"] == sorted(stalls)[-3]
    assert silent - 0.3 <= taken_after(node) <= silent - 0.2


def test_a_peer_that_is_late_again_and_again_makes_the_pair_starved():
    node = fast(fence=True)
    for _ in range(3):
        node.tell(Peer("dead"), after=5.0)
        node.tell(Peer("active"), SERVES, Fenced(False, "called off"), after=0.9)
    node.wait(1.0, SERVES)
    assert node.sent("state")[-1]["stall"] == pytest.approx(1.2)
    node.tell(Peer("dead"))
    assert "Fence" not in node.wait(1.4) and "Fence" in node.wait(0.2)


def test_a_longer_silence_of_the_peer_is_no_standstill():
    node = fast()
    for _ in range(4):
        node.machine.waits.asked_off = node.now + 9.0  # this test is only about the count
        node.tell(Peer("dead"), after=5.0)
        node.tell(Peer("active"), SERVES, after=3.5)
    assert node.machine.stalls == []


@pytest.mark.parametrize("first", [Ping("192.0.2.1", True), Peer("active")])
def test_a_silence_through_this_nodes_own_fault_is_no_standstill_of_the_peer(first):
    node = fast()
    for _ in range(4):
        node.tell(Peer("dead"), *(Ping(each, False) for each in SITE.ping_nodes), after=5.0)
        node.tell(first, Peer("active"), *(Ping(each, True) for each in SITE.ping_nodes), SERVES, after=1.0)
    assert node.machine.stalls == []


def test_standstills_far_apart_or_at_one_moment_are_no_starvation():
    node = fast()
    for after in (21, 40, 21, 40, 0.5, 0.4):
        node.tell(Gap(0.4), after=after)
    assert not node.machine.starved()
    node.tell(Gap(0.4), after=18)
    assert node.machine.starved()


def test_a_short_standstill_after_a_long_one_is_not_counted():
    """As recorded: a host that was stopped twice within a minute, for five seconds, stood still once more each time."""
    node = fast()
    for after, seconds in ((38.0, 4.77), (0.58, 0.58), (38.0, 4.81), (1.07, 0.81)):
        node.tell(Gap(seconds), after=after)
    assert not node.machine.starved()
    node.tell(Gap(4.86), after=18.0)
    assert node.machine.starved()


def test_after_a_long_sleep_standstills_count_again_at_once():
    node = fast()
    for after, seconds in ((1800.0, 1800.0), (12.0, 0.4), (12.0, 0.4)):
        node.tell(Gap(seconds), after=after)
    assert node.machine.starved()


def test_a_starved_active_node_waits_as_long_for_its_own_heartbeat():
    node = Node(FAST, own=4, highest=4, held="held")
    node.tell(state())
    for _ in range(3):
        node.tell(Gap(1.2), after=10.0)
        node.wait(1.1, state(re=node.machine.ask))
    node.tell(Connected(False))
    assert "Park" not in node.wait(1.7)
    assert "Park" in node.wait(0.2)
    assert "did not answer here for 1.8 s" in node.machine.cause


def test_starvation_lasts_five_minutes():
    node = fast(0.4, 0.4, 0.4)
    node.wait(290, SERVES)
    assert node.machine.starved() and node.machine.stall() == 0.4
    node.wait(12, SERVES)
    assert node.sent("state")[-1]["stall"] == 0.0
    assert taken_after(node) <= 0.1


@pytest.mark.parametrize("then", [Gap(0.5), Tick()])
def test_old_standstills_during_starvation_raise_nothing(then):
    node = fast(0.4, 0.4, 0.4, every=25.0)
    node.now += 297.5
    node.tell(then)
    assert node.machine.starved() and node.machine.stall() == 0.4


def test_a_peer_that_reports_itself_starved_gets_longer_too():
    node = fast()
    node.tell(state("active", 7, stall=1.4))
    assert not node.machine.starved() and 1.8 <= taken_after(node) <= 1.9


def test_a_longer_deadtime_is_enough():
    node = Node(SITE._replace(deadtime=3.0))
    node.tell(state("active", 7, stall=1.4))
    assert taken_after(node) <= 0.1


@pytest.mark.parametrize("stall", ["1", True, -0.1, float("nan"), float("inf"), 1e9, None])
def test_a_wrong_stall_in_a_message_does_not_delay_this_node(stall):
    node = fast()
    node.tell(state("active", 7, stall=stall))
    assert node.machine.peer_stall == 0.0
