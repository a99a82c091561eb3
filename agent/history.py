"""What the agent keeps: both epochs, and the last role changes (the history).

There are two copies. The one in memory (/run) counts for as long as the machine is up; writing it never waits. The one
on the disk is for the next boot; a process of its own writes it (store()). A disk may stand still for minutes: it
fails, the storage moves, a backup freezes the file system. A process that waits for it then takes nothing over, gives
nothing away, and can not even be killed.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agent.epochs import RING, valid
from agent.inplace import overwrite

RUN_FOLDER = Path("/run/gateway-agent")
DISK = Path("/var/lib/gateway-agent")
LOCK = ".storing"
EPOCH, CHANGES = "epoch", "history"
MAX_DIGITS = len(str(RING))
MAX_CHANGES = 200  # role changes in the history


def replace(path: Path, text: str, disk: bool = False) -> None:
    """Replaces a file: a reader gets all of the old text or all of the new one. Raises OSError.

    `disk`: waits until the new text is on the disk, so that this also holds after a crash of the machine.
    """
    if not path.parent.is_dir():
        # Trap: mkdir() of /run, though it exists, first makes the kernel wait for permission to write to the disk under
        # /. So mkdir() is called only where the folder is missing.
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, "utf-8")
    except OSError as error:
        new.unlink(missing_ok=True)  # a part of it may have used the last room
        if not disk and error.errno == errno.ENOSPC and overwrite(path, text):
            return
        raise
    if disk:
        _to_the_disk(new)
    os.replace(new, path)
    if disk:
        _to_the_disk(path.parent)  # else the new name may be missing after a crash (fsync(2))


def _to_the_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's names, are on the disk. Raises OSError."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def fetch(disk: Path = DISK, folder: Path = RUN_FOLDER) -> None:
    """Copies what the boot before has left from the disk into memory, where nothing is there yet. Raises OSError."""
    for name in (EPOCH, CHANGES):
        if not (folder / name).exists():
            with contextlib.suppress(FileNotFoundError):
                replace(folder / name, (disk / name).read_text("utf-8", "replace"))


def store(disk: Path = DISK, folder: Path = RUN_FOLDER) -> None:
    """Copies what is in memory to the disk, and waits until it is there. Raises OSError.

    A lock lets only one process do so at a time: otherwise one that had to wait for the disk could overwrite what a
    later one wrote with something older.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in (EPOCH, CHANGES):
            with contextlib.suppress(FileNotFoundError):
                replace(disk / name, (folder / name).read_text("utf-8"), disk=True)
    finally:
        os.close(lock)


def epochs(folder: Path = RUN_FOLDER) -> tuple[int, int]:
    """This node's epoch and the highest one that it knows of; 0, 0 where nothing is kept.

    Raises ValueError for a damaged file.
    """
    try:
        numbers = (folder / EPOCH).read_text("utf-8").split()
    except FileNotFoundError:
        return 0, 0
    # Trap: int() takes no more than some thousand digits (sys.set_int_max_str_digits), so the length comes first.
    if len(numbers) != 2 or not all(each.isdecimal() and len(each) <= MAX_DIGITS for each in numbers) or (
            not all(map(valid, map(int, numbers)))):
        raise ValueError(f"{folder / EPOCH} is damaged")
    return int(numbers[0]), int(numbers[1])


def keep(own: int, highest: int, folder: Path = RUN_FOLDER) -> None:
    """Writes both epochs. Raises OSError."""
    replace(folder / EPOCH, f"{own} {highest}\n")


def read(folder: Path = RUN_FOLDER) -> list[dict[str, Any]]:
    """The role changes, the oldest first. Damaged lines are left out."""
    try:
        lines = (folder / CHANGES).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def note(role: str, cause: str, epoch: int, folder: Path = RUN_FOLDER, at: datetime | None = None) -> None:
    """Adds a role change to the history, of now or `at` a time (with its zone). Raises OSError."""
    when = at or datetime.now().astimezone()
    entry = {"at": when.isoformat(timespec="milliseconds"), "role": role, "epoch": epoch, "cause": cause}
    entries = [*read(folder)[-(MAX_CHANGES - 1):], entry]
    replace(folder / CHANGES, "".join(json.dumps(each) + "\n" for each in entries))


def failbacks(folder: Path = RUN_FOLDER) -> list[float]:
    """How many seconds ago this node has failed back: one number for each failback of the last hour."""
    ages: list[float] = []
    now = datetime.now().astimezone()
    for entry in read(folder):
        try:
            age = now - datetime.fromisoformat(entry["at"])
            if entry["role"] == "active" and entry["cause"].startswith("failback") and age < timedelta(hours=1):
                ages.append(max(age.total_seconds(), 0.0))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return ages
