"""Who answers for an address, and for how long nobody or two may: constructed timelines of the watch."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from lab.storm import limits
from lab.storm.calendar import Burst, Calendar, Made, longest_outside, without
from lab.storm.invariants import Invariants, Violation
from lab.storm.schedule import ACTIVE, STANDBY, Planned

ADDRESS = "192.0.2.10"
MACS = {"gw1": "02:00:00:00:00:01", "gw2": "02:00:00:00:00:04"}
BEGUN = 1000.0


class Scene:
    """A storm's timeline. Nodes answer ten pings and five ARP questions a second, as the watch asks them."""

    def __init__(self, profile: str = "fast") -> None:
        self.calendar = Calendar(profile)
        self.its = Invariants(self.calendar, {mac: node for node, mac in MACS.items()}, [ADDRESS], BEGUN)
        self.lines: list[tuple[float, Callable[[], list[Violation] | None]]] = []
        self.stalled: list[tuple[float, float]] = []

    def answers(self, node: str, since: float, until: float, kinds: Iterable[str] = ("ping", "arp")) -> Scene:
        for kind in kinds:
            step = 0.1 if kind == "ping" else 0.2
            for number in range(int((until - since) / step + 1e-6) + 1):
                at = BEGUN + since + number * step
                self.lines.append((at, lambda kind=kind, at=at: self.its.answer(kind, at, ADDRESS, MACS[node])))
        return self

    def stalls(self, since: float, until: float) -> Scene:
        self.stalled.append((since, until))
        self.lines.append((BEGUN + until - 0.001, lambda: self.its.stall(BEGUN + since, BEGUN + until)))
        return self

    def burst(self, begin: float, end: float, *faults: tuple[str, str], made: float | None = None,
              healed: float = 0.0, starved: bool = False) -> Scene:
        """`end` 0: it is not over yet."""
        planned = [Planned(0, 0, fault, target, 5) for fault, target in faults]
        self.calendar.bursts.append(Burst(BEGUN + begin, [
            Made(each, "gw1", BEGUN + (begin if made is None else made), healed and BEGUN + healed)
            for each in planned], end and BEGUN + end, starved))
        return self

    def violations(self, until: float) -> list[Violation]:
        ticks = [(BEGUN + second, lambda second=second: self.its.tick(BEGUN + second))
                 for second in range(1, int(until) + 1)
                 if not any(begin < second < end for begin, end in self.stalled)]      # it ticks no more than it asks
        return [each for _at, line in sorted([*self.lines, *ticks], key=lambda line: line[0]) for each in line() or []]

    def kinds(self, until: float) -> list[str]:
        return [each.what for each in self.violations(until)]


def test_a_pair_at_rest_violates_nothing():
    scene = Scene().answers("gw1", 0, 30)
    assert scene.kinds(30) == [] and scene.its.moves == [] and scene.its.longest_silence[ADDRESS] < 0.15


def test_a_silence_without_a_fault_is_a_violation_once():
    found = Scene().answers("gw1", 0, 5).answers("gw1", 8, 12).violations(12)
    assert [each.what for each in found] == ["nobody answered"]
    assert ADDRESS in found[0].text and "allowed: 0.80 s" in found[0].text


def test_a_silence_that_never_ends_is_seen_all_the_same():
    found = Scene().answers("gw1", 0, 5).violations(20)
    assert len(found) == 1 and "and goes on" in found[0].text and found[0].at <= BEGUN + 7


def test_an_address_that_never_answered_is_seen():
    assert Scene().kinds(5) == ["nobody answered"]


def test_answers_to_arp_alone_do_not_serve_anybody():
    """The router's cache names a node that has gone: all ask the wrong one, while another one answers for it."""
    scene = Scene().answers("gw1", 0, 5).answers("gw2", 5.1, 20, kinds=["arp"])
    assert scene.kinds(20) == ["nobody answered"]


@pytest.mark.parametrize("profile, silence, wrong", [
    ("fast", 1.2, False), ("fast", 1.6, True), ("default", 1.9, False), ("default", 2.3, True)])
def test_after_a_crash_the_other_node_answers_within_the_profiles_time(profile, silence, wrong):
    scene = Scene(profile).burst(4.9, 40, ("crash", ACTIVE)).answers("gw1", 0, 5).answers("gw2", 5 + silence, 15)
    assert scene.kinds(15) == ["nobody answered"] * wrong
    assert scene.its.moves_since(BEGUN, ADDRESS) == ["gw2"]


