"""Targets and routes: checks the key `alerts` of pillar/alerts.sls, and names the targets of an alert.

    alerts:
      targets:
        operators: {type: mail, host: mail.example.org, from: vpn@example.org, to: [ops@example.org]}
      routes:
        - {sites: [winterthur], severities: [critical, warning], targets: [operators]}

An alert goes to the targets of every route that fits. The master's event bus gets all alerts. Without the file they go
to the master's syslog as well.
"""
from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

from alerts.authentic import SEVERITIES, is_site_name
from alerts.incident import Settings
from alerts.limits import Limits

BUS = "bus"  # the target that always exists
# The keys of each type of target with their rules. A key whose rule ends in ! is required.
_COMMON = {"limits": "limits", "heartbeat": "bool"}
_TYPES = {
    "mail": {"host": "text!", "port": "port", "security": "security", "user": "text", "password": "text",
             "from": "address!", "to": "addresses!", "timeout": "seconds", "ca": "path", "hello": "text"},
    "webhook": {"url": "url!", "secret": "text", "timeout": "seconds", "headers": "headers", "ca": "path"},
    "slack": {"url": "url!", "channel": "text", "timeout": "seconds", "ca": "path"},
    "syslog": {"protocol": "protocol", "host": "text", "port": "port", "path": "path", "facility": "facility",
               "timeout": "seconds", "ca": "path"},
}
FACILITIES = {"daemon": 3, "auth": 4, "syslog": 5, **{f"local{number}": 16 + number for number in range(8)}}
_WORDS = {
    "text": "a text", "text!": "a text", "port": "a number from 1 to 65535",
    "security": "starttls, tls, or none (only to the master itself: the password and the alerts are sent in clear)",
    "address!": "a mail address", "addresses!": "a mail address, or a list of them",
    "seconds": "a number of seconds from 1 to 120", "path": "an absolute path",
    "url!": "an https:// address (http:// only to the master itself)", "headers": "a mapping of texts",
    "protocol": "unix, udp, tcp or tls", "facility": f"one of {', '.join(FACILITIES)}",
    "limits": "a mapping of site, target, minutes, digest_seconds, numbers from 1 up", "bool": "true or false",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_MAIL = re.compile(r"[^\s@<>,;:\"()\[\]\\\x00-\x1f\x7f]{1,64}@[A-Za-z0-9.-]{1,250}")


class Route(NamedTuple):
    """Alerts of some sites and severities go to some targets."""

    sites: tuple[str, ...]  # empty: all
    severities: tuple[str, ...]
    targets: tuple[str, ...]


class Configuration(NamedTuple):
    """The checked contents of the file. Holds secrets: never show it."""

    targets: dict[str, dict[str, Any]]
    routes: list[Route]
    limits: dict[str, Limits]
    flapping: Settings
    heartbeat_hours: float  # between two signs of life; 0: none
    queue: int  # alerts that may wait for one target

    def of(self, site: str, severity: str) -> list[str]:
        """The names of the targets of an alert, sorted."""
        found = {BUS}
        for route in self.routes:
            if severity in route.severities and (not route.sites or site in route.sites):
                found.update(route.targets)
        return sorted(found)


def default() -> Configuration:
    """The configuration without a file: all alerts to the master's syslog."""
    return check({"targets": {"syslog": {"type": "syslog"}}, "routes": [{"targets": ["syslog"]}]}, None)[0]


def check(data: object, sites: list[str] | None) -> tuple[Configuration, list[str]]:
    """
    Check the configuration.

    Args:
        data: the value of the key `alerts`.
        sites: the sites in the master's pillar; None: unknown.

    Returns:
        The configuration, made of what is right, and all mistakes, one line each. No line holds the value of a key that
        may be a secret.
    """
    mistakes: list[str] = []
    if not isinstance(data, dict):
        return Configuration({}, [], {}, Settings(), 0, 5000), ["alerts: must be a mapping with targets and routes"]
    _unknown("alerts", data, ("targets", "routes", "flapping", "heartbeat_hours", "queue"), mistakes)
    targets = _targets(data.get("targets", {}), mistakes)
    routes = _routes(data.get("routes", []), targets, sites, mistakes)
    used = {target for route in routes for target in route.targets}
    mistakes += [f"alerts:targets:{name}: no route leads to it" for name in targets if name not in used]
    limits = {BUS: Limits(10**6, 10**6, 1, 1)}
    for name, target in targets.items():
        # People read mail one by one; machines read the others.
        usual = Limits() if target["type"] == "mail" else Limits(30, 600, 10, 3)
        given = target.get("limits", {})
        limits[name] = usual._replace(**given)
    flapping = data.get("flapping", {})
    if not _numbers(flapping, {"times": (1, 1000), "minutes": (0.05, 1440)}):
        mistakes.append("alerts:flapping: must be a mapping of times (1 to 1000) and minutes (up to 1440)")
        flapping = {}
    hours = data.get("heartbeat_hours", 0)
    if not _number(hours, 0, 24 * 31):
        mistakes.append("alerts:heartbeat_hours: must be a number of hours, 0 for no sign of life")
        hours = 0
    queue = data.get("queue", 5000)
    if type(queue) is not int or not 100 <= queue <= 1_000_000:
        mistakes.append("alerts:queue: must be a number from 100 to 1000000: how many alerts may wait for one target")
        queue = 5000
    return Configuration(targets, routes, limits, Settings(**flapping), hours, queue), mistakes


def _targets(data: object, mistakes: list[str]) -> dict[str, dict[str, Any]]:
    if not isinstance(data, dict):
        mistakes.append("alerts:targets: must be a mapping of targets by name")
        return {}
    found = {}
    for name, target in data.items():
        where = f"alerts:targets:{str(name)[:60]}"
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == BUS:
            mistakes.append(f"{where}: is no name for a target; use lower-case letters, digits, _ and -, but not "
                            f"{BUS}, which always exists")
            continue
        kind = target.get("type") if isinstance(target, dict) else None
        if not isinstance(kind, str) or kind not in _TYPES:
            mistakes.append(f"{where}:type: must be one of {', '.join(_TYPES)}")
            continue
        # A block in YAML ends in a line end, and so does a value that was encrypted with one.
        target = {key: value.rstrip("\n") if isinstance(value, str) else value for key, value in target.items()}
        before = len(mistakes)
        rules = _TYPES[kind] | _COMMON
        _unknown(where, target, ("type", *rules), mistakes)
        for key, rule in rules.items():
            if key not in target:
                if rule.endswith("!"):
                    mistakes.append(f"{where}:{key}: is missing; give {_WORDS[rule]}")
            elif not _fits(rule, target[key]):
                mistakes.append(f"{where}:{key}: must be {_WORDS[rule]}")
        if len(mistakes) == before:
            _together(where, kind, target, mistakes)
        if len(mistakes) == before:
            found[name] = target
    return found


def _together(where: str, kind: str, target: dict[str, Any], mistakes: list[str]) -> None:
    """The mistakes that concern two keys."""
    if kind == "mail":
        if ("user" in target) != ("password" in target):
            mistakes.append(f"{where}: user and password go together")
        if target.get("security") == "none" and target["host"] not in _LOOPBACK:
            mistakes.append(f"{where}:security: none is only for the master itself; give starttls or tls")
    if kind == "syslog" and target.get("protocol", "unix") != "unix" and "host" not in target:
        mistakes.append(f"{where}:host: is missing; give the log server's name or address")


def _routes(data: object, targets: dict[str, dict[str, Any]], sites: list[str] | None, mistakes: list[str],
            ) -> list[Route]:
    if not isinstance(data, list):
        mistakes.append("alerts:routes: must be a list")
        return []
    routes = []
    for number, route in enumerate(data):
        where = f"alerts:routes:{number}"
        if not isinstance(route, dict):
            mistakes.append(f"{where}: must be a mapping of sites, severities and targets")
            continue
        _unknown(where, route, ("sites", "severities", "targets"), mistakes)
        its = {key: [value] if isinstance(value := route.get(key, usual), str) else value
               for key, usual in (("sites", []), ("severities", list(SEVERITIES)), ("targets", []))}
        wrong = [key for key, value in its.items()
                 if not isinstance(value, list) or not all(isinstance(each, str) for each in value)]
        for key in wrong:
            mistakes.append(f"{where}:{key}: must be a list of names")
            its[key] = []
        for site in its["sites"]:
            if not is_site_name(site) or (sites is not None and site not in sites):
                known = ", ".join(sites or []) or "none"
                mistakes.append(f"{where}:sites: {site[:60]!r} is no site; the sites are {known}")
        for severity in its["severities"]:
            if severity not in SEVERITIES:
                mistakes.append(f"{where}:severities: {severity[:60]!r} is none of {', '.join(SEVERITIES)}")
        if not its["targets"] and "targets" not in wrong:
            mistakes.append(f"{where}:targets: is missing; give the names of targets")
        for target in its["targets"]:
            # A target with mistakes of its own is named only there.
            if target not in targets and target != BUS and not any(
                    mistake.startswith(f"alerts:targets:{target}:") for mistake in mistakes):
                mistakes.append(f"{where}:targets: there is no target {target[:60]!r}")
        routes.append(Route(tuple(its["sites"]), tuple(its["severities"]),
                            tuple(target for target in its["targets"] if target in targets)))
    return routes


def _unknown(where: str, data: dict[Any, Any], known: tuple[str, ...], mistakes: list[str]) -> None:
    for key in data:
        if key not in known:
            mistakes.append(f"{where}:{str(key)[:60]}: unknown key; the keys are {', '.join(known)}")


def _number(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _numbers(data: object, bounds: dict[str, tuple[float, float]]) -> bool:
    return isinstance(data, dict) and all(key in bounds and _number(value, *bounds[key]) for key, value in data.items())


def _fits(rule: str, value: Any) -> bool:
    rule = rule.rstrip("!")
    if rule == "bool":
        return type(value) is bool
    if rule == "port":
        return type(value) is int and 0 < value < 65536
    if rule == "seconds":
        return _number(value, 1, 120)
    if rule == "limits":
        return _numbers(value, dict.fromkeys(Limits._fields, (1, 10 ** 6)))
    if rule == "headers":
        return isinstance(value, dict) and all(_line(each) for pair in value.items() for each in pair)
    if rule == "addresses":
        value = [value] if isinstance(value, str) else value
        return isinstance(value, list) and bool(value) and all(_fits("address", each) for each in value)
    if not _line(value):
        return False
    return _OF_LINES[rule](value)


def _line(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 2000 and value.isprintable()


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and " " not in text and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK))


# The rules for texts on one line.
_OF_LINES: dict[str, Callable[[str], bool]] = {
    "text": lambda value: True, "address": lambda value: bool(_MAIL.fullmatch(value)),
    "security": lambda value: value in ("starttls", "tls", "none"), "path": lambda value: value.startswith("/"),
    "protocol": lambda value: value in ("unix", "udp", "tcp", "tls"), "facility": lambda value: value in FACILITIES,
    "url": _is_url}
