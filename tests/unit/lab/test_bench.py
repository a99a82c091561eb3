"""The bench counts the runs that it has and makes those that are missing."""
from __future__ import annotations

import json
from pathlib import Path

from lab.bench import alerts, clients, run
from lab.bench.run import Person, _figures, _silence, missing, parser


def results(folder: Path, *rows: dict) -> Path:
    """A file of raw figures."""
    file = folder / "bench.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def planned(file: Path, *words: str) -> list[tuple[str, list[str]]]:
    """The rounds that are missing: the names of fault and clients."""
    arguments = parser().parse_args(["--results", str(file), *words])
    return [(fault.name, [client.name for client in watched]) for fault, watched in missing("fast", arguments)]


def row(fault: str, configuration: str = "fast", **gaps: float) -> dict:
    return {"configuration": configuration, "fault": fault, "gaps": {k.replace("_", "-"): v for k, v in gaps.items()}}


TWO = ("--fault", "crash", "hang", "--client", "strong-fast", "libre-plain", "--runs", "2")


def test_without_results_everything_is_made_one_round_of_each_fault_after_the_other(tmp_path):
    both = ["strong-fast", "libre-plain"]
    assert planned(tmp_path / "none", *TWO) == [("crash", both), ("hang", both), ("crash", both), ("hang", both)]


def test_what_is_there_is_not_made_again_client_by_client(tmp_path):
    file = results(tmp_path, row("crash", strong_fast=1, libre_plain=190), row("hang", strong_fast=1),
                   row("crash", "rival", strong_fast=1))
    assert planned(file, *TWO) == [("hang", ["libre-plain"]), ("crash", ["strong-fast", "libre-plain"]),
                                   ("hang", ["strong-fast", "libre-plain"])]
    assert planned(results(tmp_path, *[row("crash", strong_fast=1, libre_plain=190)] * 2), *TWO[:2], *TWO[3:]) == []


def test_clients_as_shipped_may_get_fewer(tmp_path):
    assert planned(tmp_path / "none", *TWO, "--runs-as-shipped", "1") == [
        ("crash", ["strong-fast", "libre-plain"]), ("hang", ["strong-fast", "libre-plain"]),
        ("crash", ["strong-fast"]), ("hang", ["strong-fast"])]


def test_a_client_with_several_people_is_in_as_many_rounds_as_it_takes(tmp_path):
    words = ("--fault", "crash", "--client", "strong-fast", "strong-plain")
    assert planned(tmp_path / "none", *words, "--runs", "3") == [("crash", ["strong-fast", "strong-plain"]),
                                                                 *[("crash", ["strong-fast"])] * 2]
    file = results(tmp_path, row("crash", strong_plain=190))
    assert planned(file, *words[:3], "strong-plain", "--runs", "8") == [("crash", ["strong-plain"])] * 2


def test_what_a_configuration_has_not_is_asked_once(tmp_path):
    file = results(tmp_path, row("crash") | {"not_there": True})
    assert {fault for fault, _ in planned(file, *TWO)} == {"hang"}


class Gap:
    """Pings whose longest gap is known."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def longest_gap(self, since: float) -> float:
        return self.seconds


def test_each_person_of_a_client_is_a_run_of_its_own(tmp_path):
    by_name = {client.name: client for client in clients.CLIENTS}
    several, single = by_name["strong-plain"], by_name["libre-plain"]
    people = [Person(single, 0, Gap(20)), *(Person(several, number, Gap(170 + number)) for number in range(3))]
    found = _figures(people, 0, [people[-1]])
    assert found == [{"gaps": {"libre-plain": 20, "strong-plain": 170}, "never": []},
                     {"gaps": {"strong-plain": 171}, "never": []},
                     {"gaps": {"strong-plain": 172}, "never": ["strong-plain"]}]
    file = results(tmp_path, *({"configuration": "fast", "fault": "crash", **each} for each in found))
    assert planned(file, "--fault", "crash", "--client", "strong-plain", "libre-plain", "--runs", "3") == [
        ("crash", ["libre-plain"]), ("crash", ["libre-plain"])]


def test_everybody_has_a_name_and_an_inner_address_of_their_own():
    found = clients.persons(clients.CLIENTS)
    names = [identity for client in clients.CLIENTS for identity in client.identities]
    assert len(set(names)) == len(names) and len(set(found.values())) == len(found)
    assert set(found) == {each for client in clients.CLIENTS if not client.network for each in client.identities}


def test_a_silence_is_looked_for_after_the_fault_only():
    assert _silence([9.0, 9.95, 10.0, 10.05, 10.9, 10.95], 10.0) == (0.85, 0.9)
    assert _silence([9.0, 9.95, 10.0, 10.05, 10.1], 10.0) == (0.0, 0.0)
    assert _silence([9.0], 10.0) == (0.0, 0.0)


def test_every_fault_of_the_table_has_a_bound_in_the_lab_tests():
    from tests.lab.test_faults import BOUNDS

    assert set(BOUNDS) == {fault.name for fault in run.FAULTS}


def test_no_alert_at_all_is_none_in_time():
    """It ended the bench with a traceback, after a run of minutes."""
    assert alerts.in_time([0.5, 9.9]) and not alerts.in_time([0.5, 10.0]) and not alerts.in_time([])
