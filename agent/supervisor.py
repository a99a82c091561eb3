"""Keeps the worker alive: heartbeat starts this process, which forks the worker and watches its pulse.

When the worker dies or hangs, the supervisor starts a new one at once, and the addresses stay where they are. At the
third time within a minute something is wrong with this node: the supervisor gives up the addresses and stops heartbeat,
so that the other node takes over.
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

from agent import held, worker
from agent import settings as configuration
from agent.processes import lock_holder, progress
from agent.system import clock, die_with, drain, in_time, log, wake_on

LOCK_FILE = Path("/run/gateway-agent.lock")
LOOK_SECONDS = 0.1  # between two looks at the worker
# A worker hangs after this many looks without a pulse. Looks, not seconds: this process may have stood still itself.
HANG_LOOKS = 10
# The same for a worker that works or waits for the processor, and while looks come late: there killing costs more.
BUSY_HANG_LOOKS = 30
# A look is late when it took so many times as long as planned; this counts for so many seconds.
LATE_FACTOR, LATE_MEMORY_SECONDS = 3.0, 10.0
FIRST_PULSE_LOOKS = 100  # as HANG_LOOKS, for the first pulse of a new worker
MAX_FAILURES, FAILURE_WINDOW_SECONDS = 3, 60.0  # so many failures within so many seconds: give up
LEAVE_SECONDS = 8.0  # the worker must have left within that
GIVE_UP_SECONDS = 5.0  # the kernel takes the addresses off within that, unless it is slow (agent/patient.py)
KILL_SECONDS = 2.0  # a killed process ends within that, unless it waits for a disk


class Failures:
    """Counts the worker's failures within a minute."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def another(self, now: float) -> bool:
        """Notes a failure at `now` (seconds). True when it is one too many."""
        self.times = [at for at in self.times if now - at < FAILURE_WINDOW_SECONDS] + [now]
        return len(self.times) >= MAX_FAILURES


