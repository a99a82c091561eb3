"""The engine's files in the master's cachedir: its state across restarts, and what the runner reads. All are JSON."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

STATE = "state.json"  # the nodes' event numbers, the open incidents
STATUS = "status.json"  # for people (shapes.EngineStatus)
SILENCES = "silences.json"  # by site, until when (seconds since 1970); the runner writes it
SPOOL = "queue.jsonl"  # the queue (spool.py)


def folder(cachedir: str | os.PathLike[str]) -> Path:
    """The engine's folder under the master's cachedir."""
    return Path(cachedir) / "gateway_alerts"


def read(path: Path) -> Any:
    """The contents of a JSON file; None when there is no file or it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write(path: Path, data: Any) -> None:
    """
    Write a JSON file, mode 0600: completely or not at all. It is on the disk when this returns.

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
