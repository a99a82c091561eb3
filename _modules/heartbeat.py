"""
heartbeat on a gateway: which role this node has, who is there, and heartbeat's own files
========================================================================================

:depends: heartbeat 3.0.6, iproute2

heartbeat says which part of the resources a node has (``cl_status rscstatus``), the kernel says which addresses
it holds. Only where both agree a node is *active* or *standby*.

Formats: cl_status(1), authkeys(5), ``/usr/share/doc/heartbeat/haresources.gz``, ip-address(8).
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import salt.utils.path
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

__virtualname__ = "heartbeat"

RESOURCE = Path("/etc/ha.d/gateway.conf")
# The files that heartbeat compares by their modification time when it is told to reload (hb_signal.c).
READ = (Path("/etc/ha.d/ha.cf"), Path("/etc/ha.d/authkeys"))
# What it has read: noted by its unit at each start and reload.
LOADED = Path("/run/gateway-heartbeat-loaded")
HARESOURCES = Path("/etc/ha.d/haresources")

# heartbeat's words for the resources a node has. Each node has its local ones from the start, whether or not
# haresources gives it any: only the preferred node's are ours.
_HOLDS = {"all": True, "none": False, "local": "preferred", "foreign": "other"}


def __virtual__() -> str | tuple[bool, str]:
    if not salt.utils.path.which("ip"):
        return False, "heartbeat: there is no `ip`; install iproute2"
    return __virtualname__


def role() -> str:
    """
    This node's role.

    Returns:
        ``active``, ``standby``, ``stopped`` (heartbeat does not run here) or ``transition`` (heartbeat is at work, or
        what it says and the addresses that are held do not agree).

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.role
    """
    return status()["role"]


def status() -> dict:
    """
    This node as heartbeat and the kernel see it.

    Returns:
        ``role`` as in :func:`role`; ``running``; ``resources``, heartbeat's word for what it has here (``all``,
        ``local``, ``foreign``, ``none``, ``transition``), empty when it does not run; ``nodes``, each node's status
        by its name (``active``, ``up``, ``init``, ``dead``); ``held`` and ``missing``, virtual addresses;
        ``disagree``, a line that says so when heartbeat and the kernel do, else empty.

    Raises:
        CommandExecutionError: heartbeat or ``ip`` does not answer.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.status
    """
    virtual = [address for address, _interface in _virtual()]
    held = [each["address"] for each in addresses_held()]
    result = {"role": "stopped", "running": running(), "resources": "", "nodes": {}, "held": held,
              "missing": [address for address in virtual if address not in held], "disagree": ""}
    if not result["running"]:
        if held:
            result["disagree"] = f"heartbeat does not run and {', '.join(held)} is held"
        return result
    # Until it has a role heartbeat does not listen to its clients.
    result["resources"] = _cl_status("rscstatus") or "transition"
    # For a dead node cl_status prints `dead` and fails.
    result["nodes"] = {node: _run("cl_status", "nodestatus", node)["stdout"].strip()
                       for node in sorted(_cl_status("listnodes", "-n").split())}
    says = _HOLDS.get(result["resources"])
    if isinstance(says, str):
        says = (says == "preferred") == (_owner() == __grains__["nodename"].lower())
    result["role"] = "transition"
    if says is not None and says == (not result["missing"]) and says == bool(held):
        result["role"] = "active" if says else "standby"
    elif says is not None:
        wants = "these addresses" if says else "none of the addresses"
        result["disagree"] = (f"heartbeat says this node has {wants}; held: {', '.join(held) or 'none'}, "
                              f"not held: {', '.join(result['missing']) or 'none'}")
    return result


def running() -> bool:
    """
    Whether heartbeat runs on this node.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.running
    """
    # `cl_status hbstatus` says stopped until heartbeat has heard the other node or given it up.
    return _run("systemctl", "is-active", "heartbeat")["retcode"] == 0


def addresses_held() -> list[dict]:
    """
    The virtual addresses that this node holds, out of those in ``/etc/ha.d/gateway.conf``.

    Returns:
        One mapping each, with ``address`` and ``interface``, in the order of that file.

    Raises:
        CommandExecutionError: ``ip`` fails.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.addresses_held
    """
    shown = _run("ip", "-j", "address", "show")
    if shown["retcode"]:
        raise CommandExecutionError(f"ip address show: {shown['stderr']}")
    here = {entry["local"]: link["ifname"] for link in json.loads(shown["stdout"]) if link
            for entry in link["addr_info"]}
    return [{"address": address, "interface": here[address]} for address, _interface in _virtual() if address in here]


def wait_until_settled(timeout: float = 180) -> dict:
    """
    Wait until this node has a role.

    A node that hears the other one's heartbeats signed with another key would wait for ``initdead``, take it for dead
    and become active as well. It is stopped before that.

    Args:
        timeout: seconds. Longer than ``initdead`` plus 15 s where the other node may be down.

    Returns:
        :func:`status`, the last one when there was no role in time. Ends early when heartbeat does not stay up.

    Raises:
        CommandExecutionError: the other node has another key; heartbeat is stopped here.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' heartbeat.wait_until_settled 30
    """
    begin = time.monotonic()
    while True:
        now, passed = status(), time.monotonic() - begin
        # A heartbeat that does not like what it finds ends within a second or two.
        if now["role"] in ("active", "standby") or passed > timeout or (now["role"] == "stopped" and passed > 5):
            return now
        if not now["nodes"] and not now["held"] and passed > 5 and _hears_another_key():
            # It has nothing to give up, and would put off an orderly end until initdead is over.
            _run("systemctl", "kill", "--signal=KILL", "heartbeat")
            raise CommandExecutionError(
                "heartbeat hears the other node's messages signed with another key and would have become active beside "
                "it, so it is stopped here: apply this state on the other node first, then here")
        time.sleep(0.5)


def unread() -> list[str]:
    """
    The files that changed since the running heartbeat read them; empty when it does not run.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.unread
    """
    if not running():
        return []
    try:
        loaded = LOADED.read_text(encoding="ascii").split()
    except FileNotFoundError:
        loaded = []
    # Whole seconds, as heartbeat compares them.
    now = [str(int(path.stat().st_mtime)) if path.exists() else "" for path in READ]
    return [str(path) for path, time_now, time_then in zip(READ, now, loaded or [""] * len(READ), strict=True)
            if time_now != time_then]


def reload(timeout: float = 60) -> dict:
    """
    Let heartbeat read ha.cf and authkeys again. The addresses stay where they are.

    A changed ha.cf makes heartbeat start itself anew and keep its resources, in about two seconds, during which the
    other node waits 30 s longer than its deadtime for it; a changed authkeys is just read.

    Args:
        timeout: seconds until the node has to have its role again.

    Returns:
        :func:`status` afterwards.

    Raises:
        CommandExecutionError: heartbeat refuses the files (it goes on with what it had), or the role is not as
            before.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.reload
    """
    before = status()
    if before["role"] == "stopped":
        raise CommandExecutionError("heartbeat does not run here: start it with `systemctl start heartbeat`")
    done = _run("systemctl", "reload", "heartbeat")
    if done["retcode"]:
        raise CommandExecutionError(f"heartbeat refuses to reload and goes on with what it had: {done['stderr']}; "
                                    f"see `journalctl -u heartbeat`")
    # The signal is handled a moment later; a role seen before that is the old one.
    time.sleep(3)
    after = wait_until_settled(timeout)
    if after["role"] != before["role"]:
        raise CommandExecutionError(f"heartbeat reloaded and this node, {before['role']} before, is {after['role']}; "
                                    f"{after['disagree'] or 'see its log'}")
    return after


def haresources(settings: dict) -> str:
    """
    The text of haresources: the preferred node owns the one resource.

    Args:
        settings: what ``gateway.settings`` gives.

    CLI Example:

    .. code-block:: bash

        salt-call heartbeat.haresources "$SETTINGS"
    """
    its = settings["heartbeat"]
    mail = f" MailTo::{','.join(its['mail_to'])}::{its['mail_subject']}" if its["mail_to"] else ""
    return f"# Managed by Salt (heartbeat). The same on both nodes.\n{settings['nodes'][0]} gateway{mail}\n"


def _virtual() -> list[tuple[str, str]]:
    """(address, interface) of each virtual address."""
    try:
        lines = RESOURCE.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    words = [line.split() for line in lines if line.startswith("address ")]
    return [(address.partition("/")[0], interface) for _word, address, interface in words]


def _owner() -> str:
    """The node that haresources prefers, as heartbeat has it: in lower case."""
    try:
        lines = HARESOURCES.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.split()[0].lower() for line in lines if line.strip() and not line.startswith("#")), "")


def _hears_another_key() -> bool:
    """Whether the running heartbeat has logged a message that is not signed with its key."""
    run = _run("systemctl", "show", "--property=InvocationID", "--value", "heartbeat")["stdout"].strip()
    said = _run("journalctl", "--quiet", "--lines=1", "--output=cat", "--grep=authtoken does not match",
                f"_SYSTEMD_INVOCATION_ID={run}")
    return bool(run) and said["retcode"] == 0 and bool(said["stdout"].strip())


def _cl_status(*words: str) -> str:
    """What cl_status prints; empty when heartbeat does not listen to clients (yet)."""
    done = _run("cl_status", *words)
    return done["stdout"].strip() if done["retcode"] == 0 else ""


def _run(*command: str) -> dict:
    """A command's retcode, stdout and stderr. A hung heartbeat holds its callers: none waits longer than 10 s."""
    done = __salt__["cmd.run_all"](list(command), python_shell=False, ignore_retcode=True, timeout=10,
                                   output_loglevel="quiet")
    if done["retcode"] and "Timed out" in done["stdout"]:
        raise CommandExecutionError(f"{' '.join(command)}: no answer within 10 s")
    return done
