"""Files of the authority and of pillar: read without following a link, written in one step, for their owner only."""
from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from issuing.errors import refuse

# How long a run waits for another that has the lock, with some thousand certificates to make.
LOCK_SECONDS = 600


def read(path: Path) -> bytes:
    """The content of a file that is no link."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as handle:
        return handle.read()


def write(path: Path, data: bytes) -> str:
    """Replace a file in one step, mode 0600 from its first byte on. A link at its place is replaced, not followed."""
    if path.is_dir() and not path.is_symlink():
        raise refuse(f"{path} is a folder; a file has to be there")
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return str(path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; another run waits for it, but not for ever."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise refuse(f"another run has held {folder}/lock for {LOCK_SECONDS} s; `salt-run jobs.active` shows "
                              "runs that still go on: wait until it has ended, then try again")
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
