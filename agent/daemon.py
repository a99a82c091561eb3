"""The IPsec daemon, Libreswan's pluto: alive, hung or dead; listen, call, end, restart. Nothing else knows whack.

Every command runs beside the loop: a hung daemon must not keep the addresses here.
"""
from __future__ import annotations

import contextlib
import ipaddress
import os
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agent.settings import DaemonSettings

WHACK = "/usr/libexec/ipsec/whack"
PIDFILE = Path("/run/pluto/pluto.pid")  # ipsec.conf(5): --rundir
PROBE_OPTION = "--fipsstatus"  # one line, from the daemon's own loop: the cheapest of its questions (ipsec_whack(8))
PROBE_EVERY_SECONDS = 1.0  # between two questions
# For the answer, then for the second one's: two misses in a row are a hang, noticed within 2.2 s.
ANSWER_SECONDS, SECOND_ANSWER_SECONDS = 0.8, 0.4
# That long when it works, or waits for the processor, instead of answering: a hundred clients that call at once after a
# takeover, or a machine that is busy, are no reason to move everything once more.
BUSY_ANSWER_SECONDS = 15.0
NO_PROCESSOR = ", mostly without the processor"
LISTEN_SECONDS = 2.0
IKE_PORT = 500
PROC_NET = Path("/proc/net")
RESTART_SECONDS = 30.0


def stat(folder: Path) -> list[str]:
    """proc_pid_stat(5), from the state on: the name before it is in parentheses, and may hold some. Raises OSError."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def progress(pid: int) -> tuple[str, str]:
    """State and times of a process's first thread; the same twice when it has neither worked nor wanted to.

    proc(5): the state is the field behind the name in parentheses, R for running or waiting for the processor.
    schedstat (Documentation/scheduler/sched-stats.rst): ns on the processor, ns of waiting for it, turns.
    """
    task = Path(f"/proc/{pid}/task/{pid}")
    try:
        fields = stat(task)
    except OSError:
        return "", ""
    try:
        return fields[0], (task / "schedstat").read_text()
    except OSError:  # a kernel without; in clock ticks then
        return fields[0], " ".join(fields[11:13])


def has_child(pid: int) -> bool:
    """Whether a child of the process has not ended yet (proc_pid_stat(5): the state is Z or X then)."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state, parent = stat(folder)[:2]
            if parent == str(pid) and state not in "ZX":
                return True
    return False


