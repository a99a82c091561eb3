"""What a group waits for. Each reason to wait has a clock of its own: none of them may delay another decision."""
from __future__ import annotations

from dataclasses import dataclass

CALLED_OFF_SECONDS = 2.0  # a fence command that was called off ends within this time, or is not waited for


class Waits:
    """Times before which a group does not try something again."""

    def __init__(self, now: float) -> None:
        self.give_up = now  # to hand over for a fault, after the peer did not take over
        self.fence = now  # to fence, after the fence command failed
        self.failback = now  # to claim the role back, after a claim
        self.asked_off = now  # to take over where no node serves, after a person forced this node to standby


@dataclass
class Claim:
    """A claim that was sent and is not answered yet. A failback is one, too."""
    number: int
    at: float
    failback: bool


@dataclass
class Fencing:
    """The fence command: whether it runs, and when it last switched the peer off."""
    running: bool = False
    called_off: float | None = None  # when it was called off
    done_at: float | None = None  # the peer has been off since then; None when it was heard since

    def begin(self) -> None:
        """The command is started."""
        self.running, self.called_off, self.done_at = True, None, None

    def end(self) -> bool:
        """The command has ended. Returns whether it was called off."""
        called_off = self.called_off is not None
        self.running, self.called_off = False, None
        return called_off

    def blocks(self, now: float) -> bool:
        """Whether no other one may be started: one runs, or was called off a moment ago and has not ended yet."""
        return self.running and (self.called_off is None or now - self.called_off < CALLED_OFF_SECONDS)
