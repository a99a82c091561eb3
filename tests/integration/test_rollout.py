"""The engine at work: a real master and two real minions, whose heartbeat and whose number (drift.inputs) are files.

tests/lab tests what it does to real gateways.
"""
from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_orch import APPLY, PAIR, STAND_IN, TOP, Pair
from tests.integration.test_resync import SITE, by_hand, called, drifted, events, eventually, order, status

GW1, GW2 = PAIR
RECORD = '''
"""A record of what this node is made of that is a file."""
import json
from pathlib import Path

FOLDER = Path({folder!r})


def _path():
    return FOLDER / ("made-of-" + __opts__["id"])


def inputs():
    return json.loads(_path().read_text())


def fingerprints():
    return json.loads((FOLDER / ("prints-" + __opts__["id"])).read_text())


def record():
    number, tree = __pillar__.get("gateway_inputs", ""), __pillar__.get("gateway_tree", "")
    _path().write_text(json.dumps({{"inputs": number, "recorded_at": "", "current": True, "tree": tree,
                                    "disabled": False}}))
    return True
'''
APPLY_ALL = f"{APPLY}\nrecorded:\n  module.run:\n    - name: drift.record\n    - require:\n      - module: applied\n"


class Rolling(Pair):
    """The pair with its numbers and fingerprints."""

    def made_of(self, minion: str, number: str, current: bool = True) -> None:
        record = {"inputs": number, "recorded_at": "", "current": current}
        (self.folder / f"made-of-{minion}").write_text(json.dumps(record))

    def number(self, minion: str) -> str:
        return json.loads((self.folder / f"made-of-{minion}").read_text())["inputs"]

    def changes(self, minion: str, **its: object) -> None:
        """Change some values of what the node answers."""
        file = self.folder / f"made-of-{minion}"
        file.write_text(json.dumps(json.loads(file.read_text()) | its))

    def prints(self, minion: str, **fingerprints: str) -> None:
        (self.folder / f"prints-{minion}").write_text(json.dumps(fingerprints))

    def at_rest(self) -> bool:
        its = status(self.salt)
        return not its["queue"] and not its["running"] and not its["drift"]

    def edit(self) -> float:
        """Change the site's own file. Returns when, in seconds since the epoch."""
        file = self.salt.tree / f"pillar/sites/{SITE}.sls"
        file.write_text(f"{file.read_text()}# {time.time()}\n")
        return time.time()


@pytest.fixture(scope="module")
def prepared(salt_, looked) -> Iterator[Rolling]:
    folder = salt_.tree.parent / "rolling"
    folder.mkdir()
    tree = salt_.tree
    files = {tree / "_modules/heartbeat.py": STAND_IN.format(folder=str(folder)),
             tree / "_modules/drift.py": RECORD.format(folder=str(folder)),
             tree / "salt/top.sls": TOP, tree / "salt/stand_in.sls": APPLY_ALL,
             tree / "salt/kernel/init.sls": APPLY,
             tree / "salt/orch/resync.sls": (tree / "salt/orch/resync.sls").read_text().replace(
                 "/etc/salt/gateway", str(folder))}
    site = tree / f"pillar/sites/{SITE}.sls"
    kept = {path: path.read_text() if path.exists() else None for path in [*files, site]}
    order(salt_, "stop")
    for path, text in files.items():
        path.write_text(text)
    shutil.copy(tree / "salt/gateway/files/same-tree.conf", folder)
    pair = Rolling(salt_, folder)
    for minion in PAIR:
        pair.made_of(minion, "old")
        pair.prints(minion)
    try:
        salt_.run("fileserver.clear_file_list_cache")
        salt_.call_all(PAIR, "saltutil.sync_modules")
        yield pair
    finally:
        order(salt_, "stop")
        for path, text in kept.items():
            path.unlink() if text is None else path.write_text(text)
        salt_.run("fileserver.clear_file_list_cache")
        salt_.call_all(PAIR, "saltutil.sync_modules")
        order(salt_, "go")


