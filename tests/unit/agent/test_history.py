"""What the agent keeps, in memory and on the disk."""
from __future__ import annotations

import fcntl
import threading

import pytest

from agent import __main__ as program
from agent import history


def test_kept_epochs_are_read_back(tmp_path):
    assert history.epochs(tmp_path) == (0, 0)
    history.keep(4, 6, tmp_path)
    assert history.epochs(tmp_path) == (4, 6)


@pytest.mark.parametrize("left", [
    "", "4\n", "4 x\n", "-4 6\n", "4 6 7\n", "4 6.0\n", "4 True\n",
    pytest.param(f"4 {2**53}\n", id="beyond the last epoch"), pytest.param(f"4 {'9' * 400}\n", id="400 digits"),
    pytest.param(f"{'9' * 5000} 4\n", id="more digits than int() takes")])
def test_a_damaged_file_is_named(tmp_path, left):
    (tmp_path / "epoch").write_text(left)
    with pytest.raises(ValueError, match=f"{tmp_path}/epoch is damaged"):
        history.epochs(tmp_path)


def test_the_next_boot_continues_from_the_disk(tmp_path):
    disk, folder, next_boot = tmp_path / "disk", tmp_path / "run", tmp_path / "next"
    history.fetch(disk, folder)
    assert history.epochs(folder) == (0, 0) and history.read(folder) == []
    history.keep(4, 6, folder)
    history.note("active", "nobody is active", 4, folder)
    history.store(disk, folder)
    history.fetch(disk, next_boot)
    assert history.epochs(next_boot) == (4, 6)
    assert [each["epoch"] for each in history.read(next_boot)] == [4]


def test_what_is_in_memory_counts_for_as_long_as_the_machine_is_up(tmp_path):
    """The disk stood still, or is full: a restarted agent must not start from the older copy on it."""
    disk, folder = tmp_path / "disk", tmp_path / "run"
    history.keep(4, 6, folder)
    history.store(disk, folder)
    history.keep(7, 7, folder)
    history.fetch(disk, folder)
    assert history.epochs(folder) == (7, 7)


def test_a_process_that_had_to_wait_does_not_overwrite_newer_data(tmp_path):
    disk, folder = tmp_path / "disk", tmp_path / "run"
    history.keep(4, 6, folder)
    with open(folder / history.LOCK, "w") as first:       # an earlier process waits for the disk
        fcntl.flock(first, fcntl.LOCK_EX)
        waits = threading.Thread(target=history.store, args=(disk, folder))
        waits.start()
        history.keep(7, 7, folder)
        waits.join(0.2)
        assert waits.is_alive() and not disk.exists()
    waits.join(5)
    assert history.epochs(disk) == (7, 7)


def test_an_existing_folder_is_not_made_again(tmp_path, monkeypatch):
    """For a mkdir of /run the kernel waits for the disk under /: a standby whose disk stood still did so as well."""
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *_, **__: pytest.fail("made"))
    history.replace(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_disk_that_refuses_is_logged(tmp_path, monkeypatch):
    history.keep(4, 6, tmp_path / "run")
    (tmp_path / "disk").write_text("no folder")
    with pytest.raises(OSError):
        history.store(tmp_path / "disk", tmp_path / "run")
    said: list[str] = []
    monkeypatch.setattr(history, "store", lambda: history.replace(tmp_path / "disk/epoch", ""))
    monkeypatch.setattr("agent.system.log", lambda _priority, text: said.append(text))
    assert program.main(["store"]) == 1 and "not on the disk" in said[0], said


def test_damaged_lines_of_the_history_are_left_out(tmp_path):
    history.note("active", "nobody is active", 1, tmp_path)
    with open(tmp_path / "history", "a", encoding="utf-8") as file:
        file.write('{"at": "2026-\n[]\n')
    history.note("standby", "switch-over", 1, tmp_path)
    assert [each["role"] for each in history.read(tmp_path)] == ["active", "standby"]
