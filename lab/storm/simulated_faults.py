"""The faults of a simulated scenario: what happens to which node and when, made from a seed."""
from __future__ import annotations

import random
from typing import NamedTuple

from lab.storm.simulated_pair import NAMES, Node, Pair

RESTART_SECONDS = 3.0  # after everything is healed, what is down starts within this time
FAULT_SECONDS = 40.0  # faults happen within this time; then everything is healed
# What happens, and how often compared with the others
KINDS = {
    "crash": 6, "freeze": 6, "agent stuck": 3, "agent dies": 3, "heartbeat dies": 3, "heartbeat stops": 2,
    "heartbeat restarts": 2, "cut": 4, "cut one way": 6, "loss": 3, "slow": 4, "twice": 2, "heal network": 6,
    "pings lost": 5, "pings back": 5, "carrier lost": 3, "carrier back": 3, "daemon": 3, "not compared": 1,
    "compared": 2, "standby": 4, "takeover": 4, "standby --force": 1, "takeover --force": 2, "fence result": 3,
    "switch on": 3,
}

ACTIVE, STANDBY = "active", "standby"  # whichever node serves then, and the other one
# What must meet within a second or two, as chance alone seldom makes it: (fault, node, seconds after the one before)
MEETINGS = (
    (("cut one way", STANDBY, 0.0, 1.0), ("standby", ACTIVE, 0.0, 1.2)),
    (("cut one way", STANDBY, 0.0, 1.0), ("takeover --force", STANDBY, 0.0, 1.5)),
    (("cut one way", ACTIVE, 0.0, 1.0), ("takeover", STANDBY, 0.0, 1.0)),
    (("slow", ACTIVE, 0.0, 1.0), ("standby", ACTIVE, 0.0, 1.0), ("heal network", ACTIVE, 0.5, 3.0)),
    (("slow", STANDBY, 0.0, 1.0), ("takeover", STANDBY, 0.0, 1.0), ("crash", ACTIVE, 0.0, 3.0)),
    (("freeze", ACTIVE, 0.0, 1.0), ("takeover", STANDBY, 0.0, 1.3)),
    (("agent stuck", ACTIVE, 0.0, 1.0), ("takeover", STANDBY, 0.0, 0.6), ("crash", ACTIVE, 0.0, 3.0)),
    (("crash", ACTIVE, 0.0, 1.0), ("pings lost", STANDBY, 0.0, 2.5), ("pings back", STANDBY, 0.5, 2.0)),
    (("crash", ACTIVE, 0.0, 1.0), ("standby --force", STANDBY, 2.0, 8.0)),
    (("freeze", ACTIVE, 0.0, 1.0), ("crash", ACTIVE, 1.0, 6.0)),
    (("cut", ACTIVE, 0.0, 1.0), ("heal network", ACTIVE, 1.0, 6.0), ("crash", ACTIVE, 0.0, 6.0)),
    (("crash", ACTIVE, 0.0, 1.0), ("crash", STANDBY, 0.0, 6.0)),
)


class Fault(NamedTuple):
    """`at`: seconds after the begin. `who`: gw1, gw2, active, standby. `much`: 0 to 1, how long or how strong."""
    at: float
    what: str
    who: str
    much: float

    def __str__(self) -> str:
        return f"{self.at:6.2f} s  {self.what} {self.who} ({self.much:.2f})"


class Scenario(NamedTuple):
    """A site's settings and what happens there."""
    seed: int
    fence: bool
    failback: bool
    deadtime: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return "\n".join([
            f"seed {self.seed}: deadtime {self.deadtime:g} s, {'with' if self.fence else 'without'} a fence, "
            f"{'with' if self.failback else 'without'} failback", *map(str, self.faults)])


