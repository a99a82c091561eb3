"""What this node observes: of its heartbeat, the other node, the ping nodes, its interfaces and its IPsec daemon.

Facts are the same for every group of addresses. What follows from them for one group: agent/group.py.
"""
from __future__ import annotations

from typing import NamedTuple

from agent.actions import Action, Log, Probe, Reopen, Trust
from agent.events import Compared, Connected, Daemon, Deaf, Event, Gap, Peer, PeerAgent, Ping, Reached, Uplink
from agent.site_settings import Site
from agent.starvation import MIN_PATIENCE_SECONDS, Starvation, patience

ANSWER_SECONDS = 1.0  # the peer must take over, or answer, within this time
STATE_FRESH_SECONDS = 3.0  # the peer's last state counts for this long
DEAD_CHECK_SECONDS = 0.25  # heartbeat looks for dead nodes this often
# When the peer and all ping nodes fall silent within this time, this node is the one that is cut off.
CUT_OFF_WINDOW_SECONDS = 10.0
PROBE_EVERY_SECONDS = 0.1  # between two questions to the ping nodes
PROMPT_PROBES = 2  # an answer after at most so many questions: this node was never deaf
# A recreated interface is left alone for this long: somebody is at work on it.
INTERFACE_SETTLE_SECONDS = 2.0


class Before(NamedTuple):
    """What was known before the event that is handled now."""
    connected: bool
    peer: str
    peer_agent: bool


