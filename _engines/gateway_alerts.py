"""
Alerts from the gateways' events
================================

Runs on the master as long as the master runs. Listens on the event bus for the gateways' reports and sends alerts to
people. The tree's package ``alerts`` decides; this file connects it to Salt's bus, keys, jobs and configuration.

Master's configuration, all optional (docs/monitoring.md)::

    gateway_alerts:
      rank: 0          # where two masters share the minions: 0 on the first, 1 on the second
      other: master-a  # on the second: name or address of the first, NAME:PORT where its port is not 4506
      presence: 60     # seconds between two rounds of asking all nodes whether they answer, 10 to 86400; 0: no rounds

``gateway_reactions``, a list: what is done by itself when something happens (alerts/reaction_settings.py).
"""
from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import salt.loader
import salt.template
import salt.utils.event

# The tree comes last in the path, so that nothing in it shadows an installed package.
sys.path += [root for root in [str(Path(__file__).resolve().parent.parent)] if root not in sys.path]

from alerts import authentic, files, reaction_settings, service, settings  # noqa: E402
from alerts.reaction_worker import Worker, command_for  # noqa: E402
from alerts.reactions import Reactions  # noqa: E402
from alerts.shapes import Message  # noqa: E402
from alerts.targets import Failed  # noqa: E402
from nodes import bus  # noqa: E402
from nodes.keys import Keys  # noqa: E402
from nodes.links import Links  # noqa: E402

log = logging.getLogger(__name__)

__virtualname__ = "gateway_alerts"

_OTHER_PORT = 4506  # of the other master, for the test whether it is reachable


def __virtual__() -> str | tuple[bool, str]:
    if __opts__.get("__role") != "master":
        return False, "gateway_alerts is an engine of the master"
    return __virtualname__


def start() -> None:
    """
    Works until the master ends. Salt restarts it when it fails.

    CLI Example:

    .. code-block:: yaml

        engines:
          - gateway_alerts: {}
    """
    wanted = settings.read(__opts__.get("gateway_alerts"))
    for line in wanted.mistakes:
        log.error("%s", line)
    opts = dict(__opts__)  # for the threads: Salt's own mapping is bound to this one
    links = _Links(opts, wanted.other)
    folder, sites = files.folder(opts["cachedir"]), authentic.Sites(opts["pillar_roots"].get("base", []))
    its = service.Service(
        folder, Keys(opts["pki_dir"]), sites,
        service.Outside(links.publish, links.known, links.bus, links.stamp, links.load, links.cached,
                        links.other_alive),
        rank=wanted.rank, presence=wanted.presence, name=str(__opts__.get("id", "master")),
        reactions=Reactions(folder, reaction_settings.of_master(opts, sites.names()),
                            Worker(command_for(opts["conf_file"]))), mistakes=wanted.mistakes)
    links.service = its
    threading.Thread(target=bus.read_forever, args=(opts, its.feed), name="alerts-bus", daemon=True).start()
    _on_end(its.stop)
    its.run()


def _on_end(stop: Callable[[], None]) -> None:
    """Calls `stop` on SIGTERM, and then the handler that was there before."""
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        stop()
        if callable(before):
            before(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handle)


class _Links:
    """The functions of service.Outside."""

    service: service.Service

    def __init__(self, opts: dict[str, Any], other: str) -> None:
        self._opts, self._other = opts, other
        self._links = Links(opts)
        self._clients = threading.local()
        self._tried = (0.0, False)

    def publish(self, what: str, minions: list[str], arguments: list[Any]) -> str:
        """Starts a job on some minions; returns its id. The answers come over the bus. Only one thread calls this."""
        asked = self.service.expect(self._links.new_job(), what, minions)
        self._links.send(asked, arguments)
        return asked.job

    def cached(self, job: str, minion: str) -> Any:
        """What a minion returned to a job, from the job cache; None when it is not there."""
        return self._links.cached(job, minion)

    def known(self) -> list[str]:
        """The ids of all minions with an accepted key."""
        return self._links.known()

    def bus(self, message: Message) -> str:
        """Puts an alert on the bus, for other programs. Only one thread calls this."""
        if getattr(self._clients, "bus", None) is None:
            self._clients.bus = salt.utils.event.get_master_event(self._opts, self._opts["sock_dir"], listen=False)
        fired = self._clients.bus.fire_event(
            {key: value for key, value in message.items() if key != "digest"},
            f"gateway/alert/{message['site'] or 'all'}/{message['severity']}")
        if not fired:
            self._clients.bus = None
            raise Failed("the master's bus does not take it")
        return "on the bus"

    def stamp(self) -> float:
        """The time of pillar/alerts.sls, 0 when there is none."""
        path = self._path()
        return path.stat().st_mtime if path else 0.0

    def load(self) -> Any:
        """The value of the key `alerts` in pillar/alerts.sls, decrypted."""
        path = self._path()
        return _render(self._opts, path) if path else None

    def _path(self) -> Path | None:
        paths = [Path(root) / "alerts.sls" for root in self._opts["pillar_roots"].get("base", [])]
        return next((path for path in paths if path.is_file()), None)

    def other_alive(self) -> bool:
        """Whether this master reaches the other one. Tries at most once in five seconds."""
        if not self._other:
            return False
        at, alive = self._tried
        if time.monotonic() - at > 5:
            # NAME, NAME:PORT, or an IPv6 address
            host, port = self._other.split(":") if self._other.count(":") == 1 else (self._other, _OTHER_PORT)
            try:
                with socket.create_connection((host, int(port)), timeout=2):
                    alive = True
            except (OSError, ValueError):
                alive = False
            self._tried = time.monotonic(), alive
        return alive


def _render(opts: dict[str, Any], path: Path) -> Any:
    """The key `alerts` of a pillar file, rendered and decrypted as for a minion."""
    rendered = salt.template.compile_template(
        str(path), salt.loader.render(opts, {}), opts["renderer"], opts["renderer_blacklist"],
        opts["renderer_whitelist"])
    return rendered.get("alerts") if isinstance(rendered, dict) else rendered
