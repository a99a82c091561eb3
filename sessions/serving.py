"""The half of the active node: follows the kernel's events, and keeps the standby's copies current."""
from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict

from agent.system import clock, log
from sessions import adoption, channel, kernel, tunnels, xfrm
from sessions.channel import Closed, Link
from sessions.names import Name
from sessions.node import SILENT_SECONDS, Node
from sessions.tunnels import Change, Copies, DropState, Numbers, Originals, PutPolicy, PutState

BEAT_SECONDS = 0.05  # between two frames to the standby, so that both know how old the copies are
RETRY_SECONDS = 0.5  # between two tries to connect
ADOPTED_AT_ONCE = 200  # in one answer
GRACE_SECONDS = 5.0  # an adopted tunnel ends so long after the daemon has its own for the same networks
NAMES_AT_ONCE = 10  # in one frame, which holds 64 KiB


class Serving:
    """What this node serves, and the connection to the standby."""

    def __init__(self, node: Node, drain: Callable[[], None] = lambda: None) -> None:
        """`drain`: throws the kernel's events away that are older than a dump."""
        self.node, self.drain = node, drain
        self.originals = Originals(node.rules)
        self.link: Link | None = None
        self.begun = False  # the standby gets changes on this connection ...
        self.confirmed = False  # ... and has confirmed some
        self.sent: list[tuple[int, float]] = []  # frames that are not confirmed yet, and when they were sent
        self.confirmed_at = 0.0  # when the last confirmed frame was sent
        self.path = 0  # which one to try next
        self.next_call = self.next_beat = self.next_look = 0.0
        self.orphans: set[int] = set()  # adopted reqids that no policy led to at the last look
        self.superseded: dict[tuple[bytes, int], float] = {}  # selector and direction: when the adopted tunnel ends

    def load(self) -> None:
        """Starts anew with what the kernel holds."""
        self.drain()
        states, policies = self.node.kernel.states(), self.node.kernel.policies()
        self.originals.load(states, policies)
        self.node.reqids.seen(each.reqid for each in states)
        self.begun = False

    def hurry(self) -> None:
        """States that were made before this process told the kernel to tell their numbers often."""
        self.node.change(map(kernel.tell_often_of, self.originals.states.values()))

    def stop(self, why: str) -> None:
        """This node serves no more: no outbound state is left."""
        self.superseded.clear()
        self.node.change(kernel.delete_state(each.id) for each in self.originals.outbound())
        if self.link:
            self.lost(self.link, why)

    def again(self) -> None:
        """This node serves on after stop()."""
        self.node.change(kernel.add_state(adoption.copied_state(each, self.node.far, each.reqid))
                         for each in self.originals.outbound() if not adoption.refusal(each, self.node.far))

    def tick(self, now: float) -> None:
        """Everything that is due by time."""
        if self.node.names.tick(now):
            self.tell_names()
        self.keep_connected(now)
        if now >= self.next_look:
            self.next_look = now + GRACE_SECONDS
            self.end_orphans()
        for group in [each for each, due in self.superseded.items() if now >= due]:
            del self.superseded[group]
            self.end_superseded(group)

    def next_due(self) -> float:
        """When tick() has something to do."""
        soon = clock() + BEAT_SECONDS
        return min([soon, *self.superseded.values()])

    # Events of the kernel

    def follow(self, events: list[kernel.Event]) -> None:
        """What happens here goes to the standby."""
        changes: list[Change] = []
        flushed = False
        for event in events:
            if event.port == self.node.kernel.port:
                continue
            flushed = flushed or event.kind in (xfrm.FLUSHSA, xfrm.FLUSHPOLICY)
            changes += self.originals.handle(event)
        if flushed:
            self.restore()
            return
        for change in changes:
            if isinstance(change, PutPolicy) and change.policy.direction == xfrm.OUT:
                self.supersede(change.policy)
        if any(isinstance(change, PutState) for change in changes):
            self.node.names.want(clock())
        self.tell(changes)

    def restore(self) -> None:
        """Somebody has flushed the kernel, such as the IPsec daemon when it starts.

        The tunnels that were there go on as adopted ones.
        """
        self.node.reqids.forget()  # its daemon counts anew
        own = Copies(self.node.near, self.node.reqids)
        for change in self.originals.changes():
            own.handle(change)
        refused = self.node.change(own.again())
        self.node.note(f"states or policies were flushed: put {len(own.states)} states back"
                       + (f", {len(refused)} refused" if refused else ""), "notice")
        self.load()

    # Adopted tunnels that are over

    def supersede(self, policy: xfrm.Policy) -> None:
        """The daemon has a tunnel of its own for networks whose tunnel was adopted: that one ends after a while."""
        if not policy.get(xfrm.MARK) and any(each.get(xfrm.MARK) and each.selector == policy.selector
                                             for each in self.originals.policies.values()):
            # From another address: perhaps somebody else, who was given an address of a pool that is in use.
            same = any(each.get(xfrm.MARK) and each.selector == policy.selector and each.ends == policy.ends
                       for each in self.originals.policies.values())
            self.superseded[policy.selector, policy.direction] = clock() + (GRACE_SECONDS if same else 0.0)

    def end_superseded(self, group: tuple[bytes, int]) -> None:
        """Ends an adopted tunnel whose peer has a new one."""
        same = [each for each in self.originals.policies.values() if each.selector == group[0]]
        old = [each for each in same if each.get(xfrm.MARK) and each.direction == xfrm.OUT]
        if old and not all(each.get(xfrm.MARK) for each in same):
            self.end_adopted({reqid for each in old for reqid in each.reqids})

    def end_orphans(self) -> None:
        """Ends adopted states to which no policy leads: the other node's peer had a newer tunnel already."""
        led_to = {reqid for each in self.originals.policies.values() for reqid in each.reqids}
        orphans = {each.reqid for each in self.originals.states.values()
                   if adoption.is_adopted(each.reqid) and each.reqid not in led_to}
        # And policies whose states have come to their end: they would hold packets back.
        there = {each.reqid for each in self.originals.states.values()}
        orphans |= {reqid for each in self.originals.policies.values() if each.get(xfrm.MARK)
                    for reqid in each.reqids if reqid not in there}
        if orphans & self.orphans:  # those of two looks: policies and states do not come at once
            self.end_adopted(orphans & self.orphans)
        self.orphans = orphans

    def end_adopted(self, reqids: set[int]) -> int:
        """Ends the adopted states and policies with these reqids, here and on the standby. Returns how many states."""
        reqids = {each for each in reqids if adoption.is_adopted(each)}
        policies = [each.id for each in self.originals.policies.values() if each.reqids & reqids]
        states = [each.id for each in self.originals.states.values() if each.reqid in reqids]
        self.node.change([*map(kernel.delete_policy, policies), *map(kernel.delete_state, states)])
        self.tell([*(change for each in policies for change in self.originals.drop_policy(each)),
                   *(change for each in states for change in self.originals.drop(each))])
        return len(states)

    def adopted(self, after: int = 0) -> list[dict[str, str | int]]:
        """The adopted tunnels: inner network of the peer, the kernel's reqid, and whose it is as far as is known.

        A page of them at a time: those after the first `after`.
        """
        found: list[dict[str, str | int]] = []
        known = self.node.names.known
        for policy in self.originals.policies.values():
            if policy.direction == xfrm.OUT and policy.get(xfrm.MARK):
                inner = xfrm.networks(policy.selector)[1]
                outer = xfrm.address(policy.templates[0][:16], policy.family)
                name = known.get(inner) or known.get(outer) or Name("", outer, "", 0)
                found.append({"inner": inner, "peer": outer, "peer_id": name.id, "tunnel": name.tunnel,
                              "since": name.since, "reqid": min(policy.reqids, default=0)})
        return sorted(found, key=lambda each: str(each["inner"]))[after:after + ADOPTED_AT_ONCE]

    def end_inner(self, networks: Iterable[object]) -> int:
        """Ends adopted tunnels by their inner networks. Returns how many states that were."""
        ended = {str(each) for each in networks}
        return self.end_adopted({reqid for policy in self.originals.policies.values()
                                 if policy.get(xfrm.MARK) and xfrm.networks(policy.selector)[1] in ended
                                 for reqid in policy.reqids})

    # The connection

    def keep_connected(self, now: float) -> None:
        """Keeps the connection to the standby, over the first path that works."""
        link = self.link
        if not link:
            if now >= self.next_call:
                self.next_call = now + RETRY_SECONDS
                self.call(now)
            return
        if not link.open:
            if now > link.until:
                self.lost(link, "no handshake in time")
            return
        if self.sent and now - self.sent[0][1] > SILENT_SECONDS:
            self.lost(link, "it confirms nothing")
            return
        try:
            if not self.begun:
                self.begin(link)
            if now >= self.next_beat:
                self.next_beat = now + BEAT_SECONDS
                self.sent.append((link.say(channel.BEAT), now))
        except Closed as error:
            self.lost(link, str(error))
            return
        self.work(link)

    def call(self, now: float) -> None:
        """Starts to connect over the next path."""
        path = self.node.settings.paths[self.path % len(self.node.settings.paths)]
        self.path += 1
        sock = self.node.socket_on(path)
        try:
            sock.bind((path.own, 0))
            sock.connect((path.peer, self.node.settings.port))
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return
        self.link = Link(sock, self.node.me, self.node.settings.peer, self.node.key, False, now, path.interface)
        self.link.until = now + 2 * SILENT_SECONDS

    def begin(self, link: Link) -> None:
        """The standby gets all of it. Raises Closed."""
        self.begun = True
        self.sent = []
        nonce = secrets.token_hex(16)
        link.say(channel.BEGIN, nonce=nonce)
        for change in self.originals.changes():
            link.send(*channel.encode(change))
        told = tunnels.digest(self.originals.states.values(), self.originals.policies.values(), bytes.fromhex(nonce))
        self.sent.append((link.say(channel.END, digest=told), clock()))
        self.tell_names()
        self.node.names.want(clock())

    def tell(self, changes: Iterable[Change]) -> None:
        """Changes go to the standby. Of a state's numbers only the newest counts."""
        link = self.link
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
                now = clock()
                self.next_beat = now + BEAT_SECONDS
                self.sent.append((link.say(channel.BEAT), now))
        except Closed as error:
            self.lost(link, str(error))
            return
        self.work(link)

    def tell_names(self) -> None:
        """The standby learns whose tunnels these are."""
        there = {xfrm.networks(each.selector)[1] for each in self.originals.policies.values()
                 if each.direction == xfrm.OUT}
        names = self.node.names
        there |= {xfrm.address(each.templates[0][:16], each.family) for each in self.originals.policies.values()
                  if each.direction == xfrm.OUT}
        names.known = {inner: name for inner, name in names.known.items() if inner in there}
        link = self.link
        if not (link and link.open and self.begun):
            return
        items = list(names.known.items())
        try:
            for at in range(0, len(items), NAMES_AT_ONCE):
                link.say(channel.NAMES, names={inner: asdict(name) for inner, name in items[at:at + NAMES_AT_ONCE]})
        except Closed as error:
            self.lost(link, str(error))

    def work(self, link: Link) -> None:
        """The connection may go on."""
        if link is not self.link:
            return  # it has ended meanwhile
        opened = link.open
        try:
            frames = link.work()
            for kind, content in frames:
                if kind == channel.ACK:
                    if not self.confirmed:
                        self.confirmed = True
                        log("info", f"{self.node.settings.peer} confirms copies, over {link.path}")
                    number = int.from_bytes(content[:8], "big")
                    while self.sent and self.sent[0][0] <= number:
                        self.confirmed_at = self.sent.pop(0)[1]
                elif kind == channel.NEED:
                    why = content[:200].decode("utf-8", "replace")
                    self.node.note(f"the standby asks for all of it: {why}", "info")
                    self.begin(link)
        except Closed as error:
            if not opened and "Connection refused" not in str(error):
                self.node.note(f"no connection with {self.node.settings.peer} over {link.path}: {error}", "info")
            self.lost(link, str(error))

    def lost(self, link: Link, why: str) -> None:
        """The connection has ended."""
        link.close()
        if self.confirmed:
            log("info", f"the connection over {link.path} ended: {why}")
        self.link, self.begun, self.confirmed, self.sent = None, False, False, []
