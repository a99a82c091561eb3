"""The socket through which people and Salt ask the agent: one JSON line in, one out."""
from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from agent.loop import Loop
from agent.system import clock, log

SOCKET_PATH = "/run/gateway-agent.sock"
MAX_QUESTION_BYTES = 4096
MAX_CLIENTS = 16  # connected at the same time
SILENT_SECONDS = 10.0  # a client that asks nothing for so long gives its place to another one
BUSY = f"busy: {MAX_CLIENTS} clients are connected to this agent already; ask again in a few seconds"
AGAIN_SECONDS = 5.0  # between two tries to open the socket


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
    stalls: int  # standstills since the agent started, of this machine or of the other one as heard here
    sessions: str  # why tunnels would not survive a takeover; empty when they would, or the site does not want it


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
            # A busy agent may have answered and closed the connection already: its answer can be read all the same.
            with contextlib.suppress(BrokenPipeError):
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


class Client:
    """A connected client. `waits`: it has asked, and has no answer yet. `since`: when it last asked or was answered."""

    def __init__(self, connection: socket.socket, now: float) -> None:
        self.connection, self.since = connection, now
        self.data, self.waits = b"", False


class Server:
    """The agent's end of the socket. It never waits.

    `question(client, mapping)` is called for each question. answer(client, ...) may be called later. A client's number
    is never used again, so a late answer reaches nobody else.
    """

    def __init__(self, loop: Loop, question: Callable[[int, dict[str, object]], None],
                 path: str = SOCKET_PATH) -> None:
        """Replaces a socket that an earlier agent has left at `path`. Where that fails tick() tries again."""
        self.loop, self.question, self.path = loop, question, path
        self.clients: dict[int, Client] = {}
        self.numbers = itertools.count(1)
        self.socket: socket.socket | None = None
        self.again = 0.0  # when to try again to open the socket
        self.tick(clock())

    def tick(self, now: float) -> None:
        """Opens the socket, if that was not possible before. An agent without one still does its work."""
        if self.socket or now < self.again:
            return
        try:
            self.socket = listen(self.path)
        except OSError as error:
            if not self.again:
                log("err", f"{self.path} can not be opened: {error}; nobody can ask this agent meanwhile (a full /run? "
                           "`df -h /run; df -i /run`)")
            self.again = now + AGAIN_SECONDS
            return
        if self.again:
            log("notice", f"{self.path} is open")
        self.loop.add(self.socket.fileno(), self.accept)

    def accept(self) -> None:
        """Takes a new client. Where there are too many, it replaces one that is silent, or is told so."""
        try:
            connection, _ = self.socket.accept() if self.socket else (None, None)
        except OSError:
            return
        if connection is None:
            return
        connection.setblocking(False)
        now = clock()
        if len(self.clients) >= MAX_CLIENTS:
            silent = {each: its.since for each, its in self.clients.items()
                      if not its.waits and now - its.since > SILENT_SECONDS}
            if not silent:
                with contextlib.suppress(OSError):
                    connection.send(json.dumps({"error": BUSY}).encode() + b"\n")
                connection.close()
                return
            self.close(min(silent, key=silent.__getitem__))
        number = next(self.numbers)
        self.clients[number] = Client(connection, now)
        self.loop.add(connection.fileno(), lambda: self.read(number))

    def read(self, number: int) -> None:
        """Reads from a client. One that is gone or sends no valid question is disconnected."""
        client = self.clients[number]
        try:
            more = client.connection.recv(MAX_QUESTION_BYTES)
            if not more or len(client.data) + len(more) > MAX_QUESTION_BYTES:
                raise ValueError("no question")
            # A client may ask again before it has read the answer to its first question.
            *lines, client.data = (client.data + more).split(b"\n")
            questions = [json.loads(line) for line in lines]
            if not all(isinstance(each, dict) for each in questions):
                raise ValueError("no mapping")
        except BlockingIOError:
            return
        except (OSError, ValueError, RecursionError):
            self.close(number)
            return
        for question in questions:
            if number in self.clients:
                client.waits, client.since = True, clock()
                self.question(number, question)

    def answer(self, number: int, answer: Mapping[str, object]) -> None:
        """Sends an answer. It fits into the socket's buffer; a client that does not read it gets nothing."""
        client = self.clients.get(number)
        if client:
            client.waits, client.since = False, clock()
            with contextlib.suppress(OSError):
                client.connection.send(json.dumps(answer).encode() + b"\n")

    def close(self, number: int) -> None:
        """Ends a client's connection."""
        client = self.clients.pop(number)
        self.loop.remove(client.connection.fileno())
        client.connection.close()


def listen(path: str) -> socket.socket:
    """A socket that listens at `path`, only for root from its first moment. Raises OSError."""
    new = f"{path}.new"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        try:
            server.bind(new)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.unlink(path)  # no inode is left in /run: an earlier agent's socket has one, and nobody answers there
            server.bind(new)
        server.listen(MAX_CLIENTS)
        os.replace(new, path)
    except OSError:
        server.close()
        raise
    finally:
        os.umask(before)
    return server
