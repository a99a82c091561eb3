"""The queue of sites that are behind: what puts a site into it, in which order they go, and what holds one up."""
from __future__ import annotations

from typing import Any

from resync.actions import RollOut
from resync.fleet import Fleet
from resync.waits import OTHER_MASTER_SECONDS, Item


class Queue(Fleet):
    """Knows when a site may be rolled out."""

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
            return stopped_by(self.halted)
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


def stopped_by(site: str) -> str:
    """What a site waits for that misses a change of the tree which failed at another site, in words."""
    return f"stopped: {site} failed"
