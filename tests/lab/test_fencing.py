"""Nothing is taken over from a node that may be alive before it is certainly off; a node that hangs is reset."""
from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab import observe
from lab.bench.pairs import AGENT, Pair
from lab.guest import Guest
from lab.laboratory import Lab
from lab.observe import eventually
from lab.results import apply
from tests.lab.conftest import heartbeat_cut

SITE = "winterthur"
FENCE = "/usr/local/sbin/fence"
# Stands for a power switch that a person operates: it notes which node it was asked to switch off, and reports success
# once /run/off exists.
_ASKS = '#!/bin/sh\necho "$1" >> /run/fenced\ntest -e /run/off\n'


def _pillar(**gateway: object) -> str:
    return f"pillar={json.dumps({'gateway': gateway})}"


def _restart_as_standby(lab: Lab, guest: Guest, *words: str) -> None:
    """Apply the standby with these words, and wait until the pair is ready again."""
    done = apply(lab, guest.host.minion_id, *words)
    assert not done.failed, done.failed
    assert eventually(Pair(lab, "default").settled, 60)


def _resets(guest: Guest) -> int:
    """How often the kernel's watchdog has reset the host, by its console log."""
    return (guest.folder / "console.log").read_bytes().count(b"softdog: Initiating system reboot")


@pytest.fixture
def fencing(quiet: Lab) -> Iterator[tuple[Guest, Guest]]:
    """The active node, and a standby that must fence it before it takes over."""
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    quiet.copy_to(standby, FENCE, _ASKS.encode())
    standby.run(["chmod", "0755", FENCE], check=True)
    _restart_as_standby(quiet, standby, _pillar(heartbeat={"fence": {"command": FENCE, "timeout": 5}}))
    yield active, standby
    quiet.master.wait_for({active.host.minion_id, standby.host.minion_id})
    if observe.active(quiet, SITE) is standby:
        standby.run([AGENT, "standby"], check=True)
        eventually(lambda: observe.holder(quiet, SITE) is active, 20)
    _restart_as_standby(quiet, standby)
    observe.connect_roadwarrior(quiet)


def test_nothing_is_taken_over_before_the_other_node_is_off_and_the_master_hears_of_it(quiet, fencing):
    active, standby = fencing
    with observe.events(quiet) as seen:
        begun = time.time()
        active.crash()
        try:
            event = seen.wait(20, minion=standby.host.minion_id, condition="none_active", since=begun)
            assert event.data["severity"] == "critical" and event.data["subject"] == SITE
            assert standby.run(["cat", "/run/fenced"], check=True).stdout == f"{active.host.name}\n"
            assert not observe.virtual_held(quiet, standby)
            said = standby.journal(begun, "-t", "gateway-agent")
            assert f"not taking over: {active.host.name} could not be fenced" in said, said
            standby.run(["touch", "/run/off"], check=True)
            # the agent tries again every ten seconds
            assert eventually(lambda: observe.holds_all(quiet, standby), 15)
            seen.wait(15, minion=standby.host.minion_id, condition="none_active", recovered=True, since=begun)
            assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)
        finally:
            active.start()
            active.wait_up()
    assert eventually(Pair(quiet, "default").settled, 90)
    assert observe.active(quiet, SITE) is standby


# A power switch that takes three seconds. What it switches off is a file.
_SLOW = '#!/bin/sh\necho "$1" >> /run/fenced\n(sleep 3; touch /run/struck) &\nwait\n'


def test_a_fence_is_called_off_when_the_other_node_is_heard_again(quiet, fencing):
    """A healthy node was switched off seconds after it was heard again."""
    active, standby = fencing
    quiet.copy_to(standby, FENCE, _SLOW.encode())
    standby.run(["rm", "-f", "/run/fenced", "/run/struck"], check=True)
    since = time.time()
    with heartbeat_cut(standby):  # it still reaches its ping nodes
        assert eventually(lambda: standby.run(["test", "-e", "/run/fenced"]).returncode == 0, 10)
    time.sleep(5)
    assert standby.run(["test", "-e", "/run/struck"]).returncode == 1, "the command went on"
    assert "was called off" in standby.journal(since, "-t", "gateway-agent")
    assert observe.holds_all(quiet, active) and not observe.virtual_held(quiet, standby)


@pytest.mark.long
def test_a_node_whose_heartbeat_hangs_is_reset_by_the_watchdog(quiet):
    """Machine and agent go on: without the watchdog the node would wake up later and serve beside the other one."""
    active, standby = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    modules = ["bonding", "xfrm_user", "esp4", "esp6", "gcm", "softdog"]
    _restart_as_standby(quiet, standby, _pillar(heartbeat={"watchdog": "/dev/watchdog"}, kernel={"modules": modules}))
    active.run([AGENT, "standby"], check=True)
    eventually(lambda: observe.holder(quiet, SITE) is standby, 20)
    before = _resets(standby)
    try:
        standby.run(["sh", "-c", "kill -STOP $(pgrep -x heartbeat)"], check=True)
        assert eventually(lambda: observe.holds_all(quiet, active), 30)
        assert eventually(lambda: _resets(standby) > before, 10), "it was not reset"
    finally:
        # A host of this lab does not boot again after a reset: its old process still has the cables.
        standby.crash()
        standby.start()
        standby.wait_up()
        eventually(Pair(quiet, "default").settled, 90)
        quiet.master.wait_for({standby.host.minion_id})
        _restart_as_standby(quiet, standby)
    observe.connect_roadwarrior(quiet)
