"""
Kinds of things that Salt manages on a node: how each is recorded, and how it is checked. For ``drift``, which knows
what states manage, and keeps the record.

Kinds: ``file``, ``folder`` (which must hold only these names), ``sysctl``, ``service``, ``firewall`` and ``identities``
(the IPsec daemon's certificates and keys).

Formats: proc(5), systemctl(1), ``linux/netfilter/nfnetlink.h``. ``/run/systemd/units/invocation:UNIT`` exists while a
unit is neither inactive nor failed (unit_notify() and unit_export_invocation_id() in systemd's src/core/unit.c).
"""
from __future__ import annotations

import contextlib
import difflib
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import salt.utils.path
import salt.utils.stringutils
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    from _modules.watching import Job

    __salt__: dict[str, Callable]
    __context__: dict

log = logging.getLogger(__name__)

__virtualname__ = "drift_things"

PROC_SYS = Path("/proc/sys")
UNITS = Path("/run/systemd/units")
WANTED_BY = Path("/etc/systemd/system")
_NETFILTER, _NFTABLES = 12, 7       # NETLINK_NETFILTER, NFNLGRP_NFTABLES

_DIFF_BYTES = 2 * 1024      # of a file's difference that an event carries
_COPY_BYTES = 64 * 1024     # the largest file of which a copy is kept
_DIFF_LINES = 1500          # in a longer file lines are not compared: that takes too long for a beacon
_COMMAND_SECONDS = 5.0      # that systemctl or nft may take
_SYSCTL_SECONDS = 5.0       # between two looks at a sysctl: the kernel reports no change, a look is nine system calls
_SERVICE_SECONDS = 10.0     # after which systemd is asked again about a service that is not as it should be
_SETTLED_STATES = ("inactive", "failed", "active")     # systemd's words for a unit that neither starts nor stops now


def __virtual__() -> str:
    return __virtualname__


def note(things: Mapping[str, dict], before: Mapping[str, dict], own: re.Pattern | None,
         waits: Collection[str]) -> tuple[dict[str, dict], dict[str, bytes]]:
    """
    What the record keeps of some things, as they are now. For ``drift``.

    Args:
        things: by KIND:SUBJECT, each with what its states say about it.
        before: their earlier record.
        own: a pattern of what is specific to this node; None if that is not known.
        waits: those that are left out.

    Returns:
        What the record keeps, by KIND:SUBJECT; and the texts to keep beside it, by their SHA-256.

    CLI Example: none, as it takes what states manage.
    """
    copies: dict[str, bytes] = {}
    units = _units([key.partition(":")[2] for key in things if key.startswith("service:")])
    now: dict[str, dict] = {}
    for key, told in things.items():
        if key not in waits:
            kind, _, subject = key.partition(":")
            now[key] = _KINDS[kind].note(subject, told, before.get(key), own, units, copies)
    return now, copies


def look(memory: Memory) -> dict[str, dict]:
    """
    How the things of the record differ from it now. For ``drift``.

    Returns:
        By CONDITION:SUBJECT, in the form of ``gateway_events.changed``.

    CLI Example: none, as it takes what earlier looks have seen; see :py:func:`drift.differences
    <modules.drift.differences>`.
    """
    found = {}
    memory.unknown.clear()
    for formula, key, thing in memory.things:
        kind, _, subject = key.partition(":")
        wrong = _KINDS[kind].look(subject, thing, memory)
        if wrong:
            found[f"{_KINDS[kind].condition}:{subject}"] = {
                "severity": "warning", "was": wrong["was"], "is": wrong["is"], "cause": "changed by hand",
                "facts": {"formula": formula, "diff": wrong["diff"]}}
    return found


def kinds() -> list[str]:
    """
    The kinds of things.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' drift_things.kinds
    """
    return sorted(_KINDS)