class Facts:
    """Everything observed. see() takes an event; the other methods say what the facts mean together."""

    def __init__(self, site: Site, now: float) -> None:
        self.site, self.now = site, now
        self.connected = False
        self.lost_at = now  # when heartbeat stopped answering
        self.peer = "init"
        self.peer_agent = False
        self.agent_gone_at = now
        self.dead_at = now  # when heartbeat called the peer dead
        self.pings: dict[str, bool] = {}
        self.silent_at: float | None = None  # when the last ping node that answered fell silent
        self.reached_at: float | None = None  # when a ping node last answered this node's own question
        self.doubt_since: float | None = None  # since when this node asks them, in doubt whether it hears anything
        self.asked, self.asked_at = 0, now
        self.uplinks: dict[str, bool] = {}
        self.daemon = "unknown" if site.daemon else "none"
        self.compared = not site.compare
        self.deaf, self.deaf_since = Deaf(), now
        self.careful_until = now  # until then what heartbeat reports of the peer may be about a time before
        self.starvation = Starvation(now)
        self.peer_stall = 0.0  # the `stall` in the peer's last message; it still counts when the peer is dead
        self.out: list[Action] = []

    def see(self, event: Event, now: float) -> tuple[Before, list[Action]]:
        """Takes an event at the time `now`. Returns what was known before, and what to do for every group alike."""
        self.now, self.out = now, []
        before = Before(self.connected, self.peer, self.peer_agent)
        match event:
            case Connected():
                self._connected(event)
            case Peer(status):
                self._peer(status)
            case PeerAgent(there):
                if self.peer_agent and not there:
                    self.agent_gone_at = now
                self.peer_agent = there
            case Ping():
                self._ping(event)
            case Reached(address):
                if address in self.site.ping_nodes:
                    self.reached_at = now
            case Uplink(interface, carrier):
                self.uplinks[interface] = carrier
            case Daemon(state):
                if state != self.daemon and state in ("hung", "dead"):
                    self.log("warning", f"the IPsec daemon is {state}")
                self.daemon = state
            case Compared(yes):
                if yes and not self.compared:
                    self.log("info", "compared with the master")
                self.compared = yes or not self.site.compare
            case Deaf():
                self._deaf(event)
            case Gap(seconds):
                self.stalled(seconds)
                self.careful_until = now + max(self.site.deadtime, ANSWER_SECONDS)
            case _:
                pass
        return before, self.out

    def log(self, priority: str, text: str) -> None:
        """Writes a line to the system's log. `priority`: err, warning, notice, info."""
        self.out.append(Log(priority, text))

    def _connected(self, event: Connected) -> None:
        if self.connected and not event.yes:
            self.lost_at = self.now if event.since is None else event.since
            self.log("warning", "heartbeat on this node does not answer")
        elif event.yes and not self.connected:
            self.log("info", "heartbeat answers")
            self.careful_until = max(self.careful_until, self.now)
        self.connected = event.yes

    def _peer(self, status: str) -> None:
        if status != self.peer:
            self.log("info", f"heartbeat says that {self.site.peer} is {status}")
        if self.peer == "dead" and status not in ("dead", "init"):
            soon = self.now - self.dead_at < STATE_FRESH_SECONDS
            if soon and not self.cut_off() and self.now >= self.careful_until:
                # No machine boots in that time: the peer was only late, and this node was neither deaf nor late itself.
                self.stalled(self.site.deadtime + self.now - self.dead_at)
            self.agent_gone_at = self.now  # its agent gets the usual time to report
        if status == "dead":
            self.dead_at = self.now
            self.peer_agent = False
        self.peer = status

    def _ping(self, event: Ping) -> None:
        before = self.reached_now()
        if event.up and self.peer == "dead" and self.cut_off():
            self.was_deaf()
        self.pings[event.address] = event.up
        if self.reached_now():
            self.silent_at = None
        elif before:
            self.silent_at = self.now

    def _deaf(self, event: Deaf) -> None:
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

    def stalled(self, seconds: float) -> None:
        """Notes a standstill, of this machine or of the other one."""
        lately = self.starvation.note(seconds, self.now)
        if lately:
            self.log("warning", f"{lately} standstills within a minute, of this machine or of {self.site.peer}: no "
                     f"time to spare; from now on a node that is silent is given {MIN_PATIENCE_SECONDS:g} s at least")

    # What the facts mean

    def careful(self) -> bool:
        """Whether what heartbeat reports of the peer may still be about a time before a standstill."""
        return self.now < self.careful_until

    def reached_now(self) -> int:
        """How many ping nodes answer."""
        return sum(self.pings.get(each, False) for each in self.site.ping_nodes)

    def carrier(self) -> bool:
        """Whether any uplink has carrier. One that was never reported counts as having it."""
        return not self.site.uplinks or any(self.uplinks.get(each, True) for each in self.site.uplinks)

    def not_able(self) -> str:
        """Why this node could not serve, whatever was decided so far; empty when it could."""
        if not self.carrier():
            return f"no carrier on {', '.join(self.site.uplinks)}"
        if self.daemon not in ("alive", "none"):
            return "the IPsec daemon is not known yet" if self.daemon == "unknown" else f"IPsec daemon {self.daemon}"
        if self.deaf.all:
            return f"heartbeat hears nothing: {', '.join(self.deaf.paths)} gone or recreated"
        return ""

    def starved(self) -> bool:
        """Whether this machine, or the peer as heard here, stands still again and again."""
        return self.starvation.starved(self.now)

    def stall(self) -> float:
        """How long the standstills of a starved machine last, in seconds; 0 when it is not starved."""
        return self.starvation.stall(self.now)

    def patience(self) -> float:
        """Seconds that a peer whom heartbeat calls dead gets on top of the deadtime: it may only lack the processor."""
        return patience(max(self.stall(), self.peer_stall), self.site.deadtime)

    def cut_off(self) -> bool:
        """Whether the peer and every ping node fell silent together. Ping nodes silent long before prove nothing."""
        return self.silent_at is not None and self.silent_at > self.dead_at - CUT_OFF_WINDOW_SECONDS

    def was_deaf(self) -> None:
        """This node hears again. Whom it hears first is chance, so the peer gets the time to be heard."""
        self.careful_until = max(self.careful_until, self.now + self.site.deadtime + DEAD_CHECK_SECONDS)

    # Does this node hear anybody at all?

    def hears(self) -> tuple[bool, str, list[Action]]:
        """Whether this node hears anybody at all, now that it hears nothing of the peer.

        heartbeat calls the peer dead and the ping nodes a little later, or the other way round. In between, a node that
        has gone deaf would take over, or have a healthy peer fenced. One ping node that answers proves that this node
        is not deaf. Returns also a doubt to be logged, and what to do to find out.
        """
        if not self.reached_now():
            return True, "", []  # no ping node has answered for long, or there is none: they prove nothing (cut_off())
        if self.reached_at is not None and self.reached_at >= self.dead_at and (
                self.now - self.reached_at < ANSWER_SECONDS):
            late = self.asked > PROMPT_PROBES
            actions = self.trust()
            if late:
                self.was_deaf()
            return not late, "", actions
        if self.doubt_since is None or self.now - self.asked_at >= ANSWER_SECONDS:
            self.doubt_since, self.asked = self.now, 0  # the first question, or the last series was interrupted
        elif self.now - self.doubt_since >= self.site.deadping + ANSWER_SECONDS:
            # heartbeat would have noticed by now that they are silent.
            return True, "no ping node answers this node's own question, and heartbeat hears them: it is believed", []
        elif self.now - self.asked_at < PROBE_EVERY_SECONDS:
            return False, "", []
        self.asked += 1
        self.asked_at = self.now
        return False, "", [Probe()]

    def trust(self) -> list[Action]:
        """Stops asking the ping nodes."""
        if self.doubt_since is None:
            return []
        self.doubt_since, self.asked = None, 0
        return [Trust()]
