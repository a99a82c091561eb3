"""A message of the other node's agent: what it may contain, checked before anything is decided on it."""
from __future__ import annotations

import math
from typing import Any, NamedTuple

from agent import epochs
from agent.timely import round_trip

MESSAGE_VERSION = 1  # of the messages between the agents
KINDS = ("state", "yield", "claim", "refuse", "intruder")
MAX_COUNT = 2**53  # requests and questions are numbered below this
MAX_PINGS = 1000  # no site has more ping nodes
MAX_STALL_SECONDS = 3600.0
MAX_TEXT = 200  # characters of a reason or a cause


class PeerState(NamedTuple):
    """The other node's state, from its last message. `at`: when it came."""
    role: str
    epoch: int
    ready: bool
    why: str
    pings: int
    preferred: bool
    at: float
    able: bool = True  # it could serve if it had to, whether or not it is `ready`
    stall: float = 0.0  # its machine stands still again and again, for so many seconds; 0: it does not
    hears: bool = True  # it hears this node; an agent before 1.1 does not say so

    @classmethod
    def parse(cls, message: dict[str, Any], now: float) -> PeerState:
        """The state in a message that came at `now`. Raises ValueError for anything that no agent sends."""
        try:
            role, epoch, pings = message["role"], message["epoch"], message["pings"]
            ready, preferred, why = message["ready"], message["preferred"], message.get("why", "")
            able, stall = message.get("able", ready), message.get("stall", 0.0)
            hears = message.get("hears", True)
        except KeyError as error:
            raise ValueError(f"no {error}") from None
        if role not in ("standby", "active", "transition"):
            raise ValueError("role is none of standby, active, transition")
        if not epochs.valid(epoch):
            raise ValueError("epoch is no number of a takeover")
        if type(pings) is not int or not 0 <= pings <= MAX_PINGS:
            raise ValueError("pings is no count of ping nodes")
        if any(type(each) is not bool for each in (ready, preferred, able, hears)) or type(why) is not str:
            raise ValueError("ready, able, hears, preferred or why have the wrong type")
        if type(stall) not in (int, float) or not 0 <= stall < MAX_STALL_SECONDS:
            raise ValueError("stall is no time")
        return cls(role, epoch, ready, why[:MAX_TEXT], pings, preferred, now, able, stall, hears)

    def fitness(self) -> int:
        """2: ready, 1: able to serve if it has to, 0: neither."""
        return 2 if self.ready else int(self.able)


class Message(NamedTuple):
    """A checked message. A field that the sender's release does not know is None or False."""
    kind: str
    state: PeerState
    cause: str
    force: bool
    need: bool  # of a yield: it is enough that this node is able
    ask: int | None  # a question that this node answers by `re`
    re: int | None
    at: float | None  # when it was sent, by the sender's clock
    took: float | None  # seconds that it and the message that its sender had heard were on their way (agent/timely.py)
    echo: float | None  # when that message was sent, by this node's clock
    request: int | None  # the number of a yield or a claim
    answers: int | None  # the number of the request that this message answers
    within: float | None  # of a yield or a claim: the sender waits so many seconds for the answer
    highest: int | None  # of a yield: the newest epoch that the sender knows of

    def late(self) -> str:
        """Why a yield or a claim comes too late to be obeyed, empty when it does not.

        The sender no longer waits, and may have done something else meanwhile. It must have heard this node lately, or
        nobody can tell how late the message is. An agent before 1.1 does not say how long it waits.
        """
        if self.within is None:
            return ""
        if self.took is None:
            return "does not say which message of this node it has heard"
        return f"came too late, after {self.took:.1f} s" if self.took >= self.within else ""

    @classmethod
    def parse(cls, message: object, now: float) -> Message:
        """Checks a message that came at `now`. Raises ValueError for anything that no agent sends."""
        if type(message) is not dict:
            raise ValueError("no mapping")
        state = PeerState.parse(message, now)
        kind = message.get("kind")
        cause = message.get("cause", "")
        return cls(
            kind if isinstance(kind, str) and kind in KINDS else "", state,
            cause[:MAX_TEXT] if isinstance(cause, str) else "", message.get("force") is True,
            message.get("need") is True, _count(message, "ask"), _count(message, "re"), _seconds(message, "at"),
            round_trip(_seconds(message, "echo"), _seconds(message, "ago"), now), _seconds(message, "echo"),
            _count(message, "request"), _count(message, "answers"), _seconds(message, "within"),
            _count(message, "highest"))


def _count(message: dict[str, Any], key: str) -> int | None:
    value = message.get(key)
    return value if type(value) is int and 0 <= value < MAX_COUNT else None


def _seconds(message: dict[str, Any], key: str) -> float | None:
    value = message.get(key)
    # Trap: math.isfinite() raises OverflowError for an integer of hundreds of digits, so the size comes first.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 2**40:
        return None
    return float(value) if math.isfinite(value) else None
