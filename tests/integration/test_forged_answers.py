"""A minion with an accepted key answers in a gateway's name: nothing of it counts, and the gateway's own answer does.

A real master, real minions. The gateway's processes stand still meanwhile, so the forged answer comes first.
"""
from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from alerts import authentic, files
from nodes import answers
from tests.integration.test_alerts import ELSEWHERE, VAR, down, fire, folder, wait_for
from tests.integration.test_orch import APPLY, PAIR, STAND_IN, TOP, Pair
from tests.integration.test_resync import events

GW1, GW2 = PAIR
FORGER = "laptop.winterthur"
# Of a minion that has stood still for more than a minute Salt loses the first answers, which the modules after this one
# would wait for.
SLOW = pytest.mark.skipif(not os.environ.get("LAB_LONG"), reason="LAB_LONG=1 runs what takes minutes")


@pytest.fixture(scope="module")
def pair(salt_, looked) -> Iterator[Pair]:
    """The stand-in for heartbeat and the states is on both nodes; afterwards the tree's own is back."""
    place = salt_.tree.parent / "forged"
    place.mkdir()
    files_ = {salt_.tree / "_modules/heartbeat.py": STAND_IN.format(folder=str(place)),
              salt_.tree / "salt/top.sls": TOP, salt_.tree / "salt/stand_in.sls": APPLY}
    kept = {path: path.read_text() if path.exists() else None for path in files_}
    for path, text in files_.items():
        path.write_text(text)
    its = Pair(salt_, place)
    try:
        salt_.run("fileserver.update")
        salt_.call_all(PAIR, "saltutil.sync_modules")
        salt_.call_all(PAIR, "saltutil.refresh_pillar", wait=True)
        yield its
    finally:
        for path, text in kept.items():
            path.unlink() if text is None else path.write_text(text)
        salt_.run("fileserver.update")
        salt_.call_all(PAIR, "saltutil.sync_modules")


@contextlib.contextmanager
def still(salt_, minion: str) -> Iterator[None]:
    """All processes of a minion stand still; what is sent to it waits."""
    first = psutil.Process(salt_.minions[minion].pid)
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def asked(salt_, minion: str, function: str, since: float) -> dict:
    """The first question to a minion since then: a minion sees it, as it is sent to all of them."""
    return wait_for(lambda: next((job for job in events(salt_, "salt/job/*/new", since)
                                  if job["fun"] == answers.FUNCTION and job["arg"][1] == function
                                  and minion in job["tgt"]), None), 60)


def forge(salt_, job: dict, minion: str, said: object) -> None:
    """Answer in a minion's name: without a signature, and with the forger's own key."""
    secret = authentic.load_secret(salt_.master.config["pki_dir"])
    fields = {"id": minion, "nonce": job["arg"][0], "function": job["arg"][1], "job": job["jid"], "at": time.time(),
              "retcode": 0, "error": "", "answer": said}
    signed = {**fields, "signature": answers.signature(fields, authentic.key_of(secret, FORGER))}
    with salt_._channel(FORGER) as channel:
        channel.send({"cmd": "_minion_event", "id": FORGER, "events": [
            {"tag": f"salt/job/{job['jid']}/ret/{minion}", "data": {
                "return": each, "id": minion, "jid": job["jid"], "fun": job["fun"], "success": True, "retcode": 0}}
            for each in (said, signed)]}, timeout=30, tries=1)


def begin(salt_, *words: str) -> tuple[threading.Thread, list]:
    """Run `salt-run` beside the test. The list has its result in the end."""
    found: list = []
    thread = threading.Thread(target=lambda: found.append(salt_.run(*words)))
    thread.start()
    return thread, found


def test_a_forged_answer_that_comes_first_does_not_hide_the_true_one(pair):
    pair.begin("active", "standby")
    since = time.time()
    with still(pair.salt, GW2):
        thread, found = begin(pair.salt, "gateway_step.run", GW2, "heartbeat.role")
        forge(pair.salt, asked(pair.salt, GW2, "heartbeat.role", since), GW2, "active")
        time.sleep(2)
        assert not found
    thread.join(120)
    assert found[0].returncode == 0 and found[0].data["ret"] == {GW2: "standby"}


