"""Each event counts once and none is missed: order, gaps, restarts, a second master."""
from __future__ import annotations

import json

from alerts.intake import Ask, Intake, seconds
from tests.unit.alerts.events import T, made

GW1, GW2 = "gw1.winterthur", "gw2.winterthur"
J = "00112233aabbccdd"


def numbers(taken: list) -> list[int]:
    return [each.event.n for each in taken]


def known(rank: int | None = None, n: int = 4) -> Intake:
    intake = Intake(rank)
    intake.restore({"nodes": {GW1: [J, n, []]}, "own": {}})
    return intake


def test_in_order_each_is_taken_once():
    intake = known()
    assert numbers([taken for n in (5, 6, 6, 5) for taken in intake.event(T, made(n))]) == [5, 6]
    assert intake.dropped == {"repeated": 2} and intake.asks == [Ask("newest", GW1)]


def test_events_that_overtook_each_other_are_put_in_order():
    intake = known()
    assert intake.event(T, made(6)) == []
    assert numbers(intake.event(T + 0.1, made(5))) == [5, 6]
    assert intake.tick(T + 1) == [] and not intake.asks


def test_a_gap_is_asked_for_and_holds_nothing_up():
    intake = known()
    intake.event(T, made(7))
    assert numbers(intake.tick(T + 0.35)) == [7]
    assert intake.asks == [Ask("since", GW1, 4, J)]
    assert numbers(intake.fetched(T + 1, GW1, J, 7, 0, [made(5), made(6), made(7)])) == [5, 6]
    assert numbers(intake.event(T + 2, made(8))) == [8]


def test_an_answer_that_does_not_come_is_asked_for_again_with_growing_pauses():
    intake, asked = known(), []
    intake.want(T, GW1)
    for second in range(200):
        intake.tick(T + second)
        asked += [second] * len(intake.asks)
        intake.asks.clear()
    assert asked == [0, 10, 30, 70, 150]


def test_a_node_that_was_never_heard_of_is_asked_what_is_the_case():
    intake = Intake()
    assert numbers(intake.event(T, made(41))) == [41]
    assert intake.asks == [Ask("conditions", GW1)]
    assert numbers(intake.event(T, made(42))) == [42]


def test_its_history_is_no_news_but_the_last_minutes_are():
    intake = Intake()
    intake.curious(T, GW1)
    assert intake.asks == [Ask("newest", GW1)]
    intake.newest(T, GW1, J, 3, 0)
    assert intake.asks[1:] == [Ask("since", GW1, 0, "")]
    old, new = "2024-05-01T09:00:00Z", "2024-05-01T09:58:00+00:00"
    assert numbers(intake.fetched(T, GW1, J, 3, 0, [made(1, at=old), made(2, at=old), made(3, at=new)])) == [3]
    assert intake.asks[2:] == [Ask("conditions", GW1)]


def test_another_journal_is_fetched_whole():
    intake = known(n=400)
    assert intake.event(T, made(2, journal="ffffffff00000000")) == []
    assert intake.asks == [Ask("since", GW1, 400, J)]
    taken = intake.fetched(T, GW1, "ffffffff00000000", 2, 0, [made(n, journal="ffffffff00000000") for n in (1, 2)])
    assert numbers(taken) == [1, 2]
    assert intake.event(T, made(399)) == []             # of the old journal: it does not count any more


def test_a_node_that_is_ahead_is_asked():
    intake = known()
    intake.newest(T, GW1, J, 4, 0)
    assert not intake.asks
    intake.newest(T, GW1, J, 6, 0)
    assert intake.asks == [Ask("since", GW1, 4, J)]


def test_a_machine_that_was_set_back_is_believed_again():
    intake = known(n=40)
    intake.event(T, made(41))
    intake.newest(T + 100, GW1, J, 30, 0)               # it may be a late answer
    assert intake.event(T + 101, made(31)) == []
    intake.asks.clear()
    intake.newest(T + 200, GW1, J, 30, 0)
    assert intake.asks == [Ask("conditions", GW1)]
    assert numbers(intake.event(T + 201, made(31))) == [31]


def test_what_it_can_not_sign_yet_is_fetched_later():
    intake = known()
    assert numbers(intake.fetched(T, GW1, J, 5, 0, [made(5)], unsigned=True)) == [5]
    intake.tick(T + 1)
    intake.asks.clear()
    intake.tick(T + 12)
    assert intake.asks == [Ask("since", GW1, 5, J)]


def test_anybody_can_raise_a_doubt_and_it_costs_one_question_in_ten_seconds():
    intake = known()
    for step in range(1000):
        intake.curious(T + step / 100, GW1)
    assert intake.asks == [Ask("newest", GW1)]


