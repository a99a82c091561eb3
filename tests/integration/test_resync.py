"""The engine on a real master with real minions: its commands, what it refuses, and what it ignores."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import ModuleType

import pytest
import salt.utils.event

from alerts import authentic
from resync import files
from tests.conftest import load_module
from tests.integration.test_alerts import VAR

GW1, GW2, LAPTOP = "gw1.winterthur", "gw2.winterthur", "laptop.winterthur"
SITE = "winterthur"


def eventually(check: Callable[[], object], seconds: float) -> object:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def resync(salt_, looked) -> Iterator:
    """The master. None of its nodes was ever applied, so the engine leaves them alone."""
    salt_.call_all([GW1, GW2], "saltutil.sync_modules")
    eventually(lambda: status(salt_)["engine"] == "running", 60)
    yield salt_
    order(salt_, "go")


def runner(salt_) -> ModuleType:
    """The runner in this process: the same orders to the engine, without `salt-run`'s two seconds of start.

    The tests of `salt-run` itself are below.
    """
    its = load_module("_runners/resync.py")
    pillar = {"pillar_roots": {"base": [str(salt_.tree / "pillar")]}}
    vars(its).update(__opts__=dict(salt_.master.config) | pillar, __context__={})
    return its


def order(salt_, name: str, site: str = "") -> None:
    """Run the function of `salt-run resync.NAME SITE`, which must succeed."""
    said = getattr(runner(salt_), name)(site)
    assert said["retcode"] == 0, said


def status(salt_) -> dict:
    """The content of the file that `salt-run resync.status` reads."""
    found = files.read_status(salt_.master.config["cachedir"])
    age = found.pop("at", None)
    return {**found, "engine": "running" if age is not None and age < files.STALE_SECONDS else "not running"}


def at_rest(salt_) -> bool:
    its = status(salt_)
    return not its["queue"] and not its["running"]


def events(salt_, tag: str, since: float) -> list[dict]:
    """The events on the bus since `since` until now, in order. `tag` is a pattern of fnmatch."""
    # The listener may be seconds behind the bus: when it has heard this event, it has heard all earlier ones.
    marker = f"marker-{time.time()}"
    opts = dict(salt_.master.config)
    with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as bus:
        assert bus.fire_event({}, marker)
    eventually(lambda: any(event.tag == marker for event in reversed(list(salt_.master.event_listener.store))), 60)
    found = salt_.master.event_listener.get_events([(salt_.master.id, tag)], after_time=since)
    return [event.data for event in sorted(found, key=lambda event: event.stamp)]


def applied(salt_, since: float) -> list[dict]:
    """The jobs since `since` that change a node."""
    return [job for job in events(salt_, "salt/job/*/new", since) if called(job) in ("state.apply", "state.highstate")]


def called(job: dict) -> str:
    """The function that a job calls: the master's own calls go through gateway_answers.ask."""
    return job["arg"][1] if job["fun"] == "gateway_answers.ask" else job["fun"]


def drifted(salt_, conditions: dict) -> None:
    """Make gw1 itself report these changes by hand, and no others. Its journal knows them, so the master asks in vain
    for none."""
    assert salt_.call(GW1, "cmd.retcode", VAR) == 0
    for event in salt_.call(GW1, "gateway_events.changed", "drift", conditions):
        salt_.call(GW1, "event.fire_master", event, f"salt/beacon/{GW1}/drift/{event.pop('tag')}")


def by_hand(formula: str) -> dict:
    """A changed file of a formula, as the drift beacon reports it."""
    return {"file_changed:/etc/ipsec.conf": {"severity": "warning", "was": "as written", "is": "changed",
                                             "facts": {"formula": formula}}}


def drift(salt_, number: int, signer: str = GW1, **more) -> dict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"version": 1, "journal": "00112233aabbccdd", "n": number, "id": GW1, "site": SITE, "node": "gw1",
             "role": "active", "beacon": "drift", "condition": "file_changed", "subject": "/etc/ipsec.conf",
             "severity": "warning", "was": "", "is": "changed", "since": now, "at": now, "recovered": False,
             "once": False, "cause": "", "facts": {"formula": "openswan"}} | more
    return authentic.sign(event, authentic.key_of(authentic.load_secret(salt_.master.config["pki_dir"]), signer))


def test_both_nodes_have_the_same_number_and_nobody_else_has_one(resync):
    resync.call_all([GW1, GW2, LAPTOP, "gw-a.bern"], "saltutil.refresh_pillar", wait=True)
    numbers = resync.call_all([GW1, GW2, LAPTOP, "gw-a.bern", "web.elsewhere"], "pillar.get", "gateway_inputs", "",
                             unmask=True)
    assert numbers[GW1] == numbers[GW2] != numbers["gw-a.bern"] != ""
    assert len(numbers[GW1]) >= 64 and numbers[LAPTOP] == numbers["web.elsewhere"] == ""


