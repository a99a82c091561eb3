"""What a person asks for."""
from __future__ import annotations

from resync.actions import Keep
from resync.decide import still_held
from resync.events import Order, Returned
from tests.unit.resync.master import DRIFT, SITE, Master, refused


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


def test_a_site_that_goes_on_alone_stays_where_all_are_stopped_and_that_is_said():
    """`resync.go SITE` said that it was done, and the site stayed."""
    master = Master()
    master.tell(Order("stop"), Order("stop", SITE))
    master.change(SITE)
    master.tell(Order("go", SITE))
    assert master.wait(100) == []
    assert "all sites are stopped" in still_held(master.machine.status(), SITE)
    master.tell(Order("go"))
    assert master.sites() == [SITE] and still_held(master.machine.status(), SITE) == ""


def test_a_site_that_goes_on_alone_waits_where_the_tree_failed_elsewhere_and_that_is_said():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed")
    assert master.tell(Order("go", SITE)) == []
    assert "failed at basel" in still_held(master.machine.status(), SITE)
    master.tell(Order("go", "basel"))
    assert master.sites() == ["basel"] and still_held(master.machine.status(), SITE) == ""


def test_now_rolls_out_though_nothing_changed_and_all_is_stopped():
    master = Master()
    master.wait(3)
    master.tell(Order("stop"))
    master.tell(Order("now", SITE))
    assert [(each.site, each.by_hand) for each in master.work()] == [(SITE, True)]
    assert Master().tell(Order("now", "nowhere")) == []


def test_after_a_failure_it_goes_on_when_a_person_says_so():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "failed")
    master.tell(Order("go"))
    assert master.sites() == ["basel"]


def test_what_was_told_of_a_refused_site_ends_where_a_person_says_go_before_it_is_right():
    master = refused()
    master.tell(Order("go"))
    master.change(SITE)
    master.wait(3)
    master.end(SITE, "current")
    assert master.raised() == [("rollout_refused", SITE, True)]
