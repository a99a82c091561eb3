"""Jobs in processes of their own: their results, their end, and what happens when one does not end."""
from __future__ import annotations

import os
import select
import signal
import time

import pytest

from resync.jobs import Jobs


def ended(jobs: Jobs, seconds: float = 10) -> list:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        select.select(jobs.pipes(), [], [], 0.1)
        if found := jobs.ended(time.monotonic()):
            return found
    return []


@pytest.fixture
def jobs():
    its = Jobs()
    yield its
    its.stop()


def test_what_it_says_comes_back(jobs):
    jobs.start("a", lambda: ["done", "x" * 300_000], 10, time.monotonic())
    assert ended(jobs) == [("a", ["done", "x" * 300_000], "")] and jobs.pipes() == []


def test_what_it_raises_is_said(jobs):
    jobs.start("a", lambda: {}["x"], 10, time.monotonic())
    assert ended(jobs) == [("a", None, "KeyError: 'x'")]


def test_one_that_dies(jobs):
    jobs.start("a", lambda: os.kill(os.getpid(), signal.SIGKILL), 10, time.monotonic())
    assert ended(jobs) == [("a", None, "it ended without a result")]


def test_one_that_hangs_is_killed(jobs):
    jobs.start("a", lambda: time.sleep(60), 0.3, time.monotonic())
    assert ended(jobs, 5) == [("a", None, "it took too long")]


def test_several_at_once(jobs):
    for number in range(5):
        jobs.start(number, lambda number=number: number * 2, 10, time.monotonic())
    found = []
    while jobs.pipes():
        found += ended(jobs)
    assert sorted(found) == [(number, number * 2, "") for number in range(5)]
