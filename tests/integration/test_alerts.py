"""From a node's signed event to the alert: a real master with its engine, real minions, sinks as targets."""
from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from alerts import authentic, files
from tests import sinks

NODE, OTHER, STRANGER = "gw1.winterthur", "gw2.winterthur", "laptop.winterthur"
ELSEWHERE = "gw-a.bern"
PASSWORD = "mail-password-8723461"
# The node's journal goes here, because the machine's /var/lib is read-only for the minions.
VAR = """set -e
grep -q ' /var/lib/gateway ' /proc/mounts && exit 0
mount --bind /var/lib/dpkg /mnt
mount -t tmpfs gateway /var/lib
mkdir /var/lib/dpkg /var/lib/gateway
mount --move /mnt /var/lib/dpkg
mount -t tmpfs gateway /var/lib/gateway
"""


@pytest.fixture(scope="module")
def sink() -> Iterator[dict[str, sinks.Sink]]:
    with sinks.web() as hook, sinks.web() as chat, sinks.mail(password=PASSWORD) as mail, sinks.log_udp() as log:
        yield {"hook": hook, "chat": chat, "mail": mail, "log": log}


@pytest.fixture(scope="module")
def alerts(salt_, sink) -> Iterator[Callable[..., dict]]:
    """The engine with targets, and the function that makes a node report."""
    for node in (NODE, OTHER, ELSEWHERE):
        assert salt_.call(node, "cmd.retcode", VAR) == 0
        salt_.call(node, "saltutil.sync_modules")
        salt_.call(node, "saltutil.refresh_pillar")
    file = salt_.tree / "pillar/alerts.sls"
    write(salt_, sink)
    wait_for(lambda: set(status(salt_).get("targets", {})) == {"bus", "hook", "chat", "mail", "log"}, 30)
    yield lambda *args, **more: fire(salt_, *args, **more)
    file.unlink()
    wait_for(lambda: set(status(salt_)["targets"]) == {"bus", "syslog"}, 30)


def write(salt_, sink) -> None:
    """Write pillar/alerts.sls, with one encrypted value."""
    many = {"limits": {"site": 1000, "target": 1000}}
    text = yaml.safe_dump({"alerts": {
        "targets": {
            "hook": {"type": "webhook", "url": f"http://127.0.0.1:{sink['hook'].port}/hook", **many},
            "chat": {"type": "slack", "url": f"http://127.0.0.1:{sink['chat'].port}/chat", **many},
            "mail": {"type": "mail", "host": "127.0.0.1", "port": sink["mail"].port, "security": "none",
                     "user": "vpn", "password": salt_.keyring.encrypt(PASSWORD), "from": "vpn@example.org",
                     "to": "ops@example.org", **many},
            "log": {"type": "syslog", "protocol": "udp", "host": "127.0.0.1", "port": sink["log"].port, **many}},
        "routes": [{"targets": ["hook", "log"]}, {"sites": ["winterthur"], "severities": ["critical", "warning"],
                                                 "targets": ["mail", "chat"]}]}})
    file = salt_.tree / "pillar/alerts.sls"
    new = file.with_suffix(".new")
    new.write_text(f"#!yaml|gpg\n{text}")
    new.replace(file)


def wait_for(condition: Callable[[], object], seconds: float) -> object:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.1)
    return found


def folder(salt_) -> Path:
    return files.folder(salt_.master.config["cachedir"])


def status(salt_) -> dict:
    return files.read(folder(salt_) / files.STATUS) or {}


def told(sink: sinks.Sink, text: str) -> list[dict]:
    """The messages of a web sink that contain a text."""
    return [got.json for got in list(sink.got) if text in json.dumps(got.json)]


def wait_told(sink: sinks.Sink, text: str, seconds: float = 15, count: int = 1) -> list[dict]:
    sink.until(lambda _got: len(told(sink, text)) >= count, seconds)
    found = told(sink, text)
    assert len(found) == count, (text, [got.json.get("subject", got.json.get("text")) for got in sink.got])
    return found


def change(salt_, node: str, conditions: dict, once: list = (), beacon: str = "bonding") -> list[dict]:
    """The events that a beacon would return, journalled and signed on the node itself."""
    return salt_.call(node, "gateway_events.changed", beacon, conditions, once=list(once))


