"""The virtual IPs, for a loop that must not stand still while the kernel is slow.

The kernel changes and lists addresses under one lock. Whoever resets a network card or takes a large bond down holds
that lock for seconds, and a process that waits for it can not even be killed. So a thread waits, and the loop waits for
the thread: for as long as that is useful, and alive in the eyes of its supervisor. Then the loop goes on with what was
seen last. What was asked for is done as soon as the kernel goes on, in the order in which it was asked for.
"""
from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from agent.addresses import Addresses, Refused
from agent.system import clock, log, real_time

T = TypeVar("T")
STEP_SECONDS = 0.05  # between two signs of life while the loop waits
LOOK_SECONDS = 0.2  # for a look: without an answer the loop goes on with what was seen last
# For a change: what follows (a message to the peer, a word to the daemon) is only right once it is made. Together with
# LAST_SECONDS below supervisor.LEAVE_SECONDS.
CHANGE_SECONDS = 5.0
LAST_SECONDS = 2.0  # when the agent ends, it waits this long for changes that are not made yet
MAX_PENDING = 50  # changes that wait for the kernel; more are refused
SLOW = "the kernel does not answer (`dmesg`; something holds its lock of the network interfaces)"


class Seen(NamedTuple):
    """What Addresses.look() returns: state, addresses held, addresses missing."""
    state: str
    held: tuple[str, ...]
    missing: tuple[str, ...]


class Call(Generic[T]):
    """One call that the thread makes. `result` and `error` count once `over` is set."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.over = threading.Event()
        self.result: T | None = None
        self.error: Exception | None = None

    def make(self) -> None:
        """Makes the call."""
        try:
            self.result = self.function()
        except Exception as error:  # the loop gets it
            self.error = error
        self.over.set()


class Change(NamedTuple):
    """A change of the addresses: its name, its call, and what is called once it is made or refused."""
    name: str
    call: Call[Any]
    then: Callable[[], None]


class Patient:
    """Addresses behind a thread. `beat` shows the supervisor that this process lives."""

    def __init__(self, addresses: Addresses, beat: Callable[[], None]) -> None:
        self.addresses, self.beat = addresses, beat
        self.calls: queue.SimpleQueue[Call[Any]] = queue.SimpleQueue()
        self.seen = Seen("none", (), ())
        self.looking: Call[tuple[str, tuple[str, ...], tuple[str, ...]]] | None = None
        self.pending: list[Change] = []
        # Seconds that this process has waited for the kernel, and not stood still itself; the loop sets it back to 0.
        self.waited = 0.0
        self.slow = False
        threading.Thread(target=self.run, name="addresses", daemon=True).start()

    def run(self) -> None:
        """The thread."""
        real_time()  # a new thread does not inherit it
        while True:
            self.calls.get().make()

    def ask(self, function: Callable[[], T]) -> Call[T]:
        """Lets the thread make a call, after those before it."""
        call = Call(function)
        self.calls.put(call)
        return call

    def wait(self, call: Call[Any], seconds: float) -> bool:
        """Waits for a call, `seconds` at most. Whether it is over."""
        before = clock()
        until = before + seconds
        while not call.over.wait(max(min(STEP_SECONDS, until - before), 0.0)):
            self.beat()
            now = clock()
            if now - before < 2 * STEP_SECONDS:
                self.waited += now - before
            before = now
            if now >= until:
                self.say_slow(True)
                return False
        return True

    def say_slow(self, slow: bool) -> None:
        """Logs that the kernel has become slow, or is no longer."""
        if slow != self.slow:
            self.slow = slow
            log(*("err", f"{SLOW}: the agent goes on without") if slow else ("notice", "the kernel answers again"))

    def certain(self, function: Callable[[], T]) -> T:
        """What a function of Addresses returns, however long that takes. Raises what it raises.

        For the start of an agent: as long as it does not know what this node holds, it can decide nothing.
        """
        call = self.ask(function)
        while not self.wait(call, CHANGE_SECONDS):
            pass
        self.say_slow(False)
        if call.error:
            raise call.error
        return call.result  # type: ignore[return-value]  # set, since there is no error

    def look(self) -> Seen | None:
        """What the kernel says now. None while it does not answer, or refuses: `seen` is then what is known."""
        first = self.looking is None
        if self.looking is None:
            self.looking = self.ask(self.addresses.look)
        if not self.wait(self.looking, LOOK_SECONDS if first else 0.0):
            return None
        call, self.looking = self.looking, None
        self.say_slow(False)
        if call.error or call.result is None:
            log("warning", f"this node's addresses can not be read: {call.error}")
            return None
        self.seen = Seen(*call.result)
        return self.seen

    def change(self, name: str, then: Callable[[], None] = lambda: None) -> None:
        """Makes a change: hold, mute, unmute, park or leave. Then calls `then`, also when the kernel refuses.

        Both is done when this returns, or, while the kernel does not answer, later, from tick().
        """
        if len(self.pending) >= MAX_PENDING:
            log("err", f"{name}: {SLOW}, and {MAX_PENDING} changes wait already: not done")
            return
        known = bool(self.pending)
        change = Change(name, self.ask(getattr(self.addresses, name)), then)
        self.pending.append(change)
        self.looking = None  # a look that is under way shows what was before
        self.wait(change.call, 0.0 if known else CHANGE_SECONDS)
        self.tick()

    def tick(self) -> None:
        """Notices the changes that are made."""
        while self.pending and self.pending[0].call.over.is_set():
            name, call, then = self.pending.pop(0)
            self.say_slow(False)
            if isinstance(call.error, Refused):
                log("err", f"the kernel refuses: {call.error}")
            elif call.error:
                log("err", f"{name}: {call.error}")
            then()

    def finish(self) -> None:
        """Waits for the changes that are not made yet, LAST_SECONDS at most."""
        if self.pending:
            self.wait(self.pending[-1].call, LAST_SECONDS)
            self.tick()
