"""`lab/run storm` and its options."""
from __future__ import annotations

import sys
from types import ModuleType

import pytest

from lab import __main__ as command
from lab.storm import options


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lab/run", "storm", *words])
    return command.main()


def test_the_plan_is_printed_without_a_lab(monkeypatch, capsys):
    assert run(monkeypatch, "--plan", "--minutes", "3", "--seed", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].endswith("burst 0: woken on the active node, 1.47 s")


def test_a_simulated_storm_runs_elsewhere_and_gives_its_exit_code(monkeypatch):
    simulated, said = ModuleType("lab.storm.simulated"), []
    simulated.run = lambda minutes, seed: said.append((minutes, seed)) or 1
    monkeypatch.setitem(sys.modules, "lab.storm.simulated", simulated)
    assert run(monkeypatch, "--simulated", "--minutes", "60", "--seed", "4") == 1
    assert said == [(60.0, 4)]


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--minutes", "-5"], ["--minutes", "nan"], ["--seed", "x"],
                                   ["--profile", "paper"], ["--client", "nobody"]])
def test_what_makes_no_sense_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        options.parser().parse_args(words)
    assert "error: argument" in capsys.readouterr().err


def test_the_clients_are_those_of_the_bench_that_notice_soon():
    from lab.bench.clients import CLIENTS

    tuned = {client.name for client in CLIENTS if client.tuned and not client.behind_nat}
    assert set(options.CLIENTS) == tuned
