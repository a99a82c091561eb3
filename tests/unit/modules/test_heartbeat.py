"""_modules/heartbeat.py with the output of heartbeat 3.0.6's tools and iproute2, recorded on a real pair."""
from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from agent import __main__ as program
from tests.conftest import give_time, load_module

RECORDED = Path(__file__).parent.parent / "recorded/heartbeat"
VIRTUAL = """# Managed by Salt (heartbeat).
address 192.0.2.10/32 bond0
address 2001:db8:be::a/128 bond0
address 198.51.100.10/32 bond1
tunnel bern
"""


class Node:
    """Answers commands as a node in one situation does."""

    def __init__(self, resources: str | None, addresses: str, nodes: dict[str, str] | None = None) -> None:
        self.resources, self.addresses = resources, addresses
        self.nodes = nodes or {"gw1": "active", "gw2": "active"}
        self.reload_refused = self.journal = ""
        self.asked: list[list[str]] = []

    def run_all(self, command: list[str], **options: object) -> dict:
        """commands.run."""
        assert options["timeout"] > 0
        self.asked.append(command)
        answer = {"retcode": 0, "stdout": "", "stderr": ""}
        match command:
            case ["ip", "-j", "address", "show"]:
                answer["stdout"] = (RECORDED / f"addresses-{self.addresses}.json").read_text()
            case ["systemctl", "is-active", "heartbeat"] if self.resources is None:
                answer |= {"retcode": 3, "stdout": "inactive"}
            case ["cl_status", "rscstatus"] if not self.resources:      # it runs, and does not answer its clients yet
                answer |= {"retcode": 1, "stderr": "ERROR: Cannot signon with heartbeat"}
            case ["cl_status", "rscstatus"]:
                answer["stdout"] = self.resources
            case ["cl_status", "nodestatus", node]:
                answer |= {"stdout": self.nodes[node], "retcode": int(self.nodes[node] == "dead")}
            case ["cl_status", "listnodes", "-n"]:
                answer |= {"stdout": "gw2\ngw1"} if self.resources else {"retcode": 1}
            case ["systemctl", "show", *_]:
                answer["stdout"] = "70a1c3b1b0e54b6f9d5f2b6b0d2d7c11"
            case ["journalctl", "--quiet", "--identifier=gateway", *_]:
                answer["stdout"] = self.journal
            case ["journalctl", *_]:
                answer |= {"stdout": self.journal, "retcode": int(not self.journal)}
            case ["systemctl", "reload", "heartbeat"] if self.reload_refused:
                answer |= {"retcode": 1, "stderr": self.reload_refused}
        return answer


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The module on a node in a situation: on(Node(...), "gw1")."""
    def place(node: Node, name: str = "gw1") -> ModuleType:
        module = load_module("_modules/heartbeat.py")
        (tmp_path / "gateway.conf").write_text(VIRTUAL)
        (tmp_path / "haresources").write_text("# the same on both\ngw1 gateway\n")
        for constant, file in (("RESOURCE", "gateway.conf"), ("HARESOURCES", "haresources"), ("LOADED", "loaded")):
            monkeypatch.setattr(module, constant, tmp_path / file)
        monkeypatch.setattr(module, "READ", (tmp_path / "ha.cf", tmp_path / "authkeys"))
        monkeypatch.setattr(module, "__salt__", {"commands.run": node.run_all}, raising=False)
        monkeypatch.setattr(module, "__grains__", {"nodename": name}, raising=False)
        monkeypatch.setattr(module.salt.utils.path, "which", lambda name: f"/usr/bin/{name}")
        give_time(monkeypatch, module, sleep=lambda seconds: None)
        return module
    return place


@pytest.mark.parametrize(("resources", "addresses", "name", "role"), [
    ("all", "active", "gw1", "active"),
    ("none", "standby", "gw1", "standby"),
    ("local", "active", "gw1", "active"),
    ("local", "standby", "gw2", "standby"),        # it has its local resources, but owns none in haresources
    ("foreign", "active", "gw2", "active"),
    ("foreign", "standby", "gw1", "standby"),
    ("transition", "active", "gw1", "transition"),
    ("", "active", "gw1", "transition"),
    (None, "standby", "gw1", "stopped"),
    (None, "active", "gw1", "stopped"),
    ("all", "standby", "gw1", "transition"),       # heartbeat and the kernel do not agree
    ("none", "active", "gw1", "transition"),
])
def test_role(on, resources: str | None, addresses: str, name: str, role: str) -> None:
    assert on(Node(resources, addresses), name).role() == role


def test_says_where_heartbeat_and_the_kernel_do_not_agree(on) -> None:
    assert on(Node("all", "standby")).status()["disagree"] == (
        "heartbeat says this node has these addresses; held: none, "
        "not held: 192.0.2.10, 2001:db8:be::a, 198.51.100.10")
    assert "192.0.2.10, 2001:db8:be::a, 198.51.100.10 is held" in on(Node(None, "active")).status()["disagree"]


def test_some_of_the_addresses_are_no_role(on, monkeypatch: pytest.MonkeyPatch) -> None:
    module = on(Node("all", "active"))
    monkeypatch.setattr(module, "addresses_held", lambda: [{"address": "192.0.2.10", "interface": "bond0"}])
    assert module.role() == "transition"


def test_status_names_the_nodes_and_never_asks_for_an_unknown_one(on) -> None:
    node = Node("all", "active", {"gw1": "active", "gw2": "dead"})
    status = on(node).status()
    assert status["nodes"] == {"gw1": "active", "gw2": "dead"}
    assert status["held"] == ["192.0.2.10", "2001:db8:be::a", "198.51.100.10"]
    assert status["missing"] == [] and status["disagree"] == ""


def test_addresses_held_come_with_their_interface(on) -> None:
    assert on(Node("all", "active")).addresses_held()[2] == {"address": "198.51.100.10", "interface": "bond1"}


def test_before_the_first_run_nothing_is_held(on, tmp_path: Path) -> None:
    module = on(Node(None, "active"))
    (tmp_path / "gateway.conf").unlink()
    assert module.status() == {"role": "stopped", "since": "", "cause": "", "way": "", "running": False, "nodes": {},
                               "links": {}, "ping_nodes": {}, "resources": "", "agent": {}, "held": [], "missing": [],
                               "addresses": {}, "disagree": ""}


def test_unread_names_what_changed_since_heartbeat_read_it(on, tmp_path: Path) -> None:
    module = on(Node("all", "active"))
    for name in ("ha.cf", "authkeys"):
        (tmp_path / name).write_text("x")
    read = [str(int((tmp_path / name).stat().st_mtime)) for name in ("ha.cf", "authkeys")]
    (tmp_path / "loaded").write_text("\n".join(read) + "\n")
    assert module.unread() == []
    (tmp_path / "loaded").write_text(f"{read[0]}\n1\n")
    assert module.unread() == [str(tmp_path / "authkeys")]
    (tmp_path / "loaded").unlink()
    assert len(module.unread()) == 2


def test_a_stopped_heartbeat_has_nothing_to_read(on) -> None:
    assert on(Node(None, "standby")).unread() == []


def test_reload_keeps_the_role(on) -> None:
    assert on(Node("all", "active")).reload()["role"] == "active"


def test_reload_that_is_refused_says_that_heartbeat_goes_on(on) -> None:
    node = Node("all", "active")
    node.reload_refused = "Job for heartbeat.service failed."
    with pytest.raises(CommandExecutionError, match="goes on with what it had: Job for heartbeat.service failed"):
        on(node).reload()


def test_reload_that_changes_the_role_is_an_error(on, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("all", "active")
    module = on(node)
    monkeypatch.setattr(module, "wait_until_settled", lambda timeout: {"role": "standby", "disagree": ""})
    with pytest.raises(CommandExecutionError, match="active before, is now standby"):
        module.reload()


def test_reload_without_heartbeat(on) -> None:
    with pytest.raises(CommandExecutionError, match="systemctl start heartbeat"):
        on(Node(None, "standby")).reload()


def test_waiting_ends_early_when_heartbeat_does_not_stay_up(on, monkeypatch: pytest.MonkeyPatch) -> None:
    module = on(Node(None, "standby"))
    clock = iter(range(100))
    give_time(monkeypatch, module, monotonic=lambda: next(clock))
    assert module.wait_until_settled(90)["role"] == "stopped"
    assert next(clock) < 10


def test_a_node_that_hears_another_key_does_not_become_active(on, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("", "standby")
    node.journal = "heartbeat: [14]: ERROR: authtoken does not match, authtoken=2763, authstr=1789"
    module = on(node)
    clock = iter(range(100))
    give_time(monkeypatch, module, monotonic=lambda: next(clock))
    with pytest.raises(CommandExecutionError, match="signed with another key"):
        module.wait_until_settled(90)
    assert ["systemctl", "kill", "--signal=KILL", "heartbeat"] in node.asked


def test_a_node_that_just_waits_is_left_alone(on, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("", "standby")
    module = on(node)
    clock = iter(range(1000))
    give_time(monkeypatch, module, monotonic=lambda: next(clock))
    assert module.wait_until_settled(90)["role"] == "transition"
    assert not [command for command in node.asked if "kill" in command]


def test_haresources_is_the_papers_line(on, settings) -> None:
    module = on(Node("all", "active"))
    its = settings("winterthur", "gw2")
    assert "gw1" not in module.haresources(its)         # the agent decides
    its["heartbeat"]["agent"] = False
    assert module.haresources(its).splitlines()[-1] == "gw1 gateway"
    its["heartbeat"] |= {"mail_to": ["email@yourdomain.example", "b@yourdomain.example"], "mail_subject": "ha-failover"}
    assert module.haresources(its).splitlines()[-1] == (
        "gw1 gateway MailTo::email@yourdomain.example,b@yourdomain.example::ha-failover")


def test_a_hung_heartbeat_is_an_error(on, monkeypatch: pytest.MonkeyPatch) -> None:
    module = on(Node("all", "active"))
    def hangs(command: list[str], timeout: float) -> dict:
        raise CommandExecutionError(f"{' '.join(command)}: no answer within {timeout} s, so it was ended; look")

    monkeypatch.setattr(module, "__salt__", {"commands.run": hangs}, raising=False)
    with pytest.raises(CommandExecutionError, match="systemctl is-active heartbeat: no answer within 10 s"):
        module.running()


# With the role agent

AGENT_SAYS = {
    "role": "active", "epoch": 7, "since": "2026-11-24T01:02:03.004+00:00", "cause": "gw2 is dead", "ready": True,
    "not_ready_because": "", "held": [], "missing": [], "links": {"bond0": "up", "bond1": "dead"},
    "ping_nodes": {"192.0.2.1": "up"}, "daemon": "alive",
    "peer": {"node": "gw2", "heartbeat": "active", "agent": "there", "role": "standby", "ready": True, "epoch": 6},
}


class AgentNode(Node):
    """A node whose agent says something; None: no agent runs. Its verbs move the role."""

    def __init__(self, says: dict | None, addresses: str, **more: object) -> None:
        super().__init__("all", addresses, **more)
        self.says, self.refuses = says, ""

    def run_all(self, command: list[str], **options: object) -> dict:
        """commands.run."""
        if not command[0].endswith("/run"):
            return super().run_all(command, **options)
        self.asked.append(command)
        if self.says is None:
            return {"retcode": 3, "stdout": "", "stderr": "no agent runs here"}
        if command[1] != "status":
            if self.refuses:
                return {"retcode": 1, "stdout": "", "stderr": self.refuses}
            self.says = self.says | {"role": {"takeover": "active"}.get(command[1], command[1])}
            self.addresses = self.says["role"]
        return {"retcode": 0, "stdout": json.dumps(self.says), "stderr": ""}


@pytest.fixture
def agent_on(on, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The module on a node that has the agent: agent_on(AgentNode(...))."""
    def place(node: AgentNode, name: str = "gw1") -> ModuleType:
        module = on(node, name)
        for constant, path in (("AGENT", "agent"), ("AGENT_JSON", "agent.json"), ("AGENT_HISTORY", "history"),
                               ("AGENT_HISTORY_KEPT", "kept"), ("PROC", "proc")):
            monkeypatch.setattr(module, constant, tmp_path / path)
        (tmp_path / "ha.cf").write_text(f"node gw1\nrespawn root {tmp_path}/agent/run\n")
        (tmp_path / "agent").mkdir(exist_ok=True)
        (tmp_path / "agent/run").touch()
        return module
    return place


