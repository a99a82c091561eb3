"""Debian packages of other releases than this machine's: mirror, keyring, single downloads."""
from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SECONDS = 60            # that apt may take to look something up
_FETCH_SECONDS = 1800    # that a download may take


@cache
def mirror() -> str:
    """The Debian mirror that this machine already uses (or LAB_MIRROR), without a trailing slash.

    Raises SystemExit when apt has none.
    """
    if os.environ.get("LAB_MIRROR"):
        return os.environ["LAB_MIRROR"].rstrip("/")
    targets = subprocess.run(["apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)"],
                             capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    for line in targets.splitlines():
        label, _, uri = line.partition("|")
        if label == "Debian" and uri.startswith("http"):
            return uri.rstrip("/")
    raise SystemExit("lab: apt knows no Debian mirror here; set LAB_MIRROR to one (http://.../debian)")


class Release:
    """apt for one release in a scratch folder. This machine's own apt is not touched."""

    def __init__(self, name: str, folder: Path) -> None:
        for part in ("lists/partial", "archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        source = folder / "sources.list"
        # testing's and unstable's Release files are past their Valid-Until on some mirrors
        source.write_text(f"deb [signed-by={KEYRING} check-valid-until=no] {mirror()} {name} main\n")
        self.folder = folder
        self._options = [f"-oDir::Etc::SourceList={source}", "-oDir::Etc::SourceParts=/dev/null",
                         f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}",
                         "-oAcquire::Languages=none", "-oAPT::Sandbox::User=root"]
        subprocess.run(["apt-get", *self._options, "-qq", "update"], check=True, timeout=_FETCH_SECONDS)

    def version(self, package: str) -> str:
        """The version that `unpack` would download."""
        shown = subprocess.run(["apt-cache", *self._options, "show", "--no-all-versions", package],
                               capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
        return next(line.split(": ")[1] for line in shown.splitlines() if line.startswith("Version: "))

    def unpack(self, package: str, into: Path) -> None:
        """Download one package and unpack it into a folder, without installing it."""
        subprocess.run(["apt-get", *self._options, "-qq", "download", package], cwd=self.folder, check=True,
                       timeout=_FETCH_SECONDS)
        archive = next(self.folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, into], check=True, timeout=_FETCH_SECONDS)
        archive.unlink()
