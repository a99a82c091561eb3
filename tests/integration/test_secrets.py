"""No secret leaves pillar and its file: not in a return, an event, the job cache, or a log, at the highest level."""
from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def leaves(tree: object) -> Iterator[str]:
    """The texts of nested mappings."""
    for value in tree.values() if isinstance(tree, dict) else [tree]:
        yield from leaves(value) if isinstance(value, dict) else [value]


def needles(values: Iterator[str]) -> list[bytes]:
    """A piece of each that survives line breaks and escapes: the longest run of harmless characters, cut short."""
    return [max(re.findall(r"[A-Za-z0-9+/_=-]+", value), key=len)[:24].encode() for value in values]


@pytest.fixture(scope="module")
def wanted(salt_, looked, highstates) -> list[bytes]:
    """The secrets of both sites, after a run on both; and none of them is too short to be found by its own merit."""
    found = needles(leaves(salt_.secrets))
    assert len(found) >= 6 and min(map(len, found)) >= 20
    return found


@pytest.fixture(scope="module")
def marker(salt_, looked) -> bytes:
    """Something that is no secret and went the same ways: a search that misses it would miss a secret."""
    word = f"no-secret-{secrets.token_hex(8)}"
    assert salt_.call("gw1.winterthur", "test.echo", word) == word
    return word.encode()


def searched(paths: list[Path]) -> dict[Path, bytes]:
    """The contents of all files under some paths."""
    return {path: path.read_bytes() for top in paths for path in [top, *top.rglob("*")]
            if path.is_file() and not path.is_socket()}


def places(contents: dict[Path, bytes], wanted: list[bytes]) -> list[Path]:
    """Where one of the wanted stands."""
    return sorted(path for path, data in contents.items() if any(needle in data for needle in wanted))


def test_returns_hold_no_secret(looked, highstates, wanted):
    text = json.dumps([looked, highstates], default=str).encode()
    assert b"gateway.winterthur.example" in text
    assert not [needle for needle in wanted if needle in text]


def test_events_hold_no_secret(salt_, wanted, marker):
    events, deadline = [], time.monotonic() + 20          # they come a moment later
    while not any(marker in event for event in events) and time.monotonic() < deadline:
        time.sleep(0.2)
        events = [str(event.full_data).encode() for event in list(salt_.master.event_listener.store)]
    assert any(marker in event for event in events)
    assert not [event[:300] for event in events if any(needle in event for needle in wanted)]


def test_the_job_cache_holds_no_secret(salt_, wanted, marker):
    jobs = searched([Path(salt_.master.config["cachedir"]) / "jobs"])
    assert places(jobs, [marker])
    assert places(jobs, wanted) == []


def test_logs_hold_no_secret(salt_, wanted, marker):
    logs = searched([Path(daemon.config["log_file"]) for daemon in (salt_.master, *salt_.minions.values())])
    assert len(places(logs, [marker])) >= 2          # the master's and the minion's
    assert places(logs, wanted) == []


def test_what_else_is_on_disk_is_readable_by_its_owner_only(salt_, wanted):
    """Salt's master keeps each minion's pillar as it sent it (docs/install.md names the place); a minion keeps none."""
    roots = {name: searched([Path(daemon.config["root_dir"])])
             for name, daemon in {"master": salt_.master, **salt_.minions}.items()}
    found = [path for name, contents in roots.items() for path in places(contents, wanted)]
    assert found, "the place is known: has Salt stopped to keep it? Then the document may drop it"
    assert {path.parent for path in found} == {Path(salt_.master.config["cachedir"]) / "pillar"}
    assert {oct(path.stat().st_mode & 0o777) for path in found} == {"0o600"}
