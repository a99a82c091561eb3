"""Decisions as tables: what happens, and what the agent does then."""
from __future__ import annotations

import pytest

from agent import decide
from agent.decide import (
    Announce,
    Answer,
    CallOff,
    Command,
    Connected,
    Daemon,
    End,
    Fence,
    Found,
    Gap,
    Hold,
    Leave,
    Listened,
    Missing,
    Mute,
    Park,
    Peer,
    PeerAgent,
    Ping,
    Received,
    Release,
    Released,
    Reopen,
    Restart,
    Restore,
    RoleMachine,
    Send,
    Terminate,
    Tick,
    Unmute,
    Uplink,
)
from tests.unit.agent.alone import SITE, Node, active, state


def test_preferred_takes_over_when_nobody_is_active():
    node = Node()
    assert Hold.__name__ in node.tell(state())
    assert (node.role, node.machine.epoch) == ("active", 1)


def test_the_other_waits_for_the_preferred_and_not_for_ever():
    node = Node(SITE._replace(preferred=False))
    assert "Hold" not in node.tell(state(preferred=True))
    assert "Hold" not in node.wait(2.0, state(preferred=True))
    assert "Hold" in node.wait(2.0, state(preferred=True))


def test_the_other_takes_over_when_the_preferred_is_not_ready():
    node = Node(SITE._replace(preferred=False))
    unready = state(preferred=True, ready=False, why="the IPsec daemon is not known yet")
    assert "Hold" not in node.tell(unready)
    assert "Hold" in node.wait(1.2, unready)


def test_a_standby_takes_over_from_a_dead_peer_at_once():
    node = Node()
    node.tell(state("active", 7))
    assert node.tell(Peer("dead"))[0] == "Hold"
    assert node.machine.epoch == 8


def test_peer_without_agent_is_left_alone_and_said_every_minute():
    node = Node()
    node.tell(PeerAgent(False))
    names = node.wait(130)
    assert "Hold" not in names
    assert 2 <= node.said().count("no agent answers there") <= 3


def test_switch_over_in_order():
    node = active()
    names = node.tell(Command("standby", False, 1))
    assert names[:2] == ["Park", "Send"] and node.sent("yield")
    assert node.tell(state("active", 5)) [0] == "Release"
    names = node.tell(Released())
    assert names[0] == "Leave" and Answer(1, "") in node.done
    assert node.role == "standby"


def test_a_switch_over_without_an_answer_is_taken_back():
    node = active()
    node.tell(Command("standby", False, 1))
    assert "Hold" not in node.wait(0.9)
    assert "Hold" in node.wait(0.2)
    assert node.role == "active" and any(isinstance(each, Answer) and each.refused for each in node.done)


@pytest.mark.parametrize(("peer", "why"), [
    (state(ready=False, why="IPsec daemon dead"), "IPsec daemon dead"),
    (state(pings=1), "reaches 1 of 2 ping nodes"),
    (PeerAgent(False), "no agent answers"),
    (Peer("dead"), "is dead"),
    (Connected(False), "heartbeat does not answer here"),
])
def test_switch_over_is_refused(peer, why):
    node = active()
    node.tell(peer)
    node.tell(Command("standby", False, 1))
    assert [why in each.refused for each in node.done if isinstance(each, Answer)] == [True]
    assert node.role == "active"


def test_a_standby_accepts_or_refuses_the_role_at_once():
    node = Node(SITE._replace(preferred=False))
    node.tell(state("active", 7))
    wanted = state("transition", 7, kind="yield", cause="switch-over")
    assert node.tell(wanted)[0] == "Hold" and node.machine.epoch == 8
    node = Node(SITE._replace(preferred=False))
    node.tell(state("active", 7), Daemon("dead"))
    assert "Hold" not in node.tell(wanted) and node.sent("refuse")


def test_take_over_asked_for():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Command("takeover", False, 1))
    assert node.sent("claim")
    node.tell(state("transition", 7, kind="yield"))
    assert Answer(1, "") in node.done and node.role == "active"


