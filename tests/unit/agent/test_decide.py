"""Decisions as tables: what happens, and what the agent does then."""
from __future__ import annotations

from typing import Any

import pytest

from agent import decide
from agent.decide import (
    Announce,
    Answer,
    Command,
    Compared,
    Connected,
    Daemon,
    Deaf,
    End,
    Fence,
    Fenced,
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
    Probe,
    Reached,
    Received,
    Release,
    Released,
    Reopen,
    Restart,
    Restore,
    RoleMachine,
    Send,
    Site,
    Terminate,
    Tick,
    Trust,
    Unmute,
    Uplink,
)

SITE = Site("gw1", "gw2", True, ("bond0",), ("192.0.2.1", "192.0.2.2"), 1.0, daemon=True)


def state(role: str = "standby", epoch: int = 0, **more: Any) -> Received:
    return Received({"kind": "state", "role": role, "epoch": epoch, "ready": True, "why": "", "pings": 2,
                     "preferred": False, **more})


class Node:
    """A state machine, its clock, and its last actions."""

    def __init__(self, site: Site = SITE, **more: Any) -> None:
        self.now = 100.0
        self.machine = RoleMachine(site, self.now, **more)
        self.done: list[Any] = []
        self.hears = True  # whether ping nodes answer this agent's own questions
        self.tell(Connected(True), Peer("active"), PeerAgent(True), Daemon("alive"), Uplink("bond0", True),
                  *(Ping(each, True) for each in site.ping_nodes))

    def tell(self, *events: Any, after: float = 0.0) -> list[str]:
        self.done = []
        self.now += after
        for event in events:
            self.done += self.handle(event)
        return self.names()

    def handle(self, event: Any) -> list[Any]:
        done = self.machine.handle(event, self.now)
        if self.hears and Probe() in done:
            done += self.machine.handle(Reached(self.machine.site.ping_nodes[0]), self.now)
        return done

    def wait(self, seconds: float, *each: Any) -> list[str]:
        """Time passes in steps of 50 ms. `state`, where given, comes from the peer every second."""
        done, until, step = [], self.now + seconds, 0
        while self.now < until:
            self.now += 0.05
            step += 1
            for event in (*(each if step % 10 == 0 else ()), Tick()):
                done += self.handle(event)
        self.done = done
        return self.names()

    def names(self) -> list[str]:
        return [type(each).__name__ for each in self.done
                if type(each).__name__ not in ("Log", "Keep", "Note", "Probe", "Trust")]

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [each.message for each in self.done if isinstance(each, Send) and each.message["kind"] == kind]

    def said(self) -> str:
        return "\n".join(each.text for each in self.done if isinstance(each, decide.Log))

    @property
    def role(self) -> str:
        return self.machine.role


def active(**more: Any) -> Node:
    node = Node(own=4, highest=4, held="held", **more)
    node.tell(state())
    return node


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


# A starved machine: it stands still again and again

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
        node.machine.try_again = node.now + 6.0  # this test is only about the count
        node.tell(Peer("dead"), after=5.0)
        node.tell(Peer("active"), SERVES, after=0.9)
    node.wait(1.0, SERVES)
    assert node.sent("state")[-1]["stall"] == pytest.approx(1.2)
    node.tell(Peer("dead"))
    assert "Fence" not in node.wait(1.4) and "Fence" in node.wait(0.2)


def test_a_longer_silence_of_the_peer_is_no_standstill():
    node = fast()
    for _ in range(4):
        node.machine.try_again = node.now + 9.0
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


def test_all_actions_are_known_to_the_worker():
    from agent.worker import Worker
    actions = (Mute, Unmute, Hold, Restore, decide.Remove, Announce, Park, Release, Leave, Restart, Fence, Send,
               Reopen, decide.Keep, decide.Note, decide.Log, Answer, End)
    assert all(hasattr(Worker, f"do_{each.__name__.lower()}") for each in actions)


# A node that was not compared with the master since its boot

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
