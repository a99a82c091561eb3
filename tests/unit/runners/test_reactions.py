"""The runner reactions: a command without a shell, and the mistakes of gateway_reactions."""
from __future__ import annotations

import json
import time

import pytest
from salt.exceptions import SaltRunnerError

from tests.conftest import TREE, load_module


@pytest.fixture
def runner(tmp_path, monkeypatch):
    module = load_module("_runners/reactions.py")
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/bern.sls").write_text("gateway: {nodes: {gw1: {}}}")
    monkeypatch.setattr(module, "__opts__", {"pillar_roots": {"base": [str(tmp_path)]},
                                             "file_roots": {"base": [str(TREE / "salt")]},
                                             "conf_file": str(tmp_path / "master")}, raising=False)
    monkeypatch.setattr(module, "__context__", {}, raising=False)
    return module


def script(tmp_path, text: str) -> str:
    path = tmp_path / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_command_gets_its_words_as_they_are_and_json(runner, tmp_path):
    command = script(tmp_path, f'printf "%s\\n" "$@" >{tmp_path}/words; cat >{tmp_path}/stdin')
    words = ["--a b", "$(touch x)", "'; touch x; '", "*", "", "\U0001f600"]
    assert runner.command([command, "own"], words, {"subject": "a\nb"}) == {"retcode": 0}
    assert (tmp_path / "words").read_text() == "\n".join(["own", *words]) + "\n"
    assert json.loads((tmp_path / "stdin").read_text()) == {"subject": "a\nb"}


def test_a_command_that_does_not_read_is_no_error(runner):
    assert runner.command(["/bin/true"], [], {"a": "x" * 200_000}) == {"retcode": 0}


@pytest.mark.parametrize("command, arguments, line", [
    ("/bin/true", None, "command: give a list"), ([], None, "command: give a list"), (["true"], None, "command: give"),
    (["/bin/true", 7], None, "command: give"), (["/bin/true"], ["a\0b"], "command: give"),
    (["/bin/true"], "words", "command: give"), (["/bin/true"], ["x" * 5000], "arguments: one has more than 4096 bytes"),
    (["/bin/false"], ["secret"], "/bin/false: ended with status 1"),
    (["/no/such"], ["secret"], "/no/such: can not be started (FileNotFoundError)")])
def test_what_is_wrong_is_said_without_the_arguments(runner, command, arguments, line):
    with pytest.raises(SaltRunnerError) as error:
        runner.command(command, arguments)
    assert str(error.value).startswith(line) and "secret" not in str(error.value)


def test_a_command_that_hangs_is_ended(runner):
    begun = time.monotonic()
    with pytest.raises(SaltRunnerError, match="took more than 0.5 s"):
        runner.command(["/bin/sleep", "60"], timeout=0.5)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("timeout", [0, -1, True, "5", 1e9])
def test_a_time_limit_is_a_number(runner, timeout):
    with pytest.raises(SaltRunnerError, match="timeout: give"):
        runner.command(["/bin/true"], timeout=timeout)


def test_validate_shows_what_is_reacted_to(runner):
    runner.__opts__["gateway_reactions"] = [
        {"when": {"severities": ["critical"], "sites": "bern"}, "sls": "ticket",
         "settings": {"command": ["/bin/true"]}}]
    assert runner.validate() == {
        "reactions": ["opened, escalation, happened of every event, critical, at bern: ticket"], "mistakes": [],
        "retcode": 0}


def test_validate_names_mistakes(runner, tmp_path):
    (tmp_path / "master").write_text("gateway_reactions: [{sls: absent}]\n")
    runner.__opts__["gateway_reactions"] = [{"sls": "absent"}]
    said = runner.validate()
    assert said["retcode"] == 1 and said["mistakes"] == [
        f"{tmp_path}/master: gateway_reactions:0:sls: there is no reactor/absent.sls in the folders of file_roots"]
