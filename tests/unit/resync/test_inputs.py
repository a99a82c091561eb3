"""The number of a site's nodes: what changes it, and what does not."""
from __future__ import annotations

import os
import re
import shutil
import threading
import time

import pytest

from resync import inputs
from resync.inputs import Inputs, of_site
from tests.conftest import TREE


@pytest.fixture
def tree(tmp_path):
    """A small tree of old files, laid out like the shipped tree."""
    for name in ("salt/kernel", "salt/_modules", "agent", "pillar/sites", "pillar/secrets/issued",
                 "pillar/secrets/crls"):
        (tmp_path / name).mkdir(parents=True)
    for name, text in {"salt/kernel/init.sls": "a", "salt/_modules/x.py": "b", "agent/worker.py": "c",
                       "pillar/top.sls": "d", "pillar/schema.sls": "e", "pillar/alerts.sls": "f",
                       "pillar/sites/bern.sls": "g", "pillar/sites/basel.sls": "h", "pillar/secrets/bern.sls": "i",
                       "pillar/secrets/crls/bern.sls": "j"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "salt/agent").symlink_to("../agent")
    age(tmp_path)
    return tmp_path


def age(folder, seconds=3600):
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.utime(os.path.join(root, name), (time.time() - seconds,) * 2)


def looks(tree):
    return Inputs([tree / "salt"], [tree / "pillar"])


@pytest.mark.parametrize(("name", "sites"), [
    ("salt/kernel/init.sls", {"basel", "bern"}), ("agent/worker.py", {"basel", "bern"}),
    ("salt/kernel/new.sls", {"basel", "bern"}), ("pillar/schema.sls", {"basel", "bern"}),
    ("pillar/beacons.sls", {"basel", "bern"}), ("pillar/sites/bern.sls", {"bern"}),
    ("pillar/secrets/bern.sls", {"bern"}), ("pillar/secrets/basel.sls", {"basel"}),
    ("pillar/secrets/issued/basel.sls", {"basel"}), ("pillar/secrets/crls/bern.sls", {"bern"}),
    ("pillar/alerts.sls", set()), ("pillar/sites/.bern.sls.swp", set()), ("salt/kernel/init.sls~", set()),
    ("salt/kernel/4913", set()), ("salt/_modules/__pycache__/x.cpython-311.pyc", set()), ("README.md", set()),
])
def test_whose_number_a_file_changes(tree, name, sites):
    same = looks(tree)
    before = same.look()
    assert before == looks(tree).look()
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text("new")
    after = same.look()
    assert {site for site in before.own if before.of(site) != after.of(site)} == sites
    assert after[:2] == looks(tree).look()[:2], "what is remembered is as what is read"


def test_a_removed_file_and_a_removed_site(tree):
    same = looks(tree)
    before = same.look()
    (tree / "salt/_modules/x.py").unlink()
    (tree / "pillar/sites/basel.sls").unlink()
    after = same.look()
    assert list(after.own) == ["bern"] and after.of("basel") == "" and after.shared != before.shared


def test_the_same_contents_elsewhere_and_later_have_the_same_number(tree, tmp_path):
    before = looks(tree).look()
    shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    assert looks(tmp_path / "copy").look()[:2] == before[:2]


def test_a_file_with_another_name_is_another(tree):
    before = looks(tree).look()
    (tree / "salt/kernel/init.sls").rename(tree / "salt/kernel/other.sls")
    assert looks(tree).look().shared != before.shared


def test_what_did_not_change_is_not_read_again(tree, monkeypatch):
    monkeypatch.setattr(inputs, "RACY_SECONDS", -1.0)  # ctime can not be set back: these files are new
    same = looks(tree)
    first = same.look()
    monkeypatch.setattr("builtins.open", lambda *_args: pytest.fail("read again"))
    assert same.look() == first


def test_a_link_that_leads_back_ends(tree):
    (tree / "salt/kernel/up").symlink_to("..")
    assert looks(tree).look().shared


def test_a_dangling_link_and_a_folder_that_is_called_like_a_site(tree):
    before = looks(tree).look()
    (tree / "salt/kernel/gone").symlink_to("nowhere")
    (tree / "pillar/sites/folder.sls").mkdir()
    after = looks(tree).look()
    assert (after.shared, after.own) == (before.shared, before.own)


def test_names_that_are_no_sites_are_no_paths(tree):
    (tree / "pillar/sites/no site.sls").write_text("")
    assert looks(tree).sites() == ["basel", "bern"]
    assert looks(tree).look(["../secrets/bern", "bern"]).own.keys() == {"bern"}


def test_it_goes_on_while_files_change(tree):
    """While a file is written all the time: no exception. Afterwards the right number."""
    same, stop = looks(tree), threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            (tree / "salt/kernel/new").write_text("x" * (number % 5000))
            os.replace(tree / "salt/kernel/new", tree / "salt/kernel/init.sls")
            (tree / "salt/kernel/more.sls").write_text(str(number))
            (tree / "salt/kernel/more.sls").unlink()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert same.look().own.keys() == {"basel", "bern"}
    finally:
        stop.set()
        writer.join()
    assert same.look()[:2] == looks(tree).look()[:2]


def test_two_changes_within_one_tick_of_the_clock_are_both_seen(tree):
    same, file = looks(tree), tree / "pillar/sites/bern.sls"
    for number in range(10):
        file.write_text(str(number))
        state = file.stat()
        first = same.look()
        file.write_text(str((number + 5) % 10))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert same.look().of("bern") != first.of("bern")


def test_a_pillar_made_right_after_a_change_has_no_number_that_would_hide_it(tree):
    same, now = looks(tree), time.time()
    number = same.look().of("bern")
    assert of_site(same, "bern", now) == (f"unsettled-{number}", f"unsettled-{same.look().shared}")
    assert of_site(same, "bern", now + 2) == (number, same.look().shared)
    assert of_site(same, "basel2", now + 2) == ("", "")


def test_no_secret_is_in_it(tree):
    present = looks(tree).look()
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in (present.shared, *present.own.values()))


def test_the_shipped_tree_is_looked_at_quickly():
    """Every master does this once a second; it must take a thousandth of that."""
    same = Inputs([TREE / "salt"], [TREE / "pillar"])
    same.look()
    begun = time.perf_counter()
    for _ in range(10):
        same.look()
    assert (time.perf_counter() - begun) / 10 < 0.05
