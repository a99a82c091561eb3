"""
What Salt set up on this node, and what somebody has changed since.

At the end of each formula, the state ``drift.recorded`` looks at the formula's states. It records what each of them
manages, and how that looks after the states have succeeded. There is no separate list of paths: what a state manages
follows from its function and its arguments. The beacon then compares the node with the record every second second
(sysctls every fifth). It starts no process while nothing happens.

The *record*, ``/var/lib/gateway/drift/record`` (JSON, readable by root only)::

    formulas
      openswan
        at             when, ISO 8601
        things         by KIND:SUBJECT, such as file:/etc/ipsec.conf
    inputs, inputs_at  the master's digest of all inputs of this node, and when all of them were last applied

Kinds of things: ``file``, ``folder`` (which must hold only these names), ``sysctl``, ``service``, ``firewall`` and
``identities`` (the IPsec daemon's certificates and keys). Beside the record, the folder ``copies`` has the texts of the
ruleset and of files that anybody may read, by their SHA-256; they serve to show what was changed. The file ``tree``
(JSON) has two digests from the last whole state run: the master's digest of the file tree, and the digest of the custom
modules that this minion had then.

Formats: proc(5), systemctl(1), ``linux/netfilter/nfnetlink.h``. ``/run/systemd/units/invocation:UNIT`` exists while a
unit is neither inactive nor failed (unit_notify() and unit_export_invocation_id() in systemd's src/core/unit.c).
"""
from __future__ import annotations

import contextlib
import datetime
import difflib
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import salt.payload
import salt.utils.path
import salt.utils.stringutils
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    from _modules.watching import Job

    __salt__: dict[str, Callable]
    __opts__: dict
    __pillar__: dict
    __context__: dict

log = logging.getLogger(__name__)

__virtualname__ = "drift"

RECORD_FOLDER = Path("/var/lib/gateway/drift")
CURRENT = Path("/run/gateway/current")
PROC_SYS = Path("/proc/sys")
UNITS = Path("/run/systemd/units")
WANTED_BY = Path("/etc/systemd/system")
NSS = "/var/lib/ipsec/nss"         # twin: DATABASE in _modules/nss.py
RULESET = "inet gateway"
_NETFILTER, _NFTABLES = 12, 7       # NETLINK_NETFILTER, NFNLGRP_NFTABLES

_MODULE_SUFFIXES = (".py", ".pyx", ".so", ".zip")  # what Salt takes for a custom module (salt.utils.extmods)
_DIFF_BYTES = 2 * 1024      # of a file's difference that an event carries
_COPY_BYTES = 64 * 1024     # the largest file of which a copy is kept
_DIFF_LINES = 1500          # in a longer file lines are not compared: that takes too long for a beacon
_COMMAND_SECONDS = 5.0      # that systemctl or nft may take
_SYSCTL_SECONDS = 5.0       # between two looks at a sysctl: the kernel reports no change, a look is nine system calls
_SERVICE_SECONDS = 10.0     # after which systemd is asked again about a service that is not as it should be
_SETTLED_STATES = ("inactive", "failed", "active")     # systemd's words for a unit that neither starts nor stops now


def __virtual__() -> str:
    return __virtualname__


# what states manage


def _things_of(low: Mapping) -> dict[str, dict]:
    """The things that a state manages, by KIND:SUBJECT, each with what only the state's arguments say about it."""
    function, name = f"{low['state']}.{low['fun']}", low["name"]
    manages = _MANAGES.get(function)
    return manages(name, low) if manages else {}


def _file(name: str, low: Mapping) -> dict[str, dict]:
    static = "source" in low and not low.get("template") and "context" not in low
    return {f"file:{name}": {"static": static, "hidden": low.get("show_changes") is False}}


def _recursed(name: str, low: Mapping) -> dict[str, dict]:
    exclude = low.get("exclude_pat") or ""
    things: dict[str, dict] = {}
    for folder, folders, files in os.walk(name):
        below = os.path.relpath(folder, name)
        folders[:] = [each for each in folders if _included(os.path.normpath(f"{below}/{each}"), exclude)]
        for each in files:
            if _included(os.path.normpath(f"{below}/{each}"), exclude):
                things[f"file:{folder}/{each}"] = {"static": not low.get("template")}
        if low.get("clean"):
            things[f"folder:{folder}"] = {"exclude": exclude, "below": "" if below == "." else f"{below}/"}
    return things


