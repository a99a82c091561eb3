"""
The beacons of the running minion
=================================

A minion starts the beacons that its pillar names, and they use the pillar that the minion holds in memory. A state run
compiles a pillar of its own and does not change that one. Without this state the beacons would not start, or would
watch the site as it was before.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict

__virtualname__ = "gateway_events"


def __virtual__() -> str | tuple[bool, str]:
    if "gateway_events.watched_now" not in __salt__:
        return False, "gateway_events: the execution module of that name is missing; run saltutil.sync_all"
    return __virtualname__


def watched(name: str, timeout: float = 30) -> dict:
    """
    The running minion's beacons use the pillar of this run.

    name
        Any text.
    timeout
        How long the minion may take to fetch its pillar, in seconds.

    .. code-block:: yaml

        beacons:
          gateway_events.watched: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the beacons use this pillar"}
    wanted = __salt__["gateway_events.pillar_digest"]()
    before = __salt__["gateway_events.watched_now"]()
    if before == wanted:
        return ret
    changes = {"pillar of the beacons": {"old": before[:12] or "none", "new": wanted[:12]}}
    if __opts__["test"]:
        return ret | {"result": None, "changes": changes,
                      "comment": "the running minion would fetch its pillar for its beacons"}
    __salt__["saltutil.refresh_pillar"](wait=True, timeout=timeout)
    for _ in range(10):
        time.sleep(0.5)     # beacons are called once a second
        if __salt__["gateway_events.watched_now"]() == wanted:
            return ret | {"changes": changes, "comment": "the running minion has fetched its pillar"}
    now = __salt__["gateway_events.watched_now"]()
    if now:
        # `state.apply pillar=...`: a trial pillar is not watched
        return ret | {"comment": "the beacons use the master's pillar, and this run has another one"}
    return ret | {"result": False, "comment": (
        "no beacon has run on this node: does salt-minion run (`systemctl status salt-minion`), what does "
        "/var/log/salt/minion say?")}
