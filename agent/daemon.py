"""The IPsec daemon, Libreswan's pluto: is it alive, hung or dead; let it listen, call, end tunnels, restart.

This is the only file of the agent that knows whack. Every command runs beside the loop, as a process of its own: a hung
daemon must not keep the addresses on this node.
"""
from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agent.jobs import NO_PROCESSOR
from agent.processes import has_child, progress
from agent.settings import DaemonSettings

WHACK = "/usr/libexec/ipsec/whack"
PIDFILE = Path("/run/pluto/pluto.pid")  # ipsec.conf(5): --rundir
PROBE_OPTION = "--fipsstatus"  # the cheapest question: pluto's loop answers with one line (ipsec_whack(8))
PROBE_EVERY_SECONDS = 1.0  # between two questions
# The time for the answer to the first question, and to the second one after a miss. Two misses in a row count as a
# hang, which is noticed within 2.2 s.
ANSWER_SECONDS, SECOND_ANSWER_SECONDS = 0.8, 0.4
# A daemon that works or waits for the processor instead of answering gets this long. A hundred clients that call at
# once after a takeover, or a busy machine, are no reason to move the role once more.
BUSY_ANSWER_SECONDS = 15.0
LISTEN_SECONDS = 2.0
IKE_PORT = 500
PROC_NET = Path("/proc/net")
RESTART_SECONDS = 30.0


def listening(port: int, sockets: Path = PROC_NET) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses on which any process has a UDP socket with this port. Raises OSError.

    proc_pid_net(5), udp: one line for each socket. The second field is address and port, the address as 32-bit words in
    the machine's byte order.
    """
    found = set()
    for name in ("udp", "udp6") if (sockets / "udp6").exists() else ("udp",):
        for line in (sockets / name).read_text("ascii").splitlines()[1:]:
            address, _, number = line.split()[1].partition(":")
            if int(number, 16) == port:
                words = [int(address[at:at + 8], 16) for at in range(0, len(address), 8)]
                found.add(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))
    return found


class Daemon:
    """This node's IPsec daemon.

    `start(command, timeout, done)` runs a command beside the loop. `changed(state)` is called when the state becomes
    alive, hung or dead.
    """

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
        self.looking = 0  # how many `--listen` it has not answered yet
        self.waiting: list[Callable[[], None]] = []

    def set(self, state: str) -> None:
        """Notes the state, and reports it where it changed."""
        if state != self.state:
            self.state = state
            self.changed(state)

    def tick(self, now: float) -> None:
        """Once a second: does its process exist, does it answer?"""
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
        """Whether its process exists. Opens a descriptor for it, so that its end is noticed at once."""
        if self.pidfd >= 0:
            return True
        try:
            self.pid = int(PIDFILE.read_text())
            self.pidfd = os.pidfd_open(self.pid)
        except (OSError, ValueError):
            return False
        return True

    def died(self) -> None:
        """Its process has ended: the descriptor became readable."""
        os.close(self.pidfd)
        self.pid, self.pidfd, self.next = 0, -1, 0.0
        self.set("dead")

    def answered(self, ok: bool, why: str) -> None:
        """The question of tick() was answered, or was not in time. Decides between alive and hung."""
        self.asking = False
        if self.pidfd < 0:
            return  # it has died meanwhile
        if ok:
            self.misses, self.answer_due = 0, 0.0
            self.set("alive")
            return
        self.next = 0.0
        self.answer_due = self.answer_due or self.asked + BUSY_ANSWER_SECONDS
        after = progress(self.pid)
        # Its loop stands still while a script that it has called (updown) runs: that is no hang.
        works = why.endswith(NO_PROCESSOR) or after[0] == "R" or after != self.before or has_child(self.pid)
        self.misses = 0 if works else self.misses + 1
        if self.misses >= 2 or self.asked >= self.answer_due:
            self.set("hung")

    def listen(self, done: Callable[[bool], None], call: bool = True) -> None:
        """Lets it read this node's addresses again, then call the peers that this side calls.

        Without `call` it calls nobody. `done(ok)`: whether it has answered.
        """
        if not self.settings:
            done(True)
            return

        def listened(ok: bool, _why: str) -> None:
            for name in self.settings.initiate if ok and call and self.settings else ():
                # The daemon refuses where it has already called that peer by itself: no error.
                self.start([WHACK, "--asynchronous", "--initiate", "--name", name], LISTEN_SECONDS,
                           lambda _ok, _why: None)
            done(ok)

        self.look(listened)

    def look(self, done: Callable[[bool, str], None]) -> None:
        """Lets it read this machine's addresses again. Afterwards the functions in `waiting` are called."""
        def looked(ok: bool, why: str) -> None:
            self.looking -= 1
            done(ok, why)
            while self.waiting and not self.looking:
                self.waiting.pop(0)()

        self.looking += 1
        self.start([WHACK, "--listen"], LISTEN_SECONDS, looked)

    def hears(self, addresses: Iterable[str], sockets: Path = PROC_NET) -> bool:
        """Whether any process listens for IKE on one of these addresses. True where the kernel does not say.

        One is enough: with `listen=` the daemon opens only that one (ipsec.conf(5)).
        """
        wanted = {ipaddress.ip_address(each) for each in addresses}
        try:
            return not self.settings or not wanted or bool(wanted & listening(IKE_PORT, sockets))
        except (OSError, ValueError, IndexError, struct.error):
            return True

    def forget(self, done: Callable[[], None] = lambda: None, addresses: Sequence[str] = ()) -> None:
        """Lets it notice that `addresses` are gone. It ends the tunnels on them and sends each peer a delete at once.

        While the addresses are parked the delete leaves this node, so the peers know that their tunnels end.
        Trap: --terminate sends nothing before the daemon's last question is answered, and to a parked address no
        answer comes. A client whom the daemon was just asking whether it is alive heard nothing then, and strongSwan's
        tries for 165 s.
        A daemon that hangs gets the command too: it notices when it goes on. A daemon that has none of the addresses
        (any more: it was looking anyway) does not: when a look at parked addresses ends nothing, the daemon remembers
        them (agent/addresses.py: PARKED_LABEL).
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
        """Restarts it, whatever its state."""
        if self.settings:
            self.start(["/usr/bin/systemctl", "restart", "ipsec.service"], RESTART_SECONDS, done)
