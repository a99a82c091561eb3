"""The runner alerts, without a master."""
from __future__ import annotations

import shutil
import time

import pytest
import salt.config

from alerts import files
from alerts.incidents import IncidentMachine
from tests.conftest import EXAMPLES, load_module
from tests.unit.alerts.events import made

SECRET = "s3cret-4711"


@pytest.fixture
def runner(tmp_path, monkeypatch):
    module = load_module("_runners/alerts.py")
    shutil.copytree(EXAMPLES / "sites", tmp_path / "pillar/sites")
    monkeypatch.setattr(module, "__opts__", dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(tmp_path / "pillar")]}, "cachedir": str(tmp_path / "cache"),
        "extension_modules": str(tmp_path / "ext"), "sock_dir": str(tmp_path)}, raising=False)
    monkeypatch.setattr(module, "__context__", {}, raising=False)
    module.folder = files.folder(tmp_path / "cache")
    module.pillar = tmp_path / "pillar/alerts.sls"
    return module


def status(**changed):
    return {"at": time.time(), "pid": 7, "rank": None, "gateways": 2, "silent": [], "waiting_events": 0,
            "counts": {"events": 3, "postponed": 0, "alerts": 2, "most_waiting": 1}, "dropped": {"signature": 4},
            "mistakes": [], "targets": {"ops": {"sent": 2, "last_taken": time.time() - 300, "said": "taken",
                                                "waiting": 0, "failing_since": None, "failure": ""}}, **changed}


def test_status_of_an_engine_that_never_ran_says_what_to_look_at(runner):
    said = runner.status()
    assert said["retcode"] == 1 and "master.d" in said["engine"]


def test_status_says_when_each_target_last_took_something(runner):
    files.write(runner.folder / files.STATUS, status())
    said = runner.status()
    assert said["retcode"] == 0 and said["targets"] == {"ops": "took 2, the last one 5 min ago (taken)"}
    assert said["engine"] == "runs (process 7)" and said["dropped"] == {"signature": 4}


@pytest.mark.parametrize("changed, words", [
    ({"at": time.time() - 9999}, "DOES NOT RUN"), ({"mistakes": ["alerts:routes: x"]}, "alerts:routes: x"),
    ({"targets": {"ops": {"sent": 0, "last_taken": None, "said": "", "waiting": 7, "failing_since": time.time() - 60,
                          "failure": "Connection refused"}}}, "7 wait; FAILS since ")])
def test_status_has_an_exit_status(runner, changed, words):
    files.write(runner.folder / files.STATUS, status(**changed))
    said = runner.status()
    assert said["retcode"] == 1 and words in str(said)


def test_open_tells_in_words_what_is_wrong(runner):
    assert runner.open_() == []
    machine, now = IncidentMachine(), time.time()
    machine.take(now, made(1))
    machine.take(now, made(1, minion="gw-a.bern", condition="bond_down", severity="critical"))
    machine.take(now, made(2, recovered=True))
    files.write(runner.folder / files.STATE, {"machine": machine.state()})
    (one,) = runner.open_()
    assert (one["site"], one["severity"]) == ("bern", "critical")
    assert one["conditions"] == ["gw-a has no link left on bond0/eth1 (critical, since 2024-05-01T10:00:00)"]
    assert runner.open_("winterthur") == []


def test_silence_has_an_end_and_can_be_ended(runner):
    said = runner.silence("winterthur", 30)
    assert said["retcode"] == 0 and set(said["silences"]) == {"winterthur"}
    assert set(runner.silence("bern", 5)["silences"]) == {"winterthur", "bern"}
    assert set(runner.silence("winterthur", 0)["silences"]) == {"bern"}
    for site, minutes in (("nowhere", 5), ("../x", 5), (7, 5), ("bern", -1), ("bern", "long"), ("bern", 10**6)):
        assert runner.silence(site, minutes)["retcode"] == 1


def test_validate_names_mistakes_and_no_secret(runner):
    assert runner.validate()["retcode"] == 0
    runner.pillar.write_text(
        "alerts:\n  targets: {hook: {type: webhook, url: 'https://x.example/" + SECRET + "', secret: " + SECRET + "}}\n"
        "  routes: [{sites: zurich, targets: hook}]\n")
    said = runner.validate()
    assert said["retcode"] == 1 and "'zurich' is no site" in said["mistakes"][0] and SECRET not in str(said)
    assert said["targets"] == {"hook": "webhook"}
    runner.pillar.write_text(f"alerts: [{SECRET}: }}")
    with pytest.raises(runner.SaltRunnerError, match="can not be rendered") as caught:
        runner.validate()
    assert SECRET not in str(caught.value)


def test_test_tries_every_target_and_says_what_each_answered(runner, monkeypatch):
    sent = []
    monkeypatch.setattr(runner, "_bus", lambda one: sent.append(one) or "on the bus")
    runner.pillar.write_text("alerts: {targets: {l: {type: syslog, path: /nowhere/log}}, routes: [{targets: l}]}\n")
    said = runner.test()
    assert said["retcode"] == 1 and said["targets"] == {"bus": "on the bus", "l": "FAILED: No such file or directory"}
    assert sent[0]["kind"] == "test" and "salt-run alerts.test" in sent[0]["text"]


def test_mistakes_in_the_masters_configuration_are_named_too(runner):
    assert runner.validate()["mistakes"] == []
    runner.__opts__["gateway_alerts"] = {"presence": "often", "rank": 0}
    said = runner.validate()
    assert said["retcode"] == 1 and said["mistakes"] == [
        "gateway_alerts:presence: 'often' is neither 0 nor a number of seconds from 10 to 86400; working with 60"]
