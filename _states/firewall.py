"""
The packet filter of a node.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict

__virtualname__ = "firewall"


def __virtual__() -> str | tuple[bool, str]:
    for function in ("firewall.apply", "commit_confirm.guarded", "lifelines.alive", "resident.hold"):
        if function not in __salt__:
            return False, f"firewall: {function} is missing; run saltutil.sync_modules, see the minion's log"
    return __virtualname__


def applied(name: str, source: str, settings: dict, seconds: int = 60, confirm_with: list[str] | None = None) -> dict:
    """
    The table ``inet gateway`` is loaded as its template says, now and after a reboot (/etc/nftables.conf).

    It is loaded as a whole, and kept only if the Salt master answers a new connection afterwards; otherwise the node
    itself restores the old rules (at once, or by a timer of systemd if this run dies meanwhile). Rules that somebody
    has changed by hand are corrected. On a kernel without the packet filter the state fails; it is never skipped.

    name
        Any text.
    source
        The template (``salt://...``); it gets the result of ``firewall.rules`` as ``rules``.
    settings
        What ``gateway.settings`` returns.
    seconds
        The time after which the node rolls an unconfirmed change back.
    confirm_with
        Without a master: addresses of which one must answer; without any, the default gateway must.

    .. code-block:: yaml

        firewall:
          firewall.applied:
            - source: salt://firewall/files/ruleset.nft.jinja
            - settings: {{ gateway | tojson }}
    """
    comment = "The ruleset is loaded as described."
    ret: dict = {"name": name, "result": True, "changes": {}, "comment": comment}
    try:
        said = "" if __opts__["test"] else __salt__["commit_confirm.settle"]("firewall")
        ruleset = __salt__["firewall.render"](source, settings, __opts__.get("saltenv") or "base")
        if __opts__["test"] and not __salt__["cmd.has_exec"]("nft"):
            # a bare host: in a real run an earlier state installs nft
            return ret | {"result": None, "changes": {"inet gateway": {"old": "", "new": ruleset}},
                          "comment": "The ruleset would be loaded, once nftables is installed."}
        todo = __salt__["firewall.plan"](ruleset)
        if not todo["changes"]:
            return ret | {"comment": " ".join(filter(None, [said, comment]))}
        if __opts__["test"]:
            return ret | {"result": None, "changes": todo["changes"],
                          "comment": "The ruleset would be loaded, and rolled back if the master were not reached."}
        done = __salt__["firewall.apply"](ruleset, seconds, confirm_with)
    except (CommandExecutionError, OSError) as err:     # a full disk: one line, too
        return ret | {"result": False, "comment": f"The firewall was not changed: {err}"}
    if done["problem"]:
        return ret | {"result": False, "changes": done["changes"], "comment": (
            f"The firewall change was undone: {done['problem']}. "
            "Check what the new rules say about the way to the master; see docs/network.md.")}
    return ret | {"changes": done["changes"],
                  "comment": " ".join(filter(None, [said, "The ruleset is loaded and kept; the master is reached."]))}
