"""What the agent keeps on the disk."""
from __future__ import annotations

import pytest

from agent import history


def test_epochs_come_back_as_they_were_kept(tmp_path):
    assert history.epochs(tmp_path) == (0, 0)
    history.keep(4, 6, tmp_path)
    assert history.epochs(tmp_path) == (4, 6)


@pytest.mark.parametrize("left", ["", "4\n", "4 x\n", "-4 6\n", "4 6 7\n"])
def test_a_damaged_file_is_named(tmp_path, left):
    (tmp_path / "epoch").write_text(left)
    with pytest.raises(ValueError, match=f"{tmp_path}/epoch is damaged"):
        history.epochs(tmp_path)


def test_damaged_lines_of_the_history_are_left_out(tmp_path):
    history.note("active", "nobody is active", 1, tmp_path)
    with open(tmp_path / "history", "a", encoding="utf-8") as file:
        file.write('{"at": "2026-\n[]\n')
    history.note("standby", "switch-over", 1, tmp_path)
    assert [each["role"] for each in history.read(tmp_path)] == ["active", "standby"]
