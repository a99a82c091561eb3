"""The socket through which people and Salt ask the agent: one JSON line in, one out."""
from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

SOCKET_PATH = "/run/gateway-agent.sock"
MAX_QUESTION_BYTES = 4096
MAX_CLIENTS = 16  # connected at the same time; a further one is closed


class PeerStatus(TypedDict):
    """The other node in Status, as this node knows it."""
    node: str
    heartbeat: str  # init, up, active, dead; unknown while this node's heartbeat does not answer
    agent: str  # there, silent, none
    role: str  # standby, active, transition, unknown
    ready: bool
    not_ready_because: str
    epoch: int | None
    clock_offset: float | None  # seconds that its clock is ahead


class Status(TypedDict):
    """The answer to `status`: what `run status` prints."""
    role: str  # standby, active, transition
    epoch: int
    since: str  # ISO 8601
    cause: str
    node: str
    muted: bool
    heartbeat: str  # alive, dead
    peer: PeerStatus
    ready: bool
    not_ready_because: str
    held: list[str]
    missing: list[str]
    intruder: str
    links: dict[str, str]  # interface: up, dead
    ping_nodes: dict[str, str]  # address: up, dead
    daemon: str  # alive, hung, dead, unknown, none
    starved: bool


class NotRunning(Exception):
    """No agent runs: no socket, nobody listens on it, or the connection ends before an answer.

    `heartbeat.glance` asks the same socket itself and calls this `missing` (_modules/heartbeat.py).
    """


def ask(question: Mapping[str, object], timeout: float, path: str = SOCKET_PATH) -> dict[str, Any]:
    """Asks the agent one question; returns its answer. `timeout`: seconds for each step (connect, send, read).

    Raises NotRunning, TimeoutError and other OSErrors, ValueError (the answer is not a JSON mapping).
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        try:
            client.connect(path)
            client.sendall(json.dumps(question).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                more = client.recv(65536)
                if not more:
                    raise NotRunning("the agent ended before it answered")
                data += more
        except (FileNotFoundError, ConnectionError) as error:
            raise NotRunning(str(error)) from None
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise ValueError("no mapping")
    return answer


class Server:
    """The agent's end of the socket. It never waits.

    `question(number, mapping)` is called for each question. answer(number, ...) may be called later.
    """

    def __init__(self, question: Callable[[int, dict[str, object]], None], path: str = SOCKET_PATH) -> None:
        """Replaces a socket that an earlier agent has left at `path`. Raises OSError."""
        self.question = question
        self.clients: dict[int, tuple[socket.socket, bytes]] = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        new = f"{path}.new"
        if os.path.exists(new):
            os.unlink(new)
        before = os.umask(0o177)  # root only, from its first moment
        try:
            self.socket.bind(new)
        finally:
            os.umask(before)
        self.socket.listen(MAX_CLIENTS)
        os.replace(new, path)

    def accept(self) -> int | None:
        """A new client's descriptor, for the caller to poll. None when no client waits or too many are connected."""
        try:
            client, _ = self.socket.accept()
        except OSError:
            return None
        if len(self.clients) >= MAX_CLIENTS:
            client.close()
            return None
        client.setblocking(False)
        self.clients[client.fileno()] = client, b""
        return client.fileno()

    def read(self, number: int) -> bool:
        """Reads from a client. False when it is gone or sends no valid question; its descriptor is closed then."""
        client, data = self.clients[number]
        try:
            more = client.recv(MAX_QUESTION_BYTES)
            if not more or len(data) + len(more) > MAX_QUESTION_BYTES:
                raise ValueError("no question")
            self.clients[number] = client, data + more
            if not (data + more).endswith(b"\n"):
                return True
            question = json.loads(data + more)
            if not isinstance(question, dict):
                raise ValueError("no mapping")
        except BlockingIOError:
            return True
        except (OSError, ValueError, RecursionError):
            self.close(number)
            return False
        self.clients[number] = client, b""
        self.question(number, question)
        return number in self.clients

    def answer(self, number: int, answer: Mapping[str, object]) -> None:
        """Sends an answer. It fits into the socket's buffer; a client that does not read it gets nothing."""
        if number in self.clients:
            try:
                self.clients[number][0].send(json.dumps(answer).encode() + b"\n")
            except OSError:
                pass

    def close(self, number: int) -> None:
        """Ends a client's connection."""
        self.clients.pop(number)[0].close()
