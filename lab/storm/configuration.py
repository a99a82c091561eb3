"""Makes the storm's site, and sees whether a storm has cost a node any of its configuration."""
from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import yaml

from lab import observe
from lab.bench import clients
from lab.guest import Guest
from lab.laboratory import Lab
from lab.master import MASTER_TREE
from lab.results import apply

ALERTS_FILE = MASTER_TREE / "pillar/alerts.sls"
ALERTS: dict[str, Any] = {"targets": {}, "routes": [], "flapping": {"times": 1000}}
READ_ANEW_SECONDS = 6.0          # the engine takes a changed alerts.sls within 5 s (docs/monitoring.md)
# hwclock(8) writes the time of its last setting there, at each shutdown
_DIGESTS = "find /etc -type f ! -name adjtime -print0 | sort -z | xargs -0 sha256sum"


class Unsuitable(Exception):
    """The pair can not be set up, or can not be asked about its configuration."""


@dataclass(frozen=True)
class Configuration:
    """`files`: by node the digest of each file in /etc. `same`: what must be the same on both nodes, by node.

    `changes`: by minion the states that `state.apply test=True` would change. `failed`: those that fail.
    """

    files: dict[str, dict[str, str]]
    same: dict[str, Any]
    changes: dict[str, list[str]]
    failed: dict[str, list[str]]


def write_site(lab: Lab, profile: str, chosen: list[clients.Client]) -> None:
    """Write the site of the storm into the master's pillar: its profile, its clients, no peer that is not there."""
    its = lab.sites[0]
    place = MASTER_TREE / f"pillar/sites/{its.name}.sls"
    data = site(yaml.safe_load(place.read_text(encoding="utf-8")), profile, clients.connections(lab, chosen))
    place.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def site(data: dict[str, Any], profile: str, connections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A site file's content with this profile, and of its connections the roadwarriors' and these."""
    gateway = data["gateway"]
    kept = {name: each for name, each in gateway["connections"].items() if each["kind"] == "roadwarrior"}
    for name, each in connections.items():
        kept[name] = {**kept.get(name, {}), **{key: value for key, value in each.items() if value}}
    return {**data, "gateway": {**gateway, "heartbeat": {**gateway.get("heartbeat", {}), "profile": profile},
                                "connections": kept}}


def write_alerts() -> None:
    """All alerts go to the master's bus only, and each is one of its own: in a storm everything comes and goes."""
    ALERTS_FILE.touch(mode=0o600)
    ALERTS_FILE.write_text(yaml.safe_dump({"alerts": ALERTS}), encoding="utf-8")
    ALERTS_FILE.chmod(0o600)
    time.sleep(READ_ANEW_SECONDS)


def read(lab: Lab) -> Configuration:
    """The configuration of the site's nodes now. Raises Unsuitable when a node does not answer."""
    site = lab.sites[0]
    guests = lab.gateways(site.name)
    said = lab.master.ask([guest.host.minion_id for guest in guests], "drift.fingerprints")
    if len(said) != len(guests) or not all(isinstance(each, dict) and each for each in said.values()):
        raise Unsuitable(f"drift.fingerprints: not every node answered as it should: {str(said)[:500]}")
    looked = apply(lab, [guest.host.minion_id for guest in guests], "test=True", "queue=True")
    return Configuration({guest.host.name: _files(guest) for guest in guests}, said,
                         {minion: sorted(states) for minion, states in looked.changed.items()}, looked.failed)


def lost(before: Configuration, after: Configuration) -> list[str]:
    """What is different after a storm, in words."""
    found = []
    for node, files in before.files.items():
        now = after.files[node]
        found += [f"{node}: {path} is gone" for path in sorted(files.keys() - now.keys())]
        found += [f"{node}: {path} is new" for path in sorted(now.keys() - files.keys())]
        found += [f"{node}: {path} was changed" for path in sorted(files.keys() & now.keys())
                  if files[path] != now[path]]
    first, *others = after.same.items()
    for minion, each in others:
        if each != first[1]:
            keys = each.keys() ^ first[1].keys() | {key for key in each.keys() & first[1].keys()
                                                    if each[key] != first[1][key]}
            found.append(f"{first[0]} and {minion} are not the same: {', '.join(sorted(keys))}")
    for minion, states in after.changes.items():
        new = sorted(set(states) - set(before.changes.get(minion, ())))
        if new:
            found.append(f"{minion}: state.apply would change {', '.join(new)}")
    for minion, comments in after.failed.items():
        if minion not in before.failed:
            found.append(f"{minion}: state.apply test=True fails: {'; '.join(comments)}")
    return found


def mark_compared(lab: Lab, guest: Guest) -> None:
    """Say that a node that has booted was compared with the master, as the engine gateway_resync does when it runs.

    Otherwise `not_compared` is open from its first boot to the end, and the incident that it joins never ends.
    """
    observe.call(lab, guest, "drift.compared", "null")


def _files(guest: Guest) -> dict[str, str]:
    said = guest.run(["sh", "-c", _DIGESTS], timeout=120, check=True).stdout
    return {path: digest for digest, _, path in (line.partition("  ") for line in said.splitlines())}
