"""One group of addresses on this node: its role, and how it takes, gives away and takes back the role.

agent/standby.py, agent/serving.py and agent/verbs.py say when. What is observed comes from agent/facts.py, which is the
same for every group.
"""
from __future__ import annotations

from collections.abc import Iterable

from agent import epochs
from agent.actions import (
    Action,
    Answer,
    CallOff,
    End,
    Hold,
    Keep,
    Leave,
    Log,
    Note,
    Park,
    Release,
    Restart,
    Send,
)
from agent.events import Command
from agent.facts import ANSWER_SECONDS, STATE_FRESH_SECONDS, Before, Facts
from agent.message import MAX_COUNT, MESSAGE_VERSION, Message, PeerState
from agent.site_settings import Site
from agent.timely import Timely
from agent.waits import Claim, Fencing, Waits

STATE_EVERY_SECONDS = 1.0  # the agent sends its state at least this often
CALM_SECONDS = 5.0  # a node that gave up for a fault is ready again when the fault has been gone for this long
INTRUDER_MEMORY_SECONDS = 30.0  # the status reports for this long that a standby was given an address
DAEMON_RESTART_SECONDS = 30.0  # the daemon has this long to start
RELEASE_SECONDS = 5.0  # for the daemon to tell its peers that their tunnels end; then the addresses go anyway
PART_SECONDS = 2.0  # the same where no node has taken over yet
# As ANSWER_SECONDS, when heartbeat ends: this node will not serve again, whether or not the peer takes over.
LEAVE_ANSWER_SECONDS = 2.0
DEAD_PEER_ANSWER_SECONDS = 0.3  # a peer that was dead before this machine stood still still gets this long to answer
HOUR_SECONDS = 3600.0