def scenario(seed: int) -> Scenario:
    """The scenario of a seed: two to six kinds of faults, so that some often meet.

    Many come in bursts: two faults within a second are what nobody tries by hand.
    """
    chance = random.Random(seed)
    kinds = chance.sample(list(KINDS), chance.randint(2, 6))
    faults: list[Fault] = []
    at = 8.0
    if chance.random() < 0.5:
        for what, who, low, high in chance.choice(MEETINGS):
            at += chance.uniform(low, high)
            faults.append(Fault(round(at, 2), what, who, round(chance.random(), 2)))
    for _ in range(chance.randint(1, 9)):
        at += chance.choice((0.0, 0.1, 0.3, 0.7, 1.1, 1.6, 3.2, 6.5)) * (0.8 + 0.4 * chance.random())
        if at > FAULT_SECONDS:
            break
        what = chance.choices(kinds, [KINDS[each] for each in kinds])[0]
        faults.append(Fault(round(at, 2), what, chance.choice(NAMES), round(chance.random(), 2)))
    return Scenario(seed, chance.random() < 0.4, chance.random() < 0.3, chance.choice((0.3, 1.0)), tuple(faults))


def happen(pair: Pair, fault: Fault) -> None:
    """Makes a fault happen now."""
    node, much = pair.nodes.get(fault.who) or pair.served(fault.who == ACTIVE), fault.much
    pair.say(f"--- {fault.what} {node.name} ({much:.2f})")
    link = pair.links[node.name]
    match fault.what:
        case "crash":
            pair.crash(node, 3.0 + 15.0 * much)
        case "freeze":
            node.frozen_until = pair.now + 0.2 + 8.0 * much * much
        case "agent stuck":
            node.stuck_until = pair.now + 2.5 * much
        case "agent dies":
            pair.kill_agent(node)
        case "heartbeat dies":
            node.heartbeat_at = max(node.heartbeat_at, pair.now + 2.0 + 8.0 * much)
        case "heartbeat stops":
            pair.terminate(node, False, 2.0 + 8.0 * much)
        case "heartbeat restarts":
            pair.terminate(node, True, 0.3)
        case "cut":
            for direction in pair.links.values():
                direction.cut = True
        case "cut one way":
            link.cut = True
        case "loss":
            link.loss = 0.5 * much
        case "slow":
            link.delay = 3.0 * much
        case "twice":
            link.twice = much
        case "heal network":
            heal_network(pair)
        case "pings lost":
            for each in pair.nodes.values() if much > 0.7 else (node,):
                each.pings = False
        case "pings back":
            for each in pair.nodes.values():
                each.pings = True
        case "carrier lost":
            node.carrier = False
        case "carrier back":
            node.carrier = True
        case "daemon":
            node.daemon = "dead" if much < 0.6 else "hung"
        case "not compared":
            node.compared = False
        case "compared":
            node.compared = True
        case "fence result":
            pair.fence_result = ("ok", "fail", "hang")[int(much * 2.99)]
        case "switch on":
            pair.switch_on(node)
        case _:
            verb, _, force = fault.what.partition(" ")
            pair.command(node, verb, bool(force))


def heal_network(pair: Pair) -> None:
    """Both directions work as on a usual day."""
    for each in pair.links.values():
        each.cut, each.loss, each.delay, each.twice = False, 0.0, 0.0, 0.0


def heal(pair: Pair) -> None:
    """Everything works again from now on."""
    pair.say("--- everything is healed")
    heal_network(pair)
    pair.fence_result = "ok"
    for node in pair.nodes.values():
        heal_node(pair, node)


def heal_node(pair: Pair, node: Node) -> None:
    """A node works again; one that is off is switched on."""
    node.pings = node.carrier = node.compared = True
    node.daemon = "alive"
    node.frozen_until = min(node.frozen_until, pair.now)
    node.stuck_until = min(node.stuck_until, pair.now)
    soon = pair.now + RESTART_SECONDS
    node.on_at, node.agent_at = min(node.on_at, soon), min(node.agent_at, soon)
    node.heartbeat_at, node.stops_for = min(node.heartbeat_at, soon), RESTART_SECONDS
    pair.switch_on(node)
