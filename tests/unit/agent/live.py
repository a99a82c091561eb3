"""A whole agent, supervisor and worker, on a real kernel: in user, mount and network namespaces of its own.

Its heartbeat is a stand-in that reports what the test tells it; addresses, sockets, /run and the commands are real. A
module that uses it ends with `live.main(...)`, and its tests call `alone()`.
"""
from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent import addresses, control, daemon, decide, supervisor, worker
from agent.addresses import Addresses
from agent.settings import Address, DaemonSettings, Settings
from tests.conftest import TREE

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--propagation", "private"]
VETH = ["ip", "link", "add", "outer", "type", "veth", "peer", "name", "far"]
TMPFS = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", "/run"]
VIRTUAL = Address("192.0.2.10", 32, "outer")
SETTINGS = Settings("gw1", "gw2", True, (VIRTUAL,), ("outer",), (), "manual", 0.0, DaemonSettings(()), 20.0, 1.0,
                    None, False)  # a long deadtime: a busy machine's standstills are not what these tests are about
FILLER = Path("/run/filler")
SLOW = Path("/run/slow")  # the monotonic time until which the kernel's lock is held


def possible() -> bool:
    """Whether this machine lets a test have such namespaces."""
    words = [*UNSHARE, "sh", "-c", " ".join(TMPFS) + " && " + " ".join(VETH)]
    return bool(shutil.which("ip")) and subprocess.run(words, capture_output=True, check=False).returncode == 0


