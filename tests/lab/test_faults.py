"""Each fault, made for real under traffic: the tunnel comes back, and afterwards the pair has recovered."""
from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab import observe
from lab.bench.clients import Client, tune_libreswan
from lab.bench.faults import FAULTS, Fault
from lab.bench.pairs import Pair
from lab.bench.run import one
from lab.laboratory import ROADWARRIOR, Lab
from tests.lab.conftest import dropped

# Seconds without an answer from the virtual IP; generous limits: the profile is `default`, machines are noisy.
# docs/benchmarks.md has what was measured.
BOUNDS = {"crash": 10, "hang": 10, "woken": 5, "one NIC": 5, "both NICs": 10, "switch cut": 10, "upstream lost": 20,
          "daemon killed": 15, "daemon hung": 20, "heartbeat killed": 15, "agent killed": 3, "agent hung": 5,
          "switch-over": 5, "reboot": 15, "power-on": 3}


@pytest.fixture(scope="module")
def quick(lab: Lab) -> Iterator[Client]:
    """The roadwarrior, tuned to notice soon: these tests are not about its own timers."""
    guest = lab.roadwarrior
    shipped = guest.run(["cat", "/etc/ipsec.conf"], check=True).stdout
    tune_libreswan(lab, guest, "2s")
    observe.connect_roadwarrior(lab)
    yield Client(ROADWARRIOR, "Libreswan", tuned=True)
    lab.copy_to(guest, "/etc/ipsec.conf", shipped.encode())
    observe.connect_roadwarrior(lab)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_tunnel_comes_back_after(settled, quick: Client, fault: Fault):
    pair = Pair(settled, "default")
    row = one(settled, pair, fault, [quick])
    assert row["silent"] <= BOUNDS[fault.name], row
    assert not row["never"] and row["gaps"][ROADWARRIOR] < 30, row
    # a node that stood still: how long it answers before it knows that it is no longer the active one
    # (0.02 to 0.65 s were measured, more on a slow day: a packet may come before the agent gets the processor)
    assert row.get("still_answers", 0) < 2, row
    assert observe.eventually(pair.settled, 120)


def test_a_client_whose_call_was_answered_by_half_calls_again(settled, quick: Client):
    """The gateway goes away between IKE_SA_INIT and IKE_AUTH, or is overloaded: 5.2 once stayed away for good."""
    active, client = observe.active(settled, "winterthur"), settled.roadwarrior
    began = time.time()
    # drop IKE_AUTH (35) and INFORMATIONAL (37): RFC 7296, 3.1, after eight octets of UDP
    with dropped("udp dport 500 @th,208,8 { 35, 37 } drop;", active):
        assert observe.eventually(lambda: "IKE_AUTH_I: 2 second timeout" in client.journal(began, "-t", "pluto"), 30)
    assert observe.eventually(lambda: observe.ping_through_tunnel(settled), 30)
