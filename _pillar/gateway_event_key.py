"""
The key with which a gateway signs its events
=============================================

``gateway_event_key`` for the nodes of the sites in pillar, each its own, and nothing for any other minion: the same
rule on the minion's id as in ``pillar/top.sls``. How it is made: ``alerts/authentic.py``.

Master's configuration (``etc/salt/master.d/gateway.conf``)::

    ext_pillar:
      - gateway_event_key: {}
"""
from __future__ import annotations

import functools
import sys
from pathlib import Path

# At the end: nothing of the tree shadows what is installed.
sys.path += [root for root in [str(Path(__file__).resolve().parent.parent)] if root not in sys.path]

from alerts import authentic  # noqa: E402

__virtualname__ = "gateway_event_key"


def __virtual__() -> str:
    return __virtualname__


def ext_pillar(minion_id: str, pillar: dict, *_args: object, **_kwargs: object) -> dict:
    """
    What is laid over a minion's pillar.

    Args:
        minion_id: authenticated by the master.
        pillar: what it has so far; not looked at.

    Returns:
        ``gateway_event_key``: hexadecimal text; nothing for a minion that is no node of a site.
    """
    if not _sites(*__opts__["pillar_roots"].get("base", [])).sender(minion_id):
        return {}
    return {"gateway_event_key": authentic.key_of(authentic.load_secret(__opts__["pki_dir"]), minion_id)}


@functools.cache
def _sites(*roots: str) -> authentic.Sites:
    """One for the life of the process, so that a site's file is read when it has changed."""
    return authentic.Sites(list(roots))
