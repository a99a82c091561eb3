"""Whether the copies of tunnels are possible on a node, as its state asks."""
from __future__ import annotations

import pytest
from salt.exceptions import CommandExecutionError


@pytest.mark.parametrize(("code", "can"), [(0, True), (1, False)])
def test_the_program_itself_says_whether_it_can(load, monkeypatch, tmp_path, code, can):
    sessions, asked = load("_modules/sessions.py"), []
    monkeypatch.setattr(sessions, "PROGRAM", tmp_path / "run")
    monkeypatch.setattr(sessions, "__salt__", {
        "commands.run": lambda argv, timeout: asked.append((argv, timeout)) or {"retcode": code}}, raising=False)
    assert sessions.possible() is False and not asked, "not installed yet, as when one only looks (test=True)"
    (tmp_path / "run").touch()
    assert sessions.possible() is can and asked == [([str(tmp_path / "run"), "possible"], 30.0)]


def test_a_node_that_is_too_busy_to_say_is_not_one_that_can_not(load, monkeypatch, tmp_path):
    def late(argv: list[str], timeout: float) -> dict:
        raise CommandExecutionError(f"{argv[0]} took longer than {timeout:g} s")

    sessions = load("_modules/sessions.py")
    (tmp_path / "run").touch()
    monkeypatch.setattr(sessions, "PROGRAM", tmp_path / "run")
    monkeypatch.setattr(sessions, "__salt__", {"commands.run": late}, raising=False)
    assert sessions.possible() is True
