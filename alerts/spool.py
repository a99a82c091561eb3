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

COMPACT_BYTES = 2 * 1024 * 1024  # a larger file is rewritten when most of it is done
MAX_REMEMBERED_IDS = 20_000  # ids of earlier alerts, each of which is taken only once


class Spool:
    """The alerts that wait for each target. Safe to use from several threads."""

    _file: BufferedWriter
    _size: int  # bytes of the file when it was last rewritten

    def __init__(self, path: Path, most: int = 5000) -> None:
        """
        Args:
            path: the file; its folder is created with mode 0700.
            most: alerts that may wait for one target. Of more, the oldest of the least severe become one digest.

        Raises:
            OSError: the file can not be written.
        """
        self._path, self._most = path, most
        self._lock = threading.Condition()
        self._waiting: dict[str, OrderedDict[int, Message]] = {}
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
                for target in targets:
                    self._waiting.setdefault(target, OrderedDict())[self._next] = alert
                lines.append({"add": self._next, "to": targets, "alert": alert})
                self._next += 1
            if lines:
                self._append(lines)
                os.fsync(self._file.fileno())
                for target in {target for _, targets in alerts for target in targets}:
                    self._shrink(target)
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
            waiting = self._waiting.get(target, OrderedDict())
            gone = [number for number in numbers if waiting.pop(number, None) is not None]
            self._append([{"done": number, "to": target} for number in gone])
            if self._file.tell() > COMPACT_BYTES and self._file.tell() > 4 * self._size:
                self._rewrite()

    def keep_only(self, targets: set[str]) -> list[str]:
        """Drop the alerts of all other targets, which are not configured any more. Returns the names of those."""
        with self._lock:
            gone = sorted(target for target, waiting in self._waiting.items() if target not in targets and waiting)
            for target in gone:
                numbers = list(self._waiting.pop(target))
                self._append([{"done": number, "to": target} for number in numbers])
            return gone

    def close(self) -> None:
        """Closes the file. Nothing can be added afterwards."""
        with self._lock:
            self._file.close()

    # The file

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
                    for target in entry["to"]:
                        self._waiting.setdefault(target, OrderedDict())[entry["add"]] = entry["alert"]
                    self._next = max(self._next, entry["add"] + 1)
                elif "done" in entry:
                    self._waiting.get(entry["to"], OrderedDict()).pop(entry["done"], None)
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
        """When too many alerts wait for a target, replaces the oldest of the least severe by one digest."""
        waiting = self._waiting.get(target, OrderedDict())
        if len(waiting) <= self._most:
            return
        oldest = sorted(waiting, key=lambda number: (_rank(waiting[number]), number))
        chosen = sorted(oldest[:max(2, self._most // 10)])
        kept = [summary for number in chosen
                for summary in waiting[number].get("digest", [summary_of(waiting[number])])]
        count = sum(waiting[number].get("count", 1) for number in chosen)
        severity = max((waiting[number] for number in chosen), key=_rank)["severity"]
        alert: Message = {"id": f"shrunk-{chosen[0]}-{chosen[-1]}-{target}", "kind": "digest", "site": "",
                          "severity": severity, "at": waiting[chosen[-1]]["at"], "incident": "", "subject": "",
                          "lines": [], "count": count, "digest": kept[-500:]}
        number = self._next
        self._next += 1
        self._append([{"add": number, "to": [target], "alert": alert}])
        os.fsync(self._file.fileno())
        self._append([{"done": each, "to": target} for each in chosen])
        for each in chosen:
            del waiting[each]
        waiting[number] = alert
        waiting.move_to_end(number, last=False)


def summary_of(alert: Message) -> Summary:
    """An alert as one line of a digest."""
    return {"id": alert.get("id", ""), "site": alert.get("site", ""), "severity": alert.get("severity", ""),
            "kind": alert.get("kind", ""), "at": alert.get("at", 0.0), "caused": alert.get("caused", 0.0),
            "subject": alert.get("subject", "")}


def _rank(alert: Message) -> int:
    """How severe an alert of the queue's file is; one of an unknown severity is as one of the least."""
    return rank(alert["severity"]) if alert["severity"] in SEVERITIES else 0
