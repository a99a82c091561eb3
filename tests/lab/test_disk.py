"""A disk that stands still, because it fails or is frozen for a backup: nothing waits for it."""
from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from agent import history
from lab import observe
from lab.bench.pairs import AGENT, Pair
from lab.guest import Guest
from lab.observe import eventually
from tests.lab.conftest import heartbeat_cut

EPOCH_FILE = str(history.DISK / history.EPOCH)


@contextlib.contextmanager
def frozen(guest: Guest) -> Iterator[None]:
    """Freeze this node's disk, as a backup does: a process that writes to it waits, and can not be killed."""
    guest.run(["fsfreeze", "--freeze", "/"], check=True)
    try:
        yield
    finally:
        guest.run(["fsfreeze", "--unfreeze", "/"], check=True)


def _agent(guest: Guest) -> dict:
    return json.loads(guest.run([AGENT, "status"], check=True, timeout=10).stdout)


def _waits_for_the_disk(guest: Guest) -> list[str]:
    """Those of heartbeat's and the agent's processes that are in an uninterruptible wait (D in ps(1))."""
    said = guest.run(["ps", "-eo", "stat=,args="], check=True).stdout.splitlines()
    return [line for line in said if line.startswith("D") and ("heartbeat:" in line or line.endswith("agent/run"))]


def test_a_standby_whose_disk_stands_still_takes_over_all_the_same(quiet):
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    with observe.pings(quiet) as seen:
        try:
            with frozen(standby):
                active.crash()
                assert eventually(lambda: observe.holds_all(quiet, standby), 20)
                assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
                time.sleep(3)
                now = _agent(standby)
                assert now["role"] == "active" and now["heartbeat"] == "alive" and not now["muted"], now
                assert _waits_for_the_disk(standby) == []
            # what the agent could not write to the disk meanwhile is written now
            assert eventually(lambda: standby.run(["cat", EPOCH_FILE]).stdout.split()[:1] == [str(now["epoch"])], 20)
        finally:
            active.start()
            active.wait_up()
    print(f"\nlongest gap {seen.longest_gap():.2f} s")
    assert seen.longest_gap() < 60
    quiet.master.wait_for({active.host.minion_id})
    assert eventually(Pair(quiet, "default").settled, 120)


def test_an_active_node_whose_disk_stands_still_gives_the_role_away(quiet):
    """On command, and after a lost split: the agent itself once stood still in between, with the addresses parked."""
    site = quiet.sites[0]
    active, standby = observe.active(quiet, site.name), observe.standby(quiet, site.name)
    with frozen(active):
        standby.run([AGENT, "takeover"], check=True)
        assert eventually(lambda: observe.holder(quiet, site.name) is standby, 10)
        assert _agent(active)["role"] == "standby" and _waits_for_the_disk(active) == []
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
    active, standby = standby, active
    with frozen(active):
        with heartbeat_cut(active, standby):
            assert eventually(lambda: observe.holds_all(quiet, standby), 20)
        assert eventually(lambda: observe.holder(quiet, site.name) is standby, 10)
        assert _agent(active)["role"] == "standby" and _waits_for_the_disk(active) == []
    assert eventually(Pair(quiet, "default").settled, 60)
