"""Signing on to heartbeat: the agent lives on while heartbeat reads nothing from its clients."""
from __future__ import annotations

import threading
import time

import pytest

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


if __name__ == "__main__":
    live.main(FUNCTIONS)
