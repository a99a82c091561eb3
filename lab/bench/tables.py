"""The results file as Markdown: tables that compare configurations, and one with everything that was measured."""
from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from lab.bench.clients import CLIENTS
from lab.bench.faults import FAULTS
from lab.bench.pairs import CONFIGURATIONS

PHASES = ("detected", "held", "serving", "still_answers")     # what a row says of the nodes; `gaps` are the clients'


def rows(results: Path) -> list[dict[str, Any]]:
    """All runs in the file, none if there is no such file."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def summary(results: Path) -> str:
    """One line for each fault: the longest gap of any tuned client in each run, median / worst (runs), in seconds."""
    longest: dict[tuple[str, str], list[float]] = {}
    never: Counter[tuple[str, str]] = Counter()
    tuned = {client.name for client in CLIENTS if client.tuned}
    for row in rows(results):
        gaps = [gap for client, gap in row.get("gaps", {}).items() if client in tuned]
        if gaps:
            key = row["fault"], row["configuration"]
            longest.setdefault(key, []).append(max(gaps))
            never[key] += bool(tuned.intersection(row.get("never", ())))
    columns = _columns({key[1] for key in longest})
    lines = _head(["fault"], columns)
    for fault in _faults({key[0] for key in longest}):
        lines.append(_line(fault, *(_cell(longest.get((fault, column), []), never[fault, column])
                                    for column in columns)))
    return "\n".join(lines)


def shipped(results: Path) -> str:
    """One line for each fault: the median gap of each client as shipped, in seconds; - if unknown.

    The heading has the order of the clients. One that never came back counts with the time that the bench waited.
    """
    there = {name for row in rows(results) for name in row.get("gaps", ())}
    plain = [client.name for client in CLIENTS if not client.tuned and client.name in there]
    gaps: dict[tuple[str, str, str], list[float]] = {}
    for row in rows(results):
        for name in plain:
            if name in row.get("gaps", {}):
                gaps.setdefault((row["fault"], row["configuration"], name), []).append(row["gaps"][name])
    columns = _columns({key[1] for key in gaps})
    lines = _head([f"fault ({', '.join(plain)})"], columns)
    for fault in _faults({key[0] for key in gaps}):
        cells = []
        for column in columns:
            found = [gaps.get((fault, column, name)) for name in plain]
            cells.append(" / ".join(_short(statistics.median(each)) if each else "-" for each in found)
                         if any(found) else "")
        lines.append(_line(fault, *cells))
    return "\n".join(lines)


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def table(results: Path) -> str:
    """Everything: where the time goes, each client's gap and the machine's load; median / worst (runs), in seconds."""
    figures: dict[tuple[str, str, str], list[float]] = {}
    never: Counter[tuple[str, str, str]] = Counter()
    for row in rows(results):
        if row.get("not_there"):
            continue
        # where the time goes, then what the clients saw, then the load, which shows noisy runs
        split = {what: row[what] for what in PHASES if what in row}
        load = {"load": row["load"]} if "load" in row else {}
        for client, gap in {**split, **row.get("gaps", {}), **load}.items():
            figures.setdefault((row["fault"], client, row["configuration"]), []).append(gap)
        never.update((row["fault"], client, row["configuration"]) for client in row.get("never", ()))
    columns = _columns({key[2] for key in figures})
    lines = _head(["fault", "seen by"], columns)
    for fault in _faults({key[0] for key in figures}):
        seen = {key[1] for key in figures if key[0] == fault}
        for client in [*PHASES, *(client.name for client in CLIENTS), "load"]:
            if client in seen:
                keys = [(fault, client, column) for column in columns]
                lines.append(_line(fault, client, *(_cell(figures.get(key, []), never[key]) for key in keys)))
    return "\n".join(lines)


def _columns(there: set[str]) -> list[str]:
    return [configuration for configuration in CONFIGURATIONS if configuration in there]


def _faults(there: set[str]) -> list[str]:
    known = [fault.name for fault in FAULTS]
    return [*(fault for fault in known if fault in there), *sorted(there.difference(known))]


def _head(words: list[str], columns: list[str]) -> list[str]:
    return [_line(*words, *columns), "|" + " --- |" * (len(words) + len(columns))]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(gaps: list[float], never: int) -> str:
    if not gaps:
        return ""
    lost = f", {never} never came back" if never else ""
    return f"{statistics.median(gaps):.2f} / {max(gaps):.2f} ({len(gaps)}{lost})"
