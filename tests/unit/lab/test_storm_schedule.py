"""Which faults a storm makes depends on the seed alone."""
from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import astuple

import pytest

from lab.storm import faults, limits, told
from lab.storm.schedule import ACTIVE, BY_NAME, KINDS, STANDBY, bursts, schedule
from tests.conftest import TREE

SEEDS = range(60)


def test_the_same_seed_gives_the_same_faults_in_another_process_too():
    program = ("import json, dataclasses; from lab.storm.schedule import schedule; "
               "print(json.dumps([dataclasses.astuple(each) for each in schedule(7, 60)]))")
    said = subprocess.run([sys.executable, "-c", program], cwd=TREE, env={"PYTHONHASHSEED": "5"}, check=True,
                          capture_output=True, text=True).stdout
    assert [tuple(each) for each in json.loads(said)] == [astuple(each) for each in schedule(7, 60)]


def test_a_known_seed_has_known_faults():
    """A violation is reported with its seed: that must find the same faults in a later version too."""
    assert [(each.at, each.fault, each.target, each.seconds) for each in schedule(1, 3)] == [
        (20.0, "woken", ACTIVE, 1.47), (80.44, "agent killed", ACTIVE, 2.31), (81.58, "crash", ACTIVE, 4.61),
        (132.14, "one-way cut", STANDBY, 9.47), (135.48, "crash", STANDBY, 4.04)]


def test_other_seeds_have_other_faults():
    assert len({tuple(schedule(seed, 30)) for seed in SEEDS}) == len(SEEDS)


def test_a_longer_storm_begins_with_the_shorter_one():
    assert schedule(3, 120)[:len(schedule(3, 30))] == schedule(3, 30)


def test_bursts_come_one_after_the_other_and_each_fault_of_one_overlaps():
    for seed in SEEDS:
        found = bursts(schedule(seed, 60))
        for burst, later in zip(found, found[1:], strict=False):
            assert later[0].at >= max(each.at + each.seconds for each in burst) + 24.99
        assert {len(burst) for burst in found} == {1, 2}
        assert all(burst[1].at - burst[0].at <= 8 for burst in found if len(burst) == 2)


def test_all_faults_come_on_both_nodes_where_they_can_and_also_two_at_once():
    every = [each for seed in SEEDS for each in schedule(seed, 60)]
    assert {(each.fault, each.target) for each in every} == {
        (kind.name, target) for kind in KINDS for target in ((ACTIVE, STANDBY) if kind.both else (ACTIVE,))}
    together = {frozenset(each.fault for each in burst) for seed in SEEDS for burst in bursts(schedule(seed, 60))
                if len(burst) == 2}
    assert len(together) > 80
    assert not any(BY_NAME[name].alone for names in together for name in names)


def test_of_each_hour_25_minutes_end_no_process():
    for seed in SEEDS:
        gentle = [each for each in schedule(seed, 120) if each.at % 3600 > 2100]
        assert len(gentle) > 20 and all(BY_NAME[each.fault].gentle for each in gentle)
    assert all(not kind.gentle for kind in KINDS if kind.power or "killed" in kind.name or "hung" in kind.name)


def test_what_is_made_over_a_console_comes_before_what_takes_the_console_away():
    for seed in SEEDS:
        for burst in bursts(schedule(seed, 60)):
            if len(burst) == 2:
                first, second = burst
                assert not first.power or second.power, burst
                assert not (first.power and second.power and first.target == second.target), burst


@pytest.mark.parametrize("table", [faults.MAKE, limits.EFFECTS], ids=["made", "limits"])
def test_every_fault_can_be_made_and_is_judged(table):
    assert set(table) == set(BY_NAME)


def test_every_fault_is_told_but_the_death_of_an_agent():
    assert set(BY_NAME) - set(told.EXPECTED) == {"agent killed", "agent hung"}
    assert set(told.EXPECTED) < set(BY_NAME)
