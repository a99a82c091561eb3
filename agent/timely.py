"""Which of the other node's messages come late, or after one that was sent later.

Each message says when it was sent, by the sender's clock, which never jumps and begins at its boot; when the newest
message was sent that the sender has heard, by the other clock; and how long ago it heard that one. So a node can tell
how long a message and the one before it were on their way, though the two clocks have nothing in common (as in NTP,
RFC 5905, section 8, with one question and one answer).
"""
from __future__ import annotations

# A message that is older than the newest one by more than this is none that was overtaken: the other node has booted,
# and its clock begins anew.
OVERTAKEN_SECONDS = 10.0
ROUNDED_SECONDS = 0.002  # the times in the messages are rounded


class Timely:
    """What is known of the newest message of the other node."""

    def __init__(self) -> None:
        self.newest: float | None = None  # when it was sent, by the sender's clock
        self.heard_at = 0.0

    def overtaken(self, sent: float | None, now: float) -> bool:
        """Notes a message that was `sent` then, by the sender's clock, and came `now`.

        Returns whether one that was sent later came before it. False where the sender does not say when it sent the
        message (an agent before 1.1).
        """
        if sent is None:
            return False
        if self.newest is not None and self.newest - OVERTAKEN_SECONDS < sent < self.newest:
            return True
        self.newest, self.heard_at = sent, now
        return False

    def fields(self, now: float) -> dict[str, object]:
        """What a message sent `now` says of the newest one heard."""
        said: dict[str, object] = {"at": round(now, 3)}
        if self.newest is not None:
            said |= {"echo": self.newest, "ago": round(now - self.heard_at, 3)}
        return said

    def forget(self) -> None:
        """The other node's agent has ended: the next one may run after a boot."""
        self.newest = None


def round_trip(echo: float | None, ago: float | None, now: float) -> float | None:
    """For how many seconds a message that came `now`, and the one that its sender had heard, were on their way.

    None where the sender does not say so, or means a message from before this node's boot.
    """
    if echo is None or ago is None:
        return None
    took = now - echo - ago
    return max(took, 0.0) if took > -ROUNDED_SECONDS else None
