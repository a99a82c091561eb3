"""Checks the master's configuration ``gateway_reactions``: what is done by itself when something happens.

    gateway_reactions:
      - when: {conditions: [peer_dead], severities: [critical], sites: [winterthur], phases: [opened, recovery]}
        sls: ticket                    # salt/reactor/ticket.sls, or a list of such names
        settings: {command: [/usr/local/bin/ticket]}
        limit: 10                      # events of one site within ten minutes
        timeout: 60                    # seconds
        max_age: 600                   # seconds
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alerts.authentic import SEVERITIES, is_site_name
from alerts.catalogue import CATALOGUE

KEY = "gateway_reactions"
FOLDER = "reactor"  # under file_roots
# What an event is to its condition: it begins, becomes more severe, changes otherwise, is over; or something only
# happened.
PHASES = ("opened", "escalation", "update", "recovery", "happened")
USUAL_PHASES = ("opened", "escalation", "happened")
MAX_RULES = 100
MAX_SETTINGS_BYTES = 4096  # of one entry, as JSON: they wait in the queue with each event
# Of the reactions' own reports, so that none of them causes another one.
OWN_CONDITIONS = ("reaction_failed", "reactions_left_out")
_ENTRY = ("when", "sls", "settings", "limit", "timeout", "max_age")
_WHEN = ("conditions", "beacons", "severities", "sites", "phases")
# By key: the usual value, the smallest and the largest.
_NUMBERS = (("limit", 10, 1, 1000), ("timeout", 60, 1, 7200), ("max_age", 600, 10, 7 * 86400))
_SLS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}([.][A-Za-z0-9_][A-Za-z0-9_-]{0,60}){0,4}")


class Rule(NamedTuple):
    """One entry: what happened, and what is done then. An empty tuple of `when` stands for all."""

    conditions: tuple[str, ...]
    beacons: tuple[str, ...]
    severities: tuple[str, ...]
    sites: tuple[str, ...]
    phases: tuple[str, ...]
    sls: tuple[str, ...]  # names of files under salt/reactor/, as in states: a dot for each folder
    settings: dict[str, Any]  # the operator's own, for the SLS
    limit: int = 10  # events of one site within ten minutes that are reacted to
    timeout: float = 60.0  # seconds that the reaction to one event may take
    max_age: float = 600.0  # seconds: an older event is not reacted to


class Settings(NamedTuple):
    """The entries. `mistakes`, one line each: with any, nothing is reacted to."""

    rules: tuple[Rule, ...] = ()
    mistakes: tuple[str, ...] = ()


def read(given: Any, sites: list[str], exists: Callable[[str], bool], where: str = "") -> Settings:
    """
    Check the configuration. Never raises.

    Args:
        given: the value of ``gateway_reactions``; None when there is none.
        sites: the sites in the master's pillar.
        exists: whether there is a file of this name, such as `reactor/ticket.sls`, for the master.
        where: the file that has the key, for the mistakes (see :func:`file_with_key`).
    """
    wrong: list[str] = []
    rules: list[Rule] = []
    if given is not None and not isinstance(given, list):
        wrong.append(f"{KEY}: must be a list of what happened (when) and what is done then (sls)")
    for number, entry in enumerate(given if isinstance(given, list) else []):
        if number == MAX_RULES:
            wrong.append(f"{KEY}: has more than {MAX_RULES} entries")
            break
        rules.append(_rule(f"{KEY}:{number}", entry, sites, exists, wrong))
    if wrong:
        return Settings((), tuple(f"{where}: {line}" if where else line for line in wrong))
    return Settings(tuple(rules))


def of_master(opts: dict[str, Any], sites: list[str]) -> Settings:
    """The entries in a master's configuration, as Salt has read it, and their mistakes. `sites`: see :func:`read`."""
    where = file_with_key(opts["conf_file"], opts.get("default_include") or "master.d/*.conf") if KEY in opts else ""
    return read(opts.get(KEY), sites, in_roots(opts["file_roots"].get("base", [])), where)


