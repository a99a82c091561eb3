"""All decisions together: what is asked and compared when, dry runs, sites that come and go; any event at any time."""
from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resync.actions import Apply, Ask, Compare, Keep, Raise, RollOut, Say
from resync.decide import RolloutMachine
from resync.events import Differences, Drifted, Inputs, Order, Reconnected, Repaired, Returned, RolledOut, Tick, Told
from tests.unit.resync.master import CONFIG, DRIFT, GW1, GW2, SITE, SITES, Master


def test_at_its_start_it_changes_nothing_and_asks_everybody():
    master = Master()
    assert master.work() == [] and [each for each in master.done if isinstance(each, Ask)] == [Ask()]
    assert master.wait(60) == []


def test_files_that_never_rest_are_said():
    master, said = Master(), ""
    for _ in range(70):
        master.change(SITE)
        said += " ".join(each.text for each in master.done if isinstance(each, Say))
        master.wait(1.0)
    assert "have not come to rest" in said


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


def test_a_minion_that_starts_is_asked_and_not_more_often_than_that():
    master = Master()
    master.tell(*[Reconnected(SITE, GW1)] * 1000)
    assert [each for each in master.done if isinstance(each, Ask)] == [Ask((SITE,))]
    master.tell(Reconnected("nowhere", "gw1.nowhere"))
    assert not master.done


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
    for each in (RollOut, Apply, Ask, Compare, Raise, Say, Keep):
        assert hasattr(engine, f"do_{each.__name__.lower()}")
