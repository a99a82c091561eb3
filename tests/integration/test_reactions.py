"""From a node's signed event to a ticket and to an orchestration: a real master, its engine and its own reactor."""
from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import salt.utils.user
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from alerts import files
from lab.client import client
from tests.integration import conftest
from tests.integration.test_alerts import HOSTILE, VAR, down, fire, wait_for

NODE, PEER = "gw1.winterthur", "gw2.winterthur"
# Writes its words and what it can read into the next file: a ticket system.
_SYSTEM = """#!/bin/sh
exec {python} - "$@" 3<&0 <<'END'
import json, os, sys
with os.fdopen(3) as given:
    said = {{"words": sys.argv[1:], "given": json.load(given)}}
with open("{folder}/tickets", "a") as file:
    file.write(json.dumps(said) + "\\n")
END
"""
_ORCHESTRATION = """\
answers:
  salt.function:
    - name: test.ping
    - tgt: [{{{{ pillar.event.id }}}}]
    - tgt_type: list
    - expect_minions: True

noted:
  salt.runner:
    - name: reactions.command
    - command: [{system}, orchestrated, {{{{ pillar.site }}}}, {{{{ pillar.event.condition }}}}]
    - require:
      - salt: answers
"""


class Place(NamedTuple):
    """What the tests need."""

    master: SaltMaster
    minions: dict[str, SaltMinion]
    folder: Path

    def call(self, minion: str, function: str, *args: object, **kwargs: object) -> Any:
        """The return of a function on a node."""
        with client(dict(self.master.config)) as one:
            said = one.cmd(minion, function, list(args), kwarg=kwargs, timeout=120)
        assert minion in said, f"{minion} did not answer {function}"
        return said[minion]

    def tickets(self, *wanted: str) -> list[dict[str, Any]]:
        """What the ticket system was told that names all of these."""
        try:
            lines = (self.folder / "tickets").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if all(each in line for each in wanted)]

    def status(self) -> dict[str, Any]:
        return files.read(files.folder(self.master.config["cachedir"]) / files.STATUS) or {}


@pytest.fixture(scope="module")
def place(salt_factories, tree) -> Iterator[Place]:
    folder = tree.parent / "reactions"
    folder.mkdir()
    system = folder / "system"
    system.write_text(_SYSTEM.format(python=sys.executable, folder=folder))
    system.chmod(0o755)
    mine = tree / "salt/orch/mine.sls"
    mine.write_text(_ORCHESTRATION.format(system=system))
    shared = {"user": "root", "log_level_logfile": "info", "enable_gpu_grains": False, "enable_fqdns_grains": False,
              "pytest-master": {"log": {"level": "error"}}, "pytest-minion": {"log": {"level": "error"}}}
    # The example of the document, with this ticket system.
    master = salt_factories.salt_master_daemon("reacting", overrides=shared | {
        "worker_threads": 3, "auto_accept": True, "gateway_resync": {"enabled": False},
        "gateway_alerts": {"presence": 0},
        "gateway_reactions": [
            {"when": {"severities": ["critical"], "phases": ["opened", "escalation", "recovery"]}, "sls": "ticket",
             "limit": 1000, "settings": {"command": [str(system), "--queue", "network"]}},
            {"when": {"conditions": ["slave_missing"], "phases": ["recovery"]}, "sls": "orchestrate", "timeout": 300,
             "settings": {"orchestration": "orch.mine"}}]})
    conftest._link(master, "master.d")
    conftest._listen(master)
    minions = {name: master.salt_minion_daemon(name, overrides=shared | {"grains": {"nodename": name[:3]}})
               for name in (NODE, PEER)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(salt.utils.user, "get_specific_user", lambda: "root")
        with master.started(), minions[NODE].started(), minions[PEER].started():
            its = Place(master, minions, folder)
            for node in minions:
                assert its.call(node, "cmd.retcode", VAR) == 0
                its.call(node, "saltutil.sync_modules")
                its.call(node, "saltutil.refresh_pillar")
            wait_for(lambda: its.status().get("reactions", {}).get("entries") == 2, 60)
            yield its
    mine.unlink()


def test_a_critical_event_opens_a_ticket_and_its_end_closes_it(place):
    fire(place, NODE, down("bond1", "critical", "bond_down"))
    (opened,) = wait_for(lambda: place.tickets("opened", "bond1"), 120)
    fire(place, NODE, {})
    (closed,) = wait_for(lambda: place.tickets("recovery", "bond1"), 120)
    assert opened["words"][:3] == ["--queue", "network", "opened"] and closed["words"][2] == "recovery"
    assert opened["words"][3] == closed["words"][3], "the key by which the ticket is found"
    assert opened["words"][4:] == ["winterthur", "critical", "[critical] winterthur: gw1 has no link left on bond1"]
    assert opened["given"]["id"] == NODE and opened["given"]["todo"].endswith("salt-run gateway.roles winterthur")


def test_an_orchestration_of_the_operators_is_applied(place):
    fire(place, NODE, down("eth9", "warning", "slave_missing"))
    fire(place, NODE, {})
    (done,) = wait_for(lambda: place.tickets("orchestrated"), 180)
    assert done["words"] == ["orchestrated", "winterthur", "slave_missing"]
    assert place.status()["reactions"]["failed"] == 0


def test_nothing_that_a_true_sender_says_becomes_code(place):
    mark = place.folder / "mark"
    texts = [text.replace("{mark}", str(mark)) for text in HOSTILE]
    fire(place, NODE, {f"bond_down:hostile {number}": {"severity": "critical", "was": text, "is": text, "cause": text}
                       for number, text in enumerate(texts)})
    wait_for(lambda: len(place.tickets("opened", "hostile")) == len(texts), 240)
    got = {said["given"]["cause"] for said in place.tickets("opened", "hostile")}
    assert got >= {text for text in texts if text.isprintable()} and all(map(str.isprintable, got))
    assert not mark.exists() and not Path("/tmp/x").exists()
    fire(place, NODE, {})


def test_forged_and_replayed_events_open_nothing(place):
    (event,) = fire(place, NODE, down("replayed", "critical", "bond_down"))
    wait_for(lambda: place.tickets("opened", "replayed"), 120)
    tag = f"salt/beacon/{NODE}/bonding/bond_down"
    for sender in (NODE, PEER):
        place.call(sender, "event.fire_master", event, tag)
        place.call(sender, "event.fire_master", event | {"subject": "forged"}, tag)
        place.call(sender, "event.fire_master", event | {"subject": "forged"}, "gateway/alert/winterthur/critical")
    time.sleep(10)
    assert len(place.tickets("opened", "replayed")) == 1 and not place.tickets("forged")


def test_a_killed_engine_opens_no_ticket_twice_and_none_is_missing(place):
    before = len(place.tickets("replayed"))
    pid = place.status()["pid"]
    fire(place, NODE, down("replayed", "critical", "bond_down") | down("late", "critical", "bond_down"))
    wait_for(lambda: place.tickets("opened", "late"), 120)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: place.status().get("pid") not in (None, pid), 120)
    fire(place, NODE, down("replayed", "critical", "bond_down") | down("late", "critical", "bond_down")
         | down("after", "critical", "bond_down"))
    wait_for(lambda: place.tickets("opened", "after"), 120)
    time.sleep(5)
    assert len(place.tickets("opened", "late")) == 1 and len(place.tickets("replayed")) == before
