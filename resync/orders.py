"""What a person may ask of resync: stop, go, and a site now."""
from __future__ import annotations

from resync.actions import Ask
from resync.events import Order
from resync.repairs import Repairs
from resync.rollouts import Rollouts


class Orders(Rollouts, Repairs):
    """Takes a person's orders."""

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
