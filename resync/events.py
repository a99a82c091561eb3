"""What the decisions of resync take: the events, from the files, the nodes, the jobs and people."""
from __future__ import annotations

from typing import NamedTuple


class Inputs(NamedTuple):
    """The digests of what the master has: resync.inputs.Present."""
    shared: str
    own: dict[str, str]  # by site


class Told(NamedTuple):
    """The answers of a site's nodes."""
    site: str
    # By minion id: the node's number (empty if it was never applied), and whether the node was compared with the master
    # since it booted. None for a node that does not answer.
    nodes: dict[str, tuple[str, bool] | None]


class RolledOut(NamedTuple):
    """A roll-out has ended."""
    site: str
    number: str  # the site's number when the roll-out began
    outcome: str  # see the head of this file
    why: str = ""


class Repaired(NamedTuple):
    """An Apply has ended."""
    minion: str
    formula: str
    outcome: str  # done, failed, waits, behind, elsewhere, gone (nothing is wrong there any more)
    why: str = ""


class Drifted(NamedTuple):
    """A node reports drift: something is not as Salt left it, or is right again (`present` false). It was signed."""
    site: str
    minion: str
    condition: str
    subject: str
    formula: str
    present: bool = True


class Returned(NamedTuple):
    """A node reports that it booted and was not compared since, or that it was (`present` false). It was signed."""
    site: str
    minion: str
    present: bool = True


class Reconnected(NamedTuple):
    """An unsigned message says that a node's minion has started."""
    site: str
    minion: str


class Differences(NamedTuple):
    """The differences between a site's two nodes."""
    site: str
    lines: tuple[str, ...]  # empty: the nodes are the same


class Order(NamedTuple):
    """A person's order."""
    name: str  # stop, go, now
    site: str = ""  # empty: all


class Tick(NamedTuple):
    """Time passes."""


ResyncEvent = Inputs | Told | RolledOut | Repaired | Drifted | Returned | Reconnected | Differences | Order | Tick
