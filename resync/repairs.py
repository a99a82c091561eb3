"""Repairs of what was changed by hand, or was not compared since a boot: what is wrong, and what is applied for it."""
from __future__ import annotations

from resync.actions import Apply, Ask
from resync.events import Drifted, Repaired, Returned
from resync.queue import Queue
from resync.waits import MAX_TROUBLES_OF_NODE, MORE, MORE_SUBJECT, OTHER_MASTER_SECONDS, Trouble

FIGHT_REPAIRS = 3  # repairs of one thing within FIGHT_WITHIN_SECONDS; then somebody works against them
FIGHT_WITHIN_SECONDS = 600.0
FIGHT_REST_SECONDS = 3600.0  # then that thing is not repaired for this time
MAX_PARALLEL_REPAIRS = 4  # nodes that are repaired at the same time
REPAIR_SETTLES_SECONDS = 60.0  # after a repair: within this time the node's own beacon reports that it is right again
MAX_SHOWN_OF_NODE = 20  # changes by hand, in the status and in texts
# Never repaired: a person has stopped heartbeat, and starting it could make both nodes active. (condition, formula)
NEVER_REPAIRED = {("service_changed", "heartbeat")}


class Repairs(Queue):
    """Remembers what is wrong on the nodes, and decides what is repaired."""

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
