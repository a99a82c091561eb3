"""The process `sessions` on one node: follows the kernel on the active node, keeps the copies on the standby.

One loop, without waiting. The role agent says which node is active (control.py); this process decides nothing about
roles.

    unknown --> standby --active--> active --release--> released --standby--> standby
                                      ^------active---------'
"""
from __future__ import annotations

import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from agent import control
from agent.loop import Loop
from agent.system import clock, in_time, log, wake_on
from sessions import adoption, channel, identity, kernel, switch, tunnels, xfrm
from sessions.adoption import Reqids, Rules
from sessions.channel import Closed, Link
from sessions.names import MAX_NAMES, Name, Names
from sessions.pools import Address, Pools
from sessions.settings import Settings
from sessions.tunnels import Change, Copies, DropState, Numbers, Originals, PutState

SOCKET_PATH = "/run/gateway-sessions.sock"
BEAT_SECONDS = 0.05  # between two frames to the standby, so that both know how old the copies are
SILENT_SECONDS = 0.6  # a connection on which nothing is confirmed for this long is given up for the next path
RETRY_SECONDS = 0.5  # between two tries to connect
LISTEN_AGAIN_SECONDS = 1.0  # between two tries to listen on an address that is not there yet
GRACE_SECONDS = 5.0  # an adopted tunnel ends so long after the daemon has its own for the same networks
ASK_ROLE_SECONDS = 1.0  # between two questions to the agent after this process has started
WATCHDOG_SECONDS = 0.5
POOLS_SECONDS = 5.0  # between two looks whether the daemon's pools leave out what copied tunnels use
FRESH_SECONDS = 1.0  # the standby's copies are current when it has confirmed something within this time
NAMES_AT_ONCE = 50  # in one frame
AGE_SLACK_SECONDS = 10.0  # copies may be older than the deadtime twice and this, and are adopted all the same
UNKNOWN_LINK_MEGABITS = 10_000  # where no interface says how fast it is


def packed(address: str) -> bytes:
    """A virtual IP as xfrm_address_t."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address).ljust(16, b"\0")


def fastest_link(folder: str = "/sys/class/net") -> float:
    """Mbit/s of this machine's fastest interface (sysfs-class-net: speed)."""
    speeds = []
    for name in os.listdir(folder):
        try:
            with open(f"{folder}/{name}/speed", encoding="ascii") as file:
                speeds.append(int(file.read()))
        except (OSError, ValueError):
            pass
    return float(max((each for each in speeds if each > 0), default=UNKNOWN_LINK_MEGABITS))


