"""The one loop: events to decide.py, its actions to the kernel, heartbeat, the daemon, the log."""
from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from agent import announce, control, decide, history, paths
from agent.addresses import Addresses, Refused, Watch
from agent.daemon import LISTEN_SECONDS, Daemon, Job, progress
from agent.heartbeat import Gone, Heartbeat
from agent.offset import CLOCK_FIELD, Offset
from agent.probe import Probe
from agent.settings import Address, Settings
from agent.system import clock, drain, in_time, log, wake_on

TICK_SECONDS = 0.05
TURNS_EVERY_SECONDS = 0.1  # heartbeat's turns on the processor are looked at this often
ECHO_SECONDS, ECHO_EVERY_SECONDS = 0.5, 2.0  # a message to itself is back by then; one is sent this often
# What is kept is brought to the disk by a process of its own (agent/history.py). Not at once: a take-over comes first.
STORE_DELAY_SECONDS, STORE_COMMAND = 1.0, ("/usr/local/lib/gateway/agent/run", "store")
LAST_STORE_SECONDS = 1.0  # this process ends, perhaps because the machine does: so long it waits for that
CLIENTS_PAUSED_SECONDS = 45.0  # heartbeat reads nothing of its clients for 30 s and the deadtime at most, if it lives
# Salt makes it when all of this node is as the master wants it (drift.compared); a boot takes it away.
COMPARED_MARK = Path("/run/gateway/current")
HELD_FILE = Path("/run/gateway-agent.addresses")  # what is held, for whoever comes after with other settings


