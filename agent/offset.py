"""How far the other node's clock is off, calculated from the times in its messages."""
from __future__ import annotations

import collections
import math

KEPT_OFFSETS = 10  # of the last messages; at least one comes every second
CLOCK_FIELD = "clock"  # of a message between the agents: the sender's time, seconds since 1970


class Offset:
    """Seconds that the peer's clock is ahead of this one's."""

    def __init__(self) -> None:
        self.seen: collections.deque[float] = collections.deque(maxlen=KEPT_OFFSETS)

    def heard(self, message: object, now: float) -> None:
        """Notes a message that came at `now`, by this node's clock. An agent of an older release sends no time."""
        said = message.get(CLOCK_FIELD) if isinstance(message, dict) else None
        # Trap: math.isfinite() raises OverflowError for an integer of hundreds of digits, so the size comes first.
        if isinstance(said, (int, float)) and not isinstance(said, bool) and abs(said) < 2**40 and math.isfinite(said):
            self.seen.append(said - now)

    def forget(self) -> None:
        """The peer is silent: the offset may have changed meanwhile."""
        self.seen.clear()

    def seconds(self) -> float | None:
        """The offset, None when it is not known.

        It is too low by the time that the fastest of the last messages took (a keepalive at most).
        """
        return round(max(self.seen), 3) if self.seen else None