def fire(salt_, node: str, conditions: dict, once: list = (), beacon: str = "bonding") -> list[dict]:
    """Make a node report conditions to the master."""
    events = change(salt_, node, conditions, once, beacon)
    for event in events:
        tag = f"salt/beacon/{node}/{beacon}/{event.pop('tag')}"
        salt_.call(node, "event.fire_master", event, tag)
    return events


def down(subject: str, severity: str = "warning", condition: str = "slave_down") -> dict:
    return {f"{condition}:{subject}": {"severity": severity, "was": "up", "is": "down",
                                       "cause": f"because of {subject}"}}


def test_a_signed_event_reaches_every_target(salt_, alerts, sink):
    alerts(NODE, down("bond0/first"))
    (hook,) = wait_told(sink["hook"], "bond0/first")
    assert (hook["kind"], hook["site"], hook["severity"]) == ("alert", "winterthur", "warning")
    assert hook["conditions"][0]["id"] == NODE and hook["conditions"][0]["node"] == "gw1"
    (chat,) = wait_told(sink["chat"], "bond0/first")
    assert chat["text"] == hook["subject"]
    mails = sink["mail"].until(lambda got: any("bond0/first" in sinks.text_of(one) for one in got), 15)
    (mail,) = [one for one in mails if "bond0/first" in sinks.text_of(one)]
    assert mail["Subject"] == hook["subject"] and "salt 'gw1.winterthur' bonding.status" in sinks.text_of(mail)
    lines = sink["log"].until(lambda got: any(b"bond0/first" in line for line in got), 15)
    assert any(b"bond0/first" in line for line in lines), (lines, status(salt_))
    wait_for(lambda: any("bond0/first" in str(event.full_data) for event in list(salt_.master.event_listener.store)
                         if event.tag == "gateway/alert/winterthur/warning"), 30)


def test_its_end_is_told(alerts, sink):
    alerts(NODE, {})
    (over,) = [each for each in wait_told(sink["hook"], "bond0/first", count=2) if each["kind"] == "recovery"]
    assert over["subject"].startswith("[over] winterthur: over: bond0/first of gw1 has its link again")


def test_events_of_one_cause_are_one_alert(alerts, sink):
    before = len(sink["hook"].got)
    alerts(NODE, down("bond0/a") | down("bond0/b") | down("bond0", "critical", "bond_down"))
    alerts(OTHER, {"peer_dead:gw1": {"severity": "critical", "was": "active", "is": "dead"}}, beacon="heartbeat")
    time.sleep(3)
    new = [got.json for got in sink["hook"].got[before:]]
    assert [each["kind"] for each in new] in (["alert"], ["alert", "escalation"]), new
    assert new[-1]["severity"] == "critical"
    alerts(NODE, {})
    alerts(OTHER, {}, beacon="heartbeat")
    wait_for(lambda: [got.json["kind"] for got in sink["hook"].got[before:]][-1] == "recovery", 15)


def test_a_mail_server_that_is_away_loses_nothing(salt_, alerts, sink):
    sink["mail"].refuse = True
    alerts(NODE, down("bond0/while-away"))
    wait_told(sink["hook"], "bond0/while-away")          # the other targets do not wait for it
    wait_for(lambda: status(salt_)["targets"]["mail"]["failure"], 15)
    told_ = salt_.run("alerts.status")
    assert told_.returncode == 1 and "FAILS" in told_.stdout
    sink["mail"].refuse = False
    assert any("bond0/while-away" in sinks.text_of(one) for one in sink["mail"].until(
        lambda got: any("bond0/while-away" in sinks.text_of(one) for one in got), 60))
    alerts(NODE, {})


def test_a_killed_engine_loses_nothing_and_repeats_nothing(salt_, alerts, sink):
    alerts(NODE, down("bond0/before"))
    wait_told(sink["hook"], "bond0/before")
    time.sleep(2.5)                                      # until the engine has saved its state
    pid = status(salt_)["pid"]
    os.kill(pid, signal.SIGKILL)
    # nobody listens: one event is fired and lost, one is only journalled
    alerts(NODE, down("bond0/before") | down("bond0/meanwhile"))
    change(salt_, NODE, down("bond0/before") | down("bond0/meanwhile") | down("bond1", "critical", "bond_down"))
    wait_for(lambda: status(salt_)["pid"] != pid, 90)
    wait_told(sink["hook"], "bond1", 60)
    assert told(sink["hook"], "bond0/meanwhile")
    time.sleep(2)
    assert len([each for each in told(sink["hook"], "bond0/before") if each["kind"] == "alert"]) == 1
    alerts(NODE, {})
    wait_for(lambda: [each["kind"] for each in told(sink["hook"], "bond1")][-1] == "recovery", 30)


