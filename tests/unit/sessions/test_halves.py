"""Both halves of the process over a real connection, each with a kernel that only remembers what it was asked for."""
from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest

from agent.loop import Loop
from agent.system import clock
from sessions import adoption, identity, receiving, serving, xfrm
from sessions.adoption import Reqids
from sessions.kernel import Event, Request
from sessions.names import Names
from sessions.node import Node, near
from sessions.receiving import Receiving
from sessions.serving import Serving
from sessions.settings import HeartbeatPath, Settings
from sessions.xfrm import Counters, Policy, PolicyId, State, StateId
from tests.unit.sessions.made import PEER, RULES, VIRTUAL, policy, state

KEY = b"k" * 32


class Remembers:
    """A kernel's states and policies, without what a kernel does with them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.held: dict[StateId, State] = {}
        self.rules: dict[PolicyId, Policy] = {}

    def states(self) -> list[State]:
        return [*self.held.values()]

    def policies(self) -> list[Policy]:
        return [*self.rules.values()]

    def change(self, requests: Iterable[Request]) -> list[tuple[Request, int]]:
        refused = []
        for each in requests:
            if each.kind == xfrm.NEWSA:
                new = State.parse(each.body)
                if new.id in self.held:
                    refused.append((each, errno.EEXIST))
                else:
                    self.held[new.id] = new
            elif each.kind == xfrm.DELSA:
                self.held.pop(xfrm.deleted_state(each.body), None)
            elif each.kind == xfrm.UPDPOLICY:
                self.rules[Policy.parse(each.body).id] = Policy.parse(each.body)
            elif each.kind == xfrm.DELPOLICY:
                self.rules.pop(xfrm.deleted_policy(each.body), None)
            elif found := xfrm.counters_of_event(each.body):
                self.held[found[0]] = self.held[found[0]].with_counters(found[1])
        return refused


def made(name: str, peer: str, own: str, other: str, port: int) -> Node:
    """A node whose kernel only remembers."""
    node = object.__new__(Node)
    node.settings = Settings(name, peer, name == "gw1", port, (HeartbeatPath("lo", own, other),), (VIRTUAL,), 3600, 1.0)
    node.near, node.far = replace(RULES, jump=RULES.jump // 4), replace(RULES, jump=2 * RULES.jump)
    node.max_age, node.rules, node.key, node.me = 12.0, RULES, KEY, identity.issue(name)
    node.kernel = Remembers(len(name) + len(own))  # type: ignore[assignment]
    node.reqids, node.names, node.notes = Reqids(int(name == "gw2"), 1), Names(), []
    return node


class Pair:
    """gw1 serves, gw2 holds the copies."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.2", 0)) as free:
            port = free.getsockname()[1]
        self.loop = Loop()
        self.one, self.two = (made("gw1", "gw2", "127.0.0.1", "127.0.0.2", port),
                              made("gw2", "gw1", "127.0.0.2", "127.0.0.1", port))
        self.serving, self.receiving = Serving(self.one), Receiving(self.two, self.loop)
        self.receiving.begin()

    def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Lets both work until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.one.notes, self.two.notes)
            self.turn()

    def turn(self) -> None:
        self.receiving.tick(clock())
        self.serving.tick(clock())
        self.loop.run(self.loop.wait(0))
        links = [*self.receiving.links, *([self.serving.link] if self.serving.link else [])]
        select.select(links, [each for each in links if each.wants_to_write()], [], 0.01)
        for each in links:
            (self.serving if each is self.serving.link else self.receiving).work(each)

    def has(self, *states: State) -> None:
        """The kernel of gw1 has these, made by its daemon."""
        for each in states:
            self.one.kernel.held[each.id] = each
        for direction in (xfrm.IN, xfrm.OUT, xfrm.FORWARD):
            self.one.kernel.rules[policy(direction).id] = policy(direction)
        self.serving.load()

    def complete(self) -> bool:
        return self.receiving.complete and len(self.receiving.copies.states) == len(self.serving.originals.states)