def test_a_crash_of_the_standby_interrupts_nobody():
    assert Scene().burst(4.9, 40, ("crash", STANDBY)).answers("gw1", 0, 5).answers("gw1", 6, 15).kinds(15) == [
        "nobody answered"]


def test_when_no_node_need_be_able_a_silence_counts_only_from_when_the_pair_is_whole():
    both = ("crash", ACTIVE), ("crash", STANDBY)
    assert Scene().burst(5, 60, *both).answers("gw1", 0, 5).answers("gw2", 60.3, 70).kinds(70) == []
    assert Scene().burst(5, 60, *both).answers("gw1", 0, 5).answers("gw2", 63, 70).kinds(70) == ["nobody answered"]
    assert Scene().burst(5, 0, *both).answers("gw1", 0, 5).kinds(70) == []       # not over yet


def test_what_the_watch_did_not_ask_nobody_could_answer():
    assert Scene().answers("gw1", 0, 5).stalls(5.05, 8).answers("gw1", 8, 12).kinds(12) == []
    assert Scene().answers("gw1", 0, 5).stalls(5.05, 6).answers("gw1", 8, 12).kinds(12) == ["nobody answered"]


def test_two_nodes_that_answer_for_longer_than_a_second_are_a_violation_once():
    found = Scene().answers("gw1", 0, 10).answers("gw2", 5, 20, kinds=["arp"]).violations(10)
    assert [each.what for each in found] == ["two answered"] and "gw1" in found[0].text and "gw2" in found[0].text


def test_a_violation_shows_who_answered_when():
    scene = Scene().answers("gw1", 0, 5).answers("gw2", 8, 12, kinds=["arp"]).stalls(6, 7)
    scene.violations(12)
    seen = scene.its.seen(BEGUN + 4, BEGUN + 10)
    assert [line.split(" ", 3)[3] for line in seen] == [
        f"gw1 answered for {ADDRESS} (ping)", f"gw1 answered for {ADDRESS} (arp)", f"gw2 answered for {ADDRESS} (arp)",
        "the watch got no processor"]
    first, last = seen[2].split(" ")[0:3:2]
    assert first.endswith(":48.00") and last.endswith(":50.00")          # 1000 s and 8 s; not what came after 10 s


@pytest.mark.parametrize("overlap, wrong", [(1.2, False), (2.0, True)])
def test_a_node_that_leaves_late_may_answer_for_a_second(overlap, wrong):
    scene = Scene().burst(4, 30, ("heartbeat killed", ACTIVE))
    scene.answers("gw1", 0, 5 + overlap, kinds=["arp"]).answers("gw2", 5, 12, kinds=["arp", "ping"])
    scene.answers("gw1", 0, 4.9, kinds=["ping"])
    assert scene.kinds(12) == ["two answered"] * wrong
    assert scene.its.longest_both[ADDRESS] == pytest.approx(overlap, abs=0.25)


def test_a_node_that_takes_over_the_moment_the_other_leaves_is_no_two():
    scene = Scene().burst(4, 30, ("switch-over", ACTIVE)).answers("gw1", 0, 5).answers("gw2", 5.05, 12)
    assert scene.kinds(12) == [] and scene.its.longest_both[ADDRESS] == 0


def split(until_both: float, healed: float) -> Scene:
    scene = Scene().burst(5, 60, ("cut", ACTIVE), made=5, healed=healed)
    scene.answers("gw1", 0, until_both, kinds=["arp"]).answers("gw1", 0, 6, kinds=["ping"])
    return scene.answers("gw2", 6, 40)


def test_nodes_that_do_not_hear_each_other_may_both_answer_until_a_second_after_they_do():
    assert split(until_both=21, healed=20).kinds(40) == []
    assert split(until_both=23, healed=20).kinds(40) == ["two answered"]


@pytest.mark.parametrize("overlap, wrong", [(4.5, False), (5.5, True)])
def test_while_only_one_node_hears_the_other_it_has_longer_to_give_way_but_not_for_ever(overlap, wrong):
    scene = Scene().burst(5, 60, ("one-way cut", STANDBY), made=5, healed=20)
    scene.answers("gw1", 0, 6 + overlap, kinds=["arp"]).answers("gw1", 0, 6, kinds=["ping"]).answers("gw2", 6, 30)
    assert scene.kinds(30) == ["two answered"] * wrong


