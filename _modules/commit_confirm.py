"""
Changes that may cut the node off: the node itself rolls them back unless it reaches the Salt master again.

The undo command is given to systemd as a transient timer *before* anything changes. So it runs even if the minion, the
Python process or the connection dies meanwhile. Only a new connection to the master, made after the change, cancels the
timer. See systemd-run(1), systemd.timer(5).
"""
from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import salt.utils.path
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict

log = logging.getLogger(__name__)

__virtualname__ = "commit_confirm"

# Gone after a reboot, like the timers: a node that loses power in between boots with its old files.
_FOLDER = Path("/run/gateway/rollback")
_ORIGINALS = "/var/backups/gateway"
_UNIT = "gateway-rollback-{}"
# An outage of the network after which both ends still keep their connection to the master.
_SHORT_OUTAGE_SECONDS = 25
# What the timer runs. It leaves a mark first, so that a confirmation that comes too late is recognised.
_MARK_AND_RUN = 'echo fired > "$0"; exec "$@"'


def __virtual__() -> str | tuple[bool, str]:
    if not salt.utils.path.which("systemd-run"):
        return False, "commit_confirm: systemd-run is missing, nothing would undo a change that cuts the node off"
    return __virtualname__


def arm(name: str, undo_argv: list[str], seconds: int = 60) -> dict:
    """
    Run a command on this node after some seconds, unless ``confirm`` is called before.

    name
        What is about to change, one word: ``network``, ``firewall``.
    undo_argv
        The command, as a list. It must not need Python, a minion or the network.
    seconds
        The time after which it runs.

    Returns the change as ``pending`` lists it.

    Raises:
        CommandExecutionError: systemd does not run, or another change still waits for its confirmation (with two at
            once, nobody could tell which of them cut the node off). Nothing was armed then.

    CLI Example:

    .. code-block:: bash

        salt-call commit_confirm.arm network '[/run/gateway/rollback/network/undo]' 60
    """
    if not Path("/run/systemd/system").is_dir():
        raise CommandExecutionError(
            f"{name}: not changed, as systemd does not run here (no /run/systemd/system) and nothing would undo it")
    with _lock():
        for other in pending():
            raise CommandExecutionError(
                f"{name}: not changed, the change '{other['name']}' still waits for its confirmation; "
                f"it is undone in {other['seconds_left']} s; undo it now with "
                f"`salt-call --local commit_confirm.undo {other['name']}`")
        unit = _UNIT.format(name)
        record, mark = _FOLDER / f"{name}.json", _FOLDER / f"{name}.fired"
        mark.unlink(missing_ok=True)
        change = {"name": name, "deadline": _uptime() + seconds, "pid": os.getpid(), "undo": undo_argv}
        record.write_text(json.dumps(change))
        _systemctl("stop", f"{unit}.timer", f"{unit}.service")
        done = __salt__["cmd.run_all"](
            ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={seconds}s",
             "--timer-property=AccuracySec=100ms", "--property=Type=oneshot",
             "--property=KillMode=process", "--description", f"Undo the {name} change unless it is confirmed",
             "/bin/sh", "-c", _MARK_AND_RUN, str(mark), *undo_argv],
            python_shell=False, ignore_retcode=True)
        if done["retcode"]:
            record.unlink()
            raise CommandExecutionError(f"{name}: not changed, systemd-run could not start the timer: {done['stderr']}")
        return next(change for change in pending() if change["name"] == name)


def confirm(name: str) -> bool:
    """
    Keep a change: cancel its timer. Returns False when this is too late and the change was rolled back already.

    CLI Example:

    .. code-block:: bash

        salt-call commit_confirm.confirm network
    """
    unit = _UNIT.format(name)
    with _lock():
        waiting = any(change["name"] == name for change in pending())
        _systemctl("stop", f"{unit}.timer")
        fired = (_FOLDER / f"{name}.fired").exists() or _active(f"{unit}.service")
        (_FOLDER / f"{name}.json").unlink(missing_ok=True)
    return waiting and not fired


def undo(name: str) -> bool:
    """
    Roll a change back now and cancel its timer. Waits until that has ended; False when there was nothing to roll back.

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.undo network
    """
    unit = _UNIT.format(name)
    with _lock():
        if not any(change["name"] == name for change in pending()):
            return False
        # Start the service before stopping the timer: systemd forgets a transient service together with its timer.
        # If the timer fires at this moment, both are the same start of the same unit.
        _systemctl("start", f"{unit}.service")
        _systemctl("stop", f"{unit}.timer")
        (_FOLDER / f"{name}.json").unlink(missing_ok=True)
    return True