def _rule(where: str, entry: Any, sites: list[str], exists: Callable[[str], bool], wrong: list[str]) -> Rule:
    if not isinstance(entry, dict):
        wrong.append(f"{where}: must be a mapping of when and sls")
        entry = {"sls": []}
    else:
        _unknown(where, entry, _ENTRY, wrong)
    when = entry.get("when", {})
    if not isinstance(when, dict):
        wrong.append(f"{where}:when: must be a mapping of {', '.join(_WHEN)}")
        when = {}
    _unknown(f"{where}:when", when, _WHEN, wrong)
    named = {key: _names(f"{where}:when:{key}", when[key], wrong) if key in when else () for key in _WHEN}
    known: dict[str, tuple[str, ...]] = {
        "conditions": tuple(sorted({condition for _, condition in CATALOGUE} - set(OWN_CONDITIONS))),
        "beacons": tuple(sorted({beacon for beacon, _ in CATALOGUE})),
        "severities": SEVERITIES, "sites": tuple(sites), "phases": PHASES}
    for key, names in named.items():
        listed = 'docs/monitoring.md, "Every event", has them all' if key == "conditions" else \
            f"there are {', '.join(known[key][:20]) or 'none'}"
        wrong += [f"{where}:when:{key}: {_show(name)} is none of the {key}; {listed}" for name in names
                  if name not in known[key] or key == "sites" and not is_site_name(name)]
    settings = entry.get("settings", {})
    if not isinstance(settings, dict) or _size(settings) > MAX_SETTINGS_BYTES:
        wrong.append(f"{where}:settings: must be a mapping of texts, numbers and lists, {MAX_SETTINGS_BYTES} bytes at "
                     "most, without letters beyond U+FFFF")
        settings = {}
    if "sls" not in entry:
        wrong.append(f"{where}:sls: is missing; give the name of a file under salt/{FOLDER}/, such as ticket")
    names = _names(f"{where}:sls", entry["sls"], wrong) if "sls" in entry else ()
    for name in names:
        if not _SLS.fullmatch(name):
            wrong.append(f"{where}:sls: {_show(name)} is no name of an SLS; give ticket for salt/{FOLDER}/ticket.sls")
        elif not exists(path_of(name)):
            wrong.append(f"{where}:sls: there is no {path_of(name)} in the folders of file_roots")
        elif name in _SHIPPED:
            key, fits, words = _SHIPPED[name]
            if not fits(settings.get(key)):
                wrong.append(f"{where}:settings:{key}: {name} needs {words}")
    numbers = {key: _number(f"{where}:{key}", entry.get(key, usual), low, high, wrong) or usual
               for key, usual, low, high in _NUMBERS}
    return Rule(named["conditions"], named["beacons"], named["severities"], named["sites"],
                named["phases"] or USUAL_PHASES, names, settings, int(numbers["limit"]), float(numbers["timeout"]),
                float(numbers["max_age"]))


def path_of(name: str) -> str:
    """The path of an SLS under file_roots: `ticket` is `reactor/ticket.sls`."""
    return f"{FOLDER}/{name.replace('.', '/')}.sls"


def in_roots(roots: list[str]) -> Callable[[str], bool]:
    """The function `exists` of :func:`read` for the folders of file_roots."""
    return lambda path: any((Path(root) / path).is_file() for root in roots)


def file_with_key(conf_file: str, include: str) -> str:
    """
    The file that has the key: the last one that Salt reads of those that do; the main one when none does.

    Args:
        conf_file: the master's main file.
        include: its `default_include`, a pattern beside it.
    """
    main = Path(conf_file)
    found = main
    for path in [main, *sorted(main.parent.glob(include))]:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(data, dict) and KEY in data:
            found = path
    return str(found)


def _unknown(where: str, data: dict[Any, Any], known: tuple[str, ...], wrong: list[str]) -> None:
    wrong += [f"{where}:{str(key)[:40]}: is unknown; the keys are {', '.join(known)}" for key in data
              if key not in known]


def _names(where: str, value: Any, wrong: list[str]) -> tuple[str, ...]:
    """A name or a list of names. An empty list is a mistake: it looks like "none" and would mean "all"."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        wrong.append(f"{where}: must be a name or a list of names")
        return ()
    return tuple(names)


def _number(where: str, value: Any, low: float, high: float, wrong: list[str]) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return value
    wrong.append(f"{where}: {_show(value)} is not between {low:g} and {high:g}")
    return None


def _size(value: Any) -> int:
    try:
        # Trap: JSON writes a letter beyond U+FFFF, such as an emoji, as two halves, which YAML does not put together.
        if max(json.dumps(value, ensure_ascii=False), default="") > "\uffff":
            return MAX_SETTINGS_BYTES + 1
        return len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return MAX_SETTINGS_BYTES + 1


def _show(value: Any) -> str:
    return f"{value!r:.60}"


def _is_command(value: Any) -> bool:
    words = value if isinstance(value, list) else []
    return bool(words) and all(isinstance(word, str) and "\0" not in word for word in words) and words[0][:1] == "/"


def _is_orchestration(value: Any) -> bool:
    return isinstance(value, str) and bool(_SLS.fullmatch(value))


# What the two reactions of this tree need in `settings`.
_SHIPPED: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "ticket": ("command", _is_command, "a list: the command's absolute path, then its own arguments"),
    "orchestrate": ("orchestration", _is_orchestration, "the name of an orchestration, as for salt-run state.orch")}
