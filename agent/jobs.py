"""The commands that run beside the agent's loop, each as a process of its own, with a time limit."""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.loop import Loop
from agent.processes import progress
from agent.system import clock

NO_PROCESSOR = ", mostly without the processor"
CONFINED = (sys.executable, str(Path(__file__).with_name("run")), "confined")  # agent/confine.py
CLEARED_SECONDS = 2.0  # a confined command and all that it has started are gone by then, unless one waits for a disk
Done = Callable[[bool, str], None]


class Job:
    """A command that runs beside the loop. `done(ok, why)` is called once, when it ends or is killed."""

    def __init__(self, command: Sequence[str], timeout: float, now: float, done: Done, confined: bool = False) -> None:
        """Starts it. `timeout`: seconds. `confined`: nothing that it starts outlives it, nor this agent.

        Raises OSError when it can not be started.
        """
        self.name = os.path.basename(command[0])
        self.confined, self.why = confined, ""
        self.process = subprocess.Popen([*CONFINED, str(os.getpid()), *command] if confined else command,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True)
        self.fd = os.pidfd_open(self.process.pid)
        self.timeout, self.deadline, self.done = timeout, now + timeout, done

    def ended(self) -> None:
        """The process has ended: its descriptor became readable."""
        code = self.process.wait()
        os.close(self.fd)
        self.done(code == 0, "" if code == 0 else self.why or f"{self.name} ended with {code}")

    def tell(self, now: float, why: str) -> None:
        """Tells a confined command to end, with all that it has started, before its time. ended() follows."""
        self.why, self.deadline = why, now + CLEARED_SECONDS
        self.process.terminate()

    def kill(self) -> None:
        """It took too long. A confined command has been told to end, and did not."""
        if self.confined:
            why = f"{self.why}; something of it waits in the kernel, and ends before it does anything else"
        else:
            waits = progress(self.process.pid)[0] == "S"
            why = f"{self.late()}{'' if waits else NO_PROCESSOR}"
            with contextlib.suppress(ProcessLookupError):  # it has a session of its own: its children go with it
                os.killpg(self.process.pid, signal.SIGKILL)
        # Not wait(): a process that waits for a disk ends only when the disk goes on. Popen reaps it when the next
        # command is started.
        self.process.poll()
        os.close(self.fd)
        self.done(False, why)

    def late(self) -> str:
        """The sentence for a command that took too long."""
        return f"{self.name} took longer than {self.timeout:g} s"


class Jobs:
    """The commands that run now."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.running: list[Job] = []

    def start(self, command: Sequence[str], timeout: float, done: Done, confined: bool = False) -> Job | None:
        """Starts a command. `timeout`: seconds. `done(ok, why)` is called when it ends, at once when it can not start.

        `confined`: nothing that it starts outlives it, nor this agent (agent/confine.py).
        """
        try:
            job = Job(command, timeout, clock(), done, confined)
        except OSError as error:
            done(False, f"{command[0]}: {error.strerror}")
            return None
        self.running.append(job)
        self.loop.add(job.fd, lambda: self.over(job))
        return job

    def over(self, job: Job) -> None:
        """A command has ended."""
        self.drop(job)
        job.ended()

    def drop(self, job: Job) -> None:
        """The loop no longer waits for this command."""
        self.running.remove(job)
        self.loop.remove(job.fd)

    def call_off(self, job: Job, why: str) -> None:
        """Ends a confined command before its time; `done` is called when nothing of it is left."""
        if job in self.running and not job.why:
            job.tell(clock(), why)

    def tick(self, now: float) -> None:
        """Ends the commands whose time is over."""
        for job in [each for each in self.running if now >= each.deadline]:
            if job.confined and not job.why:
                job.tell(now, job.late())
            else:
                self.drop(job)
                job.kill()

    def later(self, seconds: float) -> None:
        """Gives all of them so much more time: this process has stood still, and perhaps they have as well."""
        for job in self.running:
            job.deadline += seconds

    def finish(self) -> None:
        """Notices, without the loop, which commands have ended."""
        for job in [each for each in self.running if each.process.poll() is not None]:
            self.over(job)
