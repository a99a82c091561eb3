"""Commands and kernel sockets, read without waiting."""
from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

import pytest


@pytest.fixture
def watching(load):
    return load("_modules/watching.py")


def until(check):
    deadline = time.monotonic() + 5
    while (found := check()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_commands_answer_comes_at_a_later_look(watching):
    job = watching.start(["sh", "-c", "sleep 0.1; echo out; echo err >&2; exit 3"], 5)
    assert watching.answer(job) is None
    assert until(lambda: watching.answer(job)) == {"retcode": 3, "stdout": "out\nerr\n"}


def test_an_answer_larger_than_a_pipe_does_not_hold_the_command_up(watching):
    job = watching.start(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x"], 5)
    assert len(until(lambda: watching.answer(job))["stdout"]) == 300000


def test_a_command_that_takes_too_long_is_killed(watching):
    job = watching.start(["sleep", "60"], 0.05)
    found = until(lambda: watching.answer(job))
    assert found == {"retcode": None, "stdout": ""}
    assert job.process.wait(5) == -9


def test_the_children_of_a_command_that_takes_too_long_are_killed_too(watching):
    reader, writer = os.pipe()
    try:
        job = watching.start(["sh", "-c", f"sleep 60 & echo $! >/proc/{os.getpid()}/fd/{writer}; wait"], 0.3)
        until(lambda: watching.answer(job))
        child = int(os.read(reader, 100))
    finally:
        os.close(reader)
        os.close(writer)

    def gone() -> bool | None:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] in "ZX" or None
        except FileNotFoundError:
            return True

    assert until(gone)


def test_a_command_that_is_not_installed_gives_no_job(watching):
    assert watching.start(["no-such-program"], 1) is None


def test_no_descriptors_are_left(watching):
    before = len(os.listdir("/proc/self/fd"))
    job = watching.start(["true"], 5)
    until(lambda: watching.answer(job))
    assert len(os.listdir("/proc/self/fd")) == before


class Kernel:
    """A socket with the given results of recv(), one after the other."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    def recv(self, _size: int) -> bytes:
        if not self.answers:
            raise BlockingIOError
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


def message(kind: int, content: bytes) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(content), kind, 0, 0, 0) + content
    return whole + bytes(-len(whole) % 4)


def test_all_that_was_told_is_taken_at_once(watching):
    kernel = Kernel(message(16, b"one") + message(17, b"two!"), message(18, b""))
    assert watching.heard(kernel) == ([(16, b"one"), (17, b"two!"), (18, b"")], False)
    assert watching.heard(kernel) == ([], False)


def test_an_overflow_is_told(watching):
    assert watching.heard(Kernel(message(16, b"one"), OSError(105, "No buffer space"))) == ([(16, b"one")], True)


def test_a_truncated_message_ends_the_reading(watching):
    assert watching.heard(Kernel(bytes(16))) == ([], False)


def test_a_protocol_that_the_kernel_has_not_got_is_an_error(watching):
    with pytest.raises(OSError):
        watching.listen(31, 1)


def test_the_kernels_own_socket_does_not_block(watching):
    with watching.listen(socket.NETLINK_ROUTE, 1) as listener:
        assert watching.heard(listener) == ([], False)


def test_only_jobs_that_apply_states_count_as_a_state_run(watching, monkeypatch):
    monkeypatch.setattr(watching, "__opts__", {}, raising=False)
    ping, apply = {"fun": "test.ping"}, {"fun": "state.apply"}
    for jobs, runs in ([], False), ([ping], False), ([ping, apply], True):
        monkeypatch.setattr(watching.salt.utils.minion, "running", lambda _opts, jobs=jobs: jobs)
        assert watching.states_run() is runs
