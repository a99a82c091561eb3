"""Tells the process `sessions` which node serves. That process need not run: without it tunnels renegotiate."""
from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

from agent import control

SOCKET_PATH = "/run/gateway-sessions.sock"
SESSIONS_JSON = Path("/etc/ha.d/sessions.json")  # exists where the site copies its tunnels
RELEASE_SECONDS = 0.3  # the other node takes over only after this node's outbound states are gone, or this time


class Sessions:
    """The connection to that process. Nothing here raises; only release() waits."""

    def __init__(self, path: str = SOCKET_PATH) -> None:
        self.path = path
        # Why tunnels would not survive a takeover, as that process says. Empty: they would, or the site does not want
        # it.
        self.why = ""
        self.socket: socket.socket | None = None

    def tell(self, role: str, epoch: int) -> bool:
        """active: this node serves. standby: it does not. False where nobody heard it."""
        question = json.dumps({"command": role, "epoch": epoch}).encode() + b"\n"
        for _ in range(2):  # the process may have been restarted since the last time
            try:
                if not self.socket:
                    self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                    self.socket.setblocking(False)
                    self.socket.connect(self.path)
                self.hear(self.socket)
                self.socket.send(question)
                return True
            except OSError:
                self.close()
        self.why = "the process gateway-sessions does not run" if SESSIONS_JSON.exists() else ""
        return False

    def hear(self, connected: socket.socket) -> None:
        """Reads the answers to earlier questions. Raises OSError when the connection has ended."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := connected.recv(65536):
                data += more
            raise ConnectionError
        for line in data.splitlines()[-1:]:
            with contextlib.suppress(ValueError, AttributeError):
                self.why = str(json.loads(line).get("why", ""))[:200]

    def release(self) -> str:
        """This node gives the role away: it must not send any more.

        Waits. Returns what went wrong, empty if nothing.
        """
        try:
            answer = control.ask({"command": "release"}, RELEASE_SECONDS, self.path)
        except control.NotRunning:
            return ""
        except (OSError, ValueError) as error:
            return f"sessions: {error or 'no answer'}"
        return str(answer.get("error", ""))

    def close(self) -> None:
        """Ends the connection."""
        if self.socket:
            self.socket.close()
        self.socket = None
