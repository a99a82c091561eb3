"""Where the engine keeps what outlives it, and what the runner reads: JSON files in the master's cachedir."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

STATE = "state.json"  # numbers, incidents
STATUS = "status.json"  # for people
SILENCES = "silences.json"  # by site, until when; written by the runner
SPOOL = "queue.jsonl"


def folder(cachedir: str | os.PathLike[str]) -> Path:
    """The engine's folder under the master's cachedir."""
    return Path(cachedir) / "gateway_alerts"


def read(path: Path) -> Any:
    """A file's JSON; None when there is none or it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write(path: Path, data: Any) -> None:
    """
    Whole or not at all, 0600, on the disk when this returns.

    Raises:
        OSError: it can not be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(json.dumps(data, separators=(",", ":")).encode())
        file.flush()
        os.fsync(handle)
    os.replace(new, path)
