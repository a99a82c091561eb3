"""heartbeat's paths to the other node, and the interfaces on which heartbeat opened them.

heartbeat binds its sockets to an interface when it opens a path. The kernel binds by the interface's number
(SO_BINDTODEVICE, socket(7)). An interface that is deleted and recreated (`ifdown bond0; ifup bond0`, a restarted
networking.service) gets another number: heartbeat neither hears nor sends there until it opens the path again. By
itself it does so after some hundred packets that it could not send, 90 s with the profile `default` (measured, 3.0.6),
and at once when the process that sends on the path has ended.
"""
from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

from agent import history

OPENED_FILE = Path("/run/gateway-heartbeat-interfaces")  # written by `run opening`, before heartbeat starts
PROC = Path("/proc")
WRITER_TITLE = re.compile(r"heartbeat: write: \w+ (\S+)")  # the title that heartbeat gives its writing children


def opened(path: Path = OPENED_FILE) -> dict[str, int]:
    """Each interface's number when heartbeat opened its paths. Empty where note() has written nothing."""
    try:
        return {str(name): int(number) for name, number in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def note(numbers: dict[str, int], path: Path = OPENED_FILE) -> None:
    """Writes down what opened() reads. Raises OSError."""
    history.replace(path, json.dumps(numbers))


def opening(path: Path = OPENED_FILE) -> None:
    """Notes the interfaces as they are now: heartbeat is about to open its paths on them. Raises OSError."""
    note({name: number for number, name in socket.if_nameindex()}, path)


def number(interface: str) -> int:
    """The interface's number now, 0 when it does not exist."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def deaf(paths: Iterable[str], then: dict[str, int]) -> tuple[tuple[str, ...], bool, bool]:
    """Which of heartbeat's paths are deaf: on an interface with another number than `then`, or a missing one.

    `paths` may contain serial devices, which are never deaf. Returns the deaf paths, whether all paths are deaf, and
    whether all interfaces exist.
    """
    paths = tuple(paths)
    now = {each: number(each) for each in paths if each in then}
    found = tuple(sorted(each for each in now if now[each] != then[each]))
    return found, bool(found) and len(found) == len(paths), all(now.values())


def writers(heartbeat: int, paths: Iterable[str], proc: Path = PROC) -> list[int]:
    """The processes through which heartbeat (its process number is `heartbeat`) sends on these paths."""
    found = []
    for each in proc.iterdir():
        if each.name.isdigit():
            try:
                parent = int((each / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
                if parent != heartbeat:
                    continue
                title = WRITER_TITLE.match((each / "cmdline").read_text("utf-8", "replace"))
            except (OSError, ValueError, IndexError):
                continue  # the process has just ended
            if title and title[1].rstrip("\0") in paths:
                found.append(int(each.name))
    return sorted(found)


def reopen(heartbeat: int, paths: tuple[str, ...], up: Iterable[str]) -> None:
    """Makes heartbeat open these paths again, except those that are `up`: there it has done so itself. Raises OSError.

    Trap: where the interface does not exist heartbeat ends, and can not start again before the interface is back.
    """
    left = sorted(set(paths) - set(up))
    found = writers(heartbeat, left)
    if left and not found:
        raise OSError(f"heartbeat has no process that sends on {', '.join(left)}")
    for each in found:
        os.kill(each, signal.SIGKILL)
    note(opened() | {each: number(each) for each in paths})
