"""Two state machines, a network that loses and delays messages, and random faults: in the end one node serves."""
from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.decide import (
    Command,
    Compared,
    Connected,
    Daemon,
    Fenced,
    Gap,
    Peer,
    PeerAgent,
    Ping,
    Reached,
    Received,
    Released,
    RoleMachine,
    Site,
    Terminate,
    Tick,
    Uplink,
)

STEP = 0.05
DEAD = 1.2  # heartbeat's deadtime, and the time between two of its checks
# At most so long may both nodes answer for the addresses while they hear each other, or neither though both are ready.
BOTH, NOBODY = 1.5, 12.0
PINGS = ("192.0.2.1", "192.0.2.2")


class Node:
    """A state machine with the addresses that it moves and what it sees."""

    def __init__(self, name: str, peer: str, now: float) -> None:
        self.site = Site(name, peer, name == "gw1", ("bond0",), PINGS, 1.0, failback=name == "gw1", failback_delay=5.0,
                         compare=True)
        self.kept, self.kernel, self.failbacks = (0, 0), "none", []
        self.frozen_until = self.down_until = 0.0
        self.heard = now
        self.peer_status = "active"
        self.world = {"pings": True, "carrier": True, "daemon": "alive", "compared": True}
        self.boot(now)

    def boot(self, now: float) -> None:
        self.machine = RoleMachine(self.site, now, *self.kept, self.kernel)
        self.last = now
        self.inbox: list[tuple[float, Any]] = []
        self.soon: list[tuple[float, Any]] = []
        self.heard = now
        self.peer_status = "active"
        self.tell = [Connected(True), Peer("active"), PeerAgent(True), *self.state_of_world()]

    def state_of_world(self) -> list[Any]:
        return [Daemon(self.world["daemon"]), Compared(self.world["compared"]), Uplink("bond0", self.world["carrier"]),
                *(Ping(each, self.world["pings"]) for each in PINGS)]

    def runs(self, now: float) -> bool:
        return now >= self.frozen_until and now >= self.down_until

    def answers(self) -> bool:
        return self.kernel == "held"


