"""
Resync, for people
==================

Shows what the engine ``gateway_resync`` does and waits for, and what a roll-out would do. Stops the engine, lets it
continue, or has a site rolled out now. docs/resync.md explains all of it.
"""
from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import salt.utils.event

# Trap: Salt's loader has this file's own folder on the path, where runners are called like the packages. So the tree
# comes first in the path, and only for these imports.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from alerts import authentic
    from resync import bus, decide, files, work
    from resync.inputs import Inputs
finally:
    del sys.path[0]

__virtualname__ = "resync"

_ORDER_SECONDS = 10.0  # for the engine to confirm an order


def __virtual__() -> str:
    return __virtualname__


def status(site: str | None = None) -> dict[str, Any]:
    """
    What the engine does, and what waits for what.

    Args:
        site: also ask this site's nodes whether they are up to date.

    Returns:
        ``engine``: ``running``, ``disabled``, or ``not running``; ``dry_run``; ``stopped``: sites, or ``all``, that a
        person has stopped; ``halted_by``: the site whose failure stopped the roll-out to all sites; ``running``,
        ``queue``, by site; ``failed``, ``refused``: sites; ``drift``: what is to be repaired; ``nodes``, with a site:
        by minion ``up to date``, ``behind``, ``never applied`` or ``silent``, and whether it was compared since its
        boot.

    CLI Example:

    .. code-block:: bash

        salt-run resync.status
        salt-run resync.status winterthur
    """
    result: dict[str, Any]
    found = files.read_status(__opts__["cachedir"])
    age = found.pop("at", None)
    if not found.pop("enabled", True):
        result = {"engine": "disabled"} | ({"mistakes": found["mistakes"]} if found.get("mistakes") else {})
    elif age is None or age > files.STALE_SECONDS:
        result = {"engine": "not running"}
    else:
        for key in ("mistakes", "rollouts", "last_rollout"):      # the last two are figures (docs/metrics.md)
            found.pop(key, None)
        result = {"engine": "running", **found}
    if site is not None:
        wrong = _wrong(site)
        if wrong:
            return wrong
        result["nodes"] = _nodes(site)
    return _result(result, result["engine"] == "not running")


def dry_run(site: str | None = None) -> dict[str, Any]:
    """
    What a roll-out would do, asked of the nodes with ``test=True``. Nothing is changed.

    Args:
        site: the site's name; left out, all sites.

    Returns:
        ``sites``, by site: ``refused``, the site's mistakes; or ``first``, by minion in the order of a roll-out its
        ``role``, the states that ``would_change`` and those that ``would_fail``; and ``waits_for``, when the pair is
        not one active and one standby node.

    CLI Example:

    .. code-block:: bash

        salt-run resync.dry_run winterthur
    """
    if site is not None and (wrong := _wrong(site)):
        return wrong
    hands = work.Hands(dict(__opts__))
    found = {name: hands.look(name) for name in ([site] if site else hands.sites.names())}
    return _result({"sites": found}, any("refused" in each or any(node["would_fail"] for node in each["first"].values())
                              for each in found.values()))


def now(site: str) -> dict[str, Any]:
    """
    Roll a site out now: also when nothing has changed, when it failed before, or while everything is stopped.

    Args:
        site: the site's name.

    Returns:
        ``done`` when the engine has taken the order; otherwise ``mistakes`` and ``retcode`` 1.

    CLI Example:

    .. code-block:: bash

        salt-run resync.now winterthur
    """
    return _wrong(site) or _order("now", site)


def stop(site: str = "") -> dict[str, Any]:
    """
    Start nothing more, at one site or at all. A roll-out that runs is finished. Lasts until :func:`go`, also over a
    restart of the master.

    Args:
        site: the site's name; left out, all sites.

    Returns:
        As :func:`now`.

    CLI Example:

    .. code-block:: bash

        salt-run resync.stop
    """
    return (_wrong(site) if site else None) or _order("stop", site)


def go(site: str = "") -> dict[str, Any]:
    """
    Continue after :func:`stop` or after a failed roll-out. What failed is tried again.

    Args:
        site: the site's name; left out, all sites. A stop of all sites is ended only by a `go` for all.

    Returns:
        As :func:`now`; and ``held``, with ``retcode`` 1, when something else still holds the site: a stop of all sites,
        or a change of the tree that failed at another site.

    CLI Example:

    .. code-block:: bash

        salt-run resync.go
    """
    return (_wrong(site) if site else None) or _order("go", site)


def compare(site: str) -> dict[str, Any]:
    """
    Compare the two nodes of a site with each other: files, certificates, keys, by their fingerprints.

    Args:
        site: the site's name.

    Returns:
        ``differences``, one line each; ``retcode`` 1 when there are any.

    CLI Example:

    .. code-block:: bash

        salt-run resync.compare winterthur
    """
    if wrong := _wrong(site):
        return wrong
    lines = work.Hands(dict(__opts__)).differences(site)
    if lines is None:
        return _result({"mistakes": [f"{site}: not both of its nodes answer"]}, True)
    return _result({"differences": lines}, bool(lines))


def _nodes(site: str) -> dict[str, str]:
    roots = (__opts__[name].get("base", []) for name in ("file_roots", "pillar_roots"))
    number = Inputs(*roots).look([site]).of(site)
    said = work.Hands(dict(__opts__)).told([site])["nodes"].get(site, {})
    words = {}
    for minion, its in said.items():
        if its is None:
            words[minion] = "silent"
        else:
            words[minion] = ("never applied" if not its[0] else "up to date" if its[0] == number else "behind") + (
                "" if its[1] else ", not compared since its boot")
    return words


def _order(name: str, site: str) -> dict[str, Any]:
    """Send an order and wait until the engine has taken it: its status then counts one order more."""
    before = files.read_status(__opts__["cachedir"])
    if not before or before["at"] > files.STALE_SECONDS or not before.get("enabled"):
        return _result({"mistakes": ["the engine gateway_resync does not run on this master: is it in `engines`, and "
                                     "`gateway_resync: {enabled: true}`? See the master's log"]}, True)
    secret = authentic.load_secret(__opts__["pki_dir"])
    with salt.utils.event.get_master_event(__opts__, __opts__["sock_dir"], listen=False) as event:
        event.fire_event(bus.order(name, site, secret, os.urandom(8).hex(), 1), bus.ORDER_TAG)
    heard = before.get("orders", 0)
    deadline = time.monotonic() + _ORDER_SECONDS
    while time.monotonic() < deadline:
        found = files.read_status(__opts__["cachedir"])
        if found.get("orders", 0) > heard:
            held = decide.still_held(cast(decide.ResyncStatus, found), site) if name == "go" and site else ""
            return _result({"done": f"{name} {site or 'all sites'}", **({"held": held} if held else {})}, bool(held))
        time.sleep(0.2)
    return _result({"mistakes": ["the engine gateway_resync did not answer; see the master's log"]}, True)


def _wrong(site: object) -> dict[str, Any] | None:
    """The result for a name that is no site of this master; None for a site."""
    known = authentic.Sites(__opts__["pillar_roots"].get("base", [])).names()
    if authentic.is_site_name(site) and site in known:
        return None
    return _result({"mistakes": [f"{str(site)[:60]!r}: is no site; give one of {', '.join(known)}"]}, True)


def _result(result: dict[str, Any], wrong: bool) -> dict[str, Any]:
    """Adds the return code, which salt-run and the job's event use."""
    __context__["retcode"] = 1 if wrong else 0
    return {**result, "retcode": __context__["retcode"]}
