"""From a message on the bus to a reaction, through the whole engine: only what is verified and new, and only once."""
from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from alerts import authentic, files, reaction_queue, service
from alerts.reaction_settings import Settings
from alerts.reaction_worker import Worker
from alerts.reactions import Reactions
from alerts.reactor import MAX_WRONG_BYTES
from tests.unit.alerts.events import SECRET, T, made, wire
from tests.unit.alerts.test_reactions import rule
from tests.unit.alerts.test_service import GW1, World, answer, step, tag

# A process that writes down what it is given, and answers as the event's subject says.
PROGRAM = """\
import json, sys, time
for line in sys.stdin:
    item = json.loads(line)
    with open(sys.argv[1], "a") as file:
        print(item["data"]["number"], item["data"]["phase"], file=file)
    if item["texts"]["subject"] != "hangs":
        wrong = "broken" if item["texts"]["subject"] == "fails" else ""
        print(json.dumps({"number": item["number"], "wrong": wrong}), flush=True)
"""


class Engine(World):
    """The engine with one reaction to everything. Its clock is that of the events."""

    def __init__(self, folder: Path, limit: int = 1000) -> None:
        super().__init__()
        self.folder, self.limit, self.workers = folder, limit, []
        self.config, self.now = {"targets": {}, "routes": []}, T
        (folder / "sites").mkdir()
        (folder / "sites/winterthur.sls").write_text("gateway: {nodes: {gw1: {}, gw2: {}}}")
        self.start()

    def start(self) -> None:
        """A new engine. (The old one is left as after kill -9, but its threads end.)"""
        for worker in self.workers:
            worker.stop()
        worker = Worker([sys.executable, "-c", PROGRAM, str(self.folder / "seen")])
        self.workers.append(worker)
        wanted = Settings((rule(phases=("opened", "update", "recovery", "happened"), limit=self.limit, timeout=1.0),))
        self.service = service.Service(
            self.folder / "state", SECRET, authentic.Sites([str(self.folder)]), self.outside(), None, presence=0,
            reactions=Reactions(self.folder / "state", wanted, worker))
        self.service._look_for_gateways(self.now)

    def offer(self, *events: authentic.Event) -> None:
        for event in events:
            self.service.offer(tag(event), wire(event))

    def settle(self) -> list[str]:
        """Waits until all reactions have run; what was reacted to."""
        step(self)
        until = time.monotonic() + 60
        its = self.service._reactions
        while (len(its._queue) or its._queue._begun) and time.monotonic() < until:
            time.sleep(0.02)
        step(self)
        try:
            return (self.folder / "seen").read_text().splitlines()
        except FileNotFoundError:
            return []


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setattr("alerts.spool.os.fsync", lambda _handle: None)
    its = Engine(tmp_path)
    yield its
    for worker in its.workers:
        worker.stop()
        worker.join(30)


def test_a_verified_event_is_reacted_to(engine):
    engine.offer(made(1))
    assert engine.settle() == ["1 opened"]
    assert engine.service.status(engine.now)["reactions"]["ran"] == 1


def test_forged_events_are_not_reacted_to(engine):
    true, key = made(1), authentic.key_of(SECRET, "laptop.winterthur")
    forged = [wire(true) | {"signature": "0" * 64}, wire(true) | {"severity": "critical"}, {"id": GW1},
              authentic.sign({**wire(true)}, key), wire(true) | {"signature": ""}, wire(made(1, "gw9.winterthur")),
              wire(made(1, "gw1.nowhere"))]
    for event in forged:
        engine.service.offer(f"salt/beacon/{event.get('id', GW1)}/bonding/slave_down", event)
    for place in ("gateway/alert/winterthur/critical", "gateway/master/apart"):
        engine.service.offer(place, wire(true))
    # A node with a true key that says what only the master may say.
    engine.offer(made(2, condition="apart", beacon="master"))
    assert engine.settle() == []


def test_replayed_events_are_not_reacted_to(engine):
    engine.offer(made(1))
    assert engine.settle() == ["1 opened"]
    engine.offer(*[made(1)] * 50)
    assert engine.settle() == ["1 opened"]