def _included(path: str, exclude: str) -> bool:
    """Whether file.recurse includes a file, by its path below the folder."""
    return salt.utils.stringutils.check_include_exclude(path, None, exclude or None)


def _ipsec(name: str, low: Mapping) -> dict[str, dict]:
    # The two nodes' files may be written for different versions of the daemon, but from the same connections.
    made_of = _digest(json.dumps(_plain(low["settings"]["connections"]), sort_keys=True).encode())
    return {f"file:{name}": {"made_of": made_of}}


def _list(name: str, low: Mapping) -> dict[str, dict]:
    return {f"file:{__salt__['certs.list_file'](low['pillar'], low.get('store', 'nss'))}": {"static": True}}


def _identity(name: str, low: Mapping) -> dict[str, dict]:
    wanted = __salt__["certs.inspect"](low["pillar"])
    return {f"identities:{NSS}": {
        "wanted": sorted([wanted["fingerprint"], *(each["fingerprint"] for each in wanted["authorities"])])}}


def _bonds(name: str, low: Mapping) -> dict[str, dict]:
    # The files hold hardware addresses, which are not in the settings.
    paths = __salt__["bonding.files"](_plain(low["bonds"]), low.get("manager", "auto"))
    return {f"file:{path}": {"own": True} for path in paths}


def _firewall(name: str, low: Mapping) -> dict[str, dict]:
    return {f"file:{__salt__['firewall.file']()}": {}, f"firewall:{RULESET}": {}}


def _sysctl(name: str, low: Mapping) -> dict[str, dict]:
    config: dict[str, dict] = {f"file:{low['config']}": {}} if low.get("config") else {}
    return {f"sysctl:{name}": {"value": _words(low["value"])}} | config


def _service(name: str, low: Mapping) -> dict[str, dict]:
    enabled = low.get("enable")
    if low["fun"] in ("enabled", "disabled"):
        return {f"service:{name}": {"runs": None, "enabled": low["fun"] == "enabled"}}
    return {f"service:{name}": {"runs": low["fun"] == "running",
                                "enabled": None if enabled is None else bool(enabled)}}


_MANAGES: dict[str, Callable[[str, Mapping], dict[str, dict]]] = {
    "file.managed": _file,
    "file.recurse": _recursed,
    "ipsec.configured": _ipsec,
    "heartbeat.haresources": lambda name, low: {f"file:{name}": {}},
    "heartbeat.authkeys": lambda name, low: {f"file:{name}": {"static": True, "hidden": True}},
    "certs.present": _identity,
    "certs.crl_present": _list,
    "bonding.applied": _bonds,
    "firewall.applied": _firewall,
    "sysctl.present": _sysctl,
    **{f"service.{function}": _service for function in ("running", "dead", "enabled", "disabled")},
}


