"""
What the master adds to a gateway's pillar
==========================================

Each node of a site in pillar gets its own values, and any other minion gets nothing. The rule on the minion's id is the
same as in ``pillar/top.sls``.

``gateway_event_key``
    The key with which it signs its events (``alerts/authentic.py``).
``gateway_inputs``
    The digest of everything that a node is made of (``resync/inputs.py``). A node records it when it has applied all of
    it (``drift.inputs``), so the master can tell at any later time whether that node missed a change (docs/resync.md).
    It discloses nothing: secrets go into it encrypted.
``gateway_tree``
    The part of it that is the same for all sites: the file tree, and the pillar that all sites have. A node that was
    made of the same tree has its modules already.

Master's configuration (``etc/salt/master.d/gateway.conf``)::

    ext_pillar:
      - gateway_node: {}
"""
from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

# At the end of the path, so that nothing in the tree hides an installed package.
sys.path += [root for root in [str(Path(__file__).resolve().parent.parent)] if root not in sys.path]

from alerts import authentic  # noqa: E402
from resync import inputs  # noqa: E402

__virtualname__ = "gateway_node"


def __virtual__() -> str:
    return __virtualname__


def ext_pillar(minion_id: str, pillar: dict, *_args: object, **_kwargs: object) -> dict:
    """
    What is added to a minion's pillar.

    Args:
        minion_id: the minion's id, which the master has authenticated.
        pillar: what the minion has so far; not used.

    Returns:
        ``gateway_event_key``, ``gateway_inputs`` and ``gateway_tree``, hexadecimal texts; nothing for a minion that is
        no node of a site.
    """
    sites, looks = _of(*(tuple(__opts__[name].get("base", [])) for name in ("file_roots", "pillar_roots")))
    site = sites.sender(minion_id)
    if not site:
        return {}
    whole, tree = inputs.of_site(looks, site, time.time())
    return {"gateway_event_key": authentic.key_of(authentic.load_secret(__opts__["pki_dir"]), minion_id),
            "gateway_inputs": whole, "gateway_tree": tree}


@functools.cache
def _of(file_roots: tuple[str, ...], pillar_roots: tuple[str, ...]) -> tuple[authentic.Sites, inputs.Inputs]:
    """One of each for the life of the process: a file is read again only when it has changed."""
    return authentic.Sites(list(pillar_roots)), inputs.Inputs(file_roots, pillar_roots)