@pytest.fixture
def pair() -> Iterator[Pair]:
    its = Pair()
    yield its
    for each in [*its.receiving.links, *([its.serving.link] if its.serving.link else [])]:
        each.close()
    for sock in its.receiving.listeners.values():
        sock.close()


BOTH = (state(), state(PEER, VIRTUAL, spi=2))


def test_a_node_that_joins_gets_all_of_it(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    assert len(pair.two.kernel.held) == 2 and len(pair.two.kernel.rules) == 3
    assert pair.two.kernel.held[BOTH[0].id].counters.out == RULES.jump
    assert all(each.get(xfrm.MARK) == adoption.MARK_ATTRIBUTE for each in pair.two.kernel.policies())
    pair.until(lambda: clock() - pair.serving.confirmed_at < 0.2)


def test_what_happens_in_the_kernel_reaches_the_standby(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    new = state(spi=77)
    pair.serving.follow([Event(xfrm.NEWSA, 0, new.body())])
    pair.until(lambda: new.id in pair.two.kernel.held)
    told = Counters(5000, 0, 128, bytes(16), True)
    pair.serving.follow([Event(xfrm.NEWAE, 0, xfrm.new_counters(new.id, told))])
    pair.until(lambda: pair.two.kernel.held[new.id].counters.out == 5000 + RULES.jump)
    pair.serving.follow([Event(xfrm.DELSA, 0, new.id.body())])
    pair.until(lambda: new.id not in pair.two.kernel.held)


def test_own_changes_are_no_news(pair):
    pair.has(*BOTH)
    pair.serving.follow([Event(xfrm.DELSA, pair.one.kernel.port, BOTH[0].id.body())])
    assert BOTH[0].id in pair.serving.originals.states


def test_a_broken_connection_ends_in_a_full_comparison(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    pair.serving.lost(pair.serving.link, "the test")
    pair.serving.originals.drop(BOTH[1].id)  # meanwhile
    pair.until(lambda: not pair.receiving.source)
    pair.until(lambda: pair.complete() and pair.receiving.source)
    assert set(pair.two.kernel.held) == {BOTH[0].id}


def test_a_standby_that_takes_nothing_is_called_anew(pair, monkeypatch):
    monkeypatch.setattr(serving, "SILENT_SECONDS", 0.2)
    pair.has(*BOTH)
    pair.until(pair.complete)
    link = pair.serving.link
    monkeypatch.setattr(pair.receiving, "take", lambda _link, _frames: None)
    pair.until(lambda: pair.serving.link is not link)


def test_copies_that_differ_are_asked_for_again_but_not_at_once(pair, monkeypatch):
    """For instance the two nodes have links of different speed: one copies a state that the other refuses."""
    pair.two.rules = adoption.Rules(RULES.addresses, 1 << 62, 3600)
    pair.receiving.begin()
    pair.has(state(out=1 << 63))
    pair.until(lambda: pair.two.notes)
    begun = len(pair.one.notes)
    for _ in range(30):
        pair.turn()
    assert len(pair.one.notes) == begun and not pair.receiving.complete
    monkeypatch.setattr(receiving, "NEED_SECONDS", 0.0)
    pair.receiving.next_need = 0.0
    pair.until(lambda: any("asks for all of it" in each for each in pair.one.notes))


def test_a_flush_on_the_standby_is_put_right(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    pair.two.kernel.held.clear()
    pair.two.kernel.rules.clear()
    pair.receiving.guard([Event(xfrm.FLUSHSA, 0, b"\0"), Event(xfrm.FLUSHPOLICY, 0, b"")])
    assert len(pair.two.kernel.held) == 2 and len(pair.two.kernel.rules) == 3


def test_a_copy_that_the_kernel_has_ended_stays_ended(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    pair.receiving.guard([Event(xfrm.EXPIRE, 0, BOTH[0].head + b"\1" + b"\0" * 7)])
    assert BOTH[0].id not in pair.two.kernel.held and BOTH[0].id not in pair.receiving.copies.states


def test_a_flush_on_the_active_node_takes_no_tunnel_with_it(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    pair.one.kernel.held.clear()
    pair.one.kernel.rules.clear()
    pair.serving.follow([Event(xfrm.FLUSHPOLICY, 0, b""), Event(xfrm.FLUSHSA, 0, b"\0")])
    assert all(adoption.is_adopted(each.reqid) for each in pair.one.kernel.states())
    # ahead of all that it has sent, and behind the copy that the other node has of it
    assert 0 < pair.one.kernel.held[BOTH[0].id].counters.out < RULES.jump
    assert len(pair.one.kernel.rules) == 3
    pair.until(pair.complete)
    pair.until(lambda: all(adoption.is_adopted(each.reqid) for each in pair.receiving.copies.states.values()))


def test_who_gives_the_role_away_has_no_outbound_state_left_and_gets_it_back_ahead(pair):
    pair.has(*BOTH)
    pair.serving.stop("the role is given away")
    assert set(pair.one.kernel.held) == {BOTH[1].id}
    pair.serving.again()
    # ahead of the other node as well, which may have served meanwhile with its copy
    assert pair.one.kernel.held[BOTH[0].id].counters.out == 2 * RULES.jump
    assert pair.one.kernel.held[BOTH[0].id].reqid == BOTH[0].reqid


def test_copies_that_are_too_old_are_not_adopted(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    assert pair.receiving.adopt()[:2] == (2, 3)
    pair.receiving.heard_at -= pair.two.max_age + 1
    assert pair.receiving.adopt()[:2] == (0, 0) and not pair.two.kernel.held
    assert "renegotiate" in pair.two.notes[-1]


def test_an_adopted_tunnel_ends_once_its_peer_has_a_new_one(pair, monkeypatch):
    monkeypatch.setattr(serving, "GRACE_SECONDS", 0.1)
    old = adoption.copied_state(state(), RULES, 0x40000005)
    before = adoption.copied_policy(policy(), Reqids(0, 1)).with_reqids(lambda _reqid: 0x40000005)
    pair.one.kernel.held[old.id], pair.one.kernel.rules[before.id] = old, before
    pair.serving.load()
    assert [(each["inner"], each["reqid"]) for each in pair.serving.adopted()] == [("198.51.100.161/32", 0x40000005)]
    new = state(spi=9)
    pair.one.kernel.held[new.id], pair.one.kernel.rules[policy().id] = new, policy()
    pair.serving.follow([Event(xfrm.NEWSA, 0, new.body()), Event(xfrm.NEWPOLICY, 0, policy().body())])
    pair.until(lambda: old.id not in pair.one.kernel.held)
    assert set(pair.one.kernel.held) == {new.id} and set(pair.one.kernel.rules) == {policy().id}


def test_who_comes_from_elsewhere_ends_the_adopted_tunnel_at_once(pair, monkeypatch):
    """The daemon knows no leases: it may give an address that is in use to somebody else.

    Nobody gets both's packets.
    """
    monkeypatch.setattr(serving, "GRACE_SECONDS", 60)
    old = adoption.copied_state(state(), RULES, 0x40000005)
    before = adoption.copied_policy(policy(), Reqids(0, 1)).with_reqids(lambda _reqid: 0x40000005)
    pair.one.kernel.held[old.id], pair.one.kernel.rules[before.id] = old, before
    pair.serving.load()
    other = policy(peer="203.0.113.77")
    new = state(to="203.0.113.77", spi=9)
    pair.serving.follow([Event(xfrm.NEWSA, 0, new.body()), Event(xfrm.NEWPOLICY, 0, other.body())])
    pair.until(lambda: old.id not in pair.one.kernel.held, 1)


def test_adopted_states_to_which_no_policy_leads_end(pair, monkeypatch):
    monkeypatch.setattr(serving, "GRACE_SECONDS", 0.05)
    left = adoption.copied_state(state(), RULES, 0x40000005)
    pair.one.kernel.held[left.id] = left
    pair.serving.load()
    pair.until(lambda: not pair.one.kernel.held)


def test_policies_whose_states_have_come_to_their_end_go_too(pair, monkeypatch):
    monkeypatch.setattr(serving, "GRACE_SECONDS", 0.05)
    left = adoption.copied_policy(policy(), Reqids(0, 1))
    pair.one.kernel.rules = {left.id: left, policy(inner="198.51.100.170").id: policy(inner="198.51.100.170")}
    pair.serving.load()
    pair.until(lambda: len(pair.one.kernel.rules) == 1)
    assert not next(iter(pair.one.kernel.rules.values())).get(xfrm.MARK)


def test_after_two_flushes_two_tunnels_still_have_reqids_of_their_own(pair):
    """Each daemon counts from 16388 again: the second one's first tunnel must not get the reqid of the first one's."""
    def crash() -> None:
        pair.one.kernel.held.clear()
        pair.one.kernel.rules.clear()
        pair.serving.follow([Event(xfrm.FLUSHPOLICY, 0, b""), Event(xfrm.FLUSHSA, 0, b"\0")])

    pair.has(state())
    crash()
    later = state(spi=99, to="203.0.113.77")
    pair.one.kernel.held[later.id] = later
    pair.serving.load()
    crash()
    reqids = {each.reqid for each in pair.one.kernel.states()}
    assert len(reqids) == 2 and all(map(adoption.is_adopted, reqids))


def test_a_standby_forgets_which_reqid_meant_which_tunnel(pair):
    pair.has(state())
    pair.until(pair.complete)
    first = pair.two.kernel.held[state().id].reqid
    pair.receiving.begin()
    assert pair.two.reqids.adopted(state().reqid) != first


def test_numbers_that_the_kernel_refuses_make_the_state_anew(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    remembered = pair.two.kernel.change

    def refuses(requests: Iterable[Request]) -> list[tuple[Request, int]]:
        requests = list(requests)
        return [(each, errno.EINVAL) for each in requests if each.kind == xfrm.NEWAE] + remembered(
            each for each in requests if each.kind != xfrm.NEWAE)

    pair.two.kernel.change = refuses
    told = Counters(5000, 0, 128, bytes(16), True)
    pair.serving.follow([Event(xfrm.NEWAE, 0, xfrm.new_counters(BOTH[0].id, told))])
    pair.until(lambda: pair.two.kernel.held[BOTH[0].id].counters.out == 5000 + RULES.jump)


def test_what_is_there_is_not_made_again(pair):
    pair.has(*BOTH)
    pair.until(pair.complete)
    asked: list[Request] = []
    pair.two.kernel.change = lambda requests: asked.extend(requests) or []
    pair.receiving.guard([Event(xfrm.DELSA, 0, BOTH[0].id.body())])
    assert asked == []


def test_no_node_puts_its_own_states_as_far_ahead_as_the_other_ones_copies(pair):
    for megabits in (10, 100, 469, 1000, 10_000, 400_000):
        for seconds in (10.6, 12, 30, 1210):
            jump = adoption.jump(megabits, seconds)
            assert megabits * 1e6 / adoption.SMALLEST_FRAME_BITS < near(jump, megabits) < jump


def test_a_person_is_ended_by_the_inner_network(pair):
    pair.has(adoption.copied_state(state(), RULES, 0x40000005))
    mine = adoption.copied_policy(policy(), Reqids(0, 1)).with_reqids(lambda _reqid: 0x40000005)
    pair.one.kernel.rules = {mine.id: mine}
    pair.serving.load()
    assert pair.serving.end_inner(["198.51.100.99/32"]) == 0
    assert pair.serving.end_inner(["198.51.100.161/32"]) == 1 and not pair.one.kernel.held
