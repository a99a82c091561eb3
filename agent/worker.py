"""The agent's one loop: it gives events to decide.py, and carries out the actions that come back.

Events come from heartbeat, the kernel, the IPsec daemon and the control socket. Actions go to the kernel, heartbeat,
the daemon and the log.
"""
from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from agent import announce, control, decide, held, history, paths
from agent.addresses import Addresses, Watch
from agent.daemon import LISTEN_SECONDS, Daemon
from agent.heartbeat import Gone, Heartbeat
from agent.jobs import Job, Jobs
from agent.kept import Kept
from agent.loop import Loop
from agent.offset import CLOCK_FIELD, Offset
from agent.patient import Patient
from agent.probe import Probe
from agent.processes import progress
from agent.sessions import Sessions
from agent.settings import Settings
from agent.signon import Signing
from agent.system import clock, drain, in_time, log, wake_on

TICK_SECONDS = 0.05
TURNS_EVERY_SECONDS = 0.1  # between two looks at heartbeat's turns on the processor
# The agent sends a message to itself through heartbeat every ECHO_EVERY_SECONDS; it should be back after ECHO_SECONDS.
ECHO_SECONDS, ECHO_EVERY_SECONDS = 0.5, 2.0
CLIENTS_PAUSED_SECONDS = 45.0  # a living heartbeat reads nothing from its clients for 30 s and the deadtime at most
# Salt makes this file when all of this node is as the master wants it (drift.compared). A boot removes it.
COMPARED_MARK = Path("/run/gateway/current")


