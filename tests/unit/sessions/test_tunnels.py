"""Originals on one node, copies on the other: what the kernel of the standby is asked for."""
from __future__ import annotations

from sessions import adoption, tunnels, xfrm
from sessions.adoption import Reqids
from sessions.kernel import Event, Request
from sessions.tunnels import Copies, DropPolicy, DropState, Numbers, Originals, PutPolicy, PutState
from sessions.xfrm import Counters, Policy, State
from tests.unit.sessions.made import PEER, RULES, VIRTUAL, policy, state


def copies() -> Copies:
    return Copies(RULES, Reqids(0, 1))


def kinds(requests: list[Request]) -> list[int]:
    return [each.kind for each in requests]


def test_a_policy_waits_for_its_states_and_goes_before_the_last_of_them():
    its = copies()
    assert its.handle(PutPolicy(policy())) == []
    assert kinds(its.handle(PutState(state()))) == [xfrm.NEWSA, xfrm.UPDPOLICY]
    assert kinds(its.handle(PutState(state(PEER, VIRTUAL, spi=2)))) == [xfrm.NEWSA]
    assert kinds(its.handle(DropState(state().id))) == [xfrm.DELSA]
    assert kinds(its.handle(DropState(state(PEER, VIRTUAL, spi=2).id))) == [xfrm.DELPOLICY, xfrm.DELSA]
    assert kinds(its.handle(PutState(state()))) == [xfrm.NEWSA, xfrm.UPDPOLICY]


def test_state_and_policy_get_the_same_adopted_reqid():
    its = copies()
    new, = its.handle(PutState(state()))
    inert, = its.handle(PutPolicy(policy()))
    assert Policy.parse(inert.body).reqids == {State.parse(new.body).reqid}


def test_numbers_reach_the_copy_ahead_for_outbound_and_as_they_are_for_inbound():
    its = copies()
    for each in (state(), state(PEER, VIRTUAL, spi=2)):
        its.handle(PutState(each))
    told = Counters(1000, 0, 128, bytes(16), True)
    request, = its.handle(Numbers(state().id, told))
    assert xfrm.counters_of_event(request.body) == (state().id, Counters(1000 + RULES.jump, 0, 128, bytes(16), True))
    told = Counters(0, 555, 128, b"\1" * 16, True)
    request, = its.handle(Numbers(state(PEER, VIRTUAL, spi=2).id, told))
    assert xfrm.counters_of_event(request.body) == (state(PEER, VIRTUAL, spi=2).id, told)
    assert its.handle(Numbers(state(spi=99).id, told)) == []


def test_a_state_that_is_another_one_now_is_made_anew():
    its = copies()
    its.handle(PutState(state()))
    assert kinds(its.handle(PutState(state(key=b"another key of the same length!!")))) == [xfrm.DELSA, xfrm.NEWSA]
    assert kinds(its.handle(PutState(state(reqid=16392)))) == [xfrm.DELSA, xfrm.NEWSA]
    assert len(its.users) == 1


def test_what_this_nodes_rules_refuse_is_not_taken_whatever_the_other_says():
    its = copies()
    for wrong in (state(key=bytes(32)), state("192.0.2.99", PEER), state(more=((xfrm.OFFLOAD_DEV, bytes(8)),))):
        assert its.handle(PutState(wrong)) == []
    assert its.handle(PutPolicy(policy(mark=b"\1" * 8))) == []
    assert not its.states and not its.policies


def test_of_two_policies_for_the_same_networks_the_daemons_own_is_copied():
    """A client that has renegotiated: on the active node its adopted tunnel and the new one stand side by side."""
    its = copies()
    old = adoption.copied_policy(policy(reqid=20), Reqids(1, 5))
    old_reqid, = old.reqids
    its.handle(PutState(state(reqid=old_reqid)))
    first, = its.handle(PutPolicy(old))
    assert Policy.parse(first.body).reqids == {old_reqid}
    its.handle(PutPolicy(policy(reqid=16388)))
    _new, second = its.handle(PutState(state(spi=9, reqid=16388)))
    assert Policy.parse(second.body).reqids != {old_reqid}
    third, _gone = its.handle(DropState(state(spi=9).id))
    assert Policy.parse(third.body).reqids == {old_reqid}
    assert kinds(its.handle(DropPolicy(old.id))) == [xfrm.DELPOLICY]


