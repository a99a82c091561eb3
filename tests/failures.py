"""Writes each failure to a file and prints the first lines of all failures last, where a cut log can not lose them.

The files are in the folder LAB_RESULTS (docs/lab.md); those of the run before are removed. A pytest plugin
(pyproject.toml, addopts).
"""
from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

RESULTS_VARIABLE = "LAB_RESULTS"    # in the environment: the folder
FIRST_LINES = 25                    # of each failure that are printed
MAX_LINE_CHARACTERS = 200           # that are printed of a line


def file_name(nodeid: str, phase: str) -> str:
    """The file name for a test and phase: `tests_lab_test_disk.py_test_x-call.txt`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", nodeid)[:180] + f"-{phase}.txt"


def first_lines(text: str) -> str:
    """The first lines of a report: the assertion's lines first, then the beginning."""
    lines = [line[:MAX_LINE_CHARACTERS] for line in text.splitlines()]
    said = [line for line in lines if re.match(r"E\s", line)][:FIRST_LINES // 2]
    return "\n".join([*said, *lines[:FIRST_LINES - len(said)]])


class Failures:
    """Writes the files while the tests run, so that they exist however the run ends."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.found: dict[str, str] = {}
        if folder:
            shutil.rmtree(folder / "failures", ignore_errors=True)
            (folder / "failures").mkdir(parents=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a failed phase. A failed first try is kept as well: its outcome is `rerun`."""
        if report.outcome not in ("failed", "rerun"):
            return
        text = f"{report.nodeid} ({report.when}, {report.outcome})\n{report.longreprtext}\n"
        name = file_name(report.nodeid, report.when or "call")
        if self.folder:
            with open(self.folder / "failures" / name, "a", encoding="utf-8") as file:
                file.write(text)
        self.found[f"{report.nodeid} ({report.when}, {report.outcome})"] = first_lines(report.longreprtext)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Print the failures, below everything else."""
        for which, lines in self.found.items():
            print(f"\n!!! {which}\n{lines}")
        if self.found:
            print(f"\n{len(self.found)} failures and second tries, whole in "
                  f"{self.folder / 'failures' if self.folder else 'no folder: LAB_RESULTS is not set'}")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin, only in the process that collects all reports."""
    if not hasattr(config, "workerinput"):
        named = os.environ.get(RESULTS_VARIABLE)
        config.pluginmanager.register(Failures(Path(named) if named else None), "gateway-failures")
