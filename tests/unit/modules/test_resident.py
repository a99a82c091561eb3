"""_modules/resident.py: which files a program needs, and that their pages are locked by the kernel."""
from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_module("_modules/resident.py")

    def run_stdout(argv: list[str], **options: object) -> str:
        assert options["python_shell"] is False and options["timeout"]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    monkeypatch.setattr(module, "__salt__", {"cmd.run_stdout": run_stdout}, raising=False)
    return module


def locked() -> int:
    """Bytes that this process has locked in memory."""
    return 1024 * int(re.search(r"VmLck:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def test_a_program_needs_its_libraries_and_their_loader(module):
    files = module.files(["/bin/sh", "/no/such/program"])
    assert os.path.realpath("/bin/sh") in files
    assert any("/libc.so" in path for path in files) and any("/ld-linux" in path for path in files)
    assert all(Path(path).is_file() and not Path(path).is_symlink() for path in files)


@pytest.mark.skipif(os.geteuid() != 0, reason="locks more memory than a user may")
def test_what_the_way_back_runs_is_locked_in_memory_until_let_go(module):
    before = locked()
    release = module.hold(["/bin/sh"])
    assert locked() - before >= os.path.getsize("/bin/sh")
    release()
    assert locked() == before
    release()


def test_what_can_not_be_held_is_no_obstacle(module, monkeypatch, caplog, tmp_path):
    def fail(*_: object, **__: object) -> str:
        raise CommandExecutionError("no ldd")

    empty = tmp_path / "empty"
    empty.touch()
    module.__salt__["cmd.run_stdout"] = fail
    module.hold([str(empty)])()
    assert f"{empty} is not kept in memory" in caplog.text and "no ldd" in caplog.text
