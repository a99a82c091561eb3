"""The orchestrations as Salt runs them, with nodes whose signed answers the test gives: what is asked, in which order.

Nothing of Salt is replaced but its events and the list of minions; tests/integration has real minions.
"""
from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.runner
import salt.utils.event
import salt.utils.minions

from nodes import asking
from nodes.answers import Answer
from resync import work
from tests.conftest import TREE, copy_pillar

GW1, GW2 = "gw1.winterthur", "gw2.winterthur"
DONE = {"a_|-b_|-c_|-d": {"result": True, "changes": {}, "comment": "", "__run_num__": 0}}
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an orchestration: `run(NAME, STEP=answer)`. `.asked` has the steps. The answer None: nothing valid came."""
    copy_pillar(tmp_path / "pillar")
    for folder in ("proc", "extmods"):
        (tmp_path / folder).mkdir()
    opts = salt.config.master_config(None)
    opts.update({
        "cachedir": str(tmp_path), "pki_dir": str(tmp_path), "sock_dir": str(tmp_path), "root_dir": str(tmp_path),
        "extension_modules": str(tmp_path / "extmods"), "log_file": str(tmp_path / "log"), "user": "root",
        "conf_file": str(tmp_path / "master"), "id": "test_master", "runner_dirs": [str(TREE / "_runners")],
        "file_roots": {"base": [str(TREE / "salt")]}, "pillar_roots": {"base": [str(tmp_path / "pillar")]}})
    monkeypatch.setattr(salt.utils.event.SaltEvent, "fire_event", lambda *_args, **_named: True)
    monkeypatch.setattr(salt.utils.minions.CkMinions, "check_minions",
                        lambda *_args, **_named: {"minions": [GW1, GW2]})
    monkeypatch.setattr(sys, "path", [*sys.path])
    steps: list[str] = []

    def orchestrated(name: str, roles: tuple[str, str], said: dict[str, Any]) -> tuple[str, str]:
        def ask(_opts: Any, _keys: Any, minions: list[str], function: str, arguments: Any = (), _named: Any = None,
                _seconds: float = 0, **_more: Any) -> asking.Said:
            if function == "heartbeat.role":
                return asking.Said({minion: Answer(role, "", 0, 0.0)
                                    for minion, role in zip((GW1, GW2), roles, strict=True)})
            step = " ".join([minions[0].partition(".")[0], function.partition(".")[2], *arguments])
            steps.append(step)
            value = said.get(step.replace(" ", "_"), DONE if function.startswith("state.") else True)
            if value is None:
                return asking.Said({}, {minions[0]: "does not answer"})
            return asking.Said({minions[0]: Answer(value, "", 0, 0.0)})

        monkeypatch.setattr(asking, "ask", ask)
        with salt.runner.RunnerClient(opts) as client:
            return work.outcome(client.cmd("state.orch", [f"orch.{name}"], {"user": "root"},
                                           {"pillar": {"site": "winterthur"}}, print_event=False))

    def orchestrate(name: str, roles: tuple[str, str] = ("active", "standby"), **said: Any) -> tuple[str, str]:
        # Trap: Salt 3008 gives a module that several loaders of one process use the options of one of them. Clients
        # of later tests in this process looked for their jobs in this test's folder. So: a process of its own.
        steps.clear()
        here, there = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=lambda: there.send((orchestrated(name, roles, said), steps)))
        child.start()
        there.close()
        outcome, steps[:] = here.recv() if here.poll(240) else pytest.fail("nothing came from the orchestration")
        child.join(240)
        return outcome

    orchestrate.asked = steps  # type: ignore[attr-defined]
    return orchestrate


@pytest.mark.parametrize(("name", "roles", "steps"), [
    ("resync", ("active", "standby"), ["gw2 highstate", "gw2 healthy standby", "gw1 highstate", "gw1 healthy active"]),
    ("update", ("active", "standby"), ["gw2 highstate", "gw2 healthy standby", "gw1 standby", "gw2 healthy active",
                                       "gw1 highstate", "gw1 healthy standby"]),
    ("switch_over", ("active", "standby"), ["gw2 daemon_ready", "gw1 standby", "gw2 wait_for_role active",
                                            "gw2 daemon_ready active"]),
    ("failback", ("standby", "active"), ["gw1 healthy standby", "gw2 standby", "gw1 wait_for_role active",
                                         "gw1 daemon_ready active"]),
    ("failback", ("active", "standby"), []), ("resync", ("active", "active"), [])])
def test_the_steps_in_their_order(run: Run, name: str, roles: tuple[str, str], steps: list[str]) -> None:
    assert run(name, roles)[0] == ("waits" if roles == ("active", "active") else "done")
    assert run.asked == steps  # type: ignore[attr-defined]


@pytest.mark.parametrize(("answer", "outcome"), [
    (None, "waits"), (False, "waits"), ({"a_|-b_|-c_|-d": {"result": False, "comment": "no"}}, "failed"),
    (["The function x is running as PID 7 and was started"], "waits"), (["Rendering failed"], "failed"),
    ({}, "failed")])
def test_a_roll_out_stays_away_from_the_active_node_unless_the_standby_says_that_it_was_applied(
        run: Run, answer: Any, outcome: str) -> None:
    assert run("resync", gw2_highstate=answer)[0] == outcome
    assert run.asked == ["gw2 highstate"]  # type: ignore[attr-defined]


def test_nor_when_it_does_not_say_that_it_is_healthy(run: Run) -> None:
    found, why = run("resync", gw2_healthy_standby=None)
    assert found == "waits" and "the standby is not healthy" in why
    assert run.asked == ["gw2 highstate", "gw2 healthy standby"]  # type: ignore[attr-defined]
