"""
Reports when something that Salt set up on this node is changed by hand: files, sysctls, the firewall, services.

.. code-block:: yaml

    beacons:
      drift: []

It never waits: see the execution module :py:mod:`drift <modules.drift>`.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

__virtualname__ = "drift"

CONDITIONS = {
    "file_changed": "warning: a file, or a certificate or key of the IPsec daemon, is not as Salt wrote it",
    "sysctl_changed": "warning: a kernel parameter has another value than Salt set",
    "firewall_changed": "warning: the loaded rules are not those that Salt loaded",
    "service_changed": "warning: a service was stopped, started, or switched on or off for the next boot",
    "not_compared": "info: this node was not compared with the master since its boot",
}


def __virtual__() -> str | tuple[bool, str]:
    for function in ("drift.glance", "drift_things.look", "gateway_events.changed"):
        if function not in __salt__:
            return False, f"drift: {function} is missing; run saltutil.sync_modules"
    return __virtualname__


def validate(config: object) -> tuple[bool, str]:
    """There is nothing to configure."""
    return __salt__["gateway_events.validate_config"](config)


def beacon(config: list) -> list[dict]:
    """The events since the last call, signed."""
    if not __salt__["gateway_events.watched"]():
        return []
    found = __salt__["drift.glance"]()
    if found is None:
        return []
    return __salt__["gateway_events.changed"]("drift", found["conditions"], unknown=found["unknown"])
