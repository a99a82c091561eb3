"""What the state machine needs of a site's settings."""
from __future__ import annotations

from typing import NamedTuple


class Site(NamedTuple):
    """The settings of one node's group of addresses. Times in seconds."""
    node: str
    peer: str
    preferred: bool
    uplinks: tuple[str, ...] = ()
    ping_nodes: tuple[str, ...] = ()
    deadtime: float = 1.0
    deadping: float = 1.0  # heartbeat takes this long to notice that a ping node does not answer
    failback: bool = False
    failback_delay: float = 300.0
    fence: bool = False
    daemon: bool = True
    compare: bool = False  # after a boot the node is not ready before it was compared with the master
