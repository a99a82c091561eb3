"""One version, wherever it is written down."""
from __future__ import annotations

import re
import tomllib

from tests.conftest import TREE, load_module


def test_the_version_is_the_same_everywhere():
    text = (TREE / "VERSION").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", text)
    assert load_module("_modules/gateway_version.py").installed() == text.strip()
    project = tomllib.loads((TREE / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"file": "VERSION"}
    assert "Apache License" in (TREE / "LICENSE").read_text() and project["project"]["license"] == "Apache-2.0"
