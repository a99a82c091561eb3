"""Only what a node has signed is taken from the bus, and nothing that anybody else has put there."""
from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
import salt.payload

from alerts import authentic
from nodes import answers
from nodes.feed import Outside
from resync import bus, events
from tests.conftest import EXAMPLES

SECRET = bytes(32)
GW1 = "gw1.winterthur"
NOW = time.time()


@pytest.fixture
def sorter():
    return bus.Sorter(SECRET, authentic.Sites([str(EXAMPLES)]))


def event(number: int = 1, minion: str = GW1, signer: str = "", **more) -> dict:
    now = datetime.fromtimestamp(NOW, UTC).isoformat(timespec="milliseconds")
    its = {"version": 1, "journal": "00112233aabbccdd", "n": number, "id": minion, "site": "bern", "node": "gw9",
           "role": "active", "beacon": "drift", "condition": "file_changed", "subject": "/etc/ipsec.conf",
           "severity": "warning", "was": "as written", "is": "changed", "since": now, "at": now, "recovered": False,
           "once": False, "cause": "", "facts": {"formula": "openswan"}} | more
    return authentic.sign(its, authentic.key_of(SECRET, signer or minion))


def message(data: object, tag: str = f"salt/beacon/{GW1}/drift/file_changed") -> bytes:
    return tag.encode() + b"\n\n" + salt.payload.dumps(data)


def test_signed_drift_with_the_site_of_its_id(sorter):
    assert sorter.sort(message(event()), NOW) == events.Drifted(
        "winterthur", GW1, "file_changed", "/etc/ipsec.conf", "openswan", True)
    assert sorter.sort(message(event(2, recovered=True)), NOW).present is False


def test_a_node_that_was_not_compared(sorter):
    tag = f"salt/beacon/{GW1}/drift/not_compared"
    told = event(condition="not_compared", subject="node", severity="info")
    assert sorter.sort(message(told, tag), NOW) == events.Returned("winterthur", GW1, True)


@pytest.mark.parametrize("raw", [
    message(event(signer="gw2.winterthur")),
    message(event(), "salt/beacon/gw2.winterthur/drift/file_changed"),
    message(event(minion="laptop.winterthur"), "salt/beacon/laptop.winterthur/drift/file_changed"),
    message(event(minion="gw1.nowhere"), "salt/beacon/gw1.nowhere/drift/file_changed"),
    message({**event(), "signature": ""}), message({**event(), "facts": {"formula": "kernel"}}),
    message(event(beacon="ipsec")), message(event(once=True)), message([]), message(None), message("{{ 7 }}"),
    message({**event(), "subject": "x" * 100_000}),
    b"salt/beacon/gw1.winterthur/drift/file_changed\n\n\xff\xff", b"salt/beacon//drift/", b"", b"\n\n",
    message(event(), f"salt/beacon/{GW1}/ipsec/file_changed"),
    message(event(), "gateway/resync/order"),
    message(event(minion="master", signer=GW1, beacon="resync", condition="stop"), bus.ORDER_TAG),
    message({"id": GW1}, "salt/minion/../start"), message({}, "salt/minion/web.elsewhere/start"),
    message({}, "salt/minion/laptop.winterthur/start"), message({}, f"salt/minion/{GW1}/{'x' * 1000}/start"),
    message({}, "salt/minion/\udcff/start".encode("utf-8", "surrogateescape").decode("latin-1")),
])
def test_nothing_else_leads_to_anything(sorter, raw):
    assert sorter.sort(raw, NOW) is None


def test_what_was_there_already_is_not_taken_again(sorter):
    assert sorter.sort(message(event(5)), NOW)
    assert sorter.sort(message(event(5)), NOW) is None and sorter.sort(message(event(4)), NOW) is None
    assert sorter.sort(message(event(1, journal="ffffffffffffffff")), NOW) is None, "the node is asked for it"


def test_a_formula_that_is_no_text_is_none(sorter):
    assert sorter.sort(message(event(facts={"formula": ["openswan"]})), NOW).formula == ""


def test_a_started_minion_is_asked_and_not_a_thousand_times(sorter):
    start = message({"id": "laptop"}, f"salt/minion/{GW1}/start")
    assert sorter.sort(start, NOW) == events.Reconnected("winterthur", GW1)
    assert not any(sorter.sort(start, NOW + each / 1000) for each in range(1000))
    assert sorter.sort(start, NOW + 6)


