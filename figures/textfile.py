"""Writes the master's figures into a textfile for node_exporter."""
from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from alerts import files as alerts_files
from figures import master
from resync import files as resync_files

TREE = Path(__file__).resolve().parent.parent
DEFAULTS: dict[str, Any] = {"file": "/var/lib/prometheus/node-exporter/gateway-master.prom", "every": 15}
FILE_MODE = 0o644  # the exporter is another user


class Settings(NamedTuple):
    """The master's configuration `gateway_metrics`. `mistakes`, one line each: with any, nothing is written."""

    file: Path
    every: float
    mistakes: tuple[str, ...] = ()


def settings(given: Any) -> Settings:
    """Checks the master's configuration `gateway_metrics`; None when there is none. Never raises."""
    wrong = []
    given = {} if given is None else given
    if not isinstance(given, dict):
        wrong, given = ["must be a mapping"], {}
    known = ", ".join(DEFAULTS)
    wrong += [f"{str(key)[:40]}: is unknown; the keys are {known}" for key in given if key not in DEFAULTS]
    its = DEFAULTS | {key: value for key, value in given.items() if key in DEFAULTS}
    if not isinstance(its["file"], str) or not its["file"].startswith("/") or not its["file"].endswith(".prom"):
        wrong.append(f"file: {its['file']!r:.80} is no path of a file that ends in .prom")
        its["file"] = DEFAULTS["file"]
    if type(its["every"]) not in (int, float) or not 5 <= its["every"] <= 300:
        wrong.append(f"every: {its['every']!r:.40} is not between 5 and 300 seconds")
        its["every"] = DEFAULTS["every"]
    return Settings(Path(its["file"]), float(its["every"]), tuple(f"gateway_metrics: {line}" for line in wrong))


def text(cachedir: str | os.PathLike[str], now: float | None = None) -> str:
    """The figures as of now. What an engine has written in another form, or not at all, is left out."""
    now = time.time() if now is None else now
    folder = alerts_files.folder(cachedir)
    samples: list[master.Sample] = [("gateway_master_info", (_version(),), 1),
                                    ("gateway_master_written_timestamp_seconds", (), round(now, 3))]
    status, silences = (alerts_files.read(folder / name) for name in (alerts_files.STATUS, alerts_files.SILENCES))
    for source in (master.of_alerts(_mapping(status), _mapping(silences), now),
                   master.of_resync(resync_files.read_status(cachedir), now)):
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            samples += source  # adds one after the other: what comes before what can not be read is kept
    made: str = exposition().text(master.FAMILIES, samples)
    return made


def write(path: Path, content: str) -> None:
    """Writes the file: completely or not at all, with its mode from the start. Raises OSError."""
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, FILE_MODE)
            file.write(content)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


@cache
def exposition() -> ModuleType:
    """The module gateway_exposition: the one place that makes the format, on gateways and here."""
    path = TREE / "_modules/gateway_exposition.py"
    spec = importlib.util.spec_from_file_location("gateway_exposition_of_the_tree", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _version() -> str:
    return (TREE / "VERSION").read_text(encoding="utf-8").strip()


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}