def _plain(value: Any) -> Any:
    """A value that Salt has frozen, in a form that JSON can write."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_plain(each) for each in value]
    return value


def _words(value: object) -> str:
    """A sysctl's value as text: the kernel separates with tabs, people with blanks; YAML's booleans become 0 and 1."""
    return " ".join(str(int(value) if isinstance(value, bool) else value).split())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# the record


def record(formula: str, applied: list[Mapping], others: Iterable[Mapping] = ()) -> dict:
    """
    Record what a formula's states manage, and how it looks now. For the state ``drift.recorded``.

    Args:
        formula: the name of the formula.
        applied: the low data of its states that succeeded.
        others: the low data of its states that failed or did not run. What they manage keeps its earlier record.

    Returns:
        ``things``, the number of recorded things, and ``changed``, those that are new or different.

    CLI Example: none, as it takes a state run's low data.
    """
    whole = _read()
    before = whole["formulas"].get(formula, {}).get("things", {})
    things: dict[str, dict] = {}
    for low in applied:
        for key, told in _things_of(low).items():
            things[key] = _merged(things.get(key), told)
    # If one of several states that share a file failed, its part may be missing in the file.
    waits = {key for low in others for key in _kept_of(low)}
    copies: dict[str, bytes] = {}
    own = _own_words()
    units = _units([key.partition(":")[2] for key in things if key.startswith("service:")])
    now: dict[str, dict] = {}
    for key, told in things.items():
        if key not in waits:
            kind, _, subject = key.partition(":")
            now[key] = _KINDS[kind].note(subject, told, before.get(key), own, units, copies)
    now |= {key: before[key] for key in waits if key in before}
    changed = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    if changed or formula not in whole["formulas"]:
        whole["formulas"][formula] = {"at": _now(), "things": now}
        _write(whole, copies)
    return {"things": len(now), "changed": changed}


def _kept_of(low: Mapping) -> Iterator[str]:
    """The things that a state which did not succeed manages, as far as they can be found."""
    with contextlib.suppress(CommandExecutionError, OSError, KeyError):
        yield from _things_of(low)


def _merged(one: dict | None, other: dict) -> dict:
    """One thing from what two states say of it: the identities of both; for other things the last state counts."""
    if one and "wanted" in other:
        return {"wanted": sorted({*one["wanted"], *other["wanted"]})}
    return {**(one or {}), **other}


def compared(inputs: str | None, formulas: Iterable[str] = (), tree: str = "") -> None:
    """
    Note that this node is as the master wants it. The mark lasts until the next boot. For the states.

    Args:
        inputs: the master's digest of the node's inputs; None to set only the mark.
        formulas: the formulas of this node; the records of all others are deleted.
        tree: the master's digest of the file tree that the formulas came from.

    CLI Example: none, as only a whole state run can know this.
    """
    CURRENT.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not CURRENT.exists():
        __salt__["commit_confirm.replace_file"](str(CURRENT), f"{_now()}\n", 0o644)
    if inputs is None:
        return
    whole = _read()
    gone = whole["formulas"].keys() - set(formulas)
    if gone or whole["inputs"] != inputs:
        whole["formulas"] = {name: each for name, each in whole["formulas"].items() if name not in gone}
        _write(whole | {"inputs": inputs, "inputs_at": _now()}, {})
    noted = json.dumps({"tree": tree, "modules": _modules()})
    if _text(RECORD_FOLDER / "tree") != noted:
        __salt__["commit_confirm.replace_file"](str(RECORD_FOLDER / "tree"), noted, 0o600)


def overridden() -> bool:
    """
    Whether the job that calls this has a pillar of its own, so that it says nothing about the master's pillar.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' drift.overridden pillar='{}'
    """
    # salt.minion writes each job's order there, with the ID of the process that executes it.
    for path in Path(__opts__["cachedir"], "proc").glob("*"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            job = salt.payload.loads(path.read_bytes())
            if job.get("pid") == os.getpid():
                return any(isinstance(word, dict) and word.get("pillar") for word in job.get("arg") or [])
    return False


def inputs() -> dict:
    """
    What the whole of this node was last made from.

    Returns:
        ``inputs``: the master's digest (pillar key ``gateway_inputs``) at the last whole state run that succeeded, ""
        without one; ``recorded_at``: when that was (ISO 8601); ``current``: whether this node was compared with the
        master since it booted; ``tree``: the master's digest of the file tree of that run, "" when the custom modules
        on this minion have changed since; ``disabled``: whether somebody has disabled whole state runs here
        (``state.disable highstate``).

    CLI Example:

    .. code-block:: bash

        salt 'gw*' drift.inputs
    """
    whole = _read()
    return {"inputs": whole["inputs"], "recorded_at": whole["inputs_at"], "current": CURRENT.exists(),
            "tree": _tree(), "disabled": "highstate" in __salt__["state.list_disabled"]()}


def _tree() -> str:
    """The digest of the file tree that this minion's custom modules came from; "" when that is not known."""
    try:
        noted = json.loads(_text(RECORD_FOLDER / "tree"))
        return noted["tree"] if noted["modules"] == _modules() else ""
    except (ValueError, TypeError, KeyError):
        return ""


def _modules() -> str:
    """The digest of all custom modules that Salt has synced to this minion."""
    found = hashlib.sha256()
    root = Path(__opts__["extension_modules"])
    for path in sorted(root.rglob("*")):
        if path.suffix in _MODULE_SUFFIXES:
            with contextlib.suppress(OSError):
                found.update(f"{path.relative_to(root)} {_digest(path.read_bytes())}\n".encode())
    return found.hexdigest()


