"""What is kept on disk: both epochs, and the last role changes."""
from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

FOLDER = Path("/var/lib/gateway-agent")
EPOCH = "epoch"
LAST = 200


def replace(path: Path, text: str) -> None:
    """All of the new text or all of the old one; after a crash of the machine within seconds perhaps none.

    It does not wait for the disk. Raises OSError.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, "utf-8")
    os.replace(new, path)


def epochs(folder: Path = FOLDER) -> tuple[int, int]:
    """This node's epoch and the highest one heard of; 0 where nothing is kept. Raises ValueError for a damaged file."""
    try:
        numbers = (folder / EPOCH).read_text("utf-8").split()
    except FileNotFoundError:
        return 0, 0
    if len(numbers) != 2 or not all(each.isdecimal() for each in numbers):
        raise ValueError(f"{folder / EPOCH} is damaged")
    return int(numbers[0]), int(numbers[1])


def keep(own: int, highest: int, folder: Path = FOLDER) -> None:
    """Writes both epochs. Raises OSError."""
    replace(folder / EPOCH, f"{own} {highest}\n")


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The role changes, oldest first; damaged lines are left out."""
    try:
        lines = (folder / "history").read_text("utf-8").splitlines()
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


def note(role: str, cause: str, epoch: int, folder: Path = FOLDER) -> None:
    """One role change more. Raises OSError."""
    entry = {"at": datetime.now().astimezone().isoformat(timespec="milliseconds"), "role": role, "epoch": epoch,
             "cause": cause}
    entries = [*read(folder)[-(LAST - 1):], entry]
    replace(folder / "history", "".join(json.dumps(each) + "\n" for each in entries))


def failbacks(folder: Path = FOLDER) -> list[float]:
    """How many seconds ago this node failed back, within the last hour."""
    now, ages = datetime.now().astimezone(), []
    for entry in read(folder):
        try:
            age = now - datetime.fromisoformat(entry["at"])
            if entry["role"] == "active" and entry["cause"].startswith("failback") and age < timedelta(hours=1):
                ages.append(max(age.total_seconds(), 0.0))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return ages
