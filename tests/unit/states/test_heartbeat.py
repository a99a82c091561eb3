"""_states/heartbeat.py: what it changes, what waits, and that it never shows a key."""
from __future__ import annotations

import json
import stat
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

OLD = "auth 1\n1 sha1 s3cr3t.p4sswd\n"


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The states on a node whose heartbeat does not run. `state.node` is the node's situation."""
    module = load_module("_states/heartbeat.py")
    module.node = {"running": False, "peer": "active", "key": "n3w.k3y", "unread": [], "refuses": "", "role": "active",
                   "checked": [], "waits": "", "reloads_agent": False, "way": "scripts", "hears": False}

    def check(command: list[str], **options: object) -> dict:
        assert options["timeout"] > 0
        draft = Path(command[2])
        assert stat.S_IMODE(draft.stat().st_mode) in (0o600, 0o644)
        module.node["checked"].append((command[1], draft.read_text()))
        return {"retcode": 1 if module.node["refuses"] else 0, "stdout": module.node["refuses"], "stderr": ""}

    def reload() -> dict:
        if module.node["refuses"]:
            raise CommandExecutionError(module.node["refuses"])
        return status()

    def status(timeout: float = 0) -> dict:
        return {"role": module.node["role"], "nodes": {"gw1": "active", "gw2": module.node["peer"]}, "disagree": ""}

    monkeypatch.setattr(module, "__salt__", {
        "commands.run": check, "heartbeat.running": lambda: module.node["running"], "heartbeat.status": status,
        "heartbeat.unread": lambda: module.node["unread"], "heartbeat.reload": reload,
        "heartbeat.waits": lambda: module.node["waits"], "heartbeat.reload_agent": lambda: module.node["reloads_agent"],
        "heartbeat.way": lambda: module.node["way"], "heartbeat.hears_agent": lambda port: module.node["hears"],
        "heartbeat.role": lambda: module.node["role"], "heartbeat.wait_until_settled": status,
        "pillar.get": lambda path, default=None, unmask=False: module.node["key"] if unmask else "**********",
    }, raising=False)
    monkeypatch.setattr(module, "__opts__", {"test": False}, raising=False)
    return module


def authkeys(state: ModuleType, path: Path) -> dict:
    ret = state.authkeys(str(path), "gateway_secrets:heartbeat:key", "sha1", "gw2")
    assert "n3w.k3y" not in json.dumps(ret) and "s3cr3t" not in json.dumps(ret)
    return ret


def test_a_check_that_hangs_leaves_the_file_as_it_was(state: ModuleType, tmp_path: Path) -> None:
    def hangs(_command: list[str], timeout: float) -> dict:
        raise CommandExecutionError(f"heartbeat-check: no answer within {timeout} s, so it was ended; look")

    state.__salt__["commands.run"] = hangs
    ret = authkeys(state, tmp_path / "authkeys")
    assert ret["result"] is False and ret["changes"] == {}
    assert "is not changed: heartbeat-check: no answer" in ret["comment"]
    assert list(tmp_path.iterdir()) == []