@pytest.fixture
def pair(prepared) -> Iterator[Rolling]:
    """A pair that is up to date, with gw1 active and the engine running."""
    prepared.begin("active", "standby")
    order(prepared.salt, "go")
    order(prepared.salt, "now", SITE)
    eventually(lambda: len(prepared.log) == 4 and prepared.at_rest(), 120)
    prepared.begin("active", "standby")
    yield prepared
    prepared.begin("active", "standby")


WHOLE = ["gw2 apply", "gw2 healthy standby", "gw1 apply", "gw1 healthy active"]


def test_a_changed_site_goes_to_both_nodes_the_standby_first(pair, capsys):
    begun = pair.edit()
    eventually(lambda: len(pair.log) == 4, 60)
    with capsys.disabled():
        print(f"\nedit to both nodes applied: {time.time() - begun:.1f} s (their states take no time)")
    eventually(pair.at_rest, 30)
    assert pair.log == WHOLE and pair.number(GW1) == pair.number(GW2) != "old"
    assert pair.roles == ["active", "standby"]


def _stray(pair: Rolling) -> list[Path]:
    """Paths among the nodes' modules that are not the tree's: Salt deletes such files when it looks for new modules."""
    folders = [pair.salt.call(minion, "config.get", "extension_modules") for minion in PAIR]
    return [Path(folder) / "modules/stray.py" for folder in folders]


def test_nodes_that_have_the_trees_modules_do_not_look_for_new_ones(pair):
    files = _stray(pair)
    for file in files:
        file.write_text("")
    begun = pair.edit()
    eventually(lambda: len(pair.log) == 4 and pair.at_rest(), 60)
    assert pair.log == WHOLE and all(file.exists() for file in files)
    assert [job["tgt"] for job in events(pair.salt, "salt/job/*/new", begun)
            if called(job) == "state.highstate"] == [[GW2], [GW1]]
    (pair.salt.tree / "_modules/new.py").write_text("def there():\n    return True\n")
    try:
        eventually(lambda: len(pair.log) == 8 and pair.at_rest(), 60)
        assert not any(file.exists() for file in files), "a changed tree came without its modules"
        assert pair.salt.call(GW1, "new.there") is True
    finally:
        (pair.salt.tree / "_modules/new.py").unlink()


def test_a_failed_state_on_a_node_that_does_not_look_stops_it_too(pair):
    pair.begin("active", "standby", "gw2 apply")
    pair.edit()
    eventually(lambda: SITE in status(pair.salt)["failed"], 60)
    assert pair.log == ["gw2 apply"]
    pair.begin("active", "standby")
    order(pair.salt, "go", SITE)
    eventually(lambda: len(pair.log) == 4 and pair.at_rest(), 60)


def test_a_node_on_which_somebody_has_disabled_whole_runs_is_waited_for(pair):
    pair.changes(GW1, disabled=True)
    pair.edit()
    eventually(lambda: SITE in status(pair.salt)["queue"], 30)
    time.sleep(6)
    assert pair.log == []
    pair.changes(GW1, disabled=False)
    eventually(lambda: len(pair.log) == 4 and pair.at_rest(), 90)


@pytest.mark.parametrize("same_tree", [True, False])
def test_a_node_that_runs_states_already_is_waited_for_and_nothing_is_told(pair, same_tree):
    begun = time.time()
    if not same_tree:
        for minion in PAIR:
            pair.changes(minion, tree="another")
    # a person's own run, for longer than Salt waits for a sign of life of a job
    assert pair.salt.master.salt_cli().run("--async", "state.single", "cmd.run", "sleep 40",
                                           minion_tgt=GW2).returncode == 0
    eventually(lambda: pair.salt.call(GW2, "saltutil.is_running", "state.*"), 20)
    pair.edit()
    eventually(lambda: "is running as PID" in str(events(pair.salt, "salt/job/*/ret/*", begun)), 60)
    assert pair.log == [] and SITE in status(pair.salt)["queue"]
    eventually(lambda: len(pair.log) == 4 and pair.at_rest(), 120)
    assert pair.log == WHOLE
    assert events(pair.salt, "gateway/master/rollout_failed", begun) == []


