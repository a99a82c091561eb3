"""The virtual IPs behind a thread: what a slow kernel delays, and what it does not."""
from __future__ import annotations

import errno
import os
import socket
import struct
import threading

import pytest

from agent import addresses, patient
from agent.addresses import NETLINK_HEADER, NLMSG_DONE, NLMSG_ERROR, Addresses, Refused
from agent.patient import MAX_PENDING, Patient, Seen


class Kernel:
    """Addresses of a kernel that answers while `free` is set. `done`: what it has done."""

    def __init__(self) -> None:
        self.free, self.done, self.state = threading.Event(), [], "none"
        self.free.set()

    def look(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        state = self.state  # as in the kernel: the list is from the moment in which it was asked for
        self.free.wait(30)
        return state, (), ()

    def hold(self) -> None:
        self.free.wait(30)
        self.state = "held"
        self.done.append("hold")

    def leave(self) -> None:
        self.free.wait(30)
        self.state = "none"
        self.done.append("leave")

    def park(self) -> None:
        raise Refused("192.0.2.10 on lo: Operation not permitted")

    def mute(self) -> None:
        raise TimeoutError("timed out")


@pytest.fixture
def its(monkeypatch) -> Patient:
    monkeypatch.setattr(patient, "CHANGE_SECONDS", 0.3)
    monkeypatch.setattr(patient, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(patient, "LAST_SECONDS", 0.3)
    said: list[str] = []
    monkeypatch.setattr(patient, "log", lambda _priority, text: said.append(text))
    beats: list[int] = []
    made = Patient(Kernel(), lambda: beats.append(1))
    made.said, made.beats, made.kernel = said, beats, made.addresses
    yield made
    made.kernel.free.set()


def all_made(its: Patient) -> None:
    while its.pending:
        its.pending[0].call.over.wait(10)
        its.tick()


def test_a_quick_kernel_has_answered_when_the_call_returns(its):
    then = []
    its.change("hold", lambda: then.append(its.kernel.done[-1]))
    assert then == ["hold"] and its.look() == its.seen == Seen("held", (), ()) and its.said == []


def test_a_slow_kernel_delays_a_look_and_the_loop_lives_and_counts_what_it_waited(its):
    its.look()
    its.kernel.free.clear()
    assert its.look() is None and its.seen == Seen("none", (), ())
    assert its.beats and 0.0 < its.waited <= 0.5
    waited = its.waited
    assert its.look() is None and its.waited - waited < 0.05, "it is known to be slow: nobody waits once more"
    assert len(its.said) == 1 and patient.SLOW in its.said[0]
    its.kernel.free.set()
    its.looking.over.wait(10)
    assert its.look() == Seen("none", (), ()) and its.said[1:] == ["the kernel answers again"]


def test_what_follows_a_change_follows_when_it_is_made_and_in_its_order(its):
    then = []
    its.kernel.free.clear()
    its.change("hold", lambda: then.append("held"))
    its.change("leave", lambda: then.append("left"))
    its.tick()
    assert then == [] and its.kernel.done == []
    its.kernel.free.set()
    all_made(its)
    assert then == ["held", "left"] and its.kernel.done == ["hold", "leave"]


def test_a_look_from_before_a_change_does_not_count(its):
    """It would say that the addresses are missing which the agent has just put there."""
    its.kernel.free.clear()
    assert its.look() is None
    its.change("hold")
    its.kernel.free.set()
    all_made(its)
    assert its.look() == Seen("held", (), ())


@pytest.mark.parametrize(("name", "said"), [("park", "the kernel refuses: 192.0.2.10 on lo"), ("mute", "mute: timed")])
def test_what_the_kernel_refuses_is_said_and_the_rest_follows(its, name, said):
    then = []
    its.change(name, lambda: then.append(1))
    assert then == [1] and its.said[0].startswith(said)


def test_the_changes_that_wait_are_bounded(its):
    its.kernel.free.clear()
    for _ in range(MAX_PENDING + 5):
        its.change("leave")
    assert len(its.pending) == MAX_PENDING


def test_an_agent_that_ends_waits_for_its_changes_but_not_for_ever(its):
    its.kernel.free.clear()
    its.change("leave")
    its.finish()
    assert its.kernel.done == []
    threading.Timer(0.05, its.kernel.free.set).start()
    its.finish()
    assert its.kernel.done == ["leave"]


def test_an_agent_that_starts_waits_as_long_as_it_takes_and_is_alive(its):
    its.kernel.free.clear()
    threading.Timer(1.0, its.kernel.free.set).start()
    assert its.certain(its.kernel.look)[0] == "none" and len(its.beats) > 3
    with pytest.raises(Refused):
        its.certain(its.kernel.park)


@pytest.mark.parametrize("kind", [NLMSG_ERROR, NLMSG_DONE])
def test_a_list_that_the_kernel_refuses_is_no_empty_list(kind):
    """EBUSY, for instance, after an answer that came too late: the addresses seemed to be gone."""
    class Refusing(Addresses):
        def open(self) -> socket.socket:
            return socket.socket()

        def send(self, _data: bytes) -> None:
            pass

        def receive(self) -> bytes:
            body = struct.pack("=i", -errno.EBUSY)
            late = NETLINK_HEADER.pack(NETLINK_HEADER.size + 4, NLMSG_DONE, 0, self.number - 1, 0) + bytes(4)
            return late + NETLINK_HEADER.pack(NETLINK_HEADER.size + len(body), kind, 0, self.number, 0) + body

    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        Refusing([]).look()


def test_after_an_answer_that_never_came_the_next_question_is_asked_on_a_new_socket(monkeypatch):
    monkeypatch.setattr(addresses, "ANSWER_SECONDS", 0.1)
    one = Addresses([])
    before = one.socket
    with pytest.raises(TimeoutError):
        one.receive()
    assert one.socket is not before and before.fileno() == -1 and one.look() == ("none", (), ())
