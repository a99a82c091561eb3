"""The loop's descriptors: a number that was readable a moment ago may stand for something else by now."""
from __future__ import annotations

import os
import socket

from agent.loop import Loop


def test_what_is_readable_is_called():
    loop, called = Loop(), []
    here, there = socket.socketpair()
    loop.add(here.fileno(), lambda: called.append(here.recv(1)))
    loop.run(loop.wait(0.0))
    there.send(b"x")
    loop.run(loop.wait(5.0))
    assert called == [b"x"]
    loop.remove(here.fileno())
    there.send(b"y")
    assert loop.wait(0.0) == []


def test_a_number_that_another_descriptor_has_got_meanwhile_is_not_called():
    """heartbeat was lost while it had something to read, and a command got its number: the agent waited for its end."""
    loop, called = Loop(), []
    first, second = socket.socketpair(), socket.socketpair()
    number = second[0].fileno()

    def one() -> None:
        called.append("one")
        loop.remove(number)
        second[0].close()
        new = os.dup(first[1].fileno())
        assert new == number, "the kernel gives the lowest free number"
        loop.add(number, lambda: called.append("another"))

    loop.add(first[0].fileno(), one)
    loop.add(number, lambda: called.append("two"))
    for each in (first[1], second[1]):
        each.send(b"x")
    found = loop.wait(5.0)
    assert len(found) == 2
    loop.run(found)
    os.close(number)
    assert called == ["one"]
