"""Which node serves: the agent's state machine, without any I/O.

Events come in, each with the time (seconds, any steady clock), and actions come out. Nothing here sleeps, reads or
sends, so that tests can try every decision as a table.

    standby --take--> active --park, yield--> leaving --the peer took over--> releasing --> standby
       |                ^  |                     |
       |                |  |                     +--no answer within 1 s: this node takes everything back
       +--fence-> fencing  +--gives away, asking nobody--> parting --> standby

In `releasing` and `parting` the addresses are parked, and the daemon tells its peers that their tunnels end. A node
that is `parting` reports itself as standby.

Every takeover raises the epoch by one. Where two nodes are active (after a split has healed), the one with the newer
epoch stays active: clients and neighbours follow the latest announcement. If the other one does not react, it does not
hear, and the one that hears gives way.

Which file holds what: `facts` what the node observes; `group` the role and how it moves; `standby`, `serving` and
`verbs` when it moves; `waits` the clocks; `message`, `timely` and `epochs` what the other node says. This file is the
door: it takes each event, and it has all names that the rest of the agent uses.
"""
from __future__ import annotations

from agent import epochs
from agent.actions import (
    Action,
    Announce,
    Answer,
    CallOff,
    End,
    Fence,
    Hold,
    Keep,
    Leave,
    Log,
    Mute,
    Note,
    Park,
    Probe,
    Release,
    Remove,
    Reopen,
    Restart,
    Restore,
    Send,
    Trust,
    Unmute,
)
from agent.events import (
    Command,
    Compared,
    Connected,
    Daemon,
    Deaf,
    Event,
    Fenced,
    Found,
    Gap,
    Listened,
    Missing,
    Peer,
    PeerAgent,
    Ping,
    Reached,
    Received,
    Released,
    Terminate,
    Tick,
    Uplink,
)
from agent.facts import ANSWER_SECONDS, STATE_FRESH_SECONDS
from agent.group import CALM_SECONDS, DAEMON_RESTART_SECONDS, STATE_EVERY_SECONDS
from agent.message import Message, PeerState
from agent.serving import GIVE_WAY_SECONDS
from agent.site_settings import Site
from agent.timely import ROUNDED_SECONDS
from agent.verbs import Verbs

__all__ = [
    "ANSWER_SECONDS", "GIVE_WAY_SECONDS", "STATE_FRESH_SECONDS",
    "Action", "Announce", "Answer", "CallOff", "Command", "Compared", "Connected", "Daemon", "Deaf", "End", "Event",
    "Fence", "Fenced", "Found", "Gap", "Hold", "Keep", "Leave", "Listened", "Log", "Machine", "Missing", "Mute", "Note",
    "Park", "Peer", "PeerAgent", "PeerState", "Ping", "Probe", "Reached", "Received", "Release", "Released", "Remove",
    "Reopen", "Restart", "Restore", "RoleMachine", "Send", "Site", "Terminate", "Tick", "Trust", "Unmute", "Uplink",
]


