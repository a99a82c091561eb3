"""docs/monitoring.md shows a mail as it is sent, and lists every event."""
from __future__ import annotations

import re

import yaml

from alerts import message, reaction_settings, reactions, reactor, routes
from alerts.incidents import IncidentMachine
from tests.conftest import TREE, load_module
from tests.unit.alerts.events import T, made
from tests.unit.alerts.test_reactor import arguments, item, opts, place, salts, write  # noqa: F401  # some are fixtures

TEXT = (TREE / "docs/monitoring.md").read_text() if (TREE / "docs/monitoring.md").exists() else ""


def example() -> str:
    """The mail of the document: subject, empty line, text."""
    machine = IncidentMachine()
    machine.take(T, made(7, "gw2.winterthur", "peer_dead", "gw1", "critical", beacon="heartbeat", was="active",
                         now="dead"))
    machine.take(T, made(8, "gw2.winterthur", "role_changed", "", "critical", once=True, beacon="heartbeat",
                         was="standby", now="active", cause="gw1 is dead"))
    said = message.compose(machine.tick(T + 1)[0])
    return f"Subject: {said['subject']}\n\n{said['text']}"


def test_the_example_is_what_is_sent():
    assert f"```\n{example()}```\n" in TEXT


def test_every_event_is_in_the_table():
    assert load_module("_runners/alerts.py").reference() in TEXT


def test_the_configuration_of_the_document_is_right():
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)]
    (shown,) = [block["alerts"] for block in blocks if "alerts" in block]
    assert routes.check(shown, ["winterthur", "bern"])[1] == []
    assert any("gateway_alerts" in block for block in blocks)


def test_the_reactions_of_the_document_are_right():
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)]
    (shown,) = [block["gateway_reactions"] for block in blocks if "gateway_reactions" in block]
    said = reaction_settings.read(shown, ["winterthur", "bern"], reaction_settings.in_roots([str(TREE / "salt")]))
    assert said.mistakes == () and [rule.sls for rule in said.rules] == [("ticket",), ("orchestrate",)]
    assert [rule.timeout for rule in said.rules] == [reaction_settings.Rule._field_defaults["timeout"], 1800.0]


def test_the_reaction_of_the_document_renders_and_is_what_it_says(place, salts):  # noqa: F811
    (shown,) = re.findall(r"^```jinja\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (chunk,) = reactor.chunks_of(salts, item(write(place, "quiet", shown), minutes=30))
    assert (chunk["state"], chunk["fun"]) == ("runner", "alerts.silence")
    assert arguments(chunk) == {"site": "winterthur", "minutes": 30}


def test_all_that_a_reaction_is_given_is_in_the_document():
    data = reactions._item(reaction_settings.Rule((), (), (), (), (), ("ticket",), {}), 0, made(), "opened", "name")
    table = TEXT.split("| `data.` | is |")[1].split("\n\n")[0]
    assert {*data["data"], *data["texts"]} == {name for row in table.splitlines()[2:]
                                               for name in re.findall(r"`([a-z]+)`", row.split("|")[1])}


def test_the_keys_of_the_document_are_those_of_the_configuration():
    table = TEXT.split("| key | what it says |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == list(reaction_settings._ENTRY)
