"""heartbeat that starts itself anew, as it does after some standstills: it forgets that it manages nothing."""
from __future__ import annotations

import time
from typing import NamedTuple

from lab import observe
from lab.bench.pairs import Pair
from lab.guest import Guest
from lab.observe import eventually
from tests.lab.conftest import heartbeat_cut

SITE = "winterthur"


class Unit(NamedTuple):
    """heartbeat's unit, and its processes by what they call themselves."""

    main: str
    restarts: int
    masters: list[str]


def _unit(guest: Guest) -> Unit:
    said = guest.run(["systemctl", "show", "-p", "MainPID", "-p", "NRestarts", "heartbeat"], check=True).stdout
    shown = dict(line.split("=") for line in said.splitlines())
    masters = guest.run(["pgrep", "-f", "^heartbeat: master control process"]).stdout.split()
    return Unit(shown["MainPID"], int(shown["NRestarts"]), masters)


def _scripts_ran(guest: Guest, since: float) -> list[str]:
    """What heartbeat's own scripts have logged, which it runs when it manages resources."""
    said = guest.run(["journalctl", "-q", "-b", f"--since=@{since:.0f}"], check=True).stdout
    return [line for line in said.splitlines() if "harc" in line or "Giving up all HA resources" in line]


def test_a_heartbeat_that_starts_itself_anew_is_started_as_it_was(quiet):
    pair = Pair(quiet, "default")
    assert eventually(pair.settled, 60)
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    before, beside = _unit(standby), _unit(active)
    # what makes it do so at will: one of its processes dies that belongs to no path
    standby.run(["pkill", "-KILL", "-f", "^heartbeat: FIFO reader"], check=True)
    assert eventually(lambda: _unit(standby).restarts > before.restarts, 30)
    assert eventually(pair.settled, 60)
    its = _unit(standby)
    assert its.masters == [its.main] and its.main not in before.masters
    assert observe.holder(quiet, SITE) is active and _unit(active) == beside

    # one that manages resources would start anew 2 s after it has heard the other one again
    since = time.time()
    with heartbeat_cut(active, standby):
        assert eventually(lambda: observe.holds_all(quiet, standby), 20)
    assert eventually(pair.settled, 60)
    time.sleep(5)
    assert (_unit(standby), _unit(active)) == (its, beside)
    assert _scripts_ran(standby, since) == _scripts_ran(active, since) == []
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
