"""The virtual IPs on a real kernel, in a user and network namespace of its own."""
from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from agent.addresses import Addresses, Watch
from agent.settings import Address
from tests.conftest import TREE

UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]
VETH = ["ip", "link", "add", "outer", "type", "veth", "peer", "name", "far"]
FOUR, SIX = Address("192.0.2.10", 32, "outer"), Address("2001:db8::10", 128, "outer")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def answers(address: str) -> bool:
    """Whether packets to an address are delivered here."""
    done = subprocess.run(["ip", "route", "get", address], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.startswith("local")


def at(address: str) -> list[str]:
    return [line.split()[1] for line in ip("-o", "address", "show").splitlines() if f" {address}/" in line]


def inside() -> None:
    """Runs in the namespace: every change from one state to another."""
    ip(*VETH[1:])
    for each in ("lo", "outer", "far"):
        ip("link", "set", each, "up")
    ip("address", "add", "192.0.2.11/24", "dev", "outer")
    ip("address", "add", "2001:db8::11/64", "dev", "outer", "nodad")
    for _ in range(500):  # the kernel adds an address's local route a moment later, on a busy machine much later
        if answers("192.0.2.11") and answers("2001:db8::11"):
            break
        time.sleep(0.01)
    both = Addresses([FOUR, SIX])
    quiet = [FOUR.address, SIX.address]

    def expect(way: str, *wanted: object) -> None:
        # the kernel finishes its own work a moment later, on a busy machine later still
        for _ in range(200):
            found = (both.look()[0], [answers(each) for each in quiet], [at(each) for each in quiet])
            if found == wanted:
                break
            time.sleep(0.01)
        assert found == wanted, way
        # The agent never touches an address that is not its own
        assert answers("192.0.2.11") and answers("2001:db8::11"), way

    steps = {"hold": ("held", True, ["outer"]), "unmute": ("held", True, ["outer"]),
             "mute": ("muted", False, ["outer"]), "park": ("parked", False, ["lo"]), "leave": ("none", False, [])}
    for way in ("hold leave", "hold hold mute mute unmute leave leave", "hold mute", "hold park leave",
                "hold park park hold", "mute hold", "mute leave hold mute park hold park", "leave hold mute leave",
                "hold park hold mute hold leave"):
        for step in way.split():
            getattr(both, step)()
        state, answered, where = steps[way.split()[-1]]
        expect(way, state, [answered] * 2, [where] * 2)
    # A person has added them, with other prefix lengths than the agent's
    for step in ("leave", "park"):
        both.hold()
        ip("address", "add", f"{FOUR.address}/26", "dev", "outer")
        ip("address", "add", f"{FOUR.address}/24", "dev", "outer")
        getattr(both, step)()
        state, answered, where = steps[step]
        expect(f"by hand, {step}", state, [answered] * 2, [where] * 2)
    both.leave()
    assert "blackhole" not in ip("route", "show", "table", "local") + ip("-6", "route", "show", "table", "local")

    watch, carriers = Watch(), {}
    both.hold()
    watch.read(carriers.__setitem__)
    assert "deprecated" in ip("-6", "address", "show", "dev", "outer", "to", SIX.address)  # never a source address
    ip("address", "delete", "192.0.2.10/32", "dev", "outer")
    assert watch.read(carriers.__setitem__) and both.look()[2] == ("192.0.2.10",)

    def heard_of(carrier: bool) -> None:
        # the kernel reports a carrier up to a second later (linkwatch)
        for _ in range(300):
            watch.read(carriers.__setitem__)
            if carriers.get("outer") is carrier:
                return
            time.sleep(0.01)
        raise AssertionError(f"carrier {carrier} was not heard of: {carriers}")

    ip("link", "set", "far", "down")
    heard_of(False)
    assert both.carriers()["outer"] is False
    ip("link", "set", "far", "up")
    heard_of(True)
    both.hold()
    assert both.look()[0] == "held" and not both.look()[2]

    # The daemon reads with SIOCGIFCONF and ignores a label that is no interface's name (the trap at PARKED_LABEL).
    both.park()
    assert f"inet {FOUR.address}/32 scope global parked" in ip("address", "show", "lo")
    both.hold()
    assert f"inet {FOUR.address}/32 scope global outer" in ip("address", "show", "outer")


@pytest.mark.skipif(
    not shutil.which("ip") or subprocess.run([*UNSHARE, *VETH], capture_output=True, check=False).returncode != 0,
    reason="no user namespace with a network here")
def test_all_ways():
    done = subprocess.run([*UNSHARE, sys.executable, "-m", "tests.unit.agent.test_addresses"], cwd=TREE,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    inside()
