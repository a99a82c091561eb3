"""What a storm leaves behind: lines of JSON, each violation in full when it is known, and a table at the end."""
from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lab.progress import step
from lab.storm.growth import Grown
from lab.storm.invariants import Violation

LAST_SECONDS = 60.0             # whose faults a violation shows


class Report:
    """One storm's figures. Several threads report."""

    def __init__(self, folder: Path, profile: str, seed: int, minutes: float) -> None:
        """The lines go into a new file in `folder`. Raises OSError when that can not be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self.begun = time.time()
        self.profile, self.seed, self.minutes = profile, seed, minutes
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.begun))
        self.path = folder / f"storm-{profile}-{seed}-{stamp}.jsonl"
        self.violations: list[Violation] = []
        self.figures: dict[str, str] = {}
        self.faults: Counter[str] = Counter()
        self.silences: dict[str, list[float]] = {}
        self.gaps: dict[str, list[float]] = {}
        self._open: list[Violation] = []              # not yet shown with what the nodes said
        self._lock = threading.Lock()
        self.row("storm", profile=profile, seed=seed, minutes=minutes, machine=os.uname().release)

    def row(self, kind: str, **fields: Any) -> None:
        """Add a line to the file."""
        line = json.dumps({"kind": kind, "at": round(time.time(), 2), **fields}, default=str)
        with self._lock, open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def violation(self, one: Violation) -> None:
        """Something is not as the documents say. It is shown at once; `explain` shows the rest."""
        with self._lock:
            self.violations.append(one)
            self._open.append(one)
        step(f"VIOLATION {len(self.violations)}: {one.what}: {one.text}")

    def explain(self, faults: Callable[[float, float], list[str]],
                said: Callable[[float], dict[str, str]]) -> None:
        """Show the violations that were not explained yet.

        `faults` gives the faults between two times, `said` what each node logged around a time, by name.
        """
        with self._lock:
            waiting, self._open = self._open, []
        for one in waiting:
            recent, words = faults(one.at - LAST_SECONDS, one.at), said(one.at)
            self.row("violation", what=one.what, text=one.text, when=one.at, seed=self.seed, faults=recent, said=words,
                     load=os.getloadavg()[0])
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
            print(f"\nVIOLATION: {one.what}: {one.text}\n  seed {self.seed}, profile {self.profile}, {when}, "
                  f"{one.at - self.begun:.0f} s after the beginning, load {os.getloadavg()[0]:.1f}", flush=True)
            for line in recent or ["no fault in the last minute"]:
                print(f"  fault: {line}")
            for name, text in words.items():
                print(f"  {name} said:\n" + "\n".join(f"    {line}" for line in text.splitlines()), flush=True)

    def burst(self, names: list[str], silence: float, gaps: dict[str, float], **fields: Any) -> None:
        """A burst is over: its faults, the longest silence of an address, the longest gap of each client."""
        self.row("burst", faults=names, silence=round(silence, 2), gaps=gaps, **fields)
        self.faults.update(names)
        key = names[0] if len(names) == 1 else "two at once"
        self.silences.setdefault(key, []).append(silence)
        self.gaps.setdefault(key, []).append(max(gaps.values(), default=0.0))

    def grown(self, processes: Iterable[Grown]) -> None:
        """How the processes grew: the fastest of each name goes into the table."""
        worst: dict[str, Grown] = {}
        for each in processes:
            self.row("growth", host=each.process.host, name=each.process.name, pid=each.process.pid,
                     kib_an_hour=round(each.memory, 1), descriptors_an_hour=round(each.descriptors, 2),
                     seconds=round(each.seconds), wrong=each.wrong)
            name = each.process.name
            if name not in worst or each.memory > worst[name].memory:
                worst[name] = each
        for name, each in sorted(worst.items()):
            self.figures[f"{name}: memory, descriptors"] = (
                f"{each.memory:+.0f} KiB/h, {each.descriptors:+.1f}/h over {each.seconds / 60:.0f} min "
                f"({each.process.host})")

    def table(self) -> str:
        """All figures as Markdown. Times are seconds, median / worst."""
        lines = [f"Storm: profile `{self.profile}`, seed {self.seed}, {(time.time() - self.begun) / 60:.0f} of "
                 f"{self.minutes:g} minutes", "", "| fault | times | longest silence of an address | longest gap of a "
                 "client |", "| --- | --- | --- | --- |"]
        for name in sorted(self.silences):
            lines.append(f"| {name} | {len(self.silences[name])} | {_two(self.silences[name])} | "
                         f"{_two(self.gaps[name])} |")
        lines += ["", "| what | figure |", "| --- | --- |",
                  f"| faults in all | {self.faults.total()} |"]
        lines += [f"| {name} | {figure} |" for name, figure in self.figures.items()]
        kinds = Counter(each.what for each in self.violations)
        lines.append(f"| **violations** | **{len(self.violations)}**"
                     f"{': ' if kinds else ''}{', '.join(f'{n} x {what}' for what, n in sorted(kinds.items()))} |")
        return "\n".join(lines)


def _two(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.2f} / {ordered[-1]:.2f}"