def _text(path: Path) -> str:
    """A file's text; "" without the file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def fingerprints() -> dict[str, str]:
    """
    What must be the same on both nodes of a site, each with its SHA-256. These are the files that hold nothing specific
    to this node, by path, secrets among them; the IPsec daemon's certificates (``certificate NICKNAME``; the words
    "without its key" follow the fingerprint if the key is missing); and authorities (``authority SUBJECT``).

    For ``/etc/ipsec.conf``, which is written for the daemon's version, it is the digest of what the file was made from.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' drift.fingerprints
    """
    found = {key.partition(":")[2]: thing.get("made_of") or thing["sha256"]
             for _formula, key, thing in _all(_read()) if key.startswith("file:") and thing.get("same")}
    newest: dict[str, dict] = {}
    for each in __salt__["nss.stored"]():
        if each["trust"] == "CT,,":
            found[f"authority {each['subject']}"] = each["fingerprint"]
        elif (each["private_key"], each["not_before"]) > (
                newest.get(each["nickname"], {}).get("private_key", False),
                newest.get(each["nickname"], {}).get("not_before", "")):
            newest[each["nickname"]] = each
    for name, each in newest.items():
        found[f"certificate {name}"] = each["fingerprint"] + ("" if each["private_key"] else " without its key")
    return dict(sorted(found.items()))


def _all(whole: dict) -> Iterator[tuple[str, str, dict]]:
    for formula, each in whole["formulas"].items():
        for key, thing in each["things"].items():
            yield formula, key, thing


def _read() -> dict:
    """The record. If it is missing or unreadable, an empty one: the next state run writes it again."""
    empty = {"formulas": {}, "inputs": "", "inputs_at": ""}
    try:
        whole = json.loads((RECORD_FOLDER / "record").read_bytes())
    except FileNotFoundError:
        return empty
    except ValueError:
        whole = None
    if not _is_record(whole):
        log.warning("%s/record is damaged; the next state run writes it again", RECORD_FOLDER)
        return empty
    return whole


def _is_record(whole: object) -> bool:
    return isinstance(whole, dict) and whole.keys() == {"formulas", "inputs", "inputs_at"} and all(
        isinstance(each, dict) and isinstance(each.get("things"), dict)
        and all(key.partition(":")[0] in _KINDS and isinstance(thing, dict) for key, thing in each["things"].items())
        for each in whole["formulas"].values())


def _write(whole: dict, copies: dict[str, bytes]) -> None:
    folder = RECORD_FOLDER / "copies"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    RECORD_FOLDER.chmod(0o700)
    for name, data in copies.items():
        if not (folder / name).exists():
            __salt__["commit_confirm.replace_file"](str(folder / name), data.decode(), 0o600)
    __salt__["commit_confirm.replace_file"](str(RECORD_FOLDER / "record"), json.dumps(whole, sort_keys=True), 0o600)
    needed = {thing.get("sha256") for _formula, _key, thing in _all(whole)}
    for path in folder.iterdir():
        if path.name not in needed:
            path.unlink(missing_ok=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _own_words() -> re.Pattern | None:
    """
    A pattern of the words in which this node's settings and the other node's differ. A file that has one of them is
    specific to this node. None when the settings are not available: then any file may be specific to this node.
    """
    try:
        mine = __salt__["gateway.settings"]()
        theirs = __salt__["gateway.derive"](__pillar__["gateway"], __pillar__["gateway_schema"], mine["peer"])
    except (CommandExecutionError, KeyError):
        return None
    words = {part for word in _differing(mine, theirs) for part in (word, word.partition("/")[0]) if part}
    return re.compile(rf"(?<![\w.:-])(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?![\w:-])")


def _differing(one: Any, other: Any) -> Iterator[str]:
    """The single values in which two settings differ, from both of them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in one.keys() | other.keys():
            yield from _differing(one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for mine, theirs in zip(one, other, strict=True):
            yield from _differing(mine, theirs)
    elif one != other:
        for each in (one, other):
            if isinstance(each, (Mapping, list)):
                yield from _differing(each, {} if isinstance(each, Mapping) else [None] * len(each))
            elif each is not None and not isinstance(each, bool):
                yield str(each)


# kinds of things: how each is recorded, and how it is checked


class _Difference(dict):
    """How a thing differs from its record: ``was``, ``is`` and ``diff``, in words."""

    def __init__(self, was: str, now: str, diff: str = "") -> None:
        super().__init__({"was": was, "is": now, "diff": diff})


class _Kind:
    """How things of one kind are recorded and checked."""

    condition: str

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        """What the record keeps of a thing. Texts to keep beside the record are added to `copies`."""
        raise NotImplementedError

    @staticmethod
    def look(subject: str, thing: dict, memory: _Memory) -> _Difference | None:
        """How the thing differs from its record now; None when it does not."""
        raise NotImplementedError


class _Memory:
    """What earlier looks have seen, so that the next look has little to do."""

    def __init__(self, whole: dict, jobs: dict[str, Job] | None = None) -> None:
        self.whole = whole
        self.seen: dict[str, tuple] = {}            # by file: its stat, and the difference found then
        self.missing: set[str] = set()              # files missing at one look: an editor may be replacing them
        self.said: dict[str, tuple[float, str]] = {}    # by unit: when systemd answered, and what
        self.values: dict[str, tuple[float, str | None]] = {}   # by sysctl: when it was read, and its value
        self.jobs: dict[str, Job] = {} if jobs is None else jobs
        self.ruleset: str | None = None             # as last listed; None: not listed yet
        self.unknown: set[str] = set()              # conditions that this look can not judge
        self.wait = jobs is None                    # whether to wait for commands


class _FileKind(_Kind):
    condition = "file_changed"

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        found = os.lstat(subject)
        if not stat.S_ISREG(found.st_mode):
            raise CommandExecutionError(f"drift: {subject} is no longer a file; was it changed during this run?")
        data = Path(subject).read_bytes()
        secret = bool(told.get("hidden")) or not found.st_mode & stat.S_IROTH
        digest = _digest(data)
        thing: dict = {"sha256": digest, "size": len(data), "mode": stat.S_IMODE(found.st_mode),
                 "owner": [found.st_uid, found.st_gid], "secret": secret}
        text = data.decode("utf-8", "replace")
        thing["same"] = not told.get("own") and bool(
            told.get("static") or "made_of" in told or own and not own.search(text))
        thing |= {key: told[key] for key in ("made_of",) if key in told}
        if not secret and len(data) <= _COPY_BYTES and _is_text(data):
            copies[digest] = data
        return thing

    @staticmethod
    def look(subject: str, thing: dict, memory: _Memory) -> _Difference | None:
        try:
            found = os.lstat(subject)
        except OSError:
            memory.seen.pop(subject, None)
            if subject in memory.missing or memory.wait:
                return _Difference("as Salt wrote it", "removed", "" if thing["secret"] else _removed(thing))
            memory.missing.add(subject)
            memory.unknown.add("file_changed")
            return None
        memory.missing.discard(subject)
        sign = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode)
        known = memory.seen.get(subject)
        if known is None or known[0] != sign:
            known = memory.seen[subject] = (sign, _file_difference(subject, thing, found))
        return known[1]


