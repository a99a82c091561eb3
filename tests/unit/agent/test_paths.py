"""heartbeat's paths: which interfaces are no longer those that it opened them on."""
from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from agent import paths

THEN = {"bond0": 5, "bond1": 6, "lo": 1}


def test_what_is_noted_before_the_start_is_read_and_updated(tmp_path):
    file = tmp_path / "interfaces"
    assert paths.opened(file) == {}
    paths.opening(file)
    assert paths.opened(file) == {name: number for number, name in socket.if_nameindex()}
    paths.note(THEN | {"bond0": 9}, file)
    assert paths.opened(file) == THEN | {"bond0": 9}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"bond0": null}', '{"bond0": "five"}'])
def test_a_damaged_note_makes_nothing_deaf(tmp_path, text):
    (tmp_path / "interfaces").write_text(text)
    assert paths.opened(tmp_path / "interfaces") == {}


@pytest.mark.parametrize(("now", "links", "wanted"), [
    ({"bond0": 5, "bond1": 6}, ["bond0", "bond1"], ((), False, True)),
    ({"bond0": 9, "bond1": 6}, ["bond0", "bond1"], (("bond0",), False, True)),
    ({"bond1": 6}, ["bond0", "bond1"], (("bond0",), False, False)),
    ({"bond0": 9, "bond1": 11}, ["bond1", "bond0"], (("bond0", "bond1"), True, True)),
    ({"bond0": 9}, ["bond0", "/dev/ttyS0"], (("bond0",), False, True)),
    ({"bond0": 9}, ["bond0"], (("bond0",), True, True)),
    ({"eth7": 3}, ["eth7"], ((), False, True)),  # not noted at the start
    ({}, [], ((), False, True)),
])
def test_paths_with_another_interface_number_or_none_are_deaf(monkeypatch, now, links, wanted):
    def number(interface: str) -> int:
        if interface not in now:
            raise OSError(19, "No such device")
        return now[interface]

    monkeypatch.setattr(socket, "if_nametoindex", number)
    assert paths.deaf(links, THEN) == wanted


def process(proc: Path, number: int, parent: int, title: str) -> None:
    """As proc(5) has it; heartbeat pads its title with zeroes."""
    (proc / str(number)).mkdir(parents=True)
    (proc / str(number) / "stat").write_text(f"{number} (heart beat) S {parent} 1 1 0 -1 4194560\n")
    (proc / str(number) / "cmdline").write_bytes(title.encode() + b"\0\0\0")


@pytest.fixture
def proc(tmp_path) -> Path:
    """What `ps` showed on a gateway, and a process of another heartbeat."""
    for number, parent, title in (
            (2949, 1, "heartbeat: master control process"), (2957, 2949, "heartbeat: FIFO reader"),
            (2958, 2949, "heartbeat: write: bcast bond1"), (2959, 2949, "heartbeat: read: bcast bond1"),
            (2960, 2949, "heartbeat: write: ucast bond0"), (2961, 2949, "heartbeat: read: ucast bond0"),
            (2962, 2949, "heartbeat: write: ping 192.0.2.1"), (77, 1, "heartbeat: write: bcast bond0")):
        process(tmp_path / "proc", number, parent, title)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/12").mkdir()  # it has just ended
    return tmp_path / "proc"


def test_the_processes_that_send_on_a_path(proc):
    assert paths.writers(2949, ["bond0", "bond1"], proc) == [2958, 2960]
    assert paths.writers(2949, ["bond0"], proc) == [2960]
    assert paths.writers(2949, [], proc) == []


def test_only_paths_that_are_still_deaf_are_opened_again_and_all_are_noted(proc, monkeypatch, tmp_path):
    killed: list[tuple[int, int]] = []
    kept: list[dict[str, int]] = []
    monkeypatch.setattr(os, "kill", lambda *what: killed.append(what))
    monkeypatch.setattr(paths, "writers", lambda heartbeat, names: {"bond0": [2960]}[" ".join(names)])
    monkeypatch.setattr(paths, "opened", lambda: THEN)
    monkeypatch.setattr(paths, "number", {"bond0": 9, "bond1": 11}.get)
    monkeypatch.setattr(paths, "note", kept.append)
    paths.reopen(2949, ("bond0", "bond1"), ["bond1"])
    assert killed == [(2960, signal.SIGKILL)] and kept == [{"bond0": 9, "bond1": 11, "lo": 1}]


def test_a_path_without_a_sending_process_is_not_noted_as_opened(monkeypatch):
    kept: list[dict[str, int]] = []
    monkeypatch.setattr(paths, "writers", lambda heartbeat, names: [])
    monkeypatch.setattr(paths, "note", kept.append)
    with pytest.raises(OSError, match="no process that sends on bond0"):
        paths.reopen(2949, ("bond0",), [])
    assert kept == []
