"""A master that the tests of the decisions have in common."""
from __future__ import annotations

from typing import Any

from resync.actions import Apply, Raise, RollOut
from resync.decide import RolloutMachine
from resync.events import Drifted, Inputs, Repaired, RolledOut, Told
from resync.settings import Config

SITES = ("basel", "bern", "chur", "winterthur", "zug")
CONFIG = Config(parallel=3, formulas=("kernel", "openswan", "heartbeat"))
GW1, GW2 = "gw1.winterthur", "gw2.winterthur"
SITE = "winterthur"
DRIFT = Drifted(SITE, GW1, "file_changed", "/etc/ipsec.conf", "openswan")


class Master:
    """A RolloutMachine, its clock, its files, and its last actions."""

    def __init__(self, config: Config = CONFIG, kept: dict | None = None, sites: tuple[str, ...] = SITES) -> None:
        self.now = 1000.0
        self.shared, self.own = "tree", dict.fromkeys(sites, "a")
        self.machine = RolloutMachine(config, self.now, kept)
        self.done: list[Any] = []
        self.tell(Inputs(self.shared, self.own))

    def tell(self, *events: Any, after: float = 0.0) -> list[Any]:
        self.now += after
        self.done = [each for event in events for each in self.machine.handle(event, self.now)]
        return self.work()

    def wait(self, seconds: float) -> list[Any]:
        """As the engine does it: it looks at the files every half second."""
        done, until = [], self.now + seconds
        while self.now < until:
            self.now += 0.5
            done += self.machine.handle(Inputs(self.shared, self.own), self.now)
        self.done = done
        return self.work()

    def change(self, *sites: str, tree: bool = False) -> list[Any]:
        for site in sites:
            self.own = self.own | {site: self.own.get(site, "") + "b"}
        self.shared += "b" if tree else ""
        return self.tell(Inputs(self.shared, self.own))

    def work(self) -> list[Any]:
        return [each for each in self.done if isinstance(each, (RollOut, Apply))]

    def sites(self) -> list[str]:
        """The sites of the last roll-outs and repairs."""
        return [each.site for each in self.work()]

    def raised(self) -> list[tuple[str, str, bool]]:
        return [(each.condition, each.site, each.recovered) for each in self.done if isinstance(each, Raise)]

    def end(self, site: str, outcome: str = "done", why: str = "") -> list[Any]:
        job = self.machine.busy[site]
        if isinstance(job, RollOut):
            return self.tell(RolledOut(site, job.number, outcome, why))
        return self.tell(Repaired(job.minion, job.formula, outcome, why))

    def number(self, site: str = SITE) -> str:
        return self.machine.number(site)

    def up_to_date(self, minion: str = GW1, site: str = SITE, current: bool = True) -> Told:
        return Told(site, {minion: (self.number(site), current)})


def refused() -> Master:
    """A master that has refused a site and raised the event."""
    master = Master()
    master.change(SITE)
    master.wait(3)
    master.end(SITE, "refused", "winterthur: gateway:ping_nodes: is missing")
    return master
