"""The textfile: written whole, by a process of its own, and what the state gives that process."""
from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

EXPOSITION = load_module("_modules/gateway_exposition.py")
TABLE = {"a_total": ("counter", ("x",), "A."), "b": ("gauge", (), "B.")}


@pytest.mark.parametrize(("samples", "said"), [
    ([("c", (), 1)], "c is no metric of the table"),
    ([("b", ("x",), 1)], "b has the labels none; given: 1"),
    ([("a_total", ("x",), 1), ("a_total", ("x",), 2)], "is given twice"),       # node_exporter refuses the whole file
])
def test_what_prometheus_would_refuse_is_not_written(samples, said):
    with pytest.raises(ValueError, match=said):
        EXPOSITION.text(TABLE, samples)


def test_without_the_library_it_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(EXPOSITION, "Collector", None)
    assert EXPOSITION.__virtual__()[0] is False and "salt-pip install prometheus-client" in EXPOSITION.__virtual__()[1]


def test_the_file_is_readable_for_the_exporter_and_carries_its_time(node):
    before = os.umask(0o077)
    try:
        seconds = node.metrics.write()
    finally:
        os.umask(before)
    file = node.metrics.FILE
    assert file.stat().st_mode & 0o7777 == 0o644 and 0 < seconds < 10
    assert abs(node.value("gateway_written_timestamp_seconds") - time.time()) < 5
    assert [each.name for each in node.folder.glob("*.prom*")] == ["gateway.prom"]     # the collector reads all *.prom


def test_a_file_that_can_not_be_written_leaves_the_old_one(node, monkeypatch):
    old = node.text()
    monkeypatch.setattr(node.modules["commit_confirm"].os, "fsync", _no_space)
    with pytest.raises(CommandExecutionError, match=r"gateway.prom can not be written \(No space left on device\)"):
        node.metrics.write()
    assert node.metrics.FILE.read_text() == old and not list(node.folder.glob(".gateway.prom*"))


def _no_space(_descriptor: int) -> None:
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize(("text", "said"), [
    (None, "is missing: does the site have"), ("{", "can not be read"), ("[]", "can not be read"),
    ("{}", "can not be read")])
def test_settings_that_can_not_be_read_are_told_in_one_line(node, text, said):
    node.metrics.SETTINGS.unlink()
    if text is not None:
        node.metrics.SETTINGS.write_text(text)
    with pytest.raises(CommandExecutionError, match=said):
        node.metrics.show()


def test_what_of_the_site_is_needed(node, derived):
    its = derived(every=30, persons=True)
    its["connections"][1]["persons"] = {}
    told = json.loads(node.metrics.settings_json(its))
    assert told == {"site": "winterthur", "node": "gw1", "every": 30, "persons": True, "heartbeat": True,
                    "sessions": True,
                    "tunnels": {"roadwarrior": ["roadwarrior", "roadwarrior"], "bern": ["bern", "site-to-site"]},
                    "bonds": [{"name": "bond0", "side": "external", "slaves": ["eth0", "eth1"]},
                              {"name": "bond1", "side": "internal", "slaves": ["eth2"]}]}
    assert set(told) == set(node.metrics._KEYS)
    its["features"] |= {"openswan": False, "bonding": False}
    told = json.loads(node.metrics.settings_json(its))
    assert told["tunnels"] is None and told["bonds"] == []


def test_each_tunnel_of_a_person_is_of_its_connection(node, settings):
    told = json.loads(node.metrics.settings_json(settings("bern", "gw-a")))
    assert told["tunnels"]["roadwarrior-anna.example"] == ["roadwarrior", "roadwarrior"]
    assert {"winterthur", "roadwarrior"} <= set(told["tunnels"])


