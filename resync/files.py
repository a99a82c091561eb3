"""What the engine keeps on the master's disk: what has to outlive it, and the state of affairs for people."""
from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FOLDER = "gateway_resync"  # under Salt's cachedir
STALE = 15.0  # a state of affairs that old is of an engine that does not run


def folder(cachedir: str | os.PathLike) -> Path:
    """Made when it is not there. Raises OSError."""
    path = Path(cachedir) / FOLDER
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _replace(path: Path, text: str) -> None:
    """All of the new text or all of the old one, readable for Salt's user only."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(new, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_state(cachedir: str | os.PathLike) -> dict[str, Any]:
    """What :func:`write_state` has kept; a file that is damaged is as none."""
    found = _read(folder(cachedir) / "state")
    kinds = {"stopped": list, "failed": dict, "refused": dict, "halted": str, "raised": dict}
    return {key: value for key, value in found.items() if key in kinds and isinstance(value, kinds[key])}


def write_state(cachedir: str | os.PathLike, state: dict[str, Any]) -> None:
    """Raises OSError."""
    _replace(folder(cachedir) / "state", json.dumps(state))


def write_status(cachedir: str | os.PathLike, status: dict[str, Any]) -> None:
    """Raises OSError."""
    _replace(folder(cachedir) / "status", json.dumps({**status, "at": time.time()}))


def read_status(cachedir: str | os.PathLike) -> dict[str, Any]:
    """The last state of affairs, with its age in seconds under `at`; empty when there is none."""
    found = _read(folder(cachedir) / "status")
    at = found.get("at")
    return found | {"at": time.time() - at} if isinstance(at, (int, float)) else {}
