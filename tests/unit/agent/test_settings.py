"""agent.json: what the agent reads, and one line for every mistake."""
from __future__ import annotations

import copy
import json

import pytest

from agent import settings
from agent.__main__ import main

GOOD = {
    "node": "gw1", "peer": "gw2", "preferred": True,
    "addresses": [{"address": "192.0.2.10", "prefix": 32, "interface": "bond0"},
                  {"address": "2001:db8:0::10", "prefix": 128, "interface": "bond0"}],
    "uplinks": ["bond0"], "ping_nodes": ["192.0.2.1"], "failback": "auto", "failback_delay": 300,
    "daemon": {"initiate": ["winterthur", "bern/1"]}, "deadtime": 1.0, "deadping": 1.0,
    "fence": {"command": ["/usr/local/sbin/fence", "gw2"], "timeout": 10}, "compare": True,
}


def test_good():
    read = settings.parse(GOOD)
    assert read.addresses[1] == settings.Address("2001:db8::10", 128, "bond0")
    assert read.daemon and read.daemon.initiate == ("winterthur", "bern/1")
    assert settings.parse({**GOOD, "daemon": None, "fence": None}).fence is None


@pytest.mark.parametrize(("path", "value", "line"), [
    (["node"], "gw 1", "node: 'gw 1' is no node name"),
    (["node"], "GW2", "node and peer are both GW2"),
    (["preferred"], 1, "preferred: 1 has the wrong type"),
    (["addresses"], [], "addresses: none"),
    (["addresses", 0, "address"], "192.0.2.300", "addresses[0]: address: '192.0.2.300' is no address"),
    (["addresses", 0, "prefix"], 33, "addresses[0]: prefix: 33 is not between 1 and 32"),
    (["addresses", 0, "interface"], "lo", "addresses[0]: interface: 'lo'"),
    (["addresses", 1, "address"], "192.0.2.10", "listed twice"),
    (["addresses", 0], "192.0.2.1", "is no mapping"),
    (["uplinks"], ["a/b"], "uplinks: 'a/b' is no name"),
    (["ping_nodes"], ["router"], "ping_nodes: 'router' is no address"),
    (["ping_nodes"], [[]], "ping_nodes: [] is no address"),
    (["failback"], "on", "failback: 'on' is neither manual nor auto"),
    (["failback_delay"], -1, "failback_delay: -1 is not between"),
    (["deadtime"], 0.1, "deadtime: 0.1 is not between"),
    (["deadtime"], "1s", "deadtime: '1s' has the wrong type"),
    (["daemon", "initiate"], ["a b"], "daemon: initiate: 'a b'"),
    (["daemon", "tunnel"], [], "daemon: tunnel is unknown"),
    (["fence", "command"], ["fence"], "absolute path"),
    (["fence", "timeout"], 0, "fence: timeout: 0 is not between"),
    (["compare"], 1, "compare: 1 has the wrong type"),
    (["colour"], 1, "colour is unknown"),
])
def test_mistakes(path, value, line, tmp_path, capsys):
    values = copy.deepcopy(GOOD)
    where = values
    for each in path[:-1]:
        where = where[each]
    where[path[-1]] = value
    with pytest.raises(settings.Mistakes) as found:
        settings.parse(values)
    assert any(line in each for each in found.value.args), found.value.args
    (tmp_path / "agent.json").write_text(json.dumps(values))
    assert main(["check", str(tmp_path / "agent.json")]) == 1
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("key", sorted(GOOD))
def test_missing(key):
    with pytest.raises(settings.Mistakes, match=f"{key} is missing"):
        settings.parse({name: value for name, value in GOOD.items() if name != key})


def test_all_mistakes_at_once():
    with pytest.raises(settings.Mistakes) as found:
        settings.parse({})
    assert len(found.value.args) >= len(GOOD)


def test_check_and_no_agent(tmp_path, capsys, monkeypatch):
    (tmp_path / "agent.json").write_text(json.dumps(GOOD))
    assert main(["check", str(tmp_path / "agent.json")]) == 0
    assert main(["check", str(tmp_path / "none.json")]) == 1
    (tmp_path / "agent.json").write_text("{")
    assert main(["check", str(tmp_path / "agent.json")]) == 1
    capsys.readouterr()
    from agent import control
    monkeypatch.setattr(control.ask, "__defaults__", (str(tmp_path / "none.sock"),))
    assert main(["status"]) == 3
    assert capsys.readouterr().err.count("\n") == 1
