"""A kernel that is slow to list and change addresses: the agent lives on, and does what is due as soon as it can.

A real agent on real addresses; its netlink socket waits as it does while another process holds the kernel's lock.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from agent import control, decide
from tests.unit.agent import live

pytestmark = pytest.mark.skipif(not live.possible(), reason="no such namespaces here")

ADDRESS = "192.0.2.10"
AT_ONCE = 4


def serves_on(asks: bool) -> None:
    """Active, three times slow for 3 s: a supervisor gives up after three dead workers within a minute."""
    with live.agent(*live.PEER_DEAD, asks=asks) as agent:
        agent.comes("active", (ADDRESS,))
        told = agent.told()
        answered, kinds = 0, []
        for _ in range(3):
            live.slow_for(3.0)
            until = time.monotonic() + 3.0
            agent.messages()
            while time.monotonic() < until:
                said = agent.status()
                assert (said["role"], said["held"], said["muted"]) == ("active", [ADDRESS], False), said
                answered += time.monotonic() < until
                time.sleep(0.4)
            kinds += [each["kind"] for each in agent.messages()]
            time.sleep(0.6)
        assert answered, "nobody got an answer while the kernel was slow"
        assert {"state", "echo"} <= set(kinds), kinds
        # a person took it away while the kernel was slow
        live.slow_for(1.0)
        live.subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "outer"], check=True)
        until = time.monotonic() + 60.0
        while live.kernel()[0] != "held" and time.monotonic() < until:
            time.sleep(0.05)
        agent.comes("active", (ADDRESS,))
        assert "put back" in agent.log() and agent.log().count("active: ") == 1, agent.log()
        assert len(agent.workers()) == 1 and agent.told()[:len(told)] == told, agent.log()
        assert agent.log().count("the kernel answers again") >= 1


def starts(asks: bool) -> None:
    live.slow_for(3.0)
    with live.agent(*live.PEER_DEAD, asks=asks) as agent:
        agent.comes("active", (ADDRESS,))
        assert len(agent.workers()) == 1, agent.log()


def moves(asks: bool) -> None:
    """What follows a change (the answer, the word to the daemon) waits for it."""
    with live.agent(decide.Peer("active"), asks=asks) as agent:
        agent.comes("standby", ())
        live.slow_for(3.0)
        begun = time.monotonic()
        said = control.ask({"command": "takeover", "force": True}, 30.0)
        assert time.monotonic() - begun > 2.0 and (said["role"], said["held"]) == ("active", [ADDRESS]), agent.log()
        assert not said["muted"] and agent.comes("active", (ADDRESS,)) and agent.tells("--listen")
        time.sleep(1.0)
        live.slow_for(3.0)
        agent.messages()
        control.ask({"command": "standby", "force": True}, 30.0)
        agent.comes("standby", ())
        assert live.kernel()[0] == "none" and len(agent.workers()) == 1, agent.log()


def much_too_slow(asks: bool) -> None:
    """Longer than the agent waits: it answers meanwhile, and its daemon is told once the addresses are there."""
    with live.agent(decide.Peer("active"), asks=asks) as agent:
        agent.comes("standby", ())
        live.slow_for(8.0)
        begun = time.monotonic()
        said = control.ask({"command": "takeover", "force": True}, 30.0)
        assert (said["role"], said["held"]) == ("active", []) or time.monotonic() - begun > 7.0, agent.log()
        assert "--listen" not in agent.told() or time.monotonic() - begun > 7.0
        agent.comes("active", (ADDRESS,))
        assert agent.tells("--listen") and len(agent.workers()) == 1, agent.log()


FUNCTIONS: dict[str, Any] = {
    f"{each.__name__}-{way}": lambda each=each, way=way: each(way == "asks")
    for each in (serves_on, starts, moves, much_too_slow) for way in ("asks", "answers")}


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """What was chosen, begun at once: nearly all of it is waiting."""
    chosen = [item.callspec.params["name"] for item in request.session.items
              if item.module is request.module]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(live.alone, __name__, name) for name in chosen}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_agent_lives_on(running, name):
    running[name].result()


if __name__ == "__main__":
    live.main(FUNCTIONS)
