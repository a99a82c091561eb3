"""The master's figures, from the status that the real engines write."""
from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import salt.config

from alerts import files
from alerts import message as alert_message
from alerts.delivery import Sender
from alerts.limits import Limits
from alerts.spool import Spool
from alerts.targets import Failed
from figures import master, textfile
from resync import actions, events, settings
from resync import files as resync_files
from tests.conftest import EXAMPLES, TREE, load_module
from tests.unit.alerts.test_service import World, made, start
from tests.unit.figures.node import Values, read

SITE = "winterthur"
NOW = 1_790_000_000.0


@pytest.fixture
def values(tmp_path: Path) -> Callable[[], Values]:
    """Reads what the master says."""
    return lambda: read(textfile.text(tmp_path))


@pytest.fixture
def alerts(tmp_path: Path):
    """The alerts engine, as far as it runs without Salt."""
    its = start(World(), tmp_path).service
    its._folder = files.folder(tmp_path)
    yield its
    for sender in its._senders.values():
        sender.stop()


def written(its) -> None:
    files.write(its._folder / files.STATUS, its.status(time.time()))


def test_open_incidents_by_severity(alerts, values):
    written(alerts)
    assert values()["gateway_alerts_incidents_open", (("severity", "critical"),)] == 0
    assert len([name for name, _labels in values() if name == "gateway_alerts_incidents_open"]) == 3
    now = time.time()
    dead = {"minion": "gw2.winterthur", "condition": "peer_dead", "subject": "gw1", "severity": "critical",
            "beacon": "heartbeat"}
    alerts._machine.take(now, made(1, **dead), False)
    written(alerts)
    assert values()["gateway_alerts_incidents_open", (("severity", "critical"),)] == 1
    alerts._machine.take(now + 1, made(2, recovered=True, **dead), False)
    written(alerts)
    assert values()["gateway_alerts_incidents_open", (("severity", "critical"),)] == 0


def test_a_target_that_does_not_take_alerts(alerts, values, tmp_path):
    def refuses(_message):
        raise Failed("no")
    spool = Spool(tmp_path / "queue", 10)
    spool.add([(alert_message.simple("test", "x-1", time.time(), "alert_path", "x"), ["ops"])])
    sender = Sender("ops", refuses, spool, Limits())
    for _ in range(3):
        sender._once()
    alerts._senders["ops"] = sender
    alerts._spool.add([(alert_message.simple("test", "x-2", time.time(), "alert_path", "x"), ["ops"])])
    written(alerts)
    found = values()
    of = (("target", "ops"),)
    assert found["gateway_alerts_target_failures_total", of] == 3 and found["gateway_alerts_target_failing", of] == 1
    assert found["gateway_alerts_target_waiting", of] == 1 and found["gateway_alerts_target_delivered_total", of] == 0
    assert ("gateway_alerts_target_last_delivery_timestamp_seconds", of) not in found


@pytest.fixture
def resync(load, tmp_path, monkeypatch):
    """The resync engine, whose roll-outs end as the test says."""
    module = load("_engines/gateway_resync.py")
    opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(EXAMPLES)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "cachedir": str(tmp_path), "pki_dir": str(tmp_path)}
    now = [100.0]
    monkeypatch.setattr(module, "clock", lambda: now[0])
    its = module.Engine(opts, settings.Config(formulas=("kernel",)))
    begun: dict[str, actions.RollOut] = {}
    for name in ("ask", "apply", "say", "raise", "compare"):
        monkeypatch.setattr(its, f"do_{name}", lambda _action: None)
    monkeypatch.setattr(its, "do_rollout", lambda action: begun.update({action.site: action}))
    its.handle(events.Inputs("tree", {SITE: "a", "bern": "b"}))

    def ended(site: str, outcome: str) -> None:
        its.on_ended(module.Ended(begun.get(site, actions.RollOut(site, "a", "changed")), [outcome, "because"], ""))
        later(3)

    def later(seconds: float) -> None:
        now[0] += seconds
        its.handle(events.Inputs("tree", {SITE: "a", "bern": "b"}))
    its.ended, its.later, its.order = ended, later, lambda name, site: its.handle(events.Order(name, site))
    return its


def test_what_runs_and_what_has_failed(resync, values):
    def number(state: str) -> float:
        return values()["gateway_resync_sites", (("state", state),)]
    resync.order("now", SITE)
    assert (number("running"), number("waiting"), number("failed")) == (0, 1, 0)
    resync.later(10)
    assert (number("running"), number("waiting"), number("failed")) == (1, 0, 0)
    resync.ended(SITE, "failed")
    assert (number("running"), number("waiting"), number("failed")) == (0, 0, 1)
    found = values()
    assert found["gateway_resync_rollouts_total", (("outcome", "failed"),)] == 1
    assert found["gateway_resync_rollouts_total", (("outcome", "done"),)] == 0
    assert ("gateway_resync_last_rollout_timestamp_seconds", ()) not in found
    assert {dict(labels)["state"] for name, labels in found if name == "gateway_resync_sites"} == {
        "waiting", "running", "failed", "refused", "stopped"}


def test_the_last_roll_out_is_known_after_a_restart(resync, values, load):
    resync.ended(SITE, "done")
    then = values()["gateway_resync_last_rollout_timestamp_seconds", ()]
    assert abs(then - time.time()) < 5
    again = load("_engines/gateway_resync.py").Engine(resync.opts, resync.machine.config)
    assert again.last_rollout == pytest.approx(then, abs=0.01) and again.rollouts == {}


def test_who_has_stopped_all(resync, values):
    resync.order("stop", "bern")
    assert values()["gateway_resync_sites", (("state", "stopped"),)] == 1
    assert values()["gateway_resync_stopped", ()] == 0
    resync.order("stop", "")
    assert values()["gateway_resync_stopped", ()] == 1