def former(path: Path = HELD_FILE) -> list[Address]:
    """What this node held last."""
    try:
        return [Address(*each) for each in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def release(settings: Settings | None) -> None:
    """Gives up all addresses, whoever holds them for whatever reason. Raises OSError."""
    wanted = {*former(), *(settings.addresses if settings else ())}
    Addresses(wanted).leave()
    HELD_FILE.unlink(missing_ok=True)


def reloading() -> bool:
    """heartbeat ends its clients also when it only reads ha.cf again (`heartbeat -r`, ExecReload of the unit)."""
    if not os.path.isdir("/run/systemd/system"):
        return False
    try:
        said = subprocess.run(["/usr/bin/systemctl", "show", "--property=SubState", "heartbeat.service"],
                              capture_output=True, text=True, timeout=0.8, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.strip().startswith("SubState=reload")


class Worker:
    """One life of the agent. run() returns when it is over."""

    def __init__(self, settings: Settings, pulse: int, parent: int) -> None:
        """`pulse`: where to say that it lives; `parent`: heartbeat's process."""
        self.settings, self.pulse, self.parent = settings, pulse, parent
        self.poll = select.poll()
        self.ready: dict[int, Callable[[], None]] = {}
        self.jobs: list[Job] = []
        self.heartbeat: Heartbeat | None = None
        self.heartbeat_fd = -1
        self.echo_sent = self.waits = 0.0  # when it was sent; since when one is waited for
        self.echoes = 0
        self.unread = False  # what it says is not read
        self.turns, self.turned, self.glanced = "", 0.0, 0.0  # heartbeat's on the processor; the last; when looked at
        self.next_try = self.next_look = self.before = 0.0
        self.listen_at = 0.0  # when the daemon is told once more to look at its addresses, if it has to be
        # When what is kept has to be brought to the disk, if it has: an agent that was killed may have left that.
        self.store_at = clock() + STORE_DELAY_SECONDS
        self.storing = False  # one at a time, however long it takes
        self.refusal = ""
        self.announcing: list[float] = []
        self.offset = Offset()
        self.probe: Probe | None = None
        self.clients: dict[int, int] = {}  # number of a command: its client
        self.ended = False
        self.queue: list[decide.Event] = []

        gone = set(former()) - set(settings.addresses)
        if gone:
            Addresses(gone).leave()
            log("notice", f"{', '.join(each.address for each in gone)}: no virtual IP any more, given up")
        self.addresses = Addresses(settings.addresses)
        self.links = Watch()
        self.add(self.links.socket.fileno(), self.on_link)
        self.signals, wakeup = socket.socketpair()
        self.signals.setblocking(False)
        wake_on((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), wakeup)
        self.wakeup = wakeup
        self.add(self.signals.fileno(), self.on_signal)
        self.server = control.Server(self.on_question)
        self.add(self.server.socket.fileno(), self.on_client)
        self.daemon = Daemon(settings.daemon, self.start, lambda state: self.queue.append(decide.Daemon(state)))
        self.daemon_fd = -1

        state, _held, self.missing = self.addresses.look()
        self.held_before = state
        try:
            history.fetch()
        except OSError as error:
            log("err", f"what was kept is not to be had: {error}")
        try:
            own, highest = history.epochs()
        except ValueError as error:
            log("err", f"{error}: begins at 0")
            own = highest = 0
        now = clock()
        site = decide.Site(
            settings.node, settings.peer, settings.preferred, settings.uplinks, settings.ping_nodes, settings.deadtime,
            settings.deadping, settings.failback == "auto", settings.failback_delay, fence=settings.fence is not None,
            daemon=settings.daemon is not None, compare=settings.compare)
        self.now = now
        self.machine = decide.RoleMachine(site, now, own, highest, state, [now - age for age in history.failbacks()])
        self.machine.compared = self.machine.compared or COMPARED_MARK.exists()

    # The loop

    def add(self, fd: int, call: Callable[[], None]) -> None:
        self.ready[fd] = call
        self.poll.register(fd, select.POLLIN)

    def remove(self, fd: int) -> None:
        del self.ready[fd]
        self.poll.unregister(fd)

    def run(self) -> None:
        """Until it is over."""
        refused = in_time()
        log("info", f"started on {self.settings.node}, addresses {self.held_before}"
                    + (f", without {refused}" if refused else ""))
        for name, up in self.addresses.carriers().items():
            self.on_carrier(name, up)
        if self.machine.role == "active":
            self.machine.missing = self.missing
            self.handle(decide.Missing(self.missing))
        self.before = clock()
        while not self.ended:
            found = self.poll.poll(TICK_SECONDS * 1000)
            self.now = now = clock()
            gap = now - self.before
            if gap > self.settings.deadtime:
                self.handle(decide.Gap(gap))  # before anything that came meanwhile is read
            if gap > 2 * TICK_SECONDS:
                self.turned += gap  # heartbeat may have stood still as well
                self.waits += gap if self.waits else 0.0
                for job in self.jobs:
                    job.deadline += gap
            self.before = now
            self.beat()
            for fd, _ in found:
                if fd in self.ready:
                    self.ready[fd]()
            self.tick(now)
        self.store_last()

    def beat(self) -> None:
        """For the supervisor: not hung."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.pulse, b".")

    def tick(self, now: float) -> None:
        log.flush()
        self.keep_heartbeat(now)
        for job in [each for each in self.jobs if now >= each.deadline]:
            self.drop(job)
            job.kill()
        self.daemon.tick(now)
        if self.daemon.pidfd != self.daemon_fd and self.daemon.pidfd >= 0:
            self.daemon_fd = self.daemon.pidfd
            self.add(self.daemon_fd, self.on_daemon_died)
        if self.announcing and now >= self.announcing[0]:
            self.announcing.pop(0)
            for wrong in announce.send(self.settings.addresses):
                log("warning", wrong)
        if self.listen_at and now >= self.listen_at and not self.machine.muted:
            self.listen_at = 0.0
            if self.machine.role == "active":
                self.daemon.listen(self.on_listened)
        if self.store_at and now >= self.store_at and not self.storing:
            self.store()
        if now >= self.next_look:
            self.look()
        self.handle(decide.Tick())

    def handle(self, event: decide.Event, more: bool = False) -> None:
        """One event, and what came up while it was handled. `more`: others of the same moment follow.

        For the machine it is the time of the loop's last look at the clock: when this process stands still between
        two lines, no deadline has passed before the loop has noticed, and has read what came meanwhile.
        """
        self.queue.append(event)
        while self.queue and not self.ended:
            for action in self.machine.handle(self.queue.pop(0), self.now, more):
                try:
                    getattr(self, "do_" + type(action).__name__.lower())(action)
                except Refused as error:
                    log("err", f"the kernel refuses: {error}")
                except (OSError, ValueError) as error:
                    log("err", f"{type(action).__name__.lower()}: {error}")

    # Where events come from

    def keep_heartbeat(self, now: float) -> None:
        deadtime = self.settings.deadtime
        if not self.heartbeat:
            if now < self.next_try:
                return
            self.next_try = now + 2 * TICK_SECONDS
            try:
                self.heartbeat = Heartbeat(self.settings.node, self.settings.peer, self.settings.ping_nodes,
                                           self.beat)
            except Gone as error:
                if self.refusal != str(error):
                    self.refusal = str(error)
                    log("warning", f"heartbeat: {error}; trying on")
                return
            self.refusal = ""
            self.heartbeat_fd = self.heartbeat.fileno()
            self.add(self.heartbeat_fd, self.on_heartbeat)
            # Signing on takes one to ten of heartbeat's keepalives
            self.turned = self.before = self.now = clock()
            self.echo_sent = self.waits = 0.0
            self.echoes = 0
            self.handle(decide.Connected(True))
            self.on_heartbeat()
            return
        # A heartbeat that hangs keeps the connection, and is dead for the peer: it has no more turns on the processor
        # (4 a second at least while it lives: POLL_INTERVAL in heartbeat.c). One that has them and is of no use does
        # not return a message to itself; such a message costs heartbeat much on both nodes, and is sent seldom.
        # Trap: while the peer's starts itself anew and acknowledges nothing, heartbeat reads nothing of its clients
        # ("all clients are now paused"), for half a minute, and is alive all the same.
        patience = max(1.0, deadtime)
        if now - self.glanced >= TURNS_EVERY_SECONDS:
            self.glanced = now
            turns = progress(self.parent)[1]
            if turns and turns != self.turns:
                self.turns, self.turned = turns, now
        self.unread = self.waits > 0.0 and now - self.waits > ECHO_SECONDS
        waits_long = self.waits > 0.0 and now - self.waits > CLIENTS_PAUSED_SECONDS + deadtime
        silent = now - self.turned > patience or waits_long
        if now - self.echo_sent >= (patience if self.unread else ECHO_EVERY_SECONDS):
            self.echo_sent = now
            self.waits = self.waits or now
            self.post({"kind": "echo"}, self.settings.node)
        if self.heartbeat and silent == self.machine.connected:
            self.handle(decide.Connected(not silent))
        self.on_heartbeat()  # the library may hold messages that poll() does not know of

    def on_heartbeat(self) -> None:
        if not self.heartbeat:
            return
        try:
            events = self.heartbeat.read()
        except Gone as error:
            self.lost(str(error))
            return
        if self.heartbeat.echoes != self.echoes:
            self.echoes, self.waits = self.heartbeat.echoes, 0.0
            self.turned = clock()
            if not self.machine.connected:
                self.handle(decide.Connected(True))
        if events:
            self.turned = clock()  # it says something, so it lives, however late it is with the rest
        for number, event in enumerate(events, 1):
            if isinstance(event, decide.Received):
                self.offset.heard(event.message, time.time())
            self.handle(event, number < len(events))

    def lost(self, why: str) -> None:
        """heartbeat has gone; it is tried again at every second tick."""
        if self.heartbeat:
            self.remove(self.heartbeat_fd)
            self.heartbeat.close()
            self.heartbeat = None
            log("warning", f"heartbeat: {why}")
            self.handle(decide.Connected(False))

    def post(self, message: Mapping[str, object], node: str = "") -> None:
        if self.heartbeat:
            try:
                self.heartbeat.send(message, node)
            except Gone as error:
                self.lost(str(error))

    def on_link(self) -> None:
        if self.links.read(self.on_carrier):
            self.look()

    def on_carrier(self, name: str, up: bool) -> None:
        if name in self.settings.uplinks and self.machine.uplinks.get(name) != up:
            log("info", f"{name} {'has' if up else 'lost'} carrier")
            self.handle(decide.Uplink(name, up))

    def look(self) -> None:
        self.next_look = clock() + 1.0
        state, held, missing = self.addresses.look()
        if missing or self.machine.missing:
            self.handle(decide.Missing(missing))
        if (held or state == "parked") and self.machine.role == "standby":
            self.handle(decide.Found(held, state == "parked"))
        if self.heartbeat:
            self.handle(decide.Deaf(*paths.deaf(self.heartbeat.links, paths.opened())))
        if COMPARED_MARK.exists() != self.machine.compared:
            self.handle(decide.Compared(COMPARED_MARK.exists()))

    def on_probe(self) -> None:
        for each in self.probe.heard() if self.probe else ():
            self.handle(decide.Reached(each))

    def on_signal(self) -> None:
        if any(each in (signal.SIGTERM, signal.SIGINT) for each in drain(self.signals.fileno())):
            self.handle(decide.Terminate(reloading()))

    def outside(self) -> list[str]:
        """The virtual IPs that clients call."""
        return [each.address for each in self.settings.addresses if each.interface in self.settings.uplinks]

    def on_listened(self, ok: bool) -> None:
        hears = self.daemon.hears(self.outside())
        if ok or hears:
            self.queue.append(decide.Listened(hears))
        else:  # dead or hung, which is noticed by itself, or only late: told once more
            self.listen_at = clock() + LISTEN_SECONDS

    def on_daemon_died(self) -> None:
        self.remove(self.daemon_fd)
        self.daemon_fd = -1
        self.daemon.died()

    def on_client(self) -> None:
        number = self.server.accept()
        if number is not None:
            self.add(number, functools.partial(self.on_readable, number))

    def on_readable(self, client: int) -> None:
        if not self.server.read(client):
            self.remove(client)

    def on_question(self, client: int, question: dict[str, object]) -> None:
        name = question.get("command")
        if name == "status":
            self.server.answer(client, self.status())
        elif isinstance(name, str) and name in ("standby", "takeover"):
            number = max(self.clients, default=0) + 1
            self.clients[number] = client
            self.handle(decide.Command(name, question.get("force") is True, number))
        else:
            self.server.answer(client, {"error": f"unknown command {name!r}"[:200]})

    def status(self) -> control.Status:
        """What `run status` prints."""
        machine, peer = self.machine, self.machine.fresh()
        if not peer:
            self.offset.forget()
        _state, held, missing = self.addresses.look()
        since = datetime.now().astimezone() - timedelta(seconds=clock() - machine.since)
        return {
            "role": machine.public_role(), "epoch": machine.epoch, "since": since.isoformat(timespec="milliseconds"),
            "cause": machine.cause, "node": self.settings.node, "muted": machine.muted,
            "heartbeat": "alive" if machine.connected else "dead",
            "peer": {"node": self.settings.peer, "heartbeat": machine.peer if machine.connected else "unknown",
                     "agent": "there" if peer else "silent" if machine.peer_agent else "none",
                     "role": peer.role if peer else "unknown", "ready": bool(peer and peer.ready),
                     "not_ready_because": machine.peer_unready(), "epoch": peer.epoch if peer else None,
                     "clock_offset": self.offset.seconds()},
            "ready": not machine.not_ready(), "not_ready_because": machine.not_ready(),
            "held": list(held), "missing": list(missing), "intruder": machine.intruder(),
            "links": dict(self.heartbeat.links) if self.heartbeat else {},
            "ping_nodes": {each: "up" if machine.pings.get(each) else "dead" for each in self.settings.ping_nodes},
            "daemon": machine.daemon, "starved": machine.starved(),
        }

    def start(self, command: Sequence[str], timeout: float, done: Callable[[bool, str], None]) -> None:
        """A command beside the loop."""
        try:
            job = Job(command, timeout, clock(), done)
        except OSError as error:
            done(False, f"{command[0]}: {error.strerror}")
            return
        self.jobs.append(job)

        def over() -> None:
            self.drop(job)
            job.ended()

        self.add(job.fd, over)

    def store(self) -> None:
        """What is kept, to the disk."""
        def stored(_ok: bool, _why: str) -> None:  # it has said itself what was wrong
            self.storing = False

        self.store_at, self.storing = 0.0, True
        self.start(STORE_COMMAND, math.inf, stored)

    def store_last(self) -> None:
        """The same as the last thing that this process does, and for a moment it waits for that."""
        until = clock() + LAST_STORE_SECONDS
        while (self.store_at or self.storing) and clock() < until:
            if not self.storing:
                self.store()
            self.beat()
            time.sleep(TICK_SECONDS)
            for job in [each for each in self.jobs if each.process.poll() is not None]:
                self.drop(job)
                job.ended()

    def drop(self, job: Job) -> None:
        self.jobs.remove(job)
        self.remove(job.fd)

    # Actions

    def do_hold(self, _action: decide.Hold) -> None:
        try:
            self.addresses.hold()
        finally:
            self.do_announce(decide.Announce())
            history.replace(HELD_FILE, json.dumps(self.settings.addresses))
            self.daemon.listen(self.on_listened)

    def do_restore(self, _action: decide.Restore) -> None:
        self.do_hold(decide.Hold())

    def do_remove(self, _action: decide.Remove) -> None:
        self.addresses.leave()

    def do_announce(self, _action: decide.Announce) -> None:
        now = clock()
        self.announcing = [now + each for each in announce.ANNOUNCE_AT_SECONDS[1:]]
        for wrong in announce.send(self.settings.addresses):
            log("warning", wrong)

    def do_mute(self, _action: decide.Mute) -> None:
        self.addresses.mute()
        self.announcing.clear()

    def do_unmute(self, _action: decide.Unmute) -> None:
        self.addresses.unmute()
        self.do_announce(decide.Announce())
        # Who knows what it was told meanwhile. Trap: one that looks while they are silenced can not have them, and does
        # not try again when it looks once more (5.2): that takes a restart. One that is only busy is told once more.
        self.daemon.listen(self.on_listened, call=False)

    def do_park(self, _action: decide.Park) -> None:
        self.announcing.clear()
        self.addresses.park()

    def do_release(self, _action: decide.Release) -> None:
        self.daemon.forget(lambda: self.queue.append(decide.Released()), self.outside())

    def do_leave(self, _action: decide.Leave) -> None:
        self.announcing.clear()
        self.addresses.leave()
        HELD_FILE.unlink(missing_ok=True)
        self.daemon.forget()

    def do_restart(self, _action: decide.Restart) -> None:
        def restarted(ok: bool, why: str) -> None:
            log("info" if ok else "err", "the IPsec daemon was restarted" if ok else f"the IPsec daemon: {why}")
            self.daemon.next = 0.0
            if ok and self.machine.role == "active":
                self.daemon.listen(self.on_listened)

        self.daemon.restart(restarted)

    def do_reopen(self, action: decide.Reopen) -> None:
        links = self.heartbeat.links if self.heartbeat else {}
        paths.reopen(self.parent, action.paths, [each for each in action.paths if links.get(each) == "up"])

    def do_probe(self, _action: decide.Probe) -> None:
        if not self.probe:
            self.probe = Probe(self.settings.ping_nodes)
            self.add(self.probe.socket.fileno(), self.on_probe)
        wrong = self.probe.ask()
        if wrong and self.probe.asked == 1:
            log("warning", f"ping nodes are asked: {'; '.join(wrong)}")

    def do_trust(self, _action: decide.Trust) -> None:
        if self.probe:
            self.remove(self.probe.socket.fileno())
            self.probe.close()
            self.probe = None

    def do_fence(self, _action: decide.Fence) -> None:
        fence = self.settings.fence
        if fence:
            self.start(fence.command, fence.timeout, lambda ok, why: self.queue.append(decide.Fenced(ok, why)))

    def do_send(self, action: decide.Send) -> None:
        if self.unread and action.message["kind"] == "state" and not {"ask", "re"} & set(action.message):
            return  # it would only wait in a queue, and there is a newer one a second later
        self.post(action.message | {CLOCK_FIELD: round(time.time(), 3)})

    def do_keep(self, action: decide.Keep) -> None:
        history.keep(action.own, action.highest)
        self.store_at = clock() + STORE_DELAY_SECONDS

    def do_note(self, action: decide.Note) -> None:
        history.note(action.role, action.cause, action.epoch)
        self.store_at = clock() + STORE_DELAY_SECONDS

    def do_log(self, action: decide.Log) -> None:
        log(action.priority, action.text)

    def do_answer(self, action: decide.Answer) -> None:
        client = self.clients.pop(action.number, None)
        if client is not None:
            self.server.answer(client, {"error": action.refused} if action.refused else self.status())

    def do_end(self, _action: decide.End) -> None:
        self.ended = True
