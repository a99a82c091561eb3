"""Verifies the gateways' events: format, signature and sender.

A minion can put any tag and any data on the master's bus, also another minion's `salt/beacon/ID/...` (Salt 3008.3,
masterapi._minion_event). So each node has its own key. The master derives it from its secret and the minion id and
gives it to the node in pillar. An event counts only with a signature made with the key of the id that it names.

The cheapest check comes first: shape and lengths, then the signature (microseconds). Only a signed event causes
anything that reads a file.
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import math
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

VERSION = 1
MASTER = "master"  # the id with which the master signs its own events
MASTER_BEACONS = ("master", "resync")  # what only the master reports: what it found itself, and a person's orders
SECRET = "gateway_events.key"  # the file in pki_dir
MAX_EVENT_BYTES = 8 * 1024  # of an event as JSON
END_OF_TAG = b"\n\n"  # on the master's bus, between tag and data (salt.utils.event.TAGEND)
MAX_TAG_BYTES = 400
MAX_MESSAGE_BYTES = 64 * 1024  # of a message on the bus that may hold an event; Salt's own additions included
SEVERITIES = ("info", "warning", "critical")  # the one order on the master: from the least severe to the most
ROLES = ("active", "standby", "transition", "stopped", "split", "unknown")
SITE = r"[A-Za-z][A-Za-z0-9_-]{0,62}"
_ID = re.compile(rf"([a-z][a-z0-9-]{{0,62}})[.]({SITE})([.][A-Za-z0-9_.-]{{1,120}})?")  # as in pillar/top.sls
_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_HEX = re.compile(r"[0-9a-f]{8,64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:?[0-9]{2})?")
# The limit of each text of a node in bytes, as JSON. Twin: _modules/gateway_events.py. A longer one is cut.
_TEXT_BYTES = {"was": 1000, "is": 1000, "cause": 1000, "subject": 300}
_MAX_DEPTH = 6
_MAX_VALUES = 1000  # in one event, at all depths together


class Event(NamedTuple):
    """
    An event whose signature is right. The fields are described in _modules/gateway_events.py.

    `site` and `node` come from the id. `subject`, `was`, `now` and `cause` are printable text on one line.
    """

    journal: str
    n: int
    id: str
    site: str
    node: str
    role: str
    beacon: str
    condition: str
    subject: str
    severity: str
    was: str
    now: str  # "is" on the wire
    since: str
    at: str
    recovered: bool
    once: bool
    cause: str
    facts: dict[str, Any]


Rule = Callable[[Any], bool]


def rank(severity: str) -> int:
    """
    How severe, as a number from 0; see SEVERITIES.

    Raises:
        ValueError: it is none of them.
    """
    return SEVERITIES.index(severity)


def worse(one: str, other: str) -> str:
    """The more severe of two."""
    return max(one, other, key=rank)


def is_site_name(name: object) -> bool:
    """Whether something can be the name of a site: a letter, then letters, digits, - and _, at most 63."""
    return isinstance(name, str) and bool(re.fullmatch(SITE, name))


def _one_of(*allowed: str) -> Rule:
    return lambda value: isinstance(value, str) and value in allowed


def _text(longest: int) -> Rule:
    return lambda value: isinstance(value, str) and len(value) <= longest


def _matches(pattern: re.Pattern[str]) -> Rule:
    return lambda value: isinstance(value, str) and len(value) <= 300 and bool(pattern.fullmatch(value))


# The signed fields, each with its rule. Salt adds keys of its own on the way (_stamp, traces); they are ignored.
_FIELDS: dict[str, Rule] = {
    "version": lambda value: type(value) is int and value == VERSION,
    "journal": _matches(_HEX),
    "n": lambda value: type(value) is int and 0 < value < 2**53,
    "id": lambda value: isinstance(value, str) and (value == MASTER or whose(value) is not None),
    "site": _text(63), "node": _text(63),
    "role": _one_of(*ROLES),
    "beacon": _matches(_WORD), "condition": _matches(_WORD),
    "subject": _text(300),
    "severity": _one_of(*SEVERITIES),
    "was": _text(2000), "is": _text(2000), "cause": _text(2000),
    "since": _matches(_TIME), "at": _matches(_TIME),
    "recovered": lambda value: type(value) is bool,
    "once": lambda value: type(value) is bool,
    "facts": lambda value: type(value) is dict,
}


def load_secret(pki_dir: str | os.PathLike[str]) -> bytes:
    """
    Read the master's secret; create it when there is none yet (32 random bytes as hex, mode 0600).

    Args:
        pki_dir: the master's folder of keys. Masters that share minions must have the same file.

    Returns:
        The 32 bytes.

    Raises:
        OSError: the file can not be read or created.
        ValueError: the file holds something else.
    """
    path = Path(pki_dir) / SECRET
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        _make_secret(path)
        text = path.read_text(encoding="ascii")
    if not re.fullmatch(r"[0-9a-f]{64}\n?", text):
        raise ValueError(f"{path}: is not 64 hexadecimal digits; copy it from the other master, or remove it and a new "
                         "one is made")
    return bytes.fromhex(text.strip())


def _make_secret(path: Path) -> None:
    """Creates the file completely or not at all, also when several processes do so at the same time."""
    new = path.with_name(f".{SECRET}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)  # never replaces the file of another process
    finally:
        new.unlink()


@functools.lru_cache(maxsize=10_000)
def key_of(secret: bytes, minion_id: str) -> str:
    """A node's key as hexadecimal text: the value of its pillar key `gateway_event_key`."""
    named = b"gateway-event:" + minion_id.encode("utf-8", "backslashreplace")
    return hmac.new(secret, named, hashlib.sha256).hexdigest()


