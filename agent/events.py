"""What happens to a node: the events that the worker gives to the state machine (agent/decide.py)."""
from __future__ import annotations

from typing import NamedTuple


# They contain no time: handle() gets the time as an argument.
class Connected(NamedTuple):
    """This node's heartbeat answers (`yes`), or has not answered since the time `since`."""
    yes: bool
    since: float | None = None


class Peer(NamedTuple):
    """What heartbeat reports of the other node: init, up, active, dead."""
    status: str


class PeerAgent(NamedTuple):
    """Whether heartbeat reports an agent on the other node."""
    there: bool


class Received(NamedTuple):
    """A message from the other agent, not checked yet."""
    message: object


class Ping(NamedTuple):
    """heartbeat reports whether a ping node answers."""
    address: str
    up: bool


class Reached(NamedTuple):
    """A ping node has just answered this agent's own question."""
    address: str


class Uplink(NamedTuple):
    """Whether an uplink has carrier."""
    interface: str
    carrier: bool


class Daemon(NamedTuple):
    """The IPsec daemon's state: alive, hung, dead, none (this node has none)."""
    state: str


class Compared(NamedTuple):
    """Whether this node was compared with the master since its boot."""
    yes: bool


class Listened(NamedTuple):
    """After Hold, Unmute or Restart: the daemon has read its addresses again. `ok`: it listens on them."""
    ok: bool


class Released(NamedTuple):
    """After Release: the daemon has told its peers that their tunnels end, as far as it could."""


class Missing(NamedTuple):
    """Virtual addresses that are not on their interfaces."""
    addresses: tuple[str, ...]


class Found(NamedTuple):
    """Virtual addresses that this node holds, whoever added them. `parked`: some are on lo."""
    addresses: tuple[str, ...]
    parked: bool = False


class Deaf(NamedTuple):
    """This node's deaf heartbeat paths: their interfaces were recreated or deleted since (agent/paths.py).

    `all`: heartbeat hears nothing at all. `there`: all interfaces exist, so that heartbeat can open the paths again.
    """
    paths: tuple[str, ...] = ()
    all: bool = False
    there: bool = True


class Gap(NamedTuple):
    """This whole process stood still for so many seconds, longer than the deadtime."""
    seconds: float


class Fenced(NamedTuple):
    """The fence command has ended, after the action CallOff too. `ok`: the other node is certainly off."""
    ok: bool
    why: str


class Command(NamedTuple):
    """A person's command: standby or takeover. Answer returns its `number`."""
    name: str
    force: bool
    number: int


class Terminate(NamedTuple):
    """heartbeat ends, and the agent must leave. `keep`: heartbeat only restarts itself, so the addresses stay."""
    keep: bool = False


class Tick(NamedTuple):
    """Time passes."""


Event = (Connected | Peer | PeerAgent | Received | Ping | Reached | Uplink | Daemon | Compared | Listened | Released
         | Missing | Found | Deaf | Gap | Fenced | Command | Terminate | Tick)

