"""docs/metrics.md: its tables are the code's, and what it shows can be used as it stands."""
from __future__ import annotations

import re

import yaml

from figures import textfile
from tests.conftest import TREE, load_module

TEXT = (TREE / "docs/metrics.md").read_text()
RULES = yaml.safe_load((TREE / "etc/prometheus/gateway.rules.yml").read_text())


def shown() -> list[dict]:
    """The document's blocks of YAML."""
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)]


def alerts() -> str:
    """The table of all alerts, as the document has it."""
    rows = ["| Alert | Severity | When | For |", "| --- | --- | --- | --- |"]
    for group in RULES["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                when = " ".join(rule["expr"].split()).replace("|", "\\|")
                long, severity = rule.get("for", "at once"), rule["labels"]["severity"]
                rows.append(f"| `{rule['alert']}` | {severity} | `{when}` | {long} |")
    return "\n".join(rows) + "\n"


def test_every_metric_is_in_the_table():
    assert load_module("_runners/gateway_metrics.py").reference() in TEXT


def test_every_alert_is_in_the_table():
    assert alerts() in TEXT


def test_the_site_of_the_document_is_valid(gateway, schema, site):
    (its,) = [block["gateway"] for block in shown() if "gateway" in block]
    whole = site("winterthur") | its
    assert gateway.find_mistakes(whole, schema) == []
    assert gateway.derive(whole, schema, "gw1")["packages"]["metrics"] == ["prometheus-node-exporter"]


def test_the_masters_configuration_of_the_document_is_right_and_shows_the_defaults():
    (its,) = [block for block in shown() if "engines" in block]
    assert its["engines"] == [{"gateway_metrics": {}}] and its["gateway_metrics"] == textfile.DEFAULTS
    assert textfile.settings(its["gateway_metrics"]).mistakes == ()


def test_the_job_of_the_document_is_one_that_the_rules_know():
    (its,) = [block for block in shown() if "scrape_configs" in block]
    jobs = {rule for group in RULES["groups"] for each in group["rules"]
            for rule in re.findall(r'job=~"([^"]+)"', each["expr"])}
    assert jobs and all(re.fullmatch(pattern, its["scrape_configs"][0]["job_name"]) for pattern in jobs)


def test_the_keys_of_the_document_are_those_of_the_site(schema):
    table = TEXT.split("| Key | What it says |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == list(schema["metrics"]["keys"])
