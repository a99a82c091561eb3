"""What was issued, revoked and published: journal.jsonl in the authority's folder, only ever appended to."""
from __future__ import annotations

import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from issuing.certificate import Entry, date_of, utc_now
from issuing.errors import refuse
from issuing.files import read as read_file


def read(folder: Path) -> list[Entry]:
    """All entries, oldest first. A last line that was cut short is left out: nobody has acted on it."""
    lines = read_file(folder / "journal.jsonl").decode().split("\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            found.append(entry | {"event": entry["event"]})
        except (ValueError, KeyError, TypeError):
            raise refuse(f"{folder}/journal.jsonl is damaged in line {number}; bring back your copy of it: a "
                          "certificate that is not in it can not be revoked") from None
    return found


def note(folder: Path, entries: list[Entry]) -> None:
    """Append to the journal. It is on disk before this returns."""
    path = folder / "journal.jsonl"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as handle:
        end = handle.seek(0, os.SEEK_END)
        whole = end
        while whole and _at(handle, whole - 1) != b"\n":          # a line that was cut short
            whole -= 1
        handle.truncate(whole)
        handle.seek(whole)
        try:
            handle.write(b"".join(json.dumps(entry, sort_keys=True).encode() + b"\n" for entry in entries))
            handle.flush()
            os.fsync(handle.fileno())
        except OSError:
            # a full disk: take back what was written of it
            handle.seek(whole)
            with contextlib.suppress(OSError):
                os.ftruncate(handle.fileno(), whole)
            raise


def _at(handle: BinaryIO, place: int) -> bytes:
    """One byte of a file."""
    handle.seek(place)
    return handle.read(1)


def certificates(journal: list[Entry], site: str | None) -> list[Entry]:
    """Those of a site, or all, in the order they were issued, each with ``revoked``: None, or its reason and date."""
    revoked = {each["serial"]: each for each in journal if each["event"] == "revoked"}
    return [each | {"revoked": revoked.get(each["serial"])} for each in journal
            if each["event"] == "issued" and each["profile"] != "authority" and site in (None, each["site"])]


def holders(journal: list[Entry], site: str | None) -> list[Entry]:
    """The newest certificate of each person and gateway."""
    return list({(each["site"], each["name"]): each for each in certificates(journal, site)}.values())


def expelled(journal: list[Entry], site: str) -> list[dict[str, Any]]:
    """
    Whose tunnels the gateways have to end: a list names serial numbers, a tunnel shows a name.

    ``again``: this person got a new certificate since, and may stay with a tunnel that is younger than the revocation
    (``at``).
    """
    found: dict[str, dict[str, Any]] = {}
    for each in certificates(journal, site):
        if each["profile"] != "roadwarrior":
            continue
        if each["revoked"]:
            if date_of(each["not_after"]) > utc_now() - datetime.timedelta(days=1):
                found[each["name"]] = {"ids": sorted({each["subject"], *each["names"]}), "at": each["revoked"]["at"],
                                       "again": False}
        elif each["name"] in found:
            found[each["name"]]["again"] = True
    return [found[name] for name in sorted(found)]
