"""The benchmark counts what it has and makes what is missing."""
from __future__ import annotations

import json
from pathlib import Path

from lab.bench import run
from lab.bench.run import _silence, missing, parser


def results(folder: Path, *rows: dict) -> Path:
    """A file of raw figures."""
    file = folder / "bench.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def planned(file: Path, *words: str) -> list[tuple[str, list[str]]]:
    """The rounds that are missing, by name."""
    arguments = parser().parse_args(["--results", str(file), *words])
    return [(fault.name, [client.name for client in watched]) for fault, watched in missing("fast", arguments)]


def row(fault: str, configuration: str = "fast", **gaps: float) -> dict:
    return {"configuration": configuration, "fault": fault, "gaps": {k.replace("_", "-"): v for k, v in gaps.items()}}


TWO = ("--fault", "crash", "hang", "--client", "strong-fast", "strong-plain", "--runs", "2")


def test_without_results_everything_is_made_one_round_of_each_fault_after_the_other(tmp_path):
    both = ["strong-fast", "strong-plain"]
    assert planned(tmp_path / "none", *TWO) == [("crash", both), ("hang", both), ("crash", both), ("hang", both)]


def test_what_is_there_is_not_made_again_client_by_client(tmp_path):
    file = results(tmp_path, row("crash", strong_fast=1, strong_plain=190), row("hang", strong_fast=1),
                   row("crash", "rival", strong_fast=1))
    assert planned(file, *TWO) == [("hang", ["strong-plain"]), ("crash", ["strong-fast", "strong-plain"]),
                                   ("hang", ["strong-fast", "strong-plain"])]
    assert planned(results(tmp_path, *[row("crash", strong_fast=1, strong_plain=190)] * 2), *TWO[:2], *TWO[3:]) == []


def test_clients_as_shipped_may_get_fewer(tmp_path):
    assert planned(tmp_path / "none", *TWO, "--runs-as-shipped", "1") == [
        ("crash", ["strong-fast", "strong-plain"]), ("hang", ["strong-fast", "strong-plain"]),
        ("crash", ["strong-fast"]), ("hang", ["strong-fast"])]


def test_what_a_configuration_has_not_is_asked_once(tmp_path):
    file = results(tmp_path, row("crash") | {"not_there": True})
    assert {fault for fault, _ in planned(file, *TWO)} == {"hang"}


def test_a_silence_is_looked_for_after_the_fault_only():
    assert _silence([9.0, 9.95, 10.0, 10.05, 10.9, 10.95], 10.0) == (0.85, 0.9)
    assert _silence([9.0, 9.95, 10.0, 10.05, 10.1], 10.0) == (0.0, 0.0)
    assert _silence([9.0], 10.0) == (0.0, 0.0)


def test_every_fault_of_the_table_has_a_bound_in_the_lab_tests():
    from tests.lab.test_faults import BOUNDS

    assert set(BOUNDS) == {fault.name for fault in run.FAULTS}
