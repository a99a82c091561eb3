"""Two nodes that report each other as dead: are both alive?"""
from __future__ import annotations

from alerts.apart import ASK_AGAIN_SECONDS, Apart, Change

ONE, OTHER = "gw1.winterthur", "gw2.winterthur"


def test_one_that_calls_the_other_dead_is_believed():
    assert Apart().look(10.0, {"winterthur": {ONE: 9.0}}, {}, {ONE: 9.0}) == ([], set())


def test_both_have_to_say_something_after_the_later_of_the_two_words():
    apart, dead = Apart(), {"winterthur": {ONE: 9.0, OTHER: 9.5}}
    heard = {ONE: 9.0, OTHER: 9.5}
    assert apart.look(10.0, dead, {}, heard) == ([], {ONE})
    assert apart.look(10.5, dead, {}, heard) == ([], set()), "it was asked"
    assert apart.look(11.0, dead, {}, heard | {ONE: 10.8}) == ([Change("winterthur", True, 9.5)], set())


def test_one_that_died_after_it_had_called_the_other_dead_is_asked_now_and_then_and_told_of_never():
    apart, dead, heard = Apart(), {"winterthur": {ONE: 9.0, OTHER: 500.0}}, {ONE: 400.0, OTHER: 500.0}
    asked = 0
    for second in range(500, 600):
        changes, ask = apart.look(float(second), dead, {}, heard)
        assert not changes
        asked += len(ask)
    assert asked == 100 / ASK_AGAIN_SECONDS


def test_it_is_over_when_one_hears_the_other_again_and_told_once():
    apart, heard = Apart(), {ONE: 12.0, OTHER: 12.0}
    assert apart.look(13.0, {"winterthur": {ONE: 9.0, OTHER: 9.5}}, {"winterthur": 11.0}, heard) == ([], set())
    assert apart.look(14.0, {"winterthur": {ONE: 9.0}}, {"winterthur": 11.0}, heard) == (
        [Change("winterthur", False, 11.0)], set())


def test_sites_do_not_mix():
    dead = {"winterthur": {ONE: 9.0}, "bern": {"gw1.bern": 9.0}}
    assert Apart().look(10.0, dead, {}, {ONE: 9.9, "gw1.bern": 9.9}) == ([], set())
