"""
Looking without waiting, for beacons, which run once a second in the minion's own process.

A beacon that waits stops everything else that the minion does. So this module listens to the kernel on sockets that
never block, and runs commands beside the minion: one look starts a command, a later look reads its answer. It is for
beacons and the modules behind them; most results can not be shown on a command line.

Formats: netlink(7), ``linux/netlink.h``.
"""
from __future__ import annotations

import contextlib
import os
import signal
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
# The most that one look reads; anything more counts as an overflow.
_DRAIN_BYTES_MAX = 4 * 1024 * 1024
# The longest answer of a command: a daemon with a thousand connections needs about one MiB.
_ANSWER_BYTES_MAX = 16 * 1024 * 1024


class Job(NamedTuple):
    """A command that runs beside the minion."""

    process: subprocess.Popen
    output: int         # a file in memory: the command would stop at a full pipe that nobody reads
    deadline: float


def __virtual__() -> str | tuple[bool, str]:
    if not hasattr(socket, "AF_NETLINK"):
        return False, "watching: only on Linux"
    return __virtualname__


def listen(protocol: int, *groups: int) -> socket.socket:
    """
    A socket on which the kernel reports changes.

    Args:
        protocol: a netlink protocol such as NETLINK_XFRM.
        groups: numbers of multicast groups.

    Raises:
        OSError: this kernel has no such protocol or group.

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
    What the kernel has reported since the last call: messages, each its type and content; and whether some are lost.

    CLI Example: none, as there is no socket on a command line.
    """
    messages: list[tuple[int, bytes]] = []
    total = 0
    while total < _DRAIN_BYTES_MAX:
        try:
            data = listener.recv(65536)
        except BlockingIOError:
            return messages, False
        except OSError:     # ENOBUFS: there were more messages than the socket can hold
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
    Start a command. Returns None when that fails: it is not installed, or no more processes are possible.

    Args:
        argv: program and arguments; its output and its errors are both kept.
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
    A command's answer, once: None while it runs, then ``retcode`` (None when it took too long) and ``stdout``.

    CLI Example: none, see :func:`start`.
    """
    code = job.process.poll()
    if code is None:
        if time.monotonic() < job.deadline:
            return None
        # With its children: they would keep what it has open, and hold on to what they wait for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.process.pid, signal.SIGKILL)
        job.process.poll()
    try:
        text = "" if code is None else os.pread(job.output, _ANSWER_BYTES_MAX, 0).decode(errors="replace")
    finally:
        with contextlib.suppress(OSError):
            os.close(job.output)
    return {"retcode": code, "stdout": text}


def states_run() -> bool:
    """
    Whether this minion is applying states. What a state run changes is not changed by hand, and may be half done.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' watching.states_run
    """
    return any(str(job.get("fun", "")).startswith("state.") for job in salt.utils.minion.running(__opts__))
