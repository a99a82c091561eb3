"""Decides what is rolled out where and when. No I/O.

Events come in, each with the time (in seconds, of any steady clock), and actions come out. Nothing in here sleeps,
reads or sends. docs/resync.md explains the decisions.

A site is *behind* when the number of one of its nodes is not the site's present number (inputs.py). It then stands in
the queue until the outcome of its roll-out takes it out:

    done       both nodes are up to date now
    current    both nodes were up to date already
    refused    the site has mistakes
    failed     a step of the roll-out failed
    bare       none of its nodes was ever applied
    waits      the pair is not one active and one standby node, or a node does not answer: the site stays in the queue
    elsewhere  another master takes care of it: the site stays in the queue

A site has only one roll-out or repair at a time.
"""
from __future__ import annotations

from typing import Any, TypedDict

from resync.actions import Apply, Ask, Keep, ResyncAction, RollOut
from resync.events import Differences, Inputs, Reconnected, ResyncEvent, Returned, Tick, Told
from resync.orders import Orders
from resync.queue import stopped_by
from resync.rollouts import COMPARE_SECONDS
from resync.waits import ASK_SITE_SECONDS, Item

ASK_ALL_SECONDS = 900.0  # between two questions to all nodes for their numbers
RESTLESS_SECONDS = 60.0  # files that change for this long without a pause are reported in the log
# The alerts of a roll-out that did not succeed, with their severities.
ROLL_OUT_SEVERITIES = {"rollout_failed": "critical", "rollout_refused": "critical", "rollout_waits": "warning"}


class Waiting(TypedDict):
    """A site in the queue, for people (in :class:`ResyncStatus`)."""
    because: str
    waits_for: str


class ResyncStatus(TypedDict):
    """What the engine does and waits for, for people."""
    orders: int  # taken since the engine started
    dry_run: bool
    stopped: list[str]
    halted_by: str
    running: dict[str, str]
    queue: dict[str, Waiting]
    failed: list[str]
    refused: list[str]
    drift: list[str]


def still_held(status: ResyncStatus, site: str) -> str:
    """What holds a site that a person let go on: another order, or another site's failure. Empty: nothing does."""
    ends = f"`salt-run resync.go` ends that for all sites, `salt-run resync.now {site}` rolls out this one alone"
    if "all" in status["stopped"]:
        return f"all sites are stopped by a person: {ends}"
    waits_for = status["queue"][site]["waits_for"] if site in status["queue"] else ""
    if status["halted_by"] and waits_for == stopped_by(status["halted_by"]):
        return f"it waits for a change of the tree, which failed at {status['halted_by']}: {ends}"
    return ""


