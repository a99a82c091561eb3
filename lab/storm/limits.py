"""What the documents promise about who answers for a virtual address, in seconds: docs/takeover.md, docs/benchmarks.md.

A simulated pair may use the same figures (without LAB_SECONDS, which is the lab machine's share).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lab.storm.schedule import ACTIVE, STANDBY, Planned

NOTICED = {"default": 1.25, "fast": 0.55}     # a dead node is noticed within (takeover.md, "Profiles")
TAKEN = 0.3                # from then on: the ping nodes are asked, addresses taken and announced (takeover.md)
HANDED_OVER = 1.0          # "if the other node does not take over within a second", it takes everything back
LEAVES = 2.0               # a node that is shut down waits so long for the other one
BOND = 0.3                 # a bond uses its other slave (benchmarks.md, target)
NETWORK_LOST = 3.0         # both NICs, upstream lost, until a node serves again (benchmarks.md, target)
AT_REST = 0.3              # nothing moves
BOTH = 1.0                 # once the nodes hear each other, no address stays on both for longer ("Split brain")
ONE_WAY = 4.5              # only one of them hears the other: that one gives way, at the latest after some turns
STARVED = 10.0             # a starved pair waits for up to so long before it calls a silent node dead ("Profiles")
LAB_SECONDS = 0.5          # lent to hosts that share two processors


class Struck(NamedTuple):
    """What a fault does to a pair. The times are the longest silence of an address that the documents allow.

    `silent`: when it hits the active node; `beside`: when it hits the standby. `moves`, `moves_beside`: how often the
    role may move then. `disables`: the node may not be able to serve. `network`: the site's switches are hit.
    `deafens`: the node does not hear the other one, or both do not (`deafens_both`).
    """

    silent: Callable[[float], float]
    beside: float = AT_REST
    moves: int = 1
    moves_beside: int = 0
    disables: bool = True
    network: bool = False
    deafens: bool = False
    deafens_both: bool = False


def _noticed(more: float = 0.0) -> Callable[[float], float]:
    return lambda noticed: noticed + TAKEN + more


def _always(seconds: float) -> Callable[[float], float]:
    return lambda _noticed: seconds


EFFECTS = {
    "crash": Struck(_noticed()),
    "hang": Struck(_noticed(HANDED_OVER)),            # it goes on, and neighbours may ask it first
    "woken": Struck(_noticed(HANDED_OVER)),
    "one NIC": Struck(_always(BOND), moves=0, disables=False, network=True),
    "both NICs": Struck(_always(NETWORK_LOST), network=True),
    "switch cut": Struck(_always(BOND), BOND, moves=0, disables=False, network=True),
    "upstream lost": Struck(_always(NETWORK_LOST), NETWORK_LOST, moves_beside=1, disables=False, network=True),
    "daemon killed": Struck(_always(HANDED_OVER)),
    "daemon hung": Struck(_always(HANDED_OVER)),
    "heartbeat killed": Struck(_noticed(HANDED_OVER)),
    "agent killed": Struck(_always(AT_REST), moves=0),
    "agent hung": Struck(_always(AT_REST), moves=0),
    "switch-over": Struck(_always(HANDED_OVER), disables=False),
    "reboot": Struck(_always(LEAVES)),
    "power-on": Struck(_always(AT_REST), moves=0),
    "one-way cut": Struck(_always(AT_REST), _noticed()(NOTICED["default"]), moves=0, moves_beside=1, deafens=True),
    "deaf": Struck(_always(AT_REST), moves=0, deafens=True),
    "cut": Struck(_noticed(), disables=False, deafens_both=True),
}


def longest_silence(faults: Sequence[Planned], profile: str, starved: bool = False) -> float | None:
    """How long an address may answer nobody during faults that overlap, in seconds; None: no node need be able to.

    Two faults at once: the one can begin when the other's time is over, so the times add up. Without a fault AT_REST.
    """
    if not _healthy(faults):
        return None
    noticed = NOTICED[profile] + (STARVED if starved else 0.0)
    times = [EFFECTS[each.fault].silent(noticed) if each.target == ACTIVE else EFFECTS[each.fault].beside
             for each in faults]
    return max(sum(times), AT_REST)


def most_moves(faults: Sequence[Planned]) -> int:
    """How often the role may move during faults that overlap. Two at once may undo each other's move: one more."""
    moves = sum(EFFECTS[each.fault].moves if each.target == ACTIVE else EFFECTS[each.fault].moves_beside
                for each in faults)
    return moves + len(faults) - 1


def _healthy(faults: Sequence[Planned]) -> bool:
    """Whether a node is left that no fault keeps from serving, with a network that reaches it."""
    struck = {_node(each) for each in faults if EFFECTS[each.fault].disables}
    return len(struck) < 2 and sum(EFFECTS[each.fault].network for each in faults) < 2


def _node(fault: Planned) -> str:
    # "power-on" repairs the standby, which was switched off before
    return STANDBY if fault.fault == "power-on" else fault.target


def deafened(fault: Planned) -> set[str]:
    """The roles of the nodes that do not hear the other one during a fault."""
    its = EFFECTS[fault.fault]
    return {ACTIVE, STANDBY} if its.deafens_both else {fault.target} if its.deafens else set()
