"""
Changes that may cut the node off: the node itself rolls them back unless it reaches the Salt master again.

The undo command is given to systemd as a transient timer *before* anything changes. So it runs even if the minion, the
Python process or the connection dies meanwhile. Only a new connection to the master, made after the change, cancels the
timer. See systemd-run(1), systemd.timer(5).

Files in ``/run/gateway/rollback``: ``NAME.json`` is the record of an armed change. Whoever renames it has decided:
``NAME.fired`` the way back, ``NAME.kept`` the confirmation. rename(2) is atomic, so exactly one of both wins, and it
needs no space. ``NAME/`` is the way back, ``NAME.keeping`` is locked while the new files are written, ``prepared`` says
which run is at work. ``/var/lib/gateway/rollback/NAME`` is there from before the new files are written until they are
confirmed or put back. If the power is cut meanwhile, gateway-rollback-boot.service puts the old ones back.
"""
from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import json
import logging
import math
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import salt.utils.path
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict

log = logging.getLogger(__name__)

__virtualname__ = "commit_confirm"

# Gone after a reboot, like the timers.
_FOLDER = Path("/run/gateway/rollback")
# Survives a reboot: the old files, as long as nobody has confirmed the new ones.
_LASTING = Path("/var/lib/gateway/rollback")
_ORIGINALS = "/var/backups/gateway"
_UNIT = "gateway-rollback-{}"
# An outage of the network after which both ends still keep their connection to the master.
_SHORT_OUTAGE_SECONDS = 25
# What the timer runs. It decides first; when the change is confirmed, nothing is undone. If there is no way to decide
# (no program can be read), the change is undone.
_DECIDE_AND_RUN = 'mv "$0.json" "$0.fired" || [ -e "$0.fired" ] || [ -e "$0.json" ] || exit 0; exec "$@"'
# How long an undo may take. With a disk that stands still the network is back long before, and the files are not.
_UNDO_SECONDS = 30
_COMMAND_SECONDS = 20


