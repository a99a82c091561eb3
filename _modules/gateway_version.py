"""
The version of the tree that this node's modules came from
==========================================================

The master's file server syncs this file together with all other modules, so its number is the number of what is
installed here. ``salt-run gateway.version`` compares it with the master's tree. ``VERSION`` at the tree's root and
``pyproject.toml`` have the same number (``tests/unit/modules/test_gateway_version.py``).
"""
from __future__ import annotations

VERSION = "1.0.0"


def installed() -> str:
    """
    The version of the tree that this node's modules came from: three numbers, as ``1.0.0``.

    CLI Example:

    .. code-block:: bash

        salt '*.winterthur' gateway_version.installed
    """
    return VERSION
