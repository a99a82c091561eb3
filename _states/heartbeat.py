"""
heartbeat under Salt: apply what can be changed on a running pair, leave the rest to a person
=============================================================================================

No state here moves the addresses, except ``heartbeat.role`` with ``move: True``. Where a change would move them, the
state leaves it out and says which commands a person must give.
"""
from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __opts__: dict
    __salt__: dict[str, Callable]

CHECK = "/usr/local/sbin/heartbeat-check"
_CHECK_SECONDS = 60


def __virtual__() -> str | tuple[bool, str]:
    if "heartbeat.status" in __salt__:
        return "heartbeat"
    return False, "heartbeat: the execution module heartbeat is missing"


def way(name: str, port: int = 694) -> dict:
    """
    Whether ``name`` may decide on this node from now on. The decider never changes under a running heartbeat.
    heartbeat's scripts know of no agent and never get a role beside one, so this state fails where the other node's
    agent still runs.

    name
        ``agent`` or ``scripts``.
    port
        heartbeat's UDP port, to listen for the other node's agent.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    there = __salt__["heartbeat.way"]()
    if there in ("", name):
        return ret | {"comment": f"decided by: {name}"}
    # Towards the agent one node after the other will do: a node with the agent stays standby beside one without.
    # Towards the scripts both must stop: they would wait for the other node's scripts for ever, without a role.
    wait = {"agent": "on the standby first, then on the other node: `systemctl stop heartbeat`, then apply this there",
            "scripts": "`systemctl stop heartbeat` on both nodes, then apply this on both"}[name]
    if __salt__["heartbeat.running"]():
        return ret | {"result": False, "comment": f"heartbeat runs here and is decided by: {there}, not yet by: "
                                                  f"{name}; {wait} (docs/takeover.md)"}
    if name == "scripts":
        try:
            heard = __salt__["heartbeat.hears_agent"](port)
        except CommandExecutionError as err:
            return ret | {"result": False, "comment": str(err)}
        if heard:
            return ret | {"result": False, "comment": f"the other node's role agent is still at work; {wait}"}
    return ret | {"comment": f"decided by: {name} from now on, {there} before"}


def haresources(name: str, contents: str) -> dict:
    """
    The file haresources. It is written at once if the resource's owner stays the same: heartbeat's scripts read the
    file each time, so no reload is necessary. A new owner waits until heartbeat is stopped on this node, because a
    running heartbeat would no longer find the resource on takeover.

    name
        The path, ``/etc/ha.d/haresources``.
    contents
        Its text, from ``heartbeat.haresources``.
    """
    def owner(text: str) -> list[str]:
        return [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]

    old = _read(name)
    waits = ""
    if old and owner(old) != owner(contents) and __salt__["heartbeat.running"]():
        waits = (f"the preferred node changes from {', '.join(owner(old))} to {', '.join(owner(contents))}, which "
                 f"needs heartbeat stopped on both: run `systemctl stop heartbeat` on both, then apply this there")
    return _placed(name, old, contents, 0o644, waits)


def authkeys(name: str, key_pillar: str, method: str, peer: str) -> dict:
    """
    The file authkeys, mode 0600. A node accepts only messages signed with its own key (heartbeat 3.0.6 reads several
    keys and still accepts the active one only). A new key on one of two living nodes would make both active, so it
    waits until heartbeat is stopped on this node or on the other.

    name
        The path, ``/etc/ha.d/authkeys``.
    key_pillar
        The pillar key under which the signing key is stored. The signing key is never shown.
    method
        ``sha1`` or ``md5``.
    peer
        The other node's name.
    """
    key = __salt__["pillar.get"](key_pillar, None, unmask=True)
    if not key:
        return {"name": name, "result": False, "changes": {},
                "comment": f"no {key_pillar} in pillar; write it into the site's secrets on the master"}
    old, new = _read(name), f"auth 1\n1 {method} {key}\n"
    waits = ""
    if old and old != new and __salt__["heartbeat.running"]():
        there = __salt__["heartbeat.status"]()["nodes"].get(peer)
        if there != "dead":
            waits = (f"a new key would make both nodes active while {peer}'s heartbeat is {there or 'not known'}: on "
                     f"the standby run `systemctl stop heartbeat`, apply this state on the active node, then on the "
                     f"standby")
    return _placed(name, old, new, 0o600, waits)


def current(name: str) -> dict:
    """
    The running heartbeat and its agent have read the present state of their files. If not, this state makes them read
    what they can read without moving the addresses; the rest waits. A heartbeat that does not run is left alone.

    name
        Any text, for instance ``heartbeat``.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "heartbeat has read its files"}
    unread = __salt__["heartbeat.unread"]()
    if not unread:
        return ret
    waits = __salt__["heartbeat.waits"]()
    if waits:
        return _agent_only(ret, unread, waits)
    ret["changes"] = {"reloaded": unread}
    if __opts__["test"]:
        return ret | {"result": None, "comment": f"heartbeat would read {', '.join(unread)} again"}
    try:
        status = __salt__["heartbeat.reload"]()
    except CommandExecutionError as err:
        return ret | {"result": False, "changes": {}, "comment": str(err)}
    return ret | {"comment": f"heartbeat has read {', '.join(unread)}; this node is {status['role']}, as before"}


