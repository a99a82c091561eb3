"""Prometheus, promtool and node_exporter of this machine's Debian, unpacked into the cache: nothing is installed."""
from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from lab import cache

PACKAGES = ("prometheus", "prometheus-node-exporter")
_FETCH_SECONDS = 600
_QUERY_SECONDS = 5
_STOP_SECONDS = 20


def program(name: str) -> Path:
    """The path of `prometheus`, `promtool` or `prometheus-node-exporter`. The first call downloads them."""
    return folder() / "usr/bin" / name


def folder() -> Path:
    """The folder with both packages' files."""
    def make(into: Path) -> None:
        subprocess.run(["apt-get", "-qq", "-oAPT::Sandbox::User=root", "download", *PACKAGES], cwd=into, check=True,
                       timeout=_FETCH_SECONDS)
        for archive in into.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, into], check=True, timeout=_FETCH_SECONDS)
            archive.unlink()

    release = Path("/etc/debian_version").read_text(encoding="ascii").strip()
    return cache.made("prometheus", ["prometheus", release, *PACKAGES], make, "fetching Prometheus, for its tests")


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        found: int = one.getsockname()[1]
        return found


class Server:
    """A Prometheus with the rules of the tree, which asks some node_exporters. It runs until :meth:`stop`."""

    def __init__(self, where: Path, targets: Sequence[str], rules: Path, every: str) -> None:
        """
        Args:
            where: an empty folder for its files.
            targets: ADDRESS:PORT of each exporter.
            rules: the file of rules.
            every: between two rounds, as Prometheus writes times (`200ms`, `1s`).
        """
        self._where, self._port = where, free_port()
        (where / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": list(targets)}]}]}),
            encoding="ascii")
        with open(where / "prometheus.log", "wb") as log:
            self._process = subprocess.Popen(
                [program("prometheus"), f"--config.file={where}/prometheus.yml", f"--storage.tsdb.path={where}/data",
                 f"--web.listen-address=127.0.0.1:{self._port}"], stdout=log, stderr=log)

    def query(self, text: str) -> dict[str, float]:
        """The values by node, else by site, else by instance; empty while it is starting.

        Raises AssertionError when two values have the same name.
        """
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        try:
            with urllib.request.urlopen(url, timeout=_QUERY_SECONDS) as said:
                found = json.load(said)["data"]["result"]
        except OSError:
            return {}
        values: dict[str, float] = {}
        for each in found:
            labels = each["metric"]
            name = labels.get("node") or labels.get("site") or labels.get("instance", "")
            assert name not in values, f"{text}: more than one value for {name}"
            values[name] = float(each["value"][1])
        return values

    def until(self, text: str, wanted: dict[str, float], seconds: float = 30.0) -> None:
        """Wait until a query has this result. Raises AssertionError with the last one."""
        deadline = time.monotonic() + seconds
        while (found := self.query(text)) != wanted:
            log = (self._where / "prometheus.log").read_text(encoding="utf-8")[-1000:]
            assert time.monotonic() < deadline, f"{text}: {found}, not {wanted}\n{log}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(_STOP_SECONDS)