def test_an_order_is_signed_fresh_and_followed_once(sorter):
    order = bus.order("stop", "bern", SECRET, "0011223344556677", 1)
    assert sorter.sort(message(order, bus.ORDER_TAG), time.time()) == events.Order("stop", "bern")
    assert sorter.sort(message(order, bus.ORDER_TAG), time.time()) is None
    late = bus.order("now", "bern", SECRET, "8811223344556677", 1)
    assert sorter.sort(message(late, bus.ORDER_TAG), time.time() + 120) is None
    assert sorter.sort(message(bus.order("dance", "", SECRET, "99aabbccdd", 1), bus.ORDER_TAG), time.time()) is None


def test_ten_thousand_forged_events_take_seconds_at_most(sorter):
    forged = message(event(signer="gw2.winterthur"))
    begun = time.perf_counter()
    assert not any(sorter.sort(forged, NOW) for _ in range(1000))
    assert time.perf_counter() - begun < 2


def asking(sorter, *minions: str) -> list:
    """Gives the sorter nodes that can be asked; returns what it asks."""
    asked: list = []

    def publish(what, whom, arguments):
        asked.append((sorter.feed.expect(f"job{len(asked)}", what, whom), whom, arguments))

    sorter.feed._outside = Outside(publish, lambda: minions, lambda *_: None)
    sorter.feed.look_for_gateways(NOW)
    return asked


def due(sorter, after: float) -> list:
    found = sorter.due(NOW + after)
    while sorter.feed.asks:
        sorter.feed._outside.publish(*sorter.feed.asks.popleft())
    return found


def said(asked: answers.Question, value: object, minion: str = GW1) -> dict:
    fields = {"id": minion, "nonce": asked.nonce, "function": asked.function, "job": asked.job, "at": NOW, "retcode": 0,
              "error": "", "answer": value}
    return {"return": {**fields, "signature": answers.signature(fields, authentic.key_of(SECRET, minion))}}


def test_an_event_that_was_overtaken_is_taken(sorter):
    assert sorter.sort(message(event(1, subject="/a")), NOW).subject == "/a"
    assert sorter.sort(message(event(3, subject="/c")), NOW) is None
    assert sorter.sort(message(event(2, subject="/b")), NOW).subject == "/b"
    assert [each.subject for each in sorter.due(NOW)] == ["/c"]


def test_one_that_was_lost_is_asked_for_and_another_beacons_is_no_gap(sorter):
    asked = asking(sorter, GW1)
    assert sorter.sort(message(event(1, subject="/a")), NOW)
    other = event(2, beacon="ipsec", condition="tunnel_down")
    assert sorter.sort(message(other, f"salt/beacon/{GW1}/ipsec/tunnel_down"), NOW) is None
    assert sorter.sort(message(event(4, subject="/d")), NOW) is None
    assert [each.subject for each in due(sorter, 1)] == ["/d"]
    question, whom, arguments = next(each for each in asked if each[0].what == "since")
    assert (whom, arguments) == ([GW1], [2, event()["journal"]])
    raw = message(said(question, {"journal": event()["journal"], "newest": 4, "taken": 0,
                                  "events": [event(3, subject="/c"), event(4, subject="/d")]}),
                  f"salt/job/{question.job}/ret/{GW1}")
    assert sorter.sort(message({"return": {"journal": event()["journal"], "newest": 9, "taken": 0, "events": []}},
                               f"salt/job/{question.job}/ret/{GW1}"), NOW + 1) is None
    found = sorter.sort(raw, NOW + 1)
    assert found.subject == "/c" and found.formula == "openswan" and sorter.due(NOW + 1) == []


def test_after_salt_has_connected_anew_all_nodes_are_asked(sorter):
    asked = asking(sorter, GW1)
    sorter.sort(message(event(1)), NOW)
    due(sorter, 1)
    asked.clear()
    sorter.lost()
    due(sorter, 2)
    assert [(each[0].what, each[1]) for each in asked] == [("newest", [GW1])]


def test_a_replayed_report_after_a_start_is_no_report(sorter):
    at = datetime.fromtimestamp(NOW - 900, UTC).isoformat(timespec="milliseconds")
    assert sorter.sort(message(event(7, at=at)), NOW) is None and sorter.due(NOW + 20) == []


def test_what_a_node_says_is_the_case_counts_only_if_it_has_signed_it(sorter):
    asked = asking(sorter, GW1)
    sorter.feed.ask_conditions([GW1])
    due(sorter, 1)
    (question, _whom, _arguments), = asked
    tag = f"salt/job/{question.job}/ret/{GW1}"
    assert sorter.sort(message({"return": [event(1)]}, tag), NOW + 1) is None
    assert sorter.sort(message(said(question, [event(1)], "gw2.winterthur"), tag), NOW + 1) is None
    assert sorter.sort(message(said(question, [event(1)]), tag), NOW + 1).subject == "/etc/ipsec.conf"