def _file_difference(path: str, thing: dict, found: os.stat_result) -> _Difference | None:
    if not stat.S_ISREG(found.st_mode):
        return _Difference("a file that Salt wrote", "a link" if stat.S_ISLNK(found.st_mode) else "no longer a file")
    wrong, data, diff = [], b"", ""
    if found.st_size == thing["size"] or found.st_size <= _COPY_BYTES:
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                data = file.read(max(thing["size"], _COPY_BYTES) + 1)
    if found.st_size != thing["size"] or _digest(data) != thing["sha256"]:
        wrong.append("other contents")
        if not thing["secret"] and found.st_mode & stat.S_IROTH and found.st_size <= _COPY_BYTES and _is_text(data):
            diff = _diff(_copy(thing), data.decode())
    if stat.S_IMODE(found.st_mode) != thing["mode"]:
        wrong.append(f"mode {stat.S_IMODE(found.st_mode):04o}")
    if [found.st_uid, found.st_gid] != thing["owner"]:
        wrong.append(f"owner {found.st_uid}:{found.st_gid}")
    was = f"as Salt wrote it, mode {thing['mode']:04o}, owner {thing['owner'][0]}:{thing['owner'][1]}"
    return _Difference(was, ", ".join(wrong), diff) if wrong else None


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _copy(thing: dict) -> str | None:
    """The text as Salt wrote it; None if no copy is kept."""
    try:
        return (RECORD_FOLDER / "copies" / thing["sha256"]).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _removed(thing: dict) -> str:
    return _diff(_copy(thing), "")


