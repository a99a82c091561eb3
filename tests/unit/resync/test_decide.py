"""What is rolled out where and when: events in, actions out."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resync import decide
from resync.decide import (
    Apply,
    Ask,
    Compare,
    Config,
    Differences,
    Drifted,
    Inputs,
    Keep,
    Order,
    Raise,
    Reconnected,
    Repaired,
    Returned,
    RolledOut,
    RollOut,
    RolloutMachine,
    Say,
    Tick,
    Told,
)

SITES = ("basel", "bern", "chur", "winterthur", "zug")
CONFIG = Config(parallel=3, formulas=("kernel", "openswan", "heartbeat"))
GW1, GW2 = "gw1.winterthur", "gw2.winterthur"
SITE = "winterthur"


class Master:
    """A RolloutMachine, its clock, its files, and its last actions."""

    def __init__(self, config: Config = CONFIG, kept: dict | None = None, sites: tuple[str, ...] = SITES) -> None:
        self.now = 1000.0
        self.shared, self.own = "tree", dict.fromkeys(sites, "a")
        self.machine = RolloutMachine(config, self.now, kept)
        self.done: list[Any] = []
        self.tell(Inputs(self.shared, self.own))

    def tell(self, *events: Any, after: float = 0.0) -> list[Any]:
        self.now += after
        self.done = [each for event in events for each in self.machine.handle(event, self.now)]
        return self.work()

    def wait(self, seconds: float) -> list[Any]:
        """As the engine does it: it looks at the files every half second."""
        done, until = [], self.now + seconds
        while self.now < until:
            self.now += 0.5
            done += self.machine.handle(Inputs(self.shared, self.own), self.now)
        self.done = done
        return self.work()

    def change(self, *sites: str, tree: bool = False) -> list[Any]:
        for site in sites:
            self.own = self.own | {site: self.own.get(site, "") + "b"}
        self.shared += "b" if tree else ""
        return self.tell(Inputs(self.shared, self.own))

    def work(self) -> list[Any]:
        return [each for each in self.done if isinstance(each, (RollOut, Apply))]

    def sites(self) -> list[str]:
        """The sites of the last roll-outs and repairs."""
        return [each.site for each in self.work()]

    def raised(self) -> list[tuple[str, str, bool]]:
        return [(each.condition, each.site, each.recovered) for each in self.done if isinstance(each, Raise)]

    def end(self, site: str, outcome: str = "done", why: str = "") -> list[Any]:
        job = self.machine.busy[site]
        if isinstance(job, RollOut):
            return self.tell(RolledOut(site, job.number, outcome, why))
        return self.tell(Repaired(job.minion, job.formula, outcome, why))

    def number(self, site: str = SITE) -> str:
        return self.machine.number(site)

    def up_to_date(self, minion: str = GW1, site: str = SITE, current: bool = True) -> Told:
        return Told(site, {minion: (self.number(site), current)})


def test_at_its_start_it_changes_nothing_and_asks_everybody():
    master = Master()
    assert master.work() == [] and [each for each in master.done if isinstance(each, Ask)] == [Ask()]
    assert master.wait(60) == []


def test_a_changed_site_is_rolled_out_when_it_is_quiet_and_no_other():
    master = Master()
    master.change(SITE)
    assert master.wait(1.0) == []
    assert [each[:2] for each in master.wait(1.0)] == [(SITE, master.number())]
    assert master.wait(300) == []


def test_an_editor_that_writes_again_and_again_is_waited_for():
    master = Master()
    for _ in range(10):
        master.change(SITE)
        assert master.wait(1.0) == []
    assert master.wait(1.0) and master.sites() == [SITE]


def test_a_tree_that_is_just_being_pulled_holds_up_a_site_too():
    master = Master()
    master.change(SITE)
    master.wait(1.0)
    master.change(tree=True)
    assert master.wait(1.0) == []


def test_files_that_never_rest_are_said():
    master, said = Master(), ""
    for _ in range(70):
        master.change(SITE)
        said += " ".join(each.text for each in master.done if isinstance(each, Say))
        master.wait(1.0)
    assert "have not come to rest" in said


def test_the_tree_goes_to_one_site_first_and_then_to_more_and_more():
    master = Master(CONFIG._replace(first=("chur",)))
    master.change(tree=True)
    assert master.wait(3) and master.sites() == ["chur"]
    assert master.wait(60) == []
    master.end("chur")
    assert master.sites() == ["basel", "bern"]
    master.end("bern")
    assert master.sites() == [SITE]
    master.end("basel")
    assert master.sites() == ["zug"]
    for site in (SITE, "zug"):
        master.end(site)
    assert master.wait(300) == []


def test_never_more_at_once_than_is_said():
    sites = tuple(f"site{number:02}" for number in range(40))
    master = Master(CONFIG._replace(parallel=3), sites=sites)
    master.change(tree=True)
    master.wait(3)
    most = 0
    while master.machine.busy:
        most = max(most, len(master.machine.busy))
        master.end(next(iter(master.machine.busy)))
    assert most == 3 and len(master.machine.done) == 40


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


def test_after_a_failure_it_goes_on_when_a_person_says_so():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed")
    master.tell(Order("go"))
    assert master.sites() == ["basel"]


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


def test_sites_that_do_not_answer_come_last():
    master = Master(CONFIG._replace(parallel=1))
    master.change("basel")
    master.wait(3)
    master.end("basel", "waits")
    master.change("zug")
    master.wait(1)
    assert master.wait(10) and master.sites() == ["zug"] or list(master.machine.busy) == ["zug"]


def refused() -> Master:
    """A master that has refused a site and raised the event."""
    master = Master()
    master.change(SITE)
    master.wait(3)
    master.end(SITE, "refused", "winterthur: gateway:ping_nodes: is missing")
    return master


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


def test_what_was_told_of_a_refused_site_ends_where_a_person_says_go_before_it_is_right():
    master = refused()
    master.tell(Order("go"))
    master.change(SITE)
    master.wait(3)
    master.end(SITE, "current")
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


def test_a_first_site_that_waits_does_not_hold_up_the_rest():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "waits")
    assert master.sites() == ["bern"]


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


def test_all_nodes_are_asked_every_quarter_of_an_hour_and_compared_every_hour():
    master, asked, compared = Master(), 0, set()
    for _ in range(8):
        master.wait(450)
        asked += sum(isinstance(each, Ask) for each in master.done)
        compared |= {each.site for each in master.done if isinstance(each, Compare)}
    assert asked == 4 and compared == set(SITES)


def test_a_node_that_does_not_answer_is_asked_again_and_less_and_less_often():
    master, asked = Master(), []
    master.tell(Told(SITE, {GW1: (master.number(), True), GW2: None}))
    for _ in range(1700):
        master.wait(0.5)
        if Ask((SITE,)) in master.done:
            asked.append(master.now)
            master.tell(Told(SITE, {GW1: (master.number(), True), GW2: None}))
    pauses = [later - earlier for earlier, later in zip(asked, asked[1:], strict=False)]
    assert pauses == sorted(pauses) and pauses[0] == 10 and pauses[-1] == 300
    master.tell(Told(SITE, {GW1: (master.number(), True), GW2: (master.number(), True)}))
    assert not master.machine.silent


def test_a_node_that_missed_a_change_is_queued_and_one_that_was_never_applied_is_not():
    master = Master()
    master.tell(Told(SITE, {GW1: (master.number(), True), GW2: ("old", True)}),
                Told("bern", {"gw-a.bern": ("", False)}), Told("zug", {"gw1.zug": None}),
                Told("nowhere", {"gw1.nowhere": ("old", True)}))
    assert master.wait(5) and master.sites() == [SITE]


def test_a_pillar_made_in_the_middle_of_a_change_is_not_taken_for_the_present_one():
    master = Master()
    master.tell(Told(SITE, {GW1: (f"unsettled-{master.number()}", True)}))
    assert master.wait(5)


def test_after_a_long_absence_it_goes_in_waves_too():
    master = Master()
    for site in SITES:
        master.tell(Told(site, {f"gw1.{site}": ("old", True)}))
    assert master.wait(5) and master.sites() == ["basel"]


def test_a_minion_that_starts_is_asked_and_not_more_often_than_that():
    master = Master()
    master.tell(*[Reconnected(SITE, GW1)] * 1000)
    assert [each for each in master.done if isinstance(each, Ask)] == [Ask((SITE,))]
    master.tell(Reconnected("nowhere", "gw1.nowhere"))
    assert not master.done


# Changes by hand

DRIFT = Drifted(SITE, GW1, "file_changed", "/etc/ipsec.conf", "openswan")


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
    master.tell(*many(decide.MAX_TROUBLES_OF_NODE))
    master.end(SITE)
    master.tell(*many(20_000, 1000), *many(3, minion=GW2))
    assert len(master.machine.troubles) == decide.MAX_TROUBLES_OF_NODE + 1 + 3
    drift = master.machine.status()["drift"]
    assert f"{GW1}: many_changed more than 100 things changed by hand" in drift and f"{GW1}: and 81 more" in drift
    assert len(str(master.machine.status())) < 10_000
    assert master.machine.busy[SITE] == Apply(SITE, GW1, "", master.number(), ((decide.MORE, decide.MORE_SUBJECT),))
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
    assert len(master.machine.repairs) <= 2 * decide.MAX_TROUBLES_OF_NODE + 2


def test_who_reports_many_changes_again_after_each_repair_is_left_alone_after_three():
    master, told = Master(), []
    for turn in range(20):
        master.tell(*many(150, 150 * turn), after=20)
        told += master.raised()
        while SITE in master.machine.busy:
            master.end(SITE)
            told += master.raised()
    assert told.count(("drift_fight", SITE, False)) >= 1
    whole = [key for key in master.machine.repairs if key == (GW1, decide.MORE_SUBJECT)]
    assert whole and len(master.machine.repairs[whole[0]]) == decide.FIGHT_REPAIRS


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


# People

def test_stopped_and_going_on():
    master = Master()
    master.tell(Order("stop"))
    assert [each.state["stopped"] for each in master.done if isinstance(each, Keep)] == [[""]]
    master.change(SITE)
    assert master.wait(100) == [] and master.tell(DRIFT) == [] and master.tell(Returned("bern", "gw-a.bern")) == []
    assert master.machine.status()["stopped"] == ["all"]
    master.tell(Order("go"))
    assert sorted(master.sites()) == ["bern", SITE]


def test_one_site_stopped():
    master = Master()
    master.tell(Order("stop", SITE))
    master.change(SITE, "bern")
    assert master.wait(100) and master.sites() == ["bern"]


def test_now_rolls_out_though_nothing_changed_and_all_is_stopped():
    master = Master()
    master.wait(3)
    master.tell(Order("stop"))
    master.tell(Order("now", SITE))
    assert [(each.site, each.by_hand) for each in master.work()] == [(SITE, True)]
    assert Master().tell(Order("now", "nowhere")) == []


def test_a_dry_run_says_what_it_would_do_once_and_does_nothing():
    master = Master(CONFIG._replace(dry_run=True))
    master.change(SITE)
    assert master.wait(3) == [] and master.raised() == [("would_resync", SITE, False)]
    master.tell(Told(SITE, {GW1: ("old", True)}))
    assert master.wait(100) == [] and master.raised() == []
    assert master.tell(DRIFT._replace(site="bern", minion="gw-a.bern")) == []
    assert master.raised() == [("would_resync", "bern", False)]


def test_a_site_that_is_left_alone():
    master = Master(CONFIG._replace(without=(SITE,)))
    master.change(SITE, tree=True)
    master.tell(DRIFT, Returned(SITE, GW1), Told(SITE, {GW1: ("old", False)}))
    for _ in range(10):
        assert SITE not in master.sites()
        for site in list(master.machine.busy):
            master.end(site)
        master.wait(10)


def test_a_removed_site_is_forgotten():
    master = Master()
    master.change(SITE)
    master.wait(3)
    master.end(SITE, "failed")
    master.own = {site: number for site, number in master.own.items() if site != SITE}
    assert master.wait(10) == [] and ("rollout_failed", SITE, True) in master.raised()
    assert SITE not in str(master.machine.state())


# Two masters

def test_the_second_master_leaves_a_change_to_the_first_for_a_minute():
    master = Master(CONFIG._replace(after=("192.0.2.5",)))
    master.change(SITE)
    assert master.wait(59) == []
    assert master.wait(3)
    master.end(SITE, "elsewhere")
    assert master.raised() == [] and master.wait(58) == [] and master.wait(10)
    master.end(SITE, "current")
    assert master.wait(1000) == []


def test_the_second_master_leaves_drift_to_the_first_for_a_minute():
    master = Master(CONFIG._replace(after=("192.0.2.5",)))
    assert master.tell(DRIFT) == [] and master.wait(59) == []
    assert master.wait(3)
    master.end(SITE, "gone")
    assert master.wait(1000) == []


EVENT = st.one_of(
    st.builds(Inputs, st.sampled_from(["x", "y"]), st.dictionaries(st.sampled_from(SITES), st.sampled_from("abc"))),
    st.builds(Told, st.sampled_from(SITES), st.dictionaries(st.sampled_from([GW1, GW2]), st.one_of(
        st.none(), st.tuples(st.sampled_from(["", "old"]), st.booleans())))),
    st.builds(RolledOut, st.sampled_from(SITES), st.text(max_size=3), st.sampled_from(
        ["done", "current", "refused", "waits", "failed", "elsewhere", "bare"]), st.text(max_size=3)),
    st.builds(Repaired, st.sampled_from([GW1, GW2]), st.sampled_from(["", "openswan"]), st.sampled_from(
        ["done", "failed", "waits", "behind", "elsewhere", "gone"]), st.text(max_size=3)),
    st.builds(Drifted, st.sampled_from(SITES), st.sampled_from([GW1, GW2]), st.text(max_size=3), st.text(max_size=3),
              st.sampled_from(["openswan", "kernel", "x"]), st.booleans()),
    st.builds(Returned, st.sampled_from(SITES), st.sampled_from([GW1, GW2]), st.booleans()),
    st.builds(Reconnected, st.sampled_from(SITES), st.just(GW1)),
    st.builds(Differences, st.sampled_from(SITES), st.just(("a",)) | st.just(())),
    st.builds(Order, st.sampled_from(["stop", "go", "now", "dance"]), st.sampled_from([*SITES, ""])), st.just(Tick()))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(EVENT, st.floats(0, 400)), max_size=40))
def test_nothing_raises_and_nothing_is_done_twice_at_a_site(events):
    machine, now = RolloutMachine(CONFIG, 0.0), 0.0
    machine.handle(Inputs("x", dict.fromkeys(SITES, "a")), 0.0)
    at_work: set[str] = set()
    for event, then in events:
        if isinstance(event, RolledOut):
            if not isinstance(machine.busy.get(event.site), RollOut):
                continue
            at_work.discard(event.site)
        if isinstance(event, Repaired):
            job = next((site for site, each in machine.busy.items() if isinstance(each, Apply)
                        and (each.minion, each.formula) == (event.minion, event.formula)), None)
            if not job:
                continue
            at_work.discard(job)
        for action in machine.handle(event, now):
            if isinstance(action, (RollOut, Apply)):
                assert action.site not in at_work
                at_work.add(action.site)
        machine.status()
        now += then


def test_all_actions_are_known_to_the_engine(load):
    engine = load("_engines/gateway_resync.py").Engine
    for each in (RollOut, Apply, Ask, Compare, Raise, Say, decide.Keep):
        assert hasattr(engine, f"do_{each.__name__.lower()}")