def reloading() -> bool:
    """Whether heartbeat ends the agent only because it reads ha.cf again (`heartbeat -r`, ExecReload of the unit)."""
    if not os.path.isdir("/run/systemd/system"):
        return False
    try:
        said = subprocess.run(["/usr/bin/systemctl", "show", "--property=SubState", "heartbeat.service"],
                              capture_output=True, text=True, timeout=0.8, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.strip().startswith("SubState=reload")


class Worker:
    """The agent from its start to its end. run() returns when it has ended."""

    def __init__(self, settings: Settings, pulse: int, parent: int) -> None:
        """`pulse`: the descriptor that shows the supervisor that this process lives. `parent`: heartbeat's process."""
        self.settings, self.pulse, self.parent = settings, pulse, parent
        self.loop = Loop()
        self.jobs = Jobs(self.loop)
        self.fence: Job | None = None  # the last fence command; it may have ended
        self.heartbeat: Heartbeat | None = None
        self.heartbeat_fd = -1
        self.signing = Signing(lambda: Heartbeat(settings.node, settings.peer, settings.ping_nodes), 2 * TICK_SECONDS)
        self.echo_sent = self.waits = 0.0  # when the last echo was sent; since when one is awaited (0: none is)
        self.echoes = 0
        self.unread = False  # heartbeat does not read this agent's messages now
        # heartbeat's turns on the processor; when they last changed; when they were last read
        self.turns, self.turned, self.glanced = "", 0.0, 0.0
        self.next_look = self.before = 0.0
        self.listen_at = 0.0  # when to tell the daemon once more to read its addresses; 0: not necessary
        self.kept = Kept(self.jobs)
        self.announcing: list[float] = []
        self.offset = Offset()
        self.probe: Probe | None = None
        self.ended = False
        self.queue: list[decide.Event] = []

        self.addresses = Patient(Addresses(settings.addresses), self.beat)
        gone = set(held.former()) - set(settings.addresses)
        if gone:
            self.addresses.certain(Addresses(gone).leave)
            log("notice", f"{', '.join(each.address for each in gone)}: no virtual IP any more, taken off")
        self.links = Watch()
        self.loop.add(self.links.socket.fileno(), self.on_link)
        self.signals, wakeup = socket.socketpair()
        self.signals.setblocking(False)
        wake_on((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), wakeup)
        self.wakeup = wakeup
        self.loop.add(self.signals.fileno(), self.on_signal)
        self.server = control.Server(self.loop, self.on_question)
        self.daemon = Daemon(settings.daemon, self.start, lambda state: self.queue.append(decide.Daemon(state)))
        self.daemon_fd = -1
        self.sessions = Sessions()

        state, here, self.missing = self.addresses.certain(self.addresses.addresses.look)
        self.held_before = state
        try:
            history.fetch()
        except OSError as error:
            log("err", f"the kept epochs and history are not available: {error}")
        try:
            own, highest = history.epochs()
        except ValueError as error:
            log("err", f"{error}: the epochs begin at 0")
            own = highest = 0
        # Written once while /run has room: each file has its own then, also when /run is full.
        self.kept.addresses(settings.addresses if here or state == "parked" else ())
        if not (history.RUN_FOLDER / history.EPOCH).exists():
            self.kept.epochs(own, highest)
        now = clock()
        site = decide.Site(
            settings.node, settings.peer, settings.preferred, settings.uplinks, settings.ping_nodes, settings.deadtime,
            settings.deadping, settings.failback == "auto", settings.failback_delay, fence=settings.fence is not None,
            daemon=settings.daemon is not None, compare=settings.compare)
        self.now = now
        self.machine = decide.RoleMachine(site, now, own, highest, state, [now - age for age in history.failbacks()])
        self.machine.compared = self.machine.compared or COMPARED_MARK.exists()

    # The loop

    def run(self) -> None:
        """Runs the loop until the agent ends."""
        refused = in_time()
        log("info", f"started on {self.settings.node}, addresses {self.held_before}"
                    + (f", without {refused}" if refused else ""))
        for name, up in self.addresses.certain(self.addresses.addresses.carriers).items():
            self.on_carrier(name, up)
        if self.machine.role == "active":
            self.machine.missing = self.missing
            self.handle(decide.Missing(self.missing))
        self.before = clock()
        while not self.ended:
            found = self.loop.wait(TICK_SECONDS)
            self.now = now = clock()
            gap = now - self.before
            stood = gap - self.addresses.waited  # without what it waited for the kernel: this node heard and was heard
            self.addresses.waited = 0.0
            if stood > self.settings.deadtime:
                self.handle(decide.Gap(stood))  # before the loop reads anything that came meanwhile
            if gap > 2 * TICK_SECONDS:
                self.turned += gap  # heartbeat may have stood still as well
                self.waits += gap if self.waits else 0.0
                self.jobs.later(gap)
            self.before = now
            self.beat()
            self.loop.run(found)
            self.tick(now)
        self.addresses.finish()
        self.kept.last(self.pause)

    def pause(self) -> None:
        """Waits for one tick, while the agent ends."""
        self.beat()
        time.sleep(TICK_SECONDS)

    def beat(self) -> None:
        """Shows the supervisor that this process does not hang."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.pulse, b".")

    def tick(self, now: float) -> None:
        """Everything that is due by time."""
        log.flush()
        self.keep_heartbeat(now)
        self.jobs.tick(now)
        self.addresses.tick()
        self.kept.tick(now)
        self.server.tick(now)
        self.daemon.tick(now)
        if self.daemon.pidfd != self.daemon_fd and self.daemon.pidfd >= 0:
            self.daemon_fd = self.daemon.pidfd
            self.loop.add(self.daemon_fd, self.on_daemon_died)
        if self.announcing and now >= self.announcing[0]:
            self.announcing.pop(0)
            for wrong in announce.send(self.settings.addresses):
                log("warning", wrong)
        if self.listen_at and now >= self.listen_at and not self.machine.muted:
            self.listen_at = 0.0
            if self.machine.role == "active":
                self.daemon.listen(self.on_listened)
        if now >= self.next_look:
            self.look()
        self.handle(decide.Tick())

    def handle(self, event: decide.Event, more: bool = False) -> None:
        """Handles one event, and the events that arise meanwhile. `more`: others of the same moment follow.

        The state machine gets the time at which the loop last read the clock. When this process stands still between
        two lines, no deadline passes before the loop has noticed it and has read what came meanwhile.
        """
        self.queue.append(event)
        while self.queue and not self.ended:
            for action in self.machine.handle(self.queue.pop(0), self.now, more):
                try:
                    getattr(self, "do_" + type(action).__name__.lower())(action)
                except (OSError, ValueError) as error:
                    log("err", f"{type(action).__name__.lower()}: {error}")

    # Where events come from

    def keep_heartbeat(self, now: float) -> None:
        """Signs on to heartbeat where necessary, reads from it, and decides whether it is alive."""
        deadtime = self.settings.deadtime
        if not self.heartbeat:
            self.heartbeat = self.signing.turn(now)
            if not self.heartbeat:
                return
            self.heartbeat_fd = self.heartbeat.fileno()
            self.loop.add(self.heartbeat_fd, self.on_heartbeat)
            self.turned = clock()
            self.echo_sent = self.waits = 0.0
            self.echoes = 0
            self.handle(decide.Connected(True))
            self.on_heartbeat()
            return
        # A heartbeat that hangs keeps the connection, but the peer takes it for dead. It gets no more turns on the
        # processor (a living one gets 4 a second at least: POLL_INTERVAL in heartbeat.c). A heartbeat that has turns
        # and still does not work does not return a message that the agent sends to itself. Such a message costs
        # heartbeat much on both nodes, so the agent sends few.
        # Trap: while the peer's heartbeat restarts itself and acknowledges nothing, this node's heartbeat reads nothing
        # from its clients ("all clients are now paused") for half a minute. It is alive all the same.
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
        self.on_heartbeat()  # the library may hold messages that poll() does not see

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
            self.turned = clock()  # heartbeat reports something, so it lives, however late the echo is
        for number, event in enumerate(events, 1):
            if isinstance(event, decide.Received):
                self.offset.heard(event.message, time.time())
            self.handle(event, number < len(events))

    def lost(self, why: str) -> None:
        """The connection to heartbeat has ended. keep_heartbeat() tries again at every second tick."""
        if self.heartbeat:
            self.loop.remove(self.heartbeat_fd)
            self.heartbeat.close()
            self.heartbeat = None
            log("warning", f"heartbeat: {why}")
            self.handle(decide.Connected(False))

    def post(self, message: Mapping[str, object], node: str = "") -> None:
        """Sends a message to the peer's agent, or to the agent on `node`."""
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
        """Once a second: the addresses, heartbeat's paths, and whether this node was compared with the master."""
        self.next_look = clock() + 1.0
        seen = self.addresses.look()  # None while the kernel is slow: then nothing is known, and nothing is concluded
        if seen and (seen.missing or self.machine.missing):
            self.handle(decide.Missing(seen.missing))
        if seen and (seen.held or seen.state == "parked") and self.machine.role == "standby":
            self.handle(decide.Found(seen.held, seen.state == "parked"))
        if self.heartbeat:
            self.handle(decide.Deaf(*paths.deaf(self.heartbeat.links, paths.opened())))
        role = self.machine.public_role()
        if role in ("active", "standby") and not self.machine.muted:  # the process may have been restarted
            self.sessions.tell(role, self.machine.epoch)
        if COMPARED_MARK.exists() != self.machine.compared:
            self.handle(decide.Compared(COMPARED_MARK.exists()))

    def on_probe(self) -> None:
        for each in self.probe.heard() if self.probe else ():
            self.handle(decide.Reached(each))

    def on_signal(self) -> None:
        if any(each in (signal.SIGTERM, signal.SIGINT) for each in drain(self.signals.fileno())):
            self.handle(decide.Terminate(reloading()))

    def outside(self) -> list[str]:
        """The virtual IPs on the uplinks: those that clients call."""
        return [each.address for each in self.settings.addresses if each.interface in self.settings.uplinks]

    def on_listened(self, ok: bool) -> None:
        hears = self.daemon.hears(self.outside())
        if ok or hears:
            self.queue.append(decide.Listened(hears))
        else:  # it is dead or hung, which tick() notices, or only late: tell it once more
            self.listen_at = clock() + LISTEN_SECONDS

    def on_daemon_died(self) -> None:
        self.loop.remove(self.daemon_fd)
        self.daemon_fd = -1
        self.daemon.died()

    def on_question(self, client: int, question: dict[str, object]) -> None:
        name = question.get("command")
        if name == "status":
            self.server.answer(client, self.status())
        elif isinstance(name, str) and name in ("standby", "takeover"):
            self.handle(decide.Command(name, question.get("force") is True, client))
        else:
            self.server.answer(client, {"error": f"unknown command {name!r}"[:200]})

    def status(self) -> control.Status:
        """The answer to `run status`."""
        machine, peer = self.machine, self.machine.fresh()
        if not peer:
            self.offset.forget()
        seen = self.addresses.look() or self.addresses.seen
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
            "held": list(seen.held), "missing": list(seen.missing), "intruder": machine.intruder(),
            "links": dict(self.heartbeat.links) if self.heartbeat else {},
            "ping_nodes": {each: "up" if machine.pings.get(each) else "dead" for each in self.settings.ping_nodes},
            "daemon": machine.daemon, "starved": machine.starved(), "stalls": machine.stall_count,
            "sessions": self.sessions.why,
        }

    def start(self, command: Sequence[str], timeout: float, done: Callable[[bool, str], None]) -> None:
        """Runs a command beside the loop. `timeout`: seconds. `done(ok, why)` is called when it ends."""
        self.jobs.start(command, timeout, done)

    # Actions: do_NAME carries out decide.NAME

    def do_hold(self, _action: decide.Hold) -> None:
        self.addresses.change("hold", self.now_here)

    def now_here(self, call: bool = True) -> None:
        """The addresses are on their interfaces, as far as the kernel gives them: tells neighbours and daemon.

        What can fail comes last: a daemon that is not told is deaf, and this node holds the addresses all the same.
        """
        if self.machine.role == "standby" or self.machine.muted:
            return  # the kernel was slow, and the role is gone by now
        self.sessions.tell("active", self.machine.epoch)
        self.do_announce(decide.Announce())
        self.daemon.listen(self.on_listened, call=call)
        self.kept.addresses(self.settings.addresses)

    def do_restore(self, _action: decide.Restore) -> None:
        self.do_hold(decide.Hold())

    def do_remove(self, _action: decide.Remove) -> None:
        self.addresses.change("leave")

    def do_announce(self, _action: decide.Announce) -> None:
        now = clock()
        self.announcing = [now + each for each in announce.ANNOUNCE_AT_SECONDS[1:]]
        for wrong in announce.send(self.settings.addresses):
            log("warning", wrong)

    def do_mute(self, _action: decide.Mute) -> None:
        self.sessions.tell("pause", self.machine.epoch)
        self.announcing.clear()
        self.addresses.change("mute")

    def do_unmute(self, _action: decide.Unmute) -> None:
        # The daemon may have been told to look at its addresses meanwhile. Trap: a daemon that looks while they are
        # muted can not bind them, and does not try again when it looks once more (5.2): it must be restarted. A daemon
        # that is only busy is told once more.
        self.addresses.change("unmute", lambda: self.now_here(call=False))

    def do_park(self, _action: decide.Park) -> None:
        self.announcing.clear()
        self.addresses.change("park")
        # Nothing leaves this node any more before the other one hears that it may take over.
        before = clock()
        wrong = self.sessions.release()
        self.addresses.waited += clock() - before  # no standstill of this process
        if wrong:
            log("warning", wrong)

    def do_release(self, _action: decide.Release) -> None:
        self.daemon.forget(lambda: self.queue.append(decide.Released()), self.outside())

    def do_leave(self, _action: decide.Leave) -> None:
        self.announcing.clear()
        self.sessions.tell("standby", self.machine.epoch)
        self.addresses.change("leave")
        self.daemon.forget()
        self.kept.addresses(())

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
            self.loop.add(self.probe.socket.fileno(), self.on_probe)
        wrong = self.probe.ask()
        if wrong and self.probe.asked == 1:
            log("warning", f"the ping nodes can not be asked: {'; '.join(wrong)}")

    def do_trust(self, _action: decide.Trust) -> None:
        if self.probe:
            self.loop.remove(self.probe.socket.fileno())
            self.probe.close()
            self.probe = None

    def do_fence(self, _action: decide.Fence) -> None:
        fence = self.settings.fence
        if fence:
            self.fence = self.jobs.start(fence.command, fence.timeout,
                                         lambda ok, why: self.queue.append(decide.Fenced(ok, why)), confined=True)

    def do_calloff(self, _action: object) -> None:
        if self.fence:
            self.jobs.call_off(self.fence, "called off")

    def do_send(self, action: decide.Send) -> None:
        if self.unread and action.message["kind"] == "state" and not {"ask", "re"} & set(action.message):
            return  # it would only wait in a queue, and a newer one follows a second later
        self.post(action.message | {CLOCK_FIELD: round(time.time(), 3)})

    def do_keep(self, action: decide.Keep) -> None:
        self.kept.epochs(action.own, action.highest)

    def do_note(self, action: decide.Note) -> None:
        self.kept.change(action.role, action.cause, action.epoch)

    def do_log(self, action: decide.Log) -> None:
        log(action.priority, action.text)

    def do_answer(self, action: decide.Answer) -> None:
        self.server.answer(action.number, {"error": action.refused} if action.refused else self.status())

    def do_end(self, _action: decide.End) -> None:
        self.ended = True
