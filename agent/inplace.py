"""Writing over a file where no room is left for a second one beside it."""
from __future__ import annotations

import os
from pathlib import Path

BLOCK_BYTES = 512  # the unit of st_blocks (inode(7))


def overwrite(path: Path, text: str) -> bool:
    """Writes a text over a file's old one, in the room that the file has already. Whether that was possible.

    For a full /run: tmpfs gives a file whole pages, and keeps them until the file is shorter or gone (tmpfs(5)). One
    call writes it, and line ends fill up what a longer old text has left; the readers of these files skip empty lines.
    A reader at the same moment may see half of each.
    """
    data = text.encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        before = os.fstat(fd)
        if len(data) > before.st_blocks * BLOCK_BYTES:
            return False
        data += b"\n" * (before.st_size - len(data))
        return os.pwrite(fd, data, 0) == len(data)
    except OSError:
        return False
    finally:
        os.close(fd)
