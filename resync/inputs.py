"""Digests all files that a site's nodes are made of to one number. When the number changes, the nodes must be applied.

The number depends on contents, not on times: two masters with the same tree have the same numbers. A file is read again
only when its stat(2) has changed. Secrets are digested as they are on the disk, encrypted to the master's gpg key.
"""
from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alerts.authentic import is_site_name

# The files of one site, as in pillar/top.sls; SITE stands for the site's name.
FILES_OF_SITE = ("sites/SITE.sls", "secrets/SITE.sls", "secrets/SITE/init.sls", "secrets/issued/SITE.sls",
           "secrets/crls/SITE.sls")
MASTERS_OWN = ("alerts.sls",)  # in the pillar's folder, but in no node's pillar
# Files of editors and of Python. The temporary file that Salt writes and then renames begins with a dot, too.
JUNK = re.compile(r"\..*|.*~|#.*#|.*\.(swp|swx|pyc|pyo|tmp|orig|rej)|__pycache__|4913")
# Within this time after a change, a number and the pillar that it goes with may be of different contents.
SETTLED_SECONDS = 1.0
UNSETTLED_PREFIX = "unsettled-"  # of such a number
# A file that was written this shortly before it was read may be written again with the same time stamp.
RACY_SECONDS = 0.05
READ_TRIES = 3  # for a file that changes while it is read

Stamp = tuple[int, int, int, int]  # inode, size, mtime, ctime


class Present(NamedTuple):
    """The digests of everything on this master at one moment."""

    shared: str  # of the file tree and of the pillar of all sites
    own: dict[str, str]  # by site, of the files of this site only
    newest: float  # when a file last changed, seconds since 1970

    def of(self, site: str) -> str:
        """A site's number; empty when there is no such site."""
        return together(self.shared, self.own[site]) if site in self.own else ""


def together(shared: str, own: str) -> str:
    """The number of a site, made of its two parts (:class:`Present`)."""
    return hashlib.sha256(f"{shared} {own}".encode()).hexdigest()


class Inputs:
    """Reads a master's folders. Keep one instance in a process: it remembers the digests of the files it has read."""

    def __init__(self, file_roots: Iterable[str | os.PathLike[str]],
                 pillar_roots: Iterable[str | os.PathLike[str]]) -> None:
        """Args: the folders of the environment `base`."""
        self.file_roots = [Path(root) for root in file_roots]
        self.pillar_roots = [Path(root) for root in pillar_roots]
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._seen: dict[str, tuple[Stamp, str]] = {}
        self._newest = 0

    def look(self, sites: Iterable[str] | None = None) -> Present:
        """
        Digest everything. Never raises for a file that appears, disappears or changes meanwhile.

        Args:
            sites: the sites to digest; None: all.
        """
        self._seen, self._newest = {}, 0
        shared = hashlib.sha256()
        for number, root in enumerate(self.file_roots):
            for name, path in _files(str(root), self._folder):
                self._add(shared, f"tree {number} {name}", path)
        for number, root in enumerate(self.pillar_roots):
            for entry in _entries(root):
                if entry.name.endswith(".sls") and entry.name not in MASTERS_OWN:
                    self._add(shared, f"pillar {number} {entry.name}", entry.path)
        names = self.sites() if sites is None else [site for site in sites if is_site_name(site)]
        own = {site: digest for site in names if (digest := self._own(site))}
        if sites is None:
            self._known = self._seen  # forgets files that are gone
        else:
            self._known |= self._seen
        return Present(shared.hexdigest(), own, self._newest / 1e9)

    def sites(self) -> list[str]:
        """The names of all sites."""
        found = {entry.name.removesuffix(".sls") for root in self.pillar_roots for entry in _entries(root / "sites")
                 if entry.name.endswith(".sls")}
        return sorted(site for site in found if is_site_name(site))

    def _own(self, site: str) -> str:
        """The digest of a site's own files; empty when there is no such site."""
        number, found = hashlib.sha256(), False
        for root in self.pillar_roots:
            for pattern in FILES_OF_SITE:
                there = self._add(number, pattern, str(root / pattern.replace("SITE", site)))
                found = found or there and pattern.startswith("sites/")
        return number.hexdigest() if found else ""

    def _add(self, number: hashlib._Hash, name: str, path: str) -> bool:
        """Adds one file's name and contents to a digest; returns whether the file exists."""
        said = self._contents(path)
        if said:
            number.update(f"{name}\0{said}\n".encode("utf-8", "surrogateescape"))
        return bool(said)

    def _folder(self, state: os.stat_result) -> None:
        """Notes the time of a folder."""
        self._newest = max(self._newest, state.st_mtime_ns)

    def _contents(self, path: str) -> str:
        """The digest of a file's contents; empty when there is no file."""
        for _attempt in range(READ_TRIES):
            try:
                state = os.stat(path)
                if not stat.S_ISREG(state.st_mode):
                    return ""
                stamp = _stamp(state)
                self._newest = max(self._newest, state.st_mtime_ns, state.st_ctime_ns)
                kept = self._known.get(path)
                if kept and kept[0] == stamp:
                    self._seen[path] = kept
                    return kept[1]
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    after = os.fstat(file.fileno())
            except FileNotFoundError:
                return ""
            except OSError as error:
                return f"can not be read: {error.errno}"
            if _stamp(after) == stamp:
                if time.time() - max(state.st_mtime, state.st_ctime) > RACY_SECONDS:
                    self._seen[path] = stamp, digest
                return digest
        return digest  # the file changes all the time, and so does the number


def of_site(inputs: Inputs, site: str, now: float) -> tuple[str, str]:
    """
    The numbers for the pillar of a site's nodes.

    A node keeps them, and the master asks for them later. A number that is newer than the pillar it comes with would
    hide a change for ever. So right after a change the number gets a prefix; it then equals no other number, and the
    node is compared again.

    Args:
        inputs: the master's folders.
        site: the site's name.
        now: the time, seconds since 1970.

    Returns:
        The site's number, and the number of what all sites share; both empty when there is no such site.
    """
    present = inputs.look([site])
    number = present.of(site)
    if not number:
        return "", ""
    settled = "" if now - present.newest >= SETTLED_SECONDS else UNSETTLED_PREFIX
    return settled + number, settled + present.shared


def _stamp(state: os.stat_result) -> Stamp:
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder without JUNK, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted((each for each in entries if not JUNK.fullmatch(each.name)), key=lambda each: each.name)
    except OSError:
        return []


def _files(root: str, folder: Callable[[os.stat_result], None], above: frozenset[tuple[int, int]] = frozenset(),
           prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and path of all files under a folder, sorted. Follows links as the file server does, and skips loops.

    Calls `folder` with the stat(2) of each folder.
    """
    try:
        state = os.stat(root)
    except OSError:
        return
    here = state.st_dev, state.st_ino
    if here in above:
        return
    folder(state)
    for entry in _entries(root):
        if entry.is_dir():
            yield from _files(entry.path, folder, above | {here}, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.path
