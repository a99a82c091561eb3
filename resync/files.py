"""The engine's files on the master's disk: its state across restarts, and its status for people."""
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from alerts import files
from resync.actions import State

FOLDER = "gateway_resync"  # in Salt's cachedir
STALE_SECONDS = 15.0  # an older status means that the engine does not run


def folder(cachedir: str | os.PathLike[str]) -> Path:
    """The folder of the files. The first write creates it."""
    return Path(cachedir) / FOLDER


def _read(path: Path) -> dict[str, Any]:
    found = files.read(path)
    return found if isinstance(found, dict) else {}


def read_state(cachedir: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`write_state` wrote last; empty when there is no file or it is damaged."""
    found = _read(folder(cachedir) / "state")
    kinds = {"stopped": list, "failed": dict, "refused": dict, "halted": str, "raised": dict}
    return {key: value for key, value in found.items() if key in kinds and isinstance(value, kinds[key])}


def write_state(cachedir: str | os.PathLike[str], state: State) -> None:
    """Write what must outlive the engine. Raises OSError when the file can not be written."""
    files.write(folder(cachedir) / "state", state)


def write_status(cachedir: str | os.PathLike[str], status: dict[str, Any]) -> None:
    """Write the status for people. Raises OSError when the file can not be written."""
    files.write(folder(cachedir) / "status", {**status, "at": time.time()})


def read_status(cachedir: str | os.PathLike[str]) -> dict[str, Any]:
    """The last status, with its age in seconds under `at`; empty when there is none."""
    found = _read(folder(cachedir) / "status")
    at = found.get("at")
    return found | {"at": time.time() - at} if isinstance(at, (int, float)) else {}
