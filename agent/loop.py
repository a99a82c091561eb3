"""Which descriptors the agent's loop waits for, and what is called when one of them is readable."""
from __future__ import annotations

import select
from collections.abc import Callable

Call = Callable[[], None]


class Loop:
    """The descriptors that the loop waits for.

    Trap: the kernel gives the number of a closed descriptor to the next one that is opened. A number that was readable
    a moment ago may stand for something else by now, so it is always compared together with what was to be called.
    """

    def __init__(self) -> None:
        self.poll = select.poll()
        self.ready: dict[int, Call] = {}

    def add(self, fd: int, call: Call, writes: bool = False) -> None:
        """From now on `call` is called when the descriptor is readable; with `writes` also when it takes bytes."""
        self.ready[fd] = call
        self.poll.register(fd, select.POLLIN | (select.POLLOUT if writes else 0))

    def remove(self, fd: int) -> None:
        """Ends add(). To be called before the descriptor is closed."""
        del self.ready[fd]
        self.poll.unregister(fd)

    def wait(self, seconds: float) -> list[tuple[int, Call]]:
        """Waits until something is readable, `seconds` at most. Returns what run() needs."""
        return [(fd, self.ready[fd]) for fd, _ in self.poll.poll(seconds * 1000)]

    def run(self, found: list[tuple[int, Call]]) -> None:
        """Calls what wait() has found, except what one of these calls has removed."""
        for fd, call in found:
            if self.ready.get(fd) is call:
                call()
