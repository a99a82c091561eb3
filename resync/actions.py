"""What the decisions of resync lead to: the actions, which the engine carries out."""
from __future__ import annotations

from typing import NamedTuple, TypedDict


class RollOut(NamedTuple):
    """Bring a site's nodes up to date, the standby first. RolledOut comes back."""
    site: str
    number: str  # the site's present number
    why: str
    by_hand: bool = False  # a person asked: apply nodes that are up to date as well
    tree: str = ""  # the digest of what all sites share


class Apply(NamedTuple):
    """Apply one formula, or everything, on one node. Repaired comes back."""
    site: str
    minion: str
    formula: str  # empty: everything
    number: str
    subjects: tuple[tuple[str, str], ...] = ()  # what is wrong: (condition, subject)
    alone: bool = False  # not while that node is active: its peer must be applied first


class Ask(NamedTuple):
    """Ask nodes for their numbers and conditions. Told comes back, and an event of each condition."""
    sites: tuple[str, ...] = ()  # empty: all


class Compare(NamedTuple):
    """Compare the two nodes of a site. Differences comes back."""
    site: str


class Raise(NamedTuple):
    """Send an event of the master to its bus; `recovered`: the condition is over."""
    condition: str
    site: str
    subject: str
    severity: str
    was: str
    now: str
    cause: str = ""
    recovered: bool = False


class Say(NamedTuple):
    """Write a line into the log."""
    priority: str  # info, notice, warning
    text: str


class State(TypedDict):
    """What must outlive the engine, as JSON."""
    stopped: list[str]  # sites, and "" for all
    failed: dict[str, str]  # by site, the number whose roll-out failed
    refused: dict[str, str]  # by site, the number with mistakes
    halted: str  # the site whose failure stopped the roll-out to all sites; empty: none
    raised: dict[str, str]  # by "CONDITION SITE SUBJECT", the text of an event that is not over


class Keep(NamedTuple):
    """Write this to the disk, for the next start of the engine."""
    state: State


ResyncAction = RollOut | Apply | Ask | Compare | Raise | Say | Keep
