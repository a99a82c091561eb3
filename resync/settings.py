"""Checks the master's configuration ``gateway_resync``, and fills in the defaults."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from alerts.authentic import is_site_name

QUIET_SECONDS = 1.5  # without a further change, before a change is rolled out: an editor or a git pull may be half done
DEFAULTS: dict[str, Any] = {"enabled": True, "dry_run": False, "first": [], "parallel": 4,
                            "quiet": QUIET_SECONDS, "without": [], "rank": 0, "other": ""}
# The formulas of the tree. The engine applies one of them to repair what was changed by hand.
FORMULAS = ("kernel", "bonding", "firewall", "openswan", "heartbeat", "logging", "time", "sshd", "services",
            "metrics")


class Config(NamedTuple):
    """What the decisions have to know of it."""
    dry_run: bool = False
    first: tuple[str, ...] = ()
    parallel: int = 4
    quiet: float = QUIET_SECONDS
    after: tuple[str, ...] = ()  # addresses of the masters that come before this one (rank 1)
    without: tuple[str, ...] = ()
    formulas: tuple[str, ...] = ()  # that exist in the tree


class Settings(NamedTuple):
    """The engine's settings. `mistakes`, one line each: with any, the engine does nothing."""

    enabled: bool
    decide: Config
    mistakes: tuple[str, ...] = ()


def read(given: Any) -> Settings:
    """
    Check the configuration. Never raises.

    Args:
        given: the value of ``gateway_resync``; None when there is none.
    """
    wrong: list[str] = []
    given = {} if given is None else given
    if not isinstance(given, dict):
        wrong.append("must be a mapping")
        given = {}
    known = ", ".join(DEFAULTS)
    wrong += [f"{str(key)[:40]}: is unknown; the keys are {known}" for key in given if key not in DEFAULTS]
    its = DEFAULTS | {key: value for key, value in given.items() if key in DEFAULTS}
    for key in ("enabled", "dry_run"):
        if not isinstance(its[key], bool):
            wrong.append(f"{key}: {_show(its[key])} is neither true nor false")
    wrong += _number("parallel", its["parallel"], 1, 100)
    wrong += _number("quiet", its["quiet"], 1.2, 600, whole=False)
    wrong += _number("rank", its["rank"], 0, 1)
    for key in ("first", "without"):
        its[key] = [its[key]] if isinstance(its[key], str) else its[key]
        if not isinstance(its[key], list) or not all(map(is_site_name, its[key])):
            wrong.append(f"{key}: {_show(its[key])} is no list of sites")
    if not isinstance(its["other"], str):
        wrong.append(f"other: {_show(its['other'])} is no name or address")
    elif its["rank"] == 1 and not its["other"]:
        wrong.append("other: is missing; rank 1 leaves everything to that master while the nodes reach it")
    if wrong:
        return Settings(False, Config(), tuple(f"gateway_resync: {line}" for line in wrong))
    return Settings(its["enabled"], Config(
        its["dry_run"], tuple(its["first"]), its["parallel"], float(its["quiet"]),
        (its["other"],) if its["rank"] == 1 else (), tuple(its["without"]), FORMULAS))


def _number(key: str, value: Any, low: float, high: float, whole: bool = True) -> Iterable[str]:
    if (not isinstance(value, (int, float)) or isinstance(value, bool) or whole and not isinstance(value, int)
            or not low <= value <= high):
        yield f"{key}: {_show(value)} is not between {low:g} and {high:g}"


def _show(value: Any) -> str:
    return f"{value!r:.40}"
