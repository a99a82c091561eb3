"""The faults of a pair, made for real.

Each fault is a generator. Up to its first `yield` it prepares what takes time and must not be measured; up to the
second it makes the fault; after that it repairs everything.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab import network, observe
from lab.bench.pairs import Pair
from lab.guest import Guest

Steps = Iterator[None]


class NotThere(Exception):
    """The configuration has no part that this fault could hit."""


@dataclass(frozen=True)
class Fault:
    """`make` gets the pair and its active node.

    The bench watches the traffic for at least `watch` seconds after the fault, and until every client is answered
    again. That must cover the time until a silence *begins*: with `unfelt` none begins before the pair has noticed.
    `seldom` is the same for clients as shipped, who ask every 30 s whether the pair is alive. With `told` the pair
    tells the clients that it goes away: then those as shipped wait no longer than tuned ones.
    """

    name: str
    make: Callable[[Pair, Guest], Steps]
    watch: float = 3.0
    unfelt: bool = False
    seldom: float = 0.0
    told: bool = False
    woken: bool = False            # the node that was active is a hung one that goes on


def _crash(pair: Pair, active: Guest) -> Steps:
    yield
    active.crash()
    yield
    active.start()
    active.wait_up()


def _hang(pair: Pair, active: Guest) -> Steps:
    yield
    active.hang()
    yield
    active.resume()


def _woken(pair: Pair, active: Guest) -> Steps:
    """The hung node goes on, still with its addresses, after the other one has taken over."""
    active.hang()
    try:
        observe.eventually(lambda: observe.holds_all(pair.lab, pair.other(active)), 60)
        yield
    finally:
        active.resume()
    yield


def _one_nic(pair: Pair, active: Guest) -> Steps:
    nic = pair.active_slave(active, "external")
    yield
    active.cable(nic, plugged=False)
    yield
    active.cable(nic, plugged=True)


def _both_nics(pair: Pair, active: Guest) -> Steps:
    nics = pair.slaves("external")
    yield
    for nic in nics:
        active.cable(nic, plugged=False)
    yield
    for nic in nics:
        active.cable(nic, plugged=True)


def _switch(pair: Pair, active: Guest) -> Steps:
    """The switch of the active slave dies: every cable in it loses carrier, and its uplink is down."""
    switch = _switch_of(pair, active)
    # pull the active node's own cable first
    plugs = [(guest, nic.name) for guest in (active, pair.other(active))
             for nic in guest.host.nics if nic.switch == switch]
    yield
    _uplink(switch, up=False)
    for guest, name in plugs:
        guest.cable(name, plugged=False)
    yield
    _uplink(switch, up=True)
    for guest, name in plugs:
        guest.cable(name, plugged=True)


def _upstream(pair: Pair, active: Guest) -> Steps:
    """The uplink of the active slave's switch is down: no node loses carrier."""
    switch = _switch_of(pair, active)
    yield
    _uplink(switch, up=False)
    yield
    _uplink(switch, up=True)


def _switch_of(pair: Pair, active: Guest) -> str:
    slave = pair.active_slave(active, "external")
    return next(nic.switch for nic in active.host.nics if nic.name == slave)


def _uplink(switch: str, up: bool) -> None:
    network.ip("link", "set", network.uplink(switch), "up" if up else "down")


def _signal(processes: Callable[[Pair, Guest], list[str]], signal: str) -> Callable[[Pair, Guest], Steps]:
    def make(pair: Pair, active: Guest) -> Steps:
        found = processes(pair, active)
        if not found:
            raise NotThere
        yield
        active.run(["kill", f"-{signal}", *found], check=True)
        yield
        # Restarting what died or hangs is part of the test. What nobody has restarted is repaired here.
        active.run(["kill", "-CONT", *found])
        if processes is _agent:
            pair.forgive(active)
        else:
            pair.mend(active)
    return make


def _daemon(pair: Pair, active: Guest) -> list[str]:
    return pair.processes(active, pair.daemon)


def _cluster(pair: Pair, active: Guest) -> list[str]:
    return pair.processes(active, pair.cluster)


def _agent(pair: Pair, active: Guest) -> list[str]:
    return pair.agent(active)


def _switch_over(pair: Pair, active: Guest) -> Steps:
    yield
    heal = pair.switch_over(active)
    yield
    try:
        # heartbeat may refuse silently (`paper`, right after a hang): then nothing was measured
        observe.eventually(lambda: observe.holds_all(pair.lab, pair.other(active)), 30)
    finally:
        if heal:
            heal()


def _reboot(pair: Pair, active: Guest) -> Steps:
    yield
    active.shut_down()
    yield
    active.start()
    active.wait_up()


def _power_on(pair: Pair, active: Guest) -> Steps:
    """The repaired node comes back."""
    other = pair.other(active)
    other.crash()
    time.sleep(pair.notices)
    yield
    other.start()
    other.wait_up()
    observe.eventually(pair.settled, 90)
    yield


FAULTS = [
    Fault("crash", _crash),
    Fault("hang", _hang),
    Fault("woken", _woken, watch=5, woken=True),
    Fault("one NIC", _one_nic),
    Fault("both NICs", _both_nics),
    Fault("switch cut", _switch),
    Fault("upstream lost", _upstream),
    Fault("daemon killed", _signal(_daemon, "KILL"), watch=6, seldom=40),
    Fault("daemon hung", _signal(_daemon, "STOP"), watch=8, seldom=40),
    Fault("heartbeat killed", _signal(_cluster, "KILL"), unfelt=True),
    Fault("agent killed", _signal(_agent, "KILL")),
    Fault("agent hung", _signal(_agent, "STOP"), watch=4),
    Fault("switch-over", _switch_over, watch=5, told=True),
    Fault("reboot", _reboot, told=True),
    Fault("power-on", _power_on),
]
