"""A standby's decisions: whether it takes over, has the peer fenced first, waits, or claims the role back."""
from __future__ import annotations

from agent import epochs
from agent.actions import Fence
from agent.events import Fenced
from agent.facts import ANSWER_SECONDS, DEAD_CHECK_SECONDS, STATE_FRESH_SECONDS
from agent.group import CALM_SECONDS, HOUR_SECONDS, Group
from agent.message import Message

FENCE_RETRY_SECONDS = 10.0  # between two tries to fence


class Standby(Group):
    """Decides in the roles standby and fencing."""

    def decide_standby(self) -> None:
        """A standby: whether it takes the role, or asks for it."""
        facts = self.facts
        if not facts.connected or self.ending or facts.careful():
            return
        if facts.deaf.all:
            return  # this node hears nothing of the peer because it is deaf itself
        state = self.fresh()
        if facts.peer == "dead":
            self.claimed = None  # nobody is left who could give the role away
            if self.command and self.asked_for() and self.command.force:
                self.take(f"asked for by a person, forced: {self.site.peer} is dead")
            else:
                self.decide_alone()
            return
        self.watch_claim()
        if self.role != "standby":
            return
        if self.asked_for() and not self.claimed:
            self.asked_to_serve(again=True)  # it waited for what became of a dead peer, which is back
            return
        if not state:
            alone = self.now - max(self.since, facts.agent_gone_at)
            if facts.peer != "init" and not facts.peer_agent and alone >= STATE_FRESH_SECONDS:
                self.say("alone", f"heartbeat is alive on {self.site.peer}, and no agent answers there: staying "
                         "standby; see the log there (`journalctl -t gateway-agent`), or `run takeover --force` here")
        elif self.idle_since is not None and self.now >= self.waits.asked_off:
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
        elif state.role == "active" and self.site.failback and self.site.preferred and not self.claimed:
            self.decide_failback()

    def asked_for(self) -> bool:
        """Whether a person waits for this node to become active."""
        return self.command is not None and self.command.name == "takeover"

    def asked_to_serve(self, again: bool = False) -> None:
        """A person wants this node active (agent/verbs.py)."""
        raise NotImplementedError

    def watch_claim(self) -> None:
        """What becomes of a claim that the living peer does not answer."""
        if not self.claimed:
            return
        waited = self.now - self.claimed.at
        forced = self.command is not None and self.command.force and not self.claimed.failback
        if self.asked_for() and forced and waited >= ANSWER_SECONDS:
            self.take(f"asked for by a person, forced: {self.site.peer} does not answer; {self.whom()}")
        elif waited >= STATE_FRESH_SECONDS:
            failback, self.claimed = self.claimed.failback, None
            if failback:
                self.say("failback", f"no failback: {self.site.peer} does not answer; {self.whom()}")
            elif self.asked_for():
                self.answer(f"{self.site.peer} does not give the addresses up; {self.whom()}; see its log too")

    def decide_alone(self) -> None:
        """A standby whose peer is dead: whether it takes over, fences first, or waits.

        A person's `takeover` goes the same way. It only does not wait for the next try to fence.
        """
        facts, asked = self.facts, self.asked_for()
        fenced = self.fenced()
        if facts.cut_off() and not fenced:
            why = (f"{self.site.peer} is dead and no ping node answers any more: this node is probably the one that is "
                   "cut off, not taking over until one answers")
            self.say("cut off", why)
            if asked:
                self.answer(why)
        elif fenced:
            self.take(f"{self.site.peer} is dead and fenced")
            self.alone = True
        elif self.fencing.blocks(self.now):
            return  # one that was called off, and has not ended yet
        elif self.now < facts.dead_at + facts.patience() or (self.now < self.waits.asked_off and not asked):
            return
        elif self.site.fence and self.now < self.waits.fence and not asked:
            return
        elif not self.hears():
            return
        elif self.site.fence:
            self.turn("fencing", f"{self.site.peer} is dead: fencing it")
            self.fencing.begin()
            self.out.append(Fence())
        else:
            self.take(f"{self.site.peer} is dead")
            self.alone = True

    def hears(self) -> bool:
        """Facts.hears(), and does and logs what it says."""
        hears, doubt, actions = self.facts.hears()
        self.out += actions
        if doubt:
            self.say("doubt", doubt)
        return hears

    def fenced(self) -> bool:
        """Whether the peer that is dead now has been switched off.

        heartbeat may call it dead a deadtime later than it was switched off. A peer that is called dead still later has
        run in between: that fence counts no more.
        """
        done = self.fencing.done_at
        late = self.site.deadtime + DEAD_CHECK_SECONDS + ANSWER_SECONDS
        return done is not None and self.facts.peer == "dead" and self.facts.dead_at <= done + late

    def on_fenced(self, event: Fenced) -> None:
        called_off = self.fencing.end()
        waiting = self.role == "fencing"
        if waiting:
            self.role = "standby"
        if event.ok:
            self.fencing.done_at = self.now
            if self.facts.peer != "dead":
                self.log("err", f"{self.site.peer} was heard again, and has been switched off all the same: the fence "
                         "command could not be called off in time")
            elif waiting and self.facts.connected and not self.facts.careful():
                self.take(f"{self.site.peer} is dead and fenced")
                self.alone = True
            return
        if called_off:
            self.log("notice", f"the fence of {self.site.peer} was called off ({event.why})")
            return
        why = f"not taking over: {self.site.peer} could not be fenced ({event.why})"
        self.waits.fence = self.now + FENCE_RETRY_SECONDS
        self.log("err", f"{why}; again in {FENCE_RETRY_SECONDS:.0f} s")
        if self.asked_for():
            self.answer(why)

    def asked_to_take(self, message: Message) -> None:
        """The peer wants to give this node the role (yield).

        A yield that the sender no longer waits for, and one for a claim that this node no longer waits for, belong to a
        situation that has passed.
        """
        why = self.not_able() if message.need else self.not_ready()
        if message.late():
            refusal = f"the yield {message.late()}"
        elif message.answers is not None and (not self.claimed or self.claimed.number != message.answers):
            refusal = f"{self.site.node} does not wait for an answer to that claim any more"
        elif self.passed(message):
            refusal = f"the yield is from before the takeover with epoch {self.highest}"
        elif self.facts.careful():
            refusal = f"{self.site.node} stood still or was deaf a moment ago"
        elif why and not message.force:
            refusal = f"{self.site.node} is not ready: {why}"
        else:
            self.take(message.cause or f"{self.site.peer} yields")
            return
        self.refuse(message, refusal)
        self.log("notice", f"{self.site.peer} yields, and this node does not take over: {refusal}")

    def passed(self, message: Message) -> bool:
        """Whether a yield was sent before a takeover that this node knows of."""
        known = message.state.epoch if message.highest is None else message.highest
        return epochs.newer(self.highest, known)

    def decide_failback(self) -> None:
        """The preferred node, standby: whether it takes the role back."""
        self.failbacks = [at for at in self.failbacks if self.now - at < HOUR_SECONDS]
        delay = self.site.failback_delay * 2 ** len(self.failbacks)
        if self.healthy_since is not None and self.now - self.healthy_since >= delay and (
                self.now >= self.waits.failback):
            self.waits.failback = self.now + CALM_SECONDS
            self.claim(f"failback, {self.site.node} is healthy for {delay:g} s", failback=True)