def test_an_unsigned_event_is_fetched(salt_, alerts, sink):
    (event,) = change(salt_, NODE, down("bond0/unsigned"))
    tag = f"salt/beacon/{NODE}/bonding/{event.pop('tag')}"
    salt_.call(NODE, "event.fire_master", event | {"signature": ""}, tag)
    wait_told(sink["hook"], "bond0/unsigned", 40)
    alerts(NODE, {})


def test_silence_and_its_end(salt_, alerts, sink):
    assert "no site" in salt_.run("alerts.silence", "nowhere", "5").stdout
    assert salt_.run("alerts.silence", "winterthur", "5").returncode == 0
    time.sleep(0.6)
    alerts(NODE, down("bond0/silenced"))
    time.sleep(3)
    assert not told(sink["hook"], "bond0/silenced")
    assert "bond0/silenced" in salt_.run("alerts.open", "winterthur").stdout
    assert salt_.run("alerts.silence", "winterthur", "0").returncode == 0
    (one,) = wait_told(sink["hook"], "bond0/silenced")
    assert "silenced" in one["text"]
    alerts(NODE, {})


def test_the_operator_is_told_how_things_are(salt_, alerts, sink):
    said = salt_.run("alerts.test")
    assert said.returncode == 0 and "taken by the mail server" in said.stdout, said.stdout
    wait_told(sink["hook"], "alert_path")
    said = salt_.run("alerts.validate")
    assert said.returncode == 0 and PASSWORD not in said.stdout
    said = salt_.run("alerts.status")
    assert said.returncode == 0 and "runs (process" in said.stdout and PASSWORD not in said.stdout


def test_mistakes_in_the_configuration_change_nothing(salt_, alerts, sink):
    file = salt_.tree / "pillar/alerts.sls"
    right = file.read_text()
    file.write_text(right.replace("type: slack", "type: slacks"))
    wait_for(lambda: status(salt_)["mistakes"], 20)
    said = salt_.run("alerts.validate")
    assert said.returncode == 1 and "alerts:targets:chat:type" in said.stdout
    alerts(NODE, down("bond0/in-spite"))
    wait_told(sink["chat"], "bond0/in-spite")
    file.write_text(right + "\n# right again\n")
    wait_for(lambda: not status(salt_)["mistakes"], 20)
    alerts(NODE, {})


# What an attacker who controls a minion may try


HOSTILE = ["{{ salt['cmd.run']('touch /tmp/x') }}", "$(touch {mark})", "`touch {mark}`", "'; touch {mark}; '",
           "!!python/object/apply:os.system ['touch {mark}']", "a: {b: [", "../../../etc/passwd", "%s%n%x",
           "a\r\nBcc: everybody@example.org", "\x1b[31mred\x00", "<!channel> <script>"]


def test_nothing_that_a_true_sender_says_does_anything(salt_, alerts, sink, tmp_path):
    """The attacker has the node's own key, and sends texts of every kind, in every field that takes text."""
    mark = tmp_path / "mark"
    secret = authentic.load_secret(salt_.master.config["pki_dir"])
    # as the other node: event numbers that its journal lacks are believed, and its own later ones count as repeats
    salt_.call(OTHER, "gateway_events.changed", "bonding", {}, once=[{
        "condition": "slave_flapped", "subject": "x", "severity": "info", "was": "up", "is": "up"}])
    newest = salt_.call(OTHER, "gateway_events.newest")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    for number, text in enumerate(HOSTILE):
        text = text.replace("{mark}", str(mark))
        event = {"version": 1, "journal": newest["journal"], "n": newest["newest"] + 1 + number, "id": OTHER,
                 "site": "bern", "node": "gw-a", "role": "active", "beacon": "bonding", "condition": "slave_down",
                 "subject": f"hostile {text}"[:300], "severity": "critical", "was": text, "is": text,
                 "since": "2024-05-01T10:00:00Z", "at": now, "recovered": False, "once": False,
                 "cause": text, "facts": {text: text}}
        event = authentic.sign(event, authentic.key_of(secret, OTHER))
        salt_.call(OTHER, "event.fire_master", event, f"salt/beacon/{OTHER}/bonding/slave_down")
    got = wait_for(lambda: [each for each in told(sink["hook"], "hostile") if len(each["conditions"]) >= 1], 20)
    assert {each["site"] for each in got} == {"winterthur"}, "it speaks for its own site only"
    mails = sink["mail"].until(lambda got: any("hostile" in one["Subject"] for one in got), 15)
    assert not any(one["Bcc"] for one in mails)
    (chat, *_) = wait_for(lambda: told(sink["chat"], "hostile"), 15)
    assert "<!channel>" not in json.dumps(chat) and "\x1b" not in chat["text"]
    time.sleep(1)
    assert not mark.exists() and not Path("/tmp/x").exists()