def test_a_site_with_mistakes_is_refused_told_once_and_nothing_is_applied(resync):
    file = resync.tree / f"pillar/sites/{SITE}.sls"
    right, begun = file.read_text(), time.time()
    try:
        file.write_text(right.replace("192.0.2.12", "192.0.2.200"))
        eventually(lambda: SITE in status(resync)["refused"], 60)
        told = events(resync, "gateway/master/rollout_refused", begun)
        assert len(told) == 1 and "192.0.2.200 is outside" in told[0]["is"] and told[0]["severity"] == "critical"
        secret = authentic.load_secret(resync.master.config["pki_dir"])
        kept = {key: value for key, value in told[0].items() if key != "_stamp"}
        assert authentic.check(kept, "gateway/master/rollout_refused", secret)[0].site == SITE
    finally:
        file.write_text(right)
    eventually(lambda: SITE not in status(resync)["refused"] and at_rest(resync), 60)
    over = events(resync, "gateway/master/rollout_refused", begun)
    assert [each["recovered"] for each in over] == [False, True]
    assert applied(resync, begun) == []


def test_a_site_that_was_never_applied_is_left_to_a_person(resync):
    file, begun = resync.tree / f"pillar/sites/{SITE}.sls", time.time()
    file.write_text(file.read_text() + "# a remark\n")
    time.sleep(3)
    eventually(lambda: at_rest(resync), 60)
    assert applied(resync, begun) == []


def test_a_dry_run_names_what_would_change(resync):
    said = resync.run("resync.dry_run", SITE).data["sites"][SITE]
    assert set(said["first"]) >= {GW1, GW2} and "waits_for" in said
    assert all(len(said["first"][minion]["would_change"]) > 5 for minion in (GW1, GW2)), said


@pytest.mark.parametrize("name", ["../secrets/winterthur", "{{ 7 * 7 }}", "nowhere", "winterthur; id"])
def test_a_name_that_is_no_site_is_nothing(resync, name):
    for function in ("status", "dry_run", "now", "stop", "go", "compare"):
        said = getattr(runner(resync), function)(name)
        assert said["retcode"] == 1 and "is no site" in said["mistakes"][0], (function, said)
    done = resync.run("resync.now", name)       # as a person types it: Salt parses the words, too
    assert done.returncode == 1 and "is no site" in done.data["mistakes"][0], done


def test_stopped_and_going_on(resync):
    assert resync.run("resync.stop", SITE).returncode == 0
    assert resync.run("resync.status").data["stopped"] == status(resync)["stopped"] == [SITE]
    assert resync.run("resync.go").returncode == 0
    its = resync.run("resync.status")
    assert its.data["stopped"] == [] and its.data["engine"] == "running" and its.returncode == 0
    for function in ("dry_run", "compare"):
        assert "is no site" in resync.run(f"resync.{function}", "nowhere").data["mistakes"][0]


def test_hostile_events_lead_to_nothing(resync):
    """From a minion with an accepted key, in many forms."""
    eventually(lambda: at_rest(resync), 60)
    begun, good = time.time(), drift(resync, 1)
    forged = [
        ("salt/beacon/gw1.winterthur/drift/file_changed", good | {"signature": "0" * 64}),
        ("salt/beacon/gw1.winterthur/drift/file_changed", drift(resync, 2, signer=LAPTOP)),
        ("salt/beacon/laptop.winterthur/drift/file_changed", drift(resync, 3, LAPTOP, id=LAPTOP)),
        ("salt/beacon/gw2.winterthur/drift/file_changed", good),
        ("salt/beacon/gw1.winterthur/drift/file_changed", good | {"facts": {"formula": "{{ salt['cmd.run']('id') }}"}}),
        ("salt/beacon/gw1.winterthur/drift/x", {"a": "b" * 100_000}),
        ("gateway/resync/order", {"condition": "stop", "site": ""}),
        ("gateway/resync/order", drift(resync, 4, beacon="resync", condition="stop")),
        ("salt/minion/../../start", {}), ("salt/minion/gw1.nowhere/start", {}),
    ]
    for tag, data in forged:
        resync.call(LAPTOP, "event.send", tag, data)
    for _ in range(20):
        resync.call(LAPTOP, "event.fire_master", json.dumps({"x": "{{ 7 }}"}), "salt/beacon/gw1.winterthur/drift/y")
    time.sleep(4)
    its = status(resync)
    assert its["engine"] == "running" and its["drift"] == [] and its["stopped"] == [] and applied(resync, begun) == []
    # the engine still hears true events, and repairs nothing where a person has stopped it
    order(resync, "stop", SITE)
    drifted(resync, by_hand("openswan"))
    eventually(lambda: status(resync)["drift"], 20)
    assert status(resync)["drift"] == ["gw1.winterthur: file_changed /etc/ipsec.conf"]
    drifted(resync, {})
    eventually(lambda: not status(resync)["drift"], 20)
    order(resync, "go", SITE)
    assert applied(resync, begun) == []
