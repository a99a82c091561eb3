"""Whether running services may leave a core, with real processes of a made-up service."""
from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SERVICE = "gateway-made-up"


@pytest.fixture
def process() -> Iterator[subprocess.Popen]:
    """A process that may leave a core."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if not hard:
        pytest.skip("the limit of these tests' own process is 0, and only root could lift it")
    running = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
    resource.prlimit(running.pid, resource.RLIMIT_CORE, (hard, hard))
    yield running
    running.kill()
    running.wait()
    assert resource.getrlimit(resource.RLIMIT_CORE) == (soft, hard)


@pytest.fixture
def cores(load, monkeypatch, tmp_path, process) -> ModuleType:
    """The module on a machine where the process is a service's, and another one is of another service."""
    module = load("_modules/cores.py")
    for pid, text in ((process.pid, f"0::/system.slice/{SERVICE}.service/payload\n"),
                      (1, "0::/system.slice/other-made-up.service\n"),
                      (2, f"0::/system.slice/not-{SERVICE}.service\n")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(text)
    (tmp_path / "3").mkdir()        # has just ended
    (tmp_path / "uptime").write_text("1 1\n")
    monkeypatch.setattr(module, "PROC", tmp_path)
    return module


def core_limit(process: subprocess.Popen) -> list[str]:
    """The kernel's own word for the limit: soft and hard."""
    lines = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


def test_a_running_service_gets_the_limit_without_a_restart(cores, process):
    assert cores.possible([SERVICE, "ipsec"]) == {SERVICE: [process.pid]} and core_limit(process) != ["0", "0"]
    assert cores.forbid([SERVICE, "ipsec"]) == {SERVICE: [process.pid]}
    assert core_limit(process) == ["0", "0"] and process.poll() is None
    assert cores.possible([SERVICE]) == {} == cores.forbid([SERVICE])


def test_a_service_that_does_not_run_leaves_none(cores):
    assert cores.forbid(["ipsec"]) == {}


@pytest.fixture
def state(load, cores, monkeypatch) -> ModuleType:
    module = load("_states/cores.py")
    monkeypatch.setattr(module, "__salt__", {"cores.possible": cores.possible, "cores.forbid": cores.forbid},
                        raising=False)
    monkeypatch.setattr(module, "__opts__", {"test": False}, raising=False)
    return module


def test_the_state_changes_something_once(state, process):
    state.__opts__["test"] = True
    looked = state.none("x", [SERVICE])
    assert looked["result"] is None and looked["changes"] and core_limit(process) != ["0", "0"]
    state.__opts__["test"] = False
    done = state.none("x", [SERVICE])
    assert done["result"] is True and done["changes"] == looked["changes"]
    assert state.none("x", [SERVICE])["changes"] == {}
