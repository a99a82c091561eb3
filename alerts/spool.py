"""The queue on disk between the engine's decisions and the delivery. It survives a crash and a power cut.

One file of JSON lines. Lines are only appended; the file is rewritten when most of it is done:

    {"add": 7, "to": ["operators", "log"], "alert": {...}}
    {"done": 7, "to": "log"}

add() returns when the lines are on the disk. done() writes without waiting for the disk. So after a power cut an alert
may be sent a second time, with the same id; after kill -9 it is not. An incomplete last line is ignored.
"""
from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import OrderedDict
from io import BufferedWriter
from pathlib import Path
from typing import Any

from alerts.authentic import SEVERITIES, rank
from alerts.shapes import Message, Summary

COMPACT_BYTES = 2 * 1024 * 1024  # the file is rewritten when it has grown by this and to twice its size since
MAX_BYTES = 16 * 1024 * 1024  # of the alerts that wait for one target, as JSON
MAX_SUMMARIES = 500  # alerts that a digest which waits names; the others are counted
MAX_SUMMARIES_BYTES = 128 * 1024  # of these, as JSON
MAX_REMEMBERED_IDS = 20_000  # ids of earlier alerts, each of which is taken only once


class Spool:
    """The alerts that wait for each target. Safe to use from several threads."""

    _file: BufferedWriter
    _size: int  # bytes of the file when it was last rewritten

    def __init__(self, path: Path, most: int = 5000, most_bytes: int = MAX_BYTES) -> None:
        """
        Args:
            path: the file; its folder is created with mode 0700.
            most: alerts that may wait for one target. Of more, the oldest of the least severe become one digest.
            most_bytes: their bytes as JSON. Of more, the same.

        Raises:
            OSError: the file can not be written.
        """
        self._path, self._most, self._most_bytes = path, most, most_bytes
        self._lock = threading.Condition()
        self._waiting: dict[str, OrderedDict[int, Message]] = {}
        self._sizes: dict[str, dict[int, int]] = {}  # by target and number, the bytes of an alert ...
        self._bytes: dict[str, int] = {}  # ... and by target, of all
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._next = 1
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load()
        self._rewrite()

    def add(self, alerts: list[tuple[Message, list[str]]]) -> None:
        """
        Put alerts into the queue; they are on the disk when this returns. An alert with a known `id` is ignored.

        Args:
            alerts: each with the names of its targets.

        Raises:
            OSError: the file can not be written, as when the disk is full.
        """
        with self._lock:
            lines = []
            for alert, targets in alerts:
                if alert["id"] in self._ids or not targets:
                    continue
                self._remember(alert["id"])
                size = _size(alert)
                for target in targets:
                    self._put(target, self._next, alert, size)
                lines.append({"add": self._next, "to": targets, "alert": alert})
                self._next += 1
            if lines:
                self._append(lines)
                os.fsync(self._file.fileno())
                for target in {target for _, targets in alerts for target in targets}:
                    self._shrink(target)
                self._compact()
            self._lock.notify_all()

    def waiting(self, target: str) -> dict[int, Message]:
        """The alerts that wait for a target, by number, the oldest first."""
        with self._lock:
            return dict(self._waiting.get(target, {}))

    def counts(self) -> dict[str, int]:
        """By target, how many alerts wait."""
        with self._lock:
            return {target: len(waiting) for target, waiting in self._waiting.items() if waiting}

    def wait(self, target: str, seconds: float, anything_new: bool) -> None:
        """
        Returns when an alert waits for the target (with `anything_new`: when an alert is added), or after `seconds`.
        """
        with self._lock:
            if anything_new or not self._waiting.get(target):
                self._lock.wait(seconds)

    def wake(self) -> None:
        """Wakes all threads in :meth:`wait`."""
        with self._lock:
            self._lock.notify_all()

    def done(self, target: str, numbers: list[int]) -> None:
        """A target has taken the alerts with these numbers."""
        with self._lock:
            gone = [number for number in numbers if self._take(target, number)]
            self._append([{"done": number, "to": target} for number in gone])
            self._compact()

    def keep_only(self, targets: set[str]) -> list[str]:
        """Drop the alerts of all other targets, which are not configured any more. Returns the names of those."""
        with self._lock:
            gone = sorted(target for target, waiting in self._waiting.items() if target not in targets and waiting)
            for target in gone:
                numbers = list(self._waiting.pop(target))
                self._sizes.pop(target, None)
                self._bytes.pop(target, None)
                self._append([{"done": number, "to": target} for number in numbers])
            return gone

    def close(self) -> None:
        """Closes the file. Nothing can be added afterwards."""
        with self._lock:
            self._file.close()

    # What waits

    def _put(self, target: str, number: int, alert: Message, size: int) -> None:
        self._take(target, number)
        self._waiting.setdefault(target, OrderedDict())[number] = alert
        self._sizes.setdefault(target, {})[number] = size
        self._bytes[target] = self._bytes.get(target, 0) + size

    def _take(self, target: str, number: int) -> bool:
        """Takes an alert out of a target's queue; returns whether it was there."""
        if self._waiting.get(target, OrderedDict()).pop(number, None) is None:
            return False
        self._bytes[target] -= self._sizes[target].pop(number)
        return True

    # The file

    def _compact(self) -> None:
        """Rewrites a file of which much is done."""
        if self._file.tell() > 2 * self._size + COMPACT_BYTES:
            self._rewrite()

    def _append(self, lines: list[dict[str, Any]]) -> None:
        self._file.write("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode())
        self._file.flush()

    def _remember(self, name: str) -> None:
        self._ids[name] = None
        while len(self._ids) > MAX_REMEMBERED_IDS:
            self._ids.popitem(last=False)

    def _load(self) -> None:
        alerts: dict[int, Message] = {}
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = json.loads(line)
                if "ids" in entry:
                    for name in entry["ids"]:
                        self._remember(name)
                elif "add" in entry:
                    alerts[entry["add"]] = entry["alert"]
                    self._remember(entry["alert"]["id"])
                    size = _size(entry["alert"])
                    for target in entry["to"]:
                        self._put(target, entry["add"], entry["alert"], size)
                    self._next = max(self._next, entry["add"] + 1)
                elif "done" in entry:
                    self._take(entry["to"], entry["done"])
                    self._next = max(self._next, entry["done"] + 1)

    def _rewrite(self) -> None:
        """Writes a new file with only the alerts that wait. The old file stays until the new one is on the disk."""
        targets: dict[int, list[str]] = {}
        alerts: dict[int, Message] = {}
        for target, waiting in self._waiting.items():
            for number, alert in waiting.items():
                targets.setdefault(number, []).append(target)
                alerts[number] = alert
        new = self._path.with_suffix(".new")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        file = open(handle, "wb")  # noqa: SIM115  # stays open
        file.write(json.dumps({"ids": list(self._ids)}).encode() + b"\n")
        for number in sorted(alerts):
            line = {"add": number, "to": targets[number], "alert": alerts[number]}
            file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
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

    def _shrink(self, target: str) -> None:
        """While too much waits for a target, replaces the oldest of the least severe by one digest."""
        waiting = self._waiting.get(target, OrderedDict())
        while len(waiting) > 1 and (len(waiting) > self._most or self._bytes[target] > self._most_bytes):
            before, sizes = len(waiting), self._sizes[target]
            # A tenth more than needed, so that this is not done for each alert.
            count = before - self._most * 9 // 10 if before > self._most else 0
            size = self._bytes[target] - self._most_bytes * 9 // 10 if self._bytes[target] > self._most_bytes else 0
            numbers: list[int] = []
            for number in sorted(waiting, key=lambda number: (_rank(waiting[number]), number)):
                if len(numbers) >= max(2, count) and size <= 0:
                    break
                numbers.append(number)
                size -= sizes[number]
            self._condense(target, sorted(numbers))
            if len(waiting) >= before:
                break

    def _condense(self, target: str, numbers: list[int]) -> None:
        """Replaces some alerts of a target by one digest."""
        waiting = self._waiting[target]
        some = [waiting[number] for number in numbers]
        entries, count, critical = joined(some)
        alert: Message = {"id": f"shrunk-{numbers[0]}-{numbers[-1]}-{target}", "kind": "digest", "site": "",
                          "severity": max(some, key=_rank)["severity"], "at": some[-1]["at"], "incident": "",
                          "subject": "", "lines": [], "count": count, "critical": critical,
                          "digest": chosen(entries, MAX_SUMMARIES, MAX_SUMMARIES_BYTES)}
        number = self._next
        self._next += 1
        self._append([{"add": number, "to": [target], "alert": alert}])
        os.fsync(self._file.fileno())
        self._append([{"done": each, "to": target} for each in numbers])
        for each in numbers:
            self._take(target, each)
        self._put(target, number, alert, _size(alert))
        waiting.move_to_end(number, last=False)


def joined(messages: list[Message]) -> tuple[list[Summary], int, int]:
    """What a digest of some messages is made of: a line for each alert that is named in them, the number of alerts that
    they stand for, and how many of these are critical."""
    entries: list[Summary] = []
    count = critical = 0
    for message in messages:
        its = message.get("digest", [summary_of(message)])
        entries += its
        count += message.get("count", 1)
        critical += message.get("critical", sum(each["severity"] == "critical" for each in its))
    return entries, count, critical


def chosen(entries: list[Summary], most: int, most_bytes: int) -> list[Summary]:
    """The most severe of the lines of a digest, and of those the newest, in their order: at most this many and at most
    this many bytes as JSON, but one at least."""
    kept: list[int] = []
    for number in sorted(range(len(entries)), key=lambda number: (-_rank(entries[number]), -number))[:most]:
        most_bytes -= _size(entries[number])
        if most_bytes < 0 and kept:
            break
        kept.append(number)
    return [entries[number] for number in sorted(kept)]


def _size(one: Message | Summary) -> int:
    return len(json.dumps(one))


def summary_of(alert: Message) -> Summary:
    """An alert as one line of a digest."""
    return {"id": alert.get("id", ""), "site": alert.get("site", ""), "severity": alert.get("severity", ""),
            "kind": alert.get("kind", ""), "at": alert.get("at", 0.0), "caused": alert.get("caused", 0.0),
            "subject": alert.get("subject", "")}


def _rank(alert: Message | Summary) -> int:
    """How severe an alert of the queue's file is; one of an unknown severity is as one of the least."""
    return rank(alert["severity"]) if alert["severity"] in SEVERITIES else 0
