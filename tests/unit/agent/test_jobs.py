"""Commands beside the agent's loop: real processes, of which nothing acts once they were given up."""
from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import jobs
from agent.jobs import Job, Jobs
from agent.loop import Loop
from agent.processes import descendants, progress
from tests.conftest import TREE

# What a fence leaves behind: children in the background, in sessions of their own, detached twice, deaf to signals.
# Each writes down its number at once, and a second later does what the fence was for.
ACTS = """\
act() {{ echo "$(exec sh -c 'echo $PPID')" >>{pids}; sleep {seconds}; echo off >>{acted}; }}
act &
(trap '' TERM HUP INT; act) &
setsid sh -c 'echo $$ >>{pids}; sleep {seconds}; echo off >>{acted}' &
setsid sh -c '(echo $$ >>{pids}; sleep {seconds}; echo off >>{acted}) & (sleep 0.05; exit) &' &
while [ "$(wc -l <{pids})" -lt 4 ]; do sleep 0.01; done
"""


def comes_to(pid: int, state: str) -> None:
    """Waits until a process has this state."""
    while progress(pid)[0] != state:
        time.sleep(0.005)


class Fence:
    """A script of a fence under `folder`, and what became of it."""

    def __init__(self, folder: Path) -> None:
        self.pids, self.acted, self.script = folder / "pids", folder / "acted", folder / "fence"
        self.pids.touch()

    def write(self, then: str, seconds: float = 1.0) -> list[str]:
        """Makes the script; `then` is its last line. Returns the command."""
        text = ACTS.format(pids=self.pids, acted=self.acted, seconds=seconds)
        self.script.write_text(f"#!/bin/sh\n{text}{then}\n")
        self.script.chmod(stat.S_IRWXU)
        return [str(self.script), "gw1"]

    def ready(self) -> bool:
        """Whether everything that acts later has been started."""
        return self.pids.read_text().count("\n") >= 4

    def alive(self) -> list[str]:
        """Which of them still run."""
        return [each for each in self.pids.read_text().split() if progress(int(each))[0] not in ("", "Z", "X")]


@pytest.fixture
def fence(tmp_path: Path) -> Iterator[Fence]:
    made = Fence(tmp_path)
    yield made
    for each in made.alive():
        os.kill(int(each), signal.SIGKILL)


