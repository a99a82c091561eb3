"""What was changed by hand, and nodes that return: what is repaired, and what is left."""
from __future__ import annotations

import pytest

from resync.actions import Apply, Ask, Raise, RollOut
from resync.events import Drifted, Returned, Told
from resync.repairs import FIGHT_REPAIRS
from resync.waits import MAX_TROUBLES_OF_NODE, MORE, MORE_SUBJECT
from tests.unit.resync.master import CONFIG, DRIFT, GW1, GW2, SITE, Master


def test_a_change_by_hand_is_put_right_there_and_at_once():
    master = Master()
    assert master.tell(DRIFT) == [Apply(SITE, GW1, "openswan", master.number(),
                                        (("file_changed", "/etc/ipsec.conf"),))]
    master.end(SITE)
    master.tell(DRIFT._replace(present=False))
    assert master.wait(1000) == []


def test_several_changes_of_one_formula_are_one_repair_and_two_nodes_are_never_repaired_at_once():
    master = Master()
    master.tell(DRIFT)
    master.tell(DRIFT._replace(minion=GW2), DRIFT._replace(minion=GW2, subject="/etc/ipsec.secrets"))
    assert master.work() == [] and master.wait(10) == []
    master.end(SITE)
    assert [each[:3] for each in master.work()] == [(SITE, GW2, "openswan")] and len(master.work()[0].subjects) == 2


@pytest.mark.parametrize("event", [
    DRIFT._replace(formula="{{ salt['cmd.run']('id') }}"), DRIFT._replace(formula="../../etc"),
    DRIFT._replace(formula=""), DRIFT._replace(site="nowhere", minion="gw1.nowhere"),
    Drifted(SITE, GW1, "service_changed", "heartbeat", "heartbeat"),
])
def test_what_is_of_no_formula_and_a_stopped_heartbeat_are_left(event):
    master = Master()
    assert master.tell(event) == [] and master.wait(1000) == []


def many(count: int, first: int = 0, minion: str = GW1) -> list[Drifted]:
    return [DRIFT._replace(minion=minion, subject=f"/{number:06}{'x' * 290}") for number in range(first, first + count)]


def test_a_node_with_more_changes_than_are_remembered_is_applied_as_a_whole():
    master = Master()
    master.tell(*many(MAX_TROUBLES_OF_NODE))
    master.end(SITE)
    master.tell(*many(20_000, 1000), *many(3, minion=GW2))
    assert len(master.machine.troubles) == MAX_TROUBLES_OF_NODE + 1 + 3
    drift = master.machine.status()["drift"]
    assert f"{GW1}: many_changed more than 100 things changed by hand" in drift and f"{GW1}: and 81 more" in drift
    assert len(str(master.machine.status())) < 10_000
    assert master.machine.busy[SITE] == Apply(SITE, GW1, "", master.number(), ((MORE, MORE_SUBJECT),))
    assert master.end(SITE) and master.work()[0].minion == GW2
    assert Ask((SITE,)) in master.done, "what is still wrong, the node says"
    assert {minion for minion, _, _ in master.machine.troubles} == {GW2}


def test_nothing_of_a_node_with_many_changes_stays_for_ever():
    """Neither what is wrong, nor when each thing was repaired, nor the alerts that somebody works against it."""
    master = Master()
    for turn in range(30):
        master.tell(*many(150, 150 * turn), after=700)
        while SITE in master.machine.busy:
            master.end(SITE)
        master.tell(*[each._replace(present=False) for each in many(150, 150 * turn)])
    assert not master.machine.troubles and not master.machine.raised
    assert len(master.machine.repairs) <= 2 * MAX_TROUBLES_OF_NODE + 2


def test_who_reports_many_changes_again_after_each_repair_is_left_alone_after_three():
    master, told = Master(), []
    for turn in range(20):
        master.tell(*many(150, 150 * turn), after=20)
        told += master.raised()
        while SITE in master.machine.busy:
            master.end(SITE)
            told += master.raised()
    assert told.count(("drift_fight", SITE, False)) >= 1
    whole = [key for key in master.machine.repairs if key == (GW1, MORE_SUBJECT)]
    assert whole and len(master.machine.repairs[whole[0]]) == FIGHT_REPAIRS


def test_in_a_dry_run_the_text_of_many_changes_is_short():
    master = Master(CONFIG._replace(dry_run=True))
    master.tell(*many(99))
    texts = [each.now for each in [*master.done, *(master.wait(60), master.done)[1]] if isinstance(each, Raise)]
    assert texts and all(len(text) < 8000 for text in texts)


