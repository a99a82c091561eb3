"""Which process runs which module, which modules are above their budget, and what is kept of a failure."""
from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from tests import costs, failures, lanes
from tests.conftest import TREE

FIRST_LANE, SECOND_LANE = lanes.LANES
KNOWN = {"calibration": {"seconds": 1}, "bare": {"tests/lab/test_b.py": 300}, "sites": {"tests/lab/test_s.py": 100},
         "pair": {"tests/lab/test_p.py": 50, "tests/lab/test_q.py": 80},
         "integration": {"tests/integration/test_i.py": 9}}
ALL_MODULES = [module for kind, modules in KNOWN.items() if kind != "calibration" for module in modules]


def chosen(lane: lanes.Lane, waiting: list[str], *others: lanes.Lane) -> str | None:
    return lanes.choose(lane, waiting, list(others), KNOWN)


def test_each_lane_begins_with_what_only_it_can_do():
    assert chosen(FIRST_LANE, ALL_MODULES, SECOND_LANE) == "tests/lab/test_b.py"
    assert chosen(SECOND_LANE, ALL_MODULES, FIRST_LANE) == "tests/integration/test_i.py"
    assert chosen(SECOND_LANE, [*ALL_MODULES, "tests/unit/test_u.py"], FIRST_LANE) == "tests/unit/test_u.py"


def test_the_dearest_of_a_kind_comes_first():
    assert chosen(SECOND_LANE, ["tests/lab/test_p.py", "tests/lab/test_q.py"], FIRST_LANE) == "tests/lab/test_q.py"


def test_modules_that_share_a_master_keep_their_order():
    waiting = ["tests/integration/test_i.py", "tests/integration/test_cheap.py"]
    known = KNOWN | {"integration": {"tests/integration/test_cheap.py": 1, "tests/integration/test_i.py": 9}}
    assert lanes.choose(SECOND_LANE, waiting, [FIRST_LANE], known) == "tests/integration/test_cheap.py"


def test_alerts_are_tested_before_so_much_came_and_went_that_each_is_not_told():
    module = "tests/lab/test_alerts.py"
    sites = [name for name in lanes.budgets()["sites"] if name != module]
    assert lanes.choose(FIRST_LANE, [*sites, module], [SECOND_LANE], lanes.budgets()) == module


def test_a_lane_takes_nothing_that_another_one_has_to():
    assert chosen(SECOND_LANE, ["tests/lab/test_s.py"], FIRST_LANE) is None


def test_what_no_running_lane_takes_is_anybodys():
    assert chosen(SECOND_LANE, ["tests/lab/test_s.py"]) == "tests/lab/test_s.py"
    assert chosen(FIRST_LANE, ["tests/unit/test_u.py"]) == "tests/unit/test_u.py"


def test_a_module_without_a_budget_is_of_its_folders_kind():
    assert [lanes.kind_of(f"tests/{path}/test_new.py", KNOWN) for path in ("lab", "integration", "unit/agent")] == [
        "sites", "integration", "plain"]


def test_every_module_of_lab_and_integration_has_a_budget_and_every_budget_a_module():
    there = {str(path.relative_to(TREE)) for folder in ("lab", "integration")
             for path in (TREE / "tests" / folder).glob("test_*.py")}
    named = {module for kind, modules in lanes.budgets().items() if kind != costs.CALIBRATION for module in modules}
    assert there == named


@pytest.fixture
def ledger() -> costs.Costs:
    its = costs.Costs()
    its.budgets, its.scale = {"tests/lab/test_a.py": 100.0, "tests/lab/test_b.py": 10.0}, 2.0
    return its


def test_costs_add_up_by_module_and_test(ledger):
    for nodeid, seconds in (("tests/lab/test_a.py::one", 3.0), ("tests/lab/test_a.py::one", 1.0),
                            ("tests/lab/test_a.py::two", 5.0)):
        ledger.pytest_runtest_logreport(SimpleNamespace(nodeid=nodeid, duration=seconds))
    assert ledger.modules == Counter({"tests/lab/test_a.py": 9.0})
    assert ledger.tests.most_common(1) == [("tests/lab/test_a.py::two", 5.0)]


@pytest.mark.parametrize("seconds, above", [(199.0, False), (259.0, False), (261.0, True)])
def test_a_module_is_named_when_it_is_well_above_its_budget_on_this_machine(ledger, seconds, above):
    ledger.modules["tests/lab/test_a.py"] = seconds
    assert [module for module, *_ in ledger.above()] == (["tests/lab/test_a.py"] if above else [])


def test_a_small_module_may_be_some_seconds_above(ledger):
    ledger.modules["tests/lab/test_b.py"] = 34.0
    assert ledger.above() == []


def test_a_machine_is_never_counted_as_faster_than_the_budgets_one(monkeypatch):
    monkeypatch.setattr(costs, "calibrate", lambda: 0.0001)
    assert costs.Costs().scale == 1.0


def report(outcome: str, text: str) -> SimpleNamespace:
    return SimpleNamespace(nodeid="tests/lab/test_a.py::test_x[a b/c]", when="call", outcome=outcome, longreprtext=text,
                           duration=1.0)


def test_a_failure_is_in_a_file_of_its_own_and_printed_last(tmp_path, capsys):
    its = failures.Failures(tmp_path)
    its.pytest_runtest_logreport(report("passed", ""))
    its.pytest_runtest_logreport(report("rerun", "def test_x():\n    assert 1 == 2\nE   assert 1 == 2"))
    its.pytest_runtest_logreport(report("failed", "again"))
    (file,) = (tmp_path / "failures").iterdir()
    assert file.name == "tests_lab_test_a.py_test_x_a_b_c_-call.txt"
    assert "assert 1 == 2" in file.read_text() and file.read_text().endswith("again\n")
    its.pytest_unconfigure()
    said = capsys.readouterr().out
    assert said.index("E   assert 1 == 2") < said.index("def test_x") and "2 failures and second tries" in said


def test_the_files_of_the_run_before_are_gone(tmp_path):
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures/old.txt").write_text("old")
    failures.Failures(tmp_path)
    assert list((tmp_path / "failures").iterdir()) == []
