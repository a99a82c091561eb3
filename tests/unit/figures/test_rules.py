"""The shipped rules and the dashboard: Prometheus' own tool reads them, and every metric that they name exists."""
from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from figures import master
from lab import prometheus
from tests.conftest import TREE, load_module

RULES = TREE / "etc/prometheus/gateway.rules.yml"
DASHBOARD = TREE / "etc/grafana/gateways.json"
TESTS = Path(__file__).parent / "rules_test.yml"
NODE = load_module("_modules/gateway_figures.py").FAMILIES
TABLE = {name: {*labels, "site", "node"} for name, (_kind, labels, _about) in NODE.items()} | {
    name: set(labels) for name, (_kind, labels, _about) in master.FAMILIES.items()}
# What Prometheus itself gives.
OWN = {"instance", "job"}


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


RECORDS = {rule["record"] for rule in rules() if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def panels() -> Iterator[dict]:
    yield from json.loads(DASHBOARD.read_text())["panels"]


def drawn() -> list[str]:
    """The dashboard's queries, with a site in place of its variable."""
    return [target["expr"].replace("$site", "bern") for panel in panels() for target in panel.get("targets", [])]


def promtool(*words: object) -> str:
    done = subprocess.run([prometheus.program("promtool"), *map(str, words)], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_reads_the_rules():
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


def test_the_rules_do_what_they_say():
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_promtool_reads_the_dashboards_queries(tmp_path):
    group = {"name": "drawn", "rules": [{"record": f"drawn:number:{number}", "expr": query}
                                        for number, query in enumerate(drawn())]}
    (tmp_path / "drawn.yml").write_text(yaml.safe_dump({"groups": [group]}))
    assert len(drawn()) > 20 and "SUCCESS" in promtool("check", "rules", tmp_path / "drawn.yml")


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in rules()), *drawn()])
def test_every_metric_that_is_named_exists(query):
    records = set(re.findall(r"\b[a-z_]+:[a-z0-9_]+:[a-z0-9]+", query))
    names = set(re.findall(r"(?<![:\w])gateway_[a-z0-9_]+", query))
    assert names | records and records <= RECORDS and names <= set(TABLE), query
    # labels that select or group, by name
    wanted = set(re.findall(r"[{,]\s*([a-z]+)\s*=", query))
    for group in re.findall(r"\b(?:by|on)\s*\(([^()]*)\)", query):
        wanted |= {each.strip() for each in group.split(",")}
    known = set().union(*(TABLE[name] for name in names)) | OWN | ({"site", "connection"} if records else set())
    assert wanted <= known, query


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_where_and_what_to_do(name):
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    text = " ".join(rule["annotations"].values())
    names = re.findall(r"(?<![:\w])gateway_[a-z0-9_]+", rule["expr"])
    grouped = any(record in rule["expr"] for record in RECORDS)
    known = {"site"} if grouped else set().union(*(TABLE[each] for each in names)) | {"instance"}
    assert set(re.findall(r"\$labels\.([a-z]+)", text)) <= known
    assert all(line.strip() for line in rule["annotations"].values()) and "\n" not in text


def test_the_commands_that_alerts_name_exist():
    runners = {"alerts": "_runners/alerts.py", "resync": "_runners/resync.py", "gateway": "_runners/gateway.py"}
    text = RULES.read_text()
    for module, function in re.findall(r"salt-run (\w+)\.(\w+)", text):
        assert callable(getattr(load_module(runners[module]), function)), function
    for module, function in re.findall(r"(?:salt-call|salt '[^']+') (\w+)\.(\w+)", text):
        assert callable(getattr(load_module(f"_modules/{module}.py"), function)), function
    for document in re.findall(r"docs/[a-z-]+\.md", text):
        assert (TREE / document).exists()


def test_the_metrics_that_no_rule_and_no_panel_uses_are_known():
    """They are for an operator's own queries. A new metric is drawn, watched, or named here."""
    used = {name for query in [*(rule["expr"] for rule in rules()), *drawn()]
            for name in re.findall(r"gateway_[a-z0-9_]+", query)}
    assert set(TABLE) - used == {
        "gateway_collect_duration_seconds", "gateway_role_since_timestamp_seconds", "gateway_role_epoch",
        "gateway_heartbeat_running", "gateway_agent_answering", "gateway_agent_starved", "gateway_ping_node_up",
        "gateway_virtual_addresses", "gateway_virtual_addresses_held", "gateway_bond_up", "gateway_bond_slave_active",
        "gateway_bond_slave_failures_total", "gateway_person_connected_since_timestamp_seconds",
        "gateway_sessions_complete", "gateway_sessions_policies", "gateway_sessions_refused_states",
        "gateway_master_info", "gateway_alerts_events_total", "gateway_alerts_alerts_total",
        "gateway_alerts_dropped_messages_total", "gateway_alerts_silences", "gateway_alerts_target_delivered_total",
        "gateway_alerts_target_last_delivery_timestamp_seconds", "gateway_resync_enabled", "gateway_resync_stopped",
        "gateway_resync_repairs_waiting", "gateway_resync_last_rollout_timestamp_seconds"}


def test_the_dashboard_is_one_that_grafana_can_lay_out():
    its = list(panels())
    assert len({panel["id"] for panel in its}) == len(its)
    taken: set[tuple[int, int]] = set()
    for panel in its:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _y in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["targets"], panel["title"]
    variables = {each["name"] for each in json.loads(DASHBOARD.read_text())["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)\}?", DASHBOARD.read_text())) <= variables
