"""
What a gateway reports to its master: every change once, numbered, kept on disk, signed
=======================================================================================

Each time a beacon is called, it works out all *conditions* of its subject: what is wrong now, or worth reporting.
:func:`changed` compares them with what was reported last, and returns the events to fire. So there is one event when a
condition begins, one when it changes and one when it is over. A minion that was restarted repeats nothing, and what
happened while the master was away is in the journal (:func:`since`).

An event is one flat mapping, all of it JSON, 8 KiB at most::

    version    1
    journal    hexadecimal, random: the name of the journal that counts `n`
    n          counts the events of this node, rising by one
    id, site, node
    role       of this node at that moment: active, standby, transition, stopped, split, unknown
    beacon, condition, subject
    severity   info, warning, critical
    was, is    the state before and now, in a word or a few
    since      ISO 8601, UTC: when this state began. In a recovery: when the state began that is over now
    at         ISO 8601, UTC: when the node noticed it
    recovered  true: the condition is over
    once       true: it happened and is over; no recovery follows
    cause      in words, may be empty
    facts      a small mapping
    signature  HMAC-SHA256, hexadecimal, over the rest as JSON (sorted keys, no blanks, ASCII); empty without a key

The key comes from the pillar key ``gateway_event_key``; each minion id has its own. Events are signed when they are
handed out; the key is never written to this node's disk.

Files, in ``/var/lib/gateway/events``, readable by root only: ``journal`` (JSON lines; the first names the journal),
``BEACON.told`` (what was reported last, and what the beacon wants to remember), ``taken``.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict
    __grains__: dict
    __pillar__: dict
    __context__: dict

log = logging.getLogger(__name__)

__virtualname__ = "gateway_events"

EVENTS_FOLDER = Path("/var/lib/gateway/events")
# The digest of the pillar that the running beacons use. The file and the beacons are both gone after a reboot.
WATCHED = Path("/run/gateway/watched")
VERSION = 1
JOURNAL_EVENTS_KEPT = 500  # the journal is cut to this number of events when it has twice as many
EVENT_BYTES_MAX = 8 * 1024  # of an event as JSON; alerts/authentic.py has the same limit
# Least to most severe. Twin: alerts/authentic.py, on the master; the loader allows no import between the two.
SEVERITIES = ("info", "warning", "critical")
# Twins: _modules/heartbeat.py, and alerts/authentic.py, which also knows "unknown".
ROLES = ("active", "standby", "transition", "stopped", "split")
# The limit of each text in bytes, as JSON.
_TEXT_BYTES = {"was": 1000, "is": 1000, "cause": 1000, "subject": 300}
_FACTS_LEVELS, _FACTS_VALUES = 4, 200  # how deep facts may be nested, and how many values they may have
_CONDITION_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_KNOWN_TO_SALT = ("enabled", "interval", "disable_during_state_run", "run_once", "beacon_module", "_beacon_name")


class Told(NamedTuple):
    """What was reported of one beacon's subject."""

    conditions: dict[str, dict]  # by key: the last event, and `normal`, the state before the condition began
    memory: dict[str, Any]
    newest: int  # the journal's newest number when this was written
    damaged: bool = False


class Journal(NamedTuple):
    """The journal as it is on the disk."""

    name: str
    events: list[dict]
    damaged: bool = False


def __virtual__() -> str:
    return __virtualname__


# what beacons call


def watched(feature: str = "monitoring") -> dict:
    """
    This node's settings, if there is something to watch. {} without a site, for a site with mistakes, and where
    ``features:monitoring`` or the feature itself is off. Computed once for a pillar, so it may be called every second.

    Args:
        feature: one of ``gateway:features``.

    Returns:
        As ``gateway.settings``. It is not a copy, so the caller must not change it.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' gateway_events.watched bonding
    """
    pillar = __pillar__.get("gateway"), __pillar__.get("gateway_schema")
    kept = __context__.get("gateway_events.watched")
    if kept is None or any(now is not before for now, before in zip(pillar, kept[0], strict=True)):
        settings = {}
        if pillar[0]:
            try:
                settings = __salt__["gateway.settings"]()
            except CommandExecutionError as err:
                log.info("nothing is watched: %s", err)
        kept = (pillar, settings)
        __context__["gateway_events.watched"] = kept
        if pillar[0] and watched_now() != pillar_digest():
            __salt__["commit_confirm.replace_file"](str(_below_root(WATCHED)), pillar_digest() + "\n", 0o600)
    features = kept[1].get("features", {})
    return kept[1] if features.get("monitoring") and features.get(feature) else {}