def test_take_over_by_force_from_a_silent_peer():
    node = Node()
    node.tell(state("active", 7))
    node.tell(Command("takeover", True, 1))
    assert "Hold" in node.wait(1.2)
    node = Node()
    node.tell(state("active", 7))
    node.tell(Command("takeover", False, 1))
    assert "Hold" not in node.wait(3.2)
    assert any(isinstance(each, Answer) and each.refused for each in node.done)


@pytest.mark.parametrize(("events", "seconds", "gives"), [
    ([Uplink("bond0", False)], 0.1, False),
    ([Uplink("bond0", False)], 0.3, True),
    ([Uplink("bond0", False), Uplink("bond0", True)], 0.3, False),
    ([Ping("192.0.2.1", False)], 0.9, False),
    ([Ping("192.0.2.1", False)], 1.2, True),
    ([Daemon("dead")], 0.05, True),
    ([Daemon("hung")], 0.05, True),
])
def test_gives_up_by_itself(events, seconds, gives):
    node = active()
    done = node.tell(*events) + node.wait(seconds, state())
    assert ("Park" in done) is gives


@pytest.mark.parametrize("peer", [state(ready=False), PeerAgent(False), Peer("dead")])
def test_stays_without_a_ready_peer(peer):
    node = active()
    node.tell(peer)
    done = node.tell(Daemon("dead"))
    assert "Park" not in done and "Leave" not in done and "Restart" in done
    assert "staying" in node.said()


def test_a_daemon_that_does_not_listen_is_restarted_before_anything_is_given_up():
    node = active()
    assert node.tell(Listened(False))[0] == "Restart"
    assert "Park" not in node.tell(Daemon("hung"))
    assert "Park" not in node.wait(29, state())
    assert "Park" in node.wait(2, state())


def test_a_daemon_that_looked_while_the_addresses_were_silenced_is_restarted():
    """Such a daemon stayed deaf on the active node: it does not try again to bind an address that it could not bind."""
    node = active()
    node.tell(Gap(2.0))
    assert "Restart" not in node.tell(Listened(False)) and node.machine.muted
    node.wait(1.1)
    assert not node.machine.muted and "Restart" not in node.names()
    assert "Restart" in node.tell(Listened(False))
    # deaf again, as a daemon that started while they were muted: restarted once more, but not all the time
    assert "Restart" not in node.tell(Listened(False))
    assert "Restart" not in node.wait(29, state())
    assert node.wait(2, state()).count("Restart") == 1
    assert "Restart" not in node.wait(60, state())


def test_a_daemon_that_listens_after_all_is_left_alone():
    node = active()
    node.tell(Listened(False))
    node.tell(Listened(False))
    node.tell(Listened(True))
    assert "Restart" not in node.wait(60, state())


def test_not_ready_for_5_s_after_giving_up():
    node = active()
    node.tell(Daemon("dead"))
    node.tell(state("active", 5))
    node.tell(Released())
    node.tell(Daemon("alive"))
    assert "gave up lately" in node.machine.not_ready()
    node.wait(5.2, state("active", 5))
    assert node.machine.not_ready() == ""


@pytest.mark.parametrize(("own", "peer", "stays"), [
    (4, state("active", 5), False),
    (5, state("active", 4), True),
    (4, state("active", 4, pings=1), True),
    (4, state("active", 4), True),  # the preferred one
    (4, state("active", 4, preferred=True), False),  # wrong settings: both preferred; gw2 comes after gw1
])
def test_split_heals(own, peer, stays):
    node = Node(own=own, highest=own, held="held")
    done = node.tell(peer)
    assert ("Park" in done) is not stays


def test_after_a_split_the_remaining_active_node_announces_again():
    node = active()
    node.tell(Peer("dead"))
    node.tell(Peer("active"))
    assert "Announce" in node.tell(state())