def _diff(old: str | None, new: str) -> str:
    """A unified difference of at most _DIFF_BYTES bytes, cut at the end of a line."""
    if old is None:
        return ""
    lines = old.splitlines(), new.splitlines()
    if max(map(len, lines)) > _DIFF_LINES:
        return f"too many lines to compare here ({len(lines[0])} before, {len(lines[1])} now)"
    kept: list[str] = []
    size = 0
    for line in list(difflib.unified_diff(*lines, lineterm="", n=1))[2:]:
        size += len(line.encode()) + 1
        if size > _DIFF_BYTES - 8:
            return "\n".join([*kept, "..."])
        kept.append(line)
    return "\n".join(kept)


class _FolderKind(_Kind):
    condition = "file_changed"

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        return {**told, "names": _names_in(subject, told)}

    @staticmethod
    def look(subject: str, thing: dict, memory: _Memory) -> _Difference | None:
        try:
            found = os.stat(subject)
        except OSError:
            return _Difference("as Salt made it", "removed")
        sign = (found.st_ino, found.st_mtime_ns)
        known = memory.seen.get(subject)
        if known is None or known[0] != sign:
            more = [name for name in _names_in(subject, thing) if name not in thing["names"]]
            wrong = None
            if more:
                wrong = _Difference("as Salt made it", f"holds {', '.join(more)[:200]}, which is not Salt's")
            known = memory.seen[subject] = (sign, wrong)
        return known[1]


def _names_in(folder: str, thing: dict) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if _included(f"{thing['below']}{name}", thing["exclude"]))
    except OSError:
        return []


class _SysctlKind(_Kind):
    condition = "sysctl_changed"

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        # As the kernel prints it: the kernel may round a value, or replace a name by a number.
        return {"value": _sysctl_value(subject) or told["value"]}

    @staticmethod
    def look(subject: str, thing: dict, memory: _Memory) -> _Difference | None:
        read, now = memory.values.get(subject, (float("-inf"), None))
        if time.monotonic() - read >= _SYSCTL_SECONDS:
            now = _sysctl_value(subject)
            memory.values[subject] = (time.monotonic(), now)
        if now == thing["value"]:
            return None
        return _Difference(thing["value"], "gone" if now is None else now)


def _sysctl_value(name: str) -> str | None:
    """A sysctl's value. sysctl(8): a point in an interface's name is written as a slash, and a slash as a point."""
    swapped = name.translate(str.maketrans("./", "/.")) if "." in name.split("/")[0] else name
    try:
        return _words((PROC_SYS / swapped).read_text(encoding="utf-8"))
    except OSError:
        return None


class _ServiceKind(_Kind):
    condition = "service_changed"

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        unit = units.get(subject, {}).get("Id") or (subject if "." in subject else f"{subject}.service")
        folders = sorted(each for kind in ("wants", "requires") for each in WANTED_BY.glob(f"*.{kind}"))
        links = [str(folder / unit) for folder in folders if os.path.lexists(folder / unit)]
        if told["enabled"] is False:
            links = [str(WANTED_BY / f"{target}.target.wants" / unit) for target in ("multi-user", "sockets")]
        return {**told, "unit": unit, "links": links}

    @staticmethod
    def look(subject: str, thing: dict, memory: _Memory) -> _Difference | None:
        unit, wrong = thing["unit"], []
        if thing["runs"] is not None and os.path.lexists(UNITS / f"invocation:{unit}") != thing["runs"]:
            state = _ask_systemd(unit, memory)
            if not state:
                memory.unknown.add("service_changed")
            elif thing["runs"] and state in ("inactive", "failed"):
                wrong.append("stopped" if state == "inactive" else "failed")
            elif not thing["runs"] and state in ("active", "reloading", "activating"):
                wrong.append("running")
        else:
            memory.said.pop(unit, None)
        if thing["enabled"] is not None and thing["links"]:
            linked = [os.path.lexists(link) for link in thing["links"]]
            if thing["enabled"] and not all(linked):
                wrong.append("not started at boot")
            elif not thing["enabled"] and any(linked):
                wrong.append("started at boot")
        was = {True: ["running"], False: ["stopped"], None: []}[thing["runs"]]
        was += {True: ["started at boot"], False: ["not started at boot"], None: []}[thing["enabled"]]
        return _Difference(", ".join(was), ", ".join(wrong)) if wrong else None