class RolloutMachine(Orders):
    """All decisions of one master. Only handle() and status() are for callers."""

    def handle(self, event: ResyncEvent, now: float) -> list[ResyncAction]:
        """Take an event; returns the actions that follow from it. `now`: seconds, of a steady clock."""
        self.now = max(now, self.now)
        self.out = []
        getattr(self, "on_" + type(event).__name__.lower())(event)
        if self.shared is not None:
            self.decide()
        if self.state() != self.kept:
            self.kept = self.state()
            self.out.append(Keep(self.kept))
        return self.out

    def status(self) -> ResyncStatus:
        """What the engine does, and what waits for what; for people."""
        waiting: dict[str, Waiting] = {}
        for site, item in sorted(self.queue.items()):
            waiting[site] = {"because": item.why, "waits_for": self.hindrance(item) or "its turn"}
        return {"orders": self.orders, "dry_run": self.config.dry_run,
                "stopped": [site or "all" for site in sorted(self.stopped)],
                "halted_by": self.halted, "running": {site: _said(job) for site, job in sorted(self.busy.items())},
                "queue": waiting, "failed": sorted(self.failed), "refused": sorted(self.refused),
                "drift": self.shown_drift()}

    # Events

    def on_tick(self, event: Tick) -> None:
        pass

    def on_inputs(self, event: Inputs) -> None:
        if self.shared is None:
            # The nodes' answers will show what they missed before this engine started.
            self.shared, self.own = event.shared, dict(event.own)
            self.compare_at = dict.fromkeys(self.own, self.now + COMPARE_SECONDS)
            for numbers in (self.failed, self.refused):
                for site in [site for site in numbers if numbers[site] != self.number(site)]:
                    del numbers[site]
            if self.halted not in self.failed:
                self.halted = ""
            return
        before = set(self.own)
        tree = event.shared != self.shared
        changed = {site for site in event.own if event.own[site] != self.own.get(site)}
        self.shared, self.own = event.shared, dict(event.own)
        if tree or changed:
            if self.now - self.changed_at > self.config.quiet:
                self.restless_since = self.now
            self.changed_at = self.now
        for site in before - set(self.own):
            self.forget(site)
        if tree:
            self.shared_at = self.now
            self.done.clear()
            for site in self.own:
                self.want(site, "the tree has changed", tree=True)
        for site in sorted(changed):
            self.compare_at.setdefault(site, self.now + COMPARE_SECONDS)
            self.want(site, "its files have changed", own=True)
        if self.halted and tree:
            # (When only the failed site's own files have changed, the outcome of its next roll-out decides.)
            self.say("info", "the tree has changed: going on")
            self.halted = ""
        for site in [*self.failed]:
            if self.failed[site] != self.number(site):
                del self.failed[site]
        if self.changed_at - self.restless_since > RESTLESS_SECONDS:
            self.restless_since = self.now
            self.say("warning", f"files have not come to rest for {RESTLESS_SECONDS:.0f} s: their changes are not "
                                "rolled out")

    def forget(self, site: str) -> None:
        """Drop everything about a site that was removed."""
        self.queue.pop(site, None)
        for key in [key for key, each in self.troubles.items() if each.site == site]:
            del self.troubles[key]
            self.repairs.pop((key[0], key[2]), None)
        by_site: tuple[dict[str, Any], ...] = (self.failed, self.refused, self.compare_at, self.asked_at, self.silent)
        for known in by_site:
            known.pop(site, None)
        self.stopped.discard(site)
        if self.halted == site:
            self.halted = ""
        for told in [told for told in self.raised if told.split(" ")[1] == site]:
            condition, _site, subject = told.split(" ", 2)
            self.over(condition, site, subject, "info", "the site was removed")

    def on_told(self, event: Told) -> None:
        number = self.number(event.site)
        if not number:
            return
        for minion, said in event.nodes.items():
            if said and said[0]:
                self.on_returned(Returned(event.site, minion, present=not said[1]))
        if None in event.nodes.values():
            # Minions take a while to reconnect to a master that was down, and send nothing when they have.
            self.silent.setdefault(event.site, Item(event.site, "", self.now)).pause(self.now)
        else:
            self.silent.pop(event.site, None)
        if event.site in self.queue or event.site in self.busy:
            return
        behind = sorted(minion for minion, said in event.nodes.items() if said and said[0] and said[0] != number)
        if number in (self.failed.get(event.site), self.refused.get(event.site)):
            return
        if behind:
            if number != self.shown.get(event.site):
                self.want(event.site, f"{', '.join(behind)} missed a change", tree=True)
        elif all(said and said[0] for said in event.nodes.values()):
            # An event raised before this master was down, of something that is right since.
            for condition, severity in ROLL_OUT_SEVERITIES.items():
                self.over(condition, event.site, "", severity, "both nodes are up to date")

    def on_reconnected(self, event: Reconnected) -> None:
        asked = self.asked_at.get(event.site)
        if event.site in self.own and (asked is None or self.now - asked >= ASK_SITE_SECONDS):
            self.asked_at[event.site] = self.now
            self.out.append(Ask((event.site,)))

    def on_differences(self, event: Differences) -> None:
        if event.lines:
            self.alert("nodes_differ", event.site, "", "critical", "; ".join(event.lines), "the same on both nodes")
        else:
            self.over("nodes_differ", event.site, "", "critical", "the same on both nodes")

    # Decisions

    def decide(self) -> None:
        """Add all actions that are due."""
        if self.now >= self.ask_all_at:
            self.ask_all_at = self.now + ASK_ALL_SECONDS
            self.out.append(Ask())
        again = tuple(sorted(site for site, each in self.silent.items() if self.now >= each.not_before))
        if again:
            for site in again:
                self.silent[site].not_before = self.now + ASK_ALL_SECONDS  # its answer sets the next time
            self.out.append(Ask(again))
        self.decide_rollouts()
        for site, at in sorted(self.compare_at.items()):
            if self.now >= at and site not in self.busy and site not in self.queue:
                self.compare(site)
        self.decide_troubles()


def _said(job: RollOut | Apply) -> str:
    if isinstance(job, RollOut):
        return job.why
    return f"{job.formula or 'everything'} on {job.minion}"


Machine = RolloutMachine  # its name before 1.0.0; goes with 1.1
