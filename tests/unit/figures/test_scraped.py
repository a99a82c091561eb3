"""Debian's node_exporter hands a pair's textfiles out, Debian's Prometheus asks for them, and a query sees a takeover.

Without kernels: what stands under the two nodes is recorded. tests/lab/test_metrics.py does the same with a real pair.
"""
from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import prometheus
from tests.unit.figures.node import Gateway
from tests.unit.figures.test_rules import RULES


@pytest.fixture
def pair(gateway, schema, site: Callable[[str], dict], tmp_path: Path, monkeypatch) -> dict[str, Gateway]:
    """gw1, active, and gw2, standby."""
    made = {}
    for name in ("gw1", "gw2"):
        (tmp_path / name).mkdir()
        settings = gateway.derive(site("winterthur") | {"features": {"metrics": True}}, schema, name)
        made[name] = Gateway(settings, tmp_path / name, monkeypatch)
    roles(made, "gw1")
    return made


def roles(pair: dict[str, Gateway], active: str) -> None:
    """Give the role to one node, and write both files."""
    for name, node in pair.items():
        node.serves = name == active
        node.status["status"] |= {
            "role": "active" if node.serves else "standby", "held": ["192.0.2.10"] if node.serves else [],
            "missing": [] if node.serves else ["192.0.2.10"],
            "peer": node.status["status"]["peer"] | {"role": "standby" if node.serves else "active"}}
        node.text()


@pytest.fixture
def asked(pair: dict[str, Gateway], tmp_path: Path) -> Iterator[prometheus.Server]:
    """A Prometheus that asks both nodes' exporters."""
    exporters = {f"127.0.0.1:{prometheus.free_port()}": node for node in pair.values()}
    running = []
    for address, node in exporters.items():
        with open(node.folder / "exporter.log", "wb") as log:
            running.append(subprocess.Popen(
                [prometheus.program("prometheus-node-exporter"), f"--web.listen-address={address}",
                 "--collector.disable-defaults", "--collector.textfile",
                 f"--collector.textfile.directory={node.folder}"], stdout=log, stderr=log))
    server = prometheus.Server(tmp_path, list(exporters), RULES, "200ms")
    try:
        yield server
    finally:
        server.stop()
        for each in running:
            each.terminate()
            each.wait(20)


def test_a_query_sees_a_takeover(pair, asked):
    asked.until('gateway_role{role="active"}', {"gw1": 1, "gw2": 0})
    asked.until("site:gateway_nodes_active:sum", {"winterthur": 1})
    asked.until("gateway_tunnels_expected", {"gw1": 1, "gw2": 0})
    assert set(asked.query("node_textfile_scrape_error").values()) == {0}
    roles(pair, "gw2")
    asked.until('gateway_role{role="active"}', {"gw1": 0, "gw2": 1})
    asked.until("site:gateway_nodes_active:sum", {"winterthur": 1})
    asked.until("site:gateway_role:changes1d", {"winterthur": 1})
    asked.until("gateway_tunnels_up", {"gw1": 0, "gw2": 1})
    # a file that is taken away is no figure any more
    (pair["gw1"].folder / "gateway.prom").unlink()
    asked.until('gateway_role{role="active"}', {"gw2": 1})