def says(**changes: object) -> dict:
    """What the agent says, with changes; `peer_role` changes its peer's role."""
    peer = AGENT_SAYS["peer"] | {"role": changes.pop("peer_role", "standby")}
    return {**AGENT_SAYS, "peer": peer, **changes}


@pytest.mark.parametrize(("said", "addresses", "role"), [
    (says(), "active", "active"),
    (says(role="standby", peer_role="active"), "standby", "standby"),
    (says(role="transition"), "active", "transition"),
    (says(), "standby", "transition"),                          # the agent and the kernel do not agree
    (says(role="standby"), "active", "transition"),
    (says(peer_role="active"), "active", "split"),
    (None, "standby", "transition"),                            # no agent runs
])
def test_role_with_the_agent(agent_on, said: dict | None, addresses: str, role: str) -> None:
    assert agent_on(AgentNode(said, addresses)).role() == role


def test_status_with_the_agent(agent_on) -> None:
    now = agent_on(AgentNode(says(), "active")).status()
    assert now["way"] == "agent" and now["resources"] == "" and now["disagree"] == ""
    assert (now["since"], now["cause"]) == ("2026-11-24T01:02:03.004+00:00", "gw2 is dead")
    assert now["links"] == {"bond0": "up", "bond1": "dead"} and now["ping_nodes"] == {"192.0.2.1": "up"}
    assert now["addresses"] == {"192.0.2.10": "gw1", "2001:db8:be::a": "gw1", "198.51.100.10": "gw1"}
    assert now["agent"]["epoch"] == 7 and now["agent"]["peer"]["role"] == "standby"