def test_a_flood_of_lies_from_a_minion_drowns_nothing(salt_, alerts, sink):
    """A minion with an accepted key, not a gateway, fires thousands of events; meanwhile a real alert gets through."""
    secret = authentic.load_secret(salt_.master.config["pki_dir"])
    forged = {"version": 1, "journal": "0" * 16, "n": 1, "id": NODE, "site": "winterthur", "node": "gw1",
              "role": "active", "beacon": "bonding", "condition": "bond_down", "subject": "forged",
              "severity": "critical", "was": "", "is": "", "since": "2024-05-01T10:00:00Z",
              "at": "2024-05-01T10:00:00Z", "recovered": False, "once": False, "cause": "", "facts": {}}
    lies = [authentic.sign(forged, authentic.key_of(secret, STRANGER)), forged | {"signature": "0" * 64}, forged,
            forged | {"facts": {"x": "y" * 20_000}}, {"facts": [[[[[[[[1]]]]]]]]}, {"signature": 7}, {"id": {"a": 1}},
            {"data": {"data": {}}}]
    tags = [f"salt/beacon/{NODE}/bonding/bond_down", "salt/beacon/", f"salt/beacon/{'x' * 500}/a/b",
            "gateway/master/node_silent", f"salt/minion/{NODE}/start", "salt/minion/nobody/start"]
    before = status(salt_)
    with salt_._channel(STRANGER) as channel:
        begun, count = time.monotonic(), 0
        while count < 4000:
            events = [{"tag": tags[number % len(tags)], "data": lies[number % len(lies)]}
                      for number in range(count, count + 100)]
            channel.send({"cmd": "_minion_event", "id": STRANGER, "events": events}, timeout=30, tries=1)
            count += 100
            if count == 2000:
                alerts(ELSEWHERE, down("bond0/in-the-flood"))
                fired = time.monotonic()
        rate = count / (time.monotonic() - begun)
    wait_told(sink["hook"], "bond0/in-the-flood", 10)
    print(f"flood of {rate:.0f} events/s; a real alert was delivered within {time.monotonic() - fired:.1f} s")
    assert not told(sink["hook"], "forged") and not told(sink["chat"], "forged")      # none of the forged events
    # The engine counts while it works through the flood, and writes its status every two seconds.
    was = before["dropped"]
    wait_for(lambda: (now := status(salt_)["dropped"]).get("signature", 0) > was.get("signature", 0)
             and sum(now.values()) - sum(was.values()) > 2000, 30)
    assert salt_.call(OTHER, "test.ping") is True
    alerts(ELSEWHERE, {})
    wait_told(sink["hook"], "bond0/in-the-flood", count=2)


def test_another_nodes_events_can_not_be_replayed(salt_, alerts, sink):
    alerts(ELSEWHERE, {})                                # close what an earlier test left open
    (event,) = alerts(ELSEWHERE, down("bond0/replayed"))
    wait_told(sink["hook"], "bond0/replayed")
    alerts(ELSEWHERE, {})
    wait_told(sink["hook"], "bond0/replayed", count=2)
    for minion in (STRANGER, OTHER):
        salt_.call(minion, "event.fire_master", event, f"salt/beacon/{ELSEWHERE}/bonding/slave_down")
    time.sleep(3)
    assert len(told(sink["hook"], "bond0/replayed")) == 2


def test_no_secret_is_in_logs_or_files_but_the_pillar(salt_, alerts):
    secret = authentic.load_secret(salt_.master.config["pki_dir"])
    needles = [PASSWORD.encode(), secret.hex().encode(), authentic.key_of(secret, NODE).encode()]
    for path in [Path(salt_.master.config["log_file"]), *folder(salt_).iterdir(),
                 *(Path(salt_.master.config["cachedir"]) / "jobs").rglob("*")]:
        if path.is_file():
            data = path.read_bytes()
            assert not [needle for needle in needles if needle in data], path
