"""What the engine keeps on the master's disk: what has to outlive it, and the state of affairs for people."""
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from alerts import files
from resync import decide

FOLDER = "gateway_resync"  # under Salt's cachedir
STALE_SECONDS = 15.0  # a state of affairs that old is of an engine that does not run


def folder(cachedir: str | os.PathLike[str]) -> Path:
    """Made by the first file that is written."""
    return Path(cachedir) / FOLDER


def _read(path: Path) -> dict[str, Any]:
    found = files.read(path)
    return found if isinstance(found, dict) else {}


def read_state(cachedir: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`write_state` has kept; a file that is damaged is as none."""
    found = _read(folder(cachedir) / "state")
    kinds = {"stopped": list, "failed": dict, "refused": dict, "halted": str, "raised": dict}
    return {key: value for key, value in found.items() if key in kinds and isinstance(value, kinds[key])}


def write_state(cachedir: str | os.PathLike[str], state: decide.State) -> None:
    """Raises OSError."""
    files.write(folder(cachedir) / "state", state)


def write_status(cachedir: str | os.PathLike[str], status: dict[str, Any]) -> None:
    """Raises OSError."""
    files.write(folder(cachedir) / "status", {**status, "at": time.time()})


def read_status(cachedir: str | os.PathLike[str]) -> dict[str, Any]:
    """The last state of affairs, with its age in seconds under `at`; empty when there is none."""
    found = _read(folder(cachedir) / "status")
    at = found.get("at")
    return found | {"at": time.time() - at} if isinstance(at, (int, float)) else {}