def test_who_holds_an_address_is_known_from_the_other_agent_only(agent_on) -> None:
    module = agent_on(AgentNode(says(role="standby", peer_role="active"), "standby"))
    assert set(module.status()["addresses"].values()) == {"gw2"}
    module = agent_on(AgentNode(says(role="standby", peer_role="unknown"), "standby"))
    assert set(module.status()["addresses"].values()) == {""}


def test_a_node_without_its_agent_says_so(agent_on) -> None:
    assert "its role agent does not; held: 192.0.2.10" in agent_on(AgentNode(None, "active")).status()["disagree"]


def test_a_node_without_the_agents_program_has_no_agent(agent_on, tmp_path: Path) -> None:
    module = agent_on(AgentNode(says(), "active"))
    (tmp_path / "agent/run").unlink()
    assert module.role() == "transition" and "its role agent does not; held: " in module.status()["disagree"]


@pytest.mark.parametrize("answer", ["", "[]", "{}", "Traceback"])
def test_an_answer_that_makes_no_sense(agent_on, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    module = agent_on(AgentNode(says(), "active"))
    monkeypatch.setattr(module, "_run", lambda *_, **__: {"retcode": 0, "stdout": answer, "stderr": ""})
    with pytest.raises(CommandExecutionError, match="can not be read"):
        module._agent("status")


def test_the_agent_moves_the_role(agent_on) -> None:
    node = AgentNode(says(), "active")
    module = agent_on(node)
    assert module.standby()["role"] == "standby"
    assert module.takeover(force=True)["role"] == "active"
    assert [command[1:] for command in node.asked if command[0].endswith("/run") and command[1] != "status"] == [
        ["standby"], ["takeover", "--force"]]


def test_a_role_that_is_there_already_is_not_moved(agent_on) -> None:
    node = AgentNode(says(), "active")
    assert agent_on(node).takeover()["role"] == "active"
    assert not [command for command in node.asked if "takeover" in command]


def test_the_agent_s_reason_is_the_error(agent_on) -> None:
    node = AgentNode(says(), "active")
    node.refuses = "gw2 is not ready: its daemon hangs"
    with pytest.raises(CommandExecutionError, match="the role agent: gw2 is not ready: its daemon hangs"):
        agent_on(node).standby()


def test_heartbeat_s_scripts_move_the_role(on) -> None:
    class Scripts(Node):
        def run_all(self, command: list[str], **options: object) -> dict:
            if command[0].startswith("/usr/share/heartbeat/hb_"):
                self.resources = {"hb_standby": "none", "hb_takeover": "all"}[Path(command[0]).name]
                self.addresses = {"none": "standby", "all": "active"}[self.resources]
            return super().run_all(command, **options)
    module = on(Scripts("all", "active"))
    assert module.standby()["role"] == "standby" and module.takeover()["role"] == "active"


def test_the_role_is_not_handed_to_a_dead_node(on) -> None:
    with pytest.raises(CommandExecutionError, match="the heartbeat of gw2 is dead: nobody would take over"):
        on(Node("all", "active", {"gw1": "active", "gw2": "dead"})).standby()


def test_a_stopped_heartbeat_moves_nothing(on) -> None:
    with pytest.raises(CommandExecutionError, match="systemctl start heartbeat"):
        on(Node(None, "standby")).takeover()


def test_waiting_for_a_role(agent_on, monkeypatch: pytest.MonkeyPatch) -> None:
    module = agent_on(AgentNode(says(role="standby", ready=False, not_ready_because="bond0 has no carrier"), "standby"))
    assert module.wait_for_role("standby")["role"] == "standby"
    clock = iter(range(1000))
    give_time(monkeypatch, module, monotonic=lambda: next(clock))
    with pytest.raises(CommandExecutionError,
                       match="after 5 s this node is standby and not active: bond0 has no carrier"):
        module.wait_for_role("active", 5)
    with pytest.raises(CommandExecutionError, match="master is no role; give one of active, standby"):
        module.wait_for_role("master")


def test_links_and_ping_nodes_as_heartbeat_sees_them(on) -> None:
    class Linked(Node):
        def run_all(self, command: list[str], **options: object) -> dict:
            said = {"listhblinks": "bond1\nbond0", "hblinkstatus": "dead" if command[-1] == "bond0" else "up"}
            if command[:1] == ["cl_status"] and command[1] in said:
                return {"retcode": 0, "stdout": said[command[1]], "stderr": ""}
            if command == ["cl_status", "listnodes", "-p"]:
                return {"retcode": 0, "stdout": "192.0.2.1\n198.51.100.2", "stderr": ""}
            if command[:2] == ["cl_status", "nodestatus"] and command[2][0].isdigit():
                return {"retcode": 0, "stdout": "ping" if command[2] == "192.0.2.1" else "dead", "stderr": ""}
            return super().run_all(command, **options)
    now = on(Linked("all", "active")).status()
    assert now["links"] == {"bond1": "up", "bond0": "dead"}
    assert now["ping_nodes"] == {"192.0.2.1": "up", "198.51.100.2": "dead"}


def test_history_with_the_agent(agent_on, tmp_path: Path) -> None:
    module = agent_on(AgentNode(says(), "active"))
    assert module.history() == []
    (tmp_path / "kept").write_text('{"at": "2026-11-23T01:00:00+00:00", "role": "standby", "cause": "before"}\n')
    assert [entry["cause"] for entry in module.history()] == ["before"], "no agent has run since the boot"
    (tmp_path / "history").write_text(
        '{"at": "2026-11-24T01:00:00+00:00", "role": "standby", "cause": "start"}\nbroken\n'
        '{"at": "2026-11-24T02:00:00+00:00", "role": "active", "cause": "gw2 is dead"}\n')
    assert [entry["role"] for entry in module.history()] == ["active", "standby"]
    assert module.history(1) == [{"time": "2026-11-24T02:00:00+00:00", "role": "active", "cause": "gw2 is dead"}]


def test_history_of_the_scripts(on) -> None:
    node = Node("all", "active")
    logged = [
        (1790000300, "start: active, holds 192.0.2.10/32@bond0 198.51.100.10/32@bond1 (node gw2 is dead)"),
        (1790000200, "stop: the IPsec daemon hangs, peers are not told (heartbeat asks)"),
        (1790000100, "stop: standby, gave up 192.0.2.10/32@bond0 (heartbeat asks)"), (1790000000, [1, 2])]
    node.journal = "\n".join(json.dumps({"__REALTIME_TIMESTAMP": str(when * 1000000), "MESSAGE": text})
                             for when, text in logged) + "\nbroken"
    module = on(node)
    assert [(entry["role"], entry["cause"]) for entry in module.history()] == [
        ("active", "node gw2 is dead"), ("standby", "heartbeat asks")]
    now = module.status()
    assert now["since"].startswith("2026-") and now["cause"] == "node gw2 is dead"


@pytest.mark.parametrize(("changes", "ipsec", "wrong"), [
    ({}, [], "gw2 is not heard on bond1"),
    ({"links": {"bond0": "up"}}, ["the IPsec daemon does not run"], "the IPsec daemon does not run"),
    ({"links": {}}, ["the IPsec daemon takes bern for nobody's"], "takes bern for nobody's"),
    ({"links": {}, "ping_nodes": {"192.0.2.1": "dead"}}, [], "the ping node 192.0.2.1 is not reached"),
    ({"links": {}, "ready": False, "not_ready_because": "bond0 has no carrier"}, [], "bond0 has no carrier"),
    ({"links": {}, "role": "transition"}, [], "this node is transition, and must be active or standby"),
    ({"links": {}}, [], ""),
])
def test_health(agent_on, monkeypatch: pytest.MonkeyPatch, changes: dict, ipsec: list[str], wrong: str) -> None:
    def of_the_daemon(serves: bool) -> list[str]:
        assert serves is (changes.get("role", "active") == "active")
        return ipsec

    module = agent_on(AgentNode(says(**changes), "active"))
    module.__salt__ |= {"gateway.settings": lambda: {"features": {"openswan": True}}, "ipsec.wrong": of_the_daemon}
    clock = iter(range(1000))
    give_time(monkeypatch, module, monotonic=lambda: next(clock))
    if wrong:
        with pytest.raises(CommandExecutionError, match=wrong):
            module.healthy(timeout=3)
    else:
        assert module.healthy("active")["role"] == "active"
        with pytest.raises(CommandExecutionError, match="must be standby"):
            module.healthy("standby", timeout=3)


def test_a_daemon_is_waited_for_until_it_does_its_part(on, monkeypatch: pytest.MonkeyPatch) -> None:
    module = on(Node("none", "standby"))
    lines = [["the IPsec daemon has not loaded bern"], [], ["the IPsec daemon takes bern for nobody's"]]
    asked: list[bool] = []

    def wrong(serves: bool) -> list[str]:
        asked.append(serves)
        return lines.pop(0) if len(lines) > 1 else lines[0]

    module.__salt__ |= {"gateway.settings": lambda: {"features": {"openswan": True}}, "ipsec.wrong": wrong}
    clock = iter(range(1000))
    give_time(monkeypatch, module, monotonic=lambda: next(clock))
    assert module.daemon_ready() is True and asked == [False, False]
    with pytest.raises(CommandExecutionError, match="not ready after 3 s: the IPsec daemon takes bern for nobody's"):
        module.daemon_ready("active", 3)
    with pytest.raises(CommandExecutionError, match="'master' is no role; give active or standby"):
        module.daemon_ready("master")
    module.__salt__["gateway.settings"] = lambda: {"features": {"openswan": False}}
    assert module.daemon_ready("active") is True


def process(proc: Path, pid: int, parent: int, age: float, *words: str) -> None:
    """A process that is `age` seconds old."""
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    (proc / "uptime").write_text("1000.00 0\n")
    (proc / str(pid) / "cmdline").write_text("\0".join(words) + "\0")
    ticks = int((1000 - age) * os.sysconf("SC_CLK_TCK"))
    (proc / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} " + "0 " * 17 + f"{ticks} 0\n")


@pytest.fixture
def agent_runs(agent_on, tmp_path: Path):
    """A node whose agent was started 100 s ago, with all its files older than that."""
    node = AgentNode(says(), "active")
    module = agent_on(node)
    module.node = node
    for name in ("ha.cf", "authkeys", "agent.json"):
        (tmp_path / name).touch()
    (tmp_path / "agent/__pycache__").mkdir()
    (tmp_path / "ha.cf").write_text(f"respawn root {tmp_path}/agent/run\n")
    (tmp_path / "loaded").write_text("\n".join(str(int((tmp_path / name).stat().st_mtime))
                                               for name in ("ha.cf", "authkeys")))
    for name in ("agent.json", "agent/run"):
        os.utime(tmp_path / name, (1, 1))
    program = ("/usr/bin/python3", f"{tmp_path}/agent/run")
    process(tmp_path / "proc", 1, 0, 999, "/sbin/init")
    process(tmp_path / "proc", 50, 1, 200, *program)
    process(tmp_path / "proc", 51, 50, 100, *program)
    for number, verb in enumerate(("status", "standby", "takeover", "check", "opening", "store", "release", "later")):
        process(tmp_path / "proc", 40 + number, 1, 1, *program, verb)
    return module


def test_a_worker_that_is_older_than_its_files(agent_runs, tmp_path: Path) -> None:
    assert [each.pid for each in agent_runs._processes()] == [50, 51]
    assert agent_runs.unread() == []
    (tmp_path / "agent/__pycache__/run.pyc").touch()            # Python's cache
    assert agent_runs.unread() == []
    (tmp_path / "agent/run").touch()
    assert agent_runs.unread() == [str(tmp_path / "agent")]
    (tmp_path / "agent.json").touch()
    assert agent_runs.unread() == [str(tmp_path / "agent.json"), str(tmp_path / "agent")]


def test_the_supervisor_is_told_and_a_new_worker_awaited(agent_runs, monkeypatch: pytest.MonkeyPatch,
                                                         tmp_path: Path) -> None:
    told = []

    def kill(pid: int, number: int) -> None:
        told.append((pid, number))
        process(tmp_path / "proc", 51, 50, -5, "/usr/bin/python3", f"{tmp_path}/agent/run")

    monkeypatch.setattr(agent_runs.os, "kill", kill)
    assert agent_runs.reload_agent() is False and not told
    (tmp_path / "agent.json").touch()
    assert agent_runs.reload()["role"] == "active"
    assert told == [(50, 1)]
    assert not [command for command in agent_runs.node.asked if "reload" in command or "restart" in command]


def test_a_worker_that_does_not_come(agent_runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agent_runs.os, "kill", lambda *_: None)
    clock = iter(range(1000))
    give_time(monkeypatch, agent_runs, monotonic=lambda: next(clock))
    (tmp_path / "agent.json").touch()
    with pytest.raises(CommandExecutionError, match="has not taken up its new settings or code within 10 s"):
        agent_runs.reload_agent()


def test_a_changed_ha_cf_waits_on_the_active_node(agent_runs, tmp_path: Path) -> None:
    assert agent_runs.waits() == ""
    (tmp_path / "loaded").write_text("1\n1\n")
    assert "this node is active: apply this state on the standby" in agent_runs.waits()
    with pytest.raises(CommandExecutionError, match="apply this state on the standby"):
        agent_runs.reload()
    assert not [command for command in agent_runs.node.asked if "reload" in command or "restart" in command]


def test_a_changed_ha_cf_restarts_the_standby(agent_runs, tmp_path: Path) -> None:
    agent_runs.node.says, agent_runs.node.addresses = says(role="standby", peer_role="active"), "standby"
    (tmp_path / "loaded").write_text("1\n1\n")
    assert agent_runs.waits() == ""
    assert agent_runs.reload()["role"] == "standby"
    assert ["systemctl", "restart", "heartbeat"] in agent_runs.node.asked


def test_a_standby_that_hears_nobody_after_its_restart_is_stopped(agent_runs, monkeypatch: pytest.MonkeyPatch,
                                                                  tmp_path: Path) -> None:
    node = agent_runs.node
    node.says, node.addresses = says(role="standby", peer_role="active"), "standby"
    (tmp_path / "loaded").write_text("1\n1\n")
    answers = node.run_all

    def run_all(command: list[str], **options: object) -> dict:
        if command == ["systemctl", "restart", "heartbeat"]:
            node.nodes["gw2"] = "dead"
        return answers(command, **options)

    agent_runs.__salt__["commands.run"] = run_all
    clock = iter(range(1000))
    give_time(monkeypatch, agent_runs, monotonic=lambda: next(clock))
    with pytest.raises(CommandExecutionError, match="does not hear gw2 any more"):
        agent_runs.reload()
    assert ["systemctl", "kill", "--signal=KILL", "heartbeat"] in node.asked


def test_a_new_key_is_just_read(agent_runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = (tmp_path / "loaded").read_text().split()[0]
    (tmp_path / "loaded").write_text(f"{first}\n1\n")
    assert agent_runs.reload()["role"] == "active"
    assert ["systemctl", "reload", "heartbeat"] in agent_runs.node.asked


def test_ha_cf_says_who_decides(on, tmp_path: Path) -> None:
    module = on(Node("all", "active"))
    assert module.way() == ""
    (tmp_path / "ha.cf").write_text("respawn root /usr/libexec/heartbeat/ipfail\n")
    assert module.way() == "scripts"
    (tmp_path / "ha.cf").write_text("respawn root /usr/local/lib/gateway/agent/run\n")
    assert module.way() == "agent"


@pytest.mark.parametrize(("packet", "heard"), [
    (b">>>\nt=gwagent\nsrc=gw2\n<<<\n", True), (b">>>\nt=status\n<<<\n", False)])
def test_the_other_agent_is_heard(on, packet: bytes, heard: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    speaking = True

    def speak() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            while speaking:
                mouth.sendto(packet, ("127.0.0.1", port))
                threading.Event().wait(0.01)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        assert on(Node(None, "standby")).hears_agent(port, 5 if heard else 0.1) is heard
    finally:
        speaking = False
        speaker.join()


# glance()

STATUS = {"role": "standby", "epoch": 4, "since": "2026-03-01T00:00:00.000+00:00", "cause": "gw2 is there",
          "node": "gw1", "muted": False, "heartbeat": "alive", "ready": True, "not_ready_because": "", "held": [],
          "missing": ["192.0.2.10"], "links": {"bond0": "up"}, "ping_nodes": {"192.0.2.1": "up"}, "daemon": "alive",
          "starved": False, "stalls": 2, "sessions": "",
          "peer": {"node": "gw2", "heartbeat": "active", "agent": "there", "role": "active", "ready": True,
                   "not_ready_because": "", "epoch": 4, "clock_offset": -0.02}}


class Agent:
    """Something that listens on the agent's socket and gives one answer.

    None: it takes the question and is silent. An empty one: it takes the question and ends the connection.
    """

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.answer, self.questions, self.clients = answer, [], []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            client = self.socket.accept()[0]
            self.clients.append(client)     # not closed: the other side would see an end
            self.questions.append(json.loads(client.recv(4096)))
            if self.answer:
                client.sendall(self.answer)
            elif self.answer is not None:
                client.close()


@pytest.fixture
def looking(on, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module on a node where heartbeat runs and an agent gives this answer: looking(STATUS | {...})."""
    def place(answer: dict | bytes | None, agent: bool = True, running: bool = True) -> ModuleType:
        module = on(Node("none", "standby"))
        folder = tmp_path / "there"
        (folder / "proc/77").mkdir(parents=True)
        (folder / "proc/77/comm").write_text("heartbeat\n" if running else "bash\n")
        (folder / "pid").write_text("      77\n")
        respawn = f"respawn root {module.AGENT / 'run'}" if agent else "respawn root /usr/libexec/heartbeat/ipfail"
        module.READ[0].write_text(f"keepalive 2\nudpport 694\nbcast bond1\nucast bond0 192.0.2.11\n"
                                  f"ucast bond0 192.0.2.12\nnode gw1\nnode GW2\n\n{respawn}\nping 192.0.2.1\n")
        for name, path in (("PROC", "proc"), ("PID_FILE", "pid"), ("AGENT_SOCKET", "s"), ("AGENT_HISTORY", "history"),
                           ("AGENT_HISTORY_KEPT", "kept")):
            monkeypatch.setattr(module, name, folder / path)
        monkeypatch.setattr(module, "__context__", {}, raising=False)
        module.__salt__["commands.run"] = None
        if answer is not None or agent:
            text = json.dumps(answer).encode() + b"\n" if isinstance(answer, dict) else answer
            place.agent = Agent(folder / "s", text)
        return module
    return place


def test_at_a_glance_it_is_what_the_agent_says(looking) -> None:
    now = looking(STATUS).glance()
    assert looking.agent.questions == [{"command": "status"}]
    assert now == {
        "role": "standby", "way": "agent", "running": True, "agent": "answers", "connected": True,
        "since": STATUS["since"], "cause": "gw2 is there", "ready": True, "not_ready_because": "", "epoch": 4,
        "held": [], "missing": ["192.0.2.10"], "disagree": "", "links": {"bond0": "up"},
        "ping_nodes": {"192.0.2.1": "up"},
        "peer": {"node": "gw2", "heartbeat": "active", "role": "active", "clock_offset": -0.02}, "daemon": "alive",
        "starved": False, "stalls": 2, "sessions": ""}


@pytest.mark.parametrize(("differs", "role", "disagrees"), [
    ({"role": "active", "held": ["192.0.2.10"], "missing": [], "peer": {"role": "standby"}}, "active", False),
    ({"role": "active", "held": ["192.0.2.10"], "missing": []}, "split", False),
    ({"role": "active"}, "transition", True),
    ({"role": "standby", "held": ["192.0.2.10"]}, "transition", True),
    ({"role": "transition"}, "transition", False),
    ({"intruder": "192.0.2.10"}, "standby", True),      # the agent took it away a moment ago
    ({"heartbeat": "dead"}, "standby", False),
    ({"peer": {}}, "standby", False),                   # an agent of an older release
    ({"peer": None}, "standby", False),
])
def test_role_at_a_glance(looking, differs: dict, role: str, disagrees: bool) -> None:
    now = looking(STATUS | differs).glance()
    assert now["role"] == role and bool(now["disagree"]) == disagrees
    assert now["connected"] == ("heartbeat" not in differs)
    assert set(now["peer"]) == {"node", "heartbeat", "role", "clock_offset"}


@pytest.mark.parametrize("answer", [None, b"nonsense\n", b'"standby"\n', b'{"error": "busy"}\n', b"x" * 70000])
def test_an_agent_that_hangs_or_talks_nonsense_holds_nobody(looking, answer: bytes | None) -> None:
    module = looking(answer)
    begin = time.monotonic()
    now = module.glance()
    assert time.monotonic() - begin < 1
    assert (now["agent"], now["role"], now["connected"]) == ("silent", "unknown", False)


def test_a_missing_agent_at_a_glance(looking) -> None:
    module = looking(STATUS)
    module.AGENT_SOCKET.unlink()
    assert module.glance()["agent"] == "missing"


@pytest.mark.parametrize(("answer", "code", "word"), [
    ("no socket", 3, "missing"), ("nobody listens", 3, "missing"), (b"", 3, "missing"), (None, 1, "silent"),
    (b"nonsense\n", 1, "silent"), (b"[]\n", 1, "silent"), (b'{"error": "busy"}\n', 1, "silent")])
def test_a_missing_agent_is_the_same_to_its_command_line(looking, monkeypatch: pytest.MonkeyPatch,
                                                         answer: bytes | str | None, code: int, word: str) -> None:
    module = looking(None if isinstance(answer, str) else answer)
    if isinstance(answer, str):
        module.AGENT_SOCKET.unlink()
    if answer == "nobody listens":
        socket.socket(socket.AF_UNIX).bind(str(module.AGENT_SOCKET))
    monkeypatch.setattr(program, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(program.control.ask, "__defaults__", (str(module.AGENT_SOCKET),))
    assert program.main(["status"]) == code and module.glance()["agent"] == word


def test_a_heartbeat_that_does_not_run_is_seen_at_a_glance(looking) -> None:
    now = looking(STATUS, running=False).glance()
    assert (now["running"], now["role"]) == (False, "stopped")
    assert looking.agent.questions == []


def test_several_glances_in_a_moment_ask_once(looking) -> None:
    module = looking(STATUS)
    module.glance()["links"]["bond0"] = "changed by a caller"
    assert module.glance()["links"] == {"bond0": "up"}
    assert len(looking.agent.questions) == 1


def test_in_the_profile_paper_heartbeat_is_asked_beside_the_caller(looking, tmp_path, monkeypatch) -> None:
    module = looking(None, agent=False)
    script = tmp_path / "cl_status"
    script.write_text("#!/bin/sh\ncase \"$*\" in rscstatus) echo none;; 'nodestatus gw2') echo active;;\n"
                      "'hblinkstatus gw2 bond1') echo dead; exit 1;; 'hblinkstatus gw2 bond0') echo up;;\n"
                      "'nodestatus 192.0.2.1') exec sleep 60;; esac\n")
    script.chmod(0o755)
    monkeypatch.setattr(module.salt.utils.path, "which", lambda name: str(tmp_path / name))
    monkeypatch.setattr(module, "_is_here", lambda address: False)
    clock, watching = [1000.0], load_module("_modules/watching.py")
    for each in (module, watching):
        give_time(monkeypatch, each, monotonic=lambda: clock[0])
    module.__salt__ |= {"watching.start": watching.start, "watching.answer": watching.answer}
    first = module.glance()
    assert first["role"] == "standby" and first["links"] == {} and first["peer"]["heartbeat"] == "unknown"
    asked = module.__context__["heartbeat.asked"]["running"]
    for key, job in asked.items():
        if key != "ping 192.0.2.1":
            job.process.wait(10)
    clock[0] += 1
    now = module.glance()
    assert (now["role"], now["peer"], now["links"], now["ping_nodes"]) == (
        "standby", {"node": "gw2", "heartbeat": "active", "role": "unknown", "clock_offset": None},
        {"bond1": "dead", "bond0": "up"}, {})
    hung = asked["ping 192.0.2.1"]
    clock[0] += 4
    module.glance()
    assert hung.process.wait(10) == -9                        # a hung one is killed before the next round
    monkeypatch.setattr(module, "_is_here", lambda address: True)
    clock[0] += 1
    assert module.glance()["disagree"].startswith("heartbeat says this node has none of the addresses; held: 192.0.")
    for job in module.__context__["heartbeat.asked"]["running"].values():
        job.process.kill()
        job.process.wait()


def test_an_address_of_this_machine_is_known_without_asking_anybody(on) -> None:
    module = on(Node("none", "standby"))
    assert module._is_here("127.0.0.1") and not module._is_here("192.0.2.10") and not module._is_here("2001:db8::1")


def test_no_role_change_is_lost_between_two_looks(looking) -> None:
    module = looking(STATUS)
    assert module.changes_since() == {"mark": "", "changes": []}

    def entry(second: int, role: str) -> str:
        at = f"2026-03-01T00:00:{second:02}.000+00:00"
        return json.dumps({"at": at, "role": role, "epoch": second, "cause": "x"})

    lines = [entry(1, "active"), "damaged", entry(2, "standby")]
    module.AGENT_HISTORY.write_text("\n".join(lines))
    first = module.changes_since()
    assert [each["role"] for each in first["changes"]] == ["active", "standby"]
    assert module.changes_since(first["mark"]) == {"mark": first["mark"], "changes": []}
    module.AGENT_HISTORY.write_text("\n".join([*lines, entry(3, "active"), entry(4, "standby")]))
    later = module.changes_since(first["mark"])
    assert [(each["role"], each["epoch"]) for each in later["changes"]] == [("active", 3), ("standby", 4)]
    module.AGENT_HISTORY.write_text(entry(9, "active"))      # the known one is no longer in the file
    assert [each["epoch"] for each in module.changes_since(later["mark"])["changes"]] == [9]
    assert module.changes_since("2027")["changes"] == []
