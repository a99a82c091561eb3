"""A cache of applied sites: a lab starts from it within half a minute, while `state.apply` on bare hosts takes minutes.

It keeps each host's disk, the master's keys with the pillar that is encrypted to them, and the lab's certificate
authority. Its name is a digest of everything that it was made from, the tree included. It is good for one day, because
the certificates and lists in it expire.
"""
from __future__ import annotations

import datetime
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lab import cache, image
from lab.kernel import Kernel
from lab.topology import TREE

if TYPE_CHECKING:
    from lab.guest import Guest
    from lab.laboratory import Lab

KIND = "applied"
# The folders whose content reaches a host or the master's pillar; tests and documentation do not.
MADE_FROM = ("_beacons", "_engines", "_modules", "_pillar", "_runners", "_states", "agent", "alerts", "etc", "examples",
             "figures", "issuing", "lab", "nodes", "peers", "pillar", "resync", "salt", "sessions", "sites")
AUTHORITY = "authority.pem"
SECRETS = "secrets"
MASTER_KEYS = ("pki", "etc/salt/gpgkeys")      # folders of the master, below its own folder


def inputs(kernel: Kernel, sites: list[str]) -> list[str]:
    """Everything that a kept lab depends on, as the cache's inputs (lab/cache.py)."""
    files = [path for folder in MADE_FROM for path in sorted((TREE / folder).rglob("*"))
             if path.is_file() and path.suffix != ".pyc" and path.parent.name != "secrets"]
    disks = [image.disk(release).parent.name for release in (image.TRIXIE, image.BOOKWORM)]
    return [KIND, datetime.date.today().isoformat(), kernel.folder.name, *disks, *sites,
            *(str(path.relative_to(TREE)) for path in files), cache.files_digest(*files)]


def find(kernel: Kernel, sites: list[str]) -> Path | None:
    """The folder with these sites applied, None if there is none."""
    return cache.find(KIND, inputs(kernel, sites))


def keep(lab: Lab) -> Path:
    """Keep a running lab and give the folder. Its hosts stand still meanwhile, for a second or two."""

    def make(folder: Path) -> None:
        guests = list(lab.guests.values())
        with ThreadPoolExecutor() as pool:
            list(pool.map(_flush, guests))
            # Not with `fsfreeze`: what waits for a disk would still wait in a host that boots from the copy.
            for guest in guests:
                guest.hang()
            try:
                list(pool.map(lambda guest: copy_disk(guest.disk_file, folder / f"{guest.host.minion_id}.cow"), guests))
            finally:
                for guest in guests:
                    guest.resume()
        for part in MASTER_KEYS:
            # without gpg-agent's sockets, which are not keys
            shutil.copytree(lab.master.folder / part, folder / "master" / part,
                            ignore=shutil.ignore_patterns("S.*", "*.lock"))
        shutil.copytree(lab.master.secrets, folder / SECRETS)
        lab.authority.save(folder / AUTHORITY)

    names = [its.name for its in lab.sites]
    return cache.made(KIND, inputs(lab.kernel, names), make, "keeping the applied sites for other labs", keep=1)


def _flush(guest: Guest) -> None:
    guest.run(["sync"], check=True)


def copy_disk(source: Path, target: Path) -> None:
    """Copy a copy-on-write file. Most of it is holes, which stay holes."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True, timeout=120)
