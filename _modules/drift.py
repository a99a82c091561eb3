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

``drift_things`` has the kinds of things: how each is recorded, and how it is checked. Beside the record, the folder
``copies`` has the texts of the ruleset and of files that anybody may read, by their SHA-256; they serve to show what
was changed. The file ``tree`` (JSON) has two digests from the last whole state run: the master's digest of the file
tree, and the digest of the custom modules that this minion had then.
"""
from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import salt.payload
import salt.utils.stringutils
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    from _modules.drift_things import Memory
    from _modules.watching import Job

    __salt__: dict[str, Callable]
    __opts__: dict
    __pillar__: dict
    __context__: dict

log = logging.getLogger(__name__)

__virtualname__ = "drift"

RULESET = "inet gateway"
RECORD_FOLDER = Path("/var/lib/gateway/drift")
CURRENT = Path("/run/gateway/current")

_MODULE_SUFFIXES = (".py", ".pyx", ".so", ".zip")  # what Salt takes for a custom module (salt.utils.extmods)


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
    return {f"identities:{__salt__['nss.place']()}": {
        "wanted": sorted([wanted["fingerprint"], *(each["fingerprint"] for each in wanted["authorities"])])}}


def _bonds(name: str, low: Mapping) -> dict[str, dict]:
    # The files hold hardware addresses, which are not in the settings.
    paths = __salt__["bonding.files"](_plain(low["bonds"]), low.get("manager", "auto"))
    return {f"file:{path}": {"own": True} for path in paths}


def _firewall(name: str, low: Mapping) -> dict[str, dict]:
    return {f"file:{__salt__['firewall.file']()}": {}, f"firewall:{RULESET}": {}}


def _sysctl(name: str, low: Mapping) -> dict[str, dict]:
    config: dict[str, dict] = {f"file:{low['config']}": {}} if low.get("config") else {}
    return {f"sysctl:{name}": {"value": low["value"]}} | config


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
    now, copies = _things("note")(things, before, _own_words(), waits)
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
    kinds = _things("kinds")()
    return isinstance(whole, dict) and whole.keys() == {"formulas", "inputs", "inputs_at"} and all(
        isinstance(each, dict) and isinstance(each.get("things"), dict)
        and all(key.partition(":")[0] in kinds and isinstance(thing, dict) for key, thing in each["things"].items())
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
    _things("hear_of_rules")(memory)
    found = _things("look")(memory)
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
    found = _things("look")(_new_memory())
    return [{"condition": key.partition(":")[0], "subject": key.partition(":")[2], "was": each["was"],
             "is": each["is"], **each["facts"]} for key, each in sorted(found.items())]


def _memory() -> Memory:
    """What earlier looks have seen, if the record has not changed since."""
    sign = _sign(str(RECORD_FOLDER / "record"))
    kept = __context__.get("drift.memory")
    if kept is None or kept[0] != sign:
        jobs = kept[1].jobs if kept else {}
        kept = (sign, _new_memory(jobs))
        __context__["drift.memory"] = kept
        __context__["drift.rules"] = True       # the ruleset must be listed
    return kept[1]


def _new_memory(jobs: dict[str, Job] | None = None) -> Memory:
    return _things("memory")(list(_all(_read())), RECORD_FOLDER / "copies", jobs)


def _sign(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _things(function: str) -> Callable[..., Any]:
    """A function of the module that knows the kinds of things."""
    name = f"drift_things.{function}"
    if name not in __salt__:
        raise CommandExecutionError(f"drift: {name} is missing; run saltutil.sync_modules, see the minion's log")
    return __salt__[name]
