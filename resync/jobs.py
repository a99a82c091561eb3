"""Jobs beside the engine's loop: each runs in a process of its own, which returns one result and ends.

They are processes because Salt's clients keep loops and sockets that no second thread may touch.
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

MAX_OUTPUT_BYTES = 64 * 1024 * 1024  # of a job's result
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Ended(NamedTuple):
    """A job that has ended. `wrong` is empty when it ran to its end, whatever it returned."""

    name: object  # as it was given to Jobs.start
    said: Any  # JSON
    wrong: str


class _Job:
    def __init__(self, name: object, pid: int, pipe: int, until: float) -> None:
        self.name, self.pid, self.pipe, self.until = name, pid, pipe, until
        self.said = b""


def child(work: Callable[[int], None]) -> tuple[int, int]:
    """
    Start a process that calls `work` with the writing end of a pipe. It ends when this process ends.

    Returns:
        The process's number, and the reading end of the pipe.

    Raises:
        OSError: the process can not be started.
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
        log.exception("resync: a process of the engine failed")
    finally:
        os._exit(code)  # without the parent's own exit handlers


class Jobs:
    """All jobs that run."""

    def __init__(self) -> None:
        self.jobs: dict[int, _Job] = {}  # by their pipes

    def start(self, name: object, work: Callable[[], Any], seconds: float, now: float) -> None:
        """
        Start a job.

        Args:
            name: comes back in :class:`Ended`.
            work: the job; it returns what JSON can hold.
            seconds: after this time the job is killed.
            now: the time of :func:`clock`.

        Raises:
            OSError: the process can not be started.
        """
        def tell(pipe: int) -> None:
            try:
                said = {"said": work()}
            except BaseException as error:  # every error is reported, and the process ends
                said = {"wrong": f"{type(error).__name__}: {error}"[:1000]}
            with os.fdopen(pipe, "w") as file:
                json.dump(said, file)

        pid, pipe = child(tell)
        os.set_blocking(pipe, False)
        self.jobs[pipe] = _Job(name, pid, pipe, now + seconds)

    def pipes(self) -> list[int]:
        """The pipes to wait for, for select."""
        return list(self.jobs)

    def ended(self, now: float) -> list[Ended]:
        """The jobs that have ended since the last call. `now`: the time of :func:`clock`."""
        return [done for job in list(self.jobs.values()) if (done := self._look(job, now))]

    def _look(self, job: _Job, now: float) -> Ended | None:
        try:
            while more := os.read(job.pipe, 1 << 16):
                job.said += more
                if len(job.said) > MAX_OUTPUT_BYTES:
                    return self._end(job, "its result was too large")
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
            said = {"wrong": wrong or "it ended without a result"}
        return Ended(job.name, said.get("said"), wrong or said.get("wrong", ""))

    def stop(self) -> None:
        """Kill all jobs."""
        for job in list(self.jobs.values()):
            self._end(job, "stopped")


def clock() -> float:
    """The time in seconds, of a steady clock."""
    return time.monotonic()
