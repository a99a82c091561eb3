"""A folder of things that take long to make, each known by what it was made from."""
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
KEEP = 3  # older makes of one kind are removed: an image is some hundred megabytes


def key(inputs: object) -> str:
    """A short name for `inputs` (anything JSON can write); other inputs, other name."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def files_digest(*paths: Path) -> str:
    """One digest of the contents and modes of these files, to be part of `inputs`."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {path.stat().st_mode:o} ".encode() + path.read_bytes())
    return digest.hexdigest()


def find(kind: str, inputs: object) -> Path | None:
    """The folder made from `inputs`, or None when it was not made yet."""
    folder = ROOT / f"{kind}-{key(inputs)}"
    return folder if folder.is_dir() else None


def made(kind: str, inputs: object, make: Callable[[Path], None], why: str, keep: int = KEEP) -> Path:
    """The folder made from `inputs`: made now by `make(folder)` if it is not there. `keep` of its kind stay.

    A make that fails or is killed leaves nothing that could be taken for finished: it works
    in a folder of its own, which gets its name only when it is complete.
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
