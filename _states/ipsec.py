"""
The IPsec daemon has what its configuration file says, without dropping what did not change.

.. code-block:: yaml

    ipsec:
      ipsec.current:
        - addresses: [192.0.2.10, 198.51.100.10]
        - require: [{service: ipsec}]

See the execution module :py:mod:`ipsec <modules.ipsec>`.
"""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError


def __virtual__() -> bool | tuple[bool, str]:
    if "ipsec.pending" not in __salt__:
        return False, "ipsec: the execution module ipsec could not be loaded"
    return True


def current(name: str, addresses: list[str]) -> dict[str, Any]:
    """
    The running daemon has the connections of its file; changed ones are loaded again, the others keep their tunnels.

    name
        The daemon, for the record.
    addresses
        The virtual addresses. An option of the daemon itself takes a restart, which costs every tunnel, so the
        daemon is restarted only where none of these addresses is held: on the standby. On the active node the
        comment says what is pending, and the first run after a switch-over does it.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "The daemon has what its file says"}
    try:
        if not __salt__["ipsec.running"]():
            return _not_running(ret)
        pending = __salt__["ipsec.pending"]()
        held = [address for address in addresses if address in _held()]
        if pending["restart"] and not held:
            return _restarted(ret, pending)
        changes = {key: pending[key] for key in ("add", "replace", "remove") if pending[key]}
        if pending["restart"]:
            ret["comment"] = (f"{', '.join(pending['restart'])} of {name} take effect at its next start; this node holds "
                              f"{held[0]} and would drop its tunnels, so switch over first and apply again")
        if changes:
            ret["changes"] = {"connections": changes}
            if __opts__["test"]:
                ret.update(result=None, comment="Connections would be loaded again")
                return ret
            __salt__["ipsec.reload"]()
            if not pending["restart"]:
                ret["comment"] = "Changed connections were loaded again, the others were left alone"
    except CommandExecutionError as err:
        ret.update(result=False, comment=str(err))
    return ret


def _not_running(ret: dict[str, Any]) -> dict[str, Any]:
    if __opts__["test"]:
        return ret | {"result": None, "comment": "The daemon would be started first"}
    return ret | {"result": False, "comment": "The daemon does not run; see `journalctl -u ipsec`"}


def _held() -> list[str]:
    return __salt__["network.ip_addrs"](include_loopback=True) + __salt__["network.ip_addrs6"](include_loopback=True)


def _restarted(ret: dict[str, Any], pending: dict[str, Any]) -> dict[str, Any]:
    ret["changes"] = {"daemon": {"old": "started with other options", "new": ", ".join(pending["restart"])}}
    if __opts__["test"]:
        return ret | {"result": None, "comment": "The daemon would be restarted; this node holds no virtual address"}
    if not __salt__["ipsec.restart"]():
        raise CommandExecutionError("ipsec: the daemon could not be restarted; see `journalctl -u ipsec`")
    return ret | {"comment": "The daemon was restarted; this node holds no virtual address"}