class RoleMachine(Verbs):
    """One node's decisions for one group of addresses. Only handle() and what the status shows are for callers."""

    def handle(self, event: Event, now: float, more: bool = False) -> list[Action]:
        """The actions that an event at the time `now` leads to.

        `more`: other events of the same moment follow; the machine decides only after the last of them.
        """
        self.now = max(now, self.now)
        self.out = []
        if self.ended:
            return self.out
        self.was, self.out = self.facts.see(event, self.now)
        getattr(self, "on_" + type(event).__name__.lower(), self.nothing)(event)
        if not self.ended:
            self.watch()
        if not self.ended and not more:
            self.decide()
            if not (self.role == "standby" and self.facts.peer == "dead"):
                self.out += self.facts.trust()
        if not self.ended and self.facts.connected and (
                self.sendable() != self.sent or self.now - self.sent_at >= STATE_EVERY_SECONDS):
            self.send()
        return self.out

    def nothing(self, _event: Event) -> None:
        """This event changes only the facts."""

    def on_connected(self, event: Connected) -> None:
        if event.yes and not self.was.connected:
            if self.muted and self.role == "active":
                self.question()
            elif self.role == "leaving":
                # The agent may have just started and found parked addresses, while the peer serves already.
                self.deadline = self.now + self.hopes()
                self.send(ask=self.ask)
        if not event.yes:
            self.state = None

    def on_peer(self, event: Peer) -> None:
        # A heartbeat that has just started says "init": it has not heard the peer yet.
        back = self.was.peer == "dead" and event.status not in ("dead", "init")
        if back and self.role == "active" and not self.muted and self.since >= self.facts.dead_at:
            # This node has taken over meanwhile. If the peer only stood still, its kernel answers the questions for the
            # addresses that have waited there before its agent can stop that, and the neighbours believe it.
            self.out.append(Announce())
        if self.was.peer in ("dead", "init") and event.status not in ("dead", "init"):
            self.fencing.done_at = None
        if back:
            self.call_off(f"heartbeat says that {self.site.peer} is {event.status} again")
        if event.status == "dead":
            self.state = None

    def on_peeragent(self, event: PeerAgent) -> None:
        if not event.there:
            self.state = None
            self.timely.forget()
        elif self.facts.connected:
            self.send()

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

    def on_released(self, _event: Released) -> None:
        if self.role in ("releasing", "parting"):
            self.released(self.cause)

    def on_received(self, event: Received) -> None:
        try:
            message = Message.parse(event.message, self.now)
        except ValueError as error:
            self.say("message", f"a message of {self.site.peer} makes no sense and is dropped: {error}")
            return
        overtaken = self.timely.overtaken(message.at, self.now)
        if epochs.newer(message.state.epoch, self.highest):
            self.highest = message.state.epoch
            self.out.append(Keep(self.epoch, self.highest))
        if overtaken:
            return  # what it says and asks for was true before a message that has been handled already
        state = message.state
        before, self.state = self.state, state
        self.facts.peer_agent, self.facts.peer_stall = True, state.stall
        if message.echo is not None and message.echo >= self.yielded_at - ROUNDED_SECONDS and state.role != "active":
            self.heard_since_yield = True
        if state.role == "active":
            self.waits.asked_off = self.now  # it serves, so a person's `standby --force` here has had its effect
        else:
            self.split_since = None
        if message.ask is not None:
            self.send(re=message.ask)
        if state.role == "active" and self.role != "standby":
            self.meet(state)
        elif message.kind == "yield" and self.role in ("standby", "fencing"):
            self.call_off(f"{self.site.peer} yields")
            self.asked_to_take(message)
        elif message.kind == "claim" and self.role == "active" and not self.muted:
            self.asked_to_leave(message)
        elif message.kind == "refuse":
            self.refused(message)
        elif self.role == "active" and self.muted and message.re == self.ask:
            self.muted = False
            self.log("notice", f"{self.site.peer} did not take over: answering again")
            self.out.append(Unmute())
        elif self.role == "active" and not self.muted and (
                before is None or before.role == "active" or message.kind == "intruder"):
            self.out.append(Announce())  # the peer was active too, or may have been: neighbours may have heard it last

    def refused(self, message: Message) -> None:
        """The peer has refused what this node asked for, or something that it does not ask for any more."""
        if message.answers is not None and message.answers != self.request:
            return
        if self.role == "leaving":
            self.take_back(message.cause)
        elif self.claimed:
            if self.claimed.failback:
                self.log("warning", f"no failback: {message.cause}")
            self.claimed = None
            self.answer(message.cause)

    # Decisions

    def watch(self) -> None:
        """Notes since when faults, calm, idleness and health last."""
        state = self.fresh()
        worse = bool(state and state.pings > self.facts.reached_now())
        bad = {"uplink": not self.facts.carrier(), "pings": worse, "daemon": self.facts.daemon in ("hung", "dead")}
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
            self.answer(self.late())
        if self.role == "active":
            self.decide_active()
        elif self.role == "leaving":
            self.decide_leaving()
        elif self.role in ("releasing", "parting"):
            if self.now >= self.deadline:
                self.released(self.cause)
        elif self.role == "fencing" and not self.facts.connected:
            self.call_off("heartbeat does not answer here")
        elif self.role == "fencing" and self.facts.peer != "dead":
            self.call_off(f"heartbeat says that {self.site.peer} is {self.facts.peer}")
        elif self.role == "standby":
            self.decide_standby()
        self.decide_daemon()

    def decide_daemon(self) -> None:
        """Whether the IPsec daemon is restarted."""
        if self.ended or self.restarted_lately() is not None:
            return
        if self.facts.daemon in ("hung", "dead") and self.role in ("active", "standby"):
            self.restart(f"is {self.facts.daemon}")
        elif self.unheard and self.role == "active" and not self.muted:
            self.unheard = False
            self.grace_until = self.now + DAEMON_RESTART_SECONDS
            self.restart("does not listen on the virtual addresses")

    # What the worker's status shows and sets: facts

    @property
    def connected(self) -> bool:
        """Whether this node's heartbeat answers."""
        return self.facts.connected

    @property
    def peer(self) -> str:
        """What heartbeat reports of the other node."""
        return self.facts.peer

    @property
    def peer_agent(self) -> bool:
        """Whether an agent runs on the other node."""
        return self.facts.peer_agent

    @property
    def pings(self) -> dict[str, bool]:
        """Which ping nodes answer."""
        return self.facts.pings

    @property
    def uplinks(self) -> dict[str, bool]:
        """Which uplinks have carrier."""
        return self.facts.uplinks

    @property
    def daemon(self) -> str:
        """The IPsec daemon's state."""
        return self.facts.daemon

    @property
    def compared(self) -> bool:
        """Whether this node was compared with the master since its boot."""
        return self.facts.compared

    @compared.setter
    def compared(self, yes: bool) -> None:
        self.facts.compared = yes

    @property
    def peer_stall(self) -> float:
        """For how many seconds the other node says that it stands still; 0 when it does not."""
        return self.facts.peer_stall

    @property
    def stalls(self) -> list[tuple[float, float]]:
        """The standstills of the last minutes: when, and for how many seconds."""
        return self.facts.starvation.stalls

    @property
    def stall_count(self) -> int:
        """How many standstills there were since the agent started."""
        return self.facts.starvation.count

    def stall(self) -> float:
        """How long the standstills of a starved machine last, in seconds; 0 when it is not starved."""
        return self.facts.stall()

    def starved(self) -> bool:
        """Whether this machine, or the peer as heard here, stands still again and again."""
        return self.facts.starved()

    def cut_off(self) -> bool:
        """Whether the peer and every ping node fell silent together."""
        return self.facts.cut_off()


Machine = RoleMachine  # its name before 1.0.0; goes with 1.1