def only_one(path: Path = LOCK_FILE) -> int:
    """Takes the lock that only one agent can hold; returns its descriptor. Raises OSError.

    Kills an agent that a dead heartbeat has left behind. The addresses that it holds stay.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(40):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == 0:
                with contextlib.suppress(OSError, ValueError):
                    pid = lock_holder(lock) or int(os.pread(lock, 20, 0))
                    log("notice", f"another agent runs (process {pid}): killing it, the addresses stay")
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    else:
        raise OSError(f"another agent holds {path} and does not end")
    # Not emptied first: another file could get its room in a full /run.
    number, written = str(os.getpid()).encode(), 0
    with contextlib.suppress(OSError):  # for people, and for a kernel that does not name the holder
        written = os.pwrite(lock, number, 0)
    os.ftruncate(lock, written)  # no number is better than a wrong one
    return lock


class Supervisor:
    """Watches one worker. `work(pulse)` is the worker's whole life, in a process of its own.

    `pulse`: the descriptor to which the worker writes while it lives. `give_up()` gives up all addresses.
    """

    def __init__(self, work: Callable[[int], None], give_up: Callable[[], None], parent: int = 0) -> None:
        """`parent`: heartbeat's process number, read early, since heartbeat may end; 0: this process's parent."""
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
        """Starts a new worker. Raises OSError."""
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
            except BaseException as error:  # any error is logged once; the supervisor starts a new worker
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
        """Watches the worker until it ends. Returns why: ended (as it was told), died, hung, reload, or stuck.

        hung: it hung and was killed. stuck: it hangs and does not end when killed. reload: it still runs.
        """
        poll = select.poll()
        poll.register(self.pulse, select.POLLIN)
        poll.register(self.signals.fileno(), select.POLLIN)
        silent, limit, told, orphan = 0, FIRST_PULSE_LOOKS, 0.0, 0.0
        before = "", ""  # its progress() when half of the looks without a pulse were over
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
                    # A closed pulse stays readable: poll() returns at once until waitpid() sees the worker's end.
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
        """Kills the worker. False when it does not end within KILL_SECONDS."""
        os.kill(self.pid, signal.SIGKILL)
        until = clock() + KILL_SECONDS
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if clock() >= until:
                return False
            time.sleep(0.01)
        return True

    def run(self) -> str:
        """Keeps a worker running. Returns when that is over: ended, reload, or failed (no worker lives here)."""
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
                # No new worker: the old one may go on later, and there must never be two.
                log("err", "the agent hangs and can not be killed: it waits for something that does not come, a disk "
                           "perhaps (`dmesg`)")
                return "failed"
            last = self.failures.another(clock())
            log("err", f"the agent {why}: " + ("too often" if last else "a new one goes on, the addresses stay"))
            if last:
                return "failed"


def within(seconds: float, work: Callable[[], None]) -> bool:
    """Runs `work` in a process of its own. Whether that ended within so many seconds; if not, it goes on by itself.

    Raises OSError when no process can be started.
    """
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    until = clock() + seconds
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if clock() >= until:
            return False
        time.sleep(0.01)
    return True


def give_up(settings: configuration.Settings) -> None:
    """Takes all virtual IPs off this node. Does not wait for a kernel that is slow: it follows when the kernel does."""
    def release() -> None:
        try:
            held.release(settings)
        except OSError as error:
            log("err", f"the addresses can not be given up: {error}")

    try:
        if not within(GIVE_UP_SECONDS, release):
            log("err", f"the kernel has not taken the addresses off for {GIVE_UP_SECONDS:g} s: that follows when it "
                       "goes on (`dmesg`)")
    except OSError as error:
        log("err", f"no process to give the addresses up: {error}")
        release()


def stop_heartbeat(parent: int) -> None:
    """Stops heartbeat (process number `parent`), so that the other node takes over. This ends this process, too."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # heartbeat waits for its clients to end
    log("err", "the agent does not live on this node: addresses given up, stopping heartbeat, so that the other node "
               "takes over. When the reason is gone: `systemctl start heartbeat`")
    if os.path.isdir("/run/systemd/system"):
        if os.fork() == 0:  # not subprocess: that waits until the program is read from the disk
            try:
                os.execv("/usr/bin/systemctl", ["systemctl", "stop", "--no-block", "heartbeat.service"])
            finally:
                os._exit(1)
        time.sleep(10)
    # SIGKILL is for a heartbeat that waits for a script of its own: the other node still takes it for alive.
    for number in (signal.SIGTERM, signal.SIGKILL):
        if os.getppid() == parent and parent > 1:
            os.kill(parent, number)
            time.sleep(30)


def main() -> int:
    """The agent, as heartbeat's child. Returns its exit code when heartbeat ends it or it has given up."""
    heartbeat = os.getppid()
    if heartbeat == 1:
        # Process 1 has adopted this one. The agent would take process 1 for heartbeat, and never end.
        log("err", "heartbeat ended while its agent started: ending, too")
        return 1
    try:
        settings = configuration.load()
    except configuration.Mistakes as error:
        for line in error.args:
            log("err", f"agent.json: {line}")
        time.sleep(5)  # heartbeat starts it again, but gives up on a client that ends too fast
        return 1
    try:
        lock = only_one()
    except OSError as error:
        log("err", f"the agent can not start: {error} ({LOCK_FILE}; a full /run? `df -i /run`)")
        time.sleep(5)  # as above
        return 1
    in_time()

    def work(pulse: int) -> None:
        os.close(lock)
        worker.Worker(settings, pulse, heartbeat).run()

    keeper = Supervisor(work, lambda: give_up(settings), heartbeat)
    while True:
        why = keeper.run()
        if why == "reload" and not keeper.kill():
            why = "failed"
        if why == "reload":
            try:
                configuration.load()
            except configuration.Mistakes as error:
                log("err", f"agent.json: {'; '.join(error.args)}: the agent goes on with its old settings")
                continue
            # Load the new code and settings in the same process, so that heartbeat does not notice.
            log("info", "restarting, the addresses stay")
            os.close(lock)
            os.execv(sys.executable, [sys.executable, *sys.argv])
        if why == "failed":
            give_up(settings)
            stop_heartbeat(keeper.parent)
            return 1
        return 0
