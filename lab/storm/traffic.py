"""The clients' traffic: a ping through each tunnel, from each client's own host."""
from __future__ import annotations

import subprocess
import time

from lab import observe
from lab.bench import clients
from lab.laboratory import Lab

PING_SECONDS = 0.25
CONNECTED_SECONDS = 180.0       # to connect at the beginning
AGAIN_SECONDS = 45.0            # on a busy machine a start takes a while, and another one would undo it
BACK_SECONDS = 60.0             # a tuned client whose tunnel is not back by then counts as one that never came back
ANSWERED_SECONDS = 1.5          # the last answer is no older


class NotConnected(Exception):
    """A client is not answered, although nothing is wrong."""


class Traffic:
    """All clients' pings. A new log begins with each burst: a host's log must not grow for hours."""

    def __init__(self, lab: Lab, chosen: list[clients.Client]) -> None:
        self.lab = lab
        self._pings = {client: observe.Pings(lab, lab.roadwarriors[client.name], PING_SECONDS) for client in chosen}

    def begin(self) -> None:
        """Start the logs anew, and wait until everybody is answered. Raises NotConnected after CONNECTED_SECONDS."""
        for each in self._pings.values():
            each.stop()
            each.start()
        begun, again = time.monotonic(), time.monotonic() + 5
        while waiting := self._waiting():
            now = time.monotonic()
            if now - begun > CONNECTED_SECONDS:
                raise NotConnected(", ".join(client.name for client in waiting))
            if now > again:
                again = now + AGAIN_SECONDS
                for client in waiting:
                    clients.call(self.lab, client)
            time.sleep(2)
            for client in self._waiting():
                self._pings[client].stop()      # Trap: ping keeps the address that it chose when it started
                self._pings[client].start()
                time.sleep(0.5)

    def never_back(self, seconds: float = BACK_SECONDS) -> list[str]:
        """Wait until everybody is answered, and still is a moment later; returns who is not within `seconds`."""
        deadline, steady = time.monotonic() + seconds, 0
        while steady < 2:
            waiting = self._waiting()
            if waiting and time.monotonic() > deadline:
                return [client.name for client in waiting]
            steady = 0 if waiting else steady + 1
            time.sleep(1)
        return []

    def gaps(self, since: float) -> dict[str, float]:
        """By client the longest time without an answer that ended after `since`, in seconds."""
        return {client.name: round(each.longest_gap(since), 2) for client, each in self._pings.items()}

    def _waiting(self) -> list[clients.Client]:
        return [client for client, each in self._pings.items() if not _answered(each)]


def _answered(pings: observe.Pings) -> bool:
    try:
        replies = pings.replies()
    except (TimeoutError, ValueError, subprocess.SubprocessError):
        return False        # a busy host does not answer in time
    return bool(replies) and time.time() - replies[-1] <= ANSWERED_SECONDS