class Room:
    """A loop with its jobs."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.jobs = Jobs(self.loop)
        self.said: list[tuple[bool, str]] = []

    def start(self, command: list[str], timeout: float = 60.0) -> Job:
        job = self.jobs.start(command, timeout, lambda ok, why: self.said.append((ok, why)), confined=True)
        assert job
        return job

    def until(self, done: Callable[[], Any], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline
            self.loop.run(self.loop.wait(0.02))
            self.jobs.tick(jobs.clock())


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    for job in made.jobs.running:
        os.kill(job.process.pid, signal.SIGTERM)
        job.process.wait()


def nothing_acts(fence: Fence) -> None:
    assert fence.alive() == []
    time.sleep(1.2)
    assert not fence.acted.exists(), "it acts after it was given up"


def test_of_a_fence_that_takes_too_long_nothing_is_left_that_could_act_later(room, fence):
    job = room.start(fence.write("sleep 60"))
    room.until(fence.ready)
    job.deadline = 0.0
    room.until(lambda: room.said)
    assert room.said == [(False, "fence took longer than 60 s")]
    nothing_acts(fence)


@pytest.mark.parametrize(("then", "ok"), [("exit 0", True), ("exit 3", False)])
def test_of_a_fence_that_has_ended_nothing_is_left_either(room, fence, then, ok):
    room.start(fence.write(then))
    room.until(lambda: room.said)
    assert room.said == [(ok, "" if ok else "fence ended with 3")]
    nothing_acts(fence)


def test_a_fence_that_is_called_off_ends_with_all_it_has_started(room, fence):
    """The other node is back."""
    job = room.start(fence.write("sleep 60"))
    room.until(fence.ready)
    room.jobs.call_off(job, "called off")
    room.jobs.call_off(job, "called off")
    room.until(lambda: room.said)
    assert room.said == [(False, "called off")]
    room.jobs.call_off(job, "called off")  # too late: it has ended
    assert len(room.said) == 1
    nothing_acts(fence)


def test_a_fence_that_is_called_off_before_it_runs_never_runs(room, fence):
    job = room.start(fence.write("sleep 60", 0.1))
    room.jobs.call_off(job, "called off")
    room.until(lambda: room.said)
    assert not room.said[0][0]
    nothing_acts(fence)


def test_a_fence_ends_with_its_agent(fence):
    """The supervisor killed the agent: a new one knows nothing of that fence."""
    text = ("import sys, time; from agent.jobs import Job\n"
            "Job(sys.argv[1:], 60.0, 0.0, print, confined=True); time.sleep(60)")
    agent = subprocess.Popen([sys.executable, "-c", text, *fence.write("sleep 60")], cwd=TREE)
    try:
        deadline = time.monotonic() + 20
        while not fence.ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        agent.kill()
        agent.wait()
    deadline = time.monotonic() + 5
    while fence.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    nothing_acts(fence)


def test_a_fence_that_signals_its_whole_group_still_tells_how_it_ended(room, fence):
    fence.script.write_text("#!/bin/sh\ntrap : TERM\nkill 0\nexit 4\n")
    fence.script.chmod(stat.S_IRWXU)
    room.start([str(fence.script)])
    room.until(lambda: room.said)
    assert room.said == [(False, "fence ended with 4")]


def test_a_fence_that_is_not_there_is_no_success(room, tmp_path):
    room.start([str(tmp_path / "none")])
    room.until(lambda: room.said)
    assert room.said == [(False, "none ended with 126")]


def test_a_fence_that_can_not_be_ended_is_given_up_all_the_same(room, fence, monkeypatch):
    """Something of it waits for a disk."""
    monkeypatch.setattr(jobs, "CLEARED_SECONDS", 0.2)
    job = room.start(fence.write("sleep 60"))
    room.until(fence.ready)
    os.kill(job.process.pid, signal.SIGSTOP)  # stands for a process that the kernel does not let end
    comes_to(job.process.pid, "T")
    job.deadline = 0.0
    room.until(lambda: room.said)
    assert room.said == [(False, "fence took longer than 60 s; something of it waits in the kernel, and ends before it "
                                 "does anything else")] and room.jobs.running == []
    os.kill(job.process.pid, signal.SIGCONT)
    deadline = time.monotonic() + 5
    while fence.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    nothing_acts(fence)


def test_job():
    said = []
    job = Job(["/bin/false"], 1.0, 0.0, lambda ok, why: said.append((ok, why)))
    select.select([job.fd], [], [], 5)
    job.ended()
    job = Job(["/bin/sleep", "60"], 0.1, time.monotonic(), lambda ok, why: said.append((ok, why)))
    comes_to(job.process.pid, "S")
    job.kill()
    job = Job(["/bin/sh", "-c", "while :; do :; done"], 0.1, time.monotonic(), lambda ok, why: said.append((ok, why)))
    comes_to(job.process.pid, "R")
    job.kill()
    assert said == [(False, "false ended with 1"), (False, "sleep took longer than 0.1 s"),
                    (False, f"sh took longer than 0.1 s{jobs.NO_PROCESSOR}")]
    assert not os.path.exists(f"/proc/self/fd/{job.fd}")


def test_a_killed_command_is_not_waited_for_and_leaves_no_zombie():
    job = Job(["/bin/sleep", "60"], 0.1, time.monotonic(), lambda _ok, _why: None)
    pid = job.process.pid
    job.kill()
    del job
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        subprocess.run(["/bin/true"], check=True)       # the next command
    assert not os.path.exists(f"/proc/{pid}")


def test_a_killed_command_takes_its_children_with_it():
    job = Job(["/bin/sh", "-c", "sleep 60 & wait"], 0.1, time.monotonic(), lambda _ok, _why: None)
    deadline = time.monotonic() + 10
    while not (below := descendants(job.process.pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    job.kill()
    while progress(below[0])[0] not in ("", "Z", "X") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert progress(below[0])[0] in ("", "Z", "X")
