"""
The bonds of a node, all in one state: they change together, and the master is asked once whether it is still reached.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict

__virtualname__ = "bonding"


def __virtual__() -> str | tuple[bool, str]:
    for function in ("bonding.apply", "commit_confirm.guarded", "lifelines.alive", "resident.hold"):
        if function not in __salt__:
            return False, f"bonding: {function} is missing; run saltutil.sync_modules, see the minion's log"
    return __virtualname__


def applied(name: str, bonds: list[dict], manager: str = "auto", seconds: int = 60,
            confirm_with: list[str] | None = None) -> dict:
    """
    The node's bonds are as described, now and after a reboot.

    Applied live, without restarting anything. Kept only if the Salt master answers a new connection afterwards;
    otherwise the node itself rolls the change back (at once, or by a timer of systemd if this run dies meanwhile).
    Virtual IPs (/32, /128) are never touched.

    name
        Any text.
    bonds
        All bonds of the node, as ``gateway.settings`` has them.
    manager
        What keeps the bonds over a reboot: ``ifupdown``, ``networkd``, or ``auto`` for the one that the node uses.
    seconds
        The time after which the node rolls an unconfirmed change back.
    confirm_with
        Without a master: addresses of which one must answer; without any, the default gateway must.

    .. code-block:: yaml

        bonds:
          bonding.applied:
            - bonds: {{ gateway.bonds | tojson }}
            - seconds: {{ gateway.rollback.seconds }}
    """
    comment = "The bonds are as described."
    ret: dict = {"name": name, "result": True, "changes": {}, "comment": comment}
    names = ", ".join(bond["name"] for bond in bonds)
    try:
        said = "" if __opts__["test"] else __salt__["commit_confirm.settle"]("network")
        todo = __salt__["bonding.plan"](bonds, manager)
        if not todo["changes"]:
            return ret | {"comment": " ".join(filter(None, [said, comment]))}
        if __opts__["test"]:
            comment = (f"{names} would be changed (kept by {todo['manager']}), and rolled back if the master were not "
                       "reached.")
            return ret | {"result": None, "changes": todo["changes"], "comment": comment}
        done = __salt__["bonding.apply"](bonds, manager, seconds, confirm_with)
    except (CommandExecutionError, OSError) as err:     # a full disk: one line, too
        return ret | {"result": False, "comment": f"The network was not changed: {err}"}
    if done["problem"]:
        return ret | {"result": False, "changes": done["changes"], "comment": (
            f"The network change was undone: {done['problem']}. Tried: {', '.join(todo['changes'])}. "
            "Check the slaves' cables and switch ports, the addresses and the gateway; see docs/network.md.")}
    comment = f"{names} changed and kept by {todo['manager']}; the master is reached."
    return ret | {"changes": done["changes"], "comment": " ".join(filter(None, [said, comment]))}
