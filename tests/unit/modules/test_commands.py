"""Commands with a limit, with real programs that hang."""
from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

LIMIT = 0.3


@pytest.fixture
def commands(load, monkeypatch):
    module = load("_modules/commands.py")
    monkeypatch.setattr(module, "_ORDERLY_SECONDS", 0.3)
    return module


def script(folder: Path, text: str, name: str = "whack") -> str:
    """An executable script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def is_refused(commands, *argv: str) -> str:
    """Run a command that hangs. Returns the one line that says so."""
    begun = time.monotonic()
    with pytest.raises(CommandExecutionError) as told:
        commands.run(argv, timeout=LIMIT)
    assert time.monotonic() - begun < 5
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_command_gives_its_output_its_errors_and_its_exit_code(commands):
    done = commands.run(["sh", "-c", "cat; echo err >&2; exit 3"], timeout=10, stdin="one\ntwo\n")
    assert done == {"retcode": 3, "stdout": "one\ntwo", "stderr": "err"}


def test_a_command_speaks_english_and_gets_what_is_added_to_its_environment(commands, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_CH.UTF-8")
    assert commands.run(["sh", "-c", "echo $LC_ALL $MORE"], timeout=10, env={"MORE": "x"})["stdout"] == "C x"


def test_more_output_than_a_pipe_holds_does_not_hold_it_up(commands):
    done = commands.run(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x"], timeout=10)
    assert len(done["stdout"]) == 300000


def test_a_program_that_hangs_is_ended_and_the_line_says_what_after_how_long_and_what_to_do(commands, tmp_path):
    hangs = script(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    assert is_refused(commands, hangs, "--status") == (
        "whack --status: no answer within 0.3 s, so it was ended; the IPsec daemon may hang: `journalctl -u ipsec`; "
        "`systemctl restart ipsec` helps, on the active node after a switch-over")
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_program_that_ignores_the_request_to_end_is_killed(commands, tmp_path):
    script(tmp_path, f"trap '' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.05; done")
    assert "so it was ended; " in is_refused(commands, f"{tmp_path}/whack")
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_child_that_holds_the_output_open_is_ended_too(commands, tmp_path):
    """Salt's own limit ends the program alone, and then waits for the end of what the child may still write."""
    script(tmp_path, f"(trap '' TERM; while :; do sleep 0.05; done) & echo $! >{tmp_path}/child; wait")
    is_refused(commands, f"{tmp_path}/whack")
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while not is_gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_in_a_session_of_its_own_does_not_hold_the_caller(commands, tmp_path):
    script(tmp_path, f"setsid sh -c 'echo $$ >{tmp_path}/child; exec sleep 60' & exec sleep 60")
    before = threading.active_count()
    try:
        is_refused(commands, f"{tmp_path}/whack")
        # A thread that waits for the child would keep the job's process from ending.
        assert threading.active_count() == before
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_what_a_command_leaves_in_the_background_is_left_alone_and_not_waited_for(commands, tmp_path):
    begun = time.monotonic()
    done = commands.run(["sh", "-c", "sleep 60 & echo $!"], timeout=10)
    child = int(done["stdout"])
    try:
        assert time.monotonic() - begun < 5 and not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_program_that_is_not_there_is_one_line(commands):
    with pytest.raises(CommandExecutionError, match="^no-such-program -x: can not be started: No such file or "
                                                    "directory; is its package installed\\?$"):
        commands.run(["no-such-program", "-x"], timeout=1)


def test_a_long_command_is_shown_by_its_beginning_on_one_line(commands, tmp_path):
    hangs = script(tmp_path, "exec sleep 60", "certutil")
    line = is_refused(commands, hangs, "x\n" * 200)
    assert "...: no answer within" in line and len(line) < 300


def test_no_descriptor_is_left(commands):
    before = len(os.listdir("/proc/self/fd"))
    commands.run(["true"], timeout=10)
    with pytest.raises(CommandExecutionError):
        commands.run(["sleep", "60"], timeout=0.05)
    assert len(os.listdir("/proc/self/fd")) == before
