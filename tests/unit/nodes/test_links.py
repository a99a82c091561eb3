"""A question is known before it is sent, and goes out as one job of gateway_answers.ask."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from alerts import authentic, service
from nodes import answers, links
from tests.conftest import EXAMPLES, load_module

GW1, GW2 = "gw1.winterthur", "gw2.winterthur"


class Client:
    sent: list[tuple[Any, ...]] = []

    def run_job(self, *what: Any, **named: Any) -> None:
        self.sent.append((what, named))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setattr(Client, "sent", [])
    monkeypatch.setattr(links.salt.client, "get_local_client", lambda **_named: Client())
    return Client.sent


def test_a_question_as_a_job(sent: list[tuple[Any, ...]]) -> None:
    asked = answers.question("7", "network.connect", [GW2, GW1])
    links.Links({}).send(asked, ["192.0.2.1", 4506], {"timeout": 3})
    (what, named), = sent
    assert what == ([GW1, GW2], "gateway_answers.ask", [asked.nonce, "network.connect", "192.0.2.1", 4506])
    assert (named["tgt_type"], named["jid"], named["kwarg"], named["listen"]) == ("list", "7", {"timeout": 3}, False)


def test_the_alerts_engine_knows_its_question_before_it_is_sent(
        sent: list[tuple[Any, ...]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_module("_engines/gateway_alerts.py")
    its = engine._Links({}, "")
    outside = service.Outside(its.publish, lambda: [GW1], lambda _message: "", lambda: 0.0, lambda: None, its.cached,
                              lambda: False)
    its.service = service.Service(tmp_path, bytes(32), authentic.Sites([str(EXAMPLES)]), outside, presence=0)
    monkeypatch.setattr(links.salt.utils, "jid", SimpleNamespace(gen_jid=lambda _opts: "7"))
    job = its.publish("since", [GW1], [3, "a" * 16])
    asked = its.service.feed.pending[job]
    (what, _named), = sent
    assert what[2] == [asked.nonce, "gateway_events.since", 3, "a" * 16] and asked.minions == {GW1}
