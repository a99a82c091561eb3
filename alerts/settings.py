"""Checks the master's configuration ``gateway_alerts``, and fills in the defaults."""
from __future__ import annotations

from typing import Any, NamedTuple

from alerts.presence import ROUND_SECONDS

KEYS = ("rank", "other", "presence")
# A shorter round would leave a node no time for its answer, a longer one would not notice a silent node for a day.
MIN_PRESENCE_SECONDS, MAX_PRESENCE_SECONDS = 10, 86_400


class Settings(NamedTuple):
    """The engine's settings. What has a mistake has its default."""

    rank: int | None = None  # 0 or 1 where two masters share the minions
    other: str = ""  # on rank 1: name or address of the other master, with or without a port
    presence: float = ROUND_SECONDS  # seconds between two rounds of asking all nodes whether they answer; 0: no rounds
    mistakes: tuple[str, ...] = ()  # one line each


def read(given: Any) -> Settings:
    """
    Check the configuration. Never raises.

    Args:
        given: the value of ``gateway_alerts``; None when there is none.
    """
    its, wrong = Settings(), []
    if given is not None and not isinstance(given, dict):
        wrong.append("gateway_alerts: must be a mapping")
    given = given if isinstance(given, dict) else {}
    wrong += [f"gateway_alerts:{str(key)[:40]}: is unknown; the keys are {', '.join(KEYS)}" for key in given
              if key not in KEYS]
    rank, other, presence = given.get("rank"), given.get("other") or "", given.get("presence", its.presence)
    if rank is None or isinstance(rank, int) and rank in (0, 1):
        its = its._replace(rank=rank)
    else:
        wrong.append(f"gateway_alerts:rank: {_show(rank)} is neither 0 nor 1; working as the only master")
    if isinstance(other, str):
        its = its._replace(other=other)
    else:
        wrong.append(f"gateway_alerts:other: {_show(other)} is no name or address")
    if its.rank == 1 and not its.other:
        wrong.append("gateway_alerts:other: is missing at rank 1: both masters alert about silent nodes")
    if isinstance(presence, (int, float)) and not isinstance(presence, bool) and (
            presence == 0 or MIN_PRESENCE_SECONDS <= presence <= MAX_PRESENCE_SECONDS):
        its = its._replace(presence=float(presence))
    else:
        wrong.append(f"gateway_alerts:presence: {_show(presence)} is neither 0 nor a number of seconds from "
                     f"{MIN_PRESENCE_SECONDS} to {MAX_PRESENCE_SECONDS}; working with {its.presence:g}")
    return its._replace(mistakes=tuple(wrong))


def _show(value: Any) -> str:
    return f"{value!r:.40}"
