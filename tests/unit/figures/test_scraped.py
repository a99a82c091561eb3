"""Debian's node_exporter hands a pair's textfiles out, Debian's Prometheus asks for them, and a query sees a takeover.

Without kernels: what stands under the two nodes is recorded. tests/lab/test_metrics.py does the same with a real pair.
"""
from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import prometheus
from tests.unit.figures.node import Gateway
from tests.unit.figures.test_rules import RULES

WAIT_SECONDS = 30.0


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
        return found


class Asked:
    """A Prometheus that asks two exporters once a second."""

    def __init__(self, folder: Path, nodes: dict[str, Path]) -> None:
        self.port, self.folder = port(), folder
        self.processes: list[subprocess.Popen[bytes]] = []
        targets = []
        for name, place in nodes.items():
            targets.append(f"127.0.0.1:{port()}")
            self._start(name, "prometheus-node-exporter", f"--web.listen-address={targets[-1]}",
                        "--collector.disable-defaults", "--collector.textfile",
                        f"--collector.textfile.directory={place}")
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": targets}]}]}))
        self._start("prometheus", "prometheus", f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{self.port}")

    def _start(self, name: str, program: str, *words: str) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes.append(subprocess.Popen([prometheus.program(program), *words], stdout=log, stderr=log))

    def query(self, text: str) -> dict[str, float]:
        """The values by node, or by site where there is no node."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        try:
            with urllib.request.urlopen(url, timeout=5) as said:
                found = json.load(said)["data"]["result"]
        except OSError:     # it is starting
            return {}
        return {each["metric"].get("node", each["metric"].get("site", "")): float(each["value"][1]) for each in found}

    def until(self, text: str, wanted: dict[str, float]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := self.query(text)) != wanted:
            logs = "".join(each.read_text()[-500:] for each in self.folder.glob("*.log"))
            assert time.monotonic() < deadline, f"{text}: {found}, not {wanted}\n{logs}"
            time.sleep(0.1)

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(20)


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
def asked(pair: dict[str, Gateway], tmp_path: Path) -> Iterator[Asked]:
    its = Asked(tmp_path, {name: node.folder for name, node in pair.items()})
    yield its
    its.stop()


def test_a_query_sees_a_takeover(pair, asked):
    asked.until('gateway_role{role="active"}', {"gw1": 1, "gw2": 0})
    asked.until("site:gateway_nodes_active:sum", {"winterthur": 1})
    asked.until("gateway_tunnels_expected", {"gw1": 1, "gw2": 0})
    assert asked.query("node_textfile_scrape_error") == {"": 0}
    roles(pair, "gw2")
    asked.until('gateway_role{role="active"}', {"gw1": 0, "gw2": 1})
    asked.until("site:gateway_nodes_active:sum", {"winterthur": 1})
    asked.until("site:gateway_role:changes1d", {"winterthur": 1})
    asked.until("gateway_tunnels_up", {"gw1": 0, "gw2": 1})
    # a file that is taken away is no figure any more
    (pair["gw1"].folder / "gateway.prom").unlink()
    asked.until('gateway_role{role="active"}', {"gw2": 1})