def test_the_node_that_took_over_announces_when_the_peer_is_back():
    """The kernel of a machine that stood still answers what has waited there before its agent mutes it. Clients were
    cut off for a second, until that agent had stepped back."""
    node = Node()
    node.tell(state("active", 3))
    node.tell(Peer("dead"))
    assert node.role == "active"
    assert "Announce" in node.tell(Peer("active"), after=5.0)
    assert "Announce" in node.tell(state("active", 3), after=0.1)
    assert node.role == "active"


def test_an_agent_counts_as_missing_only_after_it_had_time_to_answer():
    """On a busy machine heartbeat called the other node dead for a moment, while its agent ran all along."""
    node = Node()
    node.tell(Ping("192.0.2.1", False), Ping("192.0.2.2", False), after=60.0)  # cut off: it takes nothing over
    node.tell(Peer("dead"))
    node.tell(Peer("active"), Tick(), after=0.1)
    assert "no agent answers there" not in node.said()
    node.wait(4)
    assert "no agent answers there" in node.said()


def test_a_node_that_was_active_before_the_peer_died_does_not_announce():
    """After a split this node may have to step back: its announcement would be wrong."""
    node = active()
    node.tell(Peer("dead"), after=10.0)
    assert "Announce" not in node.tell(Peer("active"))


def test_a_muted_node_announces_nothing():
    node = Node()
    node.tell(state("active", 3))
    node.tell(Peer("dead"))
    node.tell(Gap(0.5), after=0.5)
    assert "Announce" not in node.tell(Peer("active"))


def test_standstill_mutes_first_and_asks():
    node = active()
    assert node.tell(Gap(3.0), after=3.0)[:2] == ["Mute", "Send"]
    ask = node.sent("state")[0]["ask"]
    assert "Unmute" not in node.tell(state())  # may be from before the standstill
    assert "Unmute" in node.tell(state(re=ask))
    node.tell(Gap(3.0), after=3.0)
    assert "Park" in node.tell(state("active", 5))


def test_standstill_with_a_silent_peer():
    node = active()
    node.tell(Gap(3.0), after=3.0)
    assert "Unmute" not in node.wait(0.9)
    assert "Unmute" in node.wait(0.2)


def test_standstill_alone():
    node = active()
    node.tell(Peer("dead"))
    node.wait(5)
    node.tell(Gap(3.0), after=3.0)
    assert "Unmute" in node.wait(0.4)


def test_after_a_standstill_heartbeats_report_may_be_old():
    node = Node()
    node.tell(state("active", 7))
    assert "Hold" not in node.tell(Gap(3.0), Peer("dead"), after=3.0)
    assert "Hold" not in node.wait(0.5)
    assert "Hold" in node.wait(0.8)


def test_heartbeat_gone_means_leaving_after_deadtime():
    node = active()
    node.tell(Connected(False))
    assert "Park" not in node.wait(0.9)
    assert "Park" in node.wait(0.2)
    assert "Hold" not in node.wait(10)


def test_heartbeat_back_in_time():
    node = active()
    node.tell(Connected(False))
    node.tell(Connected(True), after=0.8)
    assert "Leave" not in node.wait(5)


@pytest.mark.parametrize(("held", "own", "peer", "does"), [
    ("held", 4, state("active", 5), "Park"),
    ("held", 4, state("standby", 4), "Announce"),
    ("parked", 4, state("active", 5), "Release"),
    ("parked", 4, Tick(), "Hold"),
    ("muted", 4, Tick(), "Unmute"),
])
def test_agent_started_again(held, own, peer, does):
    node = Node(own=own, highest=own, held=held)
    assert does in node.tell(peer) + node.wait(1.2)


