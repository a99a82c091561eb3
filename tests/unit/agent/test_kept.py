"""What the agent keeps is written to /run at once and to the disk later, and never in the way of the role."""
from __future__ import annotations

import time
from typing import Any

import pytest

from agent import history, kept
from agent.jobs import Jobs
from agent.kept import Kept
from agent.loop import Loop


class Disk:
    """Records the commands that are started, each with its time limit and callback."""

    def __init__(self) -> None:
        self.started: list[Any] = []

    def start(self, *command: Any) -> None:
        self.started.append(command)


@pytest.fixture
def its(monkeypatch) -> Kept:
    """What an agent keeps, at second 100. The epochs have just changed."""
    written: list[Any] = []
    monkeypatch.setattr(history, "keep", lambda *epochs: written.append(epochs))
    monkeypatch.setattr(kept, "clock", lambda: 100.0)
    made = Kept(Disk())
    made.epochs(5, 6)
    assert written == [(5, 6)]
    return made


def test_the_epochs_are_written_to_the_disk_later_and_nothing_waits_for_it(its):
    """A crash seconds after the first takeover left an empty file, and the epochs began at 0."""
    its.tick(100.0)
    assert its.jobs.started == [], "a takeover comes first"
    its.tick(100.0 + kept.STORE_DELAY_SECONDS)
    its.tick(100.0 + kept.STORE_DELAY_SECONDS)
    assert [command for command, _timeout, _done in its.jobs.started] == [kept.STORE_COMMAND]


def test_while_the_disk_stands_still_one_process_waits_and_later_changes_follow(its, monkeypatch):
    for second in range(101, 160):
        monkeypatch.setattr(kept, "clock", lambda now=float(second): now)
        its.tick(float(second))
        its.epochs(7, 7)
    assert len(its.jobs.started) == 1
    _command, timeout, done = its.jobs.started[0]
    assert timeout > 1e6, "it is not killed: nothing else would write that to the disk"
    done(True, "")
    its.tick(161.0)
    assert len(its.jobs.started) == 2


@pytest.fixture
def ending() -> Kept:
    made = Kept(Jobs(Loop()))
    made.store_at = 1.0
    return made


def test_the_last_change_is_written_to_the_disk_before_the_agent_ends(ending, monkeypatch, tmp_path):
    """Its machine may be shutting down."""
    target = tmp_path / "stored"
    monkeypatch.setattr(kept, "STORE_COMMAND", ("/usr/bin/touch", str(target)))
    ending.last(lambda: time.sleep(0.05))
    assert target.exists() and not ending.jobs.running and not ending.storing


def test_an_agent_that_ends_does_not_wait_for_a_disk_that_stands_still(ending, monkeypatch):
    monkeypatch.setattr(kept, "STORE_COMMAND", ("/bin/sleep", "60"))
    begun = time.monotonic()
    ending.last(lambda: time.sleep(0.05))
    try:
        assert time.monotonic() - begun < kept.LAST_STORE_SECONDS + 1
    finally:
        ending.jobs.running[0].kill()


def test_what_can_not_be_written_waits_in_its_order_and_is_said_once(its, monkeypatch):
    """A full /run: nothing of it stops the agent, and the epochs that count in the end are the last ones."""
    full, written, said = [True], [], []

    def write(*what: Any, **_when: Any) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        written.append(what)

    monkeypatch.setattr(kept, "log", lambda priority, _text: said.append(priority))
    for module, name in ((history, "keep"), (history, "note"), (kept.held, "note")):
        monkeypatch.setattr(module, name, write)
    its.addresses(())
    for epoch in range(7, 7 + 2 * kept.MAX_NOTES):
        its.epochs(epoch, epoch)
        its.change("active", "nobody is active", epoch)
    its.tick(100.5)
    full[0] = False
    its.tick(100.5)
    assert written == [] and said == ["err"], "tried again once a second"
    its.tick(101.0)
    assert written[:2] == [((),), (46, 46)] and said == ["err", "notice"]
    assert [epoch for _role, _cause, epoch in written[2:]] == list(range(47 - kept.MAX_NOTES, 47))
    its.tick(200.0)
    assert len(written) == 2 + kept.MAX_NOTES and its.jobs.started
