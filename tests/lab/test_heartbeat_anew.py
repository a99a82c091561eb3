"""A heartbeat that restarts itself, as it does after some standstills; one that dies; and one that hangs.

When it restarts itself, it forgets that it must not manage resources.
"""
from __future__ import annotations

import time
from typing import NamedTuple

from lab import observe
from lab.bench.pairs import Pair
from lab.guest import Guest
from lab.observe import eventually
from tests.lab.conftest import deaf

SITE = "winterthur"


class Unit(NamedTuple):
    """heartbeat's unit, and its master control processes."""

    main: str
    restarts: int
    masters: list[str]


def _unit(guest: Guest) -> Unit:
    said = guest.run(["systemctl", "show", "-p", "MainPID", "-p", "NRestarts", "heartbeat"], check=True).stdout
    shown = dict(line.split("=") for line in said.splitlines())
    masters = guest.run(["pgrep", "-f", "^heartbeat: master control process"]).stdout.split()
    return Unit(shown["MainPID"], int(shown["NRestarts"]), masters)


def _journal(guest: Guest, since: float, *more: str) -> list[str]:
    return guest.journal(since, "-b", *more).splitlines()


def _scripts_ran(guest: Guest, since: float) -> list[str]:
    """What heartbeat's own scripts have logged; heartbeat runs them only when it manages resources."""
    return [line for line in _journal(guest, since) if "harc" in line or "Giving up all HA resources" in line]


def test_a_heartbeat_that_starts_itself_anew_is_started_as_it_was(quiet):
    pair = Pair(quiet, "default")
    assert eventually(pair.settled, 60)
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    before, beside, since = _unit(standby), _unit(active), time.time()
    # It also forgets that when ha.cf changes, in the same process: then it restarts 2 s after it has heard the other
    # node again, as after the standstills.
    standby.run(["touch", "/etc/ha.d/ha.cf"], check=True)
    standby.run(["/usr/libexec/heartbeat/heartbeat", "-r"], check=True)
    time.sleep(5)
    assert eventually(pair.settled, 60)
    with deaf(standby):
        time.sleep(4)
    deadline = time.monotonic() + 30
    while _unit(standby).restarts <= before.restarts:
        assert time.monotonic() < deadline, "\n".join(_journal(standby, since)[-100:])
        time.sleep(0.3)
    assert eventually(pair.settled, 60)
    its = _unit(standby)
    assert its.masters == [its.main] and its.main != before.main
    assert observe.holder(quiet, SITE) is active and _unit(active) == beside

    since = time.time()
    with deaf(standby):
        time.sleep(4)
    time.sleep(6)
    assert eventually(pair.settled, 60)
    assert (_unit(standby), _unit(active)) == (its, beside), "it starts anew after a silence"
    assert _scripts_ran(standby, since) == []
    assert observe.holder(quiet, SITE) is active


def test_the_agent_of_a_heartbeat_that_dies_serves_on_until_the_other_node_takes_over(quiet):
    pair = Pair(quiet, "default")
    assert eventually(pair.settled, 60)
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    before, since = _unit(active), time.time()
    active.run(["pkill", "-KILL", "-x", "heartbeat"], check=True)
    assert eventually(lambda: observe.holder(quiet, SITE) is standby, 20)
    assert eventually(lambda: _unit(active).restarts > before.restarts, 30)
    assert eventually(pair.settled, 60)
    its = _unit(active)
    assert its.masters == [its.main]
    # by itself, after the deadtime; if told to end, it would have left at once, before anybody could take over
    assert any("heartbeat did not answer here for" in line for line in _journal(active, since, "-t", "gateway-agent"))
    assert not any("heartbeat ends on" in line for line in _journal(active, since, "-t", "gateway-agent"))
    observe.connect_roadwarrior(quiet)


def test_a_heartbeat_that_hangs_costs_the_role(quiet):
    """It keeps the agent's connection open, but no longer runs."""
    pair = Pair(quiet, "default")
    assert eventually(pair.settled, 60)
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    since = time.time()
    active.run(["pkill", "-STOP", "-x", "heartbeat"], check=True)
    try:
        assert eventually(lambda: observe.holder(quiet, SITE) is standby, 20)
        assert "heartbeat did not answer here for" in "\n".join(_journal(active, since, "-t", "gateway-agent"))
    finally:
        active.run(["pkill", "-CONT", "-x", "heartbeat"], check=True)
    assert eventually(pair.settled, 90)
    assert observe.holder(quiet, SITE) is standby
    observe.connect_roadwarrior(quiet)
