"""_modules/commit_confirm.py: what is armed, what counts as a confirmation, in which order. systemd: tests/lab."""
from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module


class Systemd:
    """The units of a node, and systemd's answers about them."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self.started: list[list[str]] = []

    def run_all(self, argv: list[str], **options: object) -> dict:
        assert options["python_shell"] is False and argv[0] == "systemd-run"
        unit = next(word.removeprefix("--unit=") for word in argv if word.startswith("--unit="))
        self.active.add(f"{unit}.timer")
        self.started.append(argv)
        return {"retcode": 0, "stdout": "", "stderr": ""}

    def retcode(self, argv: list[str], **options: object) -> int:
        if argv[:2] == ["systemctl", "stop"]:
            self.active -= set(argv[2:])
        elif argv[:2] == ["systemctl", "start"]:
            self.started.append(argv)
        return 0

    def run_stdout(self, argv: list[str], **options: object) -> str:
        if argv[0] == "ss":
            return ""
        return "active" if argv[-1] in self.active else "inactive"


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


@pytest.fixture
def module(systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_module("_modules/commit_confirm.py")
    salt = {"cmd.run_all": systemd.run_all, "cmd.retcode": systemd.retcode, "cmd.run_stdout": systemd.run_stdout}
    monkeypatch.setattr(module, "__salt__", salt, raising=False)
    monkeypatch.setattr(module, "__opts__", {"master": "127.0.0.1", "master_port": 4506}, raising=False)
    monkeypatch.setattr(module, "_FOLDER", tmp_path / "run")
    monkeypatch.setattr(module, "_ORIGINALS", str(tmp_path / "originals"))
    real = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path) == "/run/systemd/system" or real(path))
    return module


@pytest.fixture
def master(module: ModuleType):
    """A TCP port that answers, like a master's request port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        module.__opts__["master_port"] = server.getsockname()[1]
        yield server


def test_armed_before_and_cancelled_by_the_confirmation(module, systemd):
    change = module.arm("network", ["/bin/sh", "undo"], 60)
    assert (change["name"], change["pid"], change["undo"]) == ("network", os.getpid(), ["/bin/sh", "undo"])
    assert 58 <= change["seconds_left"] <= 60
    argv = systemd.started[0]
    assert {"--on-active=60s", "--timer-property=AccuracySec=100ms", "--collect"} <= set(argv)
    assert argv[-2:] == ["/bin/sh", "undo"]
    assert module.confirm("network") is True
    assert module.pending() == [] and not systemd.active


def test_a_confirmation_after_the_timer_is_none(module, systemd):
    module.arm("network", ["undo"])
    systemd.active.clear()
    (module._FOLDER / "network.fired").touch()
    assert module.confirm("network") is False


def test_two_changes_at_once_are_refused(module):
    module.arm("network", ["undo"])
    with pytest.raises(CommandExecutionError, match="firewall: not changed, the change 'network' still waits"):
        module.arm("firewall", ["undo"])


