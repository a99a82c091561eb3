"""What the state machine (agent/decide.py) wants done. The worker does it in the order in which handle() returns it."""
from __future__ import annotations

from typing import NamedTuple


class Mute(NamedTuple):
    """Drop packets to the virtual addresses from now on."""


class Unmute(NamedTuple):
    """End Mute: let the kernel answer for the virtual addresses again, and announce them."""


class Hold(NamedTuple):
    """Hold and announce the addresses, and let the daemon listen on them."""


class Restore(NamedTuple):
    """Put back addresses that vanished. The role does not change."""


class Remove(NamedTuple):
    """Take the virtual addresses off this node: it is standby, and a person or another program added them."""


class Announce(NamedTuple):
    """Announce the addresses to the neighbours once more."""


class Park(NamedTuple):
    """Mute, then move the addresses to lo: this node can send from them, and does not answer for them."""


class Release(NamedTuple):
    """Let the daemon tell its peers that their tunnels end; the event Released follows."""


class Leave(NamedTuple):
    """Give up the addresses, and let the daemon notice."""


class Restart(NamedTuple):
    """Restart the IPsec daemon."""


class Reopen(NamedTuple):
    """Make heartbeat open these paths again."""
    paths: tuple[str, ...]


class Probe(NamedTuple):
    """Ask the ping nodes; the event Reached follows for each that answers."""


class Trust(NamedTuple):
    """Stop asking the ping nodes: the answer is known, or does not matter any more."""


class Fence(NamedTuple):
    """Run the fence command; the event Fenced follows."""


class CallOff(NamedTuple):
    """End the fence command that runs, with all that it started: the peer is back. Fenced follows as usual."""


class Send(NamedTuple):
    """Send a message to the other agent."""
    message: dict[str, object]


class Keep(NamedTuple):
    """Keep both epochs (agent/history.py)."""
    own: int
    highest: int


class Note(NamedTuple):
    """Add a role change to the history."""
    role: str
    cause: str
    epoch: int


class Log(NamedTuple):
    """Write a line to the system's log."""
    priority: str
    text: str


class Answer(NamedTuple):
    """Answer a Command. `refused`: why it was not done, empty when it was."""
    number: int
    refused: str


class End(NamedTuple):
    """End this process."""


Action = (Mute | Unmute | Hold | Restore | Remove | Announce | Park | Release | Leave | Restart | Reopen | Probe | Trust
          | Fence | CallOff | Send | Keep | Note | Log | Answer | End)