def test_no_forged_role_makes_a_pair(pair):
    pair.begin("active", "standby")
    since = time.time()
    with still(pair.salt, GW2):
        thread, found = begin(pair.salt, "gateway.pair", "winterthur")
        forge(pair.salt, asked(pair.salt, GW2, "heartbeat.role", since), GW2, "standby")
        thread.join(120)
    its = found[0].data
    assert its["standby"] == "" and its["roles"][GW1] == "active" and its["roles"][GW2].startswith("silent (")


@SLOW
def test_no_forged_state_run_is_a_success(pair):
    """So orch.resync does not go on to the active node: its steps require each other."""
    pair.begin("active", "standby")
    since = time.time()
    with still(pair.salt, GW2):
        thread, found = begin(pair.salt, "gateway_step.run", GW2, "state.highstate")
        forge(pair.salt, asked(pair.salt, GW2, "state.highstate", since), GW2,
              {"a_|-b_|-c_|-d": {"result": True, "changes": {}, "comment": "", "__run_num__": 0}})
        # nor can the forger keep the master waiting
        forge(pair.salt, asked(pair.salt, GW2, "saltutil.find_job", since), GW2, {"pid": 1})
        thread.join(180)
    assert found[0].returncode == 1 and found[0].data["ret"] == {GW2: False}
    wait_for(lambda: pair.log == ["gw2 apply"], 60)         # what was sent to it is done now


@SLOW
def test_a_forged_answer_recovers_no_alert_and_is_counted(pair):
    salt_ = pair.salt
    assert salt_.call(ELSEWHERE, "cmd.retcode", VAR) == 0

    def status() -> dict:
        return files.read(folder(salt_) / files.STATUS) or {"dropped": {}}

    def recoveries(since: float) -> list[dict]:
        return [each for each in events(salt_, "gateway/alert/bern/*", since) if each["kind"] == "recovery"]

    def still_open() -> bool:
        """What the engine knows, whatever else of the site its incident holds."""
        known = (files.read(folder(salt_) / files.STATE) or {"machine": {"incidents": []}})["machine"]["incidents"]
        return any("bond0/forged" in key and line["open"] for each in known for key, line in each["lines"].items())

    # Not one of the pair: test_alerts has made up event numbers of gw2, and gw1's own beacons run by now.
    since = time.time()
    fire(salt_, ELSEWHERE, down("bond0/forged", "critical", "bond_down"))
    wait_for(lambda: [each for each in events(salt_, "gateway/alert/bern/critical", since)
                      if "bond0/forged" in json.dumps(each)], 30)
    wait_for(still_open, 30)
    before, since = sum(status()["dropped"].values()), time.time()
    with still(salt_, ELSEWHERE):
        # anybody can say that a minion has started; the engine asks it
        salt_.call(FORGER, "event.fire_master", {}, f"salt/minion/{ELSEWHERE}/start")
        done: set[str] = set()

        def counted() -> bool:
            # the questions of both engines; the status is of one of them
            for job in events(salt_, "salt/job/*/new", since):
                if job["fun"] == answers.FUNCTION and ELSEWHERE in job["tgt"] and job["jid"] not in done:
                    done.add(job["jid"])
                    forge(salt_, job, ELSEWHERE, {"journal": "f" * 16, "newest": 2**40, "taken": 2**40})
                    forge(salt_, job, ELSEWHERE, [])
            return sum(status()["dropped"].values()) >= before + 4

        wait_for(counted, 90)
    time.sleep(3)
    assert recoveries(since) == [] and still_open()
    fire(salt_, ELSEWHERE, {})
    wait_for(lambda: not still_open(), 60)


def test_a_job_that_applies_states_is_seen_as_such_by_salt_itself(pair):
    """Otherwise Salt would let a person's state run begin beside it."""
    salt_ = pair.salt
    pair.begin("active", "standby")
    (salt_.tree / "salt/stand_in.sls").write_text("slow:\n  cmd.run:\n    - name: sleep 20\n")
    salt_.run("fileserver.clear_file_list_cache")
    try:
        thread, found = begin(salt_, "gateway_step.run", GW2, "state.highstate")
        wait_for(lambda: [job for job in salt_.call(GW2, "saltutil.is_running", "state.*")
                          if job["fun"] == "state.highstate"], 60)
        assert salt_.call(GW2, "watching.states_run") is True
        assert "is running as PID" in str(salt_.call(GW2, "state.apply"))
        thread.join(120)
        assert found[0].returncode == 0
    finally:
        (salt_.tree / "salt/stand_in.sls").write_text(APPLY)
        salt_.run("fileserver.clear_file_list_cache")
