"""The master's configuration gateway_resync, and the engine's files on disk."""
from __future__ import annotations

import stat

import pytest
import yaml

from resync import files, settings
from tests.conftest import TREE


def test_without_a_word_it_works():
    its = settings.read(None)
    assert its.enabled and its.mistakes == () and its.decide.parallel == 4 and its.decide.after == ()
    assert not its.decide.dry_run


def test_everything_can_be_said():
    its = settings.read({"dry_run": True, "first": "bern", "parallel": 2, "quiet": 3, "without": ["zug"], "rank": 1,
                         "other": "192.0.2.5"})
    assert its.mistakes == () and its.decide[:6] == (True, ("bern",), 2, 3.0, ("192.0.2.5",), ("zug",))


@pytest.mark.parametrize(("given", "line"), [
    ({"enabeld": True}, "enabeld: is unknown; the keys are enabled, dry_run"),
    ({"enabled": "yes"}, "enabled: 'yes' is neither true nor false"),
    ({"parallel": 0}, "parallel: 0 is not between 1 and 100"),
    ({"parallel": True}, "parallel: True is not between"),
    ({"quiet": 0.5}, "quiet: 0.5 is not between 1.2 and 600"),
    ({"first": ["../bern"]}, "first: ['../bern'] is no list of sites"),
    ({"without": 7}, "without: 7 is no list of sites"),
    ({"rank": 2}, "rank: 2 is not between 0 and 1"),
    ({"rank": 1}, "other: is missing"),
    ([], "must be a mapping"),
])
def test_a_mistake_leaves_it_off_and_is_said(given, line):
    its = settings.read(given)
    assert not its.enabled and len(its.mistakes) == 1
    assert its.mistakes[0].startswith(f"gateway_resync: {line}")


def test_the_formulas_are_those_of_the_tree(schema):
    assert set(settings.FORMULAS) == set(schema["features"]["keys"]) & {path.name for path in (TREE / "salt").iterdir()}


def test_the_engine_is_started_and_its_pillar_given_by_what_is_shipped():
    shipped = yaml.safe_load((TREE / "etc/salt/master.d/gateway.conf").read_text())
    assert {"gateway_resync": {}} in shipped["engines"] and {"gateway_node": {}} in shipped["ext_pillar"]
    assert "gateway_resync" not in shipped, "as resync.settings has it"


def test_what_is_kept_comes_back_and_is_nobody_elses(tmp_path):
    state = {"stopped": [""], "failed": {"bern": "1"}, "refused": {}, "halted": "bern", "raised": {"a b ": "c"}}
    files.write_state(tmp_path, state)
    assert files.read_state(tmp_path) == state
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"stopped": {}, "failed": 7, "more": []}'])
def test_a_damaged_file_is_as_none(tmp_path, text):
    files.folder(tmp_path).mkdir()
    (files.folder(tmp_path) / "state").write_text(text)
    assert files.read_state(tmp_path) == {}
    (files.folder(tmp_path) / "status").write_text(text)
    assert files.read_status(tmp_path) == {}


def test_a_state_of_affairs_has_an_age(tmp_path):
    files.write_status(tmp_path, {"enabled": True})
    assert files.read_status(tmp_path)["enabled"] and 0 <= files.read_status(tmp_path)["at"] < 5
