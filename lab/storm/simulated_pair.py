"""A simulated pair: two real state machines of the role agent, and all around them, in steps of 50 ms.

Simulated are the machines (power, standstills, reboots), heartbeat (each direction by itself), the network between the
nodes (cut, loss, delay, order, duplicates), ping nodes, the kernel's addresses, the disk (which lags) and the fence.
"""
from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agent import actions as do
from agent.decide import RoleMachine
from agent.events import (
    Command,
    Compared,
    Connected,
    Daemon,
    Event,
    Fenced,
    Gap,
    Peer,
    PeerAgent,
    Ping,
    Reached,
    Received,
    Released,
    Terminate,
    Tick,
    Uplink,
)
from agent.site_settings import Site

STEP = 0.05  # seconds; the worker's loop turns as often
KEEPALIVE = 0.2
DEAD_CHECK_STEPS = 5  # heartbeat looks for dead nodes every 250 ms
INITDEAD = 5.0  # a heartbeat that has just started waits this long for the other one
PING_NODES = ("192.0.2.1", "192.0.2.2")
NAMES = ("gw1", "gw2")
FENCE_TIMEOUT = 8.0


@dataclass
class Link:
    """One direction between the nodes."""
    cut: bool = False
    loss: float = 0.0  # of one packet
    delay: float = 0.0  # up to so many seconds, each message by itself: later ones overtake earlier ones
    twice: float = 0.0  # how likely a message comes twice

    def good(self) -> bool:
        """Whether it behaves as a network does on a usual day."""
        return not self.cut and not self.loss and not self.delay


@dataclass
class Fencer:
    """A fence command that runs."""
    ends: float  # when it ends or is killed for its time
    strikes: float | None  # when the other node is switched off; None: never


