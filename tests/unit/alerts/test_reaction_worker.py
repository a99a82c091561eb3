"""The thread that hands reactions to their process: it goes on, whatever the process does."""
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alerts import reaction_worker
from alerts.reaction_queue import FILE, ReactionQueue, Took
from alerts.reaction_worker import PARALLEL, Ended, Worker
from tests.unit.alerts.test_reactor import item

# A process that does what the reaction's site says.
PROGRAM = """\
import json, sys, time, os
for line in sys.stdin:
    item = json.loads(line)
    with open(sys.argv[1], "a") as file:
        print(item["number"], file=file)
    what = item["site"]
    if what == "die": os._exit(1)
    if what == "deaf": time.sleep(3600)
    if what == "garbage": print("{]", flush=True); continue
    if what == "mute": continue
    if what == "slow": time.sleep(0.3)
    print(json.dumps({"number": item["number"], "wrong": "no" if what == "wrong" else ""}), flush=True)
"""


@pytest.fixture
def started(tmp_path) -> Iterator[Callable[..., Worker]]:
    """Starts a worker with reactions in its queue, by what its process does with each."""
    workers = []

    def start(*sites: str, program: str = PROGRAM) -> Worker:
        queue = ReactionQueue(tmp_path / FILE)
        for number, site in enumerate(sites):
            one = item() | {"site": site, "order": str(number), "timeout": 1.0}
            queue.add(f"gw1.{number}", Took(f"e{number}", 1.0, 1.0, site, [0]), [one])
        queue.flush()
        worker = Worker([sys.executable, "-c", program, str(tmp_path / "seen")])
        workers.append(worker)
        worker.start_with(queue)
        return worker
    yield start
    for worker in workers:
        worker.stop()
        worker.join(30)
        assert not worker.is_alive()


def ended(worker: Worker, count: int) -> list[Ended]:
    out, until = worker.ended(), time.monotonic() + 60
    while len(out) < count and time.monotonic() < until:
        time.sleep(0.02)
        out += worker.ended()
    assert len(out) == count
    return sorted(out, key=lambda each: each.item["number"])


def seen(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "seen").read_text().split()]


def test_each_reaction_runs_once_and_its_end_is_told(started, tmp_path):
    worker = started("good", "wrong", "good")
    assert [each.wrong for each in ended(worker, 3)] == ["", "no", ""]
    assert sorted(seen(tmp_path)) == [1, 2, 3]
    assert ReactionQueue(tmp_path / FILE).interrupted == [] and len(ReactionQueue(tmp_path / FILE)) == 0


@pytest.mark.parametrize("what", ["die", "garbage"])
def test_a_process_that_ends_or_says_nonsense_is_replaced(started, tmp_path, what, monkeypatch):
    monkeypatch.setattr(reaction_worker, "START_SECONDS", 0.5)
    monkeypatch.setattr(reaction_worker, "ERROR_SECONDS", 0.1)
    worker = started(what)
    (one,) = ended(worker, 1)
    assert "not repeated" in one.wrong
    worker._queue.add("gw2", Took("later", 1.0, 1.0, "good", [0]), [item() | {"site": "good", "timeout": 60.0}])
    worker._queue.flush()
    assert [each.wrong for each in ended(worker, 1)] == [""]
    assert seen(tmp_path) == [1, 2]


@pytest.mark.parametrize("what", ["deaf", "mute"])
def test_a_process_that_does_not_answer_is_ended(started, what, monkeypatch):
    monkeypatch.setattr(reaction_worker, "START_SECONDS", 0.2)
    begun = time.monotonic()
    (one,) = ended(started(what), 1)
    assert "did not answer" in one.wrong and time.monotonic() - begun < 30


def test_a_process_that_can_not_be_started_is_told(started, monkeypatch):
    monkeypatch.setattr(reaction_worker, "ERROR_SECONDS", 0.05)
    worker = started("good", "good", program="raise SystemExit(1)")
    assert all("its process has ended" in each.wrong for each in ended(worker, 2))


def test_a_full_disk_delays_what_waits_and_ends_nothing(started, tmp_path, monkeypatch):
    monkeypatch.setattr(reaction_worker, "ERROR_SECONDS", 0.1)
    worker = started("slow")
    while not worker._running:
        time.sleep(0.005)
    begin, tries = worker._queue.begin, []

    def full(busy):
        tries.append(1)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")
        return begin(busy)
    monkeypatch.setattr(worker._queue, "begin", full)
    worker._queue.add("gw2", Took("later", 1.0, 1.0, "good", [0]), [item() | {"site": "good"}])
    worker._queue.flush()
    assert [each.wrong for each in ended(worker, 2)] == ["", ""]
    assert seen(tmp_path) == [1, 2] and len(tries) >= 3


def test_only_so_many_run_at_once(started, monkeypatch):
    worker = started(*["slow"] * 3 * PARALLEL)
    most = 0
    while worker.is_alive() and len(worker._ended) < 3 * PARALLEL:
        most = max(most, len(worker._running))
        time.sleep(0.01)
    assert most == PARALLEL
    ended(worker, 3 * PARALLEL)


def test_an_idle_process_ends(started, monkeypatch):
    monkeypatch.setattr(reaction_worker, "IDLE_SECONDS", 0.1)
    worker = started("good")
    ended(worker, 1)
    until = time.monotonic() + 30
    while worker._process is not None and time.monotonic() < until:
        time.sleep(0.05)
    assert worker._process is None


def test_what_waits_when_the_engine_ends_waits_for_the_next_one(started, tmp_path):
    worker = started()
    worker.stop()
    worker.join(30)
    worker._queue.add("gw", Took("e", 1.0, 1.0, "good", [0]), [item() | {"site": "good"}])
    worker._queue.flush()
    assert len(ReactionQueue(tmp_path / FILE)) == 1
    assert json.loads((tmp_path / FILE).read_text().splitlines()[-1])["items"][0]["site"] == "good"
