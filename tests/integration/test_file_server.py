"""The file server serves what is under salt/, and nothing else, whatever a minion asks for."""
from __future__ import annotations

import pytest

from tests.conftest import TREE

# Folders of the tree that are linked into salt/ on purpose.
LINKED = {"_modules", "_states", "_beacons"}
OUTSIDE = "pillar/sites/winterthur.sls"
WAYS = [
    "../{}",
    "./../{}",
    "..//{}",
    "gateway/../../{}",
    "_modules/../{}",                    # through a link, whose .. is the tree itself
    "_modules/../../gateway/{}",
    "_states/../{}",
    "/srv/gateway/{}",
    "//srv/gateway/{}",
    "_modules//srv/gateway/{}",
    "|../{}",
    "|_modules/../{}",
    "..%2f{}",
    "%2e%2e/{}",
    "..\\{}",
    "....//{}",
    "../{}?saltenv=base",
    "_modules/../{}?index=0",
    "../{}\x00.sls",
    "gateway/../../../srv/gateway/{}",
]


def served(salt_, path: str, **load: object) -> str:
    """The master's answer to a request for a path, as text."""
    answer = salt_.ask_master("laptop.winterthur", cmd="_serve_file", path=path, loc=0, **load)
    data = answer.get("data", "") if isinstance(answer, dict) else ""
    return data.decode() if isinstance(data, bytes) else data


def test_a_file_under_salt_is_served(salt_):
    """A control: the other tests' way of asking does work."""
    assert served(salt_, "top.sls") == (TREE / "salt/top.sls").read_text()
    assert served(salt_, "_modules/gateway.py").startswith((TREE / "_modules/gateway.py").read_text()[:1000])
    assert salt_.call("laptop.winterthur", "cp.get_file_str", "salt://gateway/init.sls") == (
        TREE / "salt/gateway/init.sls").read_text()


@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_out_of_it(salt_, way):
    assert (salt_.tree / OUTSIDE).is_file()
    path = way.format(OUTSIDE)
    assert served(salt_, path) == ""
    found = salt_.ask_master("laptop.winterthur", cmd="_file_hash", path=path)
    assert not found, f"the master has looked at it: {found}"


@pytest.mark.parametrize("saltenv", ["../pillar", "pillar", "/srv/gateway/pillar", "__env__", "prod"])
def test_no_other_environment_leads_out_of_it(salt_, saltenv):
    for path in ("sites/winterthur.sls", "top.sls", "pillar/sites/winterthur.sls"):
        assert served(salt_, path, saltenv=saltenv) == ""


def test_nothing_else_of_the_tree_is_served(salt_):
    """One file of every folder, requested by its path in the tree."""
    beside = [path for path in salt_.tree.iterdir() if path.name not in {"salt", *LINKED}]
    assert {"pillar", "etc", "README.md"} <= {path.name for path in beside}
    for entry in beside:
        file = next((path for path in [entry, *sorted(entry.rglob("*"))] if path.is_file()), None)
        if file:
            assert served(salt_, str(file.relative_to(salt_.tree))) == "", file


def test_a_minion_asking_in_the_usual_way_gets_nothing_either(salt_):
    for url in ("salt://../pillar/sites/winterthur.sls", "salt://_modules/../../gateway/pillar/sites/winterthur.sls",
                "salt://|../pillar/sites/winterthur.sls", "/srv/gateway/pillar/sites/winterthur.sls?saltenv=base"):
        answer = salt_.call("laptop.winterthur", "cp.get_file_str", url.removeprefix("/srv/gateway/"))
        assert "gateway:" not in str(answer), (url, answer)


def test_only_what_is_under_salt_is_listed(salt_):
    listed = set(salt_.call("laptop.winterthur", "cp.list_master"))
    under = {str(path.relative_to(salt_.tree / "salt")) for path in (salt_.tree / "salt").rglob("*") if path.is_file()}
    linked = {f"{folder}/{path.name}" for folder in LINKED for path in (salt_.tree / folder).glob("*.py")}
    linked |= {f"{formula}/{folder}/{path.name}" for formula, folder in (
        ("heartbeat", "agent"), ("heartbeat", "sessions"), ("openswan", "peers"))
               for path in (salt_.tree / folder).iterdir() if path.is_file()}
    assert {"top.sls", "_modules/gateway.py", "heartbeat/agent/run"} <= listed
    assert listed == under | linked
    assert not [path for path in listed if not path.startswith("_modules/") and "secrets/" in path]


def test_only_code_is_in_the_linked_folders(salt_):
    """Every minion can read what is there."""
    for folder in LINKED:
        assert {path.suffix for path in (salt_.tree / folder).rglob("*") if path.is_file()} <= {".py"}, folder


def test_no_minion_can_put_a_file_onto_the_master(salt_):
    answer = salt_.ask_master("gw1.winterthur", cmd="_file_recv", path=["planted"], loc=0, size=1, data=b"x")
    assert not answer
    assert not list(salt_.tree.parent.rglob("planted"))