class Sessions:
    """This node's end. run() returns when the process is told to end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.max_age = 2 * settings.deadtime + AGE_SLACK_SECONDS
        self.rules = Rules(frozenset(map(packed, settings.addresses)),
                           adoption.jump(fastest_link(), self.max_age), int(settings.lifetime))
        self.key = identity.pair_key()
        self.me = identity.issue(settings.node)
        self.issued = clock()
        self.switch = switch.Switch(settings.addresses)
        self.pools = Pools()
        self.names = Names()
        self.kernel = kernel.Kernel()
        self.events = kernel.Events()
        self.originals = Originals(self.rules)
        self.reqids = Reqids(0 if settings.first else 1, int(time.time()))
        self.copies = Copies(self.rules, self.reqids)
        self.role = "unknown"
        self.epoch = 0
        self.loop = Loop()
        self.listeners: dict[str, socket.socket] = {}
        self.calling: Link | None = None  # this node is active: the connection to the standby
        self.called: dict[int, Link] = {}  # connections from the other node
        self.source: Link | None = None  # the one of these that brings the copies
        # What a full comparison has brought so far, and its nonce.
        self.full: tuple[set[xfrm.StateId], set[xfrm.PolicyId], bytes] | None = None
        self.heard_at = 0.0  # standby: when the last frame came
        self.complete = False  # standby: the copies are whole
        self.sent: list[tuple[int, float]] = []  # active: frames that are not confirmed yet, and when they were sent
        self.confirmed_at = 0.0  # active: when the last confirmed frame was sent
        self.begun = False  # active: the standby gets changes on this connection
        self.path = 0
        self.next_call = self.next_beat = self.next_listen = self.next_question = 0.0
        self.next_watchdog = self.next_pools = 0.0
        self.orphans: set[int] = set()  # adopted reqids that no policy led to at the last look
        self.next_orphans = 0.0
        self.superseded: dict[tuple[bytes, int], float] = {}  # selector and direction: when the adopted tunnel ends
        self.flushed = False
        self.notes: list[str] = []  # the last things that went wrong, for status
        self.ended = False
        self.why = "the agent has not said yet which node is active"

    # The loop

    def run(self) -> None:
        """Runs until the process is told to end."""
        refused = in_time(first=False)  # the agent comes first, whatever there is to do here
        kernel.tell_often()
        signals, wakeup = socket.socketpair()
        signals.setblocking(False)
        wake_on((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), wakeup)
        self.loop.add(signals.fileno(), self.end)
        self.loop.add(self.events.fileno(), self.on_events)
        self.server = control.Server(self.loop, self.on_question, SOCKET_PATH)
        log("info", f"started on {self.settings.node}: outbound numbers go {self.rules.jump} ahead, copies of up to "
                    f"{self.max_age:g} s are adopted" + (f", without {refused}" if refused else ""))
        self.tell_systemd("READY=1")
        while not self.ended:
            self.turn()
        self.leave()

    def turn(self) -> None:
        """One turn of the loop."""
        links = [*([self.calling] if self.calling else []), *self.called.values()]
        for link in links:
            self.loop.add(link.fileno(), lambda link=link: self.work(link), link.wants_to_write())  # type: ignore[misc]
        wait = 0.0 if any(each.pending() for each in links) else max(0.0, self.next_due() - clock())
        found = self.loop.wait(wait)
        theirs = {link.fileno() for link in links}
        for fd in theirs:
            self.loop.remove(fd)
        self.loop.run(found)  # all but the links
        for fd, call in found:
            if fd in theirs:
                call()  # work() knows whether the link is still there
        for link in links:
            if link.pending():
                self.work(link)
        self.tick(clock())

    def next_due(self) -> float:
        """When the loop has something to do by time."""
        soon = clock() + (BEAT_SECONDS if self.role == "active" and self.calling and self.calling.open else 0.25)
        return min([soon, *self.superseded.values()]) if self.role == "active" else soon

    def end(self) -> None:
        """Told to end."""
        self.ended = True

    def leave(self) -> None:
        """The process ends. On the active node the tunnels stay as they are; a new process goes on with them."""
        if self.role != "active":
            self.change([*self.copies.reduce(set(), set()),
                         *self.copies.foreign(self.kernel.states(), self.kernel.policies())])
            self.switch.remove()
        log("info", f"ended as {self.role}")

    def tell_systemd(self, text: str) -> None:
        """sd_notify(3)."""
        where = os.environ.get("NOTIFY_SOCKET", "")
        if where:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                try:
                    sock.sendto(text.encode(), b"\0" + where[1:].encode() if where.startswith("@") else where)
                except OSError as error:
                    log("warning", f"systemd: {error.strerror}")

    def tick(self, now: float) -> None:
        """Everything that is due by time."""
        log.flush()
        self.server.tick(now)
        if now >= self.next_watchdog:
            self.next_watchdog = now + WATCHDOG_SECONDS
            self.tell_systemd("WATCHDOG=1")
        if now >= self.next_listen:
            self.next_listen = now + LISTEN_AGAIN_SECONDS
            self.listen()
        if self.role == "unknown" and now >= self.next_question:
            self.next_question = now + ASK_ROLE_SECONDS
            self.ask_role()
        for link in [*self.called.values()]:
            if not link.open and now > link.until:
                self.lost(link, "no handshake in time")
        if self.role == "standby" and now >= self.next_pools:
            self.next_pools = now + POOLS_SECONDS
            self.narrow_pools(now)
        if self.source and now - self.heard_at > SILENT_SECONDS:
            self.lost(self.source, "nothing comes")
        if self.role == "active":
            if self.names.tick(now):
                self.tell_names()
            self.keep_calling(now)
            if now >= self.next_orphans:
                self.next_orphans = now + GRACE_SECONDS
                self.end_orphans()
            for group in [each for each, due in self.superseded.items() if now >= due]:
                del self.superseded[group]
                self.end_superseded(group)

    def note(self, text: str, priority: str = "warning") -> None:
        """Logs a text and keeps it for status."""
        self.notes = [*self.notes[-9:], text]
        log(priority, text)

    # Roles

    def ask_role(self) -> None:
        """After a start: asks the agent which node is active."""
        try:
            told = control.ask({"command": "status"}, 0.5)
        except (OSError, ValueError, control.NotRunning):
            return
        if told.get("role") == "active" and not told.get("muted"):
            self.be_active(int(told.get("epoch") or 0))
        elif told.get("role") == "standby":
            self.be_standby()

    def be_active(self, epoch: int) -> None:
        """This node serves from now on: what is copied becomes effective, at once and for all tunnels."""
        before, age = self.role, clock() - self.heard_at
        self.epoch = epoch
        if before == "active":
            if self.switch.state != "serving":
                self.switch.serve()
            return
        self.role, self.why = "active", ""
        if before == "standby" and self.copies.states and age > self.max_age:
            self.note(f"the copies are {age:.0f} s old, {self.max_age:g} s are the limit: not adopted, the tunnels "
                      "renegotiate")
            self.change(self.copies.reduce(set(), set()))
        if before == "released":
            # Sent numbers are known only as of the last event. The jump is as good here as on the other node.
            self.change(kernel.add_state(adoption.copied_state(each, self.rules, each.reqid))
                        for each in self.originals.outbound())
        self.switch.serve()
        if before == "standby":
            log("notice", f"adopted {len(self.copies.states)} states and {len(self.copies.installed)} policies, told "
                          f"{age:.2f} s ago")
            self.pools.forget()
            self.narrow_pools(clock())
        for link in [*self.called.values()]:
            self.lost(link, "this node is active now")
        self.copies = Copies(self.rules, self.reqids)
        self.read_kernel()
        self.next_call = 0.0

    def pause(self) -> None:
        """The agent is not sure whether this node may serve: nothing is sent meanwhile."""
        if self.role == "active":
            self.switch.seal()

    def release(self) -> None:
        """This node sends nothing more, and no outbound state is left: the other node may adopt."""
        if self.role not in ("active", "unknown"):
            return
        if self.role == "unknown":
            self.read_kernel()
        # Peers are not told that their tunnels end where the other node has them.
        link = self.calling
        self.switch.seal(quiet=bool(link and self.begun and clock() - self.confirmed_at < FRESH_SECONDS))
        self.role = "released"
        self.superseded.clear()
        self.change(kernel.delete_state(each.id) for each in self.originals.outbound())
        if self.calling:
            self.lost(self.calling, "this node is not active any more")

    def be_standby(self) -> None:
        """The other node serves, or may."""
        if self.role == "standby":
            return
        self.release()
        self.switch.seal(quiet=self.switch.state == "quiet")
        self.role, self.why = "standby", "no copies yet"
        self.originals = Originals(self.rules)
        self.copies = Copies(self.rules, self.reqids)
        self.complete = False

    def narrow_pools(self, now: float) -> None:
        """The daemon here must give no address to a newcomer that a copied tunnel uses."""
        used: list[Address] = []
        for selector, direction in self.copies.installed:
            to = ipaddress.ip_network(xfrm.networks(selector)[1])
            if direction == xfrm.OUT and to.num_addresses == 1:
                used.append(to[0])
        wrong = self.pools.narrow(used, now)
        if wrong:
            self.note(wrong)

    def read_kernel(self) -> None:
        """Starts anew with what the kernel holds. The active node's states tell their numbers often from now on."""
        try:
            self.events.read(1 << 20)  # older than the dump
        except kernel.Lost:
            pass
        states, policies = self.kernel.states(), self.kernel.policies()
        self.originals.load(states, policies)
        self.reqids.seen(each.reqid for each in states)
        self.change(map(kernel.tell_often_of, self.originals.states.values()))
        self.begun = False

    def change(self, requests: Iterable[kernel.Request]) -> int:
        """Makes changes in the kernel. Returns how many it refused."""
        refused = self.kernel.change(requests)
        again: list[kernel.Request] = []
        for request, code in refused:
            if request.kind == xfrm.NEWSA and code == 17:  # EEXIST: keys and numbers change only by a new state
                state = xfrm.State.parse(request.body)
                again += [kernel.delete_state(state.id), request]
        wrong = [each for each in refused if not (each[0].kind == xfrm.NEWSA and each[1] == 17)]
        wrong += self.kernel.change(again) if again else []
        for request, code in wrong[:3]:
            self.note(f"the kernel refuses {request.what}: {os.strerror(code)}")
        return len(wrong)

    # Events of the kernel

    def on_events(self) -> None:
        try:
            events = self.events.read()
        except kernel.Lost:
            self.note("events of the kernel were lost: reading all of it", "info")
            if self.role == "active":
                self.read_kernel()
            elif self.role == "standby":
                self.change(self.copies.again())
            return
        if self.role == "active":
            self.follow(events)
        elif self.role == "standby":
            self.guard(events)

    def follow(self, events: list[kernel.Event]) -> None:
        """Active: what happens here goes to the standby."""
        changes: list[Change] = []
        flushed = False
        for event in events:
            if event.port == self.kernel.port:
                continue
            if event.kind in (xfrm.FLUSHSA, xfrm.FLUSHPOLICY):
                flushed = True
                continue
            changes += self.originals.handle(event)
        if flushed:
            self.restore()
            return
        for change in changes:
            if isinstance(change, tunnels.PutPolicy) and change.policy.direction == xfrm.OUT:
                self.supersede(change.policy)
        if any(isinstance(change, PutState) for change in changes):
            self.names.want(clock())
        self.tell(changes)

    def restore(self) -> None:
        """Somebody has flushed the kernel, such as the IPsec daemon when it starts.

        The tunnels that were there go on as adopted ones.
        """
        before = self.originals
        own = Copies(self.rules, self.reqids)
        for change in before.changes():
            own.handle(change)
        refused = self.change(own.again())
        self.switch.serve()
        self.note(f"states or policies were flushed: put {len(before.states)} states back"
                  + (f", {refused} refused" if refused else ""), "notice")
        self.read_kernel()

    def supersede(self, policy: xfrm.Policy) -> None:
        """The daemon has a tunnel of its own for networks whose tunnel was adopted: that one ends after a while."""
        if not policy.get(xfrm.MARK) and any(each.get(xfrm.MARK) and each.selector == policy.selector
                                             for each in self.originals.policies.values()):
            self.superseded[policy.selector, policy.direction] = clock() + GRACE_SECONDS

    def end_superseded(self, group: tuple[bytes, int]) -> None:
        """Ends an adopted tunnel whose peer has a new one."""
        selector, _direction = group
        old = [each for each in self.originals.policies.values()
               if each.get(xfrm.MARK) and each.selector == selector and each.direction == xfrm.OUT]
        new = [each for each in self.originals.policies.values()
               if not each.get(xfrm.MARK) and each.selector == selector]
        if old and new:
            self.end_adopted({reqid for each in old for reqid in each.reqids})

    def end_orphans(self) -> None:
        """Ends adopted states to which no policy leads: the other node's peer had a newer tunnel already."""
        led_to = {reqid for each in self.originals.policies.values() for reqid in each.reqids}
        orphans = {each.reqid for each in self.originals.states.values()
                   if adoption.is_adopted(each.reqid) and each.reqid not in led_to}
        if orphans & self.orphans:  # those of two looks: a policy may come a moment after its states
            self.end_adopted(orphans & self.orphans)
        self.orphans = orphans

    def end_adopted(self, reqids: set[int]) -> int:
        """Ends the adopted states and policies with these reqids, here and on the standby. Returns how many states."""
        reqids = {each for each in reqids if adoption.is_adopted(each)}
        policies = [each.id for each in self.originals.policies.values() if each.reqids & reqids]
        states = [each.id for each in self.originals.states.values() if each.reqid in reqids]
        self.change([*map(kernel.delete_policy, policies), *map(kernel.delete_state, states)])
        self.tell([change for each in policies for change in self.originals.drop_policy(each)])
        self.tell([change for each in states for change in self.originals.drop(each)])
        return len(states)

    def guard(self, events: list[kernel.Event]) -> None:
        """Standby: what others do to the copies is put right. Only the kernel's own hard limits end one."""
        again = False
        for event in events:
            if event.port == self.kernel.port:
                continue
            if event.kind in (xfrm.FLUSHSA, xfrm.FLUSHPOLICY):
                again = True
            elif event.kind == xfrm.EXPIRE:
                ended = xfrm.expired_state(event.body)
                if ended:
                    self.change(self.copies.drop(ended))
            elif event.kind == xfrm.DELSA:
                again = again or xfrm.deleted_state(event.body) in self.copies.states
            elif event.kind in (xfrm.NEWSA, xfrm.UPDSA):
                again = again or xfrm.State.parse(event.body).id in self.copies.states
            elif event.kind == xfrm.DELPOLICY:
                gone = xfrm.deleted_policy(event.body)
                again = again or (gone.mark == adoption.MARK_ATTRIBUTE and (gone.selector, gone.direction)
                                  in self.copies.installed)
        if again:
            self.pools.forget()  # the daemon may have started anew, with the pools of its file
            self.change(self.copies.again())

    # The connection

    def listen(self) -> None:
        """Listens on this node's address of each path, as soon as it is there."""
        for path in self.settings.paths:
            if path.own in self.listeners:
                continue
            sock = socket.socket(socket.AF_INET6 if ":" in path.own else socket.AF_INET,
                                 socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((path.own, self.settings.port))
                sock.listen(4)
            except OSError:
                sock.close()
                continue
            self.listeners[path.own] = sock
            self.loop.add(sock.fileno(),
                          lambda sock=sock, path=path: self.accept(sock, path.interface))  # type: ignore[misc]

    def accept(self, sock: socket.socket, interface: str) -> None:
        """The other node calls."""
        try:
            new, sender = sock.accept()
        except OSError:
            return
        if sender[0] not in {each.peer for each in self.settings.paths} or len(self.called) >= 4:
            new.close()
            return
        link = Link(new, self.me, self.settings.peer, self.key, True, clock(), interface)
        self.called[link.fileno()] = link
        self.work(link)

    def keep_calling(self, now: float) -> None:
        """Active: keeps the connection to the standby, over the first path that works."""
        link = self.calling
        if not link:
            if now < self.next_call:
                return
            self.next_call = now + RETRY_SECONDS
            path = self.settings.paths[self.path % len(self.settings.paths)]
            self.path += 1
            sock = socket.socket(socket.AF_INET6 if ":" in path.own else socket.AF_INET,
                                 socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                sock.bind((path.own, 0))
                sock.connect((path.peer, self.settings.port))
            except BlockingIOError:
                pass
            except OSError:
                sock.close()
                return
            self.calling = Link(sock, self.me, self.settings.peer, self.key, False, now, path.interface)
            self.calling.until = now + SILENT_SECONDS * 2
            return
        if not link.open:
            if now > link.until:
                self.lost(link, "no handshake in time")
            return
        if not self.begun:
            self.begin(link)
        if self.sent and now - self.sent[0][1] > SILENT_SECONDS:
            self.lost(link, "it confirms nothing")
            return
        if now >= self.next_beat:
            self.next_beat = now + BEAT_SECONDS
            self.queue(link, link.say(channel.BEAT))
        self.work(link)

    def queue(self, link: Link, number: int) -> None:
        """A frame is on its way: when it is confirmed, so is all before it."""
        self.sent.append((number, clock()))

    def begin(self, link: Link) -> None:
        """The standby gets all of it."""
        self.begun = True
        nonce = secrets.token_hex(16)
        self.sent = []
        link.say(channel.BEGIN, nonce=nonce, epoch=self.epoch)
        for change in self.originals.changes():
            link.send(*channel.encode(change))
        told = tunnels.digest(self.originals.states.values(), self.originals.policies.values(), bytes.fromhex(nonce))
        self.queue(link, link.say(channel.END, digest=told))
        self.tell_names()
        self.names.want(clock())

    def tell_names(self) -> None:
        """Active: the standby learns whose tunnels these are."""
        there = {xfrm.networks(each.selector)[1] for each in self.originals.policies.values()
                 if each.direction == xfrm.OUT}
        self.names.known = {inner: name for inner, name in self.names.known.items()
                            if inner in there or "/" not in inner}
        link = self.calling
        if not (link and link.open and self.begun):
            return
        items = list(self.names.known.items())
        try:
            for at in range(0, len(items), NAMES_AT_ONCE):
                link.say(channel.NAMES, names={inner: asdict(name) for inner, name in items[at:at + NAMES_AT_ONCE]})
        except Closed as error:
            self.lost(link, str(error))

    def tell(self, changes: Iterable[Change]) -> None:
        """Active: changes go to the standby. Of a state's numbers only the newest counts."""
        link = self.calling
        if not (link and link.open and self.begun):
            return
        newest: dict[xfrm.StateId, Numbers] = {}
        sent = False
        try:
            for change in changes:
                if isinstance(change, Numbers):
                    newest[change.id] = change
                    continue
                if isinstance(change, (PutState, DropState)):
                    newest.pop(change.state.id if isinstance(change, PutState) else change.id, None)
                link.send(*channel.encode(change))
                sent = True
            for number in newest.values():
                link.send(*channel.encode(number))
                sent = True
            if sent:
                self.next_beat = clock() + BEAT_SECONDS
                self.queue(link, link.say(channel.BEAT))
                self.work(link)
        except Closed as error:
            self.lost(link, str(error))

    def lost(self, link: Link, why: str) -> None:
        """A connection has ended."""
        was_open = link.open
        self.called.pop(link.fileno(), None)
        link.close()
        if link is self.calling:
            self.calling, self.begun, self.sent = None, False, []
        if link is self.source:
            self.source, self.full = None, None
        if was_open:
            log("info", f"the connection over {link.path} ended: {why}")

    def work(self, link: Link) -> None:
        """A connection may go on."""
        if link is not self.calling and link not in self.called.values():
            return
        opened = link.open
        try:
            frames = link.work()
        except Closed as error:
            if not opened and "Connection refused" not in str(error):
                self.note(f"no connection with {self.settings.peer} over {link.path}: {error}", "info")
            self.lost(link, str(error))
            return
        if link.open and not opened:
            log("info", f"connected with {self.settings.peer} over {link.path}")
        if not frames:
            return
        if link is self.calling:
            self.on_answers(link, frames)
        else:
            self.on_copies(link, frames)

    def on_answers(self, link: Link, frames: list[tuple[bytes, bytes]]) -> None:
        """Active: the standby has confirmed, or needs all of it."""
        for kind, content in frames:
            if kind == channel.ACK:
                number = int.from_bytes(content[:8], "big")
                while self.sent and self.sent[0][0] <= number:
                    self.confirmed_at = self.sent.pop(0)[1]
            elif kind == channel.NEED:
                self.note(f"the standby asks for all of it: {content[:200].decode('utf-8', 'replace')}", "info")
                self.begin(link)

    def on_copies(self, link: Link, frames: list[tuple[bytes, bytes]]) -> None:
        """Standby: changes from the active node go into the kernel, then they are confirmed."""
        if self.role != "standby":
            self.lost(link, f"this node is {self.role}")
            return
        if link is not self.source:
            if self.source:
                self.lost(self.source, "the other node has called anew")
            self.source = link
        requests: list[kernel.Request] = []
        try:
            for kind, content in frames:
                if kind == channel.BEGIN:
                    self.full = set(), set(), bytes.fromhex(json.loads(content)["nonce"])
                elif kind == channel.NAMES:
                    self.take_names(json.loads(content)["names"])
                elif kind == channel.END:
                    requests += self.compared(link, json.loads(content)["digest"])
                else:
                    change = channel.decode(kind, content)
                    if change:
                        requests += self.take(change)
        except (ValueError, KeyError, TypeError) as error:
            self.lost(link, f"what it sends is not understood ({error})")
            return
        self.change(requests)
        self.heard_at = clock()
        try:
            link.send(channel.ACK, link.got_number.to_bytes(8, "big"))
        except Closed as error:
            self.lost(link, str(error))
            return
        self.work(link)

    def take(self, change: Change) -> list[kernel.Request]:
        """Standby: one change."""
        if self.full:
            if isinstance(change, PutState):
                self.full[0].add(change.state.id)
                same = self.copies.states.get(change.state.id)
                counters = change.state.counters
                if same and counters and same.reqid == change.state.reqid and same.keys == change.state.keys:
                    return self.copies.count(change.state.id, counters)
            elif isinstance(change, tunnels.PutPolicy):
                self.full[1].add(change.policy.id)
        return self.copies.handle(change)

    def take_names(self, told: Any) -> None:
        """Standby: whose tunnels these are."""
        for inner, its in dict(told).items():
            if len(self.names.known) < MAX_NAMES:
                self.names.known[str(inner)] = Name.parse(its)

    def compared(self, link: Link, told: str) -> list[kernel.Request]:
        """Standby: all of it has come. What was not among it ends; then both must hold the same."""
        if not self.full:
            return []
        states, policies, nonce = self.full
        self.full = None
        requests = self.copies.reduce(states, policies)
        requests += self.copies.foreign(self.kernel.states(), self.kernel.policies())
        own = tunnels.digest(self.copies.states.values(), self.copies.policies.values(), nonce)
        self.complete = own == told
        self.why = "" if self.complete else "the copies are not those of the other node"
        if not self.complete:
            link.say(channel.NEED, why="the digests differ")
        return requests

    # Questions

    def on_question(self, client: int, question: dict[str, object]) -> None:
        name = question.get("command")
        try:
            if name == "status":
                self.server.answer(client, self.status())
            elif name == "verify":
                self.server.answer(client, self.verify(bytes.fromhex(str(question.get("nonce", "")))))
            elif name == "adopted":
                self.server.answer(client, {"tunnels": self.adopted()})
            elif name == "end":
                given = question.get("inner")
                self.server.answer(client, {"ended": self.end_inner(given if isinstance(given, list) else [])})
            elif name in ("active", "pause", "release", "standby"):
                if name == "pause":
                    self.pause()
                elif name == "active":
                    epoch = question.get("epoch")
                    self.be_active(epoch if isinstance(epoch, int) else 0)
                elif name == "release":
                    self.release()
                else:
                    self.be_standby()
                self.server.answer(client, {"role": self.role, "why": self.complaint()})
            else:
                self.server.answer(client, {"error": f"unknown command {name!r}"[:200]})
        except (OSError, ValueError, switch.Refused) as error:
            self.note(f"{name}: {error}", "err")
            self.server.answer(client, {"error": str(error)[:500]})

    def adopted(self) -> list[dict[str, str | int]]:
        """The adopted tunnels that this node serves: inner network of the peer, and whose it is as far as is known."""
        found: list[dict[str, str | int]] = []
        for policy in self.originals.policies.values():
            if policy.direction == xfrm.OUT and policy.get(xfrm.MARK):
                inner = xfrm.networks(policy.selector)[1]
                outer = xfrm.address(policy.templates[0][:16], policy.family)
                name = self.names.known.get(inner) or self.names.known.get(outer) or Name("", outer, "", 0)
                found.append({"inner": inner, "peer": outer, "peer_id": name.id, "tunnel": name.tunnel,
                              "since": name.since})
        return found

    def end_inner(self, networks: list[object]) -> int:
        """Ends adopted tunnels by their inner networks. Returns how many states that were."""
        ended = {str(each) for each in networks}
        return self.end_adopted({reqid for policy in self.originals.policies.values()
                                 if policy.get(xfrm.MARK) and xfrm.networks(policy.selector)[1] in ended
                                 for reqid in policy.reqids})

    def complaint(self) -> str:
        """Why the tunnels would not survive a takeover now; empty when they would. The agent passes it on."""
        if self.role == "active" and clock() - self.confirmed_at > FRESH_SECONDS:
            return self.notes[-1] if self.notes else f"no connection with {self.settings.peer}"
        if self.role == "active" and self.originals.refused:
            return f"{len(self.originals.refused)} states are not copied: {next(iter(self.originals.refused.values()))}"
        if self.role == "standby" and self.source and not self.complete:
            return self.why
        return ""

    def status(self) -> dict[str, Any]:
        """The answer to `status`. No key, no digest of one."""
        now = clock()
        active = self.role == "active"
        states = self.originals.states if active else self.copies.states
        policies = self.originals.policies if active else self.copies.policies
        link = self.calling if active else self.source
        at = self.confirmed_at if active else self.heard_at
        refused: dict[str, int] = {}
        for why in self.originals.refused.values():
            refused[why] = refused.get(why, 0) + 1
        return {"node": self.settings.node, "role": self.role, "switch": self.switch.state,
                "connected": bool(link and link.open), "path": link.path if link and link.open else "",
                "age": round(now - at, 3) if at else None, "complete": self.complete if not active else self.begun,
                "states": len(states), "policies": len(policies),
                "adopted": sum(adoption.is_adopted(each.reqid) for each in states.values()),
                "refused": refused, "jump": self.rules.jump, "max_age": self.max_age, "why": self.why,
                "notes": self.notes}

    def verify(self, nonce: bytes) -> dict[str, Any]:
        """The answer to `verify`: what the kernel holds, compared with what it should hold."""
        states, policies = self.kernel.states(), self.kernel.policies()
        if self.role == "active":
            now = Originals(self.rules)
            now.load(states, policies)
            wrong = [f"state {each} is not followed" for each in now.states.keys() ^ self.originals.states.keys()]
            return {"role": self.role, "states": len(now.states), "policies": len(now.policies), "wrong": wrong[:20],
                    "digest": tunnels.digest(now.states.values(), now.policies.values(), nonce)}
        return {"role": self.role, "states": len(self.copies.states), "policies": len(self.copies.policies),
                "wrong": self.copies.missing(states, policies)[:20],
                "digest": tunnels.digest(self.copies.states.values(), self.copies.policies.values(), nonce)}


def start(settings: Settings) -> int:
    """Runs the process. Returns its exit code."""
    try:
        sessions = Sessions(settings)
    except (OSError, identity.Unknown, subprocess.SubprocessError, switch.Refused) as error:
        log("err", f"sessions: {error}: tunnels are not copied to the other node")
        return 1
    sessions.run()
    return 0
