"""The runner resync without an engine: it reports that, and does not wait for ever."""
from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import pytest
import salt.config

from resync import bus, decide, files
from resync.events import Inputs, Order
from resync.settings import Config
from tests.conftest import EXAMPLES, TREE, load_module


@pytest.fixture
def runner(tmp_path, monkeypatch):
    opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(TREE / "pillar"), str(EXAMPLES)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "cachedir": str(tmp_path), "pki_dir": str(tmp_path)}
    module = load_module("_runners/resync.py")
    monkeypatch.setattr(module, "__opts__", opts, raising=False)
    monkeypatch.setattr(module, "__context__", {}, raising=False)
    module.folder = tmp_path
    return module


def test_an_engine_that_never_ran(runner):
    assert runner.status() == {"engine": "not running", "retcode": 1} and runner.__context__["retcode"] == 1
    assert "does not run" in runner.stop()["mistakes"][0]


def test_an_engine_that_has_ended(runner, monkeypatch):
    files.write_status(runner.folder, {"enabled": True, "queue": {}})
    assert runner.status() == {"engine": "running", "queue": {}, "retcode": 0}
    monkeypatch.setattr(files, "STALE_SECONDS", -1)
    assert runner.status() == {"engine": "not running", "retcode": 1}


def test_an_engine_that_is_off_says_why(runner):
    files.write_status(runner.folder, {"enabled": False, "mistakes": ["gateway_resync: parallel: 0 is not"]})
    assert runner.status() == {"engine": "disabled", "mistakes": ["gateway_resync: parallel: 0 is not"], "retcode": 0}
    assert "does not run" in runner.now("bern")["mistakes"][0]


def test_a_go_that_is_held_says_by_what_and_ends_with_status_1(runner, monkeypatch):
    """The engine's part: it takes each order, and all sites are stopped."""
    machine = decide.RolloutMachine(Config(), 0.0)
    machine.handle(Inputs("tree", {"bern": "a"}), 0.0)

    class Bus:
        """The master's bus, with the engine at its other end."""

        def fire_event(self, data, tag):
            assert tag == bus.ORDER_TAG
            machine.handle(Order(data["condition"], data["site"]), 1.0)
            files.write_status(runner.folder, {"enabled": True, **machine.status()})

    monkeypatch.setattr(runner.salt.utils.event, "get_master_event", lambda *_args, **_more: nullcontext(Bus()))
    files.write_status(runner.folder, {"enabled": True, **machine.status()})
    assert runner.stop() == {"done": "stop all sites", "retcode": 0}
    said = runner.go("bern")
    assert said["done"] == "go bern" and "`salt-run resync.go` ends that" in said["held"]
    assert said["retcode"] == runner.__context__["retcode"] == 1
    assert runner.go() == {"done": "go all sites", "retcode": 0} == runner.go("bern") | {"done": "go all sites"}


@pytest.mark.parametrize("name", ["../secrets/bern", "nowhere", "", 7, "*"])
def test_what_is_no_site(runner, name):
    said = runner.now(name)
    assert "is no site; give one of bern, winterthur" in said["mistakes"][0] and runner.__context__["retcode"] == 1


def test_nodes_by_their_numbers(runner, monkeypatch):
    number = runner.Inputs([TREE / "salt"], [TREE / "pillar", EXAMPLES]).look(["bern"]).of("bern")
    said = {"gw-a.bern": [number, True], "gw-b.bern": ["old", False]}
    monkeypatch.setattr(runner.work.Hands, "told", lambda self, sites: {"nodes": {"bern": said}})
    assert runner.status("bern")["nodes"] == {
        "gw-a.bern": "up to date", "gw-b.bern": "behind, not compared since its boot"}
    said |= {"gw-a.bern": ["", False], "gw-b.bern": None}
    assert runner.status("bern")["nodes"] == {
        "gw-a.bern": "never applied, not compared since its boot", "gw-b.bern": "silent"}


def test_salt_itself_loads_the_runners_that_are_called_like_the_packages_and_all_others(tmp_path):
    """In a process of its own, like `salt-run`: imports of pytest would hide a failure."""
    names = ["alerts.status", "authority.list", "gateway.validate", "gateway_metrics.show", "gateway_step.run",
             "lists.fetch", "reactions.validate", "resync.status"]
    assert {name.split(".")[0] for name in names} == {path.stem for path in (TREE / "_runners").glob("*.py")}
    script = ("import salt.config, salt.loader, sys; opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {'runner_dirs': "
              "[sys.argv[1]], 'cachedir': sys.argv[2], 'extension_modules': sys.argv[2], 'root_dir': sys.argv[2]}; "
              "its = salt.loader.runner(dict(opts)); print(*[name for name in sys.argv[3:] if name not in its])")
    done = subprocess.run([sys.executable, "-c", script, str(TREE / "_runners"), str(tmp_path), *names],
                          capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "" and done.returncode == 0, done