def pillar_digest() -> str:
    """
    The digest of everything that the beacons depend on: the site, its schema, their configuration, the event key.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway_events.pillar_digest
    """
    parts = [__salt__["pillar.get"](key, None, unmask=True)
             for key in ("gateway", "gateway_schema", "beacons", "gateway_event_key")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def watched_now() -> str:
    """
    The :func:`pillar_digest` that the running minion's beacons use; "" when none has run since the boot.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway_events.watched_now
    """
    try:
        return _below_root(WATCHED).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def changed(beacon: str, conditions: dict[str, dict], once: Iterable[dict] = (), unknown: Iterable[str] = (),
            memory: dict | None = None) -> list[dict]:
    """
    The changes since the last call, as events that a beacon returns.

    Writes nothing while nothing changes.

    Args:
        beacon: the beacon's name.
        conditions: everything that is the case now, by ``CONDITION:SUBJECT`` (``slave_down:bond0/eth1``). Each has
            ``severity``, ``was`` and ``is``, and may have ``cause``, ``facts`` and ``since`` (ISO 8601). A change of
            ``is`` or ``severity`` makes an event, a change of the rest does not. With ``after`` (seconds) a condition
            is reported only when the beacon has handed it over for this long.
        once: what happened and is over: the same keys, and ``condition`` and ``subject``.
        unknown: names of conditions that can not be judged now: those reported before stay as they are.
        memory: what the beacon wants to read again (:func:`memory`) once these events are saved; None: no change.

    Returns:
        The events, signed, each with a ``tag``, which Salt removes. They are already in the journal.

    Raises:
        CommandExecutionError: another process has locked the files for a second, or a condition is malformed.

    CLI Example:

    .. code-block:: bash

        salt-call gateway_events.changed bonding '{}'
    """
    once, unknown = list(once), set(unknown)
    conditions = {_key(*key.partition(":")[::2]): each for key, each in conditions.items()}
    told = _told(beacon)
    conditions = _ripe(beacon, told, conditions, unknown)
    if memory is not None and memory != told.memory:
        memory = json.loads(json.dumps(memory))
    if not once and not told.damaged and memory in (None, told.memory) and not any(_differ(told, conditions, unknown)):
        return []
    with _lock():
        journal = _read_journal()
        told = _load(beacon, journal)
        number = max([0, told.newest, *(event["n"] for event in journal.events[-1:])])
        if journal.damaged or not journal.events:
            # The file may have lost numbers that were already given to events.
            number = max([number, _taken(), *(_load(name, journal).newest for name in _beacons())])
        events = []
        now = _now()
        its = _self()
        for key in list(_differ(told, conditions, unknown)):
            number += 1
            event = (_of_condition(key, told.conditions.get(key), conditions[key], now) if key in conditions
                     else _of_recovery(key, told.conditions[key]))
            events.append(_fit({**its, "journal": journal.name, "n": number, "beacon": beacon, "at": now} | event))
            _apply(told.conditions, events[-1], (conditions.get(key) or {}).get("was", ""))
        for each in once:
            number += 1
            event = _of_once(each, now)
            events.append(_fit({**its, "journal": journal.name, "n": number, "beacon": beacon, "at": now} | event))
        if events or journal.damaged:
            _write_journal(journal, events)
        if events or told.damaged or memory not in (None, told.memory):
            _save(beacon, Told(told.conditions, told.memory if memory is None else memory, number))
    return [{**_signed(event), "tag": event["condition"]} for event in events]


def memory(beacon: str) -> dict:
    """
    What a beacon last gave to :func:`changed` to remember; {} without any.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' gateway_events.memory bonding
    """
    return dict(_told(beacon).memory)


def validate_config(config: object, more: Iterable[str] = ()) -> tuple[bool, str]:
    """
    Whether a beacon's configuration is a list of mappings that have only known keys.

    Args:
        config: as Salt hands it to a beacon's ``validate``.
        more: the beacon's own keys.

    Returns:
        True or False, and a line for the log.

    CLI Example:

    .. code-block:: bash

        salt-call gateway_events.validate_config '[]'
    """
    if not isinstance(config, list):
        return False, "the configuration must be a list, [] if it is empty"
    for each in config:
        if not isinstance(each, dict):
            return False, f"each entry of the configuration must be a mapping, and {each!r:.60} is none"
        for key in each:
            if key not in (*_KNOWN_TO_SALT, *more):
                return False, f"no key {key!r:.60}; there are {', '.join(sorted({*_KNOWN_TO_SALT[:-1], *more}))}"
    return True, "valid"


# what the master calls


def since(number: int = 0, journal: str = "") -> dict:
    """
    The events after a given one.

    Args:
        number: the number of the last event that the caller knows.
        journal: the journal that counted it; if this is not the node's journal, all events are returned.

    Returns:
        ``journal``, ``newest`` (a number), ``taken`` (the number last given to :func:`taken`) and ``events``, signed,
        oldest first; the last 500 at most.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' gateway_events.since 120 3f2a90c1d5e84b67
    """
    found = _read_journal()
    events = found.events[-JOURNAL_EVENTS_KEPT:]
    if journal == found.name:
        events = [event for event in events if event["n"] > int(number)]
    newest = max([0, *(event["n"] for event in found.events[-1:])])
    return {"journal": found.name if found.events else "", "newest": newest, "taken": _taken(),
            "events": [_signed(event) for event in events]}


def newest() -> dict:
    """
    The newest number of the journal, and the number up to which a master has processed it. The master asks all nodes
    for this at once, and often.

    Returns:
        ``journal``, ``newest`` and ``taken`` as :func:`since` has them.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway_events.newest
    """
    found = _read_journal()
    number = max([0, *(event["n"] for event in found.events[-1:])])
    return {"journal": found.name if found.events else "", "newest": number, "taken": _taken()}


def conditions() -> list[dict]:
    """
    All conditions that exist now, each as the event that reported it, signed.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway_events.conditions
    """
    journal = _read_journal()
    return [_signed({key: value for key, value in event.items() if key != "normal"})
            for beacon in _beacons() for event in _load(beacon, journal).conditions.values()]


def taken(numbers: dict[str, int]) -> bool:
    """
    Note up to which event a master has processed everything. This is only a mark: the journal does not change.

    Args:
        numbers: the event's number, by minion id; those of other nodes are ignored.

    Returns:
        Whether this node's number was among them.

    CLI Example:

    .. code-block:: bash

        salt '*.winterthur' gateway_events.taken '{"gw1.winterthur": 17, "gw2.winterthur": 4}'
    """
    number = numbers.get(__opts__["id"])
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        return False
    if number > _taken():
        with _lock():
            _replace("taken", f"{number}\n")
    return True


def _taken() -> int:
    try:
        return int((_folder() / "taken").read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


# one event


def _ripe(beacon: str, told: Told, conditions: dict[str, dict], unknown: set[str]) -> dict[str, dict]:
    """The conditions without those that must last longer before they are reported."""
    waiting = __context__.setdefault("gateway_events.waiting", {}).setdefault(beacon, {})
    ripe = {}
    for key, each in conditions.items():
        if each.get("after") and key not in told.conditions:
            began = waiting.setdefault(key, (time.monotonic(), _now()))
            if time.monotonic() - began[0] < each["after"]:
                continue
            each = {"since": began[1], **each}
        ripe[key] = each
    for key in list(waiting):
        if key in ripe or key not in conditions and key.partition(":")[0] not in unknown:
            del waiting[key]
    return ripe


def _differ(told: Told, conditions: dict[str, dict], unknown: set[str]) -> Iterator[str]:
    """The keys of which a change must be reported, in a fixed order: first those that are over."""
    for key in sorted(told.conditions):
        if key not in conditions and key.partition(":")[0] not in unknown:
            yield key
    for key in sorted(conditions):
        before = told.conditions.get(key)
        if before is None or (before["is"], before["severity"]) != (
                _cut(_text(conditions[key].get("is", "")), _TEXT_BYTES["is"]), conditions[key].get("severity")):
            yield key


def _of_recovery(key: str, before: dict) -> dict:
    """The content of an event for a condition that is over."""
    condition, _colon, subject = key.partition(":")
    return {"condition": condition, "subject": subject, "severity": before["severity"], "was": before["is"],
            "is": before["normal"], "since": before["since"], "recovered": True, "once": False,
            "cause": before["cause"], "facts": before["facts"]}


def _of_condition(key: str, before: dict | None, now: dict, at: str) -> dict:
    """The content of an event for a condition that is new (`before` None) or has changed."""
    condition, _colon, subject = key.partition(":")
    event = _checked(now, condition, subject)
    began = _when(now.get("since"), before["since"] if before else at)
    if before and before["is"] != event["is"]:
        event["was"] = before["is"]
    return {**event, "since": began, "recovered": False, "once": False}


def _of_once(each: dict, at: str) -> dict:
    event = _checked(each, each.get("condition", ""), each.get("subject", ""))
    return {**event, "since": _when(each.get("since"), at), "recovered": False, "once": True}


def _checked(given: dict, condition: str, subject: str) -> dict:
    """What a beacon reported, complete. Raises CommandExecutionError if it is malformed: a mistake in the beacon."""
    if not _CONDITION_NAME.fullmatch(_text(condition)) or given.get("severity") not in SEVERITIES:
        raise CommandExecutionError(
            f"{condition!r:.60} with the severity {given.get('severity')!r:.60} is no condition: its name is of lower-"
            f"case letters, digits and _, its severity one of {', '.join(SEVERITIES)}")
    return {"condition": condition, "subject": subject, "severity": given["severity"], "was": given.get("was", ""),
            "is": given.get("is", ""), "cause": given.get("cause") or "", "facts": given.get("facts") or {}}


def _when(text: object, otherwise: str) -> str:
    """A time from elsewhere in the form that events have; `otherwise` if it is not readable."""
    try:
        there = datetime.fromisoformat(str(text))
    except ValueError:
        return otherwise
    return there.astimezone(UTC).isoformat(timespec="milliseconds")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _self() -> dict:
    """The sender's keys of an event. An event is sent even if the site or the role is not available."""
    try:
        settings = __salt__["gateway.settings"]()
        its = {"site": settings["site"], "node": settings["node"]}
    except Exception:  # noqa: BLE001  # a site with mistakes
        its = {"site": "", "node": _text(__grains__.get("nodename", ""))[:63]}
    try:
        role = __salt__["heartbeat.glance"]()["role"]
    except Exception:  # noqa: BLE001
        role = ""
    return {"version": VERSION, "id": __opts__["id"], **its, "role": role if role in ROLES else "unknown"}


def _fit(event: dict) -> dict:
    """The event as plain JSON that any transport takes, at most EVENT_BYTES_MAX long: facts are cut to fit."""
    event = {key: _cut(_text(value), _TEXT_BYTES[key]) if key in _TEXT_BYTES else value for key, value in event.items()}
    facts = event["facts"] = _plain(event["facts"], [_FACTS_VALUES]) if isinstance(event["facts"], dict) else {}
    # Room for the signature and for the keys that Salt adds.
    room = EVENT_BYTES_MAX - 512
    while _size(event) > room and facts.keys() - {"cut"}:
        largest = max(facts.keys() - {"cut"}, key=lambda key: (_size(key) + _size(facts[key]), key))
        spare = _size(facts[largest]) - (_size(event) - room)
        if isinstance(facts[largest], str) and spare > 200:
            facts[largest] = _cut(facts[largest], spare)
        else:
            del facts[largest]
            facts["cut"] = True
    return event


def _key(condition: str, subject: str) -> str:
    return f"{condition}:{_cut(_text(subject), _TEXT_BYTES['subject'])}"


def _plain(value: object, left: list[int], depth: int = 0) -> Any:
    """A value that msgpack and JSON both return unchanged. `left[0]`: how many more values are allowed."""
    left[0] -= 1
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, (dict, list, tuple)) and depth < _FACTS_LEVELS:
        if isinstance(value, dict):
            return {_text(key)[:200]: _plain(each, left, depth + 1) for key, each in value.items() if left[0] > 0}
        return [_plain(each, left, depth + 1) for each in value if left[0] > 0]
    return _text(value)


def _text(value: object) -> str:
    """A value as text that can be encoded; half a surrogate pair, as a file's name may have, can not be."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _size(value: object) -> int:
    """The length as JSON, in bytes."""
    return len(json.dumps(value))


def _cut(text: str, most: int) -> str:
    """The text, cut to at most this many bytes as JSON."""
    if len(text) * 12 <= most or _size(text) <= most:
        return text
    kept, used = [], 2 + len(json.dumps("…"))
    for letter in text:
        used += len(json.dumps(letter)) - 2
        if used > most:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def _signed(event: dict) -> dict:
    key = __salt__["pillar.get"]("gateway_event_key", "", unmask=True)
    if not key or not isinstance(key, str):
        return {**event, "signature": ""}
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**event, "signature": hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()}


# the files


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Lock the files, as jobs run beside the beacons. Waits a second at most, as the minion does nothing meanwhile."""
    _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + 1
    handle = os.open(_folder() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CommandExecutionError(f"{_folder()}: another process has held the lock for more than a "
                                                f"second; the next call reports the event") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _below_root(path: Path) -> Path:
    """The path below this minion's root: several minions on one machine have roots of their own."""
    return Path(__opts__.get("root_dir") or "/", path.relative_to("/"))


def _folder() -> Path:
    return _below_root(EVENTS_FOLDER)


def _replace(name: str, text: str) -> None:
    __salt__["commit_confirm.replace_file"](str(_folder() / name), text, 0o600)


def _read_journal() -> Journal:
    """The journal; without one, a new journal that is not written yet."""
    try:
        lines = (_folder() / "journal").read_bytes().splitlines()
    except FileNotFoundError:
        return Journal(_new_name(), [])
    values = [_json(line) for line in lines]
    head = values[0].get("journal") if values and isinstance(values[0], dict) else None
    name = head if isinstance(head, str) and re.fullmatch(r"[0-9a-f]{16}", head) else ""
    events = [value for value in values[1:] if _is_event(value)]
    damaged = not name or len(events) < len(values) - 1
    # Numbers only rise: an event out of order is damage as well.
    rising = [event for before, event in zip([{"n": 0}, *events], events, strict=False) if event["n"] > before["n"]]
    return Journal(name or _new_name(), rising, damaged or len(rising) < len(events))


def _new_name() -> str:
    """A random name for a journal. It begins with a letter: a command line reads 12e4567890123456 as a number."""
    return secrets.choice("abcdef") + secrets.token_hex(8)[1:]


def _is_event(value: object) -> TypeGuard[dict]:
    return (isinstance(value, dict) and type(value.get("n")) is int and value["n"] > 0
            and all(isinstance(value.get(key), str) for key in ("beacon", "condition", "subject", "severity", "is")))


def _write_journal(journal: Journal, events: list[dict]) -> None:
    """Add events and sync them to the disk: otherwise a power cut could cause a number to be used twice."""
    path = _folder() / "journal"
    lines = [json.dumps(event) + "\n" for event in events]
    if journal.damaged or not path.exists() or len(journal.events) + len(events) > 2 * JOURNAL_EVENTS_KEPT:
        if journal.damaged:
            log.warning("%s was damaged: every readable event is kept", path)
        kept = [json.dumps(event) + "\n" for event in [*journal.events, *events][-JOURNAL_EVENTS_KEPT:]]
        _replace("journal", json.dumps({"journal": journal.name}) + "\n" + "".join(kept))
        return
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        text = "".join(lines).encode()
        while text:
            text = text[os.write(handle, text):]
        os.fdatasync(handle)
    finally:
        os.close(handle)


def _beacons() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.told"))


def _told(beacon: str) -> Told:
    """What was reported of a beacon's subject; read again only if another process has written it."""
    if not _CONDITION_NAME.fullmatch(beacon):
        raise CommandExecutionError(f"{beacon!r:.60} is no beacon's name")
    mark, kept = _mark(beacon), __context__.get(f"gateway_events.{beacon}")
    if kept is None or kept[0] != mark:
        kept = (mark, _load(beacon, _read_journal()))
        __context__[f"gateway_events.{beacon}"] = kept
    return kept[1]


def _mark(beacon: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(_folder() / f"{beacon}.told")
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(beacon: str, journal: Journal) -> Told:
    """What was reported, from its file and from later events of the journal: a crash may separate the two writes."""
    told = Told({}, {}, 0)
    try:
        value = _json((_folder() / f"{beacon}.told").read_bytes())
    except FileNotFoundError:
        value = {"conditions": {}, "memory": {}, "newest": 0}
    if _is_told(value):
        told = Told(value["conditions"], value["memory"], value["newest"])
    else:
        log.warning("%s/%s.told is damaged: it is rebuilt from the journal", _folder(), beacon)
        told = told._replace(damaged=True)
    for event in journal.events:
        if event["beacon"] == beacon and event["n"] > told.newest and not event.get("once"):
            _apply(told.conditions, event, event.get("was", ""))
    return told


def _is_told(value: object) -> TypeGuard[dict]:
    if not isinstance(value, dict) or type(value.get("newest")) is not int or not isinstance(value.get("memory"), dict):
        return False
    known = value.get("conditions")
    return isinstance(known, dict) and all(
        _is_event(event) and all(isinstance(event.get(key), str) for key in ("normal", "since", "cause"))
        and isinstance(event.get("facts"), dict) for event in known.values())


def _apply(conditions: dict[str, dict], event: dict, normal: str) -> None:
    """Apply an event to what was reported."""
    key = _key(event["condition"], event["subject"])
    if event.get("recovered"):
        conditions.pop(key, None)
        return
    before = conditions.get(key, {"normal": _cut(_text(normal), _TEXT_BYTES["was"])})
    conditions[key] = {**event, "normal": before["normal"]}


def _save(beacon: str, told: Told) -> None:
    _replace(f"{beacon}.told", json.dumps(
        {"conditions": told.conditions, "memory": told.memory, "newest": told.newest}) + "\n")
    __context__[f"gateway_events.{beacon}"] = (_mark(beacon), told)


def _json(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
