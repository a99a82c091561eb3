"""A folder of things that take long to make. Each is named by a digest of what it was made from."""
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lab.progress import step

ROOT = Path(os.environ.get("LAB_CACHE", "/var/cache/gateway-lab"))
KEPT_OF_A_KIND = 3     # older ones of one kind are removed: an image is some hundred megabytes


def key(inputs: object) -> str:
    """A short name for `inputs` (anything JSON can write). Different inputs have different names."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def files_digest(*paths: Path) -> str:
    """One digest of the names, modes and contents of these files, to be part of `inputs`."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {path.stat().st_mode:o} ".encode() + path.read_bytes())
    return digest.hexdigest()


def find(kind: str, inputs: object) -> Path | None:
    """The folder made from `inputs`, None if it does not exist yet."""
    folder = ROOT / f"{kind}-{key(inputs)}"
    return folder if folder.is_dir() else None


def made(kind: str, inputs: object, make: Callable[[Path], None], why: str, keep: int = KEPT_OF_A_KIND) -> Path:
    """The folder made from `inputs`. If it does not exist, `make(folder)` makes it now, and `why` is printed.

    The `keep` newest folders of its kind stay, older ones are removed. A `make` that fails or is killed leaves nothing
    that looks finished: it works in a temporary folder, which gets its name only when it is complete.
    """
    ROOT.mkdir(parents=True, exist_ok=True)
    folder = ROOT / f"{kind}-{key(inputs)}"
    with open(ROOT / f".{folder.name}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            step(why)
            working = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=ROOT))
            working.chmod(0o755)
            try:
                make(working)
                os.rename(working, folder)
            finally:
                shutil.rmtree(working, ignore_errors=True)
        os.utime(folder)
    _drop_old(kind, keep)
    return folder


def _drop_old(kind: str, keep: int) -> None:
    folders = sorted(ROOT.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in folders[keep:]:
        shutil.rmtree(old, ignore_errors=True)
        (ROOT / f".{old.name}.lock").unlink(missing_ok=True)