def _load_way_back() -> ModuleType:
    # Trap: Salt's loader knows no import between its modules, and skips a file whose name begins with _.
    spec = importlib.util.spec_from_file_location("gateway_way_back", Path(__file__).with_name("_way_back.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_way_back = _load_way_back()


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
        _refuse_beside_another(name)
        unit, base = _UNIT.format(name), _FOLDER / name
        record = Path(f"{base}.json")
        change = {"name": name, "deadline": _uptime() + seconds, "pid": os.getpid(), "undo": undo_argv}
        with _room(name):
            replace_file(str(record), json.dumps(change), 0o600)
        for decided in ("fired", "kept"):
            Path(f"{base}.{decided}").unlink(missing_ok=True)
        _systemctl("stop", f"{unit}.timer", f"{unit}.service")
        done = __salt__["cmd.run_all"](
            ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={seconds}s",
             "--timer-property=AccuracySec=100ms", "--property=Type=oneshot",
             "--property=KillMode=process", "--description", f"Undo the {name} change unless it is confirmed",
             "/bin/sh", "-c", _DECIDE_AND_RUN, str(base), *undo_argv],
            python_shell=False, ignore_retcode=True, timeout=_COMMAND_SECONDS)
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
    base = _FOLDER / name
    with _lock():
        if not _waits(name) or Path(f"{base}.fired").exists():
            return False
        try:
            os.rename(f"{base}.json", f"{base}.kept")
        except FileNotFoundError:   # the timer was first
            return False
        _systemctl("stop", f"{_UNIT.format(name)}.timer")
    try:
        _way_back.forget(_LASTING / name)
    except OSError as err:
        log.error("The confirmed %s change would be undone at the next boot: %s; `rm -r %s`", name, err,
                  _LASTING / name)
    return True


def undo(name: str) -> bool:
    """
    Roll a change back now and cancel its timer. Waits until that has ended; False when there was nothing to roll back.

    Raises:
        CommandExecutionError: it could not be rolled back, neither by systemd nor by this process, or it has not ended.

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.undo network
    """
    with _lock():
        if not _waits(name):
            return False
        wrong = _roll_back(name)
    if wrong:
        raise CommandExecutionError(wrong)
    return True


def _roll_back(name: str) -> str:
    """Start the way back and wait for its end. Returns "", or what is wrong and what to do. The lock is held."""
    unit, base = _UNIT.format(name), _FOLDER / name
    # Start the service before stopping the timer: systemd forgets a transient service together with its timer.
    # If the timer fires at this moment, both are the same start of the same unit.
    until = time.monotonic() + _UNDO_SECONDS
    failed = _systemctl("start", f"{unit}.service", timeout=_UNDO_SECONDS)
    while _active(f"{unit}.service") and time.monotonic() < until:
        time.sleep(0.2)
    wrong = ""
    if _active(f"{unit}.service"):
        wrong = (f"{name}: the way back has not ended after {_UNDO_SECONDS} s, so a disk may stand still; the live "
                 f"network comes first and the files follow: look with `systemctl status {unit}.service`")
    elif failed:
        log.error("systemctl start %s.service failed (exit code %s): this process runs the way back", unit, failed)
        wrong = _run_here(name)
        if wrong:
            wrong = (f"{name}: NOT undone: `systemctl start {unit}.service` failed (exit code {failed}), and so did "
                     f"the same command without systemd ({wrong}); type at the console: `sh {base}/undo`")
    _systemctl("stop", f"{unit}.timer")
    if not wrong:
        Path(f"{base}.json").unlink(missing_ok=True)
    return wrong


def _run_here(name: str) -> str:
    """The command of the timer, run by this process. Returns "", or what is wrong."""
    base = _FOLDER / name
    argv = ["/bin/sh", f"{base}/undo"]
    for record in (Path(f"{base}.json"), Path(f"{base}.fired")):
        with contextlib.suppress(OSError, CommandExecutionError):
            argv = _read(record)["undo"]
    return str(_way_back.run(["/bin/sh", "-c", _DECIDE_AND_RUN, str(base), *argv], _UNDO_SECONDS))


def pending() -> list[dict]:
    """
    The changes that wait for confirmation: ``name``, ``seconds_left``, ``pid`` of who made it, ``undo`` (the command).

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.pending
    """
    changes = []
    for record in sorted([*_FOLDER.glob("*.json"), *_FOLDER.glob("*.fired")]):
        # An empty .fired is a mark of an earlier version.
        if record.suffix == ".fired" and not (record.exists() and record.stat().st_size and _waits(record.stem)):
            continue
        change = _read(record)
        if _waits(change["name"]):
            change["seconds_left"] = max(0, round(change.pop("deadline") - _uptime()))
            changes.append(change)
    return changes


def _waits(name: str) -> bool:
    """Whether a change waits, or is being undone. It needs no record that can be read, so undo works without."""
    # The record of a process that died stays. What counts is whether systemd still has the timer.
    return (any(Path(f"{_FOLDER / name}.{kind}").exists() for kind in ("json", "fired"))
            and any(_active(f"{_UNIT.format(name)}.{kind}") for kind in ("timer", "service")))


def _read(record: Path) -> dict:
    """One record. Raises CommandExecutionError when it is not whole."""
    try:
        change = json.loads(record.read_text())
        return {"name": str(change["name"]), "deadline": float(change["deadline"]), "pid": int(change["pid"]),
                "undo": list(change["undo"])}
    except (OSError, ValueError, TypeError, KeyError):
        raise CommandExecutionError(
            f"{record}: the record of a change is damaged, so nothing new is changed. Look whether its timer still "
            f"waits: `systemctl list-timers '{_UNIT.format(record.stem)}*'`. If it does, `salt-call --local "
            f"commit_confirm.undo {record.stem}`; if it does not, `rm {record}`") from None


def settle(name: str) -> str:
    """
    Roll back what an interrupted run or a power cut has left, before a new run looks at the node.

    The change of the interrupted run is live but unconfirmed. A comparison with it would find nothing to do, and then
    the timer would roll it back. Returns what was done, in words; "" when there was nothing.

    Raises:
        CommandExecutionError: the run that made the change is still active.

    CLI Example:

    .. code-block:: bash

        salt-call commit_confirm.settle network
    """
    said = ""
    if _waits(name):
        change: dict = {}
        with contextlib.suppress(CommandExecutionError):    # a damaged record names no run that could be at work
            change = next((each for each in pending() if each["name"] == name), {})
        if change and change["pid"] != os.getpid() and Path(f"/proc/{change['pid']}").exists():
            raise CommandExecutionError(
                f"{name}: another run (process {change['pid']}) is making this change; it ends within "
                f"{change['seconds_left']} s")
        undo(name)
        said = f"An interrupted run's unconfirmed {name} change was undone first."
    with _lock():
        lasting = _LASTING / name
        if _way_back.is_lasting(lasting) and not _waits(name):
            wrong = _way_back.restore(lasting, _UNDO_SECONDS)
            if wrong:
                raise CommandExecutionError(f"{name}: the files of an unconfirmed change are NOT put back ({wrong}); "
                                            f"type at the console: `sh {lasting}/files`")
            said = said or f"The files of an unconfirmed {name} change were put back first."
    return said


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
            confirm_with: list[str] | None = None, patience: float | None = None) -> str:
    """
    Make a change that is rolled back unless the master is reached afterwards. For other modules, not the command line.
    Whoever else was heard before (``lifelines.alive``) has to be heard afterwards, too.

    name, undo_argv, seconds
        As for ``arm``.
    apply
        Makes the change, live only.
    keep
        Writes the change to disk. It is called once the master was reached, while the timer still runs. The master must
        be reached once more afterwards, as services that read those files may change the network again.
    confirm_with
        As for ``reached``.
    patience
        How long (seconds) the other node's heartbeats may be missing after the change; by default nearly all the time.
        A node that hears none becomes active after its deadtime, so this is short where nothing needs more.

    Returns "" when the change is live and on disk, else the reason why not; the change was rolled back then.

    Raises:
        CommandExecutionError: the undo command could not be armed; nothing was changed.
    """
    masters = _publishers()
    begun = time.monotonic()
    before = _lifelines()
    held = _hold_programs(name, undo_argv)
    try:
        arm(name, undo_argv, seconds)
        # This leaves time to roll back here, with a message, before the timer does so silently.
        until = time.monotonic() + seconds - min(10, seconds / 4)
        demand = functools.partial(_demand_answers, before, until, patience, confirm_with)
        try:
            apply()
            demand("after the change")
            with _keeping(name, undo_argv):
                keep()
            demand("after its files were written")
        except Exception as err:  # whatever went wrong, the old configuration must come back
            log.debug("%s change failed", name, exc_info=True)
            problem = str(err)
        else:
            if confirm(name):
                return ""
            problem = f"it took longer than {seconds} s, so the node's own timer has rolled it back"
        return "; ".join(filter(None, [problem, _make_sure_it_is_undone(name)]))
    finally:
        held()
        _release()
        if time.monotonic() - begun > _SHORT_OUTAGE_SECONDS:
            _wait_for_publications(masters)


