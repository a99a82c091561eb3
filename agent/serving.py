"""The decisions of a node that serves: whether it gives the role away, hands it over, takes it back, or gives way."""
from __future__ import annotations

from agent import epochs
from agent.actions import Announce, Mute, Release, Unmute
from agent.events import Gap
from agent.facts import STATE_FRESH_SECONDS
from agent.group import CALM_SECONDS, RELEASE_SECONDS, Group
from agent.message import Message, PeerState

NO_CARRIER_SECONDS = 0.2  # a node without carrier for this long is cut off
FEWER_PINGS_SECONDS = 1.0  # a node that reaches fewer ping nodes than its peer for this long is the worse one
# Where nodes are fenced: an agent that hangs is replaced within this time, and the new one says what its role is.
SILENT_AGENT_SECONDS = 5.0
# An active peer that should give way and does not for this long does not hear this node, which then gives way itself.
GIVE_WAY_SECONDS = 3.0


class Serving(Group):
    """Decides in the roles active and leaving."""

    def decide_active(self) -> None:
        """An active node: whether it gives the role away, hands it over, or answers again."""
        facts = self.facts
        patience = self.site.deadtime + facts.patience()  # the peer waits as long before it takes over
        if not facts.connected and self.now - facts.lost_at >= patience:
            self.give_away(f"heartbeat did not answer here for {patience:g} s")
            return
        if self.split_since is not None and self.ends_split(self.split_since):
            return
        if self.muted:
            if self.now >= self.muted_until:
                self.muted = False
                self.log("notice", f"{self.site.peer} does not answer: answering again")
                self.out.append(Unmute())
            return
        if self.alone and facts.peer == "dead" and facts.cut_off() and self.now - self.since < STATE_FRESH_SECONDS:
            # heartbeat may call the peer dead first, and the ping nodes a little later or at the same time. Once one
            # answers again this node takes over again: nothing else keeps it waiting.
            self.give_away("no ping node answers any more: this node is probably the one that is cut off")
            return
        reason = self.trouble()
        if not reason:
            return
        state = self.fresh()
        unready = self.peer_unready(need=True)
        if unready or not state or state.role != "standby":
            self.say("trouble", f"{reason}; staying, {unready or 'the other node is in transition'}")
        elif self.now >= self.waits.give_up:
            self.gave_up = True
            self.calm_since = None
            self.waits.give_up = self.now + CALM_SECONDS
            self.yield_to_peer(reason, need=True)

    def trouble(self) -> str:
        """The fault for which the peer would serve better, empty when there is none."""
        facts, state = self.facts, self.fresh()
        for kind, since in self.reasons.items():
            if kind == "uplink" and self.now - since >= NO_CARRIER_SECONDS:
                return f"no carrier on {', '.join(self.site.uplinks)} of {self.site.node}"
            all_known = len(facts.pings) == len(self.site.ping_nodes)
            if kind == "pings" and self.now - since >= FEWER_PINGS_SECONDS and state and all_known:
                return f"{facts.reached_now()} ping nodes answer on {self.site.node}, {state.pings} on {self.site.peer}"
            if kind == "daemon" and self.now >= self.grace_until and not (
                    state and state.pings < facts.reached_now() and not state.pings):
                return f"the IPsec daemon of {self.site.node} is {facts.daemon}"
        return ""

    def decide_leaving(self) -> None:
        """A node that has asked the peer to take over: whether it takes the role back."""
        facts, peer = self.facts, self.site.peer
        if facts.peer == "dead" and facts.connected and not facts.careful():
            self.take_back_alone()
        elif self.now >= self.deadline and self.active_peer():
            self.let_serve()
        elif self.now >= self.deadline and (facts.connected or self.ending):
            waits = self.now < self.deadline + SILENT_AGENT_SECONDS
            if self.site.fence and not self.heard_since_yield and not self.ending and waits:
                return  # the peer may have taken over, and dies or is heard within a deadtime
            self.take_back(f"{peer} did not take over within {self.hopes():.0f} s; {self.whom()}")
        elif not facts.connected and self.now - facts.lost_at >= self.site.deadtime + facts.patience():
            self.give_away("heartbeat did not answer here while the role was given away")

    def active_peer(self) -> bool:
        """Whether the peer serves, as far as it is heard: with an older epoch, it does not hear this node."""
        state = self.fresh()
        return state is not None and state.role == "active"

    def let_serve(self) -> None:
        """The peer serves: this node's daemon tells its peers, and then the addresses go."""
        self.role = "releasing"
        self.deadline = self.now + RELEASE_SECONDS
        self.out.append(Release())

    def take_back_alone(self) -> None:
        """The peer that was asked to take over is dead now. Where nodes are fenced it may have taken over, and live."""
        why = f"{self.site.peer} is dead"
        if self.site.fence and not self.ending:
            self.part(f"{why}, and may have taken over: fencing comes first")
            self.send()
        else:
            self.take_back(why)

    def asked_to_leave(self, message: Message) -> None:
        """The peer wants the role (claim)."""
        state = message.state
        if message.late():
            self.refuse(message, f"the claim {message.late()}")
        elif not state.ready and not message.force:
            self.refuse(message, f"{self.site.peer} is not ready: {state.why}")
        elif self.peer_worse() and not message.force:
            self.refuse(message, self.peer_worse())
        else:
            self.yield_to_peer(message.cause or f"{self.site.peer} asks", message.force, answers=message.request)

    def meet(self, state: PeerState) -> None:
        """The peer says that it is active, and this node is not standby."""
        if self.role == "leaving":
            if epochs.newer(state.epoch, self.epoch):
                self.let_serve()
        elif self.role == "active":
            if self.outranks(state):
                self.stay(state)
            else:
                self.give_away(f"{self.site.peer} is active with epoch {state.epoch}, this node with {self.epoch}")
        elif self.role == "fencing":
            self.call_off(f"{self.site.peer} is active")

    def stay(self, state: PeerState) -> None:
        """Both nodes are active, and the peer should give way.

        One that does not give way does not hear this node: a link may work in one direction only. It would stay for
        ever. This node hears, so it is the one that can end the split.
        """
        self.split_since = self.now if self.split_since is None else self.split_since
        self.split_heard_at, self.split_epoch = self.now, state.epoch
        if self.ends_split(self.split_since):
            return
        peer = self.site.peer
        self.say("split", f"{peer} is active too, with epoch {state.epoch}: this node, with {self.epoch}, stays for "
                 f"{GIVE_WAY_SECONDS:g} s; {self.whom()}", 10.0)
        self.send()
        # The neighbours may have heard the peer last, so announce. Unmute announces, too.
        self.out.append(Unmute() if self.muted else Announce())
        self.muted = False

    def ends_split(self, since: float) -> bool:
        """Gives way where both nodes are active since then and the peer, which should give way, does not.

        Not only when a message comes: the next one of a peer whose agent hangs or is started anew may come too late.
        """
        heard = self.now - self.split_heard_at < STATE_FRESH_SECONDS and self.facts.peer != "dead"
        if not heard:
            self.split_since = None
        if not heard or self.now - since < GIVE_WAY_SECONDS:
            return False
        self.give_away(f"{self.site.peer} stays active, with epoch {self.split_epoch}, though this node has "
                       f"{self.epoch}: it does not hear this node, which hears it")
        return True

    def on_gap(self, event: Gap) -> None:
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
