"""What follows from the outcome of a roll-out."""
from __future__ import annotations

from resync.actions import Compare, Keep, Raise, RollOut
from resync.decide import RolloutMachine
from resync.events import Differences, Inputs, Tick, Told
from resync.settings import Config
from tests.unit.resync.master import CONFIG, GW1, GW2, SITE, SITES, Master, refused


def test_a_failed_first_site_stops_all_that_has_not_begun_and_says_so_once():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed", "the standby could not be applied")
    assert master.raised() == [("rollout_failed", "basel", False)]
    raised = next(each for each in master.done if isinstance(each, Raise))
    assert raised.severity == "critical" and raised.cause == "4 further sites are not started"
    assert master.wait(3600) == [] and master.raised() == []
    assert master.machine.status()["halted_by"] == "basel"


def test_after_a_failure_it_goes_on_when_the_tree_changes_again():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed")
    master.change(tree=True)
    assert master.wait(3) and master.sites() == ["basel"]
    master.end("basel")
    assert ("rollout_failed", "basel", True) in master.raised() and master.sites() == ["bern", "chur"]


def test_after_a_failure_the_failed_sites_own_change_is_tried_and_frees_the_others():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed")
    master.change("basel")
    assert master.wait(3) and master.sites() == ["basel"]
    master.end("basel")
    assert master.wait(1) or master.machine.busy


def test_a_failure_of_a_sites_own_change_stops_that_site_only():
    master = Master()
    master.change(SITE)
    master.wait(3)
    master.end(SITE, "failed")
    master.change("bern")
    assert master.wait(3) and master.sites() == ["bern"]
    master.tell(Told(SITE, {GW1: ("old", True)}))
    assert master.wait(1000) == [], "tried again without a change"


def test_a_failure_outlives_the_master():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed")
    kept = [each for each in master.done if isinstance(each, Keep)][-1].state
    again = RolloutMachine(CONFIG, 0.0, kept)
    again.handle(Inputs(master.shared, master.own), 0.0)
    for site in SITES:
        again.handle(Told(site, {f"gw1.{site}": ("old", True)}), 1.0)
    assert not any(isinstance(each, RollOut) for each in again.handle(Tick(), 100.0))


def test_a_failure_is_forgotten_when_its_reason_changed_while_the_master_was_away():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed")
    kept = [each for each in master.done if isinstance(each, Keep)][-1].state
    again = RolloutMachine(CONFIG, 0.0, kept)
    again.handle(Inputs("another", master.own), 0.0)
    again.handle(Told("bern", {"gw-a.bern": ("old", True)}), 1.0)
    assert any(isinstance(each, RollOut) for each in again.handle(Tick(), 100.0))


def test_a_site_with_mistakes_is_refused_told_once_and_holds_up_nobody():
    master = refused()
    assert master.raised() == [("rollout_refused", SITE, False)]
    master.tell(Told(SITE, {GW1: ("old", True)}))
    assert master.wait(1000) == [] and master.raised() == []
    master.change("bern")
    assert master.wait(3)
    master.change(SITE)
    master.wait(3)
    master.end(SITE)
    assert master.raised() == [("rollout_refused", SITE, True)]


def test_what_was_told_ends_where_it_was_put_right_while_the_master_was_away():
    kept = [each for each in refused().done if isinstance(each, Keep)][-1].state
    same = Master(kept=kept)      # with the site's file unchanged
    same.tell(Told(SITE, {GW1: (same.number(), True), GW2: None}))
    assert same.raised() == [], "one of them did not answer"
    same.tell(Told(SITE, {GW1: (same.number(), True), GW2: (same.number(), True)}))
    assert same.raised() == [("rollout_refused", SITE, True)]


def test_a_dry_run_that_has_said_what_it_would_do_calls_no_node_up_to_date():
    kept = [each for each in refused().done if isinstance(each, Keep)][-1].state
    master = Master(Config(parallel=3, dry_run=True), kept)
    for _ in range(2):
        master.tell(Told(SITE, {GW1: ("old", True), GW2: ("old", True)}))
        assert master.raised() == []
        master.wait(5)


def test_a_pair_that_is_none_is_tried_with_growing_pauses_and_told_after_five_minutes():
    master = Master()
    master.change(SITE)
    begun, tries, raised = master.now, [], []
    while master.now < begun + 1500:
        if master.wait(0.5):
            tries.append(master.now - begun)
            master.end(SITE, "waits", "gw1.winterthur is silent")
            raised += [(*each, master.now - begun) for each in master.raised()]
    pauses = [later - earlier for earlier, later in zip(tries, tries[1:], strict=False)]
    assert pauses == sorted(pauses) and pauses[0] < 7 and 299 < pauses[-1] < 302
    assert [each[:3] for each in raised] == [("rollout_waits", SITE, False)] and 300 <= raised[0][3] < 620
    master.wait(300)
    master.end(SITE)
    assert master.raised() == [("rollout_waits", SITE, True)]


def test_a_change_during_a_roll_out_is_rolled_out_after_it():
    master = Master()
    master.change(SITE)
    master.wait(3)
    master.change(SITE)
    assert master.wait(10) == [], "twice at once"
    master.end(SITE)
    assert [each.number for each in master.work()] == [master.number()]


def test_after_a_roll_out_the_nodes_are_compared_with_each_other():
    master = Master()
    master.change(SITE)
    master.wait(3)
    master.end(SITE)
    assert Compare(SITE) in master.done
    master.tell(Differences(SITE, ("certificate gateway: only on gw1.winterthur",)))
    assert master.raised() == [("nodes_differ", SITE, False)]
    master.tell(Differences(SITE, ("certificate gateway: only on gw1.winterthur",)))
    assert master.raised() == []
    master.tell(Differences(SITE, ()))
    assert master.raised() == [("nodes_differ", SITE, True)]
