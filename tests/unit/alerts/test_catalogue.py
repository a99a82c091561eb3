"""Every condition has its texts, and the texts stay right whatever an event says."""
from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts import catalogue, message
from alerts.authentic import SEVERITIES, printable
from alerts.incidents import IncidentMachine
from tests.conftest import TREE, load_module
from tests.unit.alerts.events import T, made

BEACONS = sorted({beacon for beacon, _ in catalogue.CATALOGUE} - {"master"})


@pytest.mark.parametrize("beacon", [name for name in BEACONS if (TREE / f"_beacons/{name}.py").exists()] or [
    pytest.param("", marks=pytest.mark.skip("no beacon in this tree"))])
def test_the_beacons_conditions_are_those_of_the_catalogue(beacon):
    conditions = set(load_module(f"_beacons/{beacon}.py").CONDITIONS)
    assert conditions == {condition for name, condition in catalogue.CATALOGUE if name == beacon}


def test_what_a_roll_out_raises_is_in_the_catalogue():
    """Two of them were not: people got "the master reports master: rollout_waits of"."""
    text = "".join(path.read_text() for path in (TREE / "resync").glob("*.py"))
    names = {one or other for one, other in re.findall(r'self\.(?:alert|over)\("(\w+)"|Raise\("(\w+)"', text)}
    assert {"rollout_failed", "would_resync", "drift_fight", "nodes_differ"} <= names
    assert names <= {condition for beacon, condition in catalogue.CATALOGUE if beacon == "master"}


@pytest.mark.parametrize("key", sorted(catalogue.CATALOGUE), ids=":".join)
def test_an_entry_says_everything_and_uses_known_words(key):
    entry = catalogue.CATALOGUE[key]
    assert entry.severity.startswith(SEVERITIES)
    assert all((entry.happened, entry.means, entry.done, entry.todo))
    for text in entry:
        assert set(re.findall(r"{[^}]*}", text)) <= {"{node}", "{site}", "{subject}", "{was}", "{now}", "{id}"}, text
        assert "}}" not in text and "{{" not in text
    assert not entry.happened.endswith(".") and not entry.over.endswith(".")


COMMAND = re.compile(r"\b(salt|salt-run|salt-call|systemctl|ipsec|journalctl|cat) ")


@pytest.mark.parametrize("key", sorted(catalogue.CATALOGUE), ids=":".join)
def test_a_command_names_only_what_the_master_knows_itself(key):
    """A person copies the command: a subject with "; curl ... | sh" in it would run on the master."""
    entry = catalogue.CATALOGUE[key]
    for text in (entry.happened, entry.over, entry.means, entry.done, entry.todo):
        if text is entry.todo or COMMAND.search(text):
            assert set(re.findall(r"{[^}]*}", text)) <= {"{node}", "{site}", "{id}"}, text


@pytest.mark.parametrize("key", [*sorted(catalogue.CATALOGUE), ("brand", "new")], ids=":".join)
def test_no_text_of_an_event_reaches_the_next_step(key):
    beacon, condition = key
    said = message.compose(alert_of(made(1, condition=condition, beacon=beacon, severity="critical", subject="; BAD",
                                         was="; BAD", now="; BAD", cause="; BAD")))
    assert said["brief"] and "BAD" not in said["brief"]
    assert "BAD" not in said["text"].partition("What it means for users")[2]


def alert_of(*events):
    machine = IncidentMachine()
    for event in events:
        machine.take(T, event)
    return machine.tick(T + 1)[0]


@pytest.mark.parametrize("key", sorted(catalogue.CATALOGUE), ids=":".join)
def test_a_message_can_be_read(key):
    beacon, condition = key
    minion = "master" if beacon == "master" else "gw1.winterthur"
    event = made(1, minion, condition, beacon=beacon, severity="critical", subject="SUB", now="NOW")
    event = event._replace(site="winterthur")
    said = message.compose(alert_of(event))
    assert said["subject"].startswith("[critical] winterthur: ") and "{" not in said["subject"] + said["text"]
    for part in ("What happened", "What it means for users", "What was done automatically", "What to do"):
        assert f"\n{part}\n" in said["text"]
    assert all(len(line) < 400 for line in said["text"].splitlines())


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_what_an_event_says_is_not_looked_into(subject, cause):
    hostile = printable("{now} {{x}} %s {id} " + subject)
    said = message.compose(alert_of(made(1, subject=hostile, cause=printable(cause), now="<NOW>")))
    assert hostile in said["text"]
    assert said["subject"].isprintable() and len(said["subject"]) <= 180


def test_a_beacon_newer_than_this_file_is_told_all_the_same():
    said = message.compose(alert_of(made(1, condition="brand_new", subject="x")))
    assert "gw1 reports bonding: brand_new of x (down)" in said["text"]


def test_many_conditions_are_listed_with_the_worst_first():
    events = [made(number, subject=f"bond{number}/eth{number}") for number in range(1, 30)]
    said = message.compose(alert_of(*events, made(30, condition="bond_down", severity="critical", subject="bond9")))
    assert "gw1 has no link left on bond9 (and 29 more)" in said["subject"]
    assert "and 18 more: salt-run alerts.open" in said["text"]


def test_a_message_names_as_many_conditions_as_fit_and_counts_the_rest():
    one = alert_of(made(1))
    lines = [one.lines[0] | {"subject": f"s{number}", "was": "x" * 1000} for number in range(200)]
    said = message.compose(one._replace(lines=lines, more=12, severe=3))
    assert len(json.dumps(said["conditions"])) <= message.MAX_CONDITIONS_BYTES
    assert said["conditions"][0]["subject"] == "s0" and len(said["conditions"]) + said["more"] == 212
    assert "(and 211 more)" in said["subject"] and "and 200 more, 3 of them critical: salt-run" in said["text"]
    assert not any("facts" in condition for condition in said["conditions"])


def test_a_digest_is_bounded_and_says_how_many_critical_ones_it_leaves_out():
    entry = {"site": "bern", "severity": "warning", "kind": "alert", "at": T, "caused": T, "subject": "x" * 180}
    waits = {"kind": "digest", "digest": [entry] * 4000 + [entry | {"severity": "critical", "subject": "worst"}],
             "count": 5000, "critical": 9}
    one = message.digest([waits], "x")
    assert one["subject"] == "[critical] bern: 5000 alerts" and len(json.dumps(one["alerts"])) < 530_000
    assert "worst" in one["text"] and "and 4700 more, 8 of them critical" in one["text"]
    assert one["alerts"][-1]["subject"] == "worst"


def test_a_digest_names_all_and_takes_digests_apart():
    some = [message.compose(alert_of(made(number, subject=f"s{number}"))) for number in range(1, 4)]
    one = message.digest(some, "1-3")
    assert one["subject"] == "[warning] winterthur: 3 alerts"
    assert all(f"link of s{number}\n" in one["text"] for number in (1, 2, 3))
    entry = {"site": "bern", "severity": "critical", "kind": "alert", "at": T, "caused": T, "subject": "x"}
    both = message.digest([some[0], {"kind": "digest", "digest": [entry], "count": 50}], "x")
    assert (both["site"], both["severity"], both["subject"]) == ("", "critical", "[critical] gateways: 51 alerts")