def _agent_only(ret: dict, unread: list[str], waits: str) -> dict:
    """heartbeat's own files wait for a person; the agent reads its own."""
    ret |= {"comment": f"not read: {waits}", "warnings": [f"heartbeat waits for you: {waits}"]}
    if __opts__["test"]:
        return ret
    try:
        if __salt__["heartbeat.reload_agent"]():
            ret["changes"] = {"reloaded": [path for path in unread if "agent" in path]}
    except CommandExecutionError as err:
        return ret | {"result": False, "comment": str(err)}
    return ret


def settled(name: str, timeout: float = 180) -> dict:
    """
    This node has a role. Right after its start heartbeat waits for the other node (``initdead``) and then 10 s more.

    name
        Any text, for instance ``role``.
    timeout
        Seconds to wait for the role.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __opts__["test"]:
        return ret | {"comment": f"this node is {__salt__['heartbeat.role']()}"}
    try:
        status = __salt__["heartbeat.wait_until_settled"](timeout)
    except CommandExecutionError as err:
        return ret | {"result": False, "comment": str(err)}
    nodes = ", ".join(f"{node} {what or 'not known'}" for node, what in status["nodes"].items())
    if status["role"] in ("active", "standby"):
        return ret | {"comment": f"this node is {status['role']} ({nodes})"}
    if status["role"] == "stopped":
        return ret | {"result": False, "comment": "heartbeat does not stay up; see `journalctl -u heartbeat`"}
    why = status["disagree"] or "heartbeat is still at work"
    return ret | {"result": False, "comment": f"no role after {timeout} s ({nodes}): {why}; see heartbeat's log"}


def role(name: str, move: bool = False, force: bool = False, timeout: float = 60) -> dict:
    """
    This node has the role ``name``, for other states to require. The state waits for it, and moves it only with
    ``move``.

    .. code-block:: yaml

        active:
          heartbeat.role:
            - timeout: 10

    name
        The role, ``active`` or ``standby``.
    move
        Whether to switch over when this node has the other role.
    force
        With ``move``: also when the node that must take over is not ready.
    timeout
        Seconds to wait for the role.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"this node is {name}"}
    moves = {"active": "heartbeat.takeover", "standby": "heartbeat.standby"}
    if name not in moves:
        return ret | {"result": False, "comment": f"{name} is no role to wait for; give active or standby"}
    now = __salt__["heartbeat.role"]()
    if now == name:
        return ret
    changes = {"role": {"old": now, "new": name}}
    if __opts__["test"]:
        what = "the role would be moved" if move else f"would wait {timeout} s for another one"
        return ret | {"result": None, "changes": changes if move else {}, "comment": f"this node is {now}; {what}"}
    try:
        if move:
            __salt__[moves[name]](force=force, timeout=timeout)
        else:
            __salt__["heartbeat.wait_for_role"](name, timeout)
    except CommandExecutionError as err:
        return ret | {"result": False, "comment": str(err)}
    return ret | {"changes": changes, "comment": f"this node is {name}, {now} before"}


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _placed(name: str, old: str, new: str, mode: int, waits: str) -> dict:
    """Write a file, after heartbeat's own parser has accepted it. Returns the state's return.

    `mode`: its permissions. `waits`: why it must not be written now, empty when it may.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} is as it should be"}
    right_mode = bool(old) and os.stat(name).st_mode & 0o7777 == mode
    if old == new and right_mode:
        return ret
    if waits:
        return ret | {"comment": f"not changed: {waits}", "warnings": [f"{name} waits for you: {waits}"]}
    ret["changes"] = {name: "new" if not old else "updated" if old != new else f"mode {mode:04o}"}
    if __opts__["test"]:
        return ret | {"result": None, "comment": f"{name} would be written"}
    # mkstemp makes the file with mode 0600, so the key is never readable for others.
    handle, draft = tempfile.mkstemp(dir=Path(name).parent, prefix=f".{Path(name).name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(new)
            os.fchmod(file.fileno(), mode)
        try:
            checked = __salt__["commands.run"]([CHECK, Path(name).name, draft], timeout=_CHECK_SECONDS)
        except CommandExecutionError as err:
            return ret | {"result": False, "changes": {}, "comment": f"{name} is not changed: {err}"}
        if checked["retcode"]:
            return ret | {"result": False, "changes": {},
                          "comment": f"{name} is not changed: {checked['stdout'] or checked['stderr']}"}
        os.replace(draft, name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    return ret | {"comment": f"{name} is written"}
