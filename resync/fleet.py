"""What one master knows of all its sites, and how it tells people: each alert once, until it is over."""
from __future__ import annotations

from typing import Any

from resync.actions import Apply, Raise, ResyncAction, RollOut, Say, State
from resync.inputs import together
from resync.settings import Config
from resync.waits import Item, Trouble


class Fleet:
    """What is known, and how it is told. The decisions are in the classes that extend it."""

    def __init__(self, config: Config, now: float, kept: dict[str, Any] | None = None) -> None:
        """
        Args:
            config: the configuration.
            now: the time.
            kept: the State of the last Keep; None when there is none.
        """
        self.config, self.now = config, now
        kept = kept or {}
        # These five: see State.
        self.stopped: set[str] = set(kept.get("stopped", ()))
        self.failed: dict[str, str] = dict(kept.get("failed", {}))
        self.refused: dict[str, str] = dict(kept.get("refused", {}))
        self.halted: str = str(kept.get("halted", ""))
        self.raised: dict[str, str] = dict(kept.get("raised", {}))
        self.kept: State = self.state()
        self.shared: str | None = None
        self.own: dict[str, str] = {}
        self.shared_at = now
        self.changed_at = self.restless_since = now
        self.shown: dict[str, str] = {}  # in a dry run, by site: the number that was reported already
        self.done: set[str] = set()  # sites to which the present tree was rolled out
        self.queue: dict[str, Item] = {}
        self.troubles: dict[tuple[str, str, str], Trouble] = {}
        self.repairs: dict[tuple[str, str], list[float]] = {}  # by minion and subject, when it was repaired
        self.busy: dict[str, RollOut | Apply] = {}  # by site
        self.asked_at: dict[str, float] = {}
        self.ask_all_at = now
        self.compare_at: dict[str, float] = {}
        self.silent: dict[str, Item] = {}  # sites of which not all nodes have answered
        self.orders = 0  # taken since the engine started
        self.out: list[ResyncAction] = []

    # State

    def number(self, site: str) -> str:
        """The present number of a site; empty for a site that does not exist."""
        return together(self.shared or "", self.own[site]) if site in self.own else ""

    def state(self) -> State:
        """What must outlive the engine."""
        return {"stopped": sorted(self.stopped), "failed": dict(self.failed), "refused": dict(self.refused),
                "halted": self.halted, "raised": dict(self.raised)}

    def is_stopped(self, site: str) -> bool:
        """Whether a person has stopped a site."""
        return "" in self.stopped or site in self.stopped

    # Log and events

    def say(self, priority: str, text: str) -> None:
        self.out.append(Say(priority, text))

    def alert(self, condition: str, site: str, subject: str, severity: str, now: str, was: str = "", cause: str = "",
              ) -> None:
        """Raises an event once: it is remembered until :meth:`over`. Raises it again when its text `now` changes."""
        key = f"{condition} {site} {subject}"
        if self.raised.get(key) == now:
            return
        self.out.append(Raise(condition, site, subject, severity, self.raised.get(key, was), now, cause))
        self.raised[key] = now
        self.say("warning", f"{site}: {condition} {subject}: {now}")

    def over(self, condition: str, site: str, subject: str, severity: str, now: str) -> None:
        """Ends what :meth:`alert` raised, if it was raised."""
        before = self.raised.pop(f"{condition} {site} {subject}", None)
        if before is not None:
            self.out.append(Raise(condition, site, subject, severity, before, now, recovered=True))

    def would(self, site: str, what: str) -> None:
        """In a dry run: report what would be done."""
        self.out.append(Raise("would_resync", site, "", "info", "", what))
        self.say("notice", f"dry run: would {what}")
