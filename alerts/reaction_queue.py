"""The reactions that wait, on the master's disk, and which events were reacted to. It survives a crash.

One file of JSON lines. Lines are only appended; the file is rewritten when it has grown:

    {"ran": {ID: {"floor": 0.0, "events": [[NAME, AT, TAKEN, SITE, [RULE, ...]], ...]}}, "next": 8}
    {"took": [NAME, AT, TAKEN, SITE, [RULE, ...]], "id": ID, "items": [{...}, ...]}
    {"begun": 7}
    {"done": 7}

An event and its reactions are one line, which is on the disk before any of them runs. `begun` is on the disk before the
reaction runs. So a reaction runs once, or, after a crash at the wrong moment, once or not to its end. It never runs
twice: nobody can know what it has already done.
"""
from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import OrderedDict
from io import BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

FILE = "reactions.jsonl"
MAX_WAITING, MAX_WAITING_BYTES = 500, 4 * 1024 * 1024  # reactions that wait, and their bytes as JSON
MAX_REMEMBERED_OF_NODE = 500  # events of a node that were reacted to. What is older than all of these is not news
COMPACT_BYTES = 2 * 1024 * 1024  # the file is rewritten when it has grown by this and to twice its size since


class Item(TypedDict):
    """A reaction to one event, as JSON."""

    number: int
    site: str
    order: str  # reactions with the same one run one after the other
    sls: list[str]
    tag: str  # of the event
    data: dict[str, Any]  # for the SLS: only words that the master knows or has checked, and the operator's settings
    texts: dict[str, str]  # what the node says in words: never rendered
    timeout: float


class Took(NamedTuple):
    """An event that is reacted to."""

    name: str  # of the event, the same when it comes again
    at: float  # its time, in seconds since 1970
    taken: float  # when the master took it
    site: str
    rules: list[int]  # the entries that fit


_NOTHING = Took("", 0.0, 0.0, "", [])


class ReactionQueue:
    """Safe to use from several threads."""

    _file: BufferedWriter

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: the file can not be written.
        """
        self._path = path
        self._lock = threading.RLock()
        self._ran: dict[str, OrderedDict[str, Took]] = {}
        self._floor: dict[str, float] = {}  # by minion id: events up to this time are not news
        self._waiting: OrderedDict[int, Item] = OrderedDict()
        self._sizes: dict[int, int] = {}
        self._begun: dict[int, Item] = {}
        self._next, self._size = 1, 0
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load()
        self.interrupted = list(self._begun.values())  # the engine ended while these ran
        self._begun = {}
        self._rewrite()

    def is_new(self, minion: str, name: str, at: float) -> bool:
        """Whether an event was not reacted to yet, as far as this is remembered."""
        with self._lock:
            return name not in self._ran.get(minion, {}) and at > self._floor.get(minion, 0.0)

    def has_room(self, items: list[Item]) -> bool:
        """Whether these may wait too."""
        with self._lock:
            return (len(self._waiting) + len(items) <= MAX_WAITING
                    and sum(self._sizes.values()) + sum(map(_size, items)) <= MAX_WAITING_BYTES)

    def add(self, minion: str, took: Took, items: list[Item]) -> None:
        """Take an event's reactions. They wait from now on, and run once :meth:`flush` has returned."""
        with self._lock:
            for item in items:
                item["number"] = self._next
                self._next += 1
            self._put(minion, took, items)
            self._file.write(_line({"took": list(took), "id": minion, "items": items}))

    def flush(self) -> None:
        """
        Write what was added to the disk.

        Raises:
            OSError: it can not be written. What was added waits and is written by the next call.
        """
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._file.tell() > 2 * self._size + COMPACT_BYTES:
                self._rewrite()

    def begin(self, busy: set[str]) -> Item | None:
        """
        The reaction that runs next, marked on the disk as begun; None when there is none.

        Args:
            busy: the `order` of the reactions that run. None of these is begun.

        Raises:
            OSError: the mark can not be written. The reaction waits.
        """
        with self._lock:
            held = set(busy)
            for number, item in self._waiting.items():
                if item["order"] not in held:
                    self._file.write(_line({"begun": number}))
                    self.flush()
                    del self._waiting[number], self._sizes[number]
                    self._begun[number] = item
                    return item
            return None

    def done(self, number: int) -> None:
        """A reaction has ended, however it did."""
        with self._lock:
            self._begun.pop(number, None)
            self._file.write(_line({"done": number}))
            self._file.flush()

    def recent(self, since: float) -> list[Took]:
        """The events that were taken after this time."""
        with self._lock:
            return [took for of in self._ran.values() for took in of.values() if took.taken > since]

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()

    def _put(self, minion: str, took: Took, items: list[Item]) -> None:
        if minion:  # not in a line that the file's rewriting has made
            of = self._ran.setdefault(minion, OrderedDict())
            of[took.name] = took
            if len(of) > MAX_REMEMBERED_OF_NODE:
                oldest = min(of.values(), key=lambda each: each.at)
                self._floor[minion] = max(self._floor.get(minion, 0.0), oldest.at)
                del of[oldest.name]
        for item in items:
            self._waiting[item["number"]], self._sizes[item["number"]] = item, _size(item)

    def _load(self) -> None:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            # An incomplete last line: its event counts as not taken, and comes again.
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
                said = json.loads(line)
                if "ran" in said:
                    for minion, its in said["ran"].items():
                        self._floor[minion] = float(its["floor"])
                        self._ran[minion] = OrderedDict((each[0], Took(*each)) for each in its["events"])
                    self._next = max(self._next, said["next"])
                elif "took" in said:
                    # One of another release may lack something.
                    items: list[Item] = [item for item in said["items"] if item.keys() >= Item.__required_keys__]
                    self._put(said["id"], Took(*said["took"]) if said["id"] else _NOTHING, items)
                    self._next = max([self._next, *(item["number"] + 1 for item in items)])
                elif "begun" in said and said["begun"] in self._waiting:
                    self._begun[said["begun"]] = self._waiting.pop(said["begun"])
                    self._sizes.pop(said["begun"])
                elif "done" in said:
                    self._begun.pop(said["done"], None)

    def _rewrite(self) -> None:
        """Writes a new file with what counts. The old one stays until the new one is on the disk."""
        new = self._path.with_suffix(".new")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        file = open(handle, "wb")  # noqa: SIM115  # stays open
        ran = {minion: {"floor": self._floor.get(minion, 0.0), "events": [list(each) for each in of.values()]}
               for minion, of in self._ran.items()}
        file.write(_line({"ran": ran, "next": self._next}))
        for number, item in sorted([*self._begun.items(), *self._waiting.items()]):
            file.write(_line({"took": [], "id": "", "items": [item]}))
            if number in self._begun:
                file.write(_line({"begun": number}))
        file.flush()
        os.fsync(handle)
        os.replace(new, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        if hasattr(self, "_file"):
            self._file.close()
        self._file, self._size = file, file.tell()


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _size(item: Item) -> int:
    return len(json.dumps(item))
