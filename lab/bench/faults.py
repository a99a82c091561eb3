"""What can happen to a pair, done for real. Each fault says how to put it right again."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lab import network
from lab.bench.pairs import Pair
from lab.guest import Guest

Heal = Callable[[], None]


class NotThere(Exception):
    """The configuration has no such part."""


@dataclass(frozen=True)
class Fault:
    """`make` is given the pair and its active node, and gives back what heals."""

    name: str
    make: Callable[[Pair, Guest], Heal]
    watch: float = 12.0            # how long the traffic is watched at least, in seconds
    prepare: Callable[[Pair, Guest], None] | None = None     # before anything is watched


def _nothing() -> None:
    pass


def _crash(pair: Pair, active: Guest) -> Heal:
    active.crash()

    def power_on() -> None:
        active.start()
        active.wait_up()
    return power_on


def _hang(pair: Pair, active: Guest) -> Heal:
    active.hang()
    return active.resume


def _one_nic(pair: Pair, active: Guest) -> Heal:
    nic = pair.active_slave(active, "external")
    active.cable(nic, plugged=False)
    return lambda: active.cable(nic, plugged=True)


def _both_nics(pair: Pair, active: Guest) -> Heal:
    nics = pair.slaves("external")
    for nic in nics:
        active.cable(nic, plugged=False)

    def plug() -> None:
        for nic in nics:
            active.cable(nic, plugged=True)
    return plug


def _switch(pair: Pair, active: Guest) -> Heal:
    """The switch of the active slave dies: every cable in it loses carrier, and its uplink is gone."""
    slave = pair.active_slave(active, "external")
    switch = next(nic.switch for nic in active.host.nics if nic.name == slave)
    plugs = [(guest, nic.name) for guest in pair.guests for nic in guest.host.nics if nic.switch == switch]
    for guest, name in plugs:
        guest.cable(name, plugged=False)
    _uplink(switch, up=False)

    def repair() -> None:
        _uplink(switch, up=True)
        for guest, name in plugs:
            guest.cable(name, plugged=True)
    return repair


def _upstream(pair: Pair, active: Guest) -> Heal:
    """Behind the switch of the active slave the way ends: no carrier is lost anywhere."""
    slave = pair.active_slave(active, "external")
    switch = next(nic.switch for nic in active.host.nics if nic.name == slave)
    _uplink(switch, up=False)
    return lambda: _uplink(switch, up=True)


def _uplink(switch: str, up: bool) -> None:
    network.ip("link", "set", network.uplink(switch), "up" if up else "down")


def _signal(processes: Callable[[Pair, Guest], list[str]], signal: str) -> Callable[[Pair, Guest], Heal]:
    def make(pair: Pair, active: Guest) -> Heal:
        found = processes(pair, active)
        if not found:
            raise NotThere
        active.run(["kill", f"-{signal}", *found], check=True)
        # whoever restarts what died or hangs is part of what is tested; a daemon that stays hung is helped at the end
        return lambda: active.run(["kill", "-CONT", *found]) and None
    return make


def _daemon(pair: Pair, active: Guest) -> list[str]:
    return pair.processes(active, pair.daemon)


def _cluster(pair: Pair, active: Guest) -> list[str]:
    return pair.processes(active, pair.cluster)


def _agent(pair: Pair, active: Guest) -> list[str]:
    return pair.agent(active)


def _switch_over(pair: Pair, active: Guest) -> Heal:
    return pair.switch_over(active) or _nothing


def _reboot(pair: Pair, active: Guest) -> Heal:
    active.shut_down()

    def power_on() -> None:
        active.start()
        active.wait_up()
    return power_on


def _power_on(pair: Pair, active: Guest) -> Heal:
    """The repaired node comes back, switched off before anything was watched (`prepare`)."""
    other = pair.other(active)
    other.start()
    other.wait_up()
    return _nothing


def _off(pair: Pair, active: Guest) -> None:
    pair.other(active).crash()
    time.sleep(5)


FAULTS = [
    Fault("crash", _crash),
    Fault("hang", _hang, watch=15),
    Fault("one NIC", _one_nic, watch=4),
    Fault("both NICs", _both_nics),
    Fault("switch cut", _switch, watch=4),
    Fault("upstream lost", _upstream, watch=20),
    Fault("daemon killed", _signal(_daemon, "KILL")),
    Fault("daemon hung", _signal(_daemon, "STOP"), watch=20),
    Fault("heartbeat killed", _signal(_cluster, "KILL")),
    Fault("agent killed", _signal(_agent, "KILL"), watch=5),
    Fault("agent hung", _signal(_agent, "STOP"), watch=8),
    Fault("switch-over", _switch_over, watch=8),
    Fault("reboot", _reboot),
    Fault("power-on", _power_on, watch=30, prepare=_off),
]