def test_every_metric_of_the_table_is_written_by_some_master(alerts, resync, values, tmp_path):
    resync.ended(SITE, "done")
    alerts.feed.refused["signature"] = 2
    alerts._senders["bus"].status["last_taken"] = NOW
    written(alerts)
    files.write(files.folder(tmp_path) / files.SILENCES, {"bern": time.time() + 60, SITE: 1.0})
    found = values()
    assert {name for name, _labels in found} == set(master.FAMILIES)
    assert found["gateway_alerts_dropped_messages_total", (("reason", "signature"),)] == 2
    assert found["gateway_alerts_silences", ()] == 1
    text = (textfile.TREE / "VERSION").read_text().strip()
    assert found["gateway_master_info", (("version", text),)] == 1


def test_names_are_as_prometheus_wants_them():
    for name, (kind, _labels, about) in master.FAMILIES.items():
        assert name.endswith("_total") == (kind == "counter") and about, name
        assert "time" not in name.removesuffix("_timestamp_seconds"), name


# What is missing or damaged

def test_an_engine_that_has_died_is_seen_by_its_last_word(values, tmp_path, alerts):
    files.write(files.folder(tmp_path) / files.STATUS, alerts.status(NOW))
    assert values()["gateway_alerts_last_word_timestamp_seconds", ()] == NOW


def test_engines_that_have_never_run(values):
    assert {name for name, _labels in values()} == {
        "gateway_master_info", "gateway_master_written_timestamp_seconds", "gateway_alerts_silences"}


def test_a_disabled_engine_has_no_last_word(values, tmp_path):
    resync_files.write_status(tmp_path, {"enabled": False, "mistakes": ["gateway_resync: parallel: x"]})
    found = values()
    assert found["gateway_resync_enabled", ()] == 0 and found["gateway_resync_mistakes", ()] == 1
    assert ("gateway_resync_last_word_timestamp_seconds", ()) not in found


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"at": 7}), json.dumps({"at": NOW, "silent": None})])
def test_what_can_not_be_read_is_left_out(values, tmp_path, content):
    files.folder(tmp_path).mkdir(parents=True)
    (files.folder(tmp_path) / files.STATUS).write_text(content)
    assert values()["gateway_master_written_timestamp_seconds", ()] > 0


@pytest.mark.parametrize(("given", "said"), [
    ([], "must be a mapping"), ({"fiel": 1}, "fiel: is unknown; the keys are file, every"),
    ({"file": "/etc/passwd"}, "is no path of a file that ends in .prom"), ({"file": "x.prom"}, "is no path"),
    ({"every": 1}, "every: 1 is not between 5 and 300"), ({"every": True}, "is not between"),
    ({"every": "15"}, "is not between")])
def test_a_mistake_in_the_configuration_is_named(given, said):
    (mistake,) = textfile.settings(given).mistakes
    assert mistake.startswith("gateway_metrics: ") and said in mistake


def test_without_configuration_it_is_the_folder_of_debians_exporter():
    its = textfile.settings(None)
    assert its == (Path("/var/lib/prometheus/node-exporter/gateway-master.prom"), 15.0, ())


# The engine and the runner

def test_the_engine_writes_a_file_that_the_exporter_may_read(load, tmp_path):
    engine, path = load("_engines/gateway_metrics.py"), tmp_path / "x/gateway-master.prom"
    said = engine._write(path, str(tmp_path))
    assert "can not be written (No such file or directory)" in said and "\n" not in said
    path.parent.mkdir()
    before = os.umask(0o077)
    try:
        assert engine._write(path, str(tmp_path)) == ""
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o644 and "gateway_master_info" in path.read_text()
    assert [each.name for each in path.parent.iterdir()] == ["gateway-master.prom"]


def test_the_engine_goes_on_after_an_error_and_tells_it_once(load, tmp_path, monkeypatch, caplog):
    engine = load("_engines/gateway_metrics.py")
    rounds = []

    class Clock:
        @staticmethod
        def sleep(seconds: float) -> None:
            rounds.append(seconds)
            if len(rounds) == 3:
                raise KeyboardInterrupt
    monkeypatch.setattr(engine, "time", Clock)
    monkeypatch.setattr(engine, "__opts__", {"cachedir": str(tmp_path), "__role": "master", "gateway_metrics": {
        "file": str(tmp_path / "no/x.prom"), "every": 7}}, raising=False)
    assert engine.__virtual__() == "gateway_metrics"
    with pytest.raises(KeyboardInterrupt):
        engine.start()
    assert rounds == [7, 7, 7] and len([each for each in caplog.records if "can not be written" in each.message]) == 1


def test_the_runner_shows_the_same(tmp_path, monkeypatch):
    runner = load_module("_runners/gateway_metrics.py")
    monkeypatch.setattr(runner, "__opts__", {"cachedir": str(tmp_path)}, raising=False)
    assert "gateway_alerts_silences 0.0" in runner.show()


def test_what_is_added_to_the_masters_configuration_leaves_the_two_engines(tmp_path):
    """Salt merges the lists of the files in master.d: the engine is added by a file of its own."""
    (tmp_path / "master.d").mkdir()
    (tmp_path / "master.d/gateway.conf").write_text((TREE / "etc/salt/master.d/gateway.conf").read_text())
    (tmp_path / "master.d/metrics.conf").write_text("engines:\n  - gateway_metrics: {}\n")
    (tmp_path / "master").write_text("{}\n")
    opts = salt.config.master_config(str(tmp_path / "master"))
    assert sorted(next(iter(each)) for each in opts["engines"]) == [
        "gateway_alerts", "gateway_metrics", "gateway_resync"]
