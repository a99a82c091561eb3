"""Python is free of what a type checker can find (pyproject.toml, tool.mypy)."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.test_style import findings

CACHE = Path(os.environ.get("LAB_CACHE", tempfile.gettempdir())) / "types"


def test_types():
    assert not (said := findings("mypy", f"--cache-dir={CACHE}")), said
