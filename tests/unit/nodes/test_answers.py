"""What comes as an answer counts only if its node has signed it for this question, and can be anything."""
from __future__ import annotations

import time
from typing import Any

import pytest

from alerts import authentic
from nodes import answers

SECRET, GW1, GW2 = bytes(range(32)), "gw1.winterthur", "gw2.winterthur"


def signed(asked: answers.Question, said: Any, minion: str = GW1) -> dict[str, Any]:
    fields = {"id": minion, "nonce": asked.nonce, "function": asked.function, "job": asked.job, "at": time.time(),
              "retcode": 0, "error": "", "answer": said}
    return {**fields, "signature": answers.signature(fields, authentic.key_of(SECRET, minion))}


@pytest.mark.parametrize("said", [
    None, False, True, 7, "", [], {}, "'gateway_answers.ask' is not available.", {"signature": 7},
    {"signature": "0" * 64}, {"signature": "\u0661" * 64, "at": 1.0}, {"answer": {"signature": "x"}},
    {"signature": "0" * 64, "at": 1.0, "retcode": 0, "error": "", "answer": {1: 2, "a": 3}},
    {"signature": "0" * 64, "at": float("inf"), "retcode": True, "error": None}])
def test_nothing_else_is_an_answer(said: Any) -> None:
    asked = answers.question("1", "test.ping", [GW1])
    assert asked.take(GW1, said, SECRET)[0] is None and asked.missing() == [GW1]
    if isinstance(said, dict):
        for name in ("id", "nonce", "function", "job"):
            said = {**said, name: {"id": GW1, "nonce": asked.nonce, "function": "test.ping", "job": "1"}[name]}
        assert asked.take(GW1, said, SECRET)[0] is None


def test_a_nested_answer_without_end_is_none() -> None:
    asked = answers.question("1", "test.ping", [GW1])
    said: list[Any] = []
    for _ in range(100_000):
        said = [said]
    assert asked.take(GW1, {**signed(asked, 1), "answer": said}, SECRET) == (None, answers.WRONG)


def test_each_minion_that_was_asked_answers_once() -> None:
    asked = answers.question("1", "test.ping", [GW1])
    assert asked.take(GW2, signed(asked, True, GW2), SECRET) == (None, "")
    asked.take(GW1, True, SECRET)
    assert asked.refused == {GW1: answers.UNSIGNED}
    answer, why = asked.take(GW1, signed(asked, True), SECRET)
    assert answer is not None and answer.value is True and not why and not asked.refused and not asked.missing()
    assert asked.take(GW1, signed(asked, False), SECRET) == (None, "")


def test_nonces_differ_and_are_no_numbers() -> None:
    found = {answers.nonce() for _ in range(1000)}
    assert len(found) == 1000 and all(each.startswith("n") and len(each) == 33 for each in found)


def test_a_person_is_told_what_to_do() -> None:
    assert "saltutil.sync_modules" in answers.explained(GW1, answers.NO_MODULE)
    assert answers.explained(GW1, "x; curl") == ""
