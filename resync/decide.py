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

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

from resync.inputs import together

QUIET_SECONDS = 1.5  # without a further change, before a change is rolled out: an editor or a git pull may be half done
ASK_ALL_SECONDS = 900.0  # between two questions to all nodes for their numbers
COMPARE_SECONDS = 3600.0  # between two comparisons of a site's two nodes
# Before each next try at a site or node that can not be applied now.
PAUSE_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
WAITING_ALERT_SECONDS = 300.0  # a site that waits for this long is alerted
OTHER_MASTER_SECONDS = 60.0  # the master with rank 1 leaves the other one this time, and looks again after it
FIGHT_REPAIRS = 3  # repairs of one thing within FIGHT_WITHIN_SECONDS; then somebody works against them
FIGHT_WITHIN_SECONDS = 600.0
FIGHT_REST_SECONDS = 3600.0  # then that thing is not repaired for this time
MAX_PARALLEL_REPAIRS = 4  # nodes that are repaired at the same time
REPAIR_SETTLES_SECONDS = 60.0  # after a repair: within this time the node's own beacon reports that it is right again
ASK_SITE_SECONDS = 5.0  # at least, between two questions to a site because of unsigned messages
RESTLESS_SECONDS = 60.0  # files that change for this long without a pause are reported in the log
# The alerts of a roll-out that did not succeed, with their severities.
ROLL_OUT_SEVERITIES = {"rollout_failed": "critical", "rollout_refused": "critical", "rollout_waits": "warning"}
# Changes by hand of one node that are remembered. Beyond them the node is marked (MORE), and is applied as a whole.
MAX_TROUBLES_OF_NODE = 100
MAX_SHOWN_OF_NODE = 20  # of them, in the status and in texts
# The condition of the mark. No node sends it, so it ends with the repair.
MORE, MORE_SUBJECT = "many_changed", f"more than {MAX_TROUBLES_OF_NODE} things changed by hand"
# Never repaired: a person has stopped heartbeat, and starting it could make both nodes active. (condition, formula)
NEVER_REPAIRED = {("service_changed", "heartbeat")}


# Events
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


# Actions
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


class Config(NamedTuple):
    """The checked configuration gateway_resync (settings.py)."""
    dry_run: bool = False
    first: tuple[str, ...] = ()
    parallel: int = 4
    quiet: float = QUIET_SECONDS
    after: tuple[str, ...] = ()  # addresses of the masters that come before this one (rank 1)
    without: tuple[str, ...] = ()
    formulas: tuple[str, ...] = ()  # that exist in the tree


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


