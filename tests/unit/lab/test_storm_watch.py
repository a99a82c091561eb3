"""The watch sees who answers; that it fails is never silence."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from lab.storm.calendar import Calendar
from lab.storm.invariants import Invariants, Violation
from lab.storm.watch import Place, Seen, echo_request, parse, who_has
from lab.storm.watcher import StormFailed, Watcher, cards, places
from lab.topology import Counter, site

GW1 = "02:00:00:00:00:01"
ADDRESS = "192.0.2.10"
# Frames in which gw1 answers the router, announces itself, answers a ping (RFC 826, 5227, 792).
REPLY = bytes.fromhex("02000000ff01" "020000000001" "0806" "0001080006040002" "020000000001" "c000020a"
                      "02000000ff01" "c0000201")
ANNOUNCED = bytes.fromhex("ffffffffffff" "020000000001" "0806" "0001080006040001" "020000000001" "c000020a"
                          "000000000000" "c000020a")
PONG = bytes.fromhex("02000000ff01" "020000000001" "0800" "4500001c0000400040010000c000020ac0000201"
                     "0000ffff00000000")


@pytest.mark.parametrize("frame, seen", [
    (REPLY, Seen("arp", ADDRESS, GW1)), (ANNOUNCED, Seen("arp", ADDRESS, GW1)), (PONG, Seen("ping", ADDRESS, GW1)),
    (who_has(ADDRESS), None),                # a question is no answer
    (PONG[:34] + b"\x08" + PONG[35:], None),                      # so is a ping
    (PONG[:23] + b"\x11" + PONG[24:], None),                      # UDP
    (PONG[:30], None), (REPLY[:30], None), (b"", None)])
def test_a_frame_is_an_answer_or_none(frame, seen):
    assert parse(frame) == seen


def test_options_in_a_header_move_what_follows():
    header = b"\x46" + PONG[15:34] + b"\x01\x01\x01\x01"
    assert parse(PONG[:14] + header + PONG[34:]) == Seen("ping", ADDRESS, GW1)


@pytest.mark.parametrize("number", [0, 1, 0xFFFF, 0x12345])
def test_the_checksum_of_a_ping_is_right(number):
    packet = echo_request(number)
    total = sum(int.from_bytes(packet[at:at + 2], "big") for at in range(0, len(packet), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF             # RFC 1071


def test_it_asks_on_both_sides_of_the_gateways_and_knows_their_cards():
    its = site("winterthur", Counter())
    assert places(its, "internet") == [Place("internet", "winterthur", "192.0.2.10"),
                                       Place("server-winterthur", "eth0", "198.51.100.10")]
    assert sorted(cards(its).values()) == ["gw1"] * 3 + ["gw2"] * 3


def watcher(program: str | None = None, found: Callable[[Violation], None] = lambda _violation: None) -> Watcher:
    where = [Place("no-such-namespace", "eth0", ADDRESS)]
    more = {} if program is None else {"program": (sys.executable, "-u", "-c", program)}
    return Watcher(where, lambda begun: Invariants(Calendar("fast"), {GW1: "gw1"}, [ADDRESS], begun), found, **more)


def test_a_watch_that_can_not_start_fails_the_storm(capfd):
    with pytest.raises(StormFailed, match="does not start"):
        watcher()
    assert "no-such-namespace" in capfd.readouterr().err


@pytest.mark.parametrize("rest, why", [
    ("sys.exit(3)", "ended with 3"), ("print('nonsense'); time.sleep(60)", "JSONDecodeError"),
    ("print('[\"arp\", 1]'); time.sleep(60)", "the watch said"),
    (f"print('[\"arp\", 1.5, \"192.0.2.99\", \"{GW1}\"]'); time.sleep(60)", "KeyError")])
def test_a_watch_that_fails_later_fails_the_storm(rest, why):
    its = watcher(f"import sys, time; print('[\"asking\"]'); {rest}")
    try:
        with pytest.raises(StormFailed, match=why):
            for _ in range(100):
                its.check()
                time.sleep(0.05)
    finally:
        its.stop()


def test_a_watch_that_says_nothing_any_more_fails_the_storm(monkeypatch):
    monkeypatch.setattr("lab.storm.watcher.SILENT_SECONDS", 0.2)
    its = watcher("import time; print('[\"asking\"]'); time.sleep(60)")
    try:
        its.check()
        time.sleep(0.3)
        with pytest.raises(StormFailed, match="said nothing"):
            its.check()
    finally:
        its.stop()


def test_what_the_watch_sees_reaches_whoever_asked():
    found: list[Violation] = []
    line = f'["arp", 5.0, "{ADDRESS}", "02:00:00:00:00:99"]'
    its = watcher(f"import time; print('[\"asking\"]'); print('{line}'); print('[\"tick\", 6.0, 0.5]'); time.sleep(60)",
                  found.append)
    try:
        for _ in range(100):
            if its.processor_seconds:
                break
            time.sleep(0.05)
        assert its.processor_seconds == 0.5 and [each.what for each in found] == ["stranger"]
        its.check()
    finally:
        its.stop()
