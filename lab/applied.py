"""Applied sites, kept: a lab starts from them within half a minute, where `state.apply` on bare hosts takes minutes.

What is kept is each host's disk, the master's keys with the encrypted pillar that goes with them, and the lab's
certificate authority. It is known by a digest of all that it was made from, the tree included, and good for one day:
certificates and lists in it are dated.
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
# What reaches a host or the master's pillar; tests and documentation do not.
MADE_FROM = ("_beacons", "_engines", "_modules", "_pillar", "_runners", "_states", "agent", "alerts", "etc", "examples",
             "lab", "pillar", "resync", "salt")
AUTHORITY = "authority.pem"
SECRETS = "secrets"
KEYS = ("pki", "etc/salt/gpgkeys")      # of the master's, under its own folder


def inputs(kernel: Kernel, sites: list[str]) -> list[str]:
    """All that a kept lab depends on, for the cache."""
    files = [path for folder in MADE_FROM for path in sorted((TREE / folder).rglob("*"))
             if path.is_file() and path.suffix != ".pyc" and path.parent.name != "secrets"]
    disks = [image.disk(release).parent.name for release in (image.TRIXIE, image.BOOKWORM)]
    return [KIND, datetime.date.today().isoformat(), kernel.folder.name, *disks, *sites,
            *(str(path.relative_to(TREE)) for path in files), cache.files_digest(*files)]


def find(kernel: Kernel, sites: list[str]) -> Path | None:
    """The folder with these sites applied, if there is one."""
    return cache.find(KIND, inputs(kernel, sites))


def keep(lab: Lab) -> Path:
    """Keep a lab that runs. Its hosts stand still meanwhile, for a second or two."""

    def make(folder: Path) -> None:
        guests = list(lab.guests.values())
        with ThreadPoolExecutor() as pool:
            list(pool.map(_flush, guests))
            # Not by `fsfreeze`: what waits for a disk on a host would be kept waiting in what boots from this.
            for guest in guests:
                guest.hang()
            try:
                list(pool.map(lambda guest: copy_disk(guest.disk_file, folder / f"{guest.host.minion_id}.cow"), guests))
            finally:
                for guest in guests:
                    guest.resume()
        for part in KEYS:
            # gpg-agent's sockets are none of the keys
            shutil.copytree(lab.master.folder / part, folder / "master" / part,
                            ignore=shutil.ignore_patterns("S.*", "*.lock"))
        shutil.copytree(lab.master.secrets, folder / SECRETS)
        lab.authority.save(folder / AUTHORITY)

    names = [its.name for its in lab.sites]
    return cache.made(KIND, inputs(lab.kernel, names), make, "keeping the applied sites for other labs", keep=1)


def _flush(guest: Guest) -> None:
    guest.run(["sync"], check=True)


def copy_disk(source: Path, target: Path) -> None:
    """A copy-on-write file, of which the greater part is holes."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True, timeout=120)
