"""Runs the whole suite in several processes side by side: decides which of them runs which modules, in which order.

A lane is a pytest process in namespaces of its own (`python -m lab lane`), with a lab of its own if its modules need
one. A lane runs whole modules, so that each module's fixtures are set up only once. It takes the dearest remaining
module of those that it may run (tests/budgets.toml says what each costs), so that all lanes end at about the same time.

A pytest plugin (pyproject.toml, addopts). Without lanes (`lab/run test PATH`) it does nothing.
"""
from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

BUDGETS = Path(__file__).parent / "budgets.toml"
# Modules of these kinds run in the order of their names, as they do without lanes: some of them leave incidents open,
# which the events of others would join, or make so much come and go that each is not an alert of its own any more.
IN_ORDER = ("sites", "integration")
LANE = "LAB_LANE"           # in a lane's environment: its name
UNBUDGETED_SECONDS = 60.0   # for a module that has no budget yet


@dataclass(frozen=True)
class Lane:
    """One process. `kinds`: the kinds of modules that it runs, most preferred first. `sites`: those of its lab."""

    name: str
    kinds: tuple[str, ...]
    sites: tuple[str, ...]


# Kinds. bare: starts on bare hosts. sites: needs both sites. pair: needs the first site only, and half of the
# processor time. No third lane: a pair at rest takes a seventh of two processors, and beside two more labs the hosts
# stood still for seconds (docs/lab.md).
LANES = (Lane("first", ("bare", "sites", "pair"), ("winterthur", "bern")),
         Lane("second", ("plain", "integration", "pair"), ("winterthur",)))


def here() -> Lane | None:
    """The lane that this process is, None if there are no lanes."""
    return next((lane for lane in LANES if lane.name == os.environ.get(LANE)), None)


def budgets() -> dict[str, dict[str, float]]:
    """By kind and module the budget in seconds (tests/budgets.toml)."""
    return tomllib.loads(BUDGETS.read_text(encoding="utf-8"))


def kind_of(module: str, known: dict[str, dict[str, float]]) -> str:
    """The kind of a module, by its path from the root of the tree."""
    for kind, modules in known.items():
        if module in modules:
            return kind
    return "sites" if module.startswith("tests/lab/") else (
        "integration" if module.startswith("tests/integration/") else "plain")


def choose(lane: Lane, waiting: list[str], others: list[Lane], known: dict[str, dict[str, float]]) -> str | None:
    """The module that a lane takes next, of those that wait; None when there is none for it.

    A module that no other running lane (`others`) may take goes to any lane: with `-k`, or when a lane has died.
    """
    def cost(module: str) -> float:
        return known.get(kind_of(module, known), {}).get(module, UNBUDGETED_SECONDS)

    kinds = {module: kind_of(module, known) for module in waiting}
    for kind in lane.kinds:
        its = [module for module in waiting if kinds[module] == kind]
        if its:
            return min(its) if kind in IN_ORDER else max(its, key=cost)
    served = {kind for each in others for kind in each.kinds}
    return next((module for module in waiting if kinds[module] not in served), None)


class LaneScheduling(LoadScopeScheduling):
    """xdist's scheduling by module; each process takes only modules that its lane may run."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self._known = budgets()

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::", 1)[0]

    def _next(self, node: WorkerController) -> str | None:
        others = [_lane(other) for other in self.nodes if other is not node and not other.shutting_down]
        return choose(_lane(node), list(self.workqueue), others, self._known)

    def _assign_work_unit(self, node: WorkerController) -> None:
        scope = self._next(node)
        if scope is None:
            node.shutdown()
            return
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if not node.shutting_down and self._next(node) is None:
            node.shutdown()
            return
        super()._reschedule(node)


def _lane(node: WorkerController) -> Lane:
    name = node.gateway.spec.env[LANE]
    return next(lane for lane in LANES if lane.name == name)


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Any:
    """The scheduler that xdist asks for; None without lanes, then xdist uses its own."""
    return LaneScheduling(config, log) if any(LANE in spec for spec in config.getoption("tx")) else None
