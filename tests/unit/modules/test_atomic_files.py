"""_modules/_atomic_files.py: files with keys. Several files at once, and what is in their way: test_swanctl.py."""
from __future__ import annotations

from pathlib import Path


def test_files_with_keys_are_nobody_elses(load):
    files = load("_modules/_atomic_files.py")
    with files.private_folder() as folder:
        path = Path(files.written(folder / "x", b"secret"))
        assert path.stat().st_mode & 0o777 == 0o400
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