class Pair:
    """Both nodes and all around them, in steps of 50 ms."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.nodes = {"gw1": Node("gw1", "gw2", self.now), "gw2": Node("gw2", "gw1", self.now)}
        self.loss, self.cut = 0.0, False
        self.both = self.nobody = 0.0

    def other(self, node: Node) -> Node:
        return self.nodes[node.site.peer]

    def act(self, node: Node, actions: list[Any]) -> None:
        for action in actions:
            match type(action).__name__:
                case "Hold" | "Unmute" | "Restore":
                    node.kernel = "held"
                case "Mute":
                    node.kernel = "muted"
                case "Park":
                    node.kernel = "parked"
                case "Leave":
                    node.kernel = "none"
                case "Keep":
                    node.kept = (action.own, action.highest)
                case "Probe" if node.world["pings"]:
                    node.soon.append((self.now + 0.01, Reached(PINGS[0])))
                case "Release":
                    node.soon.append((self.now + self.random.random(), Released()))
                case "Fence":
                    node.soon.append((self.now + 1, Fenced(self.random.random() < 0.5, "of the test")))
                case "Send":
                    if not self.cut and self.random.random() >= self.loss:
                        self.other(node).inbox.append((self.now + 0.2 * self.random.random(), Received(action.message)))
                case "End":
                    node.down_until = self.now + 3
                    if action_keeps(node):
                        node.down_until = self.now + 0.3

    def step(self) -> None:
        self.now += STEP
        for node in self.nodes.values():
            if node.down_until and self.now >= node.down_until:
                node.down_until = 0.0
                node.boot(self.now)
            if not node.runs(self.now):
                continue
            events, node.tell = node.tell, []
            if self.now - node.last > 1.0:
                events.insert(0, Gap(self.now - node.last))
            node.last = self.now
            peer = self.other(node)
            if not self.cut and peer.runs(self.now):
                node.heard = self.now
            status = "dead" if self.now - node.heard > DEAD else "active"
            if status != node.peer_status:
                node.peer_status = status
                events += [Peer(status)] + ([PeerAgent(True)] if status == "active" else [])
            for box in (node.inbox, node.soon):
                events += [event for at, event in box if at <= self.now]
                box[:] = [each for each in box if each[0] > self.now]
            for event in [*events, Tick()]:
                self.act(node, node.machine.handle(event, self.now))
        self.check()

    def check(self) -> None:
        one, two = self.nodes.values()
        well = not self.cut and not self.loss and all(each.runs(self.now) for each in (one, two))
        both, nobody = one.answers() and two.answers(), not one.answers() and not two.answers()
        ready = not one.machine.not_able() and not two.machine.not_able()
        self.both = self.both + STEP if well and both else 0.0
        self.nobody = self.nobody + STEP if well and nobody and ready else 0.0
        assert self.both <= BOTH, "both active"
        assert self.nobody <= NOBODY, "nobody active"
        for node in (one, two):
            if node.machine.role == "active" and not node.machine.muted and node.runs(self.now):
                assert node.kernel == "held"
            assert node.machine.role != "standby" or node.kernel == "none"

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / STEP)):
            self.step()

    def change(self, what: str, who: str, much: float) -> None:
        node = self.nodes[who]
        match what:
            case "cut":
                self.cut = True
            case "heal":
                self.cut, self.loss = False, 0.0
            case "loss":
                self.loss = much / 10
            case "freeze":
                node.frozen_until = self.now + much
            case "crash":
                node.down_until, node.kernel = self.now + 2 + much, "none"
            case "agent dies":
                node.down_until = self.now + 0.2
            case "heartbeat stops":
                node.tell.append(Terminate())
            case "heartbeat reloads":
                node.tell.append(Terminate(keep=True))
            case "standby" | "takeover":
                node.tell.append(Command(what, much > 7, int(much * 10)))
            case "daemon":
                node.world["daemon"] = "dead" if much < 5 else "alive"
            case "carrier" | "pings" | "compared":
                node.world[what] = much >= 5
        node.tell += node.state_of_world()


def action_keeps(node: Node) -> bool:
    return node.kernel != "none"


CHANGE = st.tuples(
    st.sampled_from(["cut", "heal", "loss", "freeze", "crash", "agent dies", "heartbeat stops", "heartbeat reloads",
                     "standby", "takeover", "daemon", "carrier", "pings", "compared"]),
    st.sampled_from(["gw1", "gw2"]), st.floats(0.1, 9.9), st.floats(0.0, 6.0))


@settings(suppress_health_check=list(HealthCheck))
@given(st.lists(CHANGE, max_size=12), st.integers(0, 1000))
def test_one_serves_in_the_end(changes, seed):
    pair = Pair(seed)
    pair.run(3)
    for what, who, much, then in changes:
        pair.change(what, who, much)
        pair.run(then)
    pair.cut, pair.loss = False, 0.0
    for node in pair.nodes.values():
        node.frozen_until = 0.0
        # whether the master comes back or not
        node.world = {"pings": True, "carrier": True, "daemon": "alive", "compared": node.world["compared"]}
        node.tell += node.state_of_world()
    pair.run(40)
    assert sum(each.answers() for each in pair.nodes.values()) == 1
    assert sorted(each.machine.role for each in pair.nodes.values()) == ["active", "standby"]


EVENT = st.one_of(
    st.builds(Connected, st.booleans()), st.builds(Peer, st.sampled_from(["init", "up", "active", "dead", "odd"])),
    st.builds(PeerAgent, st.booleans()), st.builds(Compared, st.booleans()),
    st.builds(Ping, st.sampled_from([*PINGS, "192.0.2.9"]), st.booleans()),
    st.builds(Reached, st.sampled_from([*PINGS, "192.0.2.9"])),
    st.builds(Uplink, st.sampled_from(["bond0", "eth9"]), st.booleans()),
    st.builds(Daemon, st.sampled_from(["alive", "hung", "dead"])), st.builds(Gap, st.floats(0, 1e6)),
    st.builds(Fenced, st.booleans(), st.text()), st.builds(Released), st.builds(Tick),
    st.builds(Command, st.sampled_from(["standby", "takeover", "dance"]), st.booleans(), st.integers()),
    st.builds(Received, st.fixed_dictionaries({}, optional={
        "kind": st.sampled_from(["state", "yield", "claim", "refuse", 7]),
        "role": st.sampled_from(["active", "standby", 1]),
        "epoch": st.integers(-1, 2**60), "pings": st.integers(0, 3), "ready": st.booleans(), "preferred": st.booleans(),
        "able": st.booleans(), "stall": st.floats(), "need": st.booleans(), "why": st.text(), "cause": st.text(),
        "force": st.booleans(),
        "ask": st.integers(), "re": st.integers(0, 5)})))


@given(st.lists(st.tuples(EVENT, st.floats(0, 40)), max_size=60), st.sampled_from(["none", "held", "muted", "parked"]))
def test_nothing_raises(events, held):
    site = Site("gw1", "gw2", True, ("bond0",), PINGS, failback=True, fence=True, compare=True)
    machine, now = RoleMachine(site, 0.0, 1, 1, held), 0.0
    for event, then in events:
        machine.handle(event, now)
        now += then