def test_an_agent_that_finds_parked_addresses_asks_the_other_node_before_it_takes_them_back():
    """A node had stood still for a minute while it gave them away, and the other node served. It took them back for
    5 ms, and announced them to the neighbours."""
    machine, done = RoleMachine(SITE, 100.0, own=4, highest=4, held="parked"), []
    for at, event in ((100.1, Tick()), (101.2, Connected(True)), (101.25, Peer("active")), (101.3, Tick())):
        done += machine.handle(event, at)
    assert any("ask" in each.message for each in done if isinstance(each, Send)) and machine.role == "leaving", done
    assert Release() in machine.handle(state("active", 5), 101.35)
    assert Hold() not in done


def test_a_node_that_loses_its_heartbeat_while_it_gives_the_role_away_does_not_take_it_back():
    """The other node calls this one dead meanwhile, and serves."""
    node = active()
    node.tell(Command("standby", False, 1))
    assert node.role == "leaving"
    done = node.tell(Connected(False)) + node.wait(1.3)
    assert "Hold" not in done and "Release" in done and node.role == "parting", done
    assert node.tell(Released())[0] == "Leave" and node.role == "standby"


def test_vanished_addresses_come_back_only_on_the_active_node():
    assert "Restore" in active().tell(Missing(("192.0.2.10",)))
    assert "Restore" not in Node().tell(Missing(("192.0.2.10",)))


def test_an_address_that_somebody_gave_the_standby_is_taken_away_and_the_active_node_announces_itself():
    node = Node()
    node.tell(state("active", 7))
    assert node.tell(Found(("192.0.2.10",)))[0] == "Remove" and node.sent("intruder")
    assert "192.0.2.10: given to this node by somebody" in node.said()
    assert node.machine.intruder() == "192.0.2.10"
    # it never ends: taken away each time, reported to the other node once a second
    again = [(node.tell(Found(("192.0.2.10",)), after=0.02), bool(node.sent("intruder"))) for _ in range(100)]
    assert all(did[0] == "Remove" for did, _told in again) and 1 <= sum(told for _did, told in again) <= 3
    node.wait(31, state("active", 7))
    assert node.machine.intruder() == "" and node.role == "standby"
    assert "Announce" in active().tell(state(kind="intruder"))
    assert "Announce" not in active().tell(state())


def test_parked_addresses_left_behind_are_no_intruder():
    node = Node()
    assert node.tell(Found((), parked=True)) == ["Remove"] and "left behind" in node.said()
    assert node.machine.intruder() == "" and not node.sent("intruder")
    node = active()
    node.tell(Terminate())
    assert node.role == "leaving" and node.tell(Found((), parked=True)) == []


def test_addresses_that_the_active_node_holds_are_its_own():
    assert active().tell(Found(("192.0.2.10",))) == []
    node = active()
    node.tell(Terminate())
    assert node.role == "leaving" and node.tell(Found(("192.0.2.10",))) == []


def test_end_of_heartbeat():
    node = active()
    assert node.tell(Terminate())[0] == "Park"
    node.tell(state("active", 5))
    assert node.tell(Released())[-1] == "End"
    node = active()
    node.tell(PeerAgent(False))
    assert node.tell(Terminate())[:2] == ["Park", "Release"] and "End" not in node.names()
    assert node.tell(Released())[0] == "Leave" and node.names()[-1] == "End"
    assert active().tell(Terminate(keep=True)) == ["End"]
    assert Node().tell(Terminate()) == ["End"]


@pytest.mark.parametrize("answer", [state("standby", 4), state(kind="refuse", cause="it is not ready")])
def test_when_heartbeat_ends_and_nobody_takes_over_the_clients_are_told_before_the_addresses_go(answer):
    """On a busy machine the other node took over 40 ms too late, and strongSwan's client waited for 187 s."""
    node = active()
    node.tell(Terminate())
    names = node.wait(1.9, answer) + node.wait(0.2)
    assert "Release" in names and not {"Hold", "Leave", "End"} & set(names)
    assert node.machine.public_role() == "standby" and "nobody takes over" in node.machine.cause
    names = node.tell(Released())
    assert names.index("Leave") < names.index("End")


