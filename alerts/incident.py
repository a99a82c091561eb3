"""What the incidents are made of: conditions that began together, one that flaps, and the alert that people get."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from alerts.shapes import Line


class Settings(NamedTuple):
    """What counts as flapping; an operator may set it (pillar/alerts.sls, `flapping`)."""

    times: int = 4  # more often than this ...
    minutes: float = 10.0  # ... within this time


class Alert(NamedTuple):
    """An alert. `lines` are its conditions as they are now."""

    id: str  # the same when a crash makes the engine decide it a second time
    kind: str  # alert, escalation, update, recovery, flapping, calm
    site: str
    severity: str
    at: float  # seconds since 1970
    incident: str
    lines: list[Line]
    more: int = 0  # conditions that are not among the lines
    severe: int = 0  # of these, the critical ones
    silenced: bool = False  # it was held back, because the site was silenced


@dataclass
class Incident:
    """Conditions of one site that began together, presumably from one cause. Times are seconds since 1970."""

    id: str
    site: str
    opened: float
    severity: str
    lines: dict[str, Line] = field(default_factory=dict)
    due: float | None = None  # when the next alert goes out
    told: int = 0  # alerts that have gone out
    more: int = 0  # conditions that are not among the lines
    severe: int = 0  # of these, the critical ones
    unnamed: list[str] = field(default_factory=list)  # the minion ids of these ...
    counted: list[str] = field(default_factory=list)  # ... and a digest of each of their keys
    held: bool = False  # a silence holds it back
    update: bool = False  # the alert that is due is an update
    told_severity: str = ""  # of the last alert

    @property
    def over(self) -> bool:
        """Whether none of its conditions is the case any more. What only happens (`once`) counts as over."""
        return not any(line["open"] for line in self.lines.values())

    @property
    def lasting(self) -> bool:
        """Whether it has a condition that lasts and so can end."""
        return any(not line["once"] for line in self.lines.values())


@dataclass
class Flap:
    """A condition that flaps. Times are seconds since 1970."""

    incident: str
    began: float
    last: float
    times: int
    told: bool = True  # an alert says that it flaps
