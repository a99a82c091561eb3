"""A changed key counts everywhere from the next check on."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from alerts import authentic
from nodes.keys import Keys


def test_a_changed_file_is_noticed_at_once(tmp_path: Path) -> None:
    one, two = Keys(tmp_path), Keys(tmp_path)
    assert one.secret() == two.secret() == authentic.load_secret(tmp_path)
    new = tmp_path / "new"
    new.write_text("ab" * 32)
    os.replace(new, tmp_path / authentic.SECRET)
    assert one.secret() == two.secret() == bytes.fromhex("ab" * 32)
    assert (one.changes, two.changes) == (1, 1)


@pytest.mark.parametrize("text", [None, "", "ab", "x" * 64])
def test_a_missing_or_damaged_file_leaves_the_key_before_and_makes_no_new_one(tmp_path: Path, text: str | None) -> None:
    keys = Keys(tmp_path)
    before, path = keys.secret(), tmp_path / authentic.SECRET
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert keys.secret() == before and keys.changes == 0
    assert path.exists() == (text is not None)
    path.unlink(missing_ok=True)
    path.write_text("cd" * 32)
    assert keys.secret() == bytes.fromhex("cd" * 32)


def test_a_secret_given_never_changes() -> None:
    assert Keys.fixed(b"x").secret() == b"x"
