"""The IPsec daemon as the agent sees it, with a stand-in for whack."""
from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from agent import daemon
from agent.daemon import Daemon
from agent.settings import DaemonSettings


class World:
    """Records the commands; the test answers them."""

    def __init__(self, tmp_path, monkeypatch):
        monkeypatch.setattr(daemon, "PIDFILE", tmp_path / "pluto.pid")
        self.pidfile = tmp_path / "pluto.pid"
        self.commands, self.states = [], []
        self.daemon = Daemon(DaemonSettings(("basel",)), self.start, self.states.append)

    def start(self, command, timeout, done):
        self.commands.append((command[1:], done))

    def answer(self, ok=True, why=""):
        command, done = self.commands.pop(0)
        done(ok, why)
        return command


def comes_to(pid, state):
    """Wait until a process has this state."""
    while daemon.progress(pid)[0] != state:
        time.sleep(0.005)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


@pytest.fixture
def pluto(world):
    process = subprocess.Popen(["sleep", "60"])
    world.pidfile.write_text(f"{process.pid}\n")
    comes_to(process.pid, "S")
    yield process
    process.kill()
    process.wait()


def test_not_there(world):
    world.daemon.tick(0)
    assert world.states == ["dead"]


def test_alive_hung_alive(world, pluto):
    world.daemon.tick(0.0)
    world.answer()
    world.daemon.tick(0.5)
    assert not world.commands  # once a second
    for now in (1.0, 1.8):
        world.daemon.tick(now)
        world.answer(False, "whack took longer than 0.8 s")
    world.daemon.tick(2.6)
    assert world.states == ["alive", "hung"]
    world.answer()
    assert world.states == ["alive", "hung", "alive"]


def silent(world, now, why="whack took longer than 0.8 s"):
    world.daemon.tick(now)
    world.answer(False, why)


def test_a_daemon_that_works_is_given_time(world, pluto, monkeypatch):
    """After a takeover a hundred clients call at once. A hand-over for that reason would never end."""
    worked = iter(range(1000))
    monkeypatch.setattr(daemon, "progress", lambda _pid: ("S", str(next(worked))))
    world.daemon.tick(0.0)
    world.answer()
    for second in range(1, 16):
        silent(world, float(second))
    assert world.states == ["alive"]
    silent(world, 16.0)
    assert world.states == ["alive", "hung"]


def test_it_waits_for_the_processor(world, pluto, monkeypatch):
    monkeypatch.setattr(daemon, "progress", lambda _pid: ("R", "0 0 0"))
    for second in range(3):
        silent(world, float(second))
    assert world.states == []


def test_the_question_itself_got_no_processor(world, pluto):
    for second in range(3):
        silent(world, float(second), f"whack took longer than 0.8 s{daemon.NO_PROCESSOR}")
    assert world.states == []
    silent(world, 3.0)
    silent(world, 4.0)
    assert world.states == ["hung"]


def test_a_daemon_that_waits_for_a_script_is_given_time(world):
    """Libreswan's loop stands still while an updown script runs. A script that has ended no longer counts."""
    process = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        world.pidfile.write_text(f"{process.pid}\n")
        comes_to(process.pid, "S")
        for second in range(4):
            silent(world, float(second))
        assert world.states == []
        process.send_signal(signal.SIGSTOP)
        comes_to(process.pid, "T")
        os.kill(child, signal.SIGKILL)
        comes_to(child, "Z")
        silent(world, 5.0)
        silent(world, 6.0)
        silent(world, 7.0)
        assert world.states == ["hung"]
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_the_second_question_is_given_half_the_time(world, pluto):
    given = []
    world.daemon.start = lambda command, timeout, done: (given.append(timeout), done(False, "whack took longer"))
    for second in range(3):
        world.daemon.tick(float(second))
    assert given[:2] == [0.8, 0.4] and world.states == ["hung"]


def test_progress_of_real_processes(pluto):
    busy = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    stopped = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        stopped.send_signal(signal.SIGSTOP)
        comes_to(stopped.pid, "T")
        before = [daemon.progress(each.pid) for each in (busy, stopped, pluto)]
        while daemon.progress(busy.pid)[1] == before[0][1]:
            time.sleep(0.005)
        comes_to(busy.pid, "R")         # it may be "D" for a moment, while a page of it is read
        assert daemon.progress(stopped.pid) == before[1] and before[1][0] == "T"
        assert daemon.progress(pluto.pid) == before[2] and before[2][0] == "S"
    finally:
        for each in (busy, stopped):
            each.kill()
            each.wait()
    assert daemon.progress(busy.pid) == ("", "")


