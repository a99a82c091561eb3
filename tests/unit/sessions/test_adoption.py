"""The arithmetic on which the safety of a takeover rests.

Nothing is sent twice under one number, and nothing that the peer sends is refused.
"""
from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions import adoption, xfrm
from sessions.adoption import MARK_ATTRIBUTE, MIN_JUMP, Reqids, Rules
from tests.unit.sessions.made import PEER, RULES, VIRTUAL, packed, policy, state


def test_an_outbound_state_goes_ahead_and_an_inbound_one_never():
    out, into = state(out=5), state(PEER, VIRTUAL, into=700)
    assert adoption.copied_state(out, RULES, 1).counters.out == 5 + MIN_JUMP
    copied = adoption.copied_state(into, RULES, 1).counters
    assert (copied.into, copied.out) == (700, 0)


@given(confirmed=st.integers(0, (1 << 64) - 1), sent=st.integers(0, 1 << 40), jump=st.integers(MIN_JUMP, 1 << 40),
       esn=st.booleans())
def test_what_a_node_sends_after_a_takeover_was_never_sent_before(confirmed, sent, jump, esn):
    """`sent`: what the dead node has sent since the last confirmed number; the jump is made for that many at least."""
    end = adoption.ESN_NUMBERS if esn else adoption.NUMBERS
    confirmed %= end
    rules = Rules(RULES.addresses, jump, 28800)
    original = state(out=confirmed, esn=esn)
    if adoption.refusal(original, rules):
        return
    first = adoption.copied_state(original, rules, 1).counters.out + 1
    assert first < end
    if sent <= jump:
        assert first > confirmed + sent


@given(moves=st.lists(st.integers(0, MIN_JUMP), max_size=30), esn=st.booleans())
def test_over_many_takeovers_numbers_only_rise_and_end_before_they_wrap(moves, esn):
    original = state(out=0, esn=esn)
    last = 0
    for sent in moves:
        if adoption.refusal(original, RULES):
            assert not esn and last > adoption.NUMBERS - 3 * MIN_JUMP
            return
        original = adoption.copied_state(original, RULES, 0x40000000)
        assert original.counters.out >= last + MIN_JUMP
        last = original.counters.out + sent
        assert last < (adoption.ESN_NUMBERS if esn else adoption.NUMBERS)
        original = original.with_counters(adoption.replace(original.counters, out=last))


def test_without_extended_numbers_nothing_is_adopted_near_the_end():
    assert "renegotiate" in adoption.refusal(state(out=(1 << 32) - 2 * MIN_JUMP, esn=False), RULES)
    assert not adoption.refusal(state(out=(1 << 32) - 2 * MIN_JUMP, esn=True), RULES)
    assert not adoption.refusal(state(PEER, VIRTUAL, into=(1 << 32) - 5, esn=False), RULES)


def test_the_bitmaps_format_does_not_make_it_extended():
    """pluto uses the wide format for every window above 32; only the flag says that 64 bits count."""
    assert not adoption.extended(state(esn=False)) and state(esn=False).counters.wide


@pytest.mark.parametrize(("more", "word"), [
    ((xfrm.OFFLOAD_DEV, bytes(8)), "offload"),
    ((xfrm.SEC_CTX, bytes(8)), "security context"),
    ((xfrm.SA_PCPU, bytes(4)), "processor"),
    ((xfrm.SA_EXTRA_FLAGS, struct.pack("=I", 2)), "oseq-may-wrap")])
def test_what_can_not_be_copied_safely_is_refused(more, word):
    assert word in adoption.refusal(state(more=(more,)), RULES)


def test_a_state_without_its_key_is_refused():
    assert "lockdown" in adoption.refusal(state(key=bytes(20)), RULES)
    assert "no key yet" in adoption.refusal(state().without(xfrm.ALG_AEAD), RULES)


def test_a_state_of_another_address_is_none_of_ours():
    assert "virtual IP" in adoption.refusal(state("192.0.2.11", PEER), RULES)


def test_a_copy_keeps_its_age_and_gets_an_end():
    copied = adoption.copied_state(state(), RULES, 0x40000002)
    assert copied.get(xfrm.LTIME_VAL) == state().head[160:192] and copied.added == state().added
    assert struct.unpack_from("=Q", copied.head, 136)[0] == 28800
    assert not copied.get(xfrm.LASTUSED) and copied.reqid == 0x40000002
    assert struct.unpack_from("=I", copied.head, 204)[0] == 0


def test_the_end_of_an_adopted_state_is_never_put_off():
    first = adoption.copied_state(state(), Rules(RULES.addresses, MIN_JUMP, 600), 0x40000002)
    again = adoption.copied_state(first, RULES, 0x40000002)
    assert struct.unpack_from("=Q", again.head, 136)[0] == 600


def test_a_copied_policy_matches_marked_packets_only_and_comes_after_the_daemons():
    copied = adoption.copied_policy(policy(), Reqids(0, 1))
    assert copied.get(xfrm.MARK) == MARK_ATTRIBUTE and copied.priority > 0x40000000 > policy().priority
    assert all(map(adoption.is_adopted, copied.reqids))
    assert adoption.copied_policy(copied, Reqids(0, 9)) == copied  # adopted once more it stays as it is


def test_the_order_among_adopted_policies_is_that_among_the_originals():
    one, two = (adoption.copied_policy(policy(priority=each), Reqids(0, 1)).priority for each in (100, 200))
    assert one < two


def test_policies_of_other_addresses_or_marks_stay_out():
    assert adoption.is_copied(policy(), RULES)
    assert not adoption.is_copied(policy(mark=struct.pack("=II", 7, 0xFF)), RULES)
    assert not adoption.is_copied(policy(), Rules(frozenset({packed("192.0.2.99")}), MIN_JUMP, 60))
    assert not adoption.is_copied(policy().without(xfrm.TMPL), RULES)


@given(st.lists(st.tuples(st.booleans(), st.integers(16388, 16500)), max_size=200), st.integers(0, 1 << 40))
def test_two_tunnels_never_get_one_reqid(given_out, start):
    """Both nodes count from 16388: what one gives out, the other does not, nor what is in use already."""
    nodes = Reqids(0, start), Reqids(1, start)
    nodes[0].seen([adoption.FIRST_REQID + 2 * ((start + 1) % (1 << 29))])
    given = {(which, reqid): nodes[which].adopted(reqid) for which, reqid in given_out}
    assert len(set(given.values())) == len(given)
    assert all(map(adoption.is_adopted, given.values()))
    assert all(nodes[1 - which].adopted(new) == new for (which, _), new in given.items())


def test_the_jump_follows_the_link():
    assert adoption.jump(100, 1) == MIN_JUMP
    ten_gigabits = adoption.jump(10_000, 20)
    assert ten_gigabits > 14_880_000 * 20  # the most frames that such a link carries in that time
