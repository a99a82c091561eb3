"""Many tunnels: how long the standby needs to copy them, how old its copies are, what it costs, what a crash costs.

The tunnels beside the client's are states and policies that `ip xfrm` makes on the active node, as a daemon would
have: nobody sends through them. That they are whole afterwards is asked of the kernels (`verify`).
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

from lab import observe
from lab.bench.pairs import Pair
from lab.guest import Guest
from lab.progress import step

AGE_SAMPLES, AGE_EVERY_SECONDS = 40, 0.25
IDLE_SECONDS = 30.0
COPIED_SECONDS = 180.0
VERIFY_SECONDS = 60.0
BACK_SECONDS = 2.0            # of pings after the gap
PING_SECONDS = 0.02

# Makes tunnels FIRST to LAST - 1 that end on ADDRESS, on a gateway. A tunnel: two states, three policies. Its peer and
# its inner network are made from its number; reqids begin where no daemon and no adopted state has any.
_MAKE = r"""
import ipaddress, subprocess, sys
address, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
lines = []
for number in range(first, last):
    peer, inner = ipaddress.ip_address("10.64.0.1") + number, ipaddress.ip_address("10.128.0.1") + number
    reqid, key = 200000 + number, f"0x{number + 1:072x}"
    for spi, source, target in ((0xd0000000 + 2 * number, peer, address), (0xd0000001 + 2 * number, address, peer)):
        lines.append(f"xfrm state add src {source} dst {target} proto esp spi {spi:#x} reqid {reqid} mode tunnel "
                     f"replay-window 64 aead rfc4106(gcm(aes)) {key} 128")
    for way, source, target, ends in (("out", "0.0.0.0/0", f"{inner}/32", (address, peer)),
                                      ("in", f"{inner}/32", "0.0.0.0/0", (peer, address)),
                                      ("fwd", f"{inner}/32", "0.0.0.0/0", (peer, address))):
        lines.append(f"xfrm policy add src {source} dst {target} dir {way} priority 2000000 tmpl src {ends[0]} "
                     f"dst {ends[1]} proto esp reqid {reqid} mode tunnel")
done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, timeout=500)
sys.exit(done.stderr[:500] if done.returncode else 0)
"""
# Prints the processor time, in seconds, of the role agent's processes and of gateway-sessions.
_SPENT = r"""
import os
ticks = {"agent": 0, "sessions": 0}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read()
        kind = "agent" if "gateway/agent/run" in words else "sessions" if "gateway/sessions/run" in words else ""
        if kind:
            stat = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            ticks[kind] += int(stat[11]) + int(stat[12])
    except OSError:
        pass
print(*(each / os.sysconf("SC_CLK_TCK") for each in ticks.values()))
"""


def make(guest: Guest, address: str, first: int, last: int) -> None:
    """Make the tunnels of these numbers on a gateway. Raises Failed when its kernel refuses one."""
    guest.run(["python3", "-c", _MAKE, address, str(first), str(last)], check=True, timeout=600)


def copied(its: Pair, active: Guest, least: int) -> bool:
    """Whether the standby holds all that the active node holds, `least` states and more."""
    one, two = observe.sessions(active), observe.sessions(its.other(active))
    return bool(one.get("connected") and two.get("complete") and one["states"] == two["states"] >= least
                and one["policies"] == two["policies"] and one["age"] is not None and one["age"] < 1)


def wait_until_copied(its: Pair, active: Guest, least: int) -> None:
    """Wait for `copied`. Raises AssertionError, with what both nodes say, after COPIED_SECONDS."""
    try:
        observe.eventually(lambda: copied(its, active, least), COPIED_SECONDS, every=0.1)
    except AssertionError:
        said = [observe.sessions(each) for each in (active, its.other(active))]
        raise AssertionError(f"{least // 2} tunnels are not copied after {COPIED_SECONDS:g} s: {said}") from None


def ages(active: Guest) -> list[float]:
    """How old the standby's confirmed copy is, looked at several times, in seconds."""
    found = []
    for _ in range(AGE_SAMPLES):
        time.sleep(AGE_EVERY_SECONDS)
        found.append(float(observe.sessions(active)["age"]))
    return found


def idle(guests: Iterable[Guest]) -> dict[str, float]:
    """What agent and sessions cost while nothing happens, as the worst node's share of a core."""
    guests = list(guests)

    def spent() -> list[list[float]]:
        return [[float(word) for word in guest.run(["python3", "-c", _SPENT], check=True).stdout.split()]
                for guest in guests]

    before, began = spent(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    after, seconds = spent(), time.monotonic() - began
    shares = [[(b - a) / seconds for a, b in zip(old, new, strict=True)]
              for old, new in zip(before, after, strict=True)]
    return {name: round(max(share[place] for share in shares), 4) for place, name in enumerate(("agent", "sessions"))}


def crash(its: Pair, client: Guest, active: Guest, count: int) -> dict[str, Any]:
    """The active node crashes under the client's traffic. Returns the gap, and whether all copies are whole."""
    survivor = its.other(active)
    pings = observe.Pings(its.lab, client, PING_SECONDS)
    try:
        time.sleep(2.0)
        at = time.time()
        active.crash()
        observe.eventually(lambda: observe.holds_all(its.lab, survivor), 60)
        observe.eventually(lambda: pings.replies() and time.time() - pings.replies()[-1] < 0.5, 60)
        time.sleep(BACK_SECONDS)
        gap = pings.longest_gap(since=at)
    finally:
        pings.stop()
        said = survivor.ask("/run/gateway-sessions.sock", {"command": "verify", "nonce": "00"},
                            timeout=VERIFY_SECONDS) or {}
        active.start()
        active.wait_up()
    its.lab.master.wait_for({active.host.minion_id})
    observe.eventually(its.settled, 180, every=1)
    return {"gap": round(gap, 2), "states": said.get("states", 0), "wrong": said.get("wrong", ["no answer"]),
            "whole": said.get("states", 0) >= 2 * count and not said.get("wrong", True)}


def measure(its: Pair, client: Guest, counts: list[int], runs: int) -> Iterator[dict[str, Any]]:
    """For each number of tunnels: seconds until copied, ages, shares of a core when idle, and `runs` crashes."""
    address, made = its.site.virtual("external"), 0
    for count in sorted(counts):
        active = observe.eventually(its.active, 30)
        make(active, address, made, count)
        began, made = time.monotonic(), count
        wait_until_copied(its, active, 2 * count)
        row: dict[str, Any] = {"tunnels": count, "copied": round(time.monotonic() - began, 1)}
        seen = ages(active)
        row |= {"age": round(statistics.median(seen), 3), "worst_age": max(seen)} | idle(its.guests)
        row["crashes"] = []
        for _ in range(runs):
            row["crashes"].append(crash(its, client, active, count))
            active = observe.eventually(its.active, 30)
            wait_until_copied(its, active, 2 * count)
        step(f"{count} tunnels: {row}")
        yield row
