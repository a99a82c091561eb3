"""The formula: what a site with figures gets, and that nothing of it is left on a site without."""
from __future__ import annotations

import configparser
from collections.abc import Callable
from typing import Any

import pytest
import salt.config
import salt.utils.templates
import yaml

from lab import prometheus
from tests.conftest import TREE, load_module

UNIT = TREE / "salt/metrics/files/gateway-metrics.service"
METRICS = load_module("_modules/gateway_metrics.py")


@pytest.fixture
def rendered(derived: Callable[..., dict]) -> Callable[..., dict[str, Any]]:
    """The states of one sls of the tree, for gw1.winterthur."""
    def of(name: str, **features: bool) -> dict[str, Any]:
        settings = derived()
        settings["features"] |= features
        functions = {"gateway.settings": lambda: settings, "gateway.mistakes": lambda: [],
                     "gateway_metrics.settings_json": lambda its: "{}\n"}
        done = salt.utils.templates.JINJA(str(TREE / "salt" / name), to_str=True, saltenv="",
                                          opts=dict(salt.config.DEFAULT_MINION_OPTS), context={"salt": functions})
        assert done["result"], done["data"]
        return yaml.safe_load(done["data"])
    return of


def test_figures_are_off_unless_the_site_says_so(settings):
    its = settings("winterthur", "gw1")
    assert its["features"]["metrics"] is False and "metrics" not in its["packages"]
    assert its["metrics"] == {"every": 15, "persons": False, "scrape_from": []}


def test_a_site_has_the_formula_or_what_takes_it_away(rendered):
    on, off = rendered("gateway/init.sls")["include"], rendered("gateway/init.sls", metrics=False)["include"]
    assert "metrics" in on and "metrics.off" not in on
    assert "metrics.off" in off and "metrics" not in off
    assert off[-1] == on[-1] == "gateway.record"


def test_off_removes_all_that_on_has_made(rendered):
    on, off = rendered("metrics/init.sls"), rendered("metrics/off.sls")
    made = {name for name, state in on.items() if "file.managed" in state}
    absent = next(names["names"] for names in off["metrics_files_off"]["file.absent"] if "names" in names)
    assert made == {str(METRICS.SETTINGS), f"/etc/systemd/system/{UNIT.name}"}
    assert set(absent) == made | {str(METRICS.FILE)}
    assert off["metrics_off"]["service.dead"] == [{"name": UNIT.stem}, {"enable": False}]
    # it must not write the file once more
    assert {"require": [{"service": "metrics_off"}]} in off["metrics_files_off"]["file.absent"]


def test_what_names_people_is_for_root_only(rendered):
    arguments = rendered("metrics/init.sls")[str(METRICS.SETTINGS)]["file.managed"]
    assert {"mode": "0600"} in arguments and {"show_changes": False} in arguments


def test_the_unit_runs_the_function_that_is_there_apart_from_the_minion():
    unit = configparser.ConfigParser(strict=False, delimiters=("=",))
    unit.optionxform = str      # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    its = unit["Service"]
    program, *words = its["ExecStart"].split()
    assert program == "salt-call" and "--local" in words and words[-1] == "gateway_metrics.serve"
    assert callable(getattr(METRICS, words[-1].partition(".")[2]))
    assert "salt-minion" not in UNIT.read_text() and (its["Type"], its["Restart"]) == ("notify", "always")
    # all that one file may wait for: three questions to the daemon (5 s), two pages of adopted tunnels, copies (10 s)
    assert int(its["WatchdogSec"]) > 3 * 5 + 3 * 10 and int(its["Nice"]) > 0 and its["LimitCORE"] == "0"


def test_only_who_is_named_may_ask_the_exporter(derived):
    firewall = load_module("_modules/firewall.py")
    firewall.__salt__ = {"ipsec.esp_proposals": load_module("_modules/ipsec.py").esp_proposals,
                         "tunnel_sizes.segment": load_module("_modules/tunnel_sizes.py").segment}

    def ruleset(settings: dict) -> str:
        done = salt.utils.templates.JINJA(
            str(TREE / "salt/firewall/files/ruleset.nft.jinja"), to_str=True, saltenv="",
            opts=dict(salt.config.DEFAULT_MINION_OPTS), context={"rules": firewall.rules(settings)})
        assert done["result"], done["data"]
        return done["data"]
    assert "9100" not in ruleset(derived())
    its = derived(scrape_from=["198.51.100.0/26", "192.0.2.9/32", "2001:db8:be::/64"])
    assert "        ip saddr { 192.0.2.9, 198.51.100.0/26 } tcp dport 9100 accept\n" in ruleset(its)
    assert "        ip6 saddr { 2001:db8:be::/64 } tcp dport 9100 accept\n" in ruleset(its)
    its["features"]["metrics"] = False
    assert "9100" not in ruleset(its)


@pytest.mark.parametrize(("metrics", "said"), [
    ({"every": 1}, "gateway:metrics:every: 1 is outside 5 to 300 s"), ({"persons": "yes"}, "gateway:metrics:persons"),
    ({"scrape_from": "198.51.100.7/26"}, "gateway:metrics:scrape_from"), ({"evry": 9}, "gateway:metrics:evry")])
def test_a_mistake_in_the_site_is_named(gateway, schema, site, metrics, said):
    (mistake,) = gateway.find_mistakes(site("winterthur") | {"metrics": metrics}, schema)
    assert said in mistake, mistake


def test_the_exporter_is_not_to_be_switched_off_beside_it(gateway, schema, site):
    its = site("winterthur") | {"services": {"disabled": ["prometheus-node-exporter"]}}
    assert gateway.find_mistakes(its, schema) == []
    (mistake,) = gateway.find_mistakes(its | {"features": {"metrics": True}}, schema)
    assert "features:metrics needs it" in mistake


def test_the_file_lies_where_debians_exporter_looks():
    text = (prometheus.folder() / "usr/share/doc/prometheus-node-exporter/README.textfile").read_text()
    assert f"create files in the {METRICS.FILE.parent} directory" in text and METRICS.FILE.suffix == ".prom"
