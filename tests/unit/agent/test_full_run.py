"""A full /run: the agent takes the role, serves, answers, and gives the role away all the same."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import history
from agent.supervisor import only_one
from tests.unit.agent import live

pytestmark = pytest.mark.skipif(not live.possible(), reason="no such namespaces here")


def replaced() -> None:
    old = Path("/run/old")
    history.replace(old, "10 10\n")
    live.fill()
    history.replace(old, "9 11\n")
    assert old.read_text().split() == ["9", "11"]
    history.replace(old, "123456 123457\n")
    assert old.read_text().split() == ["123456", "123457"]
    for path, text in ((old, "x" * 5000), (Path("/run/new"), "text")):
        try:
            history.replace(path, text)
        except OSError:
            pass
        else:
            raise AssertionError("no room, and no error")
    assert old.read_text().split() == ["123456", "123457"] and sorted(os.listdir("/run")) == ["filler", "old"]


def took_over() -> None:
    live.fill()
    with live.agent(*live.PEER_DEAD) as agent:
        said = agent.comes("active", ("192.0.2.10",))
        assert said["epoch"] == 1 and agent.tells("--listen"), agent.log()
        assert len(agent.workers()) == 1
        assert agent.log().count("can not be written") == 1, agent.log()
        live.FILLER.unlink()
        for _ in range(100):
            if "are written again" in agent.log():
                break
            live.time.sleep(0.05)
        assert history.epochs() == (1, 1) and [each["role"] for each in history.read()] == ["active"]
        assert Path("/run/gateway-agent.addresses").read_text().strip() == '[["192.0.2.10", 32, "outer"]]'
    assert live.kernel()[0] == "none"


def filled_later() -> None:
    """The agent ran before /run was full: a new agent knows what happened meanwhile."""
    with live.agent(*live.PEER_DEAD) as agent:
        agent.comes("active", ("192.0.2.10",))
    live.fill()
    with live.agent(*live.PEER_DEAD) as agent:
        said = agent.comes("active", ("192.0.2.10",))
        assert said["epoch"] == 2
        assert history.epochs() == (2, 2) and agent.tells("--listen"), agent.log()
        # killed, it is replaced, and the new one goes on with the same epoch
        os.kill(agent.workers()[0], live.signal.SIGKILL)
        for _ in range(200):
            if len(agent.workers()) == 2:
                break
            live.time.sleep(0.05)
        assert agent.comes("active", ("192.0.2.10",))["epoch"] == 2


def locked() -> None:
    lock = Path("/run/lock")
    for before in ("", "1"):
        lock.write_text(before)
        live.fill()
        ready, pid = os.pipe(), os.fork()
        if pid == 0:
            only_one(lock)
            os.write(ready[1], b"x")
            live.time.sleep(60)
        os.close(ready[1])
        assert os.read(ready[0], 1) == b"x", "it could not start"
        mine = only_one(lock)
        assert os.waitpid(pid, 0)[1] == live.signal.SIGKILL
        assert lock.read_text() == (str(os.getpid()) if before else "")
        os.close(mine)
        live.FILLER.unlink()


FUNCTIONS = {each.__name__: each for each in (replaced, took_over, filled_later, locked)}


def test_a_file_that_is_there_already_is_written_in_its_own_room():
    live.alone(__name__, "replaced")


def test_a_node_takes_over_and_tells_its_daemon_to_listen():
    live.alone(__name__, "took_over")


def test_epochs_survive_a_killed_agent():
    live.alone(__name__, "filled_later")


def test_an_agent_starts_and_ends_the_one_that_a_dead_heartbeat_has_left_behind():
    live.alone(__name__, "locked")


if __name__ == "__main__":
    live.main(FUNCTIONS)
