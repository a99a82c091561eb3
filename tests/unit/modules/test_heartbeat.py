"""_modules/heartbeat.py on what heartbeat 3.0.6's tools and iproute2 print on a real pair."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

RECORDED = Path(__file__).parent.parent / "recorded/heartbeat"
VIRTUAL = """# Managed by Salt (heartbeat).
address 192.0.2.10/32 bond0
address 2001:db8:be::a/128 bond0
address 198.51.100.10/32 bond1
tunnel bern
"""


class Node:
    """Answers commands as a node does in one situation."""

    def __init__(self, resources: str | None, addresses: str, nodes: dict[str, str] | None = None) -> None:
        self.resources, self.addresses = resources, addresses
        self.nodes = nodes or {"gw1": "active", "gw2": "active"}
        self.reload_refused = self.journal = ""
        self.asked: list[list[str]] = []

    def run_all(self, command: list[str], **options: object) -> dict:
        """Salt's cmd.run_all."""
        assert options["python_shell"] is False
        self.asked.append(command)
        answer = {"retcode": 0, "stdout": "", "stderr": ""}
        match command:
            case ["ip", "-j", "address", "show"]:
                answer["stdout"] = (RECORDED / f"addresses-{self.addresses}.json").read_text()
            case ["systemctl", "is-active", "heartbeat"] if self.resources is None:
                answer |= {"retcode": 3, "stdout": "inactive"}
            case ["cl_status", "rscstatus"] if not self.resources:      # running, and not yet listening to clients
                answer |= {"retcode": 1, "stderr": "ERROR: Cannot signon with heartbeat"}
            case ["cl_status", "rscstatus"]:
                answer["stdout"] = self.resources
            case ["cl_status", "nodestatus", node]:
                answer |= {"stdout": self.nodes[node], "retcode": int(self.nodes[node] == "dead")}
            case ["cl_status", "listnodes", "-n"]:
                answer |= {"stdout": "gw2\ngw1"} if self.resources else {"retcode": 1}
            case ["systemctl", "show", *_]:
                answer["stdout"] = "70a1c3b1b0e54b6f9d5f2b6b0d2d7c11"
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
        monkeypatch.setattr(module, "__salt__", {"cmd.run_all": node.run_all}, raising=False)
        monkeypatch.setattr(module, "__grains__", {"nodename": name}, raising=False)
        monkeypatch.setattr(module.salt.utils.path, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
        return module
    return place


@pytest.mark.parametrize(("resources", "addresses", "name", "role"), [
    ("all", "active", "gw1", "active"),
    ("none", "standby", "gw1", "standby"),
    ("local", "active", "gw1", "active"),
    ("local", "standby", "gw2", "standby"),        # it has local resources, and haresources gives it none
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
    with pytest.raises(CommandExecutionError, match="active before, is standby"):
        module.reload()


def test_reload_without_heartbeat(on) -> None:
    with pytest.raises(CommandExecutionError, match="systemctl start heartbeat"):
        on(Node(None, "standby")).reload()


def test_waiting_ends_early_when_heartbeat_does_not_stay_up(on, monkeypatch: pytest.MonkeyPatch) -> None:
    module = on(Node(None, "standby"))
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    assert module.wait_until_settled(90)["role"] == "stopped"
    assert next(clock) < 10


def test_a_node_that_hears_another_key_does_not_become_active(on, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("", "standby")
    node.journal = "heartbeat: [14]: ERROR: authtoken does not match, authtoken=2763, authstr=1789"
    module = on(node)
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with pytest.raises(CommandExecutionError, match="signed with another key"):
        module.wait_until_settled(90)
    assert ["systemctl", "kill", "--signal=KILL", "heartbeat"] in node.asked


def test_a_node_that_just_waits_is_left_alone(on, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("", "standby")
    module = on(node)
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
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
    # as Salt's cmd.run_all reports a timeout
    monkeypatch.setattr(module, "__salt__", {"cmd.run_all": lambda command, **options: {
        "stdout": f"{command} : Timed out after 10 seconds", "stderr": "", "retcode": 1, "pid": 1}}, raising=False)
    with pytest.raises(CommandExecutionError, match="systemctl is-active heartbeat: no answer within 10 s"):
        module.running()