class RolloutMachine:
    """All decisions of one master."""

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

    def shown_drift(self) -> list[str]:
        """What is to be repaired, one line each; of one node the first ones, and how many more there are."""
        of: dict[str, list[Trouble]] = {}
        for each in self.troubles.values():
            of.setdefault(each.minion, []).append(each)
        lines = []
        for minion, its in of.items():
            its.sort(key=lambda each: each.condition != MORE)
            lines += [f"{minion}: {each.condition} {each.subject}".rstrip()
                      + (" (fought over)" if each.fights_until else "") for each in its[:MAX_SHOWN_OF_NODE]]
            if its[MAX_SHOWN_OF_NODE:]:
                lines.append(f"{minion}: and {len(its) - MAX_SHOWN_OF_NODE} more")
        return lines

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

    # Events

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

    def want(self, site: str, why: str, tree: bool = False, own: bool = False, at_once: bool = False) -> None:
        """Put a site into the queue; if it is there already, start its waiting again."""
        if site in self.config.without:
            return
        item = self.queue.setdefault(site, Item(site, why, self.now))
        item.why = why
        item.tree, item.own = item.tree or tree, item.own or own
        item.tries, item.waiting_since = 0, None
        item.not_before = self.now if at_once else self.now + self.config.quiet
        if self.config.after and not at_once:
            item.not_before = max(item.not_before, self.now + OTHER_MASTER_SECONDS)

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

    def on_rolledout(self, event: RolledOut) -> None:
        job = self.busy.pop(event.site, None)
        item = self.queue.get(event.site)
        number = self.number(event.site)
        if not number:
            return
        if job:
            self.say("warning" if event.outcome in ("failed", "refused") else "info",
                     f"{event.site}: {event.outcome}" + (f": {event.why}" if event.why else ""))
        if event.outcome != "waits":
            self.over("rollout_waits", event.site, "", "warning", f"{event.outcome}")
        if event.outcome in ("done", "current"):
            self.failed.pop(event.site, None)
            self.over("rollout_failed", event.site, "", "critical", "both nodes are up to date")
            if self.halted == event.site:
                self.halted = ""
        if event.outcome not in ("refused", "elsewhere"):
            self.refused.pop(event.site, None)
            self.over("rollout_refused", event.site, "", "critical", "the site has no mistakes any more")
        if item is None:
            return
        item.by_hand = False
        if event.outcome in ("waits", "elsewhere"):
            item.pause(self.now, OTHER_MASTER_SECONDS if event.outcome == "elsewhere" else 0.0)
            if event.outcome == "waits":
                item.waiting_since = item.waiting_since if item.waiting_since is not None else self.now
                if (self.now - item.waiting_since >= WAITING_ALERT_SECONDS
                        and f"rollout_waits {event.site} " not in self.raised):
                    self.alert("rollout_waits", event.site, "", "warning", event.why)
            return
        if event.number != number:
            return  # the site changed meanwhile: it stays in the queue, where on_inputs() has put it
        del self.queue[event.site]
        if event.outcome in ("done", "current"):
            self.done.add(event.site)
        if event.outcome == "done":
            self.compare(event.site)
            for each in self.troubles.values():
                if each.site == event.site:  # the node itself will report that it is right again
                    each.not_before = max(each.not_before, self.now + ASK_SITE_SECONDS)
        elif event.outcome == "refused":
            self.refused[event.site] = number
            self.alert("rollout_refused", event.site, "", "critical", event.why, "rolled out")
        elif event.outcome == "failed":
            self.failed[event.site] = number
            # A failure of a site's own change concerns no other site, unless others wait for a change of the tree: the
            # site may have failed with that one.
            others = [site for site, each in self.queue.items() if each.tree]
            if item.tree or others:
                self.halted = event.site
            cause = f"{len(others)} further sites are not started" if self.halted == event.site and others else ""
            self.alert("rollout_failed", event.site, "", "critical", event.why, "rolled out", cause)

    def on_drifted(self, event: Drifted) -> None:
        if event.site in self.config.without:
            return
        key = event.minion, event.condition, event.subject
        if not event.present:
            self.right_again(event.site, key, "it is right again")
            return
        if event.formula not in self.config.formulas:
            self.say("warning", f"{event.minion}: {event.condition} {event.subject}: no formula of this tree")
            return
        if (event.condition, event.formula) in NEVER_REPAIRED:
            self.say("info", f"{event.minion}: somebody has stopped {event.formula}; it is not started")
            return
        subject, formula = event.subject, event.formula
        if key not in self.troubles and sum(minion == event.minion for minion, _, _ in self.troubles
                                            ) >= MAX_TROUBLES_OF_NODE:
            key, subject, formula = (event.minion, MORE, MORE_SUBJECT), MORE_SUBJECT, ""
            if key in self.troubles:
                return  # its repair puts this right as well
            self.say("warning", f"{event.minion}: {MORE_SUBJECT}: the whole node is applied")
        known = self.troubles.setdefault(key, Trouble(
            event.site, event.minion, key[1], subject, formula, self.now))
        if not known.fights_until:
            # It was changed once more: the pause from before does not count.
            known.tries = 0
            known.not_before = self.now + (OTHER_MASTER_SECONDS if self.config.after else 0.0)

    def right_again(self, site: str, key: tuple[str, str, str], how: str) -> None:
        """Forget a trouble, and end the alert that somebody works against its repair (of an earlier start, too)."""
        self.troubles.pop(key, None)
        minion, _condition, subject = key
        self.over("drift_fight", site, f"{minion} {subject}", "warning", how)

    def on_returned(self, event: Returned) -> None:
        if event.site in self.config.without:
            return
        key = event.minion, "not_compared", ""
        if not event.present:
            self.troubles.pop(key, None)
        elif key not in self.troubles:
            self.troubles[key] = Trouble(event.site, event.minion, "not_compared", "", "", self.now)
            if self.config.after:
                self.troubles[key].not_before = self.now + OTHER_MASTER_SECONDS

    def on_reconnected(self, event: Reconnected) -> None:
        asked = self.asked_at.get(event.site)
        if event.site in self.own and (asked is None or self.now - asked >= ASK_SITE_SECONDS):
            self.asked_at[event.site] = self.now
            self.out.append(Ask((event.site,)))

    def on_repaired(self, event: Repaired) -> None:
        job = next((site for site, each in self.busy.items() if isinstance(each, Apply) and each.minion == event.minion
                    and each.formula == event.formula), None)
        if job:
            del self.busy[job]
        its = [each for each in self.troubles.values() if each.minion == event.minion
               and each.formula == event.formula]
        what = event.formula or "everything"
        if event.outcome != "done" or not its:
            self.say("warning" if event.outcome == "failed" else "info",
                     f"{event.minion}: {what}: {event.outcome}" + (f": {event.why}" if event.why else ""))
        for each in its:
            if event.outcome not in ("done", "failed") and self.repairs.get((each.minion, each.subject)):
                self.repairs[each.minion, each.subject].pop()  # nothing was repaired
            if event.outcome == "gone":
                self.right_again(each.site, (each.minion, each.condition, each.subject), "nothing is wrong there")
            else:
                each.pause(self.now, {"done": REPAIR_SETTLES_SECONDS, "failed": REPAIR_SETTLES_SECONDS,
                                      "elsewhere": OTHER_MASTER_SECONDS}.get(event.outcome, 0.0))
        site = its[0].site if its else ""
        if event.outcome == "done" and any(each.condition == MORE and not each.fights_until for each in its):
            # Everything was applied, and not all that was wrong is remembered: the node says what still is.
            for key in [key for key, each in self.troubles.items() if each.minion == event.minion
                        and each.condition != "not_compared" and not each.fights_until]:
                self.right_again(site, key, "the whole node was applied")
            self.out.append(Ask((site,)))
        if event.outcome == "behind" and site in self.own and site not in self.queue and self.number(site) not in (
                self.failed.get(site), self.refused.get(site)):
            self.want(site, f"{event.minion} missed a change", tree=True)

    def on_differences(self, event: Differences) -> None:
        if event.lines:
            self.alert("nodes_differ", event.site, "", "critical", "; ".join(event.lines), "the same on both nodes")
        else:
            self.over("nodes_differ", event.site, "", "critical", "the same on both nodes")

    def on_order(self, event: Order) -> None:
        self.orders += 1
        sites = [event.site] if event.site else sorted(self.own)
        if event.name == "stop":
            self.stopped.add(event.site)
        elif event.name == "go":
            self.stopped = self.stopped - {event.site} if event.site else set()
            if not event.site or self.halted == event.site:
                self.halted = ""
            for site in sites:
                for known in (self.failed, self.refused):
                    if site in known:
                        del known[site]
                        self.want(site, "asked for by a person", tree=True, at_once=True)
                if site in self.queue:
                    self.queue[site].not_before, self.queue[site].tries = self.now, 0
            for each in self.troubles.values():
                if each.site in sites:
                    each.fights_until, each.not_before, each.tries = None, self.now, 0
                    self.repairs.pop((each.minion, each.subject), None)
            self.out.append(Ask(tuple(sites) if event.site else ()))
        elif event.name == "now" and event.site in self.own:
            for known in (self.failed, self.refused):
                known.pop(event.site, None)
            if self.halted == event.site:
                self.halted = ""
            self.want(event.site, "asked for by a person", own=True, at_once=True)
            self.queue[event.site].by_hand = True
        self.say("info", f"order of a person: {event.name} {event.site or 'all sites'}")

    # Decisions

    def compare(self, site: str) -> None:
        """Have a site's nodes compared."""
        self.compare_at[site] = self.now + COMPARE_SECONDS
        self.out.append(Compare(site))

    def is_stopped(self, site: str) -> bool:
        """Whether a person has stopped a site."""
        return "" in self.stopped or site in self.stopped

    def hindrance(self, item: Item) -> str:
        """Why the roll-out of a site in the queue can not start now; empty when it can."""
        if item.site in self.busy:
            return "its running roll-out or repair"
        if self.now < item.not_before:
            return f"{item.not_before - self.now:.0f} s"
        if self.now - self.shared_at < self.config.quiet:
            return "the tree has changed a moment ago"
        if item.by_hand:
            return ""
        if self.is_stopped(item.site):
            return "stopped by a person"
        if item.tree and self.halted:
            return f"stopped: {self.halted} failed"
        if item.tree and self.running(tree=True) >= self.width():
            return "the sites before it"
        if self.running() >= self.config.parallel:
            return f"{self.config.parallel} others"
        return ""

    def running(self, tree: bool = False) -> int:
        """How many roll-outs run; `tree`: only those of a change that concerns all sites."""
        return sum(isinstance(job, RollOut) and (not tree or site in self.queue and self.queue[site].tree)
                   for site, job in self.busy.items())

    def width(self) -> int:
        """How many sites may get a change of the tree at once: first one, then two, four, as long as all succeed."""
        return min(self.config.parallel, 1 << (len(self.done) + 1).bit_length() - 1)

    def order(self, item: Item) -> tuple[Any, ...]:
        """The sort key of a site in the queue."""
        first = self.config.first.index(item.site) if item.site in self.config.first else len(self.config.first)
        # A site that does not answer takes half a minute, so it comes after those that do.
        return not item.by_hand, item.waiting_since is not None, item.tree, not item.own, first, item.site

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
        for item in sorted(self.queue.values(), key=self.order):
            if self.hindrance(item):
                continue
            if self.config.dry_run:
                del self.queue[item.site]
                self.done.add(item.site)
                self.shown[item.site] = self.number(item.site)
                self.would(item.site, f"roll out {item.site}, the standby first: {item.why}")
                continue
            self.busy[item.site] = RollOut(item.site, self.number(item.site), item.why, item.by_hand,
                                           self.shared or "")
            self.out.append(self.busy[item.site])
            self.say("info", f"{item.site}: rolling out: {item.why}")
        for site, at in sorted(self.compare_at.items()):
            if self.now >= at and site not in self.busy and site not in self.queue:
                self.compare(site)
        self.decide_troubles()

    def would(self, site: str, what: str) -> None:
        """In a dry run: report what would be done."""
        self.out.append(Raise("would_resync", site, "", "info", "", what))
        self.say("notice", f"dry run: would {what}")

    def decide_troubles(self) -> None:
        """Add the repairs that are due."""
        if len(self.repairs) > 2 * len(self.troubles) + MAX_TROUBLES_OF_NODE:
            self.repairs = {key: times for key, times in self.repairs.items()
                            if times and self.now - times[-1] < FIGHT_WITHIN_SECONDS}
        for key, each in [*self.troubles.items()]:
            if key not in self.troubles or self.now < each.not_before or each.site in self.busy:
                continue
            if each.fights_until:
                if self.now < each.fights_until:
                    continue
                each.fights_until = None
                self.repairs.pop((each.minion, each.subject), None)
                self.over("drift_fight", each.site, f"{each.minion} {each.subject}", "warning", "tried again")
            if self.is_stopped(each.site) or each.site in self.queue or self.number(each.site) in (
                    "", self.failed.get(each.site), self.refused.get(each.site)):
                continue  # the site's roll-out will repair it, or nothing may be applied there
            if sum(isinstance(job, Apply) for job in self.busy.values()) >= MAX_PARALLEL_REPAIRS:
                return
            self.repair(each)

    def repair(self, trouble: Trouble) -> None:
        """Repair everything on a node that the same formula repairs, at once; or the whole node, where it is marked."""
        more = self.troubles.get((trouble.minion, MORE, MORE_SUBJECT))
        if more and not more.fights_until and self.now >= more.not_before:
            trouble = more
        its = []
        for each in self.troubles.values():
            if (each.minion, each.formula) != (trouble.minion, trouble.formula) or each.fights_until:
                continue
            if (each.formula or each.condition == MORE) and self.fought(each):
                continue
            its.append(each)
        if trouble not in its:
            return
        what = f"apply {trouble.formula or 'everything'} on {trouble.minion}"
        if self.config.dry_run:
            for each in its:
                each.not_before = self.now + FIGHT_REST_SECONDS
            words = [f"{each.condition} {each.subject}" for each in its]
            if words[MAX_SHOWN_OF_NODE:]:
                words[MAX_SHOWN_OF_NODE:] = [f"{len(words) - MAX_SHOWN_OF_NODE} more"]
            self.would(trouble.site, f"{what}: {', '.join(words)}")
            return
        for each in its:
            if each.formula or each.condition == MORE:
                self.repairs.setdefault((each.minion, each.subject), []).append(self.now)
        other = any(each.condition == "not_compared" and each.site == trouble.site and each.minion != trouble.minion
                    for each in self.troubles.values())
        job = Apply(trouble.site, trouble.minion, trouble.formula, self.number(trouble.site),
                    tuple((each.condition, each.subject) for each in its), alone=other and not trouble.formula)
        self.busy[trouble.site] = job
        self.out.append(job)
        self.say("info", f"{trouble.minion}: {what}")

    def fought(self, trouble: Trouble) -> bool:
        """Whether this was repaired too often; then it raises drift_fight."""
        key = trouble.minion, trouble.subject
        times = self.repairs[key] = [at for at in self.repairs.get(key, []) if self.now - at < FIGHT_WITHIN_SECONDS]
        if len(times) < FIGHT_REPAIRS:
            return False
        trouble.fights_until = self.now + FIGHT_REST_SECONDS
        self.alert("drift_fight", trouble.site, f"{trouble.minion} {trouble.subject}", "warning",
                   f"did not stay right, although it was repaired {FIGHT_REPAIRS} times within "
                   f"{FIGHT_WITHIN_SECONDS / 60:.0f} minutes: not repaired for {FIGHT_REST_SECONDS / 60:.0f} minutes",
                   "repaired")
        return True


def _said(job: RollOut | Apply) -> str:
    if isinstance(job, RollOut):
        return job.why
    return f"{job.formula or 'everything'} on {job.minion}"


Machine = RolloutMachine  # its name before 1.0.0; goes with 1.1