def pending() -> list[dict]:
    """
    The changes that wait for confirmation: ``name``, ``seconds_left``, ``pid`` of who made it, ``undo`` (the command).

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.pending
    """
    changes = []
    for record in sorted(_FOLDER.glob("*.json")):
        change = json.loads(record.read_text())
        unit = _UNIT.format(change["name"])
        # The record of a process that died stays. What counts is whether systemd still has the timer.
        if _active(f"{unit}.timer") or _active(f"{unit}.service"):
            change["seconds_left"] = max(0, round(change.pop("deadline") - _uptime()))
            changes.append(change)
    return changes


def settle(name: str) -> str:
    """
    Roll back what an interrupted run has left, before a new run looks at the node.

    The change of the interrupted run is live but unconfirmed. A comparison with it would find nothing to do, and then
    the timer would roll it back. Returns what was done, in words; "" when there was nothing.

    Raises:
        CommandExecutionError: the run that made the change is still active.

    CLI Example:

    .. code-block:: bash

        salt-call commit_confirm.settle network
    """
    for change in pending():
        if change["name"] != name:
            continue
        if change["pid"] != os.getpid() and Path(f"/proc/{change['pid']}").exists():
            raise CommandExecutionError(
                f"{name}: another run (process {change['pid']}) is making this change; it ends within "
                f"{change['seconds_left']} s")
        undo(name)
        return f"An interrupted run's unconfirmed {name} change was undone first."
    return ""


def reached(timeout: float = 30, confirm_with: list[str] | None = None) -> dict:
    """
    Whether the Salt master answers a new connection. Tries again until the timeout (seconds) is over.

    An answer of any configured master is enough, on its request port (``master_port``). Without a master
    (``file_client: local``) one of ``confirm_with``, or else of the default gateways, must answer a ping.

    Returns ``reached`` (bool), ``by`` (who answered) and ``tried`` (everyone who was asked).

    CLI Example:

    .. code-block:: bash

        salt-call commit_confirm.reached 5
    """
    masterless = __opts__.get("file_client") == "local" or __opts__.get("master_type") == "disable"
    tests: dict[str, Callable[[], bool]] = {}
    if masterless:
        tests = {address: functools.partial(_pings, address) for address in confirm_with or _default_gateways()}
    else:
        tests = {f"{host} port {port}": functools.partial(_connects, host, port) for host, port in _masters()}
    deadline = time.monotonic() + timeout
    while tests:
        for target, answers in tests.items():
            if answers():
                return {"reached": True, "by": target, "tried": list(tests)}
        if time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    return {"reached": False, "by": "", "tried": list(tests)}


def guarded(name: str, undo_argv: list[str], apply: Callable[[], None], keep: Callable[[], None], seconds: int = 60,
            confirm_with: list[str] | None = None) -> str:
    """
    Make a change that is rolled back unless the master is reached afterwards. For other modules, not the command line.

    name, undo_argv, seconds
        As for ``arm``.
    apply
        Makes the change, live only.
    keep
        Writes the change to disk. It is called once the master was reached, while the timer still runs. The master must
        be reached once more afterwards, as services that read those files may change the network again.
    confirm_with
        As for ``reached``.

    Returns "" when the change is live and on disk, else the reason why not; the change was rolled back then.

    Raises:
        CommandExecutionError: the undo command could not be armed; nothing was changed.
    """
    masters = _publishers()
    begun = time.monotonic()
    arm(name, undo_argv, seconds)
    deadline = time.monotonic() + seconds
    try:
        apply()
        for step in (keep, None):
            # This leaves time to roll back here, with a message, before the timer does so silently.
            answer = reached(max(2.0, deadline - time.monotonic() - min(10, seconds / 4)), confirm_with)
            if not answer["reached"]:
                raise CommandExecutionError(
                    f"no answer from {', '.join(answer['tried']) or 'a master: none is configured'} "
                    f"({'after the change' if step else 'after its files were written'})")
            if step:
                step()
    except Exception as err:  # whatever went wrong, the old configuration must come back
        log.debug("%s change failed", name, exc_info=True)
        undo(name)
        return str(err)
    else:
        kept = confirm(name)
    finally:
        if time.monotonic() - begun > _SHORT_OUTAGE_SECONDS:
            _wait_for_publications(masters)
    return "" if kept else f"it took longer than {seconds} s, so the node's own timer has rolled it back"


def prepare(name: str, files: list[str], commands: list[list[str]]) -> list[str]:
    """
    Write the script that undoes a change: it restores these files as they are now, then runs these commands, whatever
    they return.

    name
        As for ``arm``. Files that the commands need may be put into the folder /run/gateway/rollback/NAME.
    files
        Paths; a file that does not exist now is deleted again.
    commands
        Argument lists.

    Returns the ``undo_argv`` for ``arm``.

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.prepare firewall '[/etc/nftables.conf]' '[[nft, flush, ruleset]]'
    """
    folder = _FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    lines = [f"# Undoes the {name} change that waits for its confirmation."]
    for number, path in enumerate(files):
        copy = folder / f"saved-{number}"
        if Path(path).exists():
            shutil.copy2(path, copy)
            lines.append(shlex.join(["cp", "-p", str(copy), path]))
        else:
            lines.append(shlex.join(["rm", "-f", path]))
    lines += [shlex.join(command) for command in commands]
    # what the change did not get to can not be undone; that is no failure
    lines.append("exit 0")
    replace_file(str(folder / "undo"), "\n".join(lines) + "\n", 0o600)
    # run by the shell: Debian's initramfs mounts /run noexec
    return ["/bin/sh", str(folder / "undo")]


