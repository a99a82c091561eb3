"""Runs a command of which nothing may be left: the fence.

A fence that was given up, because it took too long or the other node is back, must not switch that node off later.
Neither may a part of it that it has started in the background, nor one whose agent has died meanwhile. So this process
stands between the agent and the command. The kernel gives it each process below it whose own parent has ended
(PR_SET_CHILD_SUBREAPER, prctl(2)): whatever the command starts, and however it detaches itself, stays below this
process, is found, and is killed.
"""
from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence

from agent.processes import descendants
from agent.system import PR_SET_PDEATHSIG, libc

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
LOOK_SECONDS = 0.05  # between two looks whether this process was told to end
NOT_STARTED = 126  # the exit code when the command can not be started, as a shell's


def run(parent: int, command: Sequence[str]) -> int:
    """Runs a command, and then kills all that is left of it. Returns its exit code; 128 and more: killed by a signal.

    SIGTERM, or the end of the process `parent`, which has started this one, ends the command before its time.
    """
    told: list[int] = []
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, lambda number, _frame: told.append(number))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return NOT_STARTED
    try:
        # In a session of its own: a script that signals its process group (`kill 0`) does not reach this process.
        first = os.posix_spawn(command[0], list(command), os.environ, setsid=True)
    except OSError:
        return NOT_STARTED
    codes: dict[int, int] = {}
    its = os.pidfd_open(first)
    while not told and first not in codes:
        select.select([its], [], [], LOOK_SECONDS)
        reap(codes)
    while left := descendants(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
        reap(codes)
    return codes.get(first, NOT_STARTED)


def reap(codes: dict[int, int]) -> None:
    """Notes the exit codes of this process's children that have ended. The kernel forgets them then."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(ended[1])
            codes[ended[0]] = code if code >= 0 else 128 - code
