"""Two masters that share a minion: one cause is one alert, also when one of them is killed, and when it is back.

With a real beacon, so that events reach both masters as in production.
"""
from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import salt.utils.user
import yaml
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from alerts import files
from alerts.incidents import JOIN
from lab.client import client
from tests import sinks
from tests.integration import conftest
from tests.integration.test_alerts import VAR, wait_for

NODE = "gw-b.bern"
# A beacon that reports the conditions in a file: {"CONDITION:SUBJECT": {...}}.
_BEACON = '''
import json

CONDITIONS = {}


def validate(config):
    return True, "valid"


def beacon(config):
    with open("/var/lib/gateway/probe.json") as file:
        return __salt__["gateway_events.changed"]("probe", json.load(file))
'''


class Pair(NamedTuple):
    """What the tests need."""

    masters: list[SaltMaster]
    minion: SaltMinion
    sink: sinks.Sink

    def call(self, number: int, function: str, *args: object, seconds: float = 120) -> object:
        """The return of a function on the node, called by one of the masters until the node answers."""
        def tried() -> tuple | None:
            with client(dict(self.masters[number].config)) as one:
                said = one.cmd(NODE, function, list(args), timeout=30)
            return (said[NODE],) if NODE in said else None
        return wait_for(tried, seconds)[0]

    def report(self, number: int, *subjects: str) -> None:
        """Set the conditions that are open on the node from now on."""
        wrong = {f"trouble:{subject}": {"severity": "critical", "was": "well", "is": "ill"} for subject in subjects}
        assert self.call(number, "file.write", "/var/lib/gateway/probe.json", json.dumps(wrong))

    def status(self, number: int) -> dict:
        return files.read(files.folder(self.masters[number].config["cachedir"]) / files.STATUS) or {}

    def told(self, subject: str, kind: str = "alert", since: float = 0) -> list[dict]:
        """The messages of a kind that name a subject and came after `since`."""
        return [got.json for got in list(self.sink.got)
                if got.at > since and got.json["kind"] == kind and subject in json.dumps(got.json)]


def _place(master: SaltMaster) -> str:
    """The master's address, another one for each: a minion tells its masters apart by it."""
    return f"{master.config['interface']}:{master.config['ret_port']}"


@pytest.fixture(scope="module")
def pair(salt_factories, tree) -> Iterator[Pair]:
    with sinks.web() as sink:
        (tree / "pillar/alerts.sls").write_text(yaml.safe_dump({"alerts": {
            "targets": {"hook": {"type": "webhook", "url": f"http://127.0.0.1:{sink.port}/"}},
            "routes": [{"targets": ["hook"]}]}}))
        (tree / "_beacons/probe.py").write_text(_BEACON)
        beacons = tree / "pillar/beacons.sls"
        shipped = beacons.read_text()
        beacons.write_text("beacons: {probe: []}\n")
        shared = {"user": "root", "log_level_logfile": "info", "enable_gpu_grains": False,
                  "enable_fqdns_grains": False, "pytest-master": {"log": {"level": "error"}},
                  "pytest-minion": {"log": {"level": "error"}}}
        masters: list[SaltMaster] = []
        for rank, name in enumerate(("first", "second")):
            other = {"other": _place(masters[0])} if masters else {}
            masters.append(salt_factories.salt_master_daemon(name, overrides=shared | {
                "worker_threads": 3, "auto_accept": True, "interface": f"127.0.0.{rank + 1}",
                "gateway_resync": {"enabled": False}, "gateway_alerts": {"rank": rank, "presence": 24, **other}}))
            conftest._link(masters[-1], "master.d")
            conftest._listen(masters[-1])
        minion = masters[0].salt_minion_daemon(NODE, overrides=shared | {
            "master": [_place(master) for master in masters], "grains": {"nodename": "gw-b"},
            "retry_dns": 0, "master_tries": -1, "acceptance_wait_time": 2})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(salt.utils.user, "get_specific_user", lambda: "root")
            with masters[0].started():
                for file in ("master.pem", "master.pub", "gateway_events.key"):
                    shutil.copy(Path(masters[0].config["pki_dir"]) / file, masters[1].config["pki_dir"])
                with masters[1].started(), minion.started():
                    its = Pair(masters, minion, sink)
                    assert its.call(0, "cmd.retcode", VAR) == 0
                    its.report(0)
                    for function in ("saltutil.sync_all", "saltutil.refresh_pillar"):
                        its.call(0, function)
                    wait_for(lambda: its.call(1, "gateway_events.newest"), 60)
                    yield its
        (tree / "pillar/alerts.sls").unlink()
        (tree / "_beacons/probe.py").unlink()
        beacons.write_text(shipped)


def test_one_cause_is_one_alert(pair):
    pair.report(0, "first-trouble")
    wait_for(lambda: pair.told("first-trouble"), 60)
    wait_for(lambda: pair.status(1)["counts"]["events"], 30)        # the second master has heard of it, too
    time.sleep(12)                                                  # longer than it waits
    assert len(pair.told("first-trouble")) == 1
    assert pair.call(0, "gateway_events.newest")["taken"] >= 1


def test_with_the_first_master_killed_nothing_is_lost_and_nothing_comes_twice(pair):
    time.sleep(JOIN)                    # otherwise it would join the first one's incident
    pair.masters[0].terminate()
    pair.report(1, "first-trouble", "second-trouble")
    begun = time.monotonic()
    wait_for(lambda: pair.told("second-trouble"), 90)
    print(f"with the first master away the alert came {time.monotonic() - begun:.1f} s after it was caused")
    assert pair.masters[0].start()
    wait_for(lambda: pair.status(0).get("at", 0) > time.time() - 5, 60)
    wait_for(lambda: pair.call(0, "test.ping"), 120)
    time.sleep(20)
    assert len(pair.told("first-trouble")) == len(pair.told("second-trouble")) == 1


def test_the_end_is_told_once(pair):
    pair.report(0)
    wait_for(lambda: pair.told("first-trouble", "recovery") and pair.told("second-trouble", "recovery"), 60)
    time.sleep(12)
    assert len(pair.told("first-trouble", "recovery")) == len(pair.told("second-trouble", "recovery")) == 1


def test_a_node_that_falls_silent_is_told_once(pair):
    before = [(got.at, got.json["subject"]) for got in list(pair.sink.got)]
    begun = time.time()
    pair.minion.terminate()
    # it was silent for a while, too, when it lost a master: that was an alert of its own
    wait_for(lambda: pair.told("node_silent", since=begun), 150)
    time.sleep(30)
    told = pair.told("node_silent", since=begun)
    assert len(told) == 1, (before, begun, told)
    (one,) = told
    assert one["site"] == "bern" and NODE in one["subject"]
