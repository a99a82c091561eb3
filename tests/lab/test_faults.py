"""Each fault, made for real under traffic: the tunnel comes back, and the pair is whole again afterwards."""
from __future__ import annotations

import pytest

from lab.bench.faults import FAULTS, Fault
from lab.bench.pairs import Pair
from lab.bench.run import one
from lab.laboratory import ROADWARRIOR

# Seconds until the virtual IP is served again, loose: the profile is `default`, machines are noisy.
# docs/benchmarks.md has what was measured.
BOUNDS = {"crash": 10, "hang": 10, "one NIC": 5, "both NICs": 10, "switch cut": 10, "upstream lost": 20,
          "daemon killed": 15, "daemon hung": 20, "heartbeat killed": 15, "agent killed": 3, "agent hung": 5,
          "switch-over": 5, "reboot": 15, "power-on": 3}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_tunnel_comes_back_after(quiet, fault: Fault):
    row = one(quiet, Pair(quiet, "default"), fault, [ROADWARRIOR])
    assert row["serving"] <= BOUNDS[fault.name], row
    # the roadwarrior has the paper's dead peer detection, 5 s and 15 s
    assert row["gaps"][ROADWARRIOR] < 60, row
