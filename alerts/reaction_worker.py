"""Runs the reactions that wait: a thread of the engine that hands them to a process of its own (reactor.py).

A process, because Salt's reactor and what it calls can hang, and only a process can be ended. One for many reactions,
because loading Salt takes seconds. It starts with the first reaction and ends when none came for a while.

    thread --> {"number": 7, "sls": ["reactor/ticket.sls"], "data": {...}, "texts": {...}, "timeout": 60}
           <-- {"number": 7, "wrong": ""}
"""
from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from alerts.reaction_queue import Item, ReactionQueue

log = logging.getLogger(__name__)

PARALLEL = 4  # reactions that run at the same time
LOOK_SECONDS = 0.25  # between two looks at the queue
START_SECONDS = 120.0  # the process may take this long, beside the reaction's own time
IDLE_SECONDS = 600.0  # then the process ends and gives its memory back
ERROR_SECONDS = 5.0  # after an error such as a full disk
MAX_ANSWER_BYTES = 64 * 1024
PROGRAM = Path(__file__).with_name("reactor.py")


class Ended(NamedTuple):
    """A reaction that has ended. `wrong` is empty when it ran as it should, otherwise one line."""

    item: Item
    wrong: str


class Worker(threading.Thread):
    """The thread. It goes on whatever the process does."""

    def __init__(self, command: list[str]) -> None:
        """
        Args:
            command: starts the process; see :func:`command_for`.
        """
        super().__init__(name="alerts-reactions", daemon=True)
        self._command = command
        self._queue: ReactionQueue | None = None
        self._ended: deque[Ended] = deque()
        self._running: dict[int, tuple[Item, float]] = {}  # by number, with the time by which an answer must have come
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._used = self._paused = 0.0
        self._wake, self._stopping = threading.Event(), False

    def start_with(self, queue: ReactionQueue) -> None:
        """Begin to take reactions from the queue."""
        self._queue = queue
        self.start()

    def wake(self) -> None:
        """There may be something in the queue."""
        self._wake.set()

    def ended(self) -> list[Ended]:
        """The reactions that have ended since the last call."""
        out = []
        with contextlib.suppress(IndexError):
            while True:
                out.append(self._ended.popleft())
        return out

    def stop(self) -> None:
        """Begin no further reaction. Those that run may end within their time limit."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        assert self._queue is not None
        while not self._stopping:
            try:
                self._once(self._queue)
            except Exception:  # whatever the error is, the thread goes on
                log.exception("reactions: the thread that runs them")
                self._lost(self._queue, "the thread that runs it failed")
                time.sleep(ERROR_SECONDS)
        if self._process is not None:
            self._close(kill=False)

    def _once(self, queue: ReactionQueue) -> None:
        """Begins what can begin, then waits a moment for answers."""
        while len(self._running) < PARALLEL and time.monotonic() >= self._paused:
            try:
                item = queue.begin({running["order"] for running, _ in self._running.values()})
            except OSError as error:  # it waits; those that run go on
                log.error("reactions: can not be written to the disk: %s", error)
                self._paused = time.monotonic() + ERROR_SECONDS
                break
            if item is None:
                break
            self._send(queue, item)
        if self._process is None:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            return
        pipe = self._process.stdout
        assert pipe is not None
        if select.select([pipe], [], [], LOOK_SECONDS)[0]:
            self._hear(queue, os.read(pipe.fileno(), MAX_ANSWER_BYTES))
        now = time.monotonic()
        if any(until < now for _, until in self._running.values()):
            self._lost(queue, "its process did not answer and was ended")
        elif not self._running and now - self._used > IDLE_SECONDS:
            self._close(kill=False)

    def _send(self, queue: ReactionQueue, item: Item) -> None:
        self._used = time.monotonic()
        self._running[item["number"]] = item, self._used + item["timeout"] + START_SECONDS
        if self._process is None:
            self._said = b""
            # Not its standard error: what Salt writes there quotes files with an operator's settings in them.
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(item).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._lost(queue, "its process has ended")

    def _hear(self, queue: ReactionQueue, more: bytes) -> None:
        if not more:
            self._lost(queue, "its process has ended")
            return
        *lines, self._said = (self._said + more).split(b"\n")
        for line in lines:
            said = json.loads(line)
            item, _ = self._running.pop(said["number"], (None, 0.0))
            if item is not None:
                self._done(queue, item, said["wrong"])
        self._used = time.monotonic()

    def _lost(self, queue: ReactionQueue, why: str) -> None:
        self._close(kill=True)
        for item, _ in list(self._running.values()):
            self._done(queue, item, why + ". It may have done its work or not, and is not repeated")
        self._running.clear()

    def _done(self, queue: ReactionQueue, item: Item, wrong: str) -> None:
        self._ended.append(Ended(item, wrong))
        try:
            queue.done(item["number"])
        except OSError as error:
            log.error("reactions: can not be written to the disk: %s", error)

    def _close(self, kill: bool) -> None:
        """Lets the process end, which it does when nobody writes to it any more, or kills it with what it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        if kill or not self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def command_for(conf_file: str) -> list[str]:
    """
    The command of the process.

    Args:
        conf_file: the master's configuration file.
    """
    # Trap: without -P this package's own folder would come first in the path, and `files`, `message` and its like
    # would hide other packages' modules.
    return [sys.executable, "-P", str(PROGRAM), conf_file]
