"""When a standby takes over: what may delay it, and which offers of the role it refuses."""
from __future__ import annotations

from typing import Any

import pytest

from agent.decide import (
    Command,
    Connected,
    Daemon,
    Fenced,
    Peer,
    PeerAgent,
    Ping,
    Received,
    RoleMachine,
    Tick,
    Uplink,
)
from tests.unit.agent.alone import SITE, Node, state
from tests.unit.agent.test_starvation import taken_after

PINGS = SITE.ping_nodes


# Each reason to wait has its own clock

def test_a_takeover_that_a_person_asked_for_delays_none_when_the_active_node_dies():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Command("takeover", False, 1))
    assert node.sent("claim")
    node.now += 0.5
    assert taken_after(node) <= 0.1


def test_a_failback_under_way_delays_no_takeover_when_the_active_node_dies():
    node = Node(SITE._replace(failback=True, failback_delay=2.0))
    node.tell(state("active", 7))
    node.wait(2.2, state("active", 7))
    assert node.sent("claim")
    assert taken_after(node) <= 0.1
    assert node.machine.failbacks == []  # it was none


def test_a_failback_that_is_not_answered_is_forgotten():
    node = Node(SITE._replace(failback=True, failback_delay=2.0))
    node.tell(state("active", 7))
    node.wait(6.0, state("active", 7))
    node.tell(state("transition", 7, kind="yield", cause="no carrier"))
    assert node.role == "active" and len(node.machine.failbacks) <= 1


def test_a_claim_delays_no_takeover_where_nobody_is_active():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Command("takeover", False, 1))
    assert "Hold" in node.tell(state("standby", 7), after=0.3)


def test_a_role_that_was_taken_back_delays_no_later_takeover():
    """It is only the next try to hand over that waits."""
    node = Node(own=4, highest=4, held="held")
    node.tell(state())
    node.tell(Command("standby", False, 1))
    node.wait(1.2, state())
    assert node.role == "active" and "taken back" in node.machine.cause
    node.tell(state("active", 5), after=0.1)
    node.wait(2.1, state("active", 5))
    assert node.role == "standby" and taken_after(node) <= 0.1


def test_a_short_loss_of_the_ping_nodes_after_a_takeover_costs_no_ten_seconds():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Peer("dead"))
    assert node.role == "active"
    node.tell(*(Ping(each, False) for each in PINGS), after=1.5)
    assert node.machine.public_role() == "standby"
    node.tell(*(Ping(each, True) for each in PINGS), after=0.5)
    began = node.now
    while node.role != "active" and node.now - began < 15:
        node.wait(0.05)
    assert node.now - began <= 2.1  # it tells its clients for up to 2 s, and gives the peer a deadtime to be heard


# What the peer offers

def two() -> tuple[RoleMachine, RoleMachine, float]:
    """gw1 is active, gw2 standby, and each has just heard the other."""
    now = 100.0
    other = SITE._replace(node="gw2", peer="gw1", preferred=False)
    one, two = RoleMachine(SITE, now, 7, 7, "held"), RoleMachine(other, now, 0, 7)
    start = (Connected(True), Peer("active"), PeerAgent(True), Daemon("alive"), Uplink("bond0", True),
             *(Ping(each, True) for each in PINGS))
    for event in start:
        pass_on(one, two, event, now)
        pass_on(two, one, event, now)
    for _ in range(25):
        now += 0.1
        pass_on(one, two, Tick(), now)
        pass_on(two, one, Tick(), now)
    assert (one.role, two.role) == ("active", "standby")
    return one, two, now


def messages(actions: list[Any]) -> list[dict[str, Any]]:
    return [each.message for each in actions if type(each).__name__ == "Send"]


def pass_on(sender: RoleMachine, receiver: RoleMachine, event: Any, now: float) -> None:
    """An event, and what is sent for it arrives at once, the answers too."""
    for message in messages(sender.handle(event, now)):
        for back in messages(receiver.handle(Received(message), now)):
            sender.handle(Received(back), now)


def yields(machine: RoleMachine, now: float) -> Received:
    """The message in which a node that serves yields, asked for by a person."""
    found = [each for each in messages(machine.handle(Command("standby", False, 1), now)) if each["kind"] == "yield"]
    return Received(found[0])