def test_a_site_without_ipsec_and_heartbeat_has_its_bonds(node):
    node.settings(tunnels=None, heartbeat=False, sessions=False)
    done = {name for name, labels in node.values() if name.startswith("gateway_")}
    assert {"gateway_bond_up", "gateway_info", "gateway_written_timestamp_seconds"} <= done
    assert not {"gateway_role", "gateway_ipsec_daemon_up", "gateway_sessions_age_seconds"} & done


# The process

class Running:
    """serve() in a thread, with a clock that does not wait, and systemd's socket."""

    def __init__(self, node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node, self.rounds, self.now = node, 0, 1000.0
        self.each_round = lambda _number: None
        self.words: list[bytes] = []
        self.listens = True
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(node.folder / "notify"))
        self.systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(node.folder / "notify"))
        monkeypatch.setattr(node.metrics, "time", _Clock(self))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rounds += 1
        self.hear()
        self.each_round(self.rounds)
        if self.rounds >= 40:
            os.kill(os.getpid(), signal.SIGTERM)

    def run(self) -> list[bytes]:
        """Runs it to its end. Returns what it has told systemd."""
        before = signal.getsignal(signal.SIGTERM)
        try:
            self.node.metrics.serve()
        finally:
            signal.signal(signal.SIGTERM, before)
        self.hear()
        return self.words

    def hear(self) -> None:
        """As systemd does."""
        with contextlib.suppress(BlockingIOError):
            while self.listens:
                self.words.append(self.systemd.recv(100))


class _Clock:
    def __init__(self, running: Running) -> None:
        self.running = running
        self.time, self.sleep = time.time, running.sleep

    def monotonic(self) -> float:
        return self.running.now


@pytest.fixture
def running(node, monkeypatch) -> Running:
    return Running(node, monkeypatch)


def test_it_writes_every_so_often_until_it_is_told_to_end(running, monkeypatch):
    files = []
    write = running.node.modules["commit_confirm"].replace_file
    running.node.modules["gateway_metrics"].__salt__["commit_confirm.replace_file"] = lambda *given: (
        files.append(running.rounds), write(*given))
    words = running.run()
    assert files == [0, 15, 30] and running.node.metrics.FILE.exists()
    assert words == [b"READY=1", *[b"WATCHDOG=1"] * 40]     # each second: `every` may be longer than the watchdog waits


def test_it_reads_its_settings_each_time_and_goes_on_without(running, caplog):
    def change(number: int) -> None:
        if number == 2:
            running.node.metrics.SETTINGS.rename(running.node.folder / "away")
            running.node.metrics.FILE.unlink()
        elif number == 33:
            (running.node.folder / "away").rename(running.node.metrics.SETTINGS)
            running.node.settings(every=5)
    running.each_round = change
    running.node.settings(every=5)
    running.run()
    assert running.node.metrics.FILE.exists()
    assert [each.message for each in caplog.records if "is missing" in each.message] == [
        f"gateway-metrics: {running.node.metrics.SETTINGS} is missing: does the site have "
        "`features: {metrics: true}`, and was it applied since?"]


def test_a_systemd_that_does_not_listen_holds_nobody(running):
    running.listens = False
    assert running.run() == [] and running.rounds == 40


def test_with_new_modules_it_ends_and_systemd_starts_the_new_ones(running, monkeypatch):
    sign = iter([["old"], ["old"], ["new"]])
    monkeypatch.setattr(running.node.metrics, "_sign", lambda: next(sign))
    running.run()
    assert running.rounds == 15


def test_new_modules_have_another_sign(node, monkeypatch, tmp_path):
    monkeypatch.setattr(node.metrics, "__file__", str(tmp_path / "modules/gateway_metrics.py"))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/ipsec.py").write_text("old")
    before = node.metrics._sign()
    (tmp_path / "modules/ipsec.py").write_text("new")
    os.utime(tmp_path / "modules/ipsec.py", ns=(1, 1))
    assert node.metrics._sign() != before and node.metrics._sign() == node.metrics._sign()
    assert Path(node.metrics.salt.version.__file__).name in [name for name, *_ in before]
