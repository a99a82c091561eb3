"""
The textfile with a gateway's figures, for Debian's prometheus-node-exporter
===========================================================================

``gateway-metrics.service`` runs :func:`serve` in a ``salt-call --local`` of its own. So figures go on when the minion
is stuck, when the master is away, and while states run; and they cost little, as Salt is loaded once and not for each
file (docs/metrics.md has both costs). The process asks, and changes nothing but its file.

The file is written as a whole or not at all. It carries the time at which it was written, since node_exporter goes on
handing out a file that nobody writes any more.

Formats: README.textfile of prometheus-node-exporter, sd_notify(3).
"""
from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import salt.version
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

log = logging.getLogger(__name__)

__virtualname__ = "gateway_metrics"

SETTINGS = Path("/etc/gateway-metrics.json")
# Debian's folder of the textfile collector; /etc/default/prometheus-node-exporter needs no change.
FILE = Path("/var/lib/prometheus/node-exporter/gateway.prom")
FILE_MODE = 0o644       # the exporter is another user
_KEYS = ("site", "node", "every", "persons", "heartbeat", "sessions", "tunnels", "bonds")
_LOOK_SECONDS = 1.0     # between two looks whether there is something to do
_AGAIN_SECONDS = 15.0   # until the next try, when the settings can not be read


def __virtual__() -> str | tuple[bool, str]:
    for function in ("gateway_figures.samples", "gateway_exposition.text", "commit_confirm.replace_file"):
        if function not in __salt__:
            return False, f"gateway_metrics: {function} is missing; run saltutil.sync_modules, see the minion's log"
    return __virtualname__


def settings_json(settings: dict) -> str:
    """
    The text of /etc/gateway-metrics.json: what of the site the figures need. So they need no pillar.

    Args:
        settings: what ``gateway.settings`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call gateway_metrics.settings_json "$SETTINGS"
    """
    features, its = settings["features"], settings["metrics"]
    tunnels = None
    if features["openswan"]:
        tunnels = {tunnel: [each["name"], each["kind"]] for each in settings["connections"]
                   for tunnel in __salt__["ipsec.sections"]({**settings, "connections": [each]})
                   if tunnel != "config setup"}
    told = {"site": settings["site"], "node": settings["node"], "every": its["every"], "persons": its["persons"],
            "heartbeat": features["heartbeat"], "sessions": bool(settings["sessions"]), "tunnels": tunnels,
            "bonds": [{key: bond[key] for key in ("name", "side", "slaves")} for bond in settings["bonds"]]
            if features["bonding"] else []}
    return json.dumps(told, indent=2, sort_keys=True) + "\n"


def show() -> str:
    """
    The figures as of now, as they are written into the file. Bytes count from 0 with each call.

    Raises:
        CommandExecutionError: the site has no metrics, or the settings can not be read.

    CLI Example:

    .. code-block:: bash

        salt-call --local gateway_metrics.show
    """
    return _text(_settings())


def write() -> float:
    """
    Write the file once.

    Returns:
        How many seconds that took.

    Raises:
        CommandExecutionError: the settings can not be read, or the file can not be written.

    CLI Example:

    .. code-block:: bash

        salt-call --local gateway_metrics.write
    """
    return _write(_settings())


def serve() -> None:
    """
    Write the file every few seconds (``metrics:every``), until SIGTERM; for gateway-metrics.service. Ends also when its
    own code has changed on the disk: systemd starts it again with the new one. What goes wrong is in the journal, once.

    CLI Example: none, it does not end.
    """
    stopping = _Stopping()
    sign, last = _sign(), ""
    due = 0.0
    _notify("READY=1")
    while not stopping.now:
        if time.monotonic() >= due:
            due = time.monotonic() + _AGAIN_SECONDS
            try:
                settings = _settings()
                due = time.monotonic() + settings["every"]
                _write(settings)
                last = ""
            except CommandExecutionError as error:
                if str(error) != last:
                    log.error("gateway-metrics: %s", error)
                last = str(error)
            if _sign() != sign:
                log.info("gateway-metrics: its modules have changed: starting anew")
                return
        _notify("WATCHDOG=1")
        time.sleep(_LOOK_SECONDS)


class _Stopping:
    """Whether systemd has told this process to end."""

    def __init__(self) -> None:
        self.now = False
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        self.now = True


def _settings() -> dict[str, Any]:
    try:
        found = json.loads(SETTINGS.read_text(encoding="utf-8"))
        return {key: found[key] for key in _KEYS}
    except FileNotFoundError:
        raise CommandExecutionError(f"{SETTINGS} is missing: does the site have `features: {{metrics: true}}`, and was "
                                    "it applied since?") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandExecutionError(f"{SETTINGS} can not be read ({type(error).__name__}: {error}): apply the site "
                                    "again") from None


def _text(settings: dict[str, Any]) -> str:
    samples = [*__salt__["gateway_figures.samples"](settings),
               ("gateway_written_timestamp_seconds", (), round(time.time(), 3))]
    try:
        return __salt__["gateway_exposition.text"](__salt__["gateway_figures.families"](), samples,
                                                   {"site": settings["site"], "node": settings["node"]})
    except ValueError as error:
        raise CommandExecutionError(f"the figures do not fit together: {error}") from None


def _write(settings: dict[str, Any]) -> float:
    began = time.monotonic()
    text = _text(settings)
    try:
        __salt__["commit_confirm.replace_file"](str(FILE), text, FILE_MODE)
    except OSError as error:
        raise CommandExecutionError(f"{FILE} can not be written ({error.strerror}): a full disk? `df -h {FILE.parent}`"
                                    ) from None
    return time.monotonic() - began


def _sign() -> list[tuple[str, int, int]]:
    """A value that changes when the modules here, or Salt itself, are replaced by others."""
    found = []
    for path in [*sorted(Path(__file__).parent.glob("*.py")), Path(salt.version.__file__)]:
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((path.name, stat.st_mtime_ns, stat.st_ino))
    return found


def _notify(word: str) -> None:
    """Tell systemd a word, where it is this process's parent (sd_notify(3))."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        # Without waiting: a systemd that does not read must not stop the figures.
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as way:
            way.connect("\0" + place[1:] if place.startswith("@") else place)
            way.send(word.encode())
