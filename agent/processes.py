"""What /proc says of processes: do they work, have they children, who holds a lock."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
LOCKS = PROC / "locks"


def stat(folder: Path) -> list[str]:
    """The fields of proc_pid_stat(5) from the state on. Raises OSError.

    The field before, the name, stands in parentheses and may contain parentheses itself.
    """
    return (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()


def progress(pid: int) -> tuple[str, str]:
    """State and times of a process's first thread; empty when there is no such process.

    Two equal results in a row mean that the thread has neither worked nor waited for the processor in between.
    proc(5): the state is the field behind the name in parentheses, R for running or waiting for the processor.
    schedstat (Documentation/scheduler/sched-stats.rst): ns on the processor, ns of waiting for it, turns.
    """
    task = PROC / f"{pid}/task/{pid}"
    try:
        fields = stat(task)
    except OSError:
        return "", ""
    try:
        return fields[0], (task / "schedstat").read_text()
    except OSError:  # a kernel without schedstat: user and system time, in clock ticks
        return fields[0], " ".join(fields[11:13])


def processes() -> Iterator[tuple[int, str, int]]:
    """Each process, its state and its parent (proc_pid_stat(5))."""
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            state, parent = stat(folder)[:2]
            yield int(folder.name), state, int(parent)


def has_child(pid: int) -> bool:
    """Whether the process has a child that still runs (one that has ended is in state Z or X)."""
    return any(parent == pid and state not in "ZX" for _child, state, parent in processes())


def descendants(pid: int) -> list[int]:
    """The process's children, their children, and so on; each parent before its children.

    Those that have ended are among them until they are reaped. Trap: a process whose first thread has ended looks as if
    it had ended itself (state Z), and its other threads go on.
    """
    children: dict[int, list[int]] = {}
    for child, _state, parent in processes():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for each in found:  # the list grows meanwhile
        found += children.get(each, ())
    return found


def lock_holder(descriptor: int, locks: Path = LOCKS) -> int:
    """The process that has taken the flock(2) on this open file; 0 where the kernel names none. Raises OSError.

    proc_locks(5): "1: FLOCK ADVISORY WRITE 4711 00:18:42 0 EOF", with the process, and the file's device (major and
    minor number in hexadecimal) and inode.
    """
    about = os.fstat(descriptor)
    file = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    for line in locks.read_text("ascii", "replace").splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == file:
            return max(int(words[4]), 0)
    return 0
