"""Keeps the worker alive: heartbeat starts this, this forks the worker and feels its pulse.

The worker dies or hangs: a new one at once, the addresses stay where they are. Three times within a minute: something
is wrong with this node. The addresses are given up and heartbeat is stopped, so that the other node takes over.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent import settings as configuration
from agent import worker
from agent.daemon import progress
from agent.system import clock, die_with, drain, in_time, log, wake_on

LOCK_FILE = Path("/run/gateway-agent.lock")
LOOK_SECONDS = 0.1  # how often is looked
HANG_LOOKS = 10  # that many looks without a pulse. Looks, not seconds: this process may have stood still itself
# The same for one that works or waits for the processor, and where looks come late: killing costs more
BUSY_HANG_LOOKS = 30
LATE_FACTOR, LATE_MEMORY_SECONDS = 3.0, 10.0  # a look that took that many times as long, within so many seconds
FIRST_PULSE_LOOKS = 100  # the same for the first pulse
MAX_FAILURES, FAILURE_WINDOW_SECONDS = 3, 60.0
LEAVE_SECONDS = 8.0  # a planned leave takes that long at most
KILL_SECONDS = 2.0  # a killed process has ended by then, unless it waits for a disk


class Failures:
    """How often within a minute."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def another(self, now: float) -> bool:
        """True when it was one too many."""
        self.times = [at for at in self.times if now - at < FAILURE_WINDOW_SECONDS] + [now]
        return len(self.times) >= MAX_FAILURES


def only_one(path: Path = LOCK_FILE) -> int:
    """The lock of the one agent. One that was left by a heartbeat that died is killed; its addresses stay."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(40):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == 0:
                with contextlib.suppress(OSError, ValueError):
                    pid = int(os.pread(lock, 20, 0))
                    log("notice", f"another agent runs (process {pid}): ending it, going on from where it is")
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    else:
        raise OSError(f"another agent holds {path} and does not end")
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


class Supervisor:
    """One agent's keeper. `work(pulse)` is the worker's whole life, in a process of its own."""

    def __init__(self, work: Callable[[int], None], give_up: Callable[[], None], parent: int = 0) -> None:
        """`parent`: heartbeat's process, where it may have gone since that was asked."""
        self.work, self.give_up = work, give_up
        self.failures = Failures()
        self.signals, wakeup = socket.socketpair()
        self.signals.setblocking(False)
        self.wakeup = wakeup
        wake_on((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD), wakeup)
        self.parent = parent or os.getppid()
        self.pid = 0
        self.pulse = -1

    def fork(self) -> None:
        """A new worker. Raises OSError."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                die_with(me)
                signal.set_wakeup_fd(-1)
                self.signals.close()
                self.wakeup.close()
                os.close(reading)
                self.work(writing)
                code = 0
            except BaseException as error:  # whatever it is: said once, and a new worker begins
                where = error.__traceback__
                while where and where.tb_next:
                    where = where.tb_next
                place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "?"
                log("err", f"the agent ends: {type(error).__name__}: {error} ({place})")
            finally:
                os._exit(code)
        os.close(writing)
        self.pid, self.pulse = pid, reading

    def watch(self) -> str:
        """Until the worker ends. Why: ended (as it was told), died, hung, stuck (and does not end), reload."""
        poll = select.poll()
        poll.register(self.pulse, select.POLLIN)
        poll.register(self.signals.fileno(), select.POLLIN)
        silent, limit, told, orphan = 0, FIRST_PULSE_LOOKS, 0.0, 0.0
        before = "", ""  # what it had worked when it had been silent for half of that
        late, looked = 0.0, clock()
        try:
            while True:
                poll.poll(LOOK_SECONDS * 1000)
                numbers = drain(self.signals.fileno())
                try:
                    beat = drain(self.pulse)
                except OSError:
                    beat = b""
                silent, limit = (0, HANG_LOOKS) if beat else (silent + 1, limit)
                done, status = os.waitpid(self.pid, os.WNOHANG)
                if done:
                    return "ended" if os.waitstatus_to_exitcode(status) == 0 else "died"
                if silent == limit - HANG_LOOKS // 2:
                    before = progress(self.pid)
                elif silent >= limit and not told:
                    now_at = progress(self.pid)
                    starved = now_at[0] == "R" or now_at != before or late and clock() - late < LATE_MEMORY_SECONDS
                    if silent >= BUSY_HANG_LOOKS or not starved:
                        return "hung" if self.kill() else "stuck"
                    limit += HANG_LOOKS // 2
                    before = now_at
                if not beat and not numbers:
                    # A closed pulse is readable for ever; waitpid() will tell.
                    time.sleep(0.01)
                now = clock()
                if now - looked > LATE_FACTOR * LOOK_SECONDS:
                    late = now
                looked = now
                if signal.SIGHUP in numbers:
                    return "reload"
                orphan = orphan or (now if os.getppid() != self.parent else 0.0)
                asked = {signal.SIGTERM, signal.SIGINT} & set(numbers)
                if not told and (asked or orphan and now - orphan > LEAVE_SECONDS):
                    told = now
                    os.kill(self.pid, signal.SIGTERM)
                if told and now - told > LEAVE_SECONDS:
                    self.kill()
                    log("err", "the agent did not leave in time: giving the addresses up")
                    self.give_up()
                    return "ended"
        finally:
            os.close(self.pulse)

    def kill(self) -> bool:
        """False: it does not end, and can not be helped."""
        os.kill(self.pid, signal.SIGKILL)
        until = clock() + KILL_SECONDS
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if clock() >= until:
                return False
            time.sleep(0.01)
        return True

    def run(self) -> str:
        """Until it is over: ended, reload, or failed (too often)."""
        while True:
            try:
                self.fork()
                why = self.watch()
            except OSError as error:
                log("err", f"the agent can not be started: {error}")
                return "failed"
            if why in ("ended", "reload"):
                return why
            if why == "stuck":
                # A second one beside it, and it goes on later: never two.
                log("err", "the agent hangs and can not be killed: it waits for something that does not come, a disk "
                           "perhaps (`dmesg`)")
                return "failed"
            last = self.failures.another(clock())
            log("err", f"the agent {why}: " + ("too often" if last else "a new one goes on, the addresses stay"))
            if last:
                return "failed"


def stop_heartbeat(parent: int) -> None:
    """So that the other node takes over. It ends this process, too."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # heartbeat waits for its clients to end
    log("err", "the agent does not live on this node: addresses given up, stopping heartbeat, so that the other node "
               "takes over. When the reason is gone: `systemctl start heartbeat`")
    if os.path.isdir("/run/systemd/system"):
        if os.fork() == 0:  # not subprocess, which waits until the disk has given the program
            try:
                os.execv("/usr/bin/systemctl", ["systemctl", "stop", "--no-block", "heartbeat.service"])
            finally:
                os._exit(1)
        time.sleep(10)
    # The second one for a heartbeat that waits for a script of its own: to the other node it still lives.
    for number in (signal.SIGTERM, signal.SIGKILL):
        if os.getppid() == parent and parent > 1:
            os.kill(parent, number)
            time.sleep(30)


