"""A process that grows is found; one that only moves up and down is not."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lab.storm import growth
from lab.storm.growth import Growth, slope


def grown(kib, descriptors=lambda _minute: 12, minutes: int = 60, name: str = "agent", every: int = 1):
    """A process whose memory and descriptors are functions of the minute."""
    its = Growth()
    for minute in range(0, minutes + 1, every):
        its.add("gw1", 5000.0 + minute * 60, [[name, 77, 4711, int(kib(minute)), int(descriptors(minute))]])
    return its.grown()


def test_a_process_that_keeps_its_size_is_well():
    [its] = grown(lambda _minute: 20000)
    assert its.wrong == "" and its.memory == 0


def test_a_leak_of_memory_is_found():
    [its] = grown(lambda minute: 20000 + 50 * minute)
    assert "its memory grows by 3000 KiB an hour" in its.wrong


def test_a_leak_of_descriptors_is_found():
    [its] = grown(lambda _minute: 20000, lambda minute: 12 + minute // 5)
    assert "file descriptors grow by 12" in its.wrong and "memory" not in its.wrong


def test_what_it_loads_at_its_start_does_not_count():
    [its] = grown(lambda minute: 8000 + 3000 * min(minute, 4))
    assert its.wrong == ""


def test_one_high_sample_and_ups_and_downs_are_no_growth():
    [its] = grown(lambda minute: 20000 + (9000 if minute == 58 else 0) + 400 * (minute % 3),
                  lambda minute: 12 + minute % 4)
    assert its.wrong == ""


def test_a_little_in_a_short_time_is_an_allocators():
    [its] = grown(lambda minute: 20000 + 12 * minute, minutes=25)
    assert its.memory > growth.MEMORY["agent"][0] and its.wrong == ""


def test_each_kind_has_its_own_measure():
    [minion] = grown(lambda minute: 90000 + 50 * minute, name="minion")
    [master] = grown(lambda minute: 90000 + 1000 * minute, name="master EventPublisher")
    assert minion.wrong == "" and "60000 KiB an hour" in master.wrong


def test_a_short_life_says_nothing_and_another_process_with_the_number_is_another():
    assert grown(lambda minute: 20000 + 5000 * minute, minutes=15) == []
    its = Growth()
    for minute in range(61):
        its.add("gw1", minute * 60.0, [["pluto", 77, minute // 15, 9000 + 900 * minute, 20]])
    assert its.grown() == []


def test_what_is_no_sample_is_refused():
    with pytest.raises(ValueError, match="no sample"):
        Growth().add("gw1", 0, [["agent", "77", 1, 2, 3]])


def test_the_slope_is_the_middle_of_all():
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert slope([(0, 1), (1, 3), (2, 500), (3, 7), (4, 9)]) == 2
    assert slope([]) == slope([(1, 1)]) == 0


def test_the_program_that_samples_sees_a_process_with_its_memory_and_descriptors():
    """Run here, with a process that is called as a minion is."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()",
                              "/usr/bin/salt-minion"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        found = json.loads(subprocess.run([sys.executable, "-I", "-c", growth.PROGRAM], capture_output=True, text=True,
                                          check=True).stdout)
    finally:
        child.communicate(timeout=10)
    [its] = [each for each in found if each[1] == child.pid]
    assert its[0] == "minion" and its[2] > 0 and its[3] > 500 and its[4] >= 3
    Growth().add("here", 0, [its])