def test_without_systemd_nothing_is_armed(module, systemd, monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    with pytest.raises(CommandExecutionError, match="systemd does not run here"):
        module.arm("network", ["undo"])
    assert not systemd.started


def test_a_record_whose_timer_is_gone_does_not_count(module, systemd):
    module.arm("network", ["undo"])
    systemd.active.clear()
    assert module.pending() == []
    module.arm("network", ["undo"])


def test_undo_starts_the_service_and_forgets_the_change(module, systemd):
    module.arm("network", ["undo"])
    assert module.undo("network") is True
    assert systemd.started[-1] == ["systemctl", "start", "gateway-rollback-network.service"]
    assert module.pending() == [] and module.undo("network") is False


def test_what_an_interrupted_run_left_is_undone_first(module):
    module.arm("network", ["undo"])
    record = module._FOLDER / "network.json"
    record.write_text(record.read_text().replace(str(os.getpid()), "4194305"))     # above any pid_max
    assert "undone first" in module.settle("network")
    assert module.settle("network") == ""


def test_a_run_that_is_still_at_it_is_left_alone(module, systemd):
    module.arm("network", ["undo"])
    record = module._FOLDER / "network.json"
    with subprocess.Popen(["sleep", "60"]) as other:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": other.pid}))
        with pytest.raises(CommandExecutionError, match=f"process {other.pid}"):
            module.settle("network")
        other.kill()
    assert systemd.active


@pytest.mark.parametrize(("opts", "masters"), [
    ({"master": "salt"}, [("salt", 4506)]),
    ({"master": ["a.example", "b.example:5506"]}, [("a.example", 4506), ("b.example", 5506)]),
    ({"master": "[2001:db8::1]:5506"}, [("2001:db8::1", 5506)]),
    ({"master": "2001:db8::1"}, [("2001:db8::1", 4506)]),
    ({"master": "salt", "master_ip": "192.0.2.9", "master_port": "14506"}, [("salt", 14506), ("192.0.2.9", 14506)]),
    ({"master": "b", "master_list": ["a", "b"]}, [("a", 4506), ("b", 4506)]),
])
def test_masters_as_a_minion_may_have_them(module, opts, masters):
    module.__opts__.pop("master_port")
    module.__opts__.update(opts)
    assert module._masters() == masters


def test_the_master_is_reached_by_a_new_connection(module, master):
    answer = module.reached(1)
    assert answer["reached"] and answer["by"] == f"127.0.0.1 port {master.getsockname()[1]}"
    master.close()
    assert module.reached(0) == {"reached": False, "by": "", "tried": answer["tried"]}


def test_without_a_master_a_neighbour_has_to_answer(module, monkeypatch):
    module.__opts__["file_client"] = "local"
    monkeypatch.setattr(module, "_pings", lambda address: address == "192.0.2.1")
    monkeypatch.setattr(module, "_default_gateways", lambda: ["192.0.2.1"])
    assert module.reached(0.1)["by"] == "192.0.2.1"
    assert not module.reached(0, ["198.51.100.2"])["reached"]


def test_kept_only_between_two_connections(module, master):
    order = []
    problem = module.guarded("network", ["undo"], lambda: order.append("apply"), lambda: order.append("keep"), 10)
    assert (problem, order, module.pending()) == ("", ["apply", "keep"], [])


def test_undone_when_the_master_is_lost(module, master, systemd, monkeypatch):
    kept = []
    monkeypatch.setattr(module, "reached", lambda *_: {"reached": False, "by": "", "tried": ["salt port 4506"]})
    problem = module.guarded("network", ["undo"], lambda: None, lambda: kept.append(1), 10)
    assert problem == "no answer from salt port 4506 (after the change)" and not kept
    assert systemd.started[-1] == ["systemctl", "start", "gateway-rollback-network.service"]


def test_undone_when_anything_goes_wrong(module, master, systemd):
    def fail() -> None:
        raise OSError("No space left on device")

    assert "No space left" in module.guarded("network", ["undo"], lambda: None, fail, 10)
    assert systemd.started[-1][:2] == ["systemctl", "start"] and module.pending() == []


# `ss -HOtin` of a gateway, Debian 13, shortened in the middle
PUBLISHING = ("0      0      198.51.100.12:50706 198.51.100.61:4505 ts sack cubic wscale:10,7 rto:210 acked:57 "
              "lastsnd:5910 lastrcv:{} lastack:820 pacing_rate 45573776bps delivered:6 app_limited busy:50ms\n")


@pytest.mark.parametrize(("silent", "within", "heard"), [(820, None, True), (820, 1.0, True), (820, 0.5, False)])
def test_a_master_is_heard_when_data_came_over_its_publish_connection(module, systemd, silent, within, heard):
    systemd.run_stdout = lambda argv, **_: PUBLISHING.format(silent) if argv[0] == "ss" and ":4505" in argv else ""
    module.__salt__["cmd.run_stdout"] = systemd.run_stdout
    assert module._publishers(within) == ({"198.51.100.61"} if heard else set())
    assert module._publishers() == {"198.51.100.61"}


class Clock:
    """A clock that only sleeping and an apply move."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def clock_gettime(self, _: int) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(("lasted", "heard_at"), [(10, 110), (40, 157)])
def test_no_word_of_the_outcome_before_jobs_reach_the_node_again(module, systemd, monkeypatch, answered, lasted,
                                                                 heard_at):
    """Jobs that a master publishes while the minion connects again are lost."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    clock.CLOCK_MONOTONIC = 0
    # the old connection still looks fine, but no new data comes over it; it breaks, then there is a new one
    monkeypatch.setattr(module, "_publishers", lambda within=None: (
        {"192.0.2.9"} if within is None or clock.now >= 155 else set()))
    monkeypatch.setattr(module, "reached", lambda *_: {"reached": answered, "by": "", "tried": []})
    module.guarded("network", ["undo"], lambda: clock.sleep(lasted), lambda: None, 60)
    assert clock.now == pytest.approx(heard_at, abs=1) and module.pending() == []


def test_a_connection_that_ends_right_after_its_first_data_is_none(module, monkeypatch):
    answers = iter([{"192.0.2.9"}, set(), {"192.0.2.9"}, {"192.0.2.9"}])
    monkeypatch.setattr(module, "time", Clock())
    monkeypatch.setattr(module, "_publishers", lambda _: next(answers))
    module._wait_for_publications({"192.0.2.9"})
    assert next(answers, None) is None


def test_a_master_that_stays_away_is_not_waited_for_for_ever(module, monkeypatch, caplog):
    monkeypatch.setattr(module, "time", Clock())
    monkeypatch.setattr(module, "_publishers", lambda *_: set())
    module._wait_for_publications({"192.0.2.9"})
    assert "nothing has come from 192.0.2.9" in caplog.text


def test_the_undo_script_puts_files_back(module, tmp_path):
    old, new = tmp_path / "old file", tmp_path / "new"
    old.write_text("as it was")
    old.chmod(0o640)
    argv = module.prepare("network", [str(old), str(new)], [["false"], ["touch", str(tmp_path / "ran")]])
    old.write_text("changed")
    new.write_text("made")
    assert subprocess.run(argv, check=False).returncode == 0
    assert (old.read_text(), old.stat().st_mode & 0o777, new.exists()) == ("as it was", 0o640, False)
    assert (tmp_path / "ran").exists()


def test_an_original_is_kept_once_and_never_one_of_ours(module, tmp_path):
    path = tmp_path / "conf"
    copy = Path(f"{tmp_path}/originals{path}")
    path.write_text("Written by Salt")
    module.keep_original(str(path), "Written by Salt")
    assert not copy.exists()
    for text in ("by a person", "by another"):
        path.write_text(text)
        module.keep_original(str(path), "Written by Salt")
    assert copy.read_text() == "by a person"


def test_a_file_has_its_mode_from_the_start(module, tmp_path):
    module.replace_file(str(tmp_path / "folder/conf"), "text", 0o600)
    assert (tmp_path / "folder/conf").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["conf"]