def test_the_end_of_the_daemon_is_noticed_at_once(world, pluto):
    world.daemon.tick(0.0)
    world.answer()
    pluto.kill()
    poll = select.poll()
    poll.register(world.daemon.pidfd, select.POLLIN)
    assert poll.poll(2000)
    world.daemon.died()
    assert world.states == ["alive", "dead"]


def test_listen_alone(world):
    said = []
    world.daemon.listen(said.append, call=False)
    assert world.answer() == ["--listen"] and said == [True] and world.commands == []


def test_listen_then_call(world):
    said = []
    world.daemon.listen(said.append)
    assert world.answer() == ["--listen"]
    assert world.answer() == ["--asynchronous", "--initiate", "--name", "basel"]
    world.daemon.listen(said.append)
    world.answer(False, "whack took longer than 2 s")
    assert said == [True, False] and not world.commands


@pytest.mark.parametrize("state", ["alive", "hung", "dead"])
def test_tunnels_end_with_a_look_at_the_parked_addresses(world, state):
    ended = []
    world.daemon.state = state
    world.daemon.forget(lambda: ended.append(1))
    assert not ended and world.answer(state == "alive", "whack took longer than 2 s") == ["--listen"]
    assert ended == [1] and not world.commands


@pytest.mark.parametrize("there", [True, False])
def test_it_waits_for_a_look_that_is_under_way_which_may_be_enough(world, monkeypatch, there):
    """Told to look just before its node gave up the role, it looked twice, and then had the address twice."""
    has, ended = [True], []
    monkeypatch.setattr(world.daemon, "hears", lambda addresses: addresses == ["192.0.2.10"] and has[0])
    world.daemon.listen(lambda _ok: None, call=False)
    world.daemon.forget(lambda: ended.append(1), ["192.0.2.10"])
    assert len(world.commands) == 1 and not ended
    has[0] = there
    assert world.answer() == ["--listen"]
    assert bool(ended) is not there and len(world.commands) == there
    if there:
        assert world.answer() == ["--listen"] and ended == [1]


def test_a_daemon_without_the_address_is_not_told_that_it_is_gone(world, monkeypatch):
    ended = []
    monkeypatch.setattr(world.daemon, "hears", lambda _addresses: False)
    world.daemon.forget(lambda: ended.append(1), ["192.0.2.10"])
    assert ended == [1] and not world.commands


def test_no_ipsec_here():
    said = []
    none = Daemon(None, lambda *_: pytest.fail("nothing to start"), said.append)
    none.tick(0.0)
    none.listen(said.append)
    none.forget(lambda: said.append("ended"))
    none.restart(lambda _ok, _why: None)
    assert (none.state, said) == ("none", [True, "ended"])


# Recorded from sockets in a network namespace, kernel 6.1; UDP6 is without the columns of zeros
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 3420: 0A0200C0:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 366522 2 000000007043e62f 0
 3614: 00000000:02B6 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 366524 2 000000007dbf386a 0
 7420: 0A0200C0:1194 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 366523 2 0000000082ba82f1 0
"""
UDP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
 3420: B80D01200000BE00000000000A000000:01F4 00000000000000000000000000000000:0000 07 00000000:00000000
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="recorded on a machine of the other order")
def test_the_kernel_says_whether_the_daemon_listens(world, tmp_path):
    (tmp_path / "udp").write_text(UDP)
    assert world.daemon.hears(["192.0.2.10"], tmp_path)
    assert world.daemon.hears(["192.0.2.74", "192.0.2.10"], tmp_path)  # listen= names one
    assert not world.daemon.hears(["192.0.2.74", "2001:db8:be::a"], tmp_path)
    assert not world.daemon.hears(["0.0.0.0"], tmp_path)  # listens, but on another port
    (tmp_path / "udp6").write_text(UDP6)
    assert world.daemon.hears(["2001:db8:be::a"], tmp_path)
    assert world.daemon.hears([], tmp_path)


@pytest.mark.parametrize("text", [None, "sl\n\n", "sl\n 1: 0A0200C0\n", "sl\n 1: zz:01F4\n"])
def test_no_daemon_is_restarted_where_the_kernel_does_not_say(world, tmp_path, text):
    if text is not None:
        (tmp_path / "udp").write_text(text)
    assert world.daemon.hears(["192.0.2.10"], tmp_path)


def test_a_node_without_the_daemon_does_not_ask_who_listens():
    assert Daemon(None, None, None).hears(["192.0.2.10"])
