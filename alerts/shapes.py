"""The mappings that travel between the files of this package, and that stand as JSON in the engine's files."""
from __future__ import annotations

from typing import Any, NotRequired, TypedDict

# A condition of an incident: what its newest event says, and what the engine knows of it. The functional form, because
# one key is the word "is".
Line = TypedDict("Line", {
    "id": str, "node": str, "role": str, "beacon": str, "condition": str, "subject": str, "severity": str, "was": str,
    "is": str, "since": str, "at": str, "cause": str, "once": bool, "n": int, "journal": str,
    "open": bool,           # it is the case now
    "recovered_at": str,    # the time of the event that ended it; empty without one
    "told": NotRequired[bool],      # an alert named it
    "again": NotRequired[bool],     # it happened once more since an alert of the incident went out
    "hushed": NotRequired[bool],    # it began during a silence: without an alert of it, nobody is told that it is over
    "taken": NotRequired[float],    # when the engine took it, seconds since 1970
    "times": NotRequired[int],      # of a condition that flaps: how often it began
})


class Summary(TypedDict):
    """An alert as one line of a digest."""

    id: str
    site: str
    severity: str
    kind: str
    at: float
    caused: float
    subject: str


class Message(TypedDict):
    """An alert as it waits in the queue and as the targets get it (message.py)."""

    id: str
    kind: str
    site: str
    severity: str
    at: float  # seconds since 1970
    incident: str
    subject: str
    text: NotRequired[str]
    brief: NotRequired[str]  # the next step, one line
    conditions: NotRequired[list[dict[str, Any]]]  # for machines
    more: NotRequired[int]  # conditions that it has beside these
    caused: NotRequired[float]  # seconds since 1970, by the node's clock
    alerts: NotRequired[list[Summary]]  # of a digest that goes out
    digest: NotRequired[list[Summary]]  # of a digest that waits in the queue
    count: NotRequired[int]  # of a digest that waits: alerts that it stands for ...
    critical: NotRequired[int]  # ... and how many of them are critical
    lines: NotRequired[list[Line]]


class Delivery(TypedDict):
    """How a target does. Times are seconds since 1970."""

    sent: int
    last_taken: float | None
    said: str
    failing_since: float | None
    failure: str
    failed: NotRequired[int]  # tries that failed since the engine started


class TargetStatus(Delivery):
    """The same, with how many alerts wait for the target."""

    waiting: int


class EngineStatus(TypedDict):
    """The file status.json, for `salt-run alerts.status`."""

    at: float
    pid: int
    rank: int | None
    gateways: int
    silent: list[str]
    waiting_events: int
    counts: dict[str, int]
    dropped: dict[str, int]
    mistakes: list[str]
    incidents: NotRequired[dict[str, int]]  # by severity, how many are open
    reactions: NotRequired[dict[str, int]]  # how many wait, and what came of the events; empty without entries
    targets: dict[str, TargetStatus]
