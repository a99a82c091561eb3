"""A site's two nodes by their roles now: who is active, and what speaks against moving the active role."""
from __future__ import annotations

from typing import Any, TypedDict

from salt.exceptions import SaltRunnerError

from sites import files
from sites import minions as of_minions


class Pair(TypedDict):
    """What ``gateway.pair`` returns."""

    site: str
    roles: dict[str, str]
    preferred: str
    active: str
    standby: str
    mistakes: list[str]


def pair(opts: dict[str, Any], site: str) -> Pair:
    """The two nodes of a site. The roles are asked of the nodes; nothing is remembered."""
    none: Pair = {"site": "", "roles": {}, "preferred": "", "active": "", "standby": "", "mistakes": []}
    try:
        names = list(files.nodes(opts, site))
    except SaltRunnerError as error:
        return {**none, "mistakes": str(error).splitlines()}
    ids, mistakes = of_minions.of_site(opts, site, names)
    if mistakes:
        return {**none, "site": site, "mistakes": mistakes}
    minions = list(ids.values())
    said = of_minions.ask(opts, minions, "heartbeat.role")
    its = {minion: said.get(minion, "silent") for minion in minions}
    if all(role in ("active", "split") for role in its.values()):
        its = dict.fromkeys(minions, "split")
    of = {role: [minion for minion in minions if its[minion] == role] for role in ("active", "standby")}
    mistakes = [] if sorted(its.values()) == ["active", "standby"] else [
        f"{site}: {minion} is {role}; one node has to be active and the other standby: see `heartbeat.status` of both"
        for minion, role in its.items() if role not in ("active", "standby") or len(of[role]) > 1]
    the_one = {role: found[0] if len(found) == 1 else "" for role, found in of.items()}
    return {"site": site, "roles": its, "preferred": minions[0], "mistakes": mistakes,
            "active": the_one["active"], "standby": the_one["standby"]}
