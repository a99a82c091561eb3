"""
The IPsec daemon's configuration file, and a running daemon that follows it and keeps every unchanged connection.

.. code-block:: yaml

    /etc/ipsec.conf:
      ipsec.configured:
        - source: salt://openswan/files/ipsec.conf.jinja
        - settings: {{ salt['gateway.settings']() | json }}

    ipsec:
      ipsec.current:
        - addresses: [192.0.2.10, 198.51.100.10]
        - certificates: [gateway]
        - pillar: gateway_secrets:certificates
        - require: [{service: ipsec}]

See the execution module :py:mod:`ipsec <modules.ipsec>`.
"""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

# The parser warns about a value that it does not understand, goes on without it and exits with 0. So the file is
# refused if the parser prints anything. Salt itself gives a check_cmd no limit; timeout(1) ends it with its children.
PARSER = (
    "/usr/bin/timeout --kill-after=5 60 "
    "sh -c 'said=$(ipsec addconn --checkconfig --config $0 2>&1) && test -z \"$said\" "
    "|| { echo \"$said\"; exit 1; }'"
)


def __virtual__() -> bool | tuple[bool, str]:
    if "ipsec.pending" not in __salt__:
        return False, "ipsec: the execution module ipsec could not be loaded"
    return True


def configured(name: str, source: str, settings: dict[str, Any]) -> dict[str, Any]:
    """
    The daemon's configuration file fits this node's settings and the installed version.

    The daemon's own parsers check it first; a file that they refuse never replaces the working one.

    name
        Path of the file.
    source
        Its template, which gets ``site`` and ``sections``.
    settings
        What ``gateway.settings`` returns.
    """
    try:
        sections = __salt__["ipsec.sections"](settings)
        problems = __salt__["ipsec.problems"](sections)
    except CommandExecutionError as err:
        problems = [str(err)]
    if problems:
        return {"name": name, "result": False, "changes": {}, "comment": "\n".join(problems)}
    return __states__["file.managed"](name, source=source, template="jinja", mode="0644", check_cmd=PARSER,
                                      context={"site": settings["site"], "sections": sections})


def admits(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """
    Each connection of roadwarriors says whom it lets in. One that does not is no failure but a warning: it works.

    name
        Any text.
    settings
        What ``gateway.settings`` returns.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {},
                           "comment": "It is said for each connection whom it lets in"}
    try:
        found = __salt__["ipsec.open_connections"](settings)
    except CommandExecutionError as err:
        return ret | {"result": False, "comment": str(err)}
    return ret | {"comment": found[0], "warnings": found} if found else ret


def current(name: str, addresses: list[str], certificates: list[str] | None = None,
            pillar: str = "gateway_secrets:certificates") -> dict[str, Any]:
    """
    The running daemon has the connections of its file. Changed ones are loaded again, the others keep their tunnels.

    If another authority has issued the gateway's certificate, the connections that ask peers for certificates of the
    gateway's own authority are loaded again too.

    name
        The daemon; any text.
    addresses
        The virtual IPs. A changed option of the daemon itself needs a restart, which ends every tunnel. So the daemon
        is restarted only where none of these addresses is held: on the standby. On the active node the comment says
        what is pending, and the first run after a switch-over does it.
    certificates
        Nicknames of the certificates that the connections use.
    pillar
        Path of the mapping that has them. It is read with `test=True`, as the certificates are not installed then.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "The daemon has what its file says"}
    try:
        if not __salt__["ipsec.running"]():
            return _not_running(ret)
        pending = __salt__["ipsec.pending"](_reissued(certificates or [], pillar) if __opts__["test"] else [])
        held = [address for address in addresses if address in _held()]
        if pending["restart"] and not held:
            return _restarted(ret, pending)
        if pending["restart"]:
            ret["comment"] = (f"{', '.join(pending['restart'])} of {name} takes effect at its next start; this node "
                              f"holds {held[0]} and would drop its tunnels, so switch over first and apply again")
        if any(pending[key] for key in ("add", "replace", "remove")):
            _reloaded(ret, pending)
    except CommandExecutionError as err:
        ret.update(result=False, comment=str(err))
    return ret


def expelled(name: str, pillar: str) -> dict[str, Any]:
    """
    No person whose certificate was revoked has a tunnel.

    name
        The daemon; any text.
    pillar
        Path of the list of revoked people in pillar; see :py:func:`ipsec.expelled <modules.ipsec.expelled>`.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "No revoked person has a tunnel"}
    try:
        found = __salt__["ipsec.expelled" if __opts__["test"] else "ipsec.expel"](pillar)
    except CommandExecutionError as err:
        return ret | {"result": False, "comment": str(err)}
    if found:
        people = sorted({each["peer_id"] for each in found})
        ret["changes"] = {"tunnels": {"old": people, "new": []}}
        if __opts__["test"]:
            return ret | {"result": None, "comment": f"Tunnels of {', '.join(people)} would be ended"}
        ret["comment"] = f"Tunnels of {', '.join(people)} were ended"
    return ret


def _reissued(certificates: list[str], pillar: str) -> list[str]:
    """The nicknames of certificates that will be replaced by one of another authority."""
    found = []
    for nickname in certificates:
        state = __salt__["certs.state_of"](nickname, f"{pillar}:{nickname}")
        if state["issuer"] not in ("", state["wanted"]["issuer"]):
            found.append(nickname)
    return found


def _reloaded(ret: dict[str, Any], pending: dict[str, Any]) -> None:
    if __opts__["test"]:
        done = {key: pending[key] for key in ("add", "replace", "remove")}
        ret.update(result=None, comment="Changed connections would be loaded again, the others would stay")
    else:
        done = __salt__["ipsec.reload"]()
        refused = done.pop("refused")
        if refused and not pending["restart"]:
            raise CommandExecutionError(f"ipsec: the daemon refused {', '.join(refused)}; "
                                        "`journalctl -u ipsec` says why")
        if not pending["restart"]:
            ret["comment"] = "Changed connections were loaded again, the others stayed"
    if pending["authority"]:
        ret["comment"] += (f"; another authority has issued the gateway's certificate, and "
                           f"{', '.join(pending['authority'])} ask peers for that authority's certificates")
    changed = {key: names for key, names in done.items() if names}
    if changed:
        ret["changes"] = {"connections": changed}


def _not_running(ret: dict[str, Any]) -> dict[str, Any]:
    if __opts__["test"]:
        return ret | {"result": None, "comment": "The daemon would be started first"}
    return ret | {"result": False, "comment": "The daemon does not run, or does not answer; see `journalctl -u ipsec`"}


def _held() -> list[str]:
    return __salt__["network.ip_addrs"](include_loopback=True) + __salt__["network.ip_addrs6"](include_loopback=True)


def _restarted(ret: dict[str, Any], pending: dict[str, Any]) -> dict[str, Any]:
    ret["changes"] = {"daemon": {"old": "started with other options", "new": ", ".join(pending["restart"])}}
    if __opts__["test"]:
        return ret | {"result": None, "comment": "The daemon would be restarted; this node holds no virtual address"}
    if not __salt__["ipsec.restart"]():
        raise CommandExecutionError("ipsec: the daemon could not be restarted; see `journalctl -u ipsec`")
    return ret | {"comment": "The daemon was restarted; this node holds no virtual address"}
