"""
Where to call a peer next. Neither input nor output: the loop says what is, this says what to do.

The daemon calls the address that ipsec.conf has, for ever. When no tunnel is up for a while, the next place is called:
the addresses in order, a name's as they are looked up then. A peer whose first place is a name may also call by itself,
from wherever it is, while its connection is as ipsec.conf has it (`right=%any`); so that takes its turn.

Which place is called is forgotten with the role: a node that becomes active begins with the first.
"""
from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from peers.settings import Peer, Place

LOST_SECONDS = 5.0      # after a tunnel's end: the daemon has asked for as long as dpd says already
LOOK_AGAIN_SECONDS = 5.0  # after a round in which no name could be looked up


@dataclass(frozen=True)
class Call:
    """What to load: the connection with this address and identity; with the address "" as ipsec.conf has it."""
    address: str
    id: str = ""


AS_WRITTEN = Call("")


def is_address(host: str) -> bool:
    """Whether a place is an address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass
class Caller:
    """Decides for one peer. `resolve(host)`: the addresses of a name, [] where they are not known."""
    peer: Peer
    resolve: Callable[[str], list[str]]
    now_at: Call = AS_WRITTEN       # what the daemon has loaded
    due: float | None = None        # when to call elsewhere; None while this node does not serve
    round: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now_at = self.written()

    def look(self, now: float, serves: bool, up: bool) -> Call | None:
        """What to load now, None for nothing. `up`: whether a tunnel to the peer is up."""
        if not serves:
            elsewhere = self.now_at != self.written() and self.due is not None
            self.due, self.round, self.now_at = None, [], self.written()
            return AS_WRITTEN if elsewhere else None
        if self.due is None:
            # The daemon is calling the first address; a name it can not call.
            self.due = now if self.written() == AS_WRITTEN else now + self.peer.patience
        if up:
            self.due, self.round = now + LOST_SECONDS, []
            return None
        if now < self.due:
            return None
        self.due = now + self.peer.patience
        if not self.round:
            self.round = self.new_round()
        while self.round:
            call = self.round.pop(0)
            if call != self.now_at:
                self.now_at = call
                return call
        if len(self.peer.places) == 1 and self.now_at == AS_WRITTEN:
            self.due = now + LOOK_AGAIN_SECONDS
        return None

    def written(self) -> Call:
        """What ipsec.conf has: the first place, if that is an address."""
        first = self.peer.places[0]
        return _call(first, first.host) if is_address(first.host) else AS_WRITTEN

    def new_round(self) -> list[Call]:
        """Every place once, in order; at the end the connection as it is written, where a peer may call by itself."""
        calls = [_call(place, address) for place in self.peer.places
                 for address in ([place.host] if is_address(place.host) else self.resolve(place.host))]
        return list(dict.fromkeys([*calls, *([AS_WRITTEN] if self.written() == AS_WRITTEN else [])]))


def _call(place: Place, address: str) -> Call:
    return Call(address, place.id)