def main() -> int:
    """heartbeat's child. Ends when heartbeat says so."""
    heartbeat = os.getppid()
    if heartbeat == 1:
        # Whoever is asked for it later would take that process for heartbeat, and stay.
        log("err", "heartbeat ended while its agent started: ending, too")
        return 1
    try:
        settings = configuration.load()
    except configuration.Mistakes as error:
        for line in error.args:
            log("err", f"agent.json: {line}")
        time.sleep(5)  # heartbeat tries again, and gives up on a client that ends too fast
        return 1
    lock = only_one()
    in_time()

    def work(pulse: int) -> None:
        os.close(lock)
        worker.Worker(settings, pulse, heartbeat).run()

    def give_up() -> None:
        try:
            worker.release(settings)
        except OSError as error:
            log("err", f"addresses: {error}")

    keeper = Supervisor(work, give_up, heartbeat)
    while True:
        why = keeper.run()
        if why == "reload" and not keeper.kill():
            why = "failed"
        if why == "reload":
            try:
                configuration.load()
            except configuration.Mistakes as error:
                log("err", f"agent.json: {'; '.join(error.args)}: the agent goes on as it was")
                continue
            # The new code and the new settings, in the same process: for heartbeat nothing happened.
            log("info", "starting anew, the addresses stay")
            os.close(lock)
            os.execv(sys.executable, [sys.executable, *sys.argv])
        if why == "failed":
            give_up()
            stop_heartbeat(keeper.parent)
            return 1
        return 0
