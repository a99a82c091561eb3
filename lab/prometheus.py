"""Prometheus, promtool and node_exporter of this machine's Debian, unpacked into the cache: nothing is installed."""
from __future__ import annotations

import subprocess
from pathlib import Path

from lab import cache

PACKAGES = ("prometheus", "prometheus-node-exporter")
_FETCH_SECONDS = 600


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