def memory(things: list[tuple[str, str, dict]], copies: Path, jobs: dict[str, Job] | None = None) -> Memory:
    """
    What looks at these things have seen: nothing yet. For ``drift``.

    Args:
        things: those of the record, each as formula, KIND:SUBJECT and what the record has.
        copies: the folder of the texts beside the record.
        jobs: the commands that already run beside the minion; None to wait for each command.

    CLI Example: none, as it is for other modules.
    """
    return Memory(things, copies, jobs)


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
    def look(subject: str, thing: dict, memory: Memory) -> _Difference | None:
        """How the thing differs from its record now; None when it does not."""
        raise NotImplementedError


class Memory:
    """What earlier looks have seen, so that the next look has little to do."""

    def __init__(self, things: list[tuple[str, str, dict]], copies: Path, jobs: dict[str, Job] | None = None) -> None:
        self.things, self.copies = things, copies   # as for `memory`
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
    def look(subject: str, thing: dict, memory: Memory) -> _Difference | None:
        try:
            found = os.lstat(subject)
        except OSError:
            memory.seen.pop(subject, None)
            if subject in memory.missing or memory.wait:
                return _Difference("as Salt wrote it", "removed",
                                   "" if thing["secret"] else _removed(memory.copies, thing))
            memory.missing.add(subject)
            memory.unknown.add("file_changed")
            return None
        memory.missing.discard(subject)
        sign = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode)
        known = memory.seen.get(subject)
        if known is None or known[0] != sign:
            known = memory.seen[subject] = (sign, _file_difference(subject, thing, found, memory.copies))
        return known[1]


def _file_difference(path: str, thing: dict, found: os.stat_result, copies: Path) -> _Difference | None:
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
            diff = _diff(_copy(copies, thing), data.decode())
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


def _copy(copies: Path, thing: dict) -> str | None:
    """The text as Salt wrote it; None if no copy is kept."""
    try:
        return (copies / thing["sha256"]).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _removed(copies: Path, thing: dict) -> str:
    return _diff(_copy(copies, thing), "")


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
    def look(subject: str, thing: dict, memory: Memory) -> _Difference | None:
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


def _included(path: str, exclude: str) -> bool:
    """Whether file.recurse includes a file, by its path below the folder."""
    return salt.utils.stringutils.check_include_exclude(path, None, exclude or None)


class _SysctlKind(_Kind):
    condition = "sysctl_changed"

    @staticmethod
    def note(subject: str, told: dict, before: dict | None, own: re.Pattern | None, units: dict[str, dict],
             copies: dict[str, bytes]) -> dict:
        # As the kernel prints it: the kernel may round a value, or replace a name by a number.
        return {"value": _sysctl_value(subject) or _words(told["value"])}

    @staticmethod
    def look(subject: str, thing: dict, memory: Memory) -> _Difference | None:
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


def _words(value: object) -> str:
    """A sysctl's value as text: the kernel separates with tabs, people with blanks; YAML's booleans become 0 and 1."""
    return " ".join(str(int(value) if isinstance(value, bool) else value).split())


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
    def look(subject: str, thing: dict, memory: Memory) -> _Difference | None:
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


def _ask_systemd(unit: str, memory: Memory) -> str:
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


def _answer(memory: Memory, name: str, argv: list[str]) -> dict | None:
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
    def look(subject: str, thing: dict, memory: Memory) -> _Difference | None:
        if memory.wait:
            memory.ruleset = __salt__["firewall.loaded"]()
        if memory.ruleset is None:
            memory.unknown.add("firewall_changed")
            return None
        if _digest(memory.ruleset.encode()) == thing["sha256"]:
            return None
        return _Difference("as Salt loaded it", "other rules" if memory.ruleset else "gone: nothing is filtered",
                           _diff(_copy(memory.copies, thing), memory.ruleset))


def hear_of_rules(memory: Memory) -> None:
    """
    List the ruleset, with a command beside the minion, when the kernel reports that a rule was changed. For ``drift``.

    CLI Example: none, as it takes what earlier looks have seen.
    """
    if not any(key.startswith("firewall:") for _formula, key, _thing in memory.things):
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
    def look(subject: str, thing: dict, memory: Memory) -> _Difference | None:
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


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
