"""What is kept: both epochs, and the last role changes.

Two copies. One in memory (/run), which counts for as long as the machine is up: who writes there never waits. One on
the disk for the next boot, written by a process of its own, store(). A disk may stand still for minutes: one that
fails, a storage that moves, a backup that freezes the file system. Who waits for it then takes nothing over, gives
nothing away, and can not even be killed.
"""
from __future__ import annotations

import contextlib
import fcntl
import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

RUN_FOLDER = Path("/run/gateway-agent")
DISK = Path("/var/lib/gateway-agent")
LOCK = ".storing"
EPOCH, CHANGES = "epoch", "history"
MAX_CHANGES = 200


def replace(path: Path, text: str, disk: bool = False) -> None:
    """All of the new text or all of the old one. `disk`: also after a crash of the machine. Raises OSError."""
    if not path.parent.is_dir():
        # Trap: to make /run, which is there, the kernel asks for a turn at writing to the disk under / first.
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, "utf-8")
    if disk:
        _to_the_disk(new)
    os.replace(new, path)
    if disk:
        _to_the_disk(path.parent)  # else the name may be missing (fsync(2))


def _to_the_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def fetch(disk: Path = DISK, folder: Path = RUN_FOLDER) -> None:
    """The first agent since the machine has booted takes what the boot before has left. Raises OSError."""
    for name in (EPOCH, CHANGES):
        if not (folder / name).exists():
            with contextlib.suppress(FileNotFoundError):
                replace(folder / name, (disk / name).read_text("utf-8", "replace"))


def store(disk: Path = DISK, folder: Path = RUN_FOLDER) -> None:
    """Brings it to the disk, and waits until it is there. Raises OSError.

    One after the other: one that had to wait for the disk would put something old over what a later one wrote.
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
    """This node's epoch and the highest one heard of; 0 where nothing is kept. Raises ValueError for a damaged file."""
    try:
        numbers = (folder / EPOCH).read_text("utf-8").split()
    except FileNotFoundError:
        return 0, 0
    if len(numbers) != 2 or not all(each.isdecimal() for each in numbers):
        raise ValueError(f"{folder / EPOCH} is damaged")
    return int(numbers[0]), int(numbers[1])


def keep(own: int, highest: int, folder: Path = RUN_FOLDER) -> None:
    """Writes both epochs. Raises OSError."""
    replace(folder / EPOCH, f"{own} {highest}\n")


def read(folder: Path = RUN_FOLDER) -> list[dict[str, Any]]:
    """The role changes, oldest first; damaged lines are left out."""
    try:
        lines = (folder / CHANGES).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def note(role: str, cause: str, epoch: int, folder: Path = RUN_FOLDER) -> None:
    """One role change more. Raises OSError."""
    entry = {"at": datetime.now().astimezone().isoformat(timespec="milliseconds"), "role": role, "epoch": epoch,
             "cause": cause}
    entries = [*read(folder)[-(MAX_CHANGES - 1):], entry]
    replace(folder / CHANGES, "".join(json.dumps(each) + "\n" for each in entries))


def failbacks(folder: Path = RUN_FOLDER) -> list[float]:
    """How many seconds ago this node failed back, within the last hour."""
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
