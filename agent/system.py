"""What the agent's processes need from the operating system: clock, log, priority, signals."""
from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import os
import signal
import socket
import time

IDENT = "gateway-agent"
PRIORITIES = {"err": 3, "warning": 4, "notice": 5, "info": 6}  # syslog(3)
FACILITY = 3 << 3  # LOG_DAEMON
MCL_CURRENT, MCL_FUTURE = 1, 2  # mlockall(2)
PR_SET_PDEATHSIG = 1  # prctl(2)
libc = ctypes.CDLL(None, use_errno=True)


def clock() -> float:
    """Seconds, from a clock that never jumps and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Log:
    """The system's log. It never waits; syslog(3) would, while the log's daemon hangs or is flooded."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.waiting: collections.deque[bytes] = collections.deque(maxlen=100)

    def __call__(self, priority: str, text: str) -> None:
        self.waiting.append(f"<{FACILITY | PRIORITIES[priority]}>{IDENT}[{os.getpid()}]: {text}".encode())
        self.flush()

    def flush(self) -> None:
        """Sends the waiting lines. What the log's daemon does not take stays for the next call."""
        while self.waiting:
            try:
                if self.socket is None:
                    self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                    self.socket.setblocking(False)
                    self.socket.connect("/dev/log")
                self.socket.send(self.waiting[0])
                self.waiting.popleft()
            except BlockingIOError:
                return
            except OSError:  # the log's daemon was restarted
                if self.socket:
                    self.socket.close()
                self.socket = None
                return


log = Log()


def in_time(first: bool = True) -> str:
    """Gives this process real-time priority (low, as heartbeat's), locked memory, no garbage collection pauses.

    Without `first` it gets no real-time priority. Returns what the kernel refused, empty when nothing.
    """
    gc.collect()
    gc.freeze()
    refused = [f"real-time priority ({why})"] if first and (why := real_time()) else []
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE):
        refused.append(f"locked memory ({os.strerror(ctypes.get_errno())})")
    return ", ".join(refused)


def real_time() -> str:
    """Gives the thread that calls it real-time priority. Returns why the kernel refuses, empty when it does not."""
    try:
        # RESET_ON_FORK: neither the commands that the agent starts nor its other threads inherit the priority.
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def die_with(parent: int) -> None:
    """Makes the kernel kill this process when its parent, process number `parent`, ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def wake_on(signals: tuple[int, ...], wakeup: socket.socket) -> None:
    """Makes each of these signals arrive as a byte in `wakeup`, which the loop polls."""
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    for each in signals:
        signal.signal(each, lambda _number, _frame: None)


def drain(fd: int) -> bytes:
    """All bytes that a non-blocking descriptor holds now."""
    data = b""
    with contextlib.suppress(BlockingIOError, InterruptedError):
        while more := os.read(fd, 4096):
            data += more
    return data