def keep_original(path: str, mark: str) -> None:
    """
    Keep a copy of a file that a person or the installer wrote, once, under /var/backups/gateway.

    mark
        A text that every file of this product has; a file with it is not an original.

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.keep_original /etc/nftables.conf 'Written by Salt'
    """
    source, copy = Path(path), Path(f"{_ORIGINALS}{path}")
    if source.exists() and not copy.exists() and mark not in source.read_text(errors="replace"):
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy2(source, copy)


def replace_file(path: str, text: str, mode: int = 0o644) -> None:
    """
    Write a file completely or not at all, with its mode from the start, and synced to the disk.

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.replace_file /etc/example 'text' 420
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        os.fchmod(handle.fileno(), mode)
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.rename(scratch, target)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    _FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(_FOLDER / "lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _uptime() -> float:
    # not the wall clock, which a time server may change meanwhile
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def _systemctl(action: str, *units: str) -> int:
    return __salt__["cmd.retcode"](["systemctl", action, *units], python_shell=False, ignore_retcode=True)


def _active(unit: str) -> bool:
    argv = ["systemctl", "show", "--property=ActiveState", "--value", unit]
    return __salt__["cmd.run_stdout"](argv, python_shell=False).strip() in ("active", "activating")


def _masters() -> list[tuple[str, int]]:
    """Host and request port of each configured master."""
    configured = __opts__.get("master_list") or __opts__.get("master") or []
    port = int(__opts__.get("master_port") or 4506)
    masters = []
    for entry in [configured] if isinstance(configured, str) else configured:
        host, colon, its_port = str(entry).rpartition(":")
        if colon and its_port.isdigit() and (":" not in host or host.endswith("]")):
            masters.append((host.strip("[]"), int(its_port)))
        else:
            masters.append((str(entry).strip("[]"), port))
    known = __opts__.get("master_ip")
    # the address that the minion resolved at its start: still known when no name server answers
    if known and (known.strip("[]"), port) not in masters:
        masters.append((known.strip("[]"), port))
    return masters


def _publishers(within: float | None = None) -> set[str]:
    """Addresses of the masters that send this minion jobs; with `within`, only those heard from in the last seconds."""
    port = int(__opts__.get("publish_port") or 4505)
    argv = ["ss", "-HOtin", "state", "established", "dport", "=", f":{port}"]
    found = set()
    # ss(8), -i: Recv-Q Send-Q Local Peer ... lastrcv:MILLISECONDS (since data came; left out when 0)
    for line in __salt__["cmd.run_stdout"](argv, python_shell=False).splitlines():
        words = line.split()
        silent = next((int(word.partition(":")[2]) for word in words if word.startswith("lastrcv:")), 0)
        if within is None or silent < within * 1000:
            found.add(words[3].rpartition(":")[0].strip("[]"))
    return found


def _wait_for_publications(masters: set[str], timeout: float = 60) -> None:
    """Wait until the minion hears these masters again.

    After 30 s without an answer the master drops a minion's connection (ZeroMQ's heartbeat, every 10 s). The node
    notices only at the kernel's next retransmission, up to a minute later. Jobs that are published meanwhile are lost
    without a message: whoever reads that a change was rolled back and at once orders the next job would wait in vain.
    """
    begun = time.monotonic()
    heard = 0
    # twice: the first data after a silence may be followed by the end of the connection
    while heard < 2:
        if time.monotonic() - begun > timeout:
            log.warning("For %.0f s nothing has come from %s: jobs may not reach this node yet",
                        timeout, ", ".join(sorted(masters - _publishers(timeout))))
            return
        time.sleep(1)
        heard = heard + 1 if masters <= _publishers(time.monotonic() - begun) else 0


def _connects(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _default_gateways() -> list[str]:
    found = []
    for family in ("-4", "-6"):
        shown = __salt__["cmd.run_stdout"](["ip", "-j", family, "route", "show", "default"], python_shell=False)
        for route in json.loads(shown or "[]"):
            if "gateway" in route:
                link_local = route["gateway"].startswith("fe80:")
                found.append(f"{route['gateway']}%{route['dev']}" if link_local else route["gateway"])
    return found


def _pings(address: str) -> bool:
    argv = ["ping", "-n", "-c", "1", "-W", "1", address]
    return __salt__["cmd.retcode"](argv, python_shell=False, ignore_retcode=True) == 0