def test_a_replay_after_all_state_but_the_reactions_was_lost(engine):
    engine.offer(made(1))
    engine.settle()
    (engine.folder / "state" / files.STATE).unlink(missing_ok=True)
    engine.start()
    engine.offer(made(1))
    assert engine.settle() == ["1 opened"]


def test_an_event_is_reacted_to_once_when_the_engine_is_killed_at_any_moment(engine):
    """The engine is replaced after each step. The node's journal gives it the same events again and again."""
    events = [made(number, subject=str(number)) for number in range(1, 9)]
    for number in range(1, 9):
        engine.offer(*events[:number])
        step(engine, 0.4)
        if number % 2:
            engine.service._save(engine.now)
        engine.settle() if number % 3 == 0 else None
        engine.start()
        engine.service._intake.want(engine.now, GW1)
        step(engine, 0.4)
        answer(engine, "since", GW1, {"journal": events[0].journal, "newest": number, "taken": 0,
                                      "events": [wire(each) for each in events[:number]]})
        step(engine, 0.4)
    seen = [int(line.split()[0]) for line in engine.settle()]
    assert len(seen) == len(set(seen)), seen
    # Each of them ran, or is told as one that the engine did not survive.
    told = sum(each["brief"].startswith("salt-run alerts.status") for each in engine.told)
    assert set(seen) == set(range(1, 9)) or told, (seen, [each["subject"] for each in engine.told])


def test_ten_thousand_events_of_a_node_come_to_as_many_reactions_as_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("alerts.spool.os.fsync", lambda _handle: None)
    engine = Engine(tmp_path, limit=10)
    begun = time.process_time()
    for number in range(1, 10_001):
        engine.offer(made(number, subject=str(number)))
        if number % 500 == 0:
            step(engine, 50.0 / 20)
    assert len(engine.settle()) == 10
    status = engine.service.status(engine.now)["reactions"]
    assert status["taken"] == status["ran"] == 10 and status["left_out"] > 50
    assert (tmp_path / "state" / reaction_queue.FILE).stat().st_size < 100_000
    assert time.process_time() - begun < 60
    step(engine, 60)
    left = [each["subject"] for each in engine.told if "events were not reacted to" in each["subject"]]
    assert len(left) == 1, [each["subject"] for each in engine.told]
    for worker in engine.workers:
        worker.stop()


def test_a_reaction_that_fails_is_alerted_once(engine):
    engine.offer(made(1, subject="fails"))
    engine.settle()
    engine.offer(made(2, subject="fails", now="worse"))
    engine.settle()
    step(engine, 1)
    named = [line for each in engine.told for line in each["conditions"] if line["condition"] == "reaction_failed"]
    assert named and {line["is"] for line in named} == {"broken"} and len(named) == 1
    assert engine.service.status(engine.now)["reactions"]["failed"] == 2
    assert MAX_WRONG_BYTES < 500, "an alert has room for all of it"


def test_a_reaction_that_hangs_delays_no_alert(engine, monkeypatch):
    monkeypatch.setattr("alerts.reaction_worker.START_SECONDS", 3600.0)
    engine.offer(made(1, subject="hangs"))
    step(engine)
    engine.offer(made(2, subject="b", severity="critical"))
    begun = time.monotonic()
    step(engine)
    assert [each["kind"] for each in engine.told] == ["alert", "escalation"] and time.monotonic() - begun < 10
    engine.service._reactions._worker._close(kill=True)


def test_what_the_engine_finds_itself_is_reacted_to(engine):
    engine.service._tell(engine.service._said(engine.now, "winterthur", "gw1", "node_silent", GW1, engine.now, False,
                                              ("answers", "silent")))
    assert engine.settle() == ["1 opened"]


def test_mistakes_are_in_the_status(tmp_path, caplog):
    world = World()
    world.config = {"targets": {}, "routes": []}
    its = service.Service(tmp_path / "state", SECRET, authentic.Sites([]), world.outside(),
                          reactions=Reactions(tmp_path, Settings((), ("/etc/salt/master: gateway_reactions: x",))))
    assert "/etc/salt/master: gateway_reactions: x" in its.status(0.0)["mistakes"]
    assert "gateway_reactions: x; nothing is reacted to" in caplog.text