@dataclass
class Node:
    """One machine, and what its agent knows only through events."""
    site: Site
    machine: RoleMachine
    kernel: str = "none"  # the addresses: none, held, muted, parked
    on_at: float = 0.0  # off until then
    fenced: bool = False  # off, and only a person switches it on again
    frozen_until: float = 0.0  # the whole machine
    stuck_until: float = 0.0  # the agent's process
    agent_at: float = 0.0  # its agent runs from then on
    heartbeat_at: float = 0.0  # its heartbeat runs from then on
    running: bool = True  # the agent
    turned: float = 0.0  # when the agent last turned
    memory: tuple[int, int] = (0, 0)  # the epochs in /run
    disk: tuple[int, int] = (0, 0)
    disk_lag: float = 1.0
    heard_at: float = 0.0
    began: float = 0.0  # when its heartbeat started
    knows: str = "init"  # what its heartbeat knows of the peer, and has reported to the agent
    seen: str = ""
    agent_seen: bool = False
    pings: bool = True
    pings_lost_at: float | None = None
    pings_known: bool = False
    pings_seen: bool | None = None
    carrier: bool = True
    daemon: str = "alive"
    compared: bool = True
    told: tuple[bool, str, bool] | None = None
    connected: bool = False
    fencer: Fencer | None = None
    told_off: bool = False  # its agent knows that its fence switched the peer off
    queue: list[tuple[float, int, Event]] = field(default_factory=list)
    forced_off_at: float = -1e9
    stops_for: float = 3.0  # when heartbeat ends, it is started again after so many seconds
    stored: list[tuple[float, tuple[int, int]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.site.node


class Pair:
    """Both nodes. step() lets time pass; the methods after it are the faults and the persons."""

    def __init__(self, seed: int, fence: bool = False, failback: bool = False, deadtime: float = 1.0) -> None:
        self.random = random.Random(seed)
        self.now, self.steps = 1000.0, 0
        self.number = itertools.count()
        self.trace: list[tuple[float, str]] = []
        self.fence_result = "ok"
        self.handled: Event = Tick()  # the event that is handled now
        self.links = {name: Link() for name in NAMES}  # the direction from this node to the other one
        self.nodes: dict[str, Node] = {}
        self.holds: Callable[[Node], None] = lambda node: None  # called when a node takes the addresses
        self.strikes: Callable[[Node, Node], None] = lambda by, at: None  # called when a fence switches a node off
        self.fences: Callable[[Node, Node], None] = lambda by, at: None  # called when a fence command starts
        for name, peer in (NAMES, NAMES[::-1]):
            site = Site(name, peer, name == "gw1", ("bond0",), PING_NODES, deadtime, failback=failback,
                        failback_delay=5.0, fence=fence, compare=True)
            self.nodes[name] = Node(site, RoleMachine(site, self.now), turned=self.now, heard_at=self.now,
                                    began=self.now)
        self.one, self.two = self.nodes.values()
        self.last = self.one  # the node that served last

    def other(self, node: Node) -> Node:
        """The peer of a node."""
        return self.nodes[node.site.peer]

    def say(self, text: str) -> None:
        """A line of the trace."""
        self.trace.append((self.now, text))

    # What is true

    def on(self, node: Node) -> bool:
        """Whether the machine has power and its system runs."""
        return self.now >= node.on_at and not node.fenced

    def turns(self, node: Node) -> bool:
        """Whether anything on the machine gets a turn."""
        return self.on(node) and self.now >= node.frozen_until

    def beats(self, node: Node) -> bool:
        """Whether its heartbeat runs."""
        return self.turns(node) and self.now >= node.heartbeat_at

    def answers(self, node: Node) -> bool:
        """Whether it answers for the virtual addresses."""
        return node.kernel == "held" and self.turns(node)

    def served(self, active: bool) -> Node:
        """The node that serves, or served last; the other one where not `active`."""
        if self.answers(self.one) != self.answers(self.two):
            self.last = self.one if self.answers(self.one) else self.two
        return self.last if active else self.other(self.last)

    def reaches(self, node: Node) -> bool:
        """Whether what this node sends arrives: its heartbeat runs, and the direction works."""
        return self.beats(node) and self.links[node.name].good()

    # Time

    def step(self) -> None:
        """50 ms pass."""
        self.steps += 1
        self.now = 1000.0 + self.steps * STEP
        if self.steps % round(KEEPALIVE / STEP) == 0:
            for node in self.nodes.values():
                link, peer = self.links[node.name], self.other(node)
                if self.beats(node) and not link.cut and self.random.random() >= link.loss and self.on(peer):
                    peer.heard_at = self.now
        for node in self.nodes.values():
            self.turn(node)

    def turn(self, node: Node) -> None:
        """One turn of a node: disk, fence, heartbeat, agent."""
        while node.stored and node.stored[0][0] <= self.now and self.on(node):
            node.disk = node.stored.pop(0)[1]
        self.fence_turns(node)
        if not self.turns(node):
            if not self.on(node):
                self.heartbeat_turns(node)
            return
        self.heartbeat_turns(node)
        if not node.running and self.now >= max(node.agent_at, node.heartbeat_at):
            self.start(node)
        if not node.running or self.now < node.stuck_until:
            return
        gap = self.now - node.turned
        if gap > node.site.deadtime:
            self.tell(node, Gap(gap))
        node.turned = self.now
        for event in self.reports(node):
            self.tell(node, event)
        while node.queue and node.queue[0][0] <= self.now and node.running:
            self.tell(node, heapq.heappop(node.queue)[2])
        self.tell(node, Tick())

    def start(self, node: Node) -> None:
        """The agent starts, perhaps after a boot."""
        node.machine = RoleMachine(node.site, self.now, *node.memory, node.kernel)
        node.running, node.turned, node.queue, node.told_off = True, self.now, [], False
        node.seen, node.agent_seen, node.connected, node.told, node.pings_seen = "", False, False, None, None
        self.say(f"{node.name}: the agent starts, epochs {node.memory}, addresses {node.kernel}")

    def heartbeat_turns(self, node: Node) -> None:
        """What a node's heartbeat knows of the other node and of the ping nodes."""
        if not self.beats(node):
            node.knows, node.pings_known = "init", False
            node.began = self.now
            return
        if self.now - node.heard_at <= node.site.deadtime:
            if node.heard_at > node.began:
                node.knows = "active"
        elif self.steps % DEAD_CHECK_STEPS == 0 and (node.knows == "active" or self.now - node.began >= INITDEAD):
            node.knows = "dead"
        node.pings_lost_at = None if node.pings else node.pings_lost_at or self.now
        if self.now - node.began >= KEEPALIVE:
            node.pings_known = node.pings or (
                node.pings_known and self.now - (node.pings_lost_at or self.now) < node.site.deadping)

    def reports(self, node: Node) -> list[Event]:
        """What heartbeat and the machine report in this turn."""
        events: list[Event] = []
        peer, beats = self.other(node), self.beats(node)
        if beats != node.connected:
            node.connected = beats
            events.append(Connected(beats))
            node.seen, node.agent_seen, node.pings_seen = "", False, None
        world = node.carrier, node.daemon, node.compared
        if world != node.told:
            node.told = world
            events += [Uplink("bond0", node.carrier), Daemon(node.daemon), Compared(node.compared)]
        if not beats:
            return events
        if node.seen != node.knows:
            node.seen = node.knows
            node.agent_seen = node.agent_seen and node.seen != "dead"
            events.append(Peer(node.seen))
        if node.seen == "active" and peer.running != node.agent_seen and not self.links[peer.name].cut:
            node.agent_seen = peer.running
            events.append(PeerAgent(peer.running))
        if node.pings_known != node.pings_seen:
            node.pings_seen = node.pings_known
            events += [Ping(each, node.pings_known) for each in PING_NODES]
        return events

    def soon(self, node: Node, after: float, event: Event) -> None:
        """An event that comes to a node after so many seconds."""
        heapq.heappush(node.queue, (self.now + after, next(self.number), event))

    def tell(self, node: Node, event: Event) -> None:
        """Gives an event to a node's agent, and does what it wants."""
        if node.machine.ended:
            return
        before, self.handled = node.machine.public_role(), event
        if isinstance(event, Fenced) and event.ok:
            node.told_off = True
        for action in node.machine.handle(event, self.now):
            self.do(node, action)
            if not node.running:
                break
        if node.machine.public_role() != before:
            self.say(f"{node.name}: {node.machine.public_role()}, epoch {node.machine.epoch}: {node.machine.cause}")

    def do(self, node: Node, action: do.Action) -> None:
        """Carries out an action."""
        match action:
            case do.Hold() | do.Unmute() | do.Restore():
                node.kernel = "held"
                if isinstance(action, do.Hold):
                    self.holds(node)
            case do.Mute():
                node.kernel = "muted"
            case do.Park():
                node.kernel = "parked"
            case do.Leave() | do.Remove():
                node.kernel = "none"
            case do.Keep(own, highest):
                node.memory = own, highest
                node.stored.append((self.now + node.disk_lag, node.memory))
            case do.Probe():
                if node.pings:
                    self.soon(node, 0.02, Reached(PING_NODES[0]))
            case do.Release():
                self.soon(node, self.random.choice((0.05, 0.3, 1.5, 6.0)), Released())
            case do.Fence():
                self.begin_fence(node)
            case do.CallOff():
                if node.fencer:
                    self.say(f"{node.name}: calls the fence off")
                    node.fencer.ends = min(node.fencer.ends, self.now + 0.1)
            case do.Send(message):
                self.post(node, message)
            case do.Restart():
                self.soon(node, 3.0, Daemon("alive"))
                node.daemon = "alive"
                node.told = None if node.told is None else (node.carrier, "alive", node.compared)
            case do.Answer(_number, refused):
                self.say(f"{node.name}: answers the person: {refused or 'done'}")
            case do.End():
                node.running = False
                node.agent_at = node.heartbeat_at = self.now + node.stops_for
            case _:
                pass

    def post(self, node: Node, message: dict[str, object]) -> None:
        """A message to the other agent."""
        link, peer = self.links[node.name], self.other(node)
        if not self.beats(node) or link.cut or self.random.random() < link.loss / 3 or not self.on(peer):
            return  # heartbeat sends a lost message again, so fewer of them are lost than packets
        for _ in range(2 if self.random.random() < link.twice else 1):
            self.soon(peer, 0.005 + self.random.random() * link.delay, Received(message))

    # Fences

    def begin_fence(self, node: Node) -> None:
        """The fence command starts; its result was chosen before."""
        self.fences(node, self.other(node))
        takes = 0.2 + 5.0 * self.random.random()
        result = self.fence_result
        self.say(f"{node.name}: fences {node.site.peer}; it will {result} after {takes:.1f} s")
        if result == "ok":
            node.fencer = Fencer(self.now + takes + 0.3 * self.random.random(), self.now + takes)
        else:
            node.fencer = Fencer(self.now + (FENCE_TIMEOUT if result == "hang" else takes), None)

    def fence_turns(self, node: Node) -> None:
        """A fence command that runs strikes, or ends."""
        fencer = node.fencer
        if not fencer or not self.on(node):
            node.fencer = None
            return
        if fencer.strikes is not None and self.now >= fencer.strikes <= fencer.ends:
            fencer.strikes = None
            peer = self.other(node)
            self.say(f"{node.name}: the fence switches {peer.name} off")
            self.strikes(node, peer)
            self.crash(peer, 0.0)
            peer.fenced = True
            fencer.ends = max(fencer.ends, self.now)
            self.soon(node, fencer.ends - self.now, Fenced(True, ""))
            node.fencer = None
        elif self.now >= fencer.ends:
            node.fencer = None
            self.soon(node, 0.0, Fenced(False, "of the simulation"))

    # Faults and persons

    def crash(self, node: Node, seconds: float) -> None:
        """The machine loses its power for so many seconds; what the disk has not got is lost."""
        node.on_at = self.now + seconds
        node.kernel, node.running, node.queue, node.stored = "none", False, [], []
        node.memory, node.fencer = node.disk, None
        node.agent_at = node.heartbeat_at = node.on_at
        node.frozen_until = node.stuck_until = 0.0
        node.heard_at, node.daemon, node.compared = 0.0, "alive", node.compared
        node.connected = False

    def switch_on(self, node: Node) -> None:
        """A person switches a fenced node on again."""
        if node.fenced:
            node.fenced = False
            self.crash(node, 2.0)

    def command(self, node: Node, name: str, force: bool) -> None:
        """A person's command."""
        if node.running and self.turns(node):
            if name == "standby" and force:
                node.forced_off_at = self.now
            self.soon(node, 0.0, Command(name, force, next(self.number)))

    def terminate(self, node: Node, keep: bool, seconds: float) -> None:
        """heartbeat ends, or (`keep`) restarts itself."""
        if node.running and self.turns(node):
            node.stops_for = 0.3 if keep else seconds
            self.soon(node, 0.0, Terminate(keep))

    def kill_agent(self, node: Node) -> None:
        """The agent dies; its supervisor starts a new one."""
        if node.running:
            node.running, node.agent_at, node.fencer = False, self.now + 0.3, None
            node.queue = []
