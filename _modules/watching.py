"""
Looking without waiting: what beacons need, who run once a second in the minion's own process.

A beacon that waits stops everything else the minion does. So the kernel is listened to on sockets that never block,
and a command runs beside the minion: started at one look, its answer read at a later one. For beacons and the modules
behind them; what comes back can not be shown on a command line.

Formats: netlink(7), ``linux/netlink.h``.
"""
from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import salt.utils.minion
import salt.utils.path

if TYPE_CHECKING:
    __opts__: dict

__virtualname__ = "watching"

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_HEADER = struct.Struct("=IHHII")    # nlmsghdr: length, type, flags, sequence, port
# What is drained in one look at the most; more than that is as good as an overflow.
_DRAIN_BYTES_MAX = 4 * 1024 * 1024
# Of a command's answer: a daemon with a thousand connections needs about one.
_ANSWER_BYTES_MAX = 16 * 1024 * 1024


class Job(NamedTuple):
    """A command that runs beside the minion."""

    process: subprocess.Popen
    output: int         # a file in memory: a pipe that nobody reads would hold the command up
    deadline: float


def __virtual__() -> str | tuple[bool, str]:
    if not hasattr(socket, "AF_NETLINK"):
        return False, "watching: only on Linux"
    return __virtualname__


def listen(protocol: int, *groups: int) -> socket.socket:
    """
    A socket on which the kernel tells of changes.

    Args:
        protocol: such as NETLINK_XFRM.
        groups: numbers of multicast groups.

    Raises:
        OSError: this kernel knows no such protocol or group.

    CLI Example:

    .. code-block:: bash

        salt-call watching.listen 6 3
    """
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        found.bind((0, 0))
        for group in groups:
            found.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        found.close()
        raise
    return found


def heard(listener: socket.socket) -> tuple[list[tuple[int, bytes]], bool]:
    """
    What the kernel has told since the last time: messages, each its type and its content; and whether some were lost.

    CLI Example: none, as there is no socket on a command line.
    """
    messages: list[tuple[int, bytes]] = []
    total = 0
    while total < _DRAIN_BYTES_MAX:
        try:
            data = listener.recv(65536)
        except BlockingIOError:
            return messages, False
        except OSError:     # ENOBUFS: more was told than the socket holds
            return messages, True
        total += len(data)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                break
            messages.append((kind, data[offset + _HEADER.size:offset + length]))
            offset += (length + 3) & ~3
    return messages, True


def start(argv: list[str], seconds: float) -> Job | None:
    """
    Start a command. None when it can not be started: it is not installed, or there are no more processes.

    Args:
        argv: program and arguments; what it prints on either channel is kept.
        seconds: how long it may take; then it is killed.

    CLI Example: none, as its answer is read by a later call of the same process.
    """
    program = salt.utils.path.which(argv[0])
    if not program:
        return None
    output = os.memfd_create("watching", os.MFD_CLOEXEC)
    try:
        process = subprocess.Popen([program, *argv[1:]], stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, env={**os.environ, "LC_ALL": "C"}, start_new_session=True)
    except OSError:
        os.close(output)
        return None
    return Job(process, output, time.monotonic() + seconds)


def answer(job: Job) -> dict | None:
    """
    What a command has said: None while it runs, then ``retcode`` (None when it took too long) and ``stdout``. Once.

    CLI Example: none, see :func:`start`.
    """
    code = job.process.poll()
    if code is None:
        if time.monotonic() < job.deadline:
            return None
        job.process.kill()
        job.process.poll()
    try:
        text = "" if code is None else os.pread(job.output, _ANSWER_BYTES_MAX, 0).decode(errors="replace")
    finally:
        with contextlib.suppress(OSError):
            os.close(job.output)
    return {"retcode": code, "stdout": text}


def states_run() -> bool:
    """
    Whether this minion applies states just now: what they bring about is nobody's doing by hand, and may be half done.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' watching.states_run
    """
    return any(str(job.get("fun", "")).startswith("state.") for job in salt.utils.minion.running(__opts__))