def alone(module: str, name: str) -> None:
    """Runs a function of a test module in namespaces of its own."""
    done = subprocess.run([*UNSHARE, sys.executable, "-m", module, name], cwd=TREE, capture_output=True, text=True,
                          check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def main(functions: dict[str, Callable[[], None]]) -> None:
    """The inner side of alone()."""
    subprocess.run(TMPFS, check=True)
    subprocess.run(VETH, check=True)
    for each in ("lo", "outer", "far"):
        subprocess.run(["ip", "link", "set", each, "up"], check=True)
    functions[sys.argv[1]]()


def fill() -> None:
    """Leaves no room in /run."""
    with FILLER.open("ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC


class Heartbeat:
    """Stands for agent.heartbeat.Heartbeat: reports `first`, and what the agent sent is in `sent`."""

    first: tuple[Any, ...] = ()
    sent: int  # a descriptor to which each message is written, one JSON line each

    paused = 0.0  # seconds in which it reads nothing from a new client

    def __init__(self, node: str, _peer: str, _pings: tuple[str, ...]) -> None:
        time.sleep(self.paused)
        self.node, self.echoes, self.links = node, 0, {}
        self.events = list(self.first)
        self.here, self.there = socket.socketpair()

    def fileno(self) -> int:
        return self.here.fileno()

    def read(self) -> list[Any]:
        events, self.events = self.events, []
        return events

    def send(self, message: dict[str, Any], node: str = "") -> None:
        if node:
            self.echoes += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self.sent, json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        for each in (self.here, self.there):
            each.close()


class SlowSocket(socket.socket):
    """A netlink socket on a kernel whose lock of the network interfaces another process holds, until the time in SLOW.

    As in the kernel, both ways: the call that asks waits, or the answer does.
    """

    asks = True  # the call that asks waits; else the answer does

    def pause(self, limit: float | None) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            left = float(SLOW.read_text()) - time.monotonic()
            time.sleep(max(min(left, limit or left), 0.0))
            if limit and left > limit:
                raise TimeoutError("timed out")

    def send(self, data: Any, *flags: int) -> int:
        if self.asks:
            self.pause(None)
        return super().send(data, *flags)

    def recv(self, size: int, *flags: int) -> bytes:
        if not self.asks and self.gettimeout():  # not the one that only listens (addresses.Watch)
            self.pause(self.gettimeout())
        return super().recv(size, *flags)


def slow_for(seconds: float) -> None:
    """From now on another process holds the kernel's lock for so long."""
    new = SLOW.with_name("slow.new")
    new.write_text(str(time.monotonic() + seconds))
    new.rename(SLOW)


class Sockets:
    """Stands for the module `socket` in agent/addresses.py."""

    socket = SlowSocket

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)


class Agent:
    """A running agent. `told`: what its daemon was told; `gave_up`: whether its supervisor gave up."""

    def __init__(self, folder: Path, pid: int, sent: int) -> None:
        self.folder, self.pid, self.sent, self.data = folder, pid, sent, b""

    def status(self) -> dict[str, Any]:
        return control.ask({"command": "status"}, 30.0)

    def comes(self, role: str, held: tuple[str, ...], seconds: float = 60.0) -> dict[str, Any]:
        """Waits until the agent says that it has a role, and holds these addresses."""
        said: object = None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                said = self.status()
                if (said["role"], tuple(said["held"])) == (role, held):
                    return said
            except (OSError, control.NotRunning) as error:
                said = error
            time.sleep(0.05)
        raise AssertionError(f"{said}\n{self.log()}")

    def told(self) -> list[str]:
        """What the daemon was told, one command each."""
        with contextlib.suppress(FileNotFoundError):
            return [each for each in (self.folder / "told").read_text().splitlines() if "--fipsstatus" not in each]
        return []

    def tells(self, word: str, seconds: float = 10.0) -> bool:
        """Waits until the daemon was told this: the command starts a moment after what it is about."""
        until = time.monotonic() + seconds
        while not (found := word in self.told()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def workers(self) -> list[int]:
        """The numbers of the workers that were started."""
        return [int(each) for each in (self.folder / "workers").read_text().split()]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def messages(self) -> list[dict[str, Any]]:
        """What it has sent through heartbeat since the last call."""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self.sent, 65536):
                self.data += more
        *lines, self.data = self.data.split(b"\n")
        return [json.loads(each) for each in lines]


@contextlib.contextmanager
def agent(*first: Any, settings: Settings = SETTINGS, asks: bool = True, paused: float = 0.0) -> Iterator[Agent]:
    """Starts an agent whose heartbeat reports `first`. Ends it afterwards; it must have given up nothing by itself.

    `paused`: so many seconds long that heartbeat reads nothing from a new client.
    """
    folder = Path(tempfile.mkdtemp())  # not in /run
    whack = folder / "whack"
    whack.write_text(f'#!/bin/sh\necho "$*" >>{folder}/told\n')
    whack.chmod(0o700)
    pluto = subprocess.Popen(["sleep", "600"])
    (folder / "pluto.pid").write_text(str(pluto.pid))
    reading, writing = os.pipe2(os.O_NONBLOCK)
    (folder / "log").touch()
    pid = os.fork()
    if pid == 0:
        try:
            Heartbeat.first, Heartbeat.sent, SlowSocket.asks = first, writing, asks
            Heartbeat.paused, worker.Heartbeat = paused, Heartbeat
            worker.COMPARED_MARK = folder / "compared"
            daemon.WHACK, daemon.PIDFILE = str(whack), folder / "pluto.pid"
            # Asked once is enough: to start a command, the agent waits until the machine has time for it.
            daemon.PROBE_EVERY_SECONDS = 3600.0
            # this daemon has no sockets: it listens once it was told to
            daemon.Daemon.hears = lambda its, _addresses: (folder / "told").exists()
            addresses.socket = Sockets()
            _log_to(folder / "log")
            me = os.getppid()

            def work(pulse: int) -> None:
                with (folder / "workers").open("a") as file:
                    file.write(f"{os.getpid()} ")
                worker.Worker(settings, pulse, os.getppid()).run()

            keeper = supervisor.Supervisor(work, lambda: None, me)
            (folder / "ended").write_text(keeper.run())
        finally:
            os._exit(0)
    made = Agent(folder, pid, reading)
    try:
        yield made
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        pid = 0
        assert (folder / "ended").read_text() == "ended", made.log()
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        pluto.kill()
        pluto.wait()
        shutil.rmtree(folder)


def _log_to(path: Path) -> None:
    """Lets the agent log into a file instead of the system's log."""
    from agent.system import Log

    def say(_its: Log, priority: str, text: str) -> None:
        with path.open("a") as file:
            file.write(f"{time.monotonic():.2f} {priority}: {text}\n")

    Log.__call__ = say


def kernel() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What the kernel says of the virtual address: state, held, missing."""
    return Addresses([VIRTUAL]).look()


PEER_DEAD = (decide.Peer("dead"),)
