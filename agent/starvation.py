"""Whether a machine gets too little of the processor: it stands still again and again.

One standstill may have any cause, as a machine that is moved or stopped; many make the pair starved. The other node
can not tell such a machine from one that has died, so a silent node then gets longer (docs/takeover.md).
"""
from __future__ import annotations

# So many standstills within a minute are no accident: this machine gets no processor when it needs one (starved) ...
STARVED_STALLS = 3
STALL_WINDOW_SECONDS = 60.0
STALL_MEMORY_SECONDS = 300.0  # ... and counts as starved for this long after the last of them.
# The deadtime of a starved pair: at least so many seconds, so many times the usual standstill, at most so many seconds.
MIN_PATIENCE_SECONDS, PATIENCE_FACTOR, MAX_PATIENCE_SECONDS = 1.0, 1.5, 10.0
ONE_STALL_SECONDS = 1.0  # two standstills within this time are one


class Starvation:
    """The standstills of this machine, or of the other one as heard here."""

    def __init__(self, now: float) -> None:
        self.stalls: list[tuple[float, float]] = []  # when, and for how many seconds
        self.count = 0  # all of them since the agent started
        self.until = now

    def note(self, seconds: float, now: float) -> int:
        """Notes a standstill that has just ended. Returns how many there were within a minute where that is news: this
        machine counts as starved from now on. Else 0.
        """
        self.stalls = [each for each in self.stalls if now - each[0] < STALL_MEMORY_SECONDS]
        if self.stalls and now - self.stalls[-1][0] < max(
                ONE_STALL_SECONDS, min(self.stalls[-1][1], MAX_PATIENCE_SECONDS)):
            # Perhaps the same standstill, noticed once more, or one that follows from it: a machine that goes on after
            # five seconds has much to do, and stands still once more for less than one.
            at, before = self.stalls.pop()
            self.stalls.append((at, max(before, seconds)))
            return 0
        self.stalls.append((now, seconds))
        self.count += 1
        lately = sum(now - at < STALL_WINDOW_SECONDS for at, _seconds in self.stalls)
        if lately < STARVED_STALLS:
            return 0
        news = not self.starved(now)
        self.until = now + STALL_MEMORY_SECONDS
        return lately if news else 0

    def starved(self, now: float) -> bool:
        """Whether this machine, or the peer as heard here, stands still again and again."""
        return now < self.until

    def stall(self, now: float) -> float:
        """How long the standstills of a starved machine last, in seconds; 0 when it is not starved.

        It is the length that STARVED_STALLS standstills have reached. So two long ones do not count: a machine that was
        stopped twice within those minutes is not one that gets no processor for that long.
        """
        if not self.starved(now):
            return 0.0
        return sorted(seconds for _at, seconds in self.stalls)[-min(STARVED_STALLS, len(self.stalls))]


def patience(stall: float, deadtime: float) -> float:
    """Seconds that a node whose standstills last `stall` seconds gets on top of the deadtime."""
    if not stall:
        return 0.0
    return max(0.0, min(max(MIN_PATIENCE_SECONDS, PATIENCE_FACTOR * stall), MAX_PATIENCE_SECONDS) - deadtime)
