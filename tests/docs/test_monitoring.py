"""docs/monitoring.md shows a mail as it is sent, and lists every event."""
from __future__ import annotations

import re

import yaml

from alerts import message, routes
from alerts.incidents import IncidentMachine
from tests.conftest import TREE, load_module
from tests.unit.alerts.events import T, made

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
