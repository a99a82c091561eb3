"""What is rolled out when: quiet, waves, and who comes first."""
from __future__ import annotations

from resync.events import Told
from tests.unit.resync.master import CONFIG, SITE, SITES, Master


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


def test_sites_that_do_not_answer_come_last():
    master = Master(CONFIG._replace(parallel=1))
    master.change("basel")
    master.wait(3)
    master.end("basel", "waits")
    master.change("zug")
    master.wait(1)
    assert master.wait(10) and master.sites() == ["zug"] or list(master.machine.busy) == ["zug"]


def test_a_first_site_that_waits_does_not_hold_up_the_rest():
    master = Master()
    master.change(tree=True)
    master.wait(3)
    master.end("basel", "waits")
    assert master.sites() == ["bern"]


def test_after_a_long_absence_it_goes_in_waves_too():
    master = Master()
    for site in SITES:
        master.tell(Told(site, {f"gw1.{site}": ("old", True)}))
    assert master.wait(5) and master.sites() == ["basel"]


def test_the_second_master_leaves_a_change_to_the_first_for_a_minute():
    master = Master(CONFIG._replace(after=("192.0.2.5",)))
    master.change(SITE)
    assert master.wait(59) == []
    assert master.wait(3)
    master.end(SITE, "elsewhere")
    assert master.raised() == [] and master.wait(58) == [] and master.wait(10)
    master.end(SITE, "current")
    assert master.wait(1000) == []
