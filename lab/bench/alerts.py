"""Measures what a thousand gateways' events cost one master, and how late the alerts are.

    PYTHONPATH=. python3 -m lab.bench.alerts

A real master with the tree's engine runs in a temporary folder, with 500 made-up sites of two nodes each. A few minions
with accepted keys send their signed events through the master's request channel; the alerts go to a web server here.
There are two parts: a steady rate, in which each event's condition ends again a while later, and a sudden burst, during
which a real minion is pinged. Nothing outside the folder and loopback is touched.
"""
from __future__ import annotations

import argparse
import asyncio
import collections
import datetime
import math
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import salt.channel.client
import salt.client
import salt.config
import yaml

from alerts import authentic, files
from tests import sinks

Event = dict[str, Any]      # as a minion sends it: tag and data
if TYPE_CHECKING:
    Inbox = multiprocessing.Queue[list[Event] | None]

TREE = Path(__file__).resolve().parents[2]
SENDERS = 4


class Bench:
    """The master, a minion, the sink."""

    def __init__(self, folder: Path, sink: sinks.Sink, gateways: int) -> None:
        self.folder, self.sink = folder, sink
        self.ids = [f"gw{node}.s{site}" for site in range(gateways // 2) for node in (1, 2)]
        self.journals = {minion: secrets.token_hex(8) for minion in self.ids}
        self.numbers = dict.fromkeys(self.ids, 0)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port = _free_port()
        pillar = folder / "pillar"
        (pillar / "sites").mkdir(parents=True)
        for site in range(gateways // 2):
            (pillar / f"sites/s{site}.sls").write_text("gateway: {nodes: {gw1: {}, gw2: {}}}\n")
        (pillar / "top.sls").write_text("base: {}\n")
        (pillar / "alerts.sls").write_text(yaml.safe_dump({"alerts": {
            "targets": {"hook": {"type": "webhook", "url": f"http://127.0.0.1:{sink.port}/"}},
            "routes": [{"targets": ["hook"]}]}}))
        shipped = yaml.safe_load((TREE / "etc/salt/master.d/gateway.conf").read_text())
        self.opts = self._config("master", {
            "publish_port": self.port, "ret_port": _free_port(), "auto_accept": True, "worker_threads": 5,
            "pillar_roots": {"base": [str(pillar)]}, "file_roots": {"base": [str(TREE / "salt")]},
            "engines_dirs": [str(TREE / "_engines")], "engines": [{"gateway_alerts": {}}],
            "gateway_alerts": {"presence": 0}, "keep_jobs_seconds": shipped["keep_jobs_seconds"]})
        self.secret = authentic.load_secret(self.folder / "master/pki")
        self._start("salt-master", "master")
        self._config("bench", {})
        self._start("salt-minion", "bench")
        for number in range(SENDERS):
            self._config(f"sender{number}", {})

    def _config(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        root = self.folder / name
        (root / "pki").mkdir(parents=True)
        kind = "master" if name == "master" else "minion"
        data = {"root_dir": str(root), "pki_dir": str(root / "pki"), "cachedir": str(root / "cache"), "user": "root",
                "sock_dir": str(root / "run"), "log_file": str(root / "log"), "log_level": "error",
                "log_level_logfile": "warning", "interface": "127.0.0.1", "enable_fqdns_grains": False,
                "enable_gpu_grains": False, **more}
        if kind == "minion":
            data |= {"id": name, "master": "127.0.0.1", "publish_port": self.opts["publish_port"],
                     "master_port": self.opts["ret_port"]}
        (root / kind).write_text(yaml.safe_dump(data))
        read: Callable[[str], dict[str, Any]] = getattr(salt.config, f"{kind}_config")
        return read(str(root / kind))

    def _start(self, program: str, name: str) -> None:
        self.processes.append(subprocess.Popen([f"{Path(sys.executable).parent}/{program}", "-c", self.folder / name],
                                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()

    def status(self) -> dict[str, Any]:
        return files.read(files.folder(self.folder / "master/cache") / files.STATUS) or {}

    def ping(self) -> float | None:
        """Seconds until the minion answered, None when it did not answer."""
        with salt.client.get_local_client(mopts=dict(self.opts)) as client:
            begun = time.monotonic()
            return time.monotonic() - begun if client.cmd("bench", "test.ping", timeout=20) else None

    def event(self, minion: str, subject: str, recovered: bool = False) -> dict[str, Any]:
        """The next event of a gateway, signed, as it stands in a minion's request."""
        self.numbers[minion] += 1
        node, _, site = minion.partition(".")
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        event = {"version": 1, "journal": self.journals[minion], "n": self.numbers[minion], "id": minion, "site": site,
                 "node": node, "role": "active", "beacon": "ipsec", "condition": "tunnel_down", "subject": subject,
                 "severity": "critical", "was": "up", "is": "down", "since": at, "at": at, "recovered": recovered,
                 "once": False, "cause": "no answer", "facts": {"peer": "203.0.113.7"}}
        return {"tag": f"salt/beacon/{minion}/ipsec/tunnel_down",
                "data": authentic.sign(event, authentic.key_of(self.secret, minion))}


def _send(config: str, name: str, inbox: Inbox) -> None:
    """One minion's connection: sends messages (lists of events) from `inbox` to the master, up to 8 at a time."""
    opts = salt.config.minion_config(config)
    opts["master_uri"] = f"tcp://127.0.0.1:{opts['master_port']}"

    async def run() -> None:
        channel = salt.channel.client.AsyncReqChannel.factory(opts, io_loop=asyncio.get_running_loop())
        await channel.connect()
        running = asyncio.Semaphore(8)

        async def one(events: list[Event]) -> None:
            try:
                await channel.send({"cmd": "_minion_event", "id": name, "events": events}, timeout=60, tries=3)
            finally:
                running.release()
        tasks = set()
        while (events := await asyncio.to_thread(inbox.get)) is not None:
            await running.acquire()
            tasks.add(asyncio.create_task(one(events)))
            tasks = {task for task in tasks if not task.done()}
        await asyncio.gather(*tasks)
        channel.close()

    asyncio.run(run())


class Senders:
    """The processes that send events."""

    def __init__(self, bench: Bench) -> None:
        self.inboxes: list[Inbox] = [multiprocessing.Queue() for _ in range(SENDERS)]
        self.processes = [multiprocessing.Process(target=_send, args=(
            str(bench.folder / f"sender{number}/minion"), f"sender{number}", inbox), daemon=True)
            for number, inbox in enumerate(self.inboxes)]
        for process in self.processes:
            process.start()

    def put(self, minion: str, events: list[Event]) -> None:
        """Send events of a gateway, always over the same connection, so that they keep their order."""
        self.inboxes[hash(minion) % SENDERS].put(events)

    def stop(self) -> None:
        for inbox in self.inboxes:
            inbox.put(None)
        for process in self.processes:
            process.join(120)


def _free_port() -> int:
    import socket
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Cpu:
    """Measures the processor time of the master's processes and of the engine."""

    def __init__(self, master: int, engine: int) -> None:
        self.engine = psutil.Process(engine)
        self.all = [psutil.Process(master), *psutil.Process(master).children(recursive=True)]
        self.at, self.before = time.monotonic(), self._now()

    def _now(self) -> tuple[float, float]:
        def used(process: psutil.Process) -> float:
            try:
                return float(sum(process.cpu_times()[:2]))
            except psutil.NoSuchProcess:
                return 0.0
        return sum(map(used, self.all)), used(self.engine)

    def shares(self) -> str:
        seconds, now = time.monotonic() - self.at, self._now()
        both = [(after - before) / seconds * 100 for after, before in zip(now, self.before, strict=True)]
        return f"{both[0]:.0f} % of a core for the whole master, {both[1]:.0f} % of it the engine"


class Came(NamedTuple):
    """An alert at the sink: when its event was noticed, when the engine decided on it, when it came.

    All times are in seconds since the epoch.
    """

    caused: float
    decided: float
    at: float
    kind: str

    @property
    def delay(self) -> float:
        """Seconds from the event to the alert at the sink."""
        return self.at - self.caused


def alerts_of(sink: sinks.Sink, since: int) -> list[Came]:
    """The alerts that came after the first `since` messages, each once; a digest counts as its alerts."""
    found: dict[str, Came] = {}
    for got in sink.got[since:]:
        said = got.json
        for alert in said.get("alerts", [said]):
            found.setdefault(alert["id"], Came(alert["caused"], alert["at"], got.at, alert["kind"]))
    return list(found.values())


def spread(values: list[float]) -> str:
    """A distribution of seconds, in words."""
    if not values:
        return "none"
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95, 0.99)]
    return f"median {at[0]:.2f} s, 95 % {at[1]:.2f} s, 99 % {at[2]:.2f} s, worst {ordered[-1]:.2f} s"


def in_time(delays: list[float]) -> bool:
    """Whether alerts came, and none later than 10 s."""
    return max(delays, default=math.inf) < 10


def steady(bench: Bench, senders: Senders, rate: int, seconds: int) -> bool:
    """Send `rate` events a second for `seconds`; each condition ends five seconds after it began.

    Returns whether no event was lost and no alert was later than 10 s.
    """
    print(f"steady: {rate} events/s for {seconds} s from {len(bench.ids)} gateways, one request each")
    cpu = Cpu(bench.processes[0].pid, bench.status()["pid"])
    before, first = bench.status()["counts"], len(bench.sink.got)
    ending: collections.deque[tuple[float, str, str]] = collections.deque()
    begun, sent, number, waits = time.monotonic(), 0, 0, 0
    while sent < rate * seconds:
        target = begun + sent / rate
        if (ahead := target - time.monotonic()) > 0:
            time.sleep(ahead)
        if ending and ending[0][0] <= time.monotonic():
            _, minion, subject = ending.popleft()
            senders.put(minion, [bench.event(minion, subject, recovered=True)])
        else:
            minion, subject = bench.ids[number % len(bench.ids)], f"tunnel{number}"
            number += 1
            senders.put(minion, [bench.event(minion, subject)])
            ending.append((time.monotonic() + 5, minion, subject))
        sent += 1
        if sent % rate == 0:
            waits = max(waits, bench.status().get("waiting_events", 0))
    took = time.monotonic() - begun
    arrived = _until(bench, before["events"] + sent, 60)
    print(f"  sent {sent} in {took:.1f} s; the engine took {arrived - before['events']}, the last "
          f"{time.monotonic() - begun - took:.1f} s after the end; CPU: {cpu.shares()}")
    time.sleep(12)
    counts = bench.status()["counts"]
    delivered = alerts_of(bench.sink, first)
    # What joins an incident that is already alerted is alerted when it has stayed for 10 s (alerts/incidents.py).
    delays = [each.delay for each in delivered if each.kind != "update"]
    updates = [each.delay for each in delivered if each.kind == "update"]
    inside = [each.at - each.decided for each in delivered]
    print(f"  {counts['alerts'] - before['alerts']} alerts in {len(bench.sink.got) - first} messages; event to "
          f"delivered: {spread(delays)}\n"
          f"  updates of incidents already alerted, which wait for 10 s: {len(updates)}, {spread(updates)}\n"
          f"  after the engine had decided: {spread(inside)}; waiting in the engine at most {waits}")
    fine = (arrived - before["events"] == sent and len(delivered) == counts["alerts"] - before["alerts"]
            and in_time(delays))
    print(f"  none lost, none later than 10 s: {'yes' if fine else 'NO'}")
    return fine


def burst(bench: Bench, senders: Senders, count: int) -> bool:
    """Send `count` events at once, and ping a minion meanwhile.

    Returns whether no event and no alert was lost and every ping was answered.
    """
    print(f"burst: {count} events at once from {len(bench.ids)} gateways, ten to a request")
    before, first = bench.status()["counts"], len(bench.sink.got)
    calm = statistics.median([bench.ping() or 99 for _ in range(3)])
    pings: list[float | None] = []
    over = threading.Event()

    def pinging() -> None:
        while not over.is_set():
            pings.append(bench.ping())

    each = count // len(bench.ids)
    ready = [(minion, [bench.event(minion, f"burst{minion}-{number}") for number in range(each)])
             for minion in bench.ids]
    thread = threading.Thread(target=pinging)
    thread.start()
    begun, cpu = time.monotonic(), Cpu(bench.processes[0].pid, bench.status()["pid"])
    for minion, events in ready:
        senders.put(minion, events)
    arrived = _until(bench, before["events"] + each * len(bench.ids), 180)
    took = time.monotonic() - begun
    over.set()
    thread.join()
    print(f"  {arrived - before['events']} events taken within {took:.1f} s; CPU: {cpu.shares()}")
    time.sleep(12)
    counts = bench.status()["counts"]
    delivered = alerts_of(bench.sink, first)
    delays = [each.delay for each in delivered]
    inside = [each.at - each.decided for each in delivered]
    answered = [ping for ping in pings if ping is not None]
    print(f"  {counts['alerts'] - before['alerts']} alerts in {len(bench.sink.got) - first} messages; event to "
          f"delivered: {spread(delays)}\n"
          f"  of that after the engine had decided: {spread(inside)}; waiting in the engine at most "
          f"{counts['most_waiting']}")
    print(f"  test.ping meanwhile: {len(answered)} of {len(pings)} answered, {spread(answered)} (before: {calm:.2f} s)")
    fine = arrived - before["events"] == each * len(bench.ids) and len(answered) == len(pings) and (
        len(delivered) == counts["alerts"] - before["alerts"])
    print(f"  absorbed, grouped, master answers: {'yes' if fine else 'NO'}")
    return fine


def _until(bench: Bench, events: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while (count := bench.status()["counts"]["events"]) < events and time.monotonic() < deadline:
        time.sleep(0.2)
    return int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateways", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=200, help="events a second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--burst", type=int, default=10_000)
    wanted = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory(prefix="alerts-") as folder, sinks.web() as sink:
        bench = Bench(Path(folder), sink, wanted.gateways)
        senders = None
        try:
            deadline = time.monotonic() + 120
            while not bench.status() or not bench.ping():
                if time.monotonic() > deadline:
                    raise SystemExit("the master or its minion did not come up")
                time.sleep(1)
            senders = Senders(bench)
            fine = [steady(bench, senders, wanted.rate, wanted.seconds), burst(bench, senders, wanted.burst)]
        finally:
            if senders:
                senders.stop()
            bench.stop()
    if not all(fine):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
