"""Which node serves: the agent's state machine, without any I/O.

Events come in, each with the time (seconds, any steady clock), and actions come out. Nothing in this file sleeps, reads
or sends, so that tests can try every decision as a table.

    standby --take--> active --park, yield--> leaving --the peer took over--> releasing --> standby
       |                ^  |                     |
       |                |  |                     +--no answer within 1 s: this node takes everything back
       +--fence-> fencing  +--gives away, asking nobody--> parting --> standby

In `releasing` and `parting` the addresses are parked, and the daemon tells its peers that their tunnels end. A node
that is `parting` reports itself as standby.

Every takeover raises the epoch by one. Where two nodes are active (after a split has healed), the one with the higher
epoch stays active: clients and neighbours follow the latest announcement.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

MESSAGE_VERSION = 1  # of the messages between the agents
STATE_EVERY_SECONDS = 1.0  # the agent sends its state at least this often
STATE_FRESH_SECONDS = 3.0  # the peer's last state counts for this long
ANSWER_SECONDS = 1.0  # the peer must take over, or answer, within this time
COMMAND_SECONDS = 8.0  # a person's command fails after this time
NO_CARRIER_SECONDS = 0.2  # a node without carrier for this long is cut off
FEWER_PINGS_SECONDS = 1.0  # a node that reaches fewer ping nodes than its peer for this long is the worse one
PROBE_EVERY_SECONDS = 0.1  # between two questions to the ping nodes
PROMPT_PROBES = 2  # an answer after at most so many questions: this node was never deaf
DEAD_CHECK_SECONDS = 0.25  # heartbeat looks for dead nodes this often
# When the peer and all ping nodes fall silent within this time, this node is the one that is cut off.
CUT_OFF_WINDOW_SECONDS = 10.0
CALM_SECONDS = 5.0  # a node that gave up for a fault is ready again when the fault has been gone for this long
FENCE_RETRY_SECONDS = 10.0  # between two tries to fence
INTRUDER_MEMORY_SECONDS = 30.0  # the status reports for this long that a standby was given an address
DAEMON_RESTART_SECONDS = 30.0  # the daemon has this long to start
# A recreated interface is left alone for this long: somebody is at work on it.
INTERFACE_SETTLE_SECONDS = 2.0
RELEASE_SECONDS = 5.0  # for the daemon to tell its peers that their tunnels end; then the addresses go anyway
PART_SECONDS = 2.0  # the same where no node has taken over yet
# As ANSWER_SECONDS, when heartbeat ends: this node will not serve again, whether or not the peer takes over.
LEAVE_ANSWER_SECONDS = 2.0
DEAD_PEER_ANSWER_SECONDS = 0.3  # a peer that was dead before this machine stood still gets this long to answer
# So many standstills within a minute are no accident: this machine gets no processor when it needs one (starved) ...
STARVED_STALLS = 3
STALL_WINDOW_SECONDS = 60.0
STALL_MEMORY_SECONDS = 300.0  # ... and counts as starved for this long after the last of them.
# The deadtime of a starved pair: at least so many seconds, so many times the usual standstill, at most so many seconds.
MIN_PATIENCE_SECONDS, PATIENCE_FACTOR, MAX_PATIENCE_SECONDS = 1.0, 1.5, 10.0
HOUR_SECONDS = 3600.0


# Events. They contain no time: handle() gets the time as an argument.
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
    """The fence command has ended."""
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


# Actions. The worker carries them out in the order in which handle() returns them.
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
          | Fence | Send | Keep | Note | Log | Answer | End)


class PeerState(NamedTuple):
    """The last message from the other agent; `at`: when it came."""
    role: str
    epoch: int
    ready: bool
    why: str
    pings: int
    preferred: bool
    at: float
    able: bool = True  # it could serve if it had to, whether or not it is `ready`
    stall: float = 0.0  # its machine stands still again and again, for so many seconds; 0: it does not

    @classmethod
    def parse(cls, message: dict[str, Any], now: float) -> PeerState:
        """The state in a message that came at `now`. Raises ValueError for anything that no agent sends."""
        try:
            role, epoch, pings = message["role"], message["epoch"], message["pings"]
            ready, preferred, why = message["ready"], message["preferred"], message.get("why", "")
            able, stall = message.get("able", ready), message.get("stall", 0.0)
        except KeyError as error:
            raise ValueError(f"no {error}") from None
        if role not in ("standby", "active", "transition"):
            raise ValueError(f"role {role!r}")
        if any(type(each) is not int or not 0 <= each < 2**53 for each in (epoch, pings)):
            raise ValueError("epoch or pings are no counts")
        if any(type(each) is not bool for each in (ready, preferred, able)) or type(why) is not str:
            raise ValueError("ready, able, preferred or why have the wrong type")
        if type(stall) not in (int, float) or not 0 <= stall < HOUR_SECONDS:
            raise ValueError("stall is no time")
        return cls(role, epoch, ready, why[:200], pings, preferred, now, able, stall)

    def fitness(self) -> int:
        """2: ready, 1: able to serve if it has to, 0: neither."""
        return 2 if self.ready else int(self.able)


class Site(NamedTuple):
    """What the state machine needs of the settings. Times in seconds."""
    node: str
    peer: str
    preferred: bool
    uplinks: tuple[str, ...] = ()
    ping_nodes: tuple[str, ...] = ()
    deadtime: float = 1.0
    deadping: float = 1.0  # heartbeat takes this long to notice that a ping node does not answer
    failback: bool = False
    failback_delay: float = 300.0
    fence: bool = False
    daemon: bool = True
    compare: bool = False  # after a boot the node is not ready before it was compared with the master


class RoleMachine:
    """One node's decisions. Only handle() is for callers; the other methods serve handle() and the tests."""

    def __init__(self, site: Site, now: float, own: int = 0, highest: int = 0, held: str = "none",
                 failbacks: Iterable[float] = ()) -> None:
        """`now`: the time. `own`, `highest`: the kept epochs. `held`: the addresses' state in the kernel (none, held,
        muted, parked). `failbacks`: the times of this node's failbacks within the last hour.
        """
        self.site = site
        self.epoch, self.highest = own, max(own, highest)
        self.role = {"none": "standby", "parked": "leaving"}.get(held, "active")
        self.cause = "the agent started" if held == "none" else "the agent started and found the addresses here"
        self.since = now
        self.connected = False
        self.lost_at = now  # when heartbeat stopped answering
        self.peer = "init"
        self.peer_agent = False
        self.agent_gone_at = now
        self.state: PeerState | None = None
        self.pings: dict[str, bool] = {}
        self.silent_at: float | None = None  # when the last ping node that answered fell silent
        self.dead_at = now  # when heartbeat called the peer dead
        self.reached_at: float | None = None  # when a ping node last answered this node's own question
        self.doubt_since: float | None = None  # since when this node asks them, in doubt whether it hears anything
        self.asked, self.asked_at = 0, now
        self.uplinks: dict[str, bool] = {}
        self.daemon = "unknown" if site.daemon else "none"
        self.compared = not site.compare
        self.deaf, self.deaf_since = Deaf(), now
        self.missing: tuple[str, ...] = ()
        self.intruder_next = now  # not before then the other node is told of an intruder again
        # The addresses that somebody gave this node while it was standby, and when
        self.intruded: tuple[tuple[str, ...], float] = (), now
        self.muted = held in ("muted", "parked")
        self.ask = 0
        self.muted_until = now + ANSWER_SECONDS
        self.deadline = now + ANSWER_SECONDS
        self.careful_until = now  # until then heartbeat's reports on the peer may be about the time before a standstill
        # When and for how many seconds this machine stood still, or the peer was silent without having died
        self.stalls: list[tuple[float, float]] = []
        self.starved_until = now
        self.peer_stall = 0.0  # the `stall` in the peer's last message; it still counts when the peer is dead
        self.command: Command | None = None
        self.command_until = 0.0
        self.claimed_at = 0.0
        self.failing_back = False
        self.failbacks = [at for at in failbacks if now - at < HOUR_SECONDS]
        self.alone = False  # it took over because the peer was dead
        self.gave_up = False
        self.calm_since: float | None = None
        self.try_again = now  # not before then it tries again to give up, fence or claim the role
        self.reasons: dict[str, float] = {}  # kind of trouble: since when
        self.idle_since: float | None = None  # since when no node is active
        self.healthy_since: float | None = None  # since when a failback to this node would be right
        self.restarted: float | None = None
        self.unheard = False  # the daemon does not listen on the addresses that this node holds
        self.grace_until = now
        self.ending = False
        self.ended = False
        self.sent_at = now - STATE_EVERY_SECONDS
        self.sent: tuple[str, int, str, int, bool] | None = None
        self.said: dict[str, tuple[str, float]] = {}
        self.out: list[Action] = []
        self.now = now

    # The state of the node

    def reached_now(self) -> int:
        """How many ping nodes answer."""
        return sum(self.pings.get(each, False) for each in self.site.ping_nodes)

    def carrier(self) -> bool:
        """Whether any uplink has carrier. One that was never reported counts as having it."""
        return not self.site.uplinks or any(self.uplinks.get(each, True) for each in self.site.uplinks)

    def not_able(self) -> str:
        """Why this node could not serve, empty when it could."""
        if not self.carrier():
            return f"no carrier on {', '.join(self.site.uplinks)}"
        if self.daemon not in ("alive", "none"):
            return "the IPsec daemon is not known yet" if self.daemon == "unknown" else f"IPsec daemon {self.daemon}"
        if self.deaf.all:
            return f"heartbeat hears nothing: {', '.join(self.deaf.paths)} gone or recreated"
        if self.gave_up:
            return "it gave up lately, and the reason is not gone for long enough"
        return ""

    def not_ready(self) -> str:
        """Why no planned move may give this node the role, empty when one may.

        A node that is able and not ready may have old settings. It takes over where otherwise no node would serve.
        """
        return self.not_able() or ("" if self.compared else "it was not compared with the master since it booted")

    def fitness(self) -> int:
        """As PeerState.fitness, for this node."""
        return 0 if self.not_able() else 2 if self.compared else 1

    def public_role(self) -> str:
        """standby, active or transition."""
        return {"standby": "standby", "parting": "standby", "active": "active"}.get(self.role, "transition")

    def fresh(self) -> PeerState | None:
        """The peer's last state, None if it is too old or the peer is dead."""
        fresh = self.state and self.now - self.state.at < STATE_FRESH_SECONDS and self.peer != "dead"
        return self.state if fresh else None

    def outranks(self, peer: PeerState) -> bool:
        """Whether this node stays active where both are. The names decide only where all else is equal."""
        return ((self.epoch, self.reached_now(), self.site.preferred, self.site.node)
                > (peer.epoch, peer.pings, peer.preferred, self.site.peer))

    def starved(self) -> bool:
        """Whether this machine, or the peer as heard here, stands still again and again."""
        return self.now < self.starved_until

    def stall(self) -> float:
        """How long the standstills of a starved machine last, in seconds; 0 when it is not starved.

        It is the length that STARVED_STALLS standstills have reached. So two long ones do not count: a machine that was
        stopped twice within those minutes is not one that gets no processor for that long.
        """
        if not self.starved():
            return 0.0
        return sorted(seconds for _at, seconds in self.stalls)[-min(STARVED_STALLS, len(self.stalls))]

    def patience(self) -> float:
        """Seconds that a peer whom heartbeat calls dead gets on top of the deadtime: it may only lack the processor."""
        stall = max(self.stall(), self.peer_stall)
        if not stall:
            return 0.0
        patience = min(max(MIN_PATIENCE_SECONDS, PATIENCE_FACTOR * stall), MAX_PATIENCE_SECONDS)
        return max(0.0, patience - self.site.deadtime)

    def peer_unready(self, need: bool = False) -> str:
        """Why the peer can not take over, empty when it can. `need`: it is enough that the peer is able."""
        if not self.connected:
            return "heartbeat does not answer here"
        if self.peer == "dead":
            return f"{self.site.peer} is dead"
        state = self.fresh()
        if not state:
            return f"no agent answers on {self.site.peer}"
        if not (state.able if need else state.ready):
            return f"{self.site.peer} is not ready: {state.why or 'it does not say why'}"
        return ""

    # Log lines, messages and answers

    def log(self, priority: str, text: str) -> None:
        """Writes a line to the system's log. `priority`: err, warning, notice, info."""
        self.out.append(Log(priority, text))

    def say(self, key: str, text: str, every: float = 60.0, priority: str = "warning") -> None:
        """Logs something that lasts: when the text changes, and again after `every` seconds."""
        before, at = self.said.get(key, ("", 0.0))
        if before != text or self.now - at >= every:
            self.said[key] = (text, self.now)
            self.log(priority, text)

    def turn(self, role: str, cause: str) -> None:
        """Takes a new role, and logs it with its cause."""
        before, self.role = self.public_role(), role
        self.said.clear()
        if self.public_role() == before:
            return
        self.cause, self.since = cause, self.now
        self.log("notice", f"{self.public_role()}: {cause} (epoch {self.epoch})")
        if self.public_role() in ("standby", "active"):
            self.out.append(Note(self.public_role(), cause, self.epoch))

    def answer(self, refused: str = "") -> None:
        """Answers the command that waits, if there is one. `refused`: why it was not done."""
        if self.command:
            self.out.append(Answer(self.command.number, refused))
            self.command = None

    def send(self, kind: str = "state", **more: object) -> None:
        """Sends a message of a kind. Every message carries the whole state; `more` is added."""
        why = self.not_ready()
        self.out.append(Send({
            "kind": kind, "version": MESSAGE_VERSION, "role": self.public_role(), "epoch": self.epoch, "ready": not why,
            "able": not self.not_able(), "why": why, "pings": self.reached_now(), "preferred": self.site.preferred,
            "stall": round(self.stall(), 3), "since": round(self.now - self.since, 3), **more}))
        self.sent_at = self.now
        self.sent = self.sendable()

    def sendable(self) -> tuple[str, int, str, int, bool]:
        """What the peer must know at once: a change of it is sent without waiting for STATE_EVERY_SECONDS."""
        return self.role, self.epoch, self.not_ready(), self.reached_now(), self.starved()

    # Roles

    def take(self, cause: str) -> None:
        """Makes this node active at once."""
        self.epoch = self.highest = self.highest + 1
        self.muted = self.gave_up = self.alone = self.unheard = False
        self.calm_since = None
        self.try_again = self.now
        self.reasons.clear()
        self.out.append(Hold())
        self.turn("active", cause)
        self.send()
        self.out.append(Keep(self.epoch, self.highest))
        if self.failing_back:
            self.failbacks.append(self.now)
            self.failing_back = False
        if self.command and self.command.name == "takeover":
            self.answer()

    def take_back(self, why: str) -> None:
        """The peer did not take over: serve again. A node whose heartbeat ends gives the role away instead."""
        if self.ending:
            self.give_away(f"heartbeat ends on {self.site.node}, and nobody takes over: {why}")
            return
        self.muted = False
        self.try_again = self.now + CALM_SECONDS
        self.out.append(Hold())
        self.turn("active", f"taken back: {why}")
        self.send()
        self.answer(f"taken back: {why}")

    def give_away(self, cause: str) -> None:
        """Gives up the role at once, without asking the peer."""
        self.part(cause)
        self.answer(cause)
        self.finish()

    def part(self, cause: str) -> None:
        """Standby from now on. The addresses no longer answer, and the daemon tells its peers that their tunnels end.

        A peer that is not told waits for its own timers: strongSwan's, as shipped, for three minutes.
        """
        if self.daemon in ("none", "dead", "hung"):
            self.muted = False
            self.out.append(Leave())
            self.turn("standby", cause)
            return
        self.muted = True
        self.deadline = self.now + PART_SECONDS
        self.out += [Park(), Release()]
        self.turn("parting", cause)

    def yield_to_peer(self, cause: str, force: bool = False, need: bool = False) -> None:
        """Asks the peer to take over. Until it says that it has, this node can send, and does not answer.

        `need`: this can not wait until the peer is ready; it is enough that the peer is able.
        """
        self.muted = True
        self.deadline = self.now + self.hopes()
        self.out.append(Park())
        self.turn("leaving", cause)
        self.send("yield", force=force, need=need, cause=cause)

    def hopes(self) -> float:
        """The seconds within which the peer must have taken over."""
        return LEAVE_ANSWER_SECONDS if self.ending else ANSWER_SECONDS

    def released(self, cause: str) -> None:
        """The daemon has told its peers, or the time for that is over: give up the addresses."""
        self.out.append(Leave())
        self.muted = False
        self.turn("standby", cause)
        self.answer()
        self.finish()

    def finish(self) -> None:
        """Tells the peer the new state, and ends the process where heartbeat ends."""
        if self.ended:
            return
        self.send()
        if self.ending and self.role != "parting":
            self.ended = True
            self.out.append(End())

    # Events

    def handle(self, event: Event, now: float, more: bool = False) -> list[Action]:
        """The actions that an event at the time `now` leads to.

        `more`: other events of the same moment follow; the machine decides only after the last of them.
        """
        self.now = max(now, self.now)
        self.out = []
        if not self.ended:
            getattr(self, "on_" + type(event).__name__.lower())(event)
        if not self.ended:
            self.watch()
        if not self.ended and not more:
            self.decide()
            if self.doubt_since is not None and not (self.role == "standby" and self.peer == "dead"):
                self.trust()
        if not self.ended and self.connected and (
                self.sendable() != self.sent or self.now - self.sent_at >= STATE_EVERY_SECONDS):
            self.send()
        return self.out

    def on_tick(self, event: Tick) -> None:
        pass

    def on_connected(self, event: Connected) -> None:
        if self.connected and not event.yes:
            self.lost_at = self.now if event.since is None else event.since
            self.log("warning", "heartbeat on this node does not answer")
        elif event.yes and not self.connected:
            self.log("info", "heartbeat answers")
            self.careful_until = max(self.careful_until, self.now)
            if self.muted and self.role == "active":
                self.question()
            elif self.role == "leaving":
                # The agent may have just started and found parked addresses, while the peer serves already.
                self.deadline = self.now + self.hopes()
                self.send(ask=self.ask)
        self.connected = event.yes
        if not event.yes:
            self.state = None

    def on_peer(self, event: Peer) -> None:
        if event.status != self.peer:
            self.log("info", f"heartbeat says that {self.site.peer} is {event.status}")
        back = self.peer == "dead" and event.status != "dead"
        soon = self.now - self.dead_at < STATE_FRESH_SECONDS
        if back and soon and not self.cut_off() and self.now >= self.careful_until:
            # No machine boots in that time: the peer was only late, and this node was neither deaf nor late itself.
            self.stalled(self.site.deadtime + self.now - self.dead_at)
        if back and self.role == "active" and not self.muted and self.since >= self.dead_at:
            # This node has taken over meanwhile. If the peer only stood still, its kernel answers the questions for the
            # addresses that have waited there before its agent can stop that, and the neighbours believe it.
            self.out.append(Announce())
        if back:
            self.agent_gone_at = self.now  # its agent gets the usual time to report
        self.peer = event.status
        if event.status == "dead":
            self.dead_at = self.now
            self.peer_agent = False
            self.state = None

    def on_peeragent(self, event: PeerAgent) -> None:
        if self.peer_agent and not event.there:
            self.agent_gone_at = self.now
        self.peer_agent = event.there
        if not event.there:
            self.state = None
        elif self.connected:
            self.send()

    def on_ping(self, event: Ping) -> None:
        before = self.reached_now()
        if event.up and self.peer == "dead" and self.cut_off():
            self.was_deaf()
        self.pings[event.address] = event.up
        if self.reached_now():
            self.silent_at = None
        elif before:
            self.silent_at = self.now

    def on_reached(self, event: Reached) -> None:
        if event.address in self.site.ping_nodes:
            self.reached_at = self.now

    def on_uplink(self, event: Uplink) -> None:
        self.uplinks[event.interface] = event.carrier

    def on_daemon(self, event: Daemon) -> None:
        if event.state != self.daemon and event.state in ("hung", "dead"):
            self.log("warning", f"the IPsec daemon is {event.state}")
        self.daemon = event.state

    def on_compared(self, event: Compared) -> None:
        if event.yes and not self.compared:
            self.log("info", "compared with the master")
        self.compared = event.yes or not self.site.compare

    def on_listened(self, event: Listened) -> None:
        if not self.muted:  # the daemon can not bind muted addresses; after Unmute it looks once more
            self.unheard = not event.ok

    def on_missing(self, event: Missing) -> None:
        self.missing = event.addresses
        if event.addresses and self.role == "active" and not self.muted:
            self.say("missing", f"{', '.join(event.addresses)} vanished: put back", every=10.0)
            self.out.append(Restore())

    def on_found(self, event: Found) -> None:
        if self.role != "standby":
            return
        if event.parked:  # the kernel did not remove them when this node gave up the role
            self.say("parked", "parked addresses were left behind: taken away", every=10.0)
            self.out.append(Remove())
        if not event.addresses:
            return
        self.intruded = event.addresses, self.now
        self.say("intruder", f"{', '.join(event.addresses)}: given to this node by somebody, and it is standby: taken "
                 "away", every=10.0)
        self.out.append(Remove())
        # Neighbours may have heard this node meanwhile, so the other node announces itself, once a second at most.
        if self.now >= self.intruder_next:
            self.intruder_next = self.now + ANSWER_SECONDS
            self.send("intruder")

    def intruder(self) -> str:
        """The addresses that somebody gave this node within the last half minute while it was standby."""
        addresses, at = self.intruded
        return ", ".join(addresses) if self.now - at < INTRUDER_MEMORY_SECONDS else ""

    def on_deaf(self, event: Deaf) -> None:
        if event != self.deaf:
            if self.deaf.all:
                # heartbeat's report on the other node may still be about the time before.
                self.careful_until = max(self.careful_until, self.now + self.site.deadtime + ANSWER_SECONDS)
            self.deaf, self.deaf_since = event, self.now
        elif event.paths and event.there and self.now - self.deaf_since >= INTERFACE_SETTLE_SECONDS:
            self.deaf_since = self.now
            self.log("warning", f"{', '.join(event.paths)}: recreated since heartbeat opened it, which is deaf on it: "
                     "opened anew")
            self.out.append(Reopen(event.paths))

    def on_gap(self, event: Gap) -> None:
        self.stalled(event.seconds)
        self.careful_until = self.now + max(self.site.deadtime, ANSWER_SECONDS)
        if self.role == "active":
            # Mute before anything else: the peer may have taken over meanwhile.
            if not self.muted:
                self.out.append(Mute())
                self.muted = True
            self.log("warning", f"stood still for {event.seconds:.2f} s: silent until {self.site.peer} was asked")
            self.question()
        else:
            self.log("warning", f"stood still for {event.seconds:.2f} s")
            if self.role == "leaving":
                self.deadline = self.now + self.hopes()

    def stalled(self, seconds: float) -> None:
        """Notes a standstill. One may have any cause, as a machine that is moved or stopped; many make it starved."""
        self.stalls = [each for each in self.stalls if self.now - each[0] < STALL_MEMORY_SECONDS]
        if self.stalls and self.now - self.stalls[-1][0] < max(
                ANSWER_SECONDS, min(self.stalls[-1][1], MAX_PATIENCE_SECONDS)):
            # Perhaps the same standstill, noticed once more, or one that follows from it: a machine that goes on after
            # five seconds has much to do, and stands still once more for less than one.
            at, before = self.stalls.pop()
            self.stalls.append((at, max(before, seconds)))
            return
        self.stalls.append((self.now, seconds))
        lately = sum(self.now - at < STALL_WINDOW_SECONDS for at, _seconds in self.stalls)
        if lately < STARVED_STALLS:
            return
        if not self.starved():
            self.log("warning", f"{lately} standstills within a minute, of this machine or of {self.site.peer}: no "
                     f"time to spare; from now on a node that is silent is given {MIN_PATIENCE_SECONDS:g} s at least")
        self.starved_until = self.now + STALL_MEMORY_SECONDS

    def question(self) -> None:
        """Asks the peer whether it is active, and sets the time until which this node stays muted."""
        self.ask += 1
        alone = self.peer == "dead" and self.now - self.since > STATE_FRESH_SECONDS
        self.muted_until = self.now + (DEAD_PEER_ANSWER_SECONDS if alone else ANSWER_SECONDS)
        self.send(ask=self.ask)

    def on_fenced(self, event: Fenced) -> None:
        if self.role != "fencing":
            return
        if event.ok:
            self.take(f"{self.site.peer} is dead and fenced")
            return
        self.role = "standby"
        self.try_again = self.now + FENCE_RETRY_SECONDS
        self.log("err", f"not taking over: {self.site.peer} could not be fenced ({event.why}); again in "
                 f"{FENCE_RETRY_SECONDS:.0f} s")

    def on_released(self, event: Released) -> None:
        if self.role in ("releasing", "parting"):
            self.released(self.cause)

    def on_terminate(self, event: Terminate) -> None:
        self.ending = True
        if event.keep or self.role in ("standby", "fencing"):
            if self.role in ("releasing", "parting"):
                self.out.append(Leave())  # the role is given away; the next agent would take parked addresses back
            elif event.keep:
                self.log("info", "heartbeat restarts itself: the addresses stay")
            self.ended = True
            self.out.append(End())
        elif self.role == "active" and not self.peer_unready(need=True) and not self.muted:
            self.yield_to_peer(f"heartbeat ends on {self.site.node}", need=True)
        elif self.role == "active":
            why = self.peer_unready(need=True) or "in a moment of doubt"
            self.give_away(f"heartbeat ends on {self.site.node}, {why}")

    def on_command(self, event: Command) -> None:
        if self.command or self.ending or self.role not in ("standby", "active"):
            self.out.append(Answer(event.number, "a role change is under way already: try again in a few seconds"))
            return
        self.command, self.command_until = event, self.now + COMMAND_SECONDS
        wanted = {"standby": "standby", "takeover": "active"}.get(event.name)
        if wanted is None:
            self.answer(f"unknown command {event.name}")
        elif wanted == self.role:
            self.answer()
        elif event.name == "standby":
            why = self.peer_unready() or self.peer_worse()
            if why and not event.force:
                self.answer(why)
            elif self.peer_unready(need=True):
                self.give_away_by_force()
            else:
                self.yield_to_peer(f"switch-over, asked for on {self.site.node}", event.force)
        else:
            why = self.not_ready() or ("" if self.connected else "heartbeat does not answer here")
            state = self.fresh()
            if not why and not state and self.peer != "dead":
                why = f"heartbeat is alive on {self.site.peer}, and no agent answers there"
            if why and not event.force:
                self.answer(why)
            elif state and state.role != "standby":
                self.claim("switch-over, asked for on " + self.site.node, event.force)
            else:
                self.take("asked for by a person" + (", forced" if event.force else ""))

    def give_away_by_force(self) -> None:
        """A person forces this node to standby, though the peer can not take over."""
        self.part("asked for by a person, forced")
        self.try_again = self.now + COMMAND_SECONDS
        self.answer()
        self.send()

    def peer_worse(self) -> str:
        """Where the peer reaches fewer ping nodes than this node: the sentence that says so. Else empty."""
        state = self.fresh()
        if state and state.pings < self.reached_now():
            return (f"{self.site.peer} reaches {state.pings} of {len(self.site.ping_nodes)} ping nodes, "
                    f"this node {self.reached_now()}")
        return ""

    def claim(self, cause: str, force: bool = False) -> None:
        """Asks the active peer to give the role to this node."""
        self.claimed_at = self.now
        self.try_again = self.now + CALM_SECONDS
        self.send("claim", cause=cause, force=force)

    def on_received(self, event: Received) -> None:
        message = event.message
        try:
            if type(message) is not dict:
                raise ValueError("no mapping")
            state = PeerState.parse(message, self.now)
        except ValueError as error:
            self.say("message", f"a message of {self.site.peer} makes no sense and is dropped: {error}")
            return
        before, self.state, self.peer_agent = self.state, state, True
        self.peer_stall = state.stall
        if state.epoch > self.highest:
            self.highest = state.epoch
            self.out.append(Keep(self.epoch, self.highest))
        kind = message.get("kind")
        cause = str(message.get("cause", ""))[:200]
        force = message.get("force") is True
        if type(message.get("ask")) is int:
            self.send(re=message["ask"])
        if state.role == "active" and self.role != "standby":
            self.meet(state)
        elif kind == "yield" and self.role in ("standby", "fencing"):
            self.asked_to_take(cause, force, message.get("need") is True)
        elif kind == "claim" and self.role == "active" and not self.muted:
            self.asked_to_leave(state, cause, force)
        elif kind == "refuse":
            self.refused(cause)
        elif self.role == "active" and self.muted and message.get("re") == self.ask:
            self.muted = False
            self.log("notice", f"{self.site.peer} did not take over: answering again")
            self.out.append(Unmute())
        elif self.role == "active" and not self.muted and (
                before is None or before.role == "active" or kind == "intruder"):
            self.out.append(Announce())  # the peer was active too, or may have been: neighbours may have heard it last

    def meet(self, state: PeerState) -> None:
        """The peer says that it is active, and this node is not standby."""
        if self.role == "leaving":
            if state.epoch > self.epoch:
                self.role = "releasing"
                self.deadline = self.now + RELEASE_SECONDS
                self.out.append(Release())
        elif self.role == "active":
            if not self.outranks(state):
                self.give_away(f"{self.site.peer} is active with epoch {state.epoch}, this node with {self.epoch}")
            else:
                self.say("split", f"{self.site.peer} is active too, with epoch {state.epoch}: this node stays", 10.0)
                self.send()
                # The neighbours may have heard the peer last, so announce. Unmute announces, too.
                self.out.append(Unmute() if self.muted else Announce())
                self.muted = False
        elif self.role == "fencing":
            self.role = "standby"

    def asked_to_take(self, cause: str, force: bool, need: bool) -> None:
        """The peer wants to give this node the role (yield)."""
        why = self.not_able() if need else self.not_ready()
        if self.now < self.careful_until:
            self.send("refuse", cause=f"{self.site.node} stood still or was deaf a moment ago")
        elif why and not force:
            self.send("refuse", cause=f"{self.site.node} is not ready: {why}")
        else:
            self.take(cause or f"{self.site.peer} yields")

    def asked_to_leave(self, state: PeerState, cause: str, force: bool) -> None:
        """The peer wants the role (claim)."""
        if not state.ready and not force:
            self.send("refuse", cause=f"{self.site.peer} is not ready: {state.why}")
        elif self.peer_worse() and not force:
            self.send("refuse", cause=self.peer_worse())
        else:
            self.yield_to_peer(cause or f"{self.site.peer} asks", force)

    def refused(self, cause: str) -> None:
        """The peer has refused what this node asked for."""
        if self.role == "leaving":
            self.take_back(cause)
        elif self.claimed_at:
            self.claimed_at = 0.0
            if self.failing_back:
                self.failing_back = False
                self.log("warning", f"no failback: {cause}")
            self.answer(cause)

    # Decisions

    def watch(self) -> None:
        """Notes since when faults, calm, idleness and health last."""
        state = self.fresh()
        worse = bool(state and state.pings > self.reached_now())
        bad = {"uplink": not self.carrier(), "pings": worse, "daemon": self.daemon in ("hung", "dead")}
        for kind, now in bad.items():
            if not now:
                self.reasons.pop(kind, None)
            else:
                self.reasons.setdefault(kind, self.now)
        if self.gave_up:
            if self.reasons:
                self.calm_since = None
            elif self.calm_since is None:
                self.calm_since = self.now
            elif self.now - self.calm_since >= CALM_SECONDS:
                self.gave_up = False
        nobody = self.role == "standby" and state is not None and state.role == "standby"
        self.idle_since = (self.idle_since if self.idle_since is not None else self.now) if nobody else None
        healthy = self.role == "standby" and bool(state) and not self.not_ready() and not worse
        self.healthy_since = (self.healthy_since if self.healthy_since is not None else self.now) if healthy else None

    def decide(self) -> None:
        """What this node does next, in its present role."""
        if self.command and self.now >= self.command_until:
            self.answer(f"no result within {COMMAND_SECONDS:.0f} s; see the log of {self.site.peer} too")
        if self.role == "active":
            self.decide_active()
        elif self.role == "leaving":
            if self.peer == "dead" and self.connected and self.now >= self.careful_until:
                self.take_back(f"{self.site.peer} is dead")
            elif self.now >= self.deadline and (self.connected or self.ending):
                self.take_back(f"{self.site.peer} did not take over within {self.hopes():.0f} s")
            elif not self.connected and self.now - self.lost_at >= self.site.deadtime + self.patience():
                self.give_away("heartbeat did not answer here while the role was given away")
        elif self.role in ("releasing", "parting"):
            if self.now >= self.deadline:
                self.released(self.cause)
        elif self.role == "standby":
            self.decide_standby()
        elif self.role == "fencing" and self.connected and self.peer != "dead":
            self.role = "standby"
            self.log("notice", f"{self.site.peer} is {self.peer} again: not taking over")
        if not self.ended and self.daemon in ("hung", "dead") and self.role in ("active", "standby"):
            if self.restarted_lately() is None:
                self.restart(f"is {self.daemon}")
        elif not self.ended and self.unheard and self.role == "active" and not self.muted:
            if self.restarted_lately() is None:
                self.unheard = False
                self.grace_until = self.now + DAEMON_RESTART_SECONDS
                self.restart("does not listen on the virtual addresses")

    def restarted_lately(self) -> float | None:
        """When the daemon was restarted, if that is less than DAEMON_RESTART_SECONDS ago."""
        lately = self.restarted is not None and self.now - self.restarted < DAEMON_RESTART_SECONDS
        return self.restarted if lately else None

    def restart(self, why: str) -> None:
        """Restarts the daemon."""
        self.restarted = self.now
        self.log("warning", f"the IPsec daemon {why}: restarting it")
        self.out.append(Restart())

    def decide_active(self) -> None:
        """An active node: whether it gives the role away, hands it over, or answers again."""
        patience = self.site.deadtime + self.patience()  # the peer waits as long before it takes over
        if not self.connected and self.now - self.lost_at >= patience:
            self.give_away(f"heartbeat did not answer here for {patience:g} s")
            return
        if self.muted:
            if self.now >= self.muted_until:
                self.muted = False
                self.log("notice", f"{self.site.peer} does not answer: answering again")
                self.out.append(Unmute())
            return
        if self.alone and self.peer == "dead" and self.cut_off() and self.now - self.since < STATE_FRESH_SECONDS:
            # heartbeat may call the peer dead first, and the ping nodes a little later or at the same time.
            self.try_again = self.now + FENCE_RETRY_SECONDS
            self.give_away("no ping node answers any more: this node is probably the one that is cut off")
            return
        reason = self.trouble()
        if not reason:
            return
        state = self.fresh()
        unready = self.peer_unready(need=True)
        if unready or not state or state.role != "standby":
            self.say("trouble", f"{reason}; staying, {unready or 'the other node is in transition'}")
        elif self.now >= self.try_again:
            self.gave_up = True
            self.calm_since = None
            self.try_again = self.now + CALM_SECONDS
            self.yield_to_peer(reason, need=True)

    def trouble(self) -> str:
        """The fault for which the peer would serve better, empty when there is none."""
        state = self.fresh()
        for kind, since in self.reasons.items():
            if kind == "uplink" and self.now - since >= NO_CARRIER_SECONDS:
                return f"no carrier on {', '.join(self.site.uplinks)} of {self.site.node}"
            all_known = len(self.pings) == len(self.site.ping_nodes)
            if kind == "pings" and self.now - since >= FEWER_PINGS_SECONDS and state and all_known:
                return f"{self.reached_now()} ping nodes answer on {self.site.node}, {state.pings} on {self.site.peer}"
            if kind == "daemon" and self.now >= self.grace_until and not (
                    state and state.pings < self.reached_now() and not state.pings):
                return f"the IPsec daemon of {self.site.node} is {self.daemon}"
        return ""

    def decide_standby(self) -> None:
        """A standby: whether it takes the role, or asks for it."""
        if not self.connected or self.ending or self.now < self.careful_until:
            return
        if self.deaf.all:
            return  # this node hears nothing of the peer because it is deaf itself
        if self.command and self.command.name == "takeover" and self.claimed_at:
            if self.command.force and self.now - self.claimed_at >= ANSWER_SECONDS:
                self.take(f"asked for by a person, forced: {self.site.peer} does not answer")
            elif self.now - self.claimed_at >= STATE_FRESH_SECONDS:
                self.claimed_at = 0.0
                self.answer(f"{self.site.peer} does not give the addresses up; see its log")
            return
        state = self.fresh()
        if self.peer == "dead":
            self.decide_alone()
        elif not state:
            alone = self.now - max(self.since, self.agent_gone_at)
            if self.peer != "init" and not self.peer_agent and alone >= STATE_FRESH_SECONDS:
                self.say("alone", f"heartbeat is alive on {self.site.peer}, and no agent answers there: staying "
                         "standby; see the log there (`journalctl -t gateway-agent`), or `run takeover --force` here")
        elif self.idle_since is not None and self.now >= self.try_again:
            idle = self.now - self.idle_since
            mine, other = self.fitness(), state.fitness()
            # The preferred node may only be a moment late: it does not know its daemon's state yet.
            if mine < other:
                patience = CALM_SECONDS
            elif self.site.preferred:
                patience = 0.0
            else:
                patience = STATE_FRESH_SECONDS if mine == other else ANSWER_SECONDS
            if mine and idle >= patience:
                self.take("nobody is active" + (f"; here: {self.not_ready()}" if self.not_ready() else ""))
            elif not mine and not other and self.site.preferred and idle >= CALM_SECONDS:
                self.take(f"nobody is active and nobody is ready; here: {self.not_able()}")
        elif state.role == "active" and self.site.failback and self.site.preferred:
            self.decide_failback()

    def decide_alone(self) -> None:
        """A standby whose peer is dead: whether it takes over, fences first, or waits."""
        if self.cut_off():
            self.say("cut off", f"{self.site.peer} is dead and no ping node answers any more: this node is probably "
                     "the one that is cut off, not taking over until one answers")
        elif self.now < max(self.try_again, self.dead_at + self.patience()) or not self.hears():
            return
        elif self.site.fence:
            self.turn("fencing", f"{self.site.peer} is dead: fencing it")
            self.out.append(Fence())
        else:
            self.take(f"{self.site.peer} is dead")
            self.alone = True

    def hears(self) -> bool:
        """Whether this node hears anybody at all, now that it hears nothing of the peer.

        heartbeat calls the peer dead and the ping nodes a little later, or the other way round. In between, a node that
        has gone deaf would take over, or have a healthy peer fenced. One ping node that answers proves that this node
        is not deaf.
        """
        if not self.reached_now():
            return True  # no ping node has answered for long, or there is none: they prove nothing (see cut_off())
        if self.reached_at is not None and self.reached_at >= self.dead_at and (
                self.now - self.reached_at < ANSWER_SECONDS):
            late = self.asked > PROMPT_PROBES
            self.trust()
            if late:
                self.was_deaf()
            return not late
        if self.doubt_since is None or self.now - self.asked_at >= ANSWER_SECONDS:
            self.doubt_since, self.asked = self.now, 0  # the first question, or the last series was interrupted
        elif self.now - self.doubt_since >= self.site.deadping + ANSWER_SECONDS:
            # heartbeat would have noticed by now that they are silent.
            self.say("doubt", "no ping node answers this node's own question, and heartbeat hears them: it is believed")
            return True
        elif self.now - self.asked_at < PROBE_EVERY_SECONDS:
            return False
        self.asked += 1
        self.asked_at = self.now
        self.out.append(Probe())
        return False

    def was_deaf(self) -> None:
        """This node hears again. Whom it hears first is chance, so the peer gets the time to be heard."""
        self.careful_until = max(self.careful_until, self.now + self.site.deadtime + DEAD_CHECK_SECONDS)

    def trust(self) -> None:
        """Stops asking the ping nodes."""
        if self.doubt_since is not None:
            self.doubt_since, self.asked = None, 0
            self.out.append(Trust())

    def cut_off(self) -> bool:
        """Whether the peer and every ping node fell silent together. Ping nodes silent long before prove nothing."""
        return self.silent_at is not None and self.silent_at > self.dead_at - CUT_OFF_WINDOW_SECONDS

    def decide_failback(self) -> None:
        """The preferred node, standby: whether it takes the role back."""
        self.failbacks = [at for at in self.failbacks if self.now - at < HOUR_SECONDS]
        delay = self.site.failback_delay * 2 ** len(self.failbacks)
        if self.healthy_since is not None and self.now - self.healthy_since >= delay and self.now >= self.try_again:
            self.failing_back = True
            self.claim(f"failback, {self.site.node} is healthy for {delay:g} s")


Machine = RoleMachine  # its name before 1.0.0; goes with 1.1
