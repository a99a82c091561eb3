"""gateway_reactions in the master's configuration: what is right, and a line with file and key for what is not."""
from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alerts import reaction_settings
from alerts.reaction_settings import PHASES, Rule, read
from tests.conftest import TREE

SITES = ["bern", "winterthur"]
GOOD = {"when": {"conditions": ["peer_dead"], "severities": "critical", "sites": ["bern"], "phases": ["opened"]},
        "sls": "ticket", "settings": {"command": ["/bin/true"]}}


def check(*entries, where: str = "") -> reaction_settings.Settings:
    return read(list(entries), SITES, reaction_settings.in_roots([str(TREE / "salt")]), where)


def test_nothing_is_nothing():
    assert read(None, [], lambda _path: False) == ((), ())
    assert read([], [], lambda _path: False) == ((), ())


def test_an_entry():
    assert check(GOOD).rules == (Rule(("peer_dead",), (), ("critical",), ("bern",), ("opened",), ("ticket",),
                                      {"command": ["/bin/true"]}, 10, 60.0, 600.0),)
    assert check({"sls": ["ticket", "orchestrate"], "limit": 3, "timeout": 1800, "max_age": 86400,
                  "settings": {"command": ["/x"], "orchestration": "orch.mine"}}).rules == (
        Rule((), (), (), (), ("opened", "escalation", "happened"), ("ticket", "orchestrate"),
             {"command": ["/x"], "orchestration": "orch.mine"}, 3, 1800.0, 86400.0),)


@pytest.mark.parametrize("change, line", [
    (7, "gateway_reactions:1: must be a mapping of when and sls"),
    ({"whenn": {}}, "gateway_reactions:1:whenn: is unknown; the keys are when, sls, settings, limit, timeout, max_age"),
    ({"when": []}, "gateway_reactions:1:when: must be a mapping of conditions, "),
    ({"when": {"site": "bern"}}, "gateway_reactions:1:when:site: is unknown; the keys are conditions, beacons, "),
    ({"when": {"sites": ["berne"]}}, "gateway_reactions:1:when:sites: 'berne' is none of the sites; there are bern, "
                                     "winterthur"),
    ({"when": {"sites": []}}, "gateway_reactions:1:when:sites: must be a name or a list of names"),
    ({"when": {"severities": ["crit"]}}, "gateway_reactions:1:when:severities: 'crit' is none of the severities; there "
                                         "are info, warning, critical"),
    ({"when": {"conditions": ["peer_deaf"]}}, "gateway_reactions:1:when:conditions: 'peer_deaf' is none of the "),
    ({"when": {"conditions": ["reaction_failed"]}}, "gateway_reactions:1:when:conditions: 'reaction_failed' is none"),
    ({"when": {"beacons": "bond"}}, "gateway_reactions:1:when:beacons: 'bond' is none of the beacons; there are "),
    ({"when": {"phases": [True]}}, "gateway_reactions:1:when:phases: must be a name or a list of names"),
    ({"when": {"phases": "closed"}}, "gateway_reactions:1:when:phases: 'closed' is none of the phases; there are "
                                     f"{', '.join(PHASES)}"),
    ({"sls": None}, "gateway_reactions:1:sls: must be a name or a list of names"),
    ({"sls": "tickets"}, "gateway_reactions:1:sls: there is no reactor/tickets.sls in the folders of file_roots"),
    ({"sls": "../top"}, "gateway_reactions:1:sls: '../top' is no name of an SLS; give ticket for "),
    ({"sls": "/etc/shadow"}, "gateway_reactions:1:sls: '/etc/shadow' is no name of an SLS"),
    ({"settings": ["x"]}, "gateway_reactions:1:settings: must be a mapping"),
    ({"settings": {"command": ["/x", "y" * 5000]}}, "gateway_reactions:1:settings: must be a mapping"),
    ({"settings": {"command": ["/x", "\U0001f600"]}}, "gateway_reactions:1:settings: must be a mapping"),
    ({"settings": {"command": "/bin/true -x"}}, "gateway_reactions:1:settings:command: ticket needs a list: the "),
    ({"settings": {"command": ["true"]}}, "gateway_reactions:1:settings:command: ticket needs a list: the "),
    ({"settings": {}}, "gateway_reactions:1:settings:command: ticket needs a list: the "),
    ({"sls": "orchestrate"}, "gateway_reactions:1:settings:orchestration: orchestrate needs the name of an "),
    ({"limit": 0}, "gateway_reactions:1:limit: 0 is not between 1 and 1000"),
    ({"limit": True}, "gateway_reactions:1:limit: True is not between 1 and 1000"),
    ({"timeout": "60"}, "gateway_reactions:1:timeout: '60' is not between 1 and 7200"),
    ({"max_age": float("nan")}, "gateway_reactions:1:max_age: nan is not between 10 and 604800")])
def test_a_mistake_is_named_with_file_and_key_and_nothing_is_reacted_to(change, line):
    said = check(GOOD, GOOD | change if isinstance(change, dict) else change, where="/etc/salt/master.d/r.conf")
    assert said.rules == ()
    assert any(mistake.startswith(f"/etc/salt/master.d/r.conf: {line}") for mistake in said.mistakes), said.mistakes
    assert all(len(mistake) < 400 and mistake.isprintable() for mistake in said.mistakes)


@pytest.mark.parametrize("given", [7, "ticket", {"ticket": {}}, True])
def test_anything_else_is_a_mistake(given):
    assert read(given, SITES, lambda _path: True).mistakes == (
        "gateway_reactions: must be a list of what happened (when) and what is done then (sls)",)


def test_too_many_entries_are_a_mistake():
    assert check(*[GOOD] * 101).mistakes == ("gateway_reactions: has more than 100 entries",)


def test_the_file_is_the_last_one_that_salt_reads(tmp_path):
    (tmp_path / "master").write_text("gateway_reactions: []\n")
    (tmp_path / "master.d").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"master.d/{name}.conf").write_text("gateway_reactions: []\n")
    (tmp_path / "master.d/c.conf").write_text("other: 1\n")
    (tmp_path / "master.d/d.conf").write_text("a: b: c\n")
    opts = {"conf_file": str(tmp_path / "master"), "default_include": "master.d/*.conf", "gateway_reactions": 7,
            "file_roots": {}}
    assert reaction_settings.of_master(opts, []).mistakes[0].startswith(
        f"{tmp_path}/master.d/b.conf: gateway_reactions: must be a list")


def test_the_example_in_etc_is_right():
    """The comment in the tree's own drop-in, without its number signs."""
    text = (TREE / "etc/salt/master.d/gateway.conf").read_text()
    lines = text[text.index("# gateway_reactions:"):].split("\n\n")[0].splitlines()
    example = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))
    said = read(example["gateway_reactions"], SITES, reaction_settings.in_roots([str(TREE / "salt")]))
    assert said.mistakes == () and {name for rule in said.rules for name in rule.sls} == {"ticket", "orchestrate"}
    assert {path.stem for path in Path(TREE / "salt/reactor").glob("*.sls")} == {"ticket", "orchestrate"}