def signature(event: dict[str, Any], key: str) -> str:
    """
    The signature of an event: HMAC-SHA256 over its JSON (sorted keys, no blanks, ASCII), as hexadecimal text.

    Args:
        event: its fields; the field `signature` is ignored.
        key: of :func:`key_of`.

    Raises:
        TypeError, ValueError: the event can not be written as JSON.
    """
    signed = {name: value for name, value in event.items() if name != "signature"}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def sign(event: dict[str, Any], key: str) -> dict[str, Any]:
    """The event with its signature added; see :func:`signature`."""
    return {**event, "signature": signature(event, key)}


def of_master(secret: bytes, journal: str, n: int, condition: str, at: str, *, beacon: str = "master", site: str = "",
              subject: str = "", severity: str = "info", was: str = "", now: str = "", cause: str = "",
              recovered: bool = False, once: bool = False) -> dict[str, Any]:
    """
    A signed event of the master itself, as it goes onto the bus. Too long texts are cut.

    Args:
        secret: of :func:`load_secret`.
        journal, n: a random hexadecimal text of the process that sends the event, and the event's number in it.
        at: the time, ISO 8601.
        condition, beacon, site, subject, severity, was, now, cause, recovered, once: see :class:`Event`.
    """
    return sign({
        "version": VERSION, "journal": journal, "n": n, "id": MASTER, "site": site, "node": "", "role": "unknown",
        "beacon": beacon, "condition": condition, "subject": subject[:300], "severity": severity, "was": was[:2000],
        "is": now[:2000], "since": at, "at": at, "recovered": recovered, "once": once, "cause": cause[:2000],
        "facts": {}}, key_of(secret, MASTER))


def tag_of(event: Event) -> str:
    """The tag with which an event is sent."""
    if event.id == MASTER:
        return f"gateway/master/{event.condition}"
    return f"salt/beacon/{event.id}/{event.beacon}/{event.condition}"


def payload(data: object) -> object:
    """The event in the data of a bus message: of a beacon the data itself, of `event.fire_master` its key `data`."""
    if isinstance(data, dict) and "signature" not in data and isinstance(data.get("data"), dict):
        return data["data"]
    return data


def check(event: object, tag: str | None, secret: bytes) -> tuple[Event | None, str]:
    """
    Verify an event. Never raises, whatever the input is.

    Args:
        event: anything that came over the bus or from `gateway_events.since`.
        tag: the tag of the bus message; None for an event that a node returned to a question.
        secret: of :func:`load_secret`.

    Returns:
        The event and "", or None and the reason: "malformed", "unsigned" (the shape is right and there is no signature:
        ask the node for it), "tag" (it is not the tag of this event), "signature", "the master's" (a node says what
        only the master may say).
    """
    if not isinstance(event, dict):
        return None, "malformed"
    if not _small(event):
        return None, "malformed"
    fields = {name: event.get(name) for name in _FIELDS}
    for name, rule in _FIELDS.items():
        if not rule(fields[name]):
            return None, "malformed"
    its = _event(fields)
    if tag is not None and tag != tag_of(its):
        return None, "tag"
    given = event.get("signature")
    if given is None or given == "":
        return None, "unsigned"
    if not isinstance(given, str) or not re.fullmatch(r"[0-9a-f]{64}", given):
        return None, "signature"
    try:
        right = signature(fields, key_of(secret, its.id))
    except (TypeError, ValueError, RecursionError):
        return None, "malformed"
    if not hmac.compare_digest(right, given):
        return None, "signature"
    return (None, "the master's") if its.beacon in MASTER_BEACONS and its.id != MASTER else (its, "")