def _ask_systemd(unit: str, memory: _Memory) -> str:
    """
    systemd's word for the state of a unit; "" until it has answered. The answer comes at a later look; a service that
    was only restarted runs again by then.
    """
    argv = ["systemctl", "show", "--property=ActiveState", "--value", unit]
    if memory.wait:
        try:
            return __salt__["commands.run"](argv, timeout=_COMMAND_SECONDS)["stdout"].strip()
        except CommandExecutionError:
            return ""
    when, state = memory.said.get(unit, (0.0, ""))
    # Trap: asked while a unit stops, systemd says `deactivating`. Such an answer must not be kept.
    if state not in _SETTLED_STATES or f"unit {unit}" in memory.jobs or time.monotonic() - when > _SERVICE_SECONDS:
        done = _answer(memory, f"unit {unit}", argv)
        if done and done["retcode"] == 0:
            state = done["stdout"].strip()
            memory.said[unit] = (time.monotonic(), state)
    return state


def _answer(memory: _Memory, name: str, argv: list[str]) -> dict | None:
    """The answer of a command that runs beside the minion; None until it is there. Starts the command if needed."""
    done = None
    if name in memory.jobs:
        done = __salt__["watching.answer"](memory.jobs[name])
        if done is None:
            return None
        del memory.jobs[name]
        return done
    job = __salt__["watching.start"](argv, _COMMAND_SECONDS)
    if job:
        memory.jobs[name] = job
    return None


class _FirewallKind(_Kind):
    condition = "firewall_changed"

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        text = __salt__["firewall.loaded"]()
        copies[_digest(text.encode())] = text.encode()
        return {"sha256": _digest(text.encode())}

    @staticmethod
    def look(subject: str, thing: dict, memory: _Memory) -> _Difference | None:
        if memory.wait:
            memory.ruleset = __salt__["firewall.loaded"]()
        if memory.ruleset is None:
            memory.unknown.add("firewall_changed")
            return None
        if _digest(memory.ruleset.encode()) == thing["sha256"]:
            return None
        return _Difference("as Salt loaded it", "other rules" if memory.ruleset else "gone: nothing is filtered",
                           _diff(_copy(thing), memory.ruleset))


class _IdentitiesKind(_Kind):
    condition = "file_changed"

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        held = __salt__["nss.held"]()
        if held is None:
            raise CommandExecutionError(f"drift: {subject} can not be read now; apply again")
        # The first record accepts every certificate that is in the database. After that, only those of pillar belong.
        known = set(before["known"]) | set(told["wanted"]) if before else {*held["certificates"], *told["wanted"]}
        return {"certificates": told["wanted"], "keys": held["keys"], "known": sorted(known)}

    @staticmethod
    def look(subject: str, thing: dict, memory: _Memory) -> _Difference | None:
        sign = __salt__["nss.sign"]()
        known = memory.seen.get(subject)
        if known is None or known[0] != sign:
            held = __salt__["nss.held"]()
            if held is None:
                memory.unknown.add("file_changed")
                return None
            known = memory.seen[subject] = (sign, _identities_difference(thing, held))
        return known[1]


def _identities_difference(thing: dict, held: dict[str, list[str]]) -> _Difference | None:
    there, known = set(held["certificates"]), set(thing["known"])
    counts = {"certificate missing": len(set(thing["certificates"]) - there),
              "key missing": len(set(thing["keys"]) - set(held["keys"])),
              "certificate that is not Salt's": len(there - known)}
    wrong = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return _Difference("the certificates and keys that pillar has", wrong) if wrong else None