class Group:
    """What is known of one group of addresses, and what moves it. The decisions are in the classes that extend it."""

    def __init__(self, site: Site, now: float, own: int = 0, highest: int = 0, held: str = "none",
                 failbacks: Iterable[float] = (), facts: Facts | None = None) -> None:
        """`now`: the time. `own`, `highest`: the kept epochs. `held`: the addresses' state in the kernel (none, held,
        muted, parked). `failbacks`: the times of this node's failbacks within the last hour. `facts`: what the node
        observes.
        """
        self.site = site
        self.facts = facts or Facts(site, now)
        self.was = Before(False, "init", False)
        self.epoch, self.highest = own % epochs.RING, epochs.newest(own % epochs.RING, highest % epochs.RING)
        self.role = {"none": "standby", "parked": "leaving"}.get(held, "active")
        self.cause = "the agent started" if held == "none" else "the agent started and found the addresses here"
        self.since = now
        self.state: PeerState | None = None
        self.timely = Timely()
        self.missing: tuple[str, ...] = ()
        self.intruder_next = now  # not before then the other node is told of an intruder again
        # The addresses that somebody gave this node while it was standby, and when
        self.intruded: tuple[tuple[str, ...], float] = (), now
        self.muted = held in ("muted", "parked")
        self.ask = 0
        self.muted_until = now + ANSWER_SECONDS
        self.deadline = now + ANSWER_SECONDS
        self.waits = Waits(now)
        self.fencing = Fencing()
        self.command: Command | None = None
        self.command_until = 0.0
        self.claimed: Claim | None = None
        # Yields and claims are numbered. An agent that was started anew does not begin where the last one began.
        self.request = int(now * 1000) % 2**31
        self.failbacks = [at for at in failbacks if now - at < HOUR_SECONDS]
        self.alone = False  # it took over because the peer was dead
        self.gave_up = False
        self.calm_since: float | None = None
        self.split_since: float | None = None  # since when it hears an active peer that should have given way
        self.split_heard_at, self.split_epoch = now, 0  # when it last heard that, and with which epoch
        # When it asked the peer to take over, and whether the peer has said since that it had heard that and is standby
        self.yielded_at, self.heard_since_yield = now, False
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

    # The state of the group

    def not_able(self) -> str:
        """Why this node could not serve, empty when it could."""
        return self.facts.not_able() or (
            "it gave up lately, and the reason is not gone for long enough" if self.gave_up else "")

    def not_ready(self) -> str:
        """Why no planned move may give this node the role, empty when one may.

        A node that is able and not ready may have old settings. It takes over where otherwise no node would serve.
        """
        return self.not_able() or (
            "" if self.facts.compared else "it was not compared with the master since it booted")

    def fitness(self) -> int:
        """As PeerState.fitness, for this node."""
        return 0 if self.not_able() else 2 if self.facts.compared else 1

    def public_role(self) -> str:
        """standby, active or transition."""
        return {"standby": "standby", "parting": "standby", "active": "active"}.get(self.role, "transition")

    def fresh(self) -> PeerState | None:
        """The peer's last state, None if it is too old or the peer is dead."""
        fresh = self.state and self.now - self.state.at < STATE_FRESH_SECONDS and self.facts.peer != "dead"
        return self.state if fresh else None

    def outranks(self, peer: PeerState) -> bool:
        """Whether this node stays active where both are. The names decide only where all else is equal."""
        if epochs.newer(self.epoch, peer.epoch) or epochs.newer(peer.epoch, self.epoch):
            return epochs.newer(self.epoch, peer.epoch)
        return ((self.facts.reached_now(), self.site.preferred, self.site.node)
                > (peer.pings, peer.preferred, self.site.peer))

    def peer_unready(self, need: bool = False) -> str:
        """Why the peer can not take over, empty when it can. `need`: it is enough that the peer is able."""
        if not self.facts.connected:
            return "heartbeat does not answer here"
        if self.facts.peer == "dead":
            return f"{self.site.peer} is dead"
        state = self.fresh()
        if not state:
            return f"no agent answers on {self.site.peer}"
        if not (state.able if need else state.ready):
            return f"{self.site.peer} is not ready: {state.why or 'it does not say why'}"
        return ""

    def peer_worse(self) -> str:
        """Where the peer reaches fewer ping nodes than this node: the sentence that says so. Else empty."""
        state = self.fresh()
        if state and state.pings < self.facts.reached_now():
            return (f"{self.site.peer} reaches {state.pings} of {len(self.site.ping_nodes)} ping nodes, "
                    f"this node {self.facts.reached_now()}")
        return ""

    def whom(self) -> str:
        """Whom this node hears, for a person: one side of a link may be broken without the other."""
        peer, state = self.site.peer, self.fresh()
        if not self.facts.connected:
            return "heartbeat does not answer here, so this node hears nobody"
        if self.facts.peer == "dead" or not state:
            return f"this node hears nothing of {peer}" + (
                "" if self.facts.peer == "dead" else "'s agent, and heartbeat says that the node is "
                f"{self.facts.peer}")
        return f"this node hears {peer}: {state.role}, epoch {state.epoch}" + (
            "" if state.hears else f", and {peer} does not hear this node")

    def intruder(self) -> str:
        """The addresses that somebody gave this node within the last half minute while it was standby."""
        addresses, at = self.intruded
        return ", ".join(addresses) if self.now - at < INTRUDER_MEMORY_SECONDS else ""

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
        self.split_since = None
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
            "able": not self.not_able(), "why": why, "pings": self.facts.reached_now(),
            "preferred": self.site.preferred, "stall": round(self.facts.stall(), 3),
            "since": round(self.now - self.since, 3), "hears": self.fresh() is not None,
            **self.timely.fields(self.now), **more}))
        self.sent_at = self.now
        self.sent = self.sendable()

    def sendable(self) -> tuple[str, int, str, int, bool]:
        """What the peer must know at once: a change of it is sent without waiting for STATE_EVERY_SECONDS."""
        return self.role, self.epoch, self.not_ready(), self.facts.reached_now(), self.facts.starved()

    def numbered(self) -> int:
        """The number of the next yield or claim. An answer to another one belongs to a situation that has passed."""
        self.request = (self.request + 1) % MAX_COUNT
        return self.request

    # Roles

    def take(self, cause: str) -> None:
        """Makes this node active at once."""
        self.epoch = self.highest = epochs.following(self.highest)
        self.muted = self.gave_up = self.alone = self.unheard = False
        self.calm_since = None
        self.waits = Waits(self.now)
        self.reasons.clear()
        self.out.append(Hold())
        self.turn("active", cause)
        self.send()
        self.out.append(Keep(self.epoch, self.highest))
        if self.claimed and self.claimed.failback:
            self.failbacks.append(self.now)
        self.claimed = None
        if self.command and self.command.name == "takeover":
            self.answer()

    def take_back(self, why: str) -> None:
        """The peer did not take over: serve again. A node whose heartbeat ends gives the role away instead."""
        if self.ending:
            self.give_away(f"heartbeat ends on {self.site.node}, and nobody takes over: {why}")
            return
        self.muted = False
        self.waits.give_up = self.now + CALM_SECONDS
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
        if self.facts.daemon in ("none", "dead", "hung"):
            self.muted = False
            self.out.append(Leave())
            self.turn("standby", cause)
            return
        self.muted = True
        self.deadline = self.now + PART_SECONDS
        self.out += [Park(), Release()]
        self.turn("parting", cause)

    def yield_to_peer(self, cause: str, force: bool = False, need: bool = False, answers: int | None = None) -> None:
        """Asks the peer to take over. Until it says that it has, this node can send, and does not answer.

        `need`: this can not wait until the peer is ready; it is enough that the peer is able. `answers`: the number of
        the peer's claim.
        """
        self.muted = True
        self.deadline = self.now + self.hopes()
        self.yielded_at, self.heard_since_yield = self.now, False
        self.out.append(Park())
        self.turn("leaving", cause)
        self.send("yield", force=force, need=need, cause=cause, request=self.numbered(), within=self.hopes(),
                  highest=self.highest, **({} if answers is None else {"answers": answers}))

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

    def claim(self, cause: str, force: bool = False, failback: bool = False) -> None:
        """Asks the active peer to give the role to this node."""
        self.claimed = Claim(self.numbered(), self.now, failback)
        self.send("claim", cause=cause, force=force, request=self.claimed.number,
                  within=ANSWER_SECONDS if force else STATE_FRESH_SECONDS)

    def refuse(self, message: Message, cause: str) -> None:
        """Refuses what the peer has asked for."""
        self.send("refuse", cause=cause, **({} if message.request is None else {"answers": message.request}))

    def call_off(self, why: str) -> None:
        """Ends a fence that runs: the peer lives."""
        if self.role == "fencing":
            self.role = "standby"
            self.log("notice", f"{why}: not taking over")
            if self.command and self.command.name == "takeover":
                self.answer(f"{why}: not taking over from it by fencing; ask again")
        if self.fencing.running and self.fencing.called_off is None:
            self.fencing.called_off = self.now
            self.out.append(CallOff())

    def restarted_lately(self) -> float | None:
        """When the daemon was restarted, if that is less than DAEMON_RESTART_SECONDS ago."""
        lately = self.restarted is not None and self.now - self.restarted < DAEMON_RESTART_SECONDS
        return self.restarted if lately else None

    def restart(self, why: str) -> None:
        """Restarts the daemon."""
        self.restarted = self.now
        self.log("warning", f"the IPsec daemon {why}: restarting it")
        self.out.append(Restart())

    def question(self) -> None:
        """Asks the peer whether it is active, and sets the time until which this node stays muted."""
        self.ask += 1
        alone = self.facts.peer == "dead" and self.now - self.since > STATE_FRESH_SECONDS
        self.muted_until = self.now + (DEAD_PEER_ANSWER_SECONDS if alone else ANSWER_SECONDS)
        self.send(ask=self.ask)
