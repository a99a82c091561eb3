"""What decides on a node, file by file: the profile paper as it always was, and the other profiles with the agent.

The files under heartbeat/ are those of the paper's site as the formula wrote them before there was an agent.
"""
from __future__ import annotations

import json

import pytest

from tests.conftest import TREE, load_module
from tests.golden import test_paper as paper

HERE = TREE / "tests/golden/heartbeat"
FORMULA = ("agent", "install", "resource", "configuration", "service")
FILES = {
    "ha.cf": ("configuration", "/etc/ha.d/ha.cf"),
    "haresources": ("configuration", "/etc/ha.d/haresources"),
    "gateway.conf": ("resource", "/etc/ha.d/gateway.conf"),
    "heartbeat.service.conf": ("install", "/etc/systemd/system/heartbeat.service.d/gateway.conf"),
}


@pytest.fixture
def with_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's site in the profile default, as far as that goes."""
    its = {**paper.SITE["heartbeat"], "profile": "default"}
    del its["mail_to"]
    monkeypatch.setattr(paper, "SITE", {**paper.SITE, "heartbeat": its})
    assert paper.GATEWAY.find_mistakes(paper.SITE, paper.SCHEMA) == []


@pytest.mark.parametrize("name", FILES)
def test_the_papers_way_is_what_it_was(name):
    assert paper.managed("heartbeat/" + FILES[name][0], FILES[name][1]) == (HERE / f"{name}.txt").read_text()


def test_the_papers_way_has_nothing_of_the_agent():
    included = paper.rendered("heartbeat/init.sls", paper.MASTER, {})
    assert ".agent" not in included
    for sls in FORMULA[1:]:
        for name, state in paper.states(f"heartbeat/{sls}").items():
            its = {key: value for key, value in state.items() if key not in ("context", "pkgs")}
            assert "agent" not in name and "agent" not in str(its)


def test_with_the_agent_heartbeat_decides_nothing(with_agent):
    assert ".agent" in paper.rendered("heartbeat/init.sls", paper.MASTER, {})
    ha_cf = paper.lines(paper.managed(*_of("ha.cf")))
    assert {"respawn root /usr/local/lib/gateway/agent/run", "apiauth gateway-agent uid=root", "auto_failback off",
            "deadping 1"} <= set(ha_cf)
    assert not [line for line in ha_cf if "ipfail" in line]
    assert paper.lines(paper.managed(*_of("haresources"))) == []
    unit = paper.managed(*_of("heartbeat.service.conf"))
    assert "ExecStart=\nExecStart=/usr/libexec/heartbeat/heartbeat -f -M\n" in unit
    assert "\nPIDFile=\nRestartForceExitStatus=0\n" in unit
    assert "heartbeat_resource_reload" not in paper.rendered("heartbeat/resource.sls", paper.MASTER, {})


def test_with_the_agent_heartbeat_writes_no_file_and_rsyslog_does(with_agent):
    """heartbeat waits for a disk that stands still, and such a standby takes nothing over."""
    assert not [line for line in paper.lines(paper.managed(*_of("ha.cf"))) if line.startswith(("logfile", "debugfile"))]
    rsyslog = paper.lines(paper.managed("logging/init", "/etc/rsyslog.d/60-gateway.conf"))
    assert ':programname, isequal, "heartbeat" /var/log/ha-log' in rsyslog
    rotated = paper.managed("logging/init", "/etc/logrotate.d/gateway")
    assert "\n/var/log/warn /var/log/ha-log {\n" in rotated and "ha-debug" not in rotated
    assert rotated.count("rsyslog-rotate") == rotated.count("weekly") == 1


def test_in_the_papers_way_it_writes_its_files_itself():
    rotated = paper.managed("logging/init", "/etc/logrotate.d/gateway")
    assert "\n/var/log/warn {\n" in rotated and "\n/var/log/ha-log /var/log/ha-debug {\n" in rotated
    assert not [line for line in paper.lines(paper.managed("logging/init", "/etc/rsyslog.d/60-gateway.conf"))
                if "heartbeat" in line]


def test_what_the_agent_is_told(with_agent):
    told = json.loads(paper.managed("heartbeat/agent", "/etc/ha.d/agent.json"))
    assert told == {
        "node": "gw-master-dl380", "peer": "gw-slave-dl380", "preferred": True,
        "addresses": [{"address": "160.85.178.167", "prefix": 32, "interface": "bond0"},
                      {"address": "10.0.0.10", "prefix": 32, "interface": "bond1"}],
        "uplinks": ["bond0"], "ping_nodes": ["160.85.160.1", "10.0.0.2"], "failback": "auto", "failback_delay": 300,
        "daemon": {"initiate": []}, "deadtime": 1.0, "deadping": 1.0, "fence": None, "compare": False}


@pytest.mark.parametrize("name", ["winterthur", "bern"])
def test_the_agent_itself_accepts_what_it_is_told(settings, site, name):
    agent = pytest.importorskip("agent.settings")
    heartbeat, ipsec = load_module("_modules/heartbeat.py"), load_module("_modules/ipsec.py")
    for node in site(name)["nodes"]:
        its = settings(name, node)
        told = json.loads(heartbeat.agent_json(its, ipsec.tunnels(its)))
        assert agent.parse(told).node == node and set(told) == set(agent.Settings._fields)


def test_without_ipsec_the_agent_has_no_daemon(gateway, schema, site):
    bare = {**site("winterthur"), "features": {"openswan": False}}
    told = load_module("_modules/heartbeat.py").agent_json(gateway.derive(bare, schema, "gw1"), [])
    assert json.loads(told)["daemon"] is None


def test_everything_that_decides_waits_for_the_way(with_agent):
    """Nothing of the other way is written under a running heartbeat: see heartbeat.way."""
    states = {name: state for sls in FORMULA for name, state in paper.states(f"heartbeat/{sls}").items()}
    waits = [name for name, state in states.items() if {"heartbeat": "heartbeat_way"} in state.get("require", [])]
    assert sorted(waits) == ["/etc/ha.d/ha.cf", "/etc/systemd/system/heartbeat.service.d/gateway.conf",
                             "/usr/local/lib/gateway/agent"]
    assert {"file": "/etc/ha.d/ha.cf"} in states["/etc/ha.d/haresources"]["require"]
    assert {"file": "/etc/ha.d/agent.json"} in states["/etc/ha.d/ha.cf"]["require"]


def _of(name: str) -> tuple[str, str]:
    return "heartbeat/" + FILES[name][0], FILES[name][1]
