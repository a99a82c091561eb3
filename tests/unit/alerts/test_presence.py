"""A node is silent when it was asked twice and did not answer."""
from __future__ import annotations

import json

from alerts.presence import Change, Presence

KNOWN = frozenset({"gw1.a", "gw2.a"})


def run(presence: Presence, until: int, answers: dict[str, list[tuple[int, int]]]) -> list[tuple[int, Change]]:
    """Lets seconds pass; each node answers within its time spans."""
    out = []
    for now in range(until):
        ask, changes = presence.tick(now, KNOWN)
        out += [(now, change) for change in changes]
        for minion in sorted(ask):
            if any(start <= now < end for start, end in answers.get(minion, [])):
                out += [(now, change) for change in presence.heard(now, minion)]
    return out


def test_who_answers_is_not_silent():
    assert run(Presence(0, answer=15), 400, {"gw1.a": [(0, 999)], "gw2.a": [(0, 999)]}) == []


def test_who_does_not_is_silent_after_it_was_asked_twice_and_speaks_again():
    out = run(Presence(0, answer=15), 400, {"gw1.a": [(0, 999)], "gw2.a": [(0, 100), (250, 999)]})
    assert [(now, change.minion, change.silent) for now, change in out] == [(180, "gw2.a", True), (270, "gw2.a", False)]
    assert out[0][1].since == 90


def test_one_answer_that_was_lost_is_nothing():
    assert run(Presence(0, answer=15), 400, {"gw1.a": [(0, 999)], "gw2.a": [(0, 100), (160, 999)]}) == []


def test_an_event_counts_as_an_answer():
    presence = Presence(0, answer=15)
    presence.tick(31, KNOWN)
    presence.heard(32, "gw1.a")
    presence.heard(40, "gw2.a")
    assert presence.tick(47, KNOWN) == (frozenset(), [])


def test_a_node_that_is_no_more_is_not_missed():
    presence = Presence(0, answer=15)
    run(presence, 100, {"gw1.a": [(0, 999)]})
    assert presence.silent
    assert [change.silent for change in presence.tick(101, frozenset({"gw1.a"}))[1]] == [False]


def test_a_restart_does_not_tell_it_again():
    presence = Presence(0, answer=15)
    run(presence, 100, {"gw1.a": [(0, 999)]})
    again = Presence(0, answer=15)
    again.restore(json.loads(json.dumps(presence.state())))
    assert run(again, 200, {"gw1.a": [(0, 999)]}) == []
