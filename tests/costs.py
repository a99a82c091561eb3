"""Prints at the end of a run what each module cost, the dearest tests, and which modules are above their budget.

The budgets are in tests/budgets.toml, in seconds on the machine that its `calibration` was measured on. A machine that
takes twice as long for the same work gets twice the seconds. A pytest plugin (pyproject.toml, addopts).
"""
from __future__ import annotations

import hashlib
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests import lanes

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

DEAREST_TESTS = 10          # that are listed
TABLE_FROM_SECONDS = 60.0   # a shorter run prints no table
SHOWN_FROM_SECONDS = 5.0    # cheaper modules share one line for their folder
# A module is above its budget if it exceeds it by more than this, and is above this many times the budget: other
# programs use the machine as well.
GRACE_SECONDS = 15.0
SLACK_FACTOR = 1.3
CALIBRATION = "calibration"


def calibrate() -> float:
    """Seconds that this machine takes for a fixed piece of work: the best of three."""
    def once() -> float:
        begun = time.perf_counter()
        data = b"x" * 4096
        for _ in range(20_000):
            data = hashlib.sha256(data).digest() * 128
        return time.perf_counter() - begun
    return min(once() for _ in range(3))


class Costs:
    """Adds up the duration of every set-up, call and teardown, by module and test."""

    def __init__(self) -> None:
        self.modules: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        known = lanes.budgets()
        reference = known.pop(CALIBRATION)["seconds"]
        self.scale = max(1.0, calibrate() / reference)
        self.budgets = {module: seconds for kind in known.values() for module, seconds in kind.items()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of one test; a second try counts too."""
        self.modules[report.nodeid.split("::", 1)[0]] += report.duration
        self.tests[report.nodeid] += report.duration

    def above(self) -> list[tuple[str, float, float]]:
        """The modules above their budget: path, seconds, and the budget on this machine."""
        found = []
        for module, seconds in self.modules.items():
            budget = self.budgets.get(module, 0.0) * self.scale
            if module in self.budgets and seconds > max(budget * SLACK_FACTOR, budget + GRACE_SECONDS):
                found.append((module, seconds, budget))
        return sorted(found, key=lambda each: each[2] - each[1])

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Print the table, if the run took long enough."""
        if self.modules.total() < TABLE_FROM_SECONDS:
            return
        write = terminalreporter.write_line
        terminalreporter.section("what it cost, in seconds")
        small: Counter[str] = Counter()
        for module, seconds in self.modules.most_common():
            if seconds >= SHOWN_FROM_SECONDS:
                budget = self.budgets.get(module)
                write(f"{seconds:8.1f}  {module}" + (f"  (budget {budget * self.scale:.0f})" if budget else ""))
            else:
                small[module.rsplit("/", 1)[0]] += seconds
        for folder, seconds in sorted(small.items()):
            write(f"{seconds:8.1f}  {folder}, modules below {SHOWN_FROM_SECONDS:.0f} s each")
        write(f"{self.modules.total():8.1f}  in all; this machine counts as {self.scale:.2f} times slower than the "
              "budgets'")
        terminalreporter.section(f"the {DEAREST_TESTS} dearest tests, in seconds")
        for test, seconds in self.tests.most_common(DEAREST_TESTS):
            write(f"{seconds:8.1f}  {test}")
        above = self.above()
        if above:
            terminalreporter.section("MODULES ABOVE THEIR BUDGET", sep="!", red=True, bold=True)
            for module, seconds, budget in above:
                write(f"{module}: {seconds:.0f} s, budget {budget:.0f} s. Make it cheaper, or make something else "
                      "cheaper and change tests/budgets.toml", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin, but not in xdist's workers."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Costs(), "gateway-costs")
