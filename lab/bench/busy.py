"""An overloaded machine and no other fault: a pair on it must not change its roles."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from lab import observe
from lab.bench.pairs import Pair
from lab.guest import Guest

LOOPS_PER_CORE = 2


def busy(its: Pair, clients: list[Guest], minutes: float) -> dict[str, Any]:
    """Load every core of the lab's machine and watch the pair for `minutes`.

    Returns ``minutes``, ``loops`` (how many busy loops ran), ``takeovers`` (how often a node took the addresses),
    ``called_dead`` (how often a node called the other one dead), ``holder_changed`` (whether another node holds the
    addresses at the end), ``gaps`` (each client's longest, in seconds).
    """
    observe.eventually(its.settled, 120, every=1)
    before, at = its.active(), time.time()
    pings = [observe.Pings(its.lab, guest, 0.1) for guest in clients]
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
             for _ in range(LOOPS_PER_CORE * (os.cpu_count() or 1))]
    try:
        time.sleep(minutes * 60)
    finally:
        for loop in loops:
            loop.kill()
    gaps = {guest.host.name: round(each.longest_gap(since=at), 2) for guest, each in zip(clients, pings, strict=True)}
    for each in pings:
        each.stop()
    return {"minutes": minutes, "loops": len(loops), "gaps": gaps, "holder_changed": its.active() is not before,
            "called_dead": sum(its.said(guest, its.detected, at) for guest in its.guests),
            "takeovers": sum(its.said(guest, its.held, at) for guest in its.guests)}
