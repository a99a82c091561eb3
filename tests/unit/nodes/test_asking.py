"""Who asks and waits gets what the node has signed, whatever came before it on the bus."""
from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import salt.payload

from nodes import answers, asking, bus
from nodes.asking import SILENT, Patience
from nodes.keys import Keys
from tests.unit.nodes.test_answers import GW1, GW2, SECRET, signed

Node = Callable[[answers.Question, list[Any]], list[tuple[str, Any]]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., asking.Said]:
    """Asks nodes: `nodes(question, arguments)` are the messages, minion and return, that come then."""
    monkeypatch.setattr(asking, "STILL_SECONDS", 0.3)

    def begin(nodes: Node, minions: list[str], function: str = "test.ping", arguments: tuple[Any, ...] = (),
              **more: Any) -> asking.Said:
        waiting: list[bytes] = [b"salt/auth\n\n"]

        class Links:
            def __init__(self, _opts: Any) -> None:
                self.number = 0

            def new_job(self) -> str:
                self.number += 1
                return str(self.number)

            def send(self, asked: answers.Question, given: list[Any], _named: Any) -> None:
                for minion, said in nodes(asked, given):
                    waiting.append(f"salt/job/{asked.job}/ret/{minion}".encode() + b"\n\n" + salt.payload.dumps(
                        {"return": said, "id": minion}))

            def cached(self, job: str, minion: str) -> Any:
                return cache.get(minion)

        async def messages(_opts: Any) -> AsyncGenerator[object, None]:
            yield bus.CONNECTED
            while True:
                if waiting:
                    yield waiting.pop(0)
                else:
                    await asyncio.sleep(0.01)

        cache: dict[str, Any] = {}
        monkeypatch.setattr(asking, "Links", Links)
        monkeypatch.setattr(asking.bus, "messages", messages)
        return asking.ask({"gather_job_timeout": 0.3}, Keys.fixed(SECRET), minions, function, arguments,
                          **{"seconds": 0.6} | more)

    return begin


def test_forged_answers_before_the_true_one_do_not_end_the_wait(ask: Callable[..., asking.Said]) -> None:
    said = ask(lambda asked, _: [(GW1, "standby"), (GW1, signed(asked, "standby", GW2)), (GW1, False),
                                 (GW1, signed(asked, "active"))], [GW1], "heartbeat.role")
    assert said.answers[GW1].value == "active" and not said.missing


def test_who_gives_no_answer_that_counts_is_named_with_the_reason(ask: Callable[..., asking.Said]) -> None:
    said = ask(lambda asked, _: [(GW1, "'gateway_answers.ask' is not available."), ("laptop", signed(asked, 1))],
               [GW1, GW2])
    assert not said.answers and said.missing[GW2] == SILENT
    assert f"salt '{GW1}' saltutil.sync_modules" in said.missing[GW1]
    assert ask(lambda *_: [], []) == asking.Said()


def test_a_long_answer_is_waited_for_while_the_node_says_that_it_works(ask: Callable[..., asking.Said]) -> None:
    begun: list[answers.Question] = []

    def nodes(asked: answers.Question, given: list[Any]) -> list[tuple[str, Any]]:
        if asked.function == "state.apply":
            begun.append(asked)
            return []
        assert given == [begun[0].job]
        still = len(begun) < 4
        begun.append(asked)
        return [(GW1, signed(asked, {"pid": 7} if still else {}))]

    begin = time.monotonic()
    said = ask(nodes, [GW1], "state.apply", long=True, seconds=30)
    assert said.missing == {GW1: SILENT} and len(begun) >= 5 and time.monotonic() - begin < 10


def test_nobody_else_can_say_that_it_works(ask: Callable[..., asking.Said]) -> None:
    begin = time.monotonic()
    said = ask(lambda asked, _: [(GW1, {"pid": 7})] if asked.function != "state.apply" else [], [GW1], "state.apply",
               long=True, seconds=30)
    assert list(said.missing) == [GW1] and time.monotonic() - begin < 10


def test_what_the_client_raises_comes_to_the_caller(ask: Callable[..., asking.Said]) -> None:
    def nodes(*_: Any) -> list[tuple[str, Any]]:
        raise OSError("no master")

    with pytest.raises(OSError, match="no master"):
        ask(nodes, [GW1])


def test_a_node_is_given_up_after_it_was_silent_twice_in_a_row() -> None:
    patience, gone, at = Patience(0.0, 20.0), [], []
    for now in range(200):
        ask_now, given_up = patience.look(float(now), {GW1, GW2} - set(gone), {GW2} if ask_now_at(at, now) else set())
        at += [now] if ask_now else []
        gone += given_up
    assert gone == [GW1] and at[:2] == [10, 31] and len(at) > 4


def ask_now_at(at: list[int], now: int) -> bool:
    """gw2 answers a second after each question."""
    return bool(at) and now > at[-1]