def whose(minion_id: str) -> tuple[str, str] | None:
    """The names of node and site in a minion id NODE.SITE or NODE.SITE.DOMAIN; None for another kind of id."""
    found = _ID.fullmatch(minion_id) if isinstance(minion_id, str) and len(minion_id) <= 253 else None
    return (found[1], found[2]) if found else None


class Sites:
    """The sites in the master's pillar, and which minion ids are their nodes. The same rule as in pillar/top.sls."""

    def __init__(self, pillar_roots: list[str]) -> None:
        """
        Args:
            pillar_roots: the pillar's folders of the environment `base`.
        """
        self._folders = [Path(root) / "sites" for root in pillar_roots]
        self._known: dict[Path, tuple[tuple[int, int], tuple[str, ...]]] = {}

    def nodes(self, site: str) -> tuple[str, ...]:
        """
        The names of a site's nodes; none when there is no such site or its file is not YAML. Reads a file again only
        when its time or size has changed.
        """
        if not is_site_name(site):
            return ()
        for folder in self._folders:
            path = folder / f"{site}.sls"
            try:
                state = path.stat()
                stamp = (state.st_mtime_ns, state.st_size)
                if self._known.get(path, (None,))[0] != stamp:
                    self._known[path] = stamp, _node_names(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                self._known.pop(path, None)
                continue
            return self._known[path][1]
        return ()

    def names(self) -> list[str]:
        """The names of all sites, sorted."""
        return sorted({path.stem for folder in self._folders for path in folder.glob("*.sls")
                       if is_site_name(path.stem)})

    def sender(self, minion_id: str) -> str:
        """The site that a minion is a node of; "" when it is no node of any site."""
        named = whose(minion_id)
        return named[1] if named and named[0] in self.nodes(named[1]) else ""


def _node_names(text: str) -> tuple[str, ...]:
    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        return tuple(name for name in data["gateway"]["nodes"] if isinstance(name, str))
    except (yaml.YAMLError, KeyError, TypeError):
        return ()


def _small(event: dict[Any, Any]) -> bool:
    """Whether a mapping is plain JSON within the limits of an event. Stops at the first violation."""
    left: list[tuple[Any, int]] = [(event, 0)]
    count = size = 0
    while left:
        value, depth = left.pop()
        count += 1
        kind = type(value)
        if kind is str:
            size += len(value)
        elif kind is dict or kind is list:
            if depth >= _MAX_DEPTH or len(value) > _MAX_VALUES:
                return False
            if kind is dict:
                for key in value:
                    if type(key) is not str:
                        return False
                    size += len(key)
            left += [(each, depth + 1) for each in (value.values() if kind is dict else value)]
        elif kind is int:
            if abs(value) >= 2**64:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif value is not None and kind is not bool:
            return False
        if count + len(left) > _MAX_VALUES or size > MAX_EVENT_BYTES:
            return False
    return True


def _event(fields: dict[str, Any]) -> Event:
    """The event that is passed on. Its site comes from the id, not from the field `site` (except the master's)."""
    node, site = whose(fields["id"]) or ("", fields["site"] if is_site_name(fields["site"]) else "")
    texts = {name: printable(fields[name]) for name in _TEXT_BYTES}
    if fields["id"] != MASTER:
        texts = {name: within(text, _TEXT_BYTES[name]) for name, text in texts.items()}
    return Event(journal=fields["journal"], n=fields["n"], id=fields["id"], site=site, node=node, role=fields["role"],
                 beacon=fields["beacon"], condition=fields["condition"], severity=fields["severity"],
                 now=texts.pop("is"), since=fields["since"], at=fields["at"], recovered=fields["recovered"],
                 once=fields["once"], facts=fields["facts"], **texts)


def within(text: str, most: int) -> str:
    """The text, cut to at most this many bytes as JSON."""
    if len(text) * 12 <= most or len(json.dumps(text)) <= most:
        return text
    used = len(json.dumps("…"))
    for number, letter in enumerate(text):
        used += len(json.dumps(letter)) - 2
        if used > most:
            return text[:number] + "…"
    return text


def printable(text: str) -> str:
    """A text on one line: what ends a header, colours a terminal or turns the writing direction becomes a space."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)