def test_a_failed_standby_stops_it_and_nothing_touches_the_active_node(pair):
    pair.begin("active", "standby", "gw2 healthy standby")
    begun = pair.edit()
    eventually(lambda: SITE in status(pair.salt)["failed"], 60)
    time.sleep(3)
    assert pair.log == WHOLE[:2]
    told = events(pair.salt, "gateway/master/rollout_failed", begun)
    assert [each["severity"] for each in told] == ["critical"] and "the active node was not touched" in told[0]["is"]
    assert "the IPsec daemon does not run" in told[0]["is"]
    pair.begin("active", "standby")
    order(pair.salt, "go", SITE)
    eventually(lambda: len(pair.log) == 4 and pair.at_rest(), 60)
    assert events(pair.salt, "gateway/master/rollout_failed", begun)[-1]["recovered"]


def test_a_pair_that_is_none_is_left_alone_until_it_is_one(pair):
    pair.begin("active", "stopped")
    pair.edit()
    eventually(lambda: SITE in status(pair.salt)["queue"], 30)
    time.sleep(6)
    assert pair.log == []
    pair.begin("standby", "active")
    eventually(lambda: len(pair.log) == 4 and pair.at_rest(), 90)
    assert pair.log == ["gw1 apply", "gw1 healthy standby", "gw2 apply", "gw2 healthy active"]


def test_a_node_that_missed_a_change_is_found_when_its_minion_starts(pair):
    pair.made_of(GW2, "old")
    pair.salt.call(GW2, "event.send", "salt/minion/gw2.winterthur/start", {"data": "says anybody"})
    eventually(lambda: len(pair.log) == 4 and pair.at_rest(), 60)
    assert pair.log == WHOLE


def test_a_node_that_returned_is_applied_alone(pair):
    pair.made_of(GW2, pair.number(GW2), current=False)
    pair.salt.call(GW2, "event.send", "salt/minion/gw2.winterthur/start", {})
    eventually(lambda: pair.log, 60)
    pair.salt.call(GW2, "event.send", "salt/minion/gw2.winterthur/start", {})
    time.sleep(5)
    assert pair.log == ["gw2 apply"]


def test_a_change_by_hand_is_put_right_by_its_formula_on_that_node(pair, capsys):
    begun = time.time()
    drifted(pair.salt, by_hand("kernel"))
    eventually(lambda: pair.log, 60)
    with capsys.disabled():
        print(f"\nevent to formula applied: {time.time() - begun:.1f} s")
    drifted(pair.salt, {})
    eventually(pair.at_rest, 30)
    assert pair.log == ["gw1 apply"]
    jobs = [job for job in events(pair.salt, "salt/job/*/new", begun) if called(job) == "state.apply"]
    assert [(job["tgt"], job["arg"][2:3]) for job in jobs] == [([GW1], ["kernel"])]


def test_what_differs_between_the_nodes_is_told_until_it_does_not(pair):
    begun = time.time()
    pair.prints(GW1, **{"certificate gateway": "a" * 64})
    done = pair.salt.run("resync.compare", SITE)
    assert done.returncode == 1
    assert done.data["differences"] == ["certificate gateway: only on gw1.winterthur"]
    pair.edit()
    eventually(lambda: events(pair.salt, "gateway/master/nodes_differ", begun), 60)
    pair.prints(GW1)
    pair.edit()
    eventually(lambda: events(pair.salt, "gateway/master/nodes_differ", begun)[-1]["recovered"], 60)


def test_an_invalid_site_is_refused_although_its_pair_is_well(pair):
    file = pair.salt.tree / f"pillar/sites/{SITE}.sls"
    right = file.read_text()
    try:
        file.write_text(right.replace("ping_nodes:", "ping_node:"))
        eventually(lambda: SITE in status(pair.salt)["refused"], 60)
        assert pair.log == []
    finally:
        file.write_text(right)
    eventually(lambda: SITE not in status(pair.salt)["refused"] and pair.at_rest(), 60)


def test_two_changes_of_the_tree_at_once_are_one_roll_out(pair):
    (pair.salt.tree / "salt/stand_in.sls").write_text(f"{APPLY_ALL}# one\n")
    time.sleep(0.7)
    (pair.salt.tree / "salt/stand_in.sls").write_text(f"{APPLY_ALL}# two\n")
    eventually(lambda: len(pair.log) >= 4 and pair.at_rest(), 90)
    assert pair.log == WHOLE
