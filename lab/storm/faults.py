"""The faults that a storm makes: the bench's, and cuts of what the nodes hear. See lab/bench/faults.py."""
from __future__ import annotations

from collections.abc import Callable

from lab import network
from lab.bench.faults import FAULTS, Steps
from lab.bench.pairs import Pair
from lab.guest import Guest

TABLE = "storm"
# heartbeat's messages, and the answers of ping nodes. The node answers pings of others all the same.
_HEARTBEAT, _PING_ANSWERS = "udp dport 694 drop;", "icmp type echo-reply drop;"
CONSOLE_SECONDS = 5               # a command that repairs something: the node may not answer


def _drop(rules: str, guest: Guest) -> None:
    guest.run(["nft", f"table inet {TABLE} {{ chain heard {{ type filter hook input priority -300; {rules} }}; }}"],
              check=True)


def _hear(guest: Guest) -> None:
    # a node that has booted meanwhile has no such table any more: that is no error
    guest.run(["nft", "delete", "table", "inet", TABLE], timeout=CONSOLE_SECONDS)


def _one_way(rules: str) -> Callable[[Pair, Guest], Steps]:
    def make(pair: Pair, guest: Guest) -> Steps:
        yield
        _drop(rules, guest)
        yield
        _hear(guest)
    return make


def _cut(pair: Pair, guest: Guest) -> Steps:
    yield
    for each in pair.guests:
        _drop(_HEARTBEAT, each)
    yield
    for each in pair.guests:
        _hear(each)


MAKE: dict[str, Callable[[Pair, Guest], Steps]] = {
    **{fault.name: fault.make for fault in FAULTS},
    "one-way cut": _one_way(_HEARTBEAT),       # the node does not hear the other one, which hears it
    "deaf": _one_way(_HEARTBEAT + _PING_ANSWERS),
    "cut": _cut,
}


def restore(pair: Pair) -> list[str]:
    """Undo what any fault may have left, whatever went wrong when it was healed. Returns what could not be undone."""
    wrong = []
    for switches in pair.site.switches.values():
        for switch in switches:
            network.ip("link", "set", network.uplink(switch), "up")
    for guest in pair.guests:
        try:
            if guest.off():
                guest.start()
                guest.wait_up()
            guest.resume()
            _hear(guest)
            for nic in guest.host.nics:
                guest.cable(nic, plugged=True)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the other node must be repaired all the same
            wrong.append(f"{guest.host.name}: {error}")
    return wrong