def test_a_fight_of_an_earlier_start_ends_when_it_is_right_again():
    master = Master(kept={"raised": {f"drift_fight {SITE} {GW1} /etc/ipsec.conf": "did not stay right"}})
    master.tell(DRIFT._replace(present=False))
    assert master.raised() == [("drift_fight", SITE, True)]


def test_somebody_who_works_against_it_is_told_of():
    master = Master()
    for _ in range(3):
        assert master.tell(DRIFT, after=60)
        master.end(SITE)
        master.tell(DRIFT._replace(present=False))
    assert master.tell(DRIFT, after=60) == [] and master.raised() == [("drift_fight", SITE, False)]
    assert master.tell(DRIFT, after=60) == [] and master.raised() == []
    assert master.wait(3300) == []
    assert master.wait(300) and ("drift_fight", SITE, True) in master.raised()


def test_a_fight_is_about_one_thing_on_one_node():
    master = Master()
    for _ in range(3):
        master.tell(DRIFT, after=60)
        master.end(SITE)
        master.tell(DRIFT._replace(present=False))
    assert master.tell(DRIFT._replace(subject="/etc/ipsec.secrets"))


def test_three_times_in_a_longer_time_is_no_fight():
    master = Master()
    for _ in range(10):
        assert master.tell(DRIFT, after=301)
        master.end(SITE)
        master.tell(DRIFT._replace(present=False))


def test_what_a_repair_does_not_put_right_is_tried_again_and_told_in_the_end():
    master, tries, raised = Master(), 0, []
    master.tell(DRIFT)
    for _ in range(600):
        if SITE in master.machine.busy:
            tries += 1
            master.end(SITE)
            raised += master.raised()
        master.wait(0.5)
        raised += master.raised()
    assert tries == 3 and raised == [("drift_fight", SITE, False)]


def test_a_node_that_does_not_have_what_there_is_gets_it_by_a_roll_out():
    """The formula could bring a change to the active node that the standby was not applied with."""
    master = Master()
    master.tell(DRIFT)
    master.end(SITE, "behind")
    assert [type(each) for each in master.wait(5)] == [RollOut]


def test_nothing_is_repaired_where_the_present_inputs_have_failed():
    master = Master()
    master.change(SITE)
    master.wait(3)
    master.end(SITE, "failed")
    assert master.tell(DRIFT) == [] and master.wait(100) == []


def test_during_a_roll_out_nothing_is_repaired():
    master = Master()
    master.change(SITE)
    master.wait(3)
    assert master.tell(DRIFT) == []
    master.end(SITE)
    assert master.work() == []
    master.tell(DRIFT._replace(present=False))
    assert master.wait(100) == []


# A node that returns

def test_a_returned_node_is_brought_up_to_date_whoever_tells_of_it():
    for told in (lambda master: Returned(SITE, GW1), lambda master: master.up_to_date(current=False)):
        master = Master()
        assert master.tell(told(master)) == [Apply(SITE, GW1, "", master.number(), (("not_compared", ""),))]
        master.tell(master.up_to_date(current=True))
        master.end(SITE)
        assert master.wait(100) == []


def test_both_returned_one_after_the_other_and_not_the_active_one_first():
    master = Master()
    first = master.tell(Returned(SITE, GW1), Returned(SITE, GW2))
    assert len(first) == 1
    master.end(SITE, "waits", "it is active")
    assert [(each.minion, each.alone) for each in master.work()] == [(GW2, True)]


def test_a_returned_node_that_missed_a_change_gets_it_by_a_roll_out():
    master = Master()
    master.tell(Returned(SITE, GW1), Told(SITE, {GW1: ("old", False), GW2: (master.number(), True)}))
    master.end(SITE, "behind")
    assert [type(each) for each in master.wait(5)] == [RollOut]


def test_a_returned_node_with_a_change_of_the_tree_waits_for_its_sites_turn():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    assert master.tell(Returned(SITE, GW1)) == [] and master.wait(100) == []


# Two masters

def test_the_second_master_leaves_drift_to_the_first_for_a_minute():
    master = Master(CONFIG._replace(after=("192.0.2.5",)))
    assert master.tell(DRIFT) == [] and master.wait(59) == []
    assert master.wait(3)
    master.end(SITE, "gone")
    assert master.wait(1000) == []