def _demand_answers(before: dict, until: float, patience: float | None, confirm_with: list[str] | None,
                    when: str) -> None:
    """Raises CommandExecutionError unless the master answers, and whoever else was heard before the change."""
    def left(limit: float | None = None) -> float:
        return max(2.0, min(until - time.monotonic(), math.inf if limit is None else limit))

    # The other node first: without its heartbeats both become active.
    silent = __salt__["lifelines.lost"](before | {"publish": [], "names": []}, left(patience)) if before else []
    if not silent:
        answer = reached(left(), confirm_with)
        if not answer["reached"]:
            silent = answer["tried"] or ["a master: none is configured"]
        elif before:
            silent = __salt__["lifelines.lost"](before | {"peers": []}, left())
    if silent:
        raise CommandExecutionError(f"no answer from {', '.join(silent)} ({when})")


def _lifelines() -> dict:
    # Trap: a minion that was updated and not yet synced may have one of these modules only.
    alive = __salt__.get("lifelines.alive")
    return alive([host for host, _port in _masters()]) if alive else {}


def _hold_programs(name: str, undo_argv: list[str]) -> Callable[[], None]:
    """Keep in memory what the way back runs: a disk that stands still later can not keep it from running."""
    hold = __salt__.get("resident.hold")
    folder = _FOLDER / name
    if not hold or not _is_prepared(name, undo_argv):
        return lambda: None
    # /run may be swapped out, to a disk
    scripts = [str(path) for path in sorted(folder.iterdir()) if path.stat().st_size]
    return hold([*(folder / "programs").read_text().splitlines(), *scripts])


