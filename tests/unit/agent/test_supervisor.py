"""The supervisor with workers that die, hang and end as told."""
from __future__ import annotations

import os
import signal
import time

import pytest

from agent import supervisor
from agent.supervisor import Failures, Supervisor, only_one


@pytest.fixture
def keeper(monkeypatch):
    """A supervisor of a given worker. Afterwards the test's own process gets its signal handlers back."""
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.02)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)}
    made = []

    def make(work):
        made.append(0)
        return Supervisor(work, lambda: made.append(1))

    make.made = made
    yield make
    signal.set_wakeup_fd(-1)
    for each, handler in before.items():
        signal.signal(each, handler)


def test_three_within_a_minute():
    failures = Failures()
    assert [failures.another(at) for at in (0, 30, 70, 89, 95, 200)] == [False, False, False, True, True, False]


def test_ends_as_told(keeper):
    assert keeper(lambda pulse: None).run() == "ended"


def test_dies_too_often(keeper, tmp_path):
    lives = tmp_path / "lives"

    def work(pulse):
        with lives.open("a") as file:
            file.write("x")
        os._exit(7)

    assert keeper(work).run() == "failed"
    assert lives.read_text() == "xxx"


def test_exception_is_a_death(keeper, tmp_path):
    lives = tmp_path / "lives"

    def work(pulse):
        if lives.exists():
            return
        lives.touch()
        raise ValueError("of the test")

    assert keeper(work).run() == "ended"


def test_hang_is_killed(keeper, tmp_path):
    lives = tmp_path / "lives"

    def work(pulse):
        os.write(pulse, b".")
        if not lives.exists():
            lives.touch()
            time.sleep(60)

    start = time.monotonic()
    assert keeper(work).run() == "ended"
    assert time.monotonic() - start < 5


def test_a_worker_that_can_not_be_killed_gets_no_second_one_beside_it(keeper, tmp_path, monkeypatch):
    """It waits for a disk: the addresses go, and the other node takes over."""
    lives, kill = tmp_path / "lives", os.kill

    def work(pulse):
        with lives.open("a") as file:
            file.write("x")
        os.write(pulse, b".")
        time.sleep(60)

    one = keeper(work)
    monkeypatch.setattr(os, "kill", lambda *_: None)
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.2)
    start = time.monotonic()
    try:
        assert one.run() == "failed"
        assert time.monotonic() - start < 5 and lives.read_text() == "x"
    finally:
        kill(one.pid, signal.SIGKILL)
        os.waitpid(one.pid, 0)


@pytest.mark.parametrize(("seconds", "lives"), [(0.45, 1), (60, 2)])
def test_a_worker_that_works_gets_three_times_as_long(keeper, tmp_path, seconds, lives):
    """On a busy machine: three killed workers within a minute would stop its heartbeat."""
    file = tmp_path / "lives"

    def work(pulse):
        os.write(pulse, b".")
        with file.open("a") as its:
            its.write("x")
        until = time.monotonic() + (seconds if file.read_text() == "x" else 0)
        while time.monotonic() < until:
            pass

    start = time.monotonic()
    assert keeper(work).run() == "ended"
    assert time.monotonic() - start < 10
    assert file.read_text() == "x" * lives


@pytest.mark.parametrize(("late", "seconds", "lives"), [(False, 5, 2), (True, 1.35, 1)])
def test_a_silent_worker_gets_as_long_while_looks_come_late(keeper, tmp_path, monkeypatch, late, seconds, lives):
    """It may wait for a heartbeat that gets no processor either."""
    # three times the other tests' looks: beside hosts that boot, what is killed too soon is this test's own
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.06)
    monkeypatch.setattr(supervisor, "LATE_FACTOR", 0.5 if late else 1000.0)
    file = tmp_path / "lives"

    def work(pulse):
        os.write(pulse, b".")
        with file.open("a") as its:
            its.write("x")
        time.sleep(seconds if file.read_text() == "x" else 0)

    assert keeper(work).run() == "ended"
    assert file.read_text() == "x" * lives


def beating(pulse, tell=None):
    """A worker that ends as told. With `tell` it sends its supervisor that signal as soon as it can."""
    ended = []
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.append(1))
    if tell:
        os.kill(os.getppid(), tell)
    while not ended:
        os.write(pulse, b".")
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "why"), [(signal.SIGTERM, "ended"), (signal.SIGHUP, "reload")])
def test_signals(keeper, number, why):
    one = keeper(lambda pulse: beating(pulse, number))
    assert one.run() == why
    if why == "reload":
        one.kill()


def test_worker_that_does_not_leave(keeper, monkeypatch):
    monkeypatch.setattr(supervisor, "LEAVE_SECONDS", 0.1)

    def work(pulse):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getppid(), signal.SIGTERM)
        while True:
            os.write(pulse, b".")
            time.sleep(0.01)

    one = keeper(work)
    assert one.run() == "ended"
    assert keeper.made == [0, 1]  # the addresses were given up by the supervisor


def test_a_supervisor_whose_heartbeat_has_ended_leaves(keeper, monkeypatch):
    monkeypatch.setattr(supervisor, "LEAVE_SECONDS", 0.2)
    one = keeper(beating)
    one.parent = os.getppid() + 100000  # the process that started it has ended
    start = time.monotonic()
    assert one.run() == "ended"
    assert time.monotonic() - start < 5


def test_an_agent_adopted_by_process_1_ends_before_it_touches_anything(monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(supervisor.configuration, "load", lambda: pytest.fail("it goes on"))
    assert supervisor.main() == 1


def test_only_one(tmp_path):
    path = tmp_path / "lock"
    ready, pid = os.pipe(), os.fork()
    if pid == 0:
        only_one(path)
        os.write(ready[1], b"x")
        time.sleep(60)
        os._exit(0)
    os.read(ready[0], 1)
    lock = only_one(path)
    assert path.read_text() == str(os.getpid())
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    os.close(lock)


def test_a_kernel_that_is_slow_does_not_keep_the_supervisor_from_stopping_heartbeat(monkeypatch, tmp_path):
    """It can not take the addresses off now. It does so as soon as it goes on, and the other node takes over before."""
    released, said = tmp_path / "released", []

    def release(_settings):
        time.sleep(1.0)
        released.touch()

    monkeypatch.setattr(supervisor.held, "release", release)
    monkeypatch.setattr(supervisor, "GIVE_UP_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "log", lambda _priority, text: said.append(text))
    supervisor.give_up(None)
    assert not released.exists() and "has not taken the addresses off" in said[0]
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0 and released.exists()
    monkeypatch.setattr(supervisor, "GIVE_UP_SECONDS", 20.0)
    released.unlink()
    supervisor.give_up(None)
    assert released.exists() and len(said) == 1