def _sign(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


_KINDS: dict[str, type[_Kind]] = {"file": _FileKind, "folder": _FolderKind, "sysctl": _SysctlKind,
                                  "service": _ServiceKind, "firewall": _FirewallKind, "identities": _IdentitiesKind}


def _units(names: list[str]) -> dict[str, dict]:
    """By service, the name that systemd has for it (``Id``): `systemctl show` prints a KEY=VALUE block for each."""
    if not names or not salt.utils.path.which("systemctl"):
        return {}
    done = __salt__["commands.run"](["systemctl", "show", "--property=Id", *names], timeout=30)
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
              for block in done["stdout"].split("\n\n")]
    return dict(zip(names, blocks, strict=False)) if len(blocks) == len(names) else {}


# comparing


def glance() -> dict | None:
    """
    What differs from the record now, for the beacon: quick, never waits.

    Returns:
        ``conditions`` and ``unknown`` for ``gateway_events.changed``; None while a state run is active on this node:
        nothing is to be reported then, and the run records the new state at its end.

    CLI Example: none, as it depends on what the minion saw a second ago; see :func:`differences`.
    """
    memory = _memory()
    _hear_of_rules(memory)
    found = _conditions(memory)
    if not CURRENT.exists():
        found["not_compared:node"] = {
            "severity": "info", "was": "compared with the master since its boot", "is": "not compared yet",
            "cause": "no whole state run has succeeded since this node booted", "facts": {}}
    before = __context__.get("drift.told")
    if found != before:
        if __salt__["watching.states_run"]():
            return None
        __context__["drift.told"] = found
    return {"conditions": found, "unknown": sorted(memory.unknown)}


def differences() -> list[dict]:
    """
    Everything that differs from what Salt set up, checked again from the beginning.

    Returns:
        One mapping for each: ``condition``, ``subject``, ``formula``, ``was``, ``is``, ``diff`` (empty for secrets).

    CLI Example:

    .. code-block:: bash

        salt 'gw*' drift.differences
    """
    found = _conditions(_Memory(_read()))
    return [{"condition": key.partition(":")[0], "subject": key.partition(":")[2], "was": each["was"],
             "is": each["is"], **each["facts"]} for key, each in sorted(found.items())]


def _memory() -> _Memory:
    """What earlier looks have seen, if the record has not changed since."""
    sign = _sign(str(RECORD_FOLDER / "record"))
    kept = __context__.get("drift.memory")
    if kept is None or kept[0] != sign:
        jobs = kept[1].jobs if kept else {}
        kept = (sign, _Memory(_read(), jobs))
        __context__["drift.memory"] = kept
        __context__["drift.rules"] = True       # the ruleset must be listed
    return kept[1]


def _conditions(memory: _Memory) -> dict[str, dict]:
    found = {}
    memory.unknown.clear()
    for formula, key, thing in _all(memory.whole):
        kind, _, subject = key.partition(":")
        wrong = _KINDS[kind].look(subject, thing, memory)
        if wrong:
            found[f"{_KINDS[kind].condition}:{subject}"] = {
                "severity": "warning", "was": wrong["was"], "is": wrong["is"], "cause": "changed by hand",
                "facts": {"formula": formula, "diff": wrong["diff"]}}
    return found


def _hear_of_rules(memory: _Memory) -> None:
    """List the ruleset, with a command beside the minion, when the kernel reports that a rule was changed."""
    if not any(key.startswith("firewall:") for _formula, key, _thing in _all(memory.whole)):
        return
    if "drift.listener" not in __context__:
        try:
            __context__["drift.listener"] = __salt__["watching.listen"](_NETFILTER, _NFTABLES)
        except OSError as error:
            log.warning("The kernel does not report changed firewall rules (%s): they are listed once a minute", error)
            __context__["drift.listener"] = None
    listener = __context__["drift.listener"]
    if listener is None:
        __context__["drift.rules"] |= time.monotonic() - __context__.get("drift.listed", 0) > 60
    else:
        messages, lost = __salt__["watching.heard"](listener)
        __context__["drift.rules"] |= bool(messages) or lost
    if "ruleset" in memory.jobs or __context__["drift.rules"]:
        starts = "ruleset" not in memory.jobs
        done = _answer(memory, "ruleset", __salt__["firewall.listing"]())
        if done and done["retcode"] is not None:
            memory.ruleset = done["stdout"].strip() if done["retcode"] == 0 else ""
            __context__["drift.listed"] = time.monotonic()
        if starts and "ruleset" in memory.jobs:
            __context__["drift.rules"] = False
