"""Roll-outs: which are started now, and what follows from the outcome of one."""
from __future__ import annotations

from resync.actions import Compare, RollOut
from resync.events import RolledOut
from resync.queue import Queue
from resync.waits import ASK_SITE_SECONDS, OTHER_MASTER_SECONDS

COMPARE_SECONDS = 3600.0  # between two comparisons of a site's two nodes
WAITING_ALERT_SECONDS = 300.0  # a site that waits for this long is alerted


class Rollouts(Queue):
    """Decides what is rolled out, and takes the outcomes."""

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

    def compare(self, site: str) -> None:
        """Have a site's nodes compared."""
        self.compare_at[site] = self.now + COMPARE_SECONDS
        self.out.append(Compare(site))

    def decide_rollouts(self) -> None:
        """Start the roll-outs that nothing holds up."""
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
