"""Whose tunnel it is: the kernel does not know, and the daemon that knew is gone after a takeover.

The active node asks its daemon a moment after new tunnels came, and tells the standby. With that a person who is
revoked is ended on the survivor, too, whose daemon has never heard of that tunnel.
"""
from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import Any

WHACK = "/usr/libexec/ipsec/whack"
ASK_SECONDS = 3.0  # the daemon answers within this time, or is asked again
DELAY_SECONDS = 0.5  # so that many new tunnels at once are one question
# `whack --trafficstatus`, one line a tunnel:
# 006 #4: "roadwarrior"[1] 203.0.113.5, type=ESP, add_time=1790000000, ..., id='CN=anna', lease=198.51.100.192/32
_LINE = re.compile(r'"(?P<name>[^"]+)"(?:\[\d+\])? (?P<peer>\S+?), type=ESP, add_time=(?P<since>\d+).*?'
                   r"id='(?P<id>.*?)'(?:, lease=(?P<lease>\S+))?$")
MAX_NAMES, MAX_LENGTH = 20_000, 200


@dataclass(frozen=True)
class Name:
    """Whose tunnel: the peer's identity, its outer address, the connection, seconds since 1970 of its beginning."""
    id: str
    peer: str
    tunnel: str
    since: int

    @classmethod
    def parse(cls, told: Any) -> Name:
        """From what the other node has told. Raises ValueError, KeyError, TypeError."""
        return cls(str(told["id"])[:MAX_LENGTH], str(told["peer"])[:MAX_LENGTH], str(told["tunnel"])[:MAX_LENGTH],
                   int(told["since"]))


def parse(text: str) -> dict[str, Name]:
    """By inner network of the peer, or by its outer address where it has no lease."""
    found: dict[str, Name] = {}
    for line in text.splitlines():
        match = _LINE.search(line)
        if match and len(found) < MAX_NAMES:
            found[match["lease"] or match["peer"]] = Name(match["id"][:MAX_LENGTH], match["peer"],
                                                          match["name"][:MAX_LENGTH], int(match["since"]))
    return found


class Names:
    """Asks the daemon beside the loop."""

    def __init__(self) -> None:
        self.known: dict[str, Name] = {}
        self.due = 0.0  # when to ask; 0: not necessary
        self.process: subprocess.Popen[bytes] | None = None
        self.until = 0.0
        self.said = b""

    def want(self, now: float) -> None:
        """There are new tunnels."""
        self.due = self.due or now + DELAY_SECONDS

    def fileno(self) -> int:
        """The descriptor to wait for; -1 where nothing is asked."""
        return self.process.stdout.fileno() if self.process and self.process.stdout else -1

    def tick(self, now: float) -> bool:
        """Asks what is due. True when there is an answer, in `known`."""
        if self.process:
            return self.read(now)
        if self.due and now >= self.due:
            self.due, self.until, self.said = 0.0, now + ASK_SECONDS, b""
            try:
                self.process = subprocess.Popen([WHACK, "--trafficstatus"], stdin=subprocess.DEVNULL,
                                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            except OSError:
                return False
            os.set_blocking(self.fileno(), False)
        return False

    def read(self, now: float) -> bool:
        """Reads what the daemon has said so far."""
        assert self.process and self.process.stdout
        while more := self.process.stdout.read(1 << 16):
            self.said += more
        if more == b"" and self.process.poll() is not None:
            ok = self.process.returncode == 0
            self.close()
            if ok:
                # What was adopted is in no answer of this node's daemon: its names stay.
                self.known |= parse(self.said.decode("utf-8", "replace"))
            return ok
        if now > self.until:
            self.process.kill()
            self.close()
            self.due = now + ASK_SECONDS
        return False

    def close(self) -> None:
        """Ends the question."""
        if self.process:
            if self.process.stdout:
                self.process.stdout.close()
            self.process.poll()
        self.process = None