def test_after_a_full_comparison_nothing_is_left_that_was_not_named():
    its = copies()
    for each in (PutState(state()), PutState(state(spi=2, reqid=16392)), PutPolicy(policy())):
        its.handle(each)
    gone = its.reduce({state().id}, set())
    assert sorted(kinds(gone)) == [xfrm.DELSA, xfrm.DELPOLICY]
    assert set(its.states) == {state().id} and not its.installed


def test_after_a_flush_all_of_it_comes_again_states_first():
    its = copies()
    for each in (PutState(state()), PutPolicy(policy()), PutPolicy(policy(xfrm.IN))):
        its.handle(each)
    assert kinds(its.again()) == [xfrm.NEWSA, xfrm.UPDPOLICY, xfrm.UPDPOLICY]


def test_what_an_earlier_process_left_in_the_kernel_goes_and_the_daemons_own_stays():
    its = copies()
    its.handle(PutState(state()))
    left = adoption.copied_state(state(spi=7), RULES, adoption.FIRST_REQID + 77)
    pale = adoption.copied_policy(policy(inner="198.51.100.170"), Reqids(0, 3))
    gone = its.foreign([left, state(spi=8), its.copy(state())], [pale, policy()])
    assert kinds(gone) == [xfrm.DELPOLICY, xfrm.DELSA]
    assert gone[1].body == left.id.body()


def test_verify_names_what_the_kernel_lacks_and_no_key():
    its = copies()
    for each in (PutState(state()), PutState(state(spi=2)), PutPolicy(policy())):
        its.handle(each)
    there = [its.copy(state(key=b"not the key that it should have!!!"))]
    wrong = its.missing(there, [])
    assert len(wrong) == 3 and not [line for line in wrong if "0123456789abcdef" in line]
    assert its.missing([its.copy(each) for each in its.states.values()], list(its.installed.values())) == []


def test_the_digest_tells_a_wrong_key_a_missing_policy_and_nothing_between_connections():
    both = [state(), state(spi=2)], [policy()]
    assert tunnels.digest(*both, b"n") == tunnels.digest(both[0][::-1], both[1], b"n")
    others = {tunnels.digest(*each) for each in (
        (*both, b"n"), (*both, b"m"), (both[0], [], b"n"), ([state(key=b"x" * 34), both[0][1]], both[1], b"n"))}
    assert len(others) == 4
    moved = [both[0][0].with_counters(Counters(5, 0, 128, bytes(16), True)), both[0][1]]
    assert tunnels.digest(moved, both[1], b"n") == tunnels.digest(*both, b"n")  # numbers are always on the move


def test_the_active_node_follows_its_kernel():
    its = Originals(RULES)
    assert its.handle(Event(xfrm.NEWSA, 5, state().body())) == [PutState(state())]
    assert its.handle(Event(xfrm.NEWPOLICY, 5, policy().body())) == [PutPolicy(policy())]
    told = Counters(9, 0, 128, bytes(16), True)
    assert its.handle(Event(xfrm.NEWAE, 0, xfrm.new_counters(state().id, told))) == [Numbers(state().id, told)]
    assert its.states[state().id].counters == told
    assert its.handle(Event(xfrm.DELSA, 5, state().id.body())) == [DropState(state().id)]
    assert its.handle(Event(xfrm.DELPOLICY, 5, policy().id.body())) == [DropPolicy(policy().id)]
    assert its.handle(Event(xfrm.DELSA, 5, state().id.body())) == []


def test_only_a_hard_limit_ends_a_state():
    its = Originals(RULES)
    its.put(state())
    assert its.handle(Event(xfrm.EXPIRE, 0, state().head + b"\0" * 8)) == []
    assert its.handle(Event(xfrm.EXPIRE, 0, state().head + b"\1" + b"\0" * 7)) == [DropState(state().id)]


def test_a_state_whose_numbers_come_near_the_end_is_copied_no_longer():
    its = Originals(RULES)
    its.put(state(esn=False))
    told = Counters((1 << 32) - 10, 0, 128, bytes(16), True)
    assert its.handle(Event(xfrm.NEWAE, 0, xfrm.new_counters(state().id, told))) == [DropState(state().id)]
    assert "renegotiate" in its.refused[state().id]


def test_states_of_others_are_not_followed():
    its = Originals(RULES)
    assert its.handle(Event(xfrm.NEWSA, 5, state("192.0.2.99", PEER).body())) == []
    assert not its.refused