def test_authkeys_is_written_for_its_owner_only(state: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "authkeys"
    ret = authkeys(state, path)
    assert ret["result"] is True and ret["changes"] == {str(path): "new"}
    assert path.read_text() == "auth 1\n1 sha1 n3w.k3y\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert state.node["checked"] == [("authkeys", "auth 1\n1 sha1 n3w.k3y\n")]
    again = authkeys(state, path)
    assert again["result"] is True and again["changes"] == {}
    assert [file.name for file in tmp_path.iterdir()] == ["authkeys"]


def test_authkeys_gets_its_mode_back(state: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "authkeys"
    authkeys(state, path)
    path.chmod(0o644)
    assert authkeys(state, path)["changes"] == {str(path): "mode 0600"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_dry_run_writes_nothing(state: ModuleType, tmp_path: Path) -> None:
    state.__opts__["test"] = True
    ret = authkeys(state, tmp_path / "authkeys")
    assert ret["result"] is None and ret["changes"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("running", "peer", "written"), [
    (True, "active", False), (True, "up", False), (True, "", False), (True, "dead", True), (False, "active", True)])
def test_a_new_key_waits_while_it_would_split_the_pair(state: ModuleType, tmp_path: Path, running: bool, peer: str,
                                                       written: bool) -> None:
    path = tmp_path / "authkeys"
    path.write_text(OLD)
    path.chmod(0o600)
    state.node |= {"running": running, "peer": peer}
    ret = authkeys(state, path)
    assert ret["result"] is True
    assert bool(ret["changes"]) is written
    assert (path.read_text() == OLD) is not written
    if not written:
        assert "systemctl stop heartbeat" in ret["warnings"][0]


def test_without_a_key_the_file_stays(state: ModuleType, tmp_path: Path) -> None:
    state.node["key"] = None
    ret = authkeys(state, tmp_path / "authkeys")
    assert ret["result"] is False and "gateway_secrets:heartbeat:key" in ret["comment"]


def test_what_heartbeat_refuses_is_not_placed(state: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "haresources"
    path.write_text("gw1 gateway\n")
    state.node["refuses"] = "Bad nodename in /etc/ha.d//haresources [gw9]"
    ret = state.haresources(str(path), "gw9 gateway\n")
    assert ret["result"] is False and ret["changes"] == {} and "gw9" in ret["comment"]
    assert [file.name for file in tmp_path.iterdir()] == ["haresources"]
    assert path.read_text() == "gw1 gateway\n"


def test_mail_is_changed_at_once_and_a_new_owner_waits(state: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "haresources"
    path.write_text("# of old\ngw1 gateway\n")
    path.chmod(0o644)
    state.node["running"] = True
    assert state.haresources(str(path), "gw1 gateway MailTo::a@b.example::x\n")["changes"] == {str(path): "updated"}
    ret = state.haresources(str(path), "gw2 gateway\n")
    assert ret["result"] is True and ret["changes"] == {}
    assert "from gw1 to gw2" in ret["warnings"][0]
    state.node["running"] = False
    assert state.haresources(str(path), "gw2 gateway\n")["changes"]


def test_current_reloads_once(state: ModuleType) -> None:
    state.node["unread"] = ["/etc/ha.d/ha.cf"]
    ret = state.current("heartbeat")
    assert ret["changes"] == {"reloaded": ["/etc/ha.d/ha.cf"]} and "active, as before" in ret["comment"]
    state.node["unread"] = []
    assert state.current("heartbeat")["changes"] == {}


def test_current_in_a_dry_run(state: ModuleType) -> None:
    state.__opts__["test"] = True
    state.node["unread"] = ["/etc/ha.d/ha.cf"]
    assert state.current("heartbeat")["result"] is None


def test_current_that_fails_reports_no_change(state: ModuleType) -> None:
    state.node |= {"unread": ["/etc/ha.d/ha.cf"], "refuses": "heartbeat refuses"}
    ret = state.current("heartbeat")
    assert ret["result"] is False and ret["changes"] == {} and ret["comment"] == "heartbeat refuses"


@pytest.mark.parametrize(("role", "result"), [
    ("active", True), ("standby", True), ("transition", False), ("stopped", False)])
def test_settled(state: ModuleType, role: str, result: bool) -> None:
    state.node["role"] = role
    ret = state.settled("role")
    assert ret["result"] is result and ret["changes"] == {}


def test_settled_says_why_heartbeat_was_stopped(state: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_key(timeout: float) -> dict:
        raise CommandExecutionError("another key")
    monkeypatch.setitem(state.__salt__, "heartbeat.wait_until_settled", other_key)
    assert state.settled("role") == {"name": "role", "result": False, "changes": {}, "comment": "another key"}


def test_what_would_move_the_addresses_waits_and_the_agent_goes_on(state: ModuleType) -> None:
    state.node |= {"unread": ["/etc/ha.d/ha.cf", "/etc/ha.d/agent.json"], "waits": "switch over first",
                   "reloads_agent": True}
    ret = state.current("heartbeat")
    assert ret["result"] is True and ret["changes"] == {"reloaded": ["/etc/ha.d/agent.json"]}
    assert ret["warnings"] == ["heartbeat waits for you: switch over first"]
    state.node["reloads_agent"] = False
    assert state.current("heartbeat")["changes"] == {}


@pytest.mark.parametrize(("there", "wanted", "running", "hears", "result", "said"), [
    ("", "agent", True, False, True, "decided by: agent"),
    ("agent", "agent", True, True, True, "decided by: agent"),
    ("scripts", "agent", False, False, True, "agent from now on"),
    ("scripts", "agent", True, False, False, "on the standby first"),
    ("agent", "scripts", True, False, False, "`systemctl stop heartbeat` on both nodes"),
    ("agent", "scripts", False, True, False, "the other node's role agent is still at work"),
    ("agent", "scripts", False, False, True, "scripts from now on"),
])
def test_who_decides_does_not_change_under_a_running_pair(state: ModuleType, there: str, wanted: str, running: bool,
                                                          hears: bool, result: bool, said: str) -> None:
    state.node |= {"way": there, "running": running, "hears": hears}
    ret = state.way(wanted)
    assert ret["result"] is result and ret["changes"] == {} and said in ret["comment"]


@pytest.fixture
def moved(state: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list:
    """The calls that move the role or wait for it."""
    calls = []
    for name in ("takeover", "standby", "wait_for_role"):
        monkeypatch.setitem(state.__salt__, f"heartbeat.{name}",
                            lambda *args, _name=name, **kwargs: calls.append((_name, args, kwargs)))
    return calls


def test_a_role_that_the_node_has(state: ModuleType, moved: list) -> None:
    assert state.role("active") == {"name": "active", "result": True, "changes": {}, "comment": "this node is active"}
    assert moved == []


def test_a_role_is_waited_for_and_never_moved_unasked(state: ModuleType, moved: list) -> None:
    ret = state.role("standby", timeout=5)
    assert ret["result"] is True and ret["changes"] == {"role": {"old": "active", "new": "standby"}}
    assert moved == [("wait_for_role", ("standby", 5), {})]


def test_a_role_that_is_moved(state: ModuleType, moved: list) -> None:
    assert state.role("standby", move=True)["result"] is True
    assert moved == [("standby", (), {"force": False, "timeout": 60})]


def test_a_role_in_a_dry_run(state: ModuleType, moved: list) -> None:
    state.__opts__["test"] = True
    assert state.role("active")["result"] is True
    ret = state.role("standby", move=True)
    assert ret["result"] is None and ret["changes"] and "would be moved" in ret["comment"]
    assert state.role("standby")["result"] is None and moved == []


def test_a_role_that_does_not_come(state: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(role: str, timeout: float) -> None:
        raise CommandExecutionError("after 5 s this node is active and not standby")
    monkeypatch.setitem(state.__salt__, "heartbeat.wait_for_role", never)
    ret = state.role("standby", timeout=5)
    assert ret["result"] is False and ret["changes"] == {} and "after 5 s" in ret["comment"]
    assert state.role("master")["result"] is False
