"""Writes what a later agent needs: both epochs, the history, and the addresses held (agent/history.py, agent/held.py).

It is written to /run first, and then to the disk by a process of its own. Neither may be in the way of the role: while
/run is full, what could not be written stays here and is tried again each second.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from datetime import datetime

from agent import held, history
from agent.jobs import Jobs
from agent.settings import Address
from agent.system import clock, log

# A process of its own writes epochs and history to the disk (agent/history.py). Not at once: a takeover comes first.
STORE_DELAY_SECONDS, STORE_COMMAND = 1.0, ("/usr/local/lib/gateway/agent/run", "store")
LAST_STORE_SECONDS = 1.0  # when the agent ends, perhaps because the machine does, it waits this long for that process
AGAIN_SECONDS = 1.0  # between two tries to write to /run
MAX_NOTES = 20  # role changes that wait for room in /run; older ones are lost
FULL = ("a new agent would begin with older epochs. Make room in /run: `df -h /run; df -i /run`, "
        "`du -ax /run | sort -n | tail`")


class Kept:
    """What this agent keeps, in memory and on the disk. `jobs`: starts the process that writes to the disk."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.again = 0.0  # when to try again to write to /run; 0: all of it is written
        # What to write: the last epochs and addresses, and each role change.
        self.latest: dict[str, Callable[[], None]] = {}
        self.notes: list[Callable[[], None]] = []
        # When to write to the disk; 0: not necessary. An agent that was killed may not have done so.
        self.store_at = clock() + STORE_DELAY_SECONDS
        self.storing = False  # such a process runs; one at a time, however long it takes

    def epochs(self, own: int, highest: int) -> None:
        """Keeps both epochs."""
        self.latest["epochs"] = functools.partial(history.keep, own, highest)
        self.changed()

    def change(self, role: str, cause: str, epoch: int) -> None:
        """Adds a role change to the history."""
        self.notes = [*self.notes[1 - MAX_NOTES:],
                      functools.partial(history.note, role, cause, epoch, at=datetime.now().astimezone())]
        self.changed()

    def addresses(self, addresses: Iterable[Address]) -> None:
        """Notes the addresses that this node holds."""
        self.latest["addresses"] = functools.partial(held.note, tuple(addresses))
        self.write()

    def changed(self) -> None:
        """Epochs or history have changed: writes them to /run now, and to the disk later."""
        self.store_at = clock() + STORE_DELAY_SECONDS
        self.write()

    def write(self) -> None:
        """Writes to /run what is left to write."""
        wrong: OSError | None = None
        for key, one in list(self.latest.items()):
            try:
                one()
                del self.latest[key]
            except OSError as error:
                wrong = error
        try:
            while self.notes:
                self.notes[0]()
                self.notes.pop(0)
        except OSError as error:
            wrong = error
        if wrong and not self.again:
            log("err", f"the epochs, the history or the addresses held can not be written: {wrong}; the agent goes on "
                       f"without, but {FULL}")
        elif self.again and not wrong:
            log("notice", "the epochs, the history and the addresses held are written again")
            self.store_at = self.store_at or clock()
        self.again = clock() + AGAIN_SECONDS if wrong else 0.0

    def tick(self, now: float) -> None:
        """Writes what is due."""
        if self.again and now >= self.again:
            self.write()
        if self.store_at and now >= self.store_at and not self.storing:
            self.store()

    def store(self) -> None:
        """Starts the process that writes epochs and history to the disk."""
        def stored(_ok: bool, _why: str) -> None:  # the process has logged itself what was wrong
            self.storing = False

        self.store_at, self.storing = 0.0, True
        self.jobs.start(STORE_COMMAND, math.inf, stored)

    def last(self, pause: Callable[[], None]) -> None:
        """Does what is left of store() when the agent ends, and waits for it, LAST_STORE_SECONDS at most.

        `pause` is called again and again meanwhile.
        """
        until = clock() + LAST_STORE_SECONDS
        while (self.store_at or self.storing) and clock() < until:
            if not self.storing:
                self.store()
            pause()
            self.jobs.finish()