def test_a_flood_of_a_nodes_own_events_is_left_in_its_journal_and_fetched():
    intake, taken = known(), []
    for n in range(5, 1005):
        taken += intake.event(T, made(n))
    assert len(taken) == 100 and intake.dropped == {"too many": 900}
    assert intake.asks == [Ask("since", GW1, 4 + 100, J)] or intake.asks[0].what == "since"
    assert len(intake.fetched(T + 1, GW1, J, 1004, 0, [made(n) for n in range(505, 1005)])) == 500


def test_events_of_another_node_in_an_answer_do_not_count():
    assert known().fetched(T, GW1, J, 9, 0, [made(9, minion=GW2)]) == []


def test_the_masters_own_are_taken_once():
    intake = Intake()
    own = made(1, minion="master", beacon="master", condition="rollout_failed")
    assert numbers(intake.event(T, own) + intake.event(T, own) + intake.event(T, own._replace(n=2))) == [1, 2]
    assert not intake.asks


def test_a_restart_neither_repeats_nor_forgets():
    intake = known()
    intake.event(T, made(5))
    intake.event(T, made(8))
    intake.tick(T + 1)
    again = Intake()
    again.restore(json.loads(json.dumps(intake.state())))
    assert again.event(T, made(5)) == again.event(T, made(8)) == []
    assert numbers(again.fetched(T, GW1, J, 8, 0, [made(6), made(7), made(8)])) == [6, 7]


# Two masters


def test_the_first_master_tells_at_once_and_says_so():
    intake = known(rank=0)
    assert numbers(intake.event(T, made(5))) == [5]
    assert intake.marks == {GW1: 5}


def test_what_a_minion_could_not_deliver_before_may_have_been_told_by_the_second():
    intake = known(rank=0)
    assert intake.event(T + 20, made(5)) == []
    assert intake.asks == [Ask("since", GW1, 4, J)]
    (taken,) = intake.fetched(T + 21, GW1, J, 5, 5, [made(5)])
    assert taken.quiet


def test_the_second_master_waits_and_leaves_it_to_the_first():
    intake = known(rank=1)
    assert intake.event(T, made(5)) == [] and intake.tick(T + 7.9) == []
    assert not intake.asks
    intake.tick(T + 8.1)
    assert intake.asks == [Ask("newest", GW1)]
    (taken,) = intake.newest(T + 8.5, GW1, J, 5, 5)
    assert taken.quiet and taken.event.n == 5 and not intake.marks


def test_the_second_master_tells_what_nobody_has_taken():
    intake = known(rank=1)
    intake.event(T, made(5))
    intake.event(T + 5, made(6))
    intake.tick(T + 8.1)
    (taken,) = intake.newest(T + 8.5, GW1, J, 6, 4)
    assert not taken.quiet and taken.event.n == 5 and intake.marks == {GW1: 5}
    intake.tick(T + 13.1)
    assert numbers(intake.newest(T + 14, GW1, J, 6, 5)) == [6]


def test_the_second_master_tells_it_when_the_node_does_not_answer():
    intake = known(rank=1)
    intake.event(T, made(5))
    intake.tick(T + 8.1)
    assert intake.tick(T + 20) == []
    (taken,) = intake.tick(T + 24)
    assert not taken.quiet


def test_a_master_that_was_away_does_not_repeat_what_the_other_told():
    intake = known(rank=0)
    taken = intake.fetched(T, GW1, J, 7, 6, [made(5), made(6), made(7)])
    assert [(each.event.n, each.quiet) for each in taken] == [(5, True), (6, True), (7, False)]


def test_what_the_second_master_holds_outlives_its_restart():
    intake = known(rank=1)
    intake.event(T, made(5))
    again = Intake(1)
    again.restore(json.loads(json.dumps(intake.state())))
    assert again.fetched(T, GW1, J, 5, 0, [made(5)]) == []
    again.tick(T + 9)
    assert numbers(again.newest(T + 9, GW1, J, 5, 0)) == [5]


def test_times():
    assert seconds("2024-05-01T10:00:00Z") == seconds("2024-05-01T12:00:00.000+02:00") == T
    assert seconds("2024-13-99T10:00:00Z") == 0.0


def test_a_node_that_leaves_gaps_and_does_not_answer_costs_no_more_and_more():
    intake = known()
    for turn in range(2000):
        intake.event(T + turn, made(6 + 2 * turn))
        intake.tick(T + turn + 0.5)
        intake.asks.clear()
    assert len(intake.nodes[GW1].ahead) <= 1000


def test_the_masters_own_of_long_ago_are_replays():
    """Only the newest number of a few of its journals is remembered."""
    intake = Intake()
    old = made(7, minion="master", journal="ab" * 8, condition="rollout_failed", beacon="master")
    assert intake.event(T + 700, old) == [] and intake.dropped == {"old": 1}
    assert numbers(intake.event(T + 5, old)) == [7]


def test_an_old_event_of_an_unknown_node_is_asked_for_and_not_believed():
    intake = Intake()
    assert intake.event(T + 61, made(5)) == [] and intake.dropped == {"old": 1}
    assert [(ask.what, ask.number, ask.journal) for ask in intake.asks] == [("since", 0, "")]
