"""What waits: a site for its roll-out, and what was changed by hand for its repair. Each has a clock of its own."""
from __future__ import annotations

from dataclasses import dataclass, field

# Before each next try at a site or node that can not be applied now.
PAUSE_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
OTHER_MASTER_SECONDS = 60.0  # the master with rank 1 leaves the other one this time, and looks again after it
ASK_SITE_SECONDS = 5.0  # at least, between two questions to a site because of unsigned messages
# Changes by hand of one node that are remembered. Beyond them the node is marked (MORE), and is applied as a whole.
MAX_TROUBLES_OF_NODE = 100
# The condition of the mark. No node sends it, so it ends with the repair.
MORE, MORE_SUBJECT = "many_changed", f"more than {MAX_TROUBLES_OF_NODE} things changed by hand"


@dataclass
class Postponed:
    """Something that is tried later: not before when, and how often it was put off."""

    not_before: float = field(default=0.0, kw_only=True)
    tries: int = field(default=0, kw_only=True)

    def pause(self, now: float, least: float = 0.0) -> None:
        """Put off by the next of PAUSE_SECONDS, and by `least` seconds at least."""
        self.not_before = now + max(PAUSE_SECONDS[min(self.tries, len(PAUSE_SECONDS) - 1)], least)
        self.tries += 1


@dataclass
class Item(Postponed):
    """A site in the queue."""

    site: str
    why: str
    since: float
    tree: bool = False  # it misses a change that concerns all sites: rolled out in waves
    own: bool = False  # a file of its own has changed: it comes before others
    by_hand: bool = False  # a person asked for it
    waiting_since: float | None = None

    def __post_init__(self) -> None:
        self.not_before = self.since


@dataclass
class Trouble(Postponed):
    """A reported drift of a node, until it is right again. The conditions not_compared and MORE have no formula: the
    whole node is applied."""

    site: str
    minion: str
    condition: str
    subject: str
    formula: str
    since: float
    fights_until: float | None = None

    def __post_init__(self) -> None:
        self.not_before = self.since
