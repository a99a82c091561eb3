"""Python is ruff-clean, states and templates are salt-lint-clean."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import salt
from tests.conftest import TREE


def tool(name: str) -> str:
    """A tool of the Python environment that runs the tests, else of the machine."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed: lab/run test installs it, or `pip install -r lab/requirements.txt`"
    return found


def findings(*command: str) -> str:
    """What a tool says, empty when it is content."""
    done = subprocess.run([tool(command[0]), *command[1:]], cwd=TREE, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_python():
    assert not (said := findings("ruff", "check", ".")), said


def test_states_and_templates():
    files = [str(path) for folder in ("salt", "pillar", "examples") for path in sorted((TREE / folder).rglob("*"))
             if path.suffix in (".sls", ".jinja") and path.parent != TREE / "pillar/secrets"]
    assert len(files) > 20
    # 205 wants .sls as the name's end, which a template is not
    assert not (said := findings("salt-lint", "-x", "205", *files)), said


def test_no_package_bears_the_name_of_one_of_salts_own_modules():
    """Salt puts its folders into Python's path while it loads; `import NAME` then found Salt's module, not ours."""
    its = {path.stem for path in Path(salt.__file__).parent.glob("*/*") if path.suffix in ("", ".py")}
    ours = {path.parent.name for path in TREE.glob("*/__init__.py")}
    assert len(its) > 500 and {"agent", "nodes", "resync"} <= ours
    assert not its & ours, its & ours
