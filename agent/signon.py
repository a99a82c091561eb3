"""Signs on to heartbeat beside the agent's loop, which goes on meanwhile.

Trap: heartbeat's client library waits for each answer, and a heartbeat whose peer acknowledges nothing ("all clients
are now paused") reads nothing from any client: for as long as the peer does not hear this node. A new agent that waited
for it in its loop was taken for hung, three times, and the node gave up for good.
"""
from __future__ import annotations

import threading
from collections.abc import Callable

from agent.heartbeat import Gone, Heartbeat
from agent.system import log

STACK_BYTES = 2 << 20  # not the usual 8 MiB: the agent's memory is locked


class SignOn:
    """One attempt. The library is used by one thread at a time: by this one until result() gives the connection."""

    def __init__(self, make: Callable[[], Heartbeat]) -> None:
        """Begins. `make` signs on; what it raises, result() raises."""
        self.make = make
        self.made: Heartbeat | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        before = threading.stack_size(STACK_BYTES)
        try:
            # a daemon: it may wait for ever, and the agent must be able to end
            threading.Thread(target=self.work, name="sign-on", daemon=True).start()
        finally:
            threading.stack_size(before)

    def work(self) -> None:
        """What the thread does."""
        try:
            self.made = self.make()
        except BaseException as error:  # noqa: BLE001  # raised again in the loop's thread
            self.error = error
        finally:
            self.done.set()

    def result(self) -> Heartbeat | None:
        """The connection; None while heartbeat has not answered yet. Raises Gone when it refuses or has ended."""
        if not self.done.is_set():
            return None
        if self.error:
            raise self.error
        return self.made


class Signing:
    """Signs on, again and again while heartbeat refuses."""

    def __init__(self, make: Callable[[], Heartbeat], every: float) -> None:
        """`make` signs on; `every`: seconds between two attempts."""
        self.make, self.every = make, every
        self.one: SignOn | None = None
        self.next_try = 0.0
        self.refusal = ""

    def turn(self, now: float) -> Heartbeat | None:
        """The connection, once; None while there is none yet. Never waits. A refusal is logged, each kind once."""
        if not self.one:
            if now < self.next_try:
                return None
            self.next_try = now + self.every
            self.one = SignOn(self.make)
        try:
            made = self.one.result()
        except Gone as error:
            self.one = None
            if self.refusal != str(error):
                self.refusal = str(error)
                log("warning", f"heartbeat: {error}; trying again")
            return None
        if made:
            self.one, self.refusal = None, ""
        return made
