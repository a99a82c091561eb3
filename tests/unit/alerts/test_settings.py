"""The master's configuration gateway_alerts: what is wrong with it is said, and its default counts."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import settings


def test_without_any_and_with_all():
    assert settings.read(None) == settings.read({}) == settings.Settings(None, "", 60.0)
    assert settings.read({"rank": 1, "other": "master-a:4600", "presence": 24}) == (1, "master-a:4600", 24.0, ())
    assert settings.read({"presence": 0}).presence == 0.0 and not settings.read({"presence": 0}).mistakes


@pytest.mark.parametrize("presence", ["x", "60", True, None, [], -1, 9.9, 86_401, float("nan"), float("inf")])
def test_a_presence_that_is_none_is_named(presence):
    """The engine ended with a traceback and was started anew, for ever; or it asked all the time."""
    its = settings.read({"presence": presence})
    assert its.presence == 60.0 and len(its.mistakes) == 1
    assert its.mistakes[0].startswith("gateway_alerts:presence: ") and "working with 60" in its.mistakes[0]


@pytest.mark.parametrize("given, expected", [
    ({"rank": 2}, "gateway_alerts:rank: 2 is neither 0 nor 1"), ({"rank": "1"}, "gateway_alerts:rank: '1' is neither"),
    ({"rank": 1}, "gateway_alerts:other: is missing"),
    ({"rank": 1, "other": ["a"]}, "gateway_alerts:other: ['a'] is no"),
    ({"presense": 30}, "gateway_alerts:presense: is unknown; the keys are rank, other, presence"),
    ([], "gateway_alerts: must be a mapping"), ("presence", "gateway_alerts: must be a mapping")])
def test_what_is_wrong_is_named(given, expected):
    assert any(line.startswith(expected) for line in settings.read(given).mistakes)


_VALUE = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                      lambda inner: st.lists(inner, max_size=2), max_leaves=3)


@given(_VALUE | st.dictionaries(st.sampled_from([*settings.KEYS, "x", 7]), _VALUE))
def test_nothing_raises(given_value):
    its = settings.read(given_value)
    assert its.rank in (None, 0, 1) and isinstance(its.other, str) and (its.presence == 0 or its.presence >= 10)
