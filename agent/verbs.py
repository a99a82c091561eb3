"""What a person may ask of a node: standby, takeover, each with or without force; and the end of heartbeat."""
from __future__ import annotations

from agent.actions import Answer, End, Leave
from agent.events import Command, Terminate
from agent.facts import STATE_FRESH_SECONDS
from agent.serving import Serving
from agent.standby import Standby

COMMAND_SECONDS = 8.0  # a person's command fails after this time


class Verbs(Standby, Serving):
    """Takes a person's commands. Answer returns a command's result, at once or later."""

    def on_command(self, event: Command) -> None:
        wanted = {"standby": "standby", "takeover": "active"}.get(event.name)
        # A fence may take minutes: a person who takes over meanwhile waits for it, or passes it by with force.
        open_to = ("standby", "active", "fencing") if wanted == "active" else ("standby", "active")
        if self.command or self.ending or self.role not in open_to:
            self.out.append(Answer(event.number, "a role change is under way already: try again in a few seconds"))
            return
        self.command, self.command_until = event, self.now + COMMAND_SECONDS
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
            self.asked_to_serve()

    def asked_to_serve(self, again: bool = False) -> None:
        """A person's `takeover` on a standby; `again`: one that has waited for what became of a dead peer.

        Without force it goes the way of every takeover: an active peer is asked, and from a dead one nothing is taken
        before this node knows that it is not cut off itself and, where nodes are fenced, that the peer is off
        (decide_alone()). With force the peer is still asked, and nothing else is waited for.
        """
        if not self.command:
            return
        force, state, peer = self.command.force, self.fresh(), self.site.peer
        if force:
            if state and state.role != "standby":
                self.claim(f"switch-over, asked for on {self.site.node}", True)
            else:
                self.take("asked for by a person, forced")
            return
        why = self.not_ready() or ("" if self.facts.connected else "heartbeat does not answer here")
        if why:
            self.answer(why)
        elif self.facts.peer == "dead" or self.facts.careful():
            return  # decide_standby() decides, and answers
        elif not state and again and self.now - self.facts.agent_gone_at < STATE_FRESH_SECONDS:
            return  # the peer is back, and its agent has not reported yet
        elif not state:
            known = self.facts.peer != "init"
            self.answer(f"heartbeat is alive on {peer}, and no agent answers there" if known
                        else f"heartbeat does not know yet whether {peer} lives: try again in a few seconds")
        elif state.role != "standby":
            self.claim(f"switch-over, asked for on {self.site.node}")
        else:
            self.take("asked for by a person")

    def give_away_by_force(self) -> None:
        """A person forces this node to standby, though the peer can not take over."""
        self.part("asked for by a person, forced")
        self.waits.asked_off = self.now + COMMAND_SECONDS
        self.answer()
        self.send()

    def late(self) -> str:
        """Why a command has no result yet, after COMMAND_SECONDS."""
        if self.role == "fencing":
            return (f"{self.site.peer} is dead and is being fenced, for more than {COMMAND_SECONDS:.0f} s already: "
                    "this node takes over once that has succeeded; see its log")
        return (f"no result within {COMMAND_SECONDS:.0f} s; {self.whom()}; see this node's log and that of "
                f"{self.site.peer}")

    def on_terminate(self, event: Terminate) -> None:
        self.ending = True
        if event.keep or self.role in ("standby", "fencing"):
            if self.role in ("releasing", "parting"):
                self.out.append(Leave())  # the role is given away; the next agent would take parked addresses back
            elif event.keep:
                self.log("info", "heartbeat restarts itself: the addresses stay")
            self.call_off(f"heartbeat ends on {self.site.node}")
            self.ended = True
            self.out.append(End())
        elif self.role == "active" and not self.peer_unready(need=True) and not self.muted:
            self.yield_to_peer(f"heartbeat ends on {self.site.node}", need=True)
        elif self.role == "active":
            why = self.peer_unready(need=True) or "in a moment of doubt"
            self.give_away(f"heartbeat ends on {self.site.node}, {why}")


