"""The half of the standby: takes the active node's changes, and keeps the copies in this node's kernel."""
from __future__ import annotations

import json
import socket
from typing import Any

from agent.loop import Loop
from agent.system import clock, log
from sessions import adoption, channel, kernel, tunnels, xfrm
from sessions.channel import Closed, Link
from sessions.names import MAX_NAMES, Name
from sessions.node import SILENT_SECONDS, Node
from sessions.settings import HeartbeatPath
from sessions.tunnels import Change, Copies, PutPolicy, PutState

LISTEN_AGAIN_SECONDS = 1.0  # between two tries to listen on an address that is not there yet
NEED_SECONDS = 10.0  # between two questions for all of it
MAX_LINKS = 4


class Receiving:
    """The copies, and the connections from the other node. It listens in every role, and takes something as standby."""

    def __init__(self, node: Node, loop: Loop) -> None:
        self.node, self.loop = node, loop
        self.copies = Copies(node.rules, node.reqids)
        self.wanted = False  # this node is standby
        self.listeners: dict[str, socket.socket] = {}
        self.links: list[Link] = []
        self.source: Link | None = None  # the one of these that brings the copies
        # What a full comparison has brought so far, and its nonce.
        self.full: tuple[set[xfrm.StateId], set[xfrm.PolicyId], bytes] | None = None
        self.heard_at = 0.0  # when the last frame came
        self.complete = False
        self.next_listen = self.next_need = 0.0

    def begin(self) -> None:
        """This node is standby from now on."""
        self.node.reqids.forget()  # the other node's daemon may have started anew: its reqids mean other tunnels
        self.copies = Copies(self.node.rules, self.node.reqids)
        self.wanted, self.complete = True, False

    def adopt(self) -> tuple[int, int, float]:
        """This node serves from now on. How many states and policies it adopts, and how old the copies are (seconds).

        Copies that are too old are not adopted: nobody knows what was sent since.
        """
        age = clock() - self.heard_at
        if self.copies.states and age > self.node.max_age:
            self.node.note(f"the copies are {age:.0f} s old, {self.node.max_age:g} s are the limit: not adopted, the "
                           "tunnels renegotiate")
            self.clear()
        return len(self.copies.states), len(self.copies.installed), age

    def stop(self, why: str) -> None:
        """The copies are no copies any more: what this node adopted is its own."""
        self.wanted, self.complete = False, False
        for link in [*self.links]:
            self.lost(link, why)
        self.copies = Copies(self.node.rules, self.node.reqids)

    def clear(self) -> None:
        """Ends all copies, and what an earlier process has left."""
        self.node.change([*self.copies.reduce(set(), set()),
                          *self.copies.foreign(self.node.kernel.states(), self.node.kernel.policies())])

    def tick(self, now: float) -> None:
        """Everything that is due by time."""
        if now >= self.next_listen:
            self.next_listen = now + LISTEN_AGAIN_SECONDS
            self.listen()
        for link in [*self.links]:
            if not link.open and now > link.until:
                self.lost(link, "no handshake in time")
        if not self.wanted:
            return
        if self.source and now - self.heard_at > SILENT_SECONDS:
            self.lost(self.source, "nothing comes")
        if self.source and not self.complete and not self.full and now >= self.next_need:
            self.next_need = now + NEED_SECONDS
            try:
                self.source.say(channel.NEED, why="the digests differ")
            except Closed as error:
                self.lost(self.source, str(error))

    # Events of the kernel

    def guard(self, events: list[kernel.Event]) -> None:
        """What others do to the copies is put right. Only the kernel's own hard limits end one."""
        again = False
        for event in events:
            if event.port == self.node.kernel.port:
                continue
            if event.kind in (xfrm.FLUSHSA, xfrm.FLUSHPOLICY):
                again = True
            elif event.kind == xfrm.EXPIRE:
                ended = xfrm.expired_state(event.body)
                if ended:
                    self.node.change(self.copies.drop(ended))
            elif event.kind == xfrm.DELSA:
                again = again or xfrm.deleted_state(event.body) in self.copies.states
            elif event.kind in (xfrm.NEWSA, xfrm.UPDSA):
                again = again or xfrm.State.parse(event.body).id in self.copies.states
            elif event.kind == xfrm.DELPOLICY:
                gone = xfrm.deleted_policy(event.body)
                again = again or (gone.mark == adoption.MARK_ATTRIBUTE
                                  and (gone.selector, gone.direction) in self.copies.installed)
        if again:
            self.put_back()

    def put_back(self) -> None:
        """What the kernel lacks of the copies; those that are there stay."""
        self.node.change(self.copies.lacking(self.node.kernel.states(), self.node.kernel.policies()))

    # The connections

    def listen(self) -> None:
        """Listens on this node's address of each path, as soon as it is there."""
        for path in self.node.settings.paths:
            if path.own in self.listeners:
                continue
            sock = self.node.socket_on(path)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((path.own, self.node.settings.port))
                sock.listen(MAX_LINKS)
            except OSError:
                sock.close()
                continue
            self.listeners[path.own] = sock
            self.loop.add(sock.fileno(), lambda sock=sock, path=path: self.accept(sock, path))  # type: ignore[misc]

    def accept(self, sock: socket.socket, path: HeartbeatPath) -> None:
        """The other node calls."""
        try:
            new, sender = sock.accept()
        except OSError:
            return
        if sender[0] != path.peer or len(self.links) >= MAX_LINKS:
            new.close()
            return
        link = Link(new, self.node.me, self.node.settings.peer, self.node.key, True, clock(), path.interface)
        self.links.append(link)
        self.work(link)

    def work(self, link: Link) -> None:
        """A connection may go on."""
        if link not in self.links:
            return  # it has ended meanwhile
        opened = link.open
        try:
            frames = link.work()
            if frames:
                self.take(link, frames)
        except Closed as error:
            if not opened:
                self.node.note(f"no connection with {self.node.settings.peer} over {link.path}: {error}", "info")
            self.lost(link, str(error))

    def lost(self, link: Link, why: str) -> None:
        """A connection has ended."""
        self.links.remove(link)
        link.close()
        if link is self.source:
            self.source, self.full = None, None
            log("info", f"the connection over {link.path} ended: {why}")

    def take(self, link: Link, frames: list[tuple[bytes, bytes]]) -> None:
        """Changes go into the kernel, then they are confirmed. Raises Closed."""
        if not self.wanted:
            raise Closed("this node is not standby")
        if link is not self.source:
            if self.source:
                self.lost(self.source, "the other node has called anew")
            self.source, self.full = link, None
            log("info", f"takes copies from {self.node.settings.peer}, over {link.path}")
        requests: list[kernel.Request] = []
        try:
            for kind, content in frames:
                requests += self.frame(kind, content)
        except (ValueError, KeyError, TypeError) as error:
            raise Closed(f"what it sends is not understood ({error})") from None
        for request in self.node.change(requests):
            found = xfrm.counters_of_event(request.body) if request.kind == xfrm.NEWAE else None
            if found:  # the kernel has another state, or none: made anew with the numbers that it should have
                self.node.change(self.copies.anew(found[0]))
        self.heard_at = clock()
        link.send(channel.ACK, link.got_number.to_bytes(8, "big"))
        link.flush_now()

    def frame(self, kind: bytes, content: bytes) -> list[kernel.Request]:
        """One frame. Returns what the kernel has to do. Raises ValueError, KeyError, TypeError."""
        if kind == channel.BEGIN:
            self.full = set(), set(), bytes.fromhex(json.loads(content)["nonce"])
            return []
        if kind == channel.END:
            return self.compare(str(json.loads(content)["digest"]))
        if kind == channel.NAMES:
            self.take_names(json.loads(content)["names"])
            return []
        change = channel.decode(kind, content)
        return self.one(change) if change else []

    def one(self, change: Change) -> list[kernel.Request]:
        """One change."""
        if self.full:
            if isinstance(change, PutState):
                self.full[0].add(change.state.id)
                same = self.copies.states.get(change.state.id)
                counters = change.state.counters
                if same and counters and same.with_counters(counters).fixed() == change.state.fixed():
                    return self.copies.count(change.state.id, counters)
            elif isinstance(change, PutPolicy):
                self.full[1].add(change.policy.id)
        return self.copies.handle(change)

    def take_names(self, told: Any) -> None:
        """Whose tunnels these are."""
        known = self.node.names.known
        for inner, its in dict(told).items():
            if len(known) < MAX_NAMES or inner in known:
                known[str(inner)] = Name.parse(its)

    def compare(self, told: str) -> list[kernel.Request]:
        """All of it has come. What was not among it ends; then both must hold the same."""
        if not self.full:
            return []
        states, policies, nonce = self.full
        self.full = None
        requests = self.copies.reduce(states, policies)
        requests += self.copies.foreign(self.node.kernel.states(), self.node.kernel.policies())
        self.complete = told == tunnels.digest(self.copies.states.values(), self.copies.policies.values(), nonce)
        if not self.complete:
            self.next_need = clock() + NEED_SECONDS
            self.node.note("the copies are not those of the other node: asking for all of it in a moment")
        return requests