def test_two_cuts_in_one_direction_each_are_a_cut_in_both():
    scene = Scene().burst(5, 60, ("one-way cut", STANDBY), ("one-way cut", ACTIVE), made=5, healed=20)
    scene.answers("gw1", 0, 18, kinds=["arp"]).answers("gw1", 0, 6, kinds=["ping"]).answers("gw2", 6, 30)
    assert scene.kinds(30) == []


def test_a_machine_that_is_no_gateway_is_named_once():
    its = Scene().its
    found = [each for at in range(5) for each in its.answer("arp", BEGUN + at, ADDRESS, "02:00:00:00:00:77")]
    assert [each.what for each in found] == ["stranger"] and "02:00:00:00:00:77" in found[0].text


def test_a_leftover_answer_is_no_move_and_each_real_move_is_one():
    scene = Scene().burst(5, 60, ("woken", ACTIVE)).answers("gw1", 0, 5).answers("gw2", 5.4, 30)
    scene.answers("gw1", 8, 8.2, kinds=["arp"])                   # what had waited in the woken node's kernel
    assert scene.kinds(30) == [] and scene.its.moves_since(BEGUN, ADDRESS) == ["gw2"]
    there_and_back = Scene().burst(5, 60, ("cut", ACTIVE)).answers("gw1", 0, 5).answers("gw2", 5.2, 10)
    there_and_back.answers("gw1", 10.2, 15).violations(15)
    assert there_and_back.its.moves_since(BEGUN, ADDRESS) == ["gw2", "gw1"]


def test_after_a_split_the_role_is_with_the_node_that_stays():
    scene = Scene().burst(5, 60, ("cut", ACTIVE), made=5, healed=20).answers("gw1", 0, 40)
    scene.answers("gw2", 6, 20.5, kinds=["arp"]).violations(40)
    assert scene.its.moves_since(BEGUN, ADDRESS) == ["gw2", "gw1"]


def test_two_faults_have_at_least_the_time_of_each():
    for one, other in itertools.product(limits.EFFECTS, repeat=2):
        alone = [limits.longest_silence([Planned(0, 0, name, ACTIVE, 5)], "fast") for name in (one, other)]
        both = limits.longest_silence([Planned(0, 0, name, ACTIVE, 5) for name in (one, other)], "fast")
        assert both is None or None not in alone and both >= max(alone), (one, other)


def test_every_fault_alone_leaves_a_node_that_serves():
    for name, target in itertools.product(limits.EFFECTS, (ACTIVE, STANDBY)):
        longest = limits.longest_silence([Planned(0, 0, name, target, 5)], "default")
        assert longest is not None and longest <= limits.NETWORK_LOST, name


def test_a_starved_pair_may_take_its_time():
    fault = [Planned(0, 0, "hang", ACTIVE, 20)]
    more = limits.longest_silence(fault, "fast", starved=True) - limits.longest_silence(fault, "fast")
    assert more == pytest.approx(limits.STARVED)


@pytest.mark.parametrize("faults, moves", [
    ([("crash", ACTIVE)], 1), ([("crash", STANDBY)], 0), ([("agent killed", ACTIVE)], 0),
    ([("one-way cut", STANDBY)], 1), ([("one-way cut", ACTIVE)], 0),
    ([("crash", ACTIVE), ("agent killed", STANDBY)], 2)])
def test_the_role_moves_no_more_often_than_the_faults_explain(faults, moves):
    assert limits.most_moves([Planned(0, 0, *each, 5) for each in faults]) == moves


def test_the_longest_part_of_a_time_that_is_not_excused():
    assert longest_outside(0, 10, []) == 10
    assert longest_outside(0, 10, [(3, 5)]) == 5
    assert longest_outside(0, 10, [(3, 5), (4, 20)]) == 3
    assert longest_outside(0, 10, [(-5, 2)]) == 8
    assert longest_outside(0, 10, [(-5, 20)]) == 0
    assert without(0, 10, [(-1, 1), (4, 6), (9, 30)]) == 6
