"""
Files that stay in memory: a program whose pages are locked runs although its disk stands still.

``mlock`` on a mapping keeps the file's pages in the page cache, for every process that maps or reads them (mlock(2);
Documentation/mm/unevictable-lru.rst). The names of these files stay known to the kernel as long as they are open.
"""
from __future__ import annotations

import ctypes
import glob
import logging
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

log = logging.getLogger(__name__)

__virtualname__ = "resident"

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.mlock.argtypes = _LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
# What systemd starts a service with (since version 254), and what every program and nft and iproute2 read.
_ALSO = ("/usr/lib/systemd/systemd-executor", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/protocols",
         "/etc/iproute2/*", "/usr/share/iproute2/*")
_COMMAND_SECONDS = 10


def __virtual__() -> str | tuple[bool, str]:
    return __virtualname__


def files(programs: list[str]) -> list[str]:
    """
    The files that these programs need: themselves, their libraries, and what systemd needs to start them. Sorted.

    programs
        Paths. Those that do not exist are left out.

    CLI Example:

    .. code-block:: bash

        salt-call --local resident.files '[/bin/sh, /usr/sbin/nft]'
    """
    wanted = {os.path.realpath(path) for path in programs}
    wanted |= {os.path.realpath(path) for pattern in _ALSO for path in glob.glob(pattern)}
    wanted = {path for path in wanted if os.path.isfile(path)}
    # ldd(1): "libmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x...)", "/lib64/ld-linux-x86-64.so.2 (0x...)"
    try:
        said = __salt__["cmd.run_stdout"](["ldd", *sorted(path for path in wanted if os.access(path, os.X_OK))],
                                          python_shell=False, ignore_retcode=True, timeout=_COMMAND_SECONDS)
    except CommandExecutionError as err:
        log.warning("No library is kept in memory: %s", err)
        said = ""
    for line in said.splitlines():
        wanted |= {os.path.realpath(word) for word in line.split() if word.startswith("/") and not word.endswith(":")}
    return sorted(path for path in wanted if os.path.isfile(path))


def hold(programs: list[str]) -> Callable[[], None]:
    """
    Read what these programs need and keep it in memory. For other modules, not the command line.

    programs
        As for ``files``.

    Returns the function that lets go of them; they are let go of also when this process ends. What can not be held
    leaves a line in the log: a program that is only cached mostly runs as well.
    """
    held: list[tuple[int, int]] = []
    for path in files(programs):
        try:
            held.append(_lock(path))
        except OSError as err:
            log.warning("%s is not kept in memory: %s", path, err)

    def release() -> None:
        while held:
            _LIBC.munmap(*held.pop())

    return release


def _lock(path: str) -> tuple[int, int]:
    """Map a file and lock its pages. Returns address and length. OSError."""
    with Path(path).open("rb") as handle:
        length = os.fstat(handle.fileno()).st_size
        if not length:
            raise OSError(f"{path} is empty")
        address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, handle.fileno(), 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if _LIBC.mlock(address, length):
        error = ctypes.get_errno()
        _LIBC.munmap(address, length)
        raise OSError(error, os.strerror(error))
    return address, length