def listening(port: int, sockets: Path = PROC_NET) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses on which somebody has a UDP socket with this port.

    proc_pid_net(5), udp: a line a socket, the second field address and port, the address in words as the machine has
    them. Raises OSError.
    """
    found = set()
    for name in ("udp", "udp6") if (sockets / "udp6").exists() else ("udp",):
        for line in (sockets / name).read_text("ascii").splitlines()[1:]:
            address, _, number = line.split()[1].partition(":")
            if int(number, 16) == port:
                words = [int(address[at:at + 8], 16) for at in range(0, len(address), 8)]
                found.add(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))
    return found


class Job:
    """A command that runs beside the loop. `done(ok, why)` is called once."""

    def __init__(self, command: Sequence[str], timeout: float, now: float, done: Callable[[bool, str], None]) -> None:
        """Raises OSError when it can not be started."""
        self.name = os.path.basename(command[0])
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        self.fd = os.pidfd_open(self.process.pid)
        self.timeout, self.deadline, self.done = timeout, now + timeout, done

    def ended(self) -> None:
        """The descriptor became readable."""
        code = self.process.wait()
        os.close(self.fd)
        self.done(code == 0, "" if code == 0 else f"{self.name} ended with {code}")

    def kill(self) -> None:
        """Took too long."""
        waits = progress(self.process.pid)[0] == "S"
        self.process.kill()
        # Not wait(): one that waits for a disk ends when that goes on. Popen looks after it, with the next command.
        self.process.poll()
        os.close(self.fd)
        self.done(False, f"{self.name} took longer than {self.timeout:g} s{'' if waits else NO_PROCESSOR}")


class Daemon:
    """One node's daemon. `start(command, timeout, done)` runs a command; `changed(state)` is told alive, hung, dead."""

    def __init__(self, settings: DaemonSettings | None,
                 start: Callable[[Sequence[str], float, Callable[[bool, str], None]], None],
                 changed: Callable[[str], None]) -> None:
        self.settings, self.start, self.changed = settings, start, changed
        self.state = "unknown" if settings else "none"
        self.pid, self.pidfd = 0, -1
        self.misses = 0
        self.asking = False
        self.asked = self.answer_due = 0.0
        self.before = ("", "")
        self.next = 0.0
        self.looking = 0  # --listen that it has not answered yet
        self.waiting: list[Callable[[], None]] = []

    def set(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.changed(state)

    def tick(self, now: float) -> None:
        """Once a second: is it there, does it answer?"""
        if not self.settings or self.asking or now < self.next:
            return
        self.next = now + PROBE_EVERY_SECONDS
        if not self.find():
            self.misses, self.answer_due = 0, 0.0
            self.set("dead")
            return
        self.asking, self.asked = True, now
        self.before = progress(self.pid)
        self.start([WHACK, PROBE_OPTION], SECOND_ANSWER_SECONDS if self.misses == 1 else ANSWER_SECONDS, self.answered)

    def find(self) -> bool:
        """Whether the process is there; from then on its end is noticed at once."""
        if self.pidfd >= 0:
            return True
        try:
            self.pid = int(PIDFILE.read_text())
            self.pidfd = os.pidfd_open(self.pid)
        except (OSError, ValueError):
            return False
        return True

    def died(self) -> None:
        """Its descriptor became readable."""
        os.close(self.pidfd)
        self.pid, self.pidfd, self.next = 0, -1, 0.0
        self.set("dead")

    def answered(self, ok: bool, why: str) -> None:
        self.asking = False
        if self.pidfd < 0:
            return  # died meanwhile
        if ok:
            self.misses, self.answer_due = 0, 0.0
            self.set("alive")
            return
        self.next = 0.0
        self.answer_due = self.answer_due or self.asked + BUSY_ANSWER_SECONDS
        after = progress(self.pid)
        # Its loop stands still while a script that it has called (updown) runs.
        works = why.endswith(NO_PROCESSOR) or after[0] == "R" or after != self.before or has_child(self.pid)
        self.misses = 0 if works else self.misses + 1
        if self.misses >= 2 or self.asked >= self.answer_due:
            self.set("hung")

    def listen(self, done: Callable[[bool], None], call: bool = True) -> None:
        """Take note of the addresses as they are, then (`call`) call those peers that this side calls."""
        if not self.settings:
            done(True)
            return

        def listened(ok: bool, _why: str) -> None:
            for name in self.settings.initiate if ok and call and self.settings else ():
                # Refused for one that the daemon has called by itself: no error.
                self.start([WHACK, "--asynchronous", "--initiate", "--name", name], LISTEN_SECONDS,
                           lambda _ok, _why: None)
            done(ok)

        self.look(listened)

    def look(self, done: Callable[[bool, str], None]) -> None:
        """Let it look at this machine's addresses; who waits for that goes on afterwards."""
        def looked(ok: bool, why: str) -> None:
            self.looking -= 1
            done(ok, why)
            while self.waiting and not self.looking:
                self.waiting.pop(0)()

        self.looking += 1
        self.start([WHACK, "--listen"], LISTEN_SECONDS, looked)

    def hears(self, addresses: Iterable[str], sockets: Path = PROC_NET) -> bool:
        """Whether anybody listens for IKE on one of these. Yes, where the kernel does not tell.

        One is enough: with `listen=` it is the only one that the daemon opens (ipsec.conf(5)).
        """
        wanted = {ipaddress.ip_address(each) for each in addresses}
        try:
            return not self.settings or not wanted or bool(wanted & listening(IKE_PORT, sockets))
        except (OSError, ValueError, IndexError, struct.error):
            return True

    def forget(self, done: Callable[[], None] = lambda: None, addresses: Sequence[str] = ()) -> None:
        """Take note of `addresses` that are gone: what stands on them ends, with a delete that is sent at once.

        While they are parked it goes out, and so the peers are told. Trap: --terminate waits for the answer to whatever
        the daemon has asked last before it says anything, and to a parked address no answer comes. A client that was
        just being asked whether it is alive heard nothing then, and strongSwan's tries for 165 s.
        One that hangs is told too: it takes note when it goes on. One that has none of them (any more: it was looking
        anyway) is not: a look at parked addresses that ends nothing is remembered (agent/addresses.py: PARKED).
        """
        def now() -> None:
            if self.hears(addresses):
                self.look(lambda _ok, _why: done())
            else:
                done()

        if not self.settings:
            done()
        elif self.looking:
            self.waiting.append(now)
        else:
            now()

    def restart(self, done: Callable[[bool, str], None]) -> None:
        """Start it anew, however it is."""
        if self.settings:
            self.start(["/usr/bin/systemctl", "restart", "ipsec.service"], RESTART_SECONDS, done)
