"""_modules/commit_confirm.py: what is armed, what counts as a confirmation, in which order. systemd: tests/lab."""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import TREE, load_module


def eventually(check: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Systemd:
    """The units of a node, and systemd's answers about them."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self.started: list[list[str]] = []
        self.start_fails = False

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
            return 1 if self.start_fails else 0
        return 0

    def fire(self, name: str) -> None:
        """The timer of a change is over: what it starts really runs."""
        argv = next(each for each in self.started if f"--unit=gateway-rollback-{name}" in each)
        self.active = {f"gateway-rollback-{name}.service"}
        subprocess.run(argv[argv.index("/bin/sh"):], check=False, stderr=subprocess.DEVNULL)
        self.active = set()

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
    monkeypatch.setattr(module, "_LASTING", tmp_path / "lasting")
    monkeypatch.setattr(module, "_UNDO_SECONDS", 2)
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


class Change:
    """A change of a live value and of the file that keeps it; the way back copies `old` to `live`."""

    def __init__(self, module: ModuleType, folder: Path) -> None:
        self.module, self.live, self.file = module, folder / "live", folder / "conf"
        self.live.write_text("OLD")
        self.file.write_text("OLD")

    def prepare(self, name: str = "network") -> list[str]:
        old = self.module._FOLDER / name / "old"
        return self.module.prepare(name, [str(self.file)], [["cp", str(old), str(self.live)]],
                                   texts={"old": self.live.read_text()})

    def apply(self) -> None:
        self.live.write_text("NEW")

    def keep(self) -> None:
        self.file.write_text("NEW")

    def is_(self) -> tuple[str, str]:
        return self.live.read_text(), self.file.read_text()


@pytest.fixture
def change(module, tmp_path) -> Change:
    return Change(module, tmp_path)


def test_the_live_network_comes_back_before_any_file(module, tmp_path, change):
    """A file on a disk that stands still: reading it never ends, as with this FIFO."""
    argv = change.prepare()
    change.apply()
    change.file.unlink()
    os.mkfifo(change.file)
    process = subprocess.Popen(argv, start_new_session=True)
    try:
        assert eventually(lambda: change.live.read_text() == "OLD", 3)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


def test_an_unchanged_file_is_not_written(module, change):
    argv = change.prepare()
    before = change.file.stat()
    subprocess.run(argv, check=True)
    assert (before.st_ino, before.st_mtime_ns) == (change.file.stat().st_ino, change.file.stat().st_mtime_ns)


def test_a_file_that_can_not_be_restored_whole_stays_as_it_is(module, change, tmp_path):
    argv = change.prepare()
    change.apply()
    change.keep()
    (module._FOLDER / "network/saved-0").unlink()
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    assert change.is_() == ("OLD", "NEW")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".conf")]


def test_files_that_come_late_lose_against_the_timer(module, master, systemd, change):
    """Whatever waits on a slow disk: the timer ends meanwhile, and then the new file is written after all."""
    def keep() -> None:
        timer = threading.Thread(target=systemd.fire, args=["network"])
        timer.start()
        assert eventually(lambda: change.live.read_text() == "OLD")
        change.keep()
        change.apply()          # what reads those files
        threads.append(timer)

    threads: list[threading.Thread] = []
    problem = module.guarded("network", change.prepare(), change.apply, keep, 10)
    threads[0].join()
    assert "timer has rolled it back" in problem and change.is_() == ("OLD", "OLD")
    assert module.pending() == [] and not (module._LASTING / "network").exists()


def test_after_the_timer_no_file_is_written(module, master, systemd, change):
    def apply() -> None:
        change.apply()
        systemd.fire("network")

    assert "before its files were written" in module.guarded("network", change.prepare(), apply, change.keep, 10)
    assert change.is_() == ("OLD", "OLD")


def test_the_timer_of_a_confirmed_change_undoes_nothing(module, master, systemd, change):
    assert module.guarded("network", change.prepare(), change.apply, change.keep, 10) == ""
    systemd.fire("network")     # at the same moment: systemd has started it already
    assert change.is_() == ("NEW", "NEW")


def test_a_confirmation_beside_a_running_undo_is_none(module, systemd, change):
    module.arm("network", change.prepare())
    systemd.fire("network")
    systemd.active = {"gateway-rollback-network.service"}
    assert module.confirm("network") is False and [each["name"] for each in module.pending()] == ["network"]


def test_a_timer_that_somebody_has_stopped_does_not_keep_an_unconfirmed_change(module, master, systemd, change):
    def keep() -> None:
        change.keep()
        systemd.active.clear()

    assert module.guarded("network", change.prepare(), change.apply, keep, 10)
    assert change.is_() == ("OLD", "OLD")


def test_a_refused_change_leaves_the_way_back_of_the_first(module, systemd, change):
    module.arm("network", change.prepare())
    change.apply()
    for name in ("network", "firewall"):
        with pytest.raises(CommandExecutionError, match="the change 'network' still waits"):
            change.prepare(name)
    systemd.fire("network")
    assert change.is_() == ("OLD", "OLD")


def test_a_change_that_another_run_is_about_to_make_is_in_the_way(module, change):
    change.prepare()
    with subprocess.Popen(["sleep", "60"]) as other:
        (module._FOLDER / "prepared").write_text(f"network {other.pid}\n")
        with pytest.raises(CommandExecutionError, match=f"thread {other.pid}. is about to change 'network'"):
            change.prepare("firewall")
        other.kill()
    change.prepare("firewall")


def test_a_power_cut_before_the_confirmation_boots_the_old_files(module, master, monkeypatch, change):
    """At boot only the disk is left: what /run held is gone, and so is the timer."""
    class PowerCut(BaseException):
        pass

    def keep() -> None:
        change.keep()
        raise PowerCut

    with pytest.raises(PowerCut):
        module.guarded("network", change.prepare(), change.apply, keep, 10)
    shutil.rmtree(module._FOLDER)
    assert change.file.read_text() == "NEW"
    at_boot(module._LASTING)
    assert change.file.read_text() == "OLD" and not list(module._LASTING.iterdir())
    at_boot(module._LASTING)


def test_what_was_confirmed_is_left_alone_at_boot(module, master, change):
    assert module.guarded("network", change.prepare(), change.apply, change.keep, 10) == ""
    assert not list(module._LASTING.iterdir())
    at_boot(module._LASTING)
    assert change.is_() == ("NEW", "NEW")


def test_files_that_nobody_confirmed_are_put_back_before_the_next_change(module, systemd, change):
    module.arm("network", change.prepare())
    with module._keeping("network", ["sh", str(module._FOLDER / "network/undo")]):
        change.keep()
    systemd.active.clear()      # the run has died, and so has the timer
    with pytest.raises(CommandExecutionError, match="commit_confirm.settle network"):
        change.prepare()
    assert "were put back first" in module.settle("network")
    assert change.file.read_text() == "OLD"
    change.prepare()


def at_boot(lasting: Path) -> None:
    """Run what the shipped unit runs at boot, for another folder."""
    unit = (TREE / "salt/bonding/files/gateway-rollback-boot.service").read_text()
    assert re.search(r"ConditionPathExistsGlob=/var/lib/gateway/rollback/\*/files", unit)
    command = shlex.split(re.search("ExecStart=(.*)", unit)[1].replace("$$", "$"))
    if list(lasting.glob("*/files")):
        subprocess.run([each.replace("/var/lib/gateway/rollback", str(lasting)) for each in command], check=True)


def test_when_systemd_can_not_start_the_way_back_the_run_does(module, systemd, change):
    module.arm("network", change.prepare())
    change.apply()
    systemd.start_fails = True
    assert module.undo("network") is True
    assert change.is_() == ("OLD", "OLD") and module.pending() == []


def test_the_end_of_a_running_undo_is_waited_for(module, systemd, change):
    module.arm("network", change.prepare())
    systemd.active = {"gateway-rollback-network.service"}
    ends = threading.Timer(0.5, systemd.active.clear)
    ends.start()
    assert module.undo("network") is True and not ends.is_alive()
    module.arm("network", change.prepare())
    systemd.active = {"gateway-rollback-network.service"}
    with pytest.raises(CommandExecutionError, match=r"has not ended after 2 s.*status gateway-rollback-network"):
        module.undo("network")


def test_a_way_back_that_fails_both_ways_is_said(module, systemd, master, change):
    systemd.start_fails = True
    argv = ["/bin/sh", "-c", "exit 7"]
    problem = module.guarded("network", argv, change.apply, lambda: 1 / 0, 10)
    assert re.search(r"division by zero; network: NOT undone: .*failed \(exit code 1\).*exit code 7.*sh /", problem)


def test_who_was_heard_before_has_to_be_heard_after(module, master, change):
    """A rule that cuts the heartbeats, and not the way to the master, on both nodes at once."""
    asked = []
    silent = {"peers": ["gw2"], "publish": []}

    def lost(before: dict, timeout: float) -> list[str]:
        asked.append((before, timeout))
        return [each for kind, who in silent.items() for each in who if each in before[kind]]

    module.__salt__["lifelines.alive"] = lambda hosts: {"peers": ["gw2"], "publish": hosts, "names": []}
    module.__salt__["lifelines.lost"] = lost
    # the other node first, and not for long: by then it may be active, too
    problem = module.guarded("network", change.prepare(), change.apply, change.keep, 40, None, 3.0)
    assert problem == "no answer from gw2 (after the change)"
    assert asked == [({"peers": ["gw2"], "publish": [], "names": []}, 3.0)]
    silent.update(peers=[], publish=["127.0.0.1"])
    problem = module.guarded("network", change.prepare(), change.apply, change.keep, 40)
    assert problem == "no answer from 127.0.0.1 (after the change)"
    assert 25 < asked[1][1] <= 30 and asked[2][0] == {"peers": [], "publish": ["127.0.0.1"], "names": []}


def test_what_the_way_back_needs_is_held_in_memory_until_the_end(module, master, change):
    held: list[str] = []

    def hold(paths: list[str]) -> Callable[[], None]:
        held.extend(paths)
        return held.clear

    def apply() -> None:
        assert {Path(path).name for path in held if "/bin/" in path} == {"sh", "cp", "mv", "flock", "true"}
        assert {str(module._FOLDER / f"network/{each}") for each in ("undo", "old", "saved-0")} <= set(held)
        change.apply()

    module.__salt__["resident.hold"] = hold
    assert module.guarded("network", change.prepare(), apply, change.keep, 10) == ""
    assert held == []


@pytest.mark.parametrize("name", ["pending", "arm", "prepare"])
def test_half_a_record_is_said_in_one_line(module, name):
    module._FOLDER.mkdir(parents=True)
    (module._FOLDER / "firewall.json").write_text('{"name": "fire')
    arguments = {"pending": [], "arm": ["network", ["undo"]], "prepare": ["network", [], []]}[name]
    with pytest.raises(CommandExecutionError, match="firewall.json: the record of a change is damaged.*`rm /") as error:
        getattr(module, name)(*arguments)
    assert "\n" not in str(error.value)


def test_half_a_record_is_in_nobodys_way_back(module, systemd, change):
    module.arm("network", change.prepare())
    (module._FOLDER / "firewall.json").write_text("")
    assert module.confirm("firewall") is False and module.undo("firewall") is False and module.settle("firewall") == ""
    (module._FOLDER / "network.json").write_text('{"na')
    assert "undone first" in module.settle("network") and module.undo("network") is False


def test_a_full_disk_leaves_no_file_behind(module, monkeypatch, tmp_path):
    target = tmp_path / "folder/conf"
    module.replace_file(str(target), "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        module.replace_file(str(target), "new")
    with pytest.raises(CommandExecutionError, match="network: not changed, the way back could not.*No space left"):
        module.prepare("network", [], [])
    assert [path.name for path in target.parent.iterdir()] == ["conf"] and target.read_text() == "old"
    assert not [path for path in module._FOLDER.rglob("*") if path.is_file()]


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


def test_half_a_copy_is_never_taken_for_the_original(module, tmp_path, monkeypatch):
    path = tmp_path / "conf"
    copy = Path(f"{tmp_path}/originals{path}")
    path.write_text("by a person")
    real = shutil.copy2

    def full(_source: Path, target: Path) -> None:
        target.write_text("by a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copy2", full)
    with pytest.raises(OSError, match="No space"):
        module.keep_original(str(path), "Written by Salt")
    assert list(copy.parent.iterdir()) == []
    monkeypatch.setattr(module.shutil, "copy2", real)
    module.keep_original(str(path), "Written by Salt")
    assert copy.read_text() == "by a person"


def test_a_file_has_its_mode_from_the_start(module, tmp_path):
    module.replace_file(str(tmp_path / "folder/conf"), "text", 0o600)
    assert (tmp_path / "folder/conf").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["conf"]
