"""The socket on which people and Salt ask the agent, with real clients."""
from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent import __main__ as program
from agent import control
from agent.control import MAX_CLIENTS, Server
from agent.loop import Loop


class Agent:
    """A server whose loop the test drives. It answers `status`; the test answers all other questions."""

    def __init__(self, path: Path) -> None:
        self.path, self.loop = str(path), Loop()
        self.asked: list[tuple[int, dict[str, object]]] = []
        self.server = Server(self.loop, self.question, self.path)

    def question(self, number: int, question: dict[str, object]) -> None:
        if question.get("command") == "status":
            self.server.answer(number, {"role": "standby"})
        else:
            self.asked.append((number, question))

    def turn(self) -> None:
        """What the loop has to do now."""
        while found := self.loop.wait(0.01):
            self.loop.run(found)

    def client(self, **question: object) -> socket.socket:
        """A connected client, which has asked something where there is something to ask."""
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(0.2)
        one.connect(self.path)
        if question:
            one.sendall(json.dumps(question).encode() + b"\n")
        self.turn()
        return one


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "socket")


def answer(client: socket.socket) -> Any:
    return json.loads(client.recv(4096))


def test_two_questions_in_one_breath_are_both_answered(agent):
    one = agent.client()
    one.sendall(b'{"command": "status"}\n{"command": "status"}\n{"comm')
    agent.turn()
    assert one.recv(4096) == b'{"role": "standby"}\n' * 2
    one.sendall(b'and": "status"}\n')
    agent.turn()
    assert answer(one) == {"role": "standby"}


def test_a_question_is_answered_at_once_or_later(agent):
    one = agent.client(command="status")
    assert answer(one) == {"role": "standby"}
    one.sendall(b'{"command": "takeo')
    agent.turn()
    one.sendall(b'ver"}\n')
    agent.turn()
    (number, question), = agent.asked
    assert question == {"command": "takeover"}
    agent.server.answer(number, {"role": "active"})
    assert answer(one) == {"role": "active"}


def test_an_answer_never_reaches_another_client_than_the_one_that_asked(agent):
    """It has gone, and the kernel gave its descriptor's number to the next one: a `takeover` seemed to be refused."""
    one = agent.client(command="takeover")
    its = max(agent.loop.ready)
    one.close()
    agent.turn()
    other = agent.client()
    assert max(agent.loop.ready) == its, "the number is used again"
    agent.server.answer(agent.asked[0][0], {"error": "the other node does not answer"})
    with pytest.raises(TimeoutError):
        other.recv(4096)
    other.sendall(b'{"command": "status"}\n')
    agent.turn()
    assert answer(other) == {"role": "standby"}


@pytest.mark.parametrize("said", [b"\xff\n", b"[]\n", b"{}{}\n", b"x" * (control.MAX_QUESTION_BYTES + 1)])
def test_a_client_that_talks_nonsense_is_disconnected(agent, said):
    one = agent.client()
    one.sendall(said)
    agent.turn()
    with pytest.raises(ConnectionResetError):
        if one.recv(1) == b"":
            raise ConnectionResetError
    assert agent.server.clients == {}


def test_one_client_too_many_hears_that_the_agent_is_busy(agent, monkeypatch, capsys):
    """It heard that no agent runs, so `run` ended with 3, and Salt reported an agent that is missing."""
    many = [agent.client(command="takeover") for _ in range(MAX_CLIENTS)]
    late = agent.client()
    assert answer(late) == {"error": control.BUSY}
    with pytest.raises(BrokenPipeError):
        late.sendall(b"x")
    monkeypatch.setattr(control.ask, "__defaults__", (agent.path,))
    codes: list[int] = []
    asks = threading.Thread(target=lambda: codes.append(program.main(["status"])))
    asks.start()
    while asks.is_alive():
        agent.turn()
    assert codes == [1] and "busy" in capsys.readouterr().err
    agent.server.answer(agent.asked[0][0], {"role": "active"})
    assert answer(many[0]) == {"role": "active"}


def test_a_client_that_asks_after_the_agent_has_closed_reads_the_reason(agent, monkeypatch):
    """A slow client: it connects, and is told that the agent is busy, before it sends its question."""
    many = [agent.client(command="takeover") for _ in range(MAX_CLIENTS)]
    connect = socket.socket.connect

    def slowly(self: socket.socket, path: str) -> None:
        connect(self, path)
        agent.turn()

    monkeypatch.setattr(socket.socket, "connect", slowly)
    assert control.ask({"command": "status"}, 1.0, agent.path) == {"error": control.BUSY}
    assert len(many) == len(agent.server.clients)


def test_a_client_that_is_silent_gives_its_place_to_another_one(agent, monkeypatch):
    """A program that forgets to close its connections does not keep everybody out for good."""
    waiting = agent.client(command="takeover")
    silent = [agent.client() for _ in range(MAX_CLIENTS - 1)]
    now = control.clock()
    monkeypatch.setattr(control, "clock", lambda: now + control.SILENT_SECONDS + 1)
    late = agent.client(command="status")
    assert answer(late) == {"role": "standby"}
    assert silent[0].recv(1) == b"", "the one that was silent for the longest time"
    with pytest.raises(TimeoutError):
        waiting.recv(1)


def test_only_root_may_ask_and_a_socket_left_behind_is_replaced(agent):
    again = Agent(Path(agent.path))
    assert stat.S_IMODE(os.stat(agent.path).st_mode) == 0o600
    assert answer(again.client(command="status")) == {"role": "standby"}


def test_an_agent_that_can_not_open_its_socket_tries_again(tmp_path):
    folder = tmp_path / "later"
    agent = Agent(folder / "socket")
    folder.mkdir()
    agent.server.tick(control.clock())
    assert not os.path.exists(agent.path), "not at each turn of the loop"
    agent.server.tick(control.clock() + control.AGAIN_SECONDS + 1)
    assert answer(agent.client(command="status")) == {"role": "standby"}


def test_nobody_there_is_not_running(tmp_path):
    with pytest.raises(control.NotRunning):
        control.ask({"command": "status"}, 1.0, str(tmp_path / "none"))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    begun = time.monotonic()
    with pytest.raises(control.NotRunning):
        control.ask({"command": "status"}, 1.0, str(tmp_path / "dead"))
    assert time.monotonic() - begun < 1
