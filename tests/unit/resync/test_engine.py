"""The engine writes its status for people: soon, and not for each event."""
from __future__ import annotations

import errno

import pytest
import salt.config

from resync import events, files, settings
from tests.conftest import EXAMPLES, TREE

SITE, GW1 = "winterthur", "gw1.winterthur"


@pytest.fixture
def engine(load, tmp_path, monkeypatch):
    """The engine with a clock of the test's own; `written` counts the writes."""
    module = load("_engines/gateway_resync.py")
    opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(EXAMPLES)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "cachedir": str(tmp_path), "pki_dir": str(tmp_path)}
    now = [100.0]
    monkeypatch.setattr(module, "clock", lambda: now[0])
    its = module.Engine(opts, settings.Config(formulas=("kernel",)))
    its.now, its.count = now, 0
    write = files.write_status

    def counted(cachedir, status):
        its.count += 1
        write(cachedir, status)

    monkeypatch.setattr(files, "write_status", counted)
    for name in ("ask", "apply", "say", "raise"):
        monkeypatch.setattr(its, f"do_{name}", lambda _action: None)
    its.handle(events.Inputs("tree", {SITE: "a"}))
    return its


def drift(number: int) -> events.Drifted:
    return events.Drifted(SITE, GW1, "file_changed", f"/{number}", "kernel")


def test_many_events_are_one_write_and_the_last_state_follows(engine, tmp_path):
    engine.now[0] += 2
    before = engine.count
    for number in range(50):
        engine.handle(drift(number))
    assert engine.count == before + 1
    assert len(files.read_status(tmp_path)["drift"]) == 1
    for _ in range(5):  # as the loop looks at the files
        engine.now[0] += 0.5
        engine.handle(events.Inputs("tree", {SITE: "a"}))
    assert engine.count == before + 2
    assert f"{GW1}: and 30 more" in files.read_status(tmp_path)["drift"]


def test_an_order_is_confirmed_at_once_also_among_many_events(engine, tmp_path):
    for number in range(5):
        engine.handle(drift(number))
        engine.handle(events.Order("stop", SITE))
        assert files.read_status(tmp_path)["orders"] == number + 1
    assert files.read_status(tmp_path)["stopped"] == [SITE]


def test_a_status_that_can_not_be_written_stops_nothing(engine, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_status", full)
    engine.handle(events.Order("stop", SITE))
    assert engine.machine.stopped == {SITE}
