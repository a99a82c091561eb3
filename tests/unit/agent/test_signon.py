"""Signing on to heartbeat: the agent lives on while heartbeat reads nothing from its clients."""
from __future__ import annotations

import threading
import time

import pytest

from agent import signon
from agent.heartbeat import Gone
from agent.signon import SignOn
from tests.unit.agent import live


def waits() -> None:
    """Longer than a supervisor waits for a sign of life: it answers meanwhile, then takes over."""
    begun = time.monotonic()
    with live.agent(*live.PEER_DEAD, paused=4.0) as agent:
        said = agent.comes("standby", ())
        assert said["heartbeat"] == "dead" and time.monotonic() - begun < 3.5, said
        said = agent.comes("active", ("192.0.2.10",))
        assert said["heartbeat"] == "alive" and time.monotonic() - begun > 4.0
        assert len(agent.workers()) == 1 and "hung" not in agent.log(), agent.log()


FUNCTIONS = {"waits": waits}


@pytest.mark.skipif(not live.possible(), reason="no such namespaces here")
def test_an_agent_that_heartbeat_does_not_read_from_is_not_hung():
    live.alone(__name__, "waits")


def test_nothing_waits_for_a_connection_and_a_refusal_is_told():
    go = threading.Event()

    def refuses() -> None:
        go.wait(10)
        raise Gone("sign-on refused")

    one = SignOn(refuses)
    assert one.result() is None
    go.set()
    assert one.done.wait(10)
    with pytest.raises(Gone, match="sign-on refused"):
        one.result()


def test_a_refusal_is_logged_once_and_tried_again(monkeypatch):
    said: list[str] = []
    answers = [Gone("sign-on refused"), Gone("sign-on refused"), "connection"]

    def make() -> str:
        found = answers.pop(0)
        if isinstance(found, Gone):
            raise found
        return found

    monkeypatch.setattr(signon, "log", lambda _priority, text: said.append(text))
    signing = signon.Signing(make, 0.5)
    found, now = [], 100.0
    while len(found) < 1 and now < 200.0:
        found += filter(None, [signing.turn(now)])
        if signing.one:
            signing.one.done.wait(10)
        now += 0.25
    assert found == ["connection"] and now >= 101.0, "half a second between two attempts"
    assert said == ["heartbeat: sign-on refused; trying again"]


if __name__ == "__main__":
    live.main(FUNCTIONS)