@pytest.mark.parametrize(("seconds", "obeyed"), [(0.01, True), (0.8, True), (1.2, False), (2.0, False), (2.9, False)])
def test_a_yield_for_which_the_sender_no_longer_waits_is_refused(seconds, obeyed):
    one, other, now = two()
    offer = yields(one, now)
    done = other.handle(offer, now + seconds)
    assert (other.role == "active") is obeyed
    if not obeyed:
        assert [each["kind"] for each in messages(done)] == ["refuse"]


def test_a_yield_that_comes_after_the_node_says_that_it_took_the_role_back_is_refused():
    one, other, now = two()
    offer = yields(one, now)
    at = now
    while at < now + 1.5:
        at += 0.05
        for message in messages(one.handle(Tick(), at)):
            other.handle(Received(message), at)
    assert one.role == "active" and "taken back" in one.cause
    other.handle(offer, at)
    assert other.role == "standby"


def test_a_yield_that_comes_twice_moves_the_role_once():
    one, other, now = two()
    offer = yields(one, now)
    for message in messages(other.handle(offer, now + 0.1)):
        one.handle(Received(message), now + 0.1)
    assert other.role == "active"
    for at in range(1, 30):  # and back
        for message in messages(one.handle(Tick(), now + at)):
            other.handle(Received(message), now + at)
        for message in messages(other.handle(Tick(), now + at)):
            one.handle(Received(message), now + at)
    back = yields(other, now + 29.1)
    for message in messages(one.handle(back, now + 29.1)):
        other.handle(Received(message), now + 29.1)
    epoch = other.highest
    other.handle(offer, now + 29.2)
    assert one.role == "active" and other.role != "active" and other.highest == epoch


def test_a_yield_for_a_claim_that_is_no_longer_waited_for_is_refused():
    one, other, now = two()
    claim = next(each for each in messages(other.handle(Command("takeover", False, 1), now)) if each["kind"] == "claim")
    offer = next(each for each in messages(one.handle(Received(claim), now)) if each["kind"] == "yield")
    other.handle(Peer("active"), now)
    other.command = other.claimed = None
    assert [each["kind"] for each in messages(other.handle(Received(offer), now + 0.1))] == ["refuse"]


def test_a_yield_from_before_a_takeover_is_refused():
    node = Node()
    node.tell(state("active", 9))
    assert "Hold" not in node.tell(state("transition", 7, kind="yield")) and node.sent("refuse")


def test_a_claim_that_comes_late_is_refused():
    one, other, now = two()
    claim = next(each for each in messages(other.handle(Command("takeover", False, 1), now)) if each["kind"] == "claim")
    done = one.handle(Received(claim), now + 3.1)
    assert one.role == "active" and [each["kind"] for each in messages(done)] == ["refuse"]


def test_a_refusal_of_an_earlier_yield_does_not_take_the_role_back():
    one, other, now = two()
    other.handle(Peer("active"), now)
    offer = yields(one, now)
    late = next(each for each in messages(other.handle(offer, now + 2.0)) if each["kind"] == "refuse")
    at = now
    while at < now + 10:
        at += 0.5
        pass_on(one, other, Tick(), at)
        pass_on(other, one, Tick(), at)
    assert one.role == "active"
    again = yields(one, at)
    one.handle(Received(late | {"at": at, "echo": at, "ago": 0.0}), at)
    assert one.role == "leaving"
    other.handle(again, at)
    assert other.role == "active"


def test_a_message_that_was_overtaken_changes_nothing():
    one, other, now = two()
    early = messages(one.handle(Tick(), now + 1.0))[0]
    one.handle(Peer("active"), now + 1.0)
    late = messages(one.handle(Tick(), now + 2.1))[0]
    other.handle(Received(late), now + 2.2)
    other.handle(Received(early | {"role": "standby"}), now + 2.3)
    assert other.state is not None and other.state.role == "active"


def test_a_fence_that_failed_is_tried_again_after_ten_seconds_and_not_before():
    node = Node(SITE._replace(fence=True))
    node.tell(Peer("dead"))
    node.tell(Fenced(False, "no"), after=1.0)
    assert "Fence" not in node.wait(9.8) and "Fence" in node.wait(0.4)
