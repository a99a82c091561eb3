"""
Commands with a limit: a program that hangs must not hang whoever has called it.

``cmd.run_all(timeout=...)`` of Salt is not enough. It ends the program alone, with a signal to one process; a thread
goes on reading the pipe for as long as a child of that program holds it, and the job's process does not end before
(``salt/utils/timed_subprocess.py``, 3008). Here there is no pipe, and the whole group of processes is ended.
``watching`` does the same for beacons, which must not even wait.

Formats: setsid(2), kill(2), memfd_create(2).
"""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import salt.utils.path
from salt.exceptions import CommandExecutionError

__virtualname__ = "commands"

# After the limit: how long a program may take to end in order, before it is killed; and to be gone after that.
_ORDERLY_SECONDS = 2.0
_GONE_SECONDS = 2.0
_ANSWER_BYTES_MAX = 64 * 1024 * 1024
_SHOWN_CHARACTERS = 100

_DISK = "does the disk stand still? `dmesg | tail`, then apply again"
_KERNEL = "the kernel may stand still: `dmesg | tail`, then apply again"
_IPSEC = ("the IPsec daemon may hang: `journalctl -u ipsec`; `systemctl restart ipsec` helps, on the active node "
          "after a switch-over")
_HEARTBEAT = "heartbeat may hang: `journalctl -u heartbeat`; on the standby `systemctl restart heartbeat` helps"
# By program, what to do next.
_NEXT = {
    "ipsec": _IPSEC, "whack": _IPSEC, "addconn": _IPSEC,
    "cl_status": _HEARTBEAT, "hb_standby": _HEARTBEAT, "hb_takeover": _HEARTBEAT, "heartbeat-check": _HEARTBEAT,
    "run": "the role agent may hang: `journalctl -t gateway-agent`",
    "systemctl": "`systemctl list-jobs` shows what it waits for",
    "certutil": _DISK, "crlutil": _DISK, "pk12util": _DISK, "journalctl": _DISK,
    "ip": _KERNEL, "nft": _KERNEL,
}


class Done(TypedDict):
    """What :func:`run` returns: as Salt's ``cmd.run_all``."""

    retcode: int
    stdout: str
    stderr: str


def run(argv: Sequence[str], timeout: float, stdin: str = "", env: dict[str, str] | None = None) -> Done:
    """
    Run a program without a shell, and wait for it no longer than its limit.

    What it leaves running in the background is left alone, unless the limit is over: then it and all of its children
    are ended, first in order, then by force.

    Args:
        argv: program and arguments. The first words of it are shown when it fails: no secret may be among them.
        timeout: the limit, in seconds.
        stdin: what it reads.
        env: additions to the environment. ``LC_ALL`` is ``C``.

    Returns:
        ``retcode`` (minus the signal's number where one has ended it), ``stdout`` and ``stderr``, without line ends
        at their end.

    Raises:
        CommandExecutionError: in one line: it can not be started; or the limit is over.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' commands.run '[ipsec, whack, --briefstatus]' timeout=10
    """
    words = [str(word) for word in argv]
    with contextlib.ExitStack() as files:
        given, said, wrong = (files.enter_context(os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC), "w+b"))
                              for name in ("stdin", "stdout", "stderr"))
        given.write(stdin.encode())
        given.seek(0)
        try:
            process = subprocess.Popen([salt.utils.path.which(words[0]) or words[0], *words[1:]], stdin=given,
                                       stdout=said, stderr=wrong, env={**os.environ, "LC_ALL": "C", **(env or {})},
                                       start_new_session=True)
        except OSError as error:
            raise CommandExecutionError(f"{_shown(words)}: can not be started: {error.strerror}; is its package "
                                        "installed?") from None
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            gone = _end(process)
            raise CommandExecutionError(
                f"{_shown(words)}: no answer within {timeout:g} s, so it was ended"
                f"{'' if gone else ', and it is still there: it waits in the kernel, for a disk perhaps'}; "
                f"{_NEXT.get(Path(words[0]).name, 'find out what it waits for, then try again')}") from None
        except BaseException:       # the job itself is ended
            _end(process)
            raise
        return {"retcode": process.returncode, "stdout": _text(said.fileno()), "stderr": _text(wrong.fileno())}


def _end(process: subprocess.Popen) -> bool:
    """End a program with its children. Returns whether the program itself is gone."""
    for number, seconds in ((signal.SIGTERM, _ORDERLY_SECONDS), (signal.SIGKILL, _GONE_SECONDS)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    return process.poll() is not None


def _text(descriptor: int) -> str:
    # Not through the file object: its place is the program's, which may still be writing.
    return os.pread(descriptor, _ANSWER_BYTES_MAX, 0).decode(errors="replace").rstrip("\r\n")


def _shown(words: Sequence[str]) -> str:
    """The first words of a command, on one line."""
    text = " ".join(" ".join([Path(words[0]).name, *words[1:]]).split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
