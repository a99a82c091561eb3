"""The socket through which people and Salt ask the agent: one JSON line in, one out."""
from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

PATH = "/run/gateway-agent.sock"
LARGEST = 4096
CLIENTS = 16


class NotRunning(Exception):
    """Nobody listens."""


def ask(question: dict[str, Any], timeout: float, path: str = PATH) -> dict[str, Any]:
    """One question. Raises NotRunning, TimeoutError, ValueError (an answer that makes no sense)."""
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
    """Reads questions without waiting. `question(number, mapping)` is called for each; answer() may come later."""

    def __init__(self, question: Callable[[int, dict[str, Any]], None], path: str = PATH) -> None:
        """Takes the place of a socket that was left. Raises OSError."""
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
        self.socket.listen(CLIENTS)
        os.replace(new, path)

    def accept(self) -> int | None:
        """A new client's descriptor, to be polled; None when there is none or too many."""
        try:
            client, _ = self.socket.accept()
        except OSError:
            return None
        if len(self.clients) >= CLIENTS:
            client.close()
            return None
        client.setblocking(False)
        self.clients[client.fileno()] = client, b""
        return client.fileno()

    def read(self, number: int) -> bool:
        """False when the client is gone or talks nonsense; its descriptor is closed then."""
        client, data = self.clients[number]
        try:
            more = client.recv(LARGEST)
            if not more or len(data) + len(more) > LARGEST:
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

    def answer(self, number: int, answer: dict[str, Any]) -> None:
        """Small enough for the socket's buffer; whoever does not read it gets nothing."""
        if number in self.clients:
            try:
                self.clients[number][0].send(json.dumps(answer).encode() + b"\n")
            except OSError:
                pass

    def close(self, number: int) -> None:
        self.clients.pop(number)[0].close()
