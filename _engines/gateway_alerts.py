"""
Alerts from the gateways' events
================================

Runs on the master as long as the master runs. Listens on the event bus for the gateways' reports and sends alerts to
people. The tree's package ``alerts`` decides; this file connects it to Salt's bus, keys, jobs and configuration.

Master's configuration, all optional (docs/monitoring.md)::

    gateway_alerts:
      rank: 0          # where two masters share the minions: 0 on the first, 1 on the second
      other: master-a  # on the second: name or address of the first, NAME:PORT where its port is not 4506
      presence: 60     # seconds between two rounds of asking all nodes whether they answer; 0: no rounds

``gateway_reactions``, a list: what is done by itself when something happens (alerts/reaction_settings.py).
"""
from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import salt.client
import salt.loader
import salt.payload
import salt.template
import salt.transport
import salt.utils.event
import salt.utils.jid
import salt.utils.minions

# The tree comes last in the path, so that nothing in it shadows an installed package.
sys.path += [root for root in [str(Path(__file__).resolve().parent.parent)] if root not in sys.path]

from alerts import authentic, files, reaction_settings, service  # noqa: E402
from alerts.reaction_worker import Worker, command_for  # noqa: E402
from alerts.reactions import Reactions  # noqa: E402
from alerts.shapes import Message  # noqa: E402
from alerts.targets import Failed  # noqa: E402

log = logging.getLogger(__name__)

__virtualname__ = "gateway_alerts"

_EVENTS = (b"salt/beacon/", b"gateway/master/")
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
    wanted = __opts__.get("gateway_alerts") or {}
    rank = wanted.get("rank")
    if rank not in (None, 0, 1):
        log.error("gateway_alerts:rank: %s is neither 0 nor 1; working as the only master", str(rank)[:40])
        rank = None
    if rank == 1 and not wanted.get("other"):
        log.warning("gateway_alerts:other: is missing on the master with rank 1: both masters alert about silent nodes")
    opts = dict(__opts__)  # for the threads: Salt's own mapping is bound to this one
    links = _Links(opts, str(wanted.get("other") or ""))
    folder, sites = files.folder(opts["cachedir"]), authentic.Sites(opts["pillar_roots"].get("base", []))
    its = service.Service(
        folder, authentic.load_secret(__opts__["pki_dir"]), sites,
        service.Outside(links.publish, links.known, links.bus, links.stamp, links.load, links.cached,
                        links.other_alive),
        rank=rank, presence=float(wanted.get("presence", 60)), name=str(__opts__.get("id", "master")),
        reactions=Reactions(folder, reaction_settings.of_master(opts, sites.names()),
                            Worker(command_for(opts["conf_file"]))))
    links.service = its
    threading.Thread(target=_read_forever, args=(opts, its), name="alerts-bus", daemon=True).start()
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


# The bus


def _read_forever(opts: dict[str, Any], its: service.Service) -> None:
    """Reads all messages without delay: the master drops a listener that is 10,000 events behind."""
    while True:
        try:
            asyncio.run(_read(opts, its))
        except Exception:  # a broken connection, of many kinds
            log.exception("alerts: lost the connection to the master's bus; connecting again")
        time.sleep(0.5)


async def _read(opts: dict[str, Any], its: service.Service) -> None:
    # Not SaltEvent.get_event: it unpacks every event on the bus before it looks at the tag, also the returns of large
    # states, and runs its event loop once for each.
    client = salt.transport.ipc_publish_client("master", opts, io_loop=asyncio.get_running_loop())
    try:
        await client.connect()
        its.lost()  # asks for earlier events, now that the answers can be received
        stream, count = getattr(client, "_stream", None), 0
        while True:
            raw = await client.recv()
            if raw is None:
                continue
            if getattr(client, "_stream", None) is not stream:
                stream = client._stream  # the client has reconnected by itself
                its.lost()
            _sort(raw, its)
            count += 1
            if count % 50 == 0:
                await asyncio.sleep(0)
    finally:
        client.close()


def _sort(raw: bytes, its: service.Service) -> None:
    """Passes one message of the bus on to the service. Most messages are for others."""
    tag, _, data = raw.partition(authentic.END_OF_TAG)
    if tag.startswith(_EVENTS):
        if len(raw) > authentic.MAX_MESSAGE_BYTES or len(tag) > authentic.MAX_TAG_BYTES:
            its.refuse("large")
            return
        try:
            content = salt.payload.loads(data, encoding="utf-8")
            its.offer(tag.decode("utf-8"), content)
        except Exception:  # the content can be anything
            its.refuse("malformed")
    elif tag.startswith(b"salt/job/"):
        parts = tag.decode("utf-8", "replace").split("/")
        if len(parts) == 5 and parts[3] == "ret" and parts[2] in its.pending:
            content = salt.payload.loads(data, encoding="utf-8")
            said = content.get("return") if isinstance(content, dict) else None
            its.answer(parts[2], parts[4], service.TRIMMED if b"VALUE_TRIMMED" in data else said)
    elif tag.startswith(b"salt/minion/") and tag.endswith(b"/start") and len(tag) < authentic.MAX_TAG_BYTES:
        its.started(tag.decode("utf-8", "replace").split("/")[2])


class _Links:
    """The functions of service.Outside."""

    service: service.Service

    def __init__(self, opts: dict[str, Any], other: str) -> None:
        self._opts, self._other = opts, other
        self._clients = threading.local()
        self._tried = (0.0, False)

    def publish(self, what: str, minions: list[str], arguments: list[Any]) -> str:
        """Starts a job on some minions; returns its id. The answers come over the bus. Only one thread calls this."""
        if getattr(self._clients, "jobs", None) is None:
            self._clients.jobs = salt.client.get_local_client(mopts=self._opts)
        job = salt.utils.jid.gen_jid(self._opts)
        self.service.expect(job, what)
        function = "test.ping" if what == "ping" else f"gateway_events.{what}"
        self._clients.jobs.run_job(minions, function, arguments, tgt_type="list", jid=job, timeout=15, listen=False)
        return job

    def cached(self, job: str, minion: str) -> Any:
        """What a minion returned to a job, from the job cache; None when it is not there."""
        try:
            with salt.client.get_local_client(mopts=self._opts) as client:
                return client.get_cache_returns(job).get(minion, {}).get("ret")
        except Exception as error:  # a returner's, of many kinds
            log.warning("alerts: the job cache has no answer of %s: %s", minion, error)
            return None

    def known(self) -> list[str]:
        """The ids of all minions with an accepted key."""
        return salt.utils.minions.CkMinions(self._opts).check_minions("*", "glob")["minions"]

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
