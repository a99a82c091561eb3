"""The tables show what the bench measured by fault and configuration, with the worst and with who never came back."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.bench.tables import shipped, summary, table


@pytest.fixture
def results(tmp_path) -> Path:
    """Raw figures: two crashes, one with a client that never came back, and a row that is not part of a table."""
    rows = [{"configuration": "fast", "fault": "hang", "gaps": {"strong-fast": 1.5, "strong-plain": 190.0}},
            {"configuration": "fast", "fault": "crash", "gaps": {"strong-fast": 1.0, "libre-fast": 1.25},
             "serving": 0.5, "load": 0.2, "never": []},
            {"configuration": "fast", "fault": "crash", "gaps": {"strong-fast": 60.0, "libre-fast": 2.0},
             "serving": 0.7, "load": 3.0, "never": ["strong-fast"]},
            {"configuration": "paper", "fault": "crash", "gaps": {"strong-fast": 11.0}},
            {"configuration": "rival", "fault": "crash", "gaps": {"strong-plain": 190.0}},
            {"configuration": "rival", "fault": "agent killed", "gaps": {}, "not_there": True}]
    file = tmp_path / "bench.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_table_has_median_worst_and_who_never_came_back(results):
    assert table(results).splitlines() == [
        "| fault | seen by | paper | fast | rival |",
        "| --- | --- | --- | --- | --- |",
        "| crash | serving |  | 0.60 / 0.70 (2) |  |",
        "| crash | strong-fast | 11.00 / 11.00 (1) | 30.50 / 60.00 (2, 1 never came back) |  |",
        "| crash | strong-plain |  |  | 190.00 / 190.00 (1) |",
        "| crash | libre-fast |  | 1.62 / 2.00 (2) |  |",
        "| crash | load |  | 1.60 / 3.00 (2) |  |",
        "| hang | strong-fast |  | 1.50 / 1.50 (1) |  |",
        "| hang | strong-plain |  | 190.00 / 190.00 (1) |  |"]


def test_the_summary_has_the_longest_gap_of_any_tuned_client_in_each_run(results):
    assert summary(results).splitlines() == [
        "| fault | paper | fast |",
        "| --- | --- | --- |",
        "| crash | 11.00 / 11.00 (1) | 30.62 / 60.00 (2, 1 never came back) |",
        "| hang |  | 1.50 / 1.50 (1) |"]


def test_clients_as_shipped_stand_side_by_side_with_their_medians(results):
    with open(results, "a", encoding="utf-8") as file:
        for gaps in ({"libre-plain": 20.84, "site-plain": 0.96}, {"libre-plain": 21.0}, {"strong-plain": 150.0}):
            file.write(json.dumps({"configuration": "rival", "fault": "crash", "gaps": gaps}) + "\n")
    assert shipped(results).splitlines() == [
        "| fault (strong-plain, libre-plain, site-plain) | fast | rival |",
        "| --- | --- | --- |",
        "| crash |  | 170 / 20.9 / 1.0 |",
        "| hang | 190 / - / - |  |"]


@pytest.mark.parametrize("made", [table, summary, shipped])
def test_without_results_there_is_an_empty_table(tmp_path, made):
    assert len(made(tmp_path / "none").splitlines()) == 2
