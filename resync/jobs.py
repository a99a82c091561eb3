"""Work beside the engine's loop: each piece in a process of its own, which says one thing and ends.

Salt's clients keep loops and sockets that no second thread may touch, so these are processes.
"""
from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Ended(NamedTuple):
    """A piece of work that is over. `wrong` is empty when it went through, whatever it said."""

    name: object  # as it was given to Jobs.start
    said: Any  # JSON
    wrong: str


class _Job:
    def __init__(self, name: object, pid: int, pipe: int, until: float) -> None:
        self.name, self.pid, self.pipe, self.until = name, pid, pipe, until
        self.said = b""


def child(work: Callable[[int], None]) -> tuple[int, int]:
    """
    A process that does `work`, given the end of a pipe to write to, and ends with this one.

    Returns:
        Its number, and the pipe's other end.

    Raises:
        OSError: there can be none.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            work(writing)
            code = 0
    except Exception:
        log.exception("resync: a process of the engine's")
    finally:
        os._exit(code)  # nothing of the parent's is ended from here


class Jobs:
    """All that is at work."""

    def __init__(self) -> None:
        self.jobs: dict[int, _Job] = {}  # by its pipe

    def start(self, name: object, work: Callable[[], Any], seconds: float, now: float) -> None:
        """`work()` gives what JSON can hold. It is killed after so many seconds. Raises OSError."""
        def tell(pipe: int) -> None:
            try:
                said = {"said": work()}
            except BaseException as error:  # whatever it is: it is said, and the process ends
                said = {"wrong": f"{type(error).__name__}: {error}"[:1000]}
            with os.fdopen(pipe, "w") as file:
                json.dump(said, file)

        pid, pipe = child(tell)
        os.set_blocking(pipe, False)
        self.jobs[pipe] = _Job(name, pid, pipe, now + seconds)

    def pipes(self) -> list[int]:
        """To be waited for."""
        return list(self.jobs)

    def ended(self, now: float) -> list[Ended]:
        """What is over since the last time."""
        return [done for job in list(self.jobs.values()) if (done := self._look(job, now))]

    def _look(self, job: _Job, now: float) -> Ended | None:
        try:
            while more := os.read(job.pipe, 1 << 16):
                job.said += more
                if len(job.said) > MAX_OUTPUT_BYTES:
                    return self._end(job, "it said too much")
        except BlockingIOError:
            return self._end(job, "it took too long") if now >= job.until else None
        return self._end(job, "")

    def _end(self, job: _Job, wrong: str) -> Ended:
        if wrong:
            os.kill(job.pid, signal.SIGKILL)
        os.close(job.pipe)
        os.waitpid(job.pid, 0)
        del self.jobs[job.pipe]
        try:
            said = json.loads(job.said)
        except ValueError:
            said = {"wrong": wrong or "it ended without a word"}
        return Ended(job.name, said.get("said"), wrong or said.get("wrong", ""))

    def stop(self) -> None:
        """End all of it."""
        for job in list(self.jobs.values()):
            self._end(job, "stopped")


def clock() -> float:
    """A steady time, in seconds."""
    return time.monotonic()