def _is_prepared(name: str, undo_argv: list[str]) -> bool:
    return str(_FOLDER / name / "undo") in undo_argv


def _make_sure_it_is_undone(name: str) -> str:
    """Undo a change, or wait for the timer's undo. Returns "", or what is wrong and what to do."""
    with _lock():
        if not _waits(name) and Path(f"{_FOLDER / name}.json").exists():
            # neither confirmed nor undone: somebody has stopped the timer
            wrong = _run_here(name)
            if wrong:
                wrong = f"{name}: NOT undone ({wrong}); type at the console: `sh {_FOLDER / name}/undo`"
        else:
            wrong = _roll_back(name) if _waits(name) else ""
    return wrong


@contextlib.contextmanager
def _keeping(name: str, undo_argv: list[str]) -> Iterator[None]:
    """
    While the new files are written. The way back waits for the end of this before it restores files, so a slow disk
    can not put the new files in place after it. If this process dies, the kernel releases the lock.
    """
    with open(f"{_FOLDER / name}.keeping", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if rolled_back(name):
            raise CommandExecutionError("the node's own timer has rolled it back before its files were written")
        if _is_prepared(name, undo_argv):
            _way_back.remember(_FOLDER / name, _LASTING / name)
        yield


def rolled_back(name: str) -> bool:
    """
    Whether the last change of this name was rolled back, or is being rolled back now.

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.rolled_back network
    """
    return Path(f"{_FOLDER / name}.fired").exists()


def prepare(name: str, files: list[str], commands: list[list[str]], afterwards: list[list[str]] | None = None,
            texts: dict[str, str] | None = None) -> list[str]:
    """
    Write the script that undoes a change: it runs these commands, whatever they return, and then restores these files
    as they are now. The live network must not wait for a disk. A file that is as it was is not written. Files below
    /run are restored too, though not at a boot.

    name
        As for ``arm``.
    files
        Paths; a file that does not exist now is deleted again.
    commands
        Argument lists, for the live network.
    afterwards
        Argument lists, run when the files are restored: services that read them.
    texts
        By name, files that the commands need. They are written into the folder /run/gateway/rollback/NAME.

    Returns the ``undo_argv`` for ``arm``.

    Raises:
        CommandExecutionError: another change waits or is being made, or there is no room. Its way back is untouched.

    CLI Example:

    .. code-block:: bash

        salt-call --local commit_confirm.prepare firewall '[/etc/nftables.conf]' '[[nft, flush, ruleset]]'
    """
    folder, lasting = _FOLDER / name, _LASTING / name
    with _room(name), _lock():
        _refuse_beside_another(name)
        if _way_back.is_lasting(lasting):
            raise CommandExecutionError(
                f"{name}: not changed, the files of an earlier change were never confirmed; put the old ones back "
                f"first: `salt-call --local commit_confirm.settle {name}`")
        replace_file(str(_FOLDER / "prepared"), f"{name} {threading.get_native_id()}\n", 0o600)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        saved = {path: f"saved-{number}" if Path(path).exists() else "" for number, path in enumerate(files)}
        for path, copy in saved.items():
            if copy:
                shutil.copy2(path, folder / copy)
        its = _way_back.scripts(name, folder, lasting, saved, commands, afterwards or [])
        for part, text in {**(texts or {}), **its}.items():
            replace_file(str(folder / part), text, 0o600)
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
        # Whole or not at all: half a copy, of a full disk, would be taken for the original from then on.
        scratch = copy.with_name(f".{copy.name}.new")
        try:
            shutil.copy2(source, scratch)
            os.rename(scratch, copy)
        finally:
            scratch.unlink(missing_ok=True)


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
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            os.fchmod(handle.fileno(), mode)
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(scratch, target)
    except BaseException:   # a full disk: one file left for each try would keep it full
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    _FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The folder itself: a file of its own could not be made when /run is full.
    descriptor = os.open(_FOLDER, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _room(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise CommandExecutionError(
            f"{name}: not changed, the way back could not be written below {_FOLDER}: {err.strerror or err}; see "
            f"`df {_FOLDER}` and `df -i {_FOLDER}`") from err


def _refuse_beside_another(name: str) -> None:
    """Raises CommandExecutionError when another change waits, or another run is about to make one."""
    for other in pending():
        raise CommandExecutionError(
            f"{name}: not changed, the change '{other['name']}' still waits for its confirmation; "
            f"it is undone in {other['seconds_left']} s; undo it now with "
            f"`salt-call --local commit_confirm.undo {other['name']}`")
    what, run = _preparing()
    # A thread has a folder there, too. One that has ended has left what it prepared.
    if run and run != threading.get_native_id() and Path(f"/proc/{run}").exists():
        raise CommandExecutionError(f"{name}: not changed, another run (thread {run}) is about to change '{what}'; "
                                    "try again when it has ended")


def _preparing() -> tuple[str, int]:
    """What is about to change, and the thread that does so; "" and 0 when nothing is."""
    with contextlib.suppress(OSError, ValueError):
        what, _, run = (_FOLDER / "prepared").read_text().strip().rpartition(" ")
        return what, int(run)
    return "", 0


def _release() -> None:
    with _lock():
        if _preparing()[1] == threading.get_native_id():
            (_FOLDER / "prepared").unlink(missing_ok=True)


def _uptime() -> float:
    # not the wall clock, which a time server may change meanwhile
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def _systemctl(action: str, *units: str, timeout: float = _COMMAND_SECONDS) -> int:
    return __salt__["cmd.retcode"](["systemctl", action, *units], python_shell=False, ignore_retcode=True,
                                   timeout=timeout)


def _active(unit: str) -> bool:
    argv = ["systemctl", "show", "--property=ActiveState", "--value", unit]
    said = __salt__["cmd.run_stdout"](argv, python_shell=False, timeout=_COMMAND_SECONDS)
    return said.strip() in ("active", "activating")


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
    for line in __salt__["cmd.run_stdout"](argv, python_shell=False, timeout=_COMMAND_SECONDS).splitlines():
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
        shown = __salt__["cmd.run_stdout"](["ip", "-j", family, "route", "show", "default"], python_shell=False,
                                           timeout=_COMMAND_SECONDS)
        for route in json.loads(shown or "[]"):
            if "gateway" in route:
                link_local = route["gateway"].startswith("fe80:")
                found.append(f"{route['gateway']}%{route['dev']}" if link_local else route["gateway"])
    return found


def _pings(address: str) -> bool:
    argv = ["ping", "-n", "-c", "1", "-W", "1", address]
    return __salt__["cmd.retcode"](argv, python_shell=False, ignore_retcode=True, timeout=_COMMAND_SECONDS) == 0