def test_when_the_daemon_does_not_say_that_the_clients_are_told_the_addresses_go_all_the_same():
    node = active()
    node.tell(PeerAgent(False))
    node.tell(Terminate())
    assert "Leave" not in node.wait(1.9)
    names = node.wait(0.2)
    assert names.index("Leave") < names.index("End")


@pytest.mark.parametrize("daemon", ["dead", "hung"])
def test_a_node_without_a_living_daemon_leaves_at_once(daemon):
    node = active()
    node.tell(PeerAgent(False), state("active", 3))
    node.tell(Daemon(daemon))
    done = node.tell(state("active", 5))
    assert "Leave" in done and "Park" not in done and node.role == "standby"


@pytest.mark.parametrize("keep", [True, False])
def test_no_address_stays_when_heartbeat_ends_while_clients_are_told(keep):
    """The next agent would take parked addresses back."""
    node = active()
    node.tell(state("active", 5))
    assert node.role == "parting"
    names = node.tell(Terminate(keep=keep)) + ([] if keep else node.tell(Released()))
    assert names.index("Leave") < names.index("End")


def test_a_parting_node_reports_itself_as_standby():
    node = active()
    node.tell(state("active", 5))
    assert node.sent("state")[-1]["role"] == "standby" and node.machine.role == "parting"
    assert [each.role for each in node.done if isinstance(each, decide.Note)] == ["standby"]
    node.tell(Released())
    assert node.role == "standby" and not [each for each in node.done if isinstance(each, decide.Note)]


def test_failback_waits_and_is_damped():
    site = SITE._replace(failback=True, failback_delay=10.0)
    for failbacks, delay in (((), 10), ((50.0,), 20), ((50.0, 60.0), 40), ((-4000.0,), 10)):
        node = Node(site, failbacks=failbacks)
        node.tell(state("active", 7))
        node.wait(delay - 0.5, state("active", 7))
        assert not node.sent("claim"), delay
        node.wait(1, state("active", 7))
        assert node.sent("claim"), delay
    node.tell(state("transition", 7, kind="yield", cause="failback"))
    assert len(node.machine.failbacks) == 1


def test_no_failback_unless_configured():
    node = Node()
    node.tell(state("active", 7))
    node.wait(400, state("active", 7))
    assert not node.sent("claim")


@pytest.mark.parametrize("message", [
    None, [], {}, {"role": "king"}, {**state().message, "epoch": -1}, {**state().message, "epoch": True},
    {**state().message, "epoch": 1e9}, {**state().message, "pings": "2"}, {**state().message, "ready": 1},
    {**state().message, "epoch": 2**60},
])
def test_nonsense_is_dropped(message):
    node = active()
    before = node.machine.state
    node.tell(Received(message))
    assert node.machine.state == before and "dropped" in node.said()


def test_one_command_at_a_time():
    node = active()
    node.tell(Command("standby", False, 1))
    node.tell(Command("standby", False, 2))
    assert "a role change is under way" in node.done[0].refused


def test_no_deadline_passes_while_the_process_stands_still_between_two_lines(monkeypatch):
    """It wakes after a standstill, and stands still again before it has read the peer's message: it stays muted."""
    from agent import worker
    node = active()
    node.tell(decide.Gap(6.0))
    assert node.machine.muted
    its = object.__new__(worker.Worker)
    its.machine, its.queue, its.ended, its.heartbeat, its.now = node.machine, [], False, None, node.now
    monkeypatch.setattr(worker, "clock", lambda: node.now + 5)
    its.handle(Tick())
    assert node.machine.muted, "it answered again, while the other node may be active"


def test_all_actions_are_known_to_the_worker():
    from agent.worker import Worker
    actions = (Mute, Unmute, Hold, Restore, decide.Remove, Announce, Park, Release, Leave, Restart, Fence, CallOff,
               Send, Reopen, decide.Keep, decide.Note, decide.Log, Answer, End)
    assert all(hasattr(Worker, f"do_{each.__name__.lower()}") for each in actions)
