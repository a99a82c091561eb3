"""Interfaces that are recreated under a running pair: heartbeat is deaf on them until it reopens them."""
from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab import observe
from lab.bench.pairs import Pair
from lab.guest import Guest
from lab.laboratory import Lab
from lab.observe import eventually

SITE = "winterthur"
BONDS = ["bond0", "bond1"]
# the process by which heartbeat sends on bond1
_END_WRITER = r"kill -KILL $(ps -eo pid,args | sed -n 's/^ *\([0-9]*\) heartbeat: write: [a-z]* bond1$/\1/p')"
# another client sends messages to the other node, through heartbeat's FIFO (format: ha_msg.h), 8 times a second
_TALK = r"for _ in $(seq 240); do printf '>>>\nt=talk\n<<<\n' >/var/lib/heartbeat/fifo; sleep 0.125; done"


def _status(guest: Guest) -> dict:
    its = observe.agent(guest)
    assert its, f"no agent runs on {guest.host.name}"
    return its


def _hears(guest: Guest) -> bool:
    """Whether the node's heartbeat runs and hears the other one on all of its paths."""
    its = observe.agent(guest)
    links = its["links"] if its else {}
    return sorted(links) == BONDS and set(links.values()) == {"up"}


def _opened(guest: Guest) -> int:
    """How often the agent has made heartbeat reopen a path."""
    return guest.run(["journalctl", "-q", "-b", "-t", "gateway-agent"]).stdout.count("opened anew")


@pytest.fixture
def pair(quiet: Lab) -> Iterator[tuple[Guest, Guest]]:
    """The active node and the standby, which hear each other on every path, before and after."""
    assert eventually(Pair(quiet, "default").settled, 60)
    both = observe.active(quiet, SITE), observe.standby(quiet, SITE)
    assert eventually(lambda: all(_hears(each) for each in both), 30)
    yield both
    quiet.master.wait_for({each.host.minion_id for each in both})
    assert eventually(Pair(quiet, "default").settled, 60)
    observe.connect_roadwarrior(quiet)


def test_networking_that_is_restarted_on_the_standby_moves_nothing(quiet, pair):
    """By hand, or by an upgrade. Both paths are deaf afterwards: the standby must not take that for a dead peer."""
    active, standby = pair
    epoch, before = _status(active)["epoch"], _opened(standby)
    with observe.pings(quiet) as seen:
        standby.run(["systemctl", "restart", "networking"], check=True, timeout=60)
        assert eventually(lambda: _hears(standby) and _hears(active), 15)
        time.sleep(3)
        assert seen.longest_gap() < 3
    assert _opened(standby) > before, "heartbeat would have come to it by itself only after minutes"
    assert observe.holder(quiet, SITE) is active and _status(active)["epoch"] == epoch
    assert _status(standby)["epoch"] < epoch, "it was active in between"


def test_networking_that_is_restarted_on_the_active_node_leaves_one_active(quiet, pair):
    active, standby = pair
    active.run(["systemctl", "restart", "networking"], check=True, timeout=60)
    assert eventually(lambda: observe.holder(quiet, SITE), 15)
    assert eventually(lambda: _hears(standby) and _hears(active), 15)
    assert {_status(each)["role"] for each in pair} == {"active", "standby"}
    assert eventually(lambda: observe.ping_through_tunnel(quiet), 60)


def test_a_standby_whose_heartbeat_says_it_comes_back_and_does_not_costs_nobody_the_role(quiet, pair):
    """A path's interface is missing: heartbeat restarts itself, and fails. For half a minute the other node's heartbeat
    waits for it, and makes its own clients wait when nothing is acknowledged any more; the agent is one of them."""
    active, standby = pair
    epoch = _status(active)["epoch"]
    standby.run(["ip", "link", "delete", "bond1"], check=True)
    try:
        # heartbeat itself would do that after some hundred packets
        standby.run(["sh", "-c", _END_WRITER], check=True)
        assert eventually(lambda: standby.run(["systemctl", "is-active", "heartbeat"]).stdout.strip() != "active", 15)
        with observe.pings(quiet) as seen:
            active.run(["sh", "-c", _TALK], check=True, timeout=60)
            time.sleep(6)
            gap = seen.longest_gap()
        paused = active.run(["grep", "-c", "all clients are now paused", "/var/log/ha-log"]).stdout.strip()
    finally:
        standby.run(["sh", "-c", "ifdown --force bond1; ifup bond1"], timeout=60)
        # The minion's way to the master is bond1, which was missing: it has been silent for minutes afterwards.
        standby.run(["systemctl", "restart", "salt-minion"], check=True, timeout=60)
    assert gap < 3 and observe.holder(quiet, SITE) is active, gap
    assert (_status(active)["role"], _status(active)["epoch"]) == ("active", epoch)
    assert int(paused), "heartbeat did not let its clients wait: the test makes no difference"
    assert eventually(lambda: _hears(standby) and _hears(active), 60)
