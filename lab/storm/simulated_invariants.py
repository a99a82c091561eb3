"""What must hold in every simulated scenario, in seconds as docs/takeover.md states it."""
from __future__ import annotations

from agent.events import Received
from lab.storm.simulated_pair import STEP, Node, Pair

# Both answer for the addresses, though they hear each other
BOTH_SECONDS = 1.0
# Both answer, and only one of them hears the other: that one gives way
ONE_WAY_SECONDS = 4.5
# No node answers, though one of them is healthy all the time and nothing keeps it from serving
NONE_SECONDS = 6.5
# No node answers after the active one has lost its power, beside a standby that was healthy and stays so
CLEAN_SECONDS = 0.4  # on top of deadtime and the time between two of heartbeat's checks
FENCED_SECONDS = 5.5  # the slowest fence of the simulation that succeeds
CALM_BEFORE_SECONDS = 5.0
CONVERGED_SECONDS = 25.0  # after everything is healed: a boot, initdead, a fence or a failback
TURN_SECONDS = 0.1  # a message waits so long for the next turn
KNOWN_SECONDS = 0.3  # a fence that strikes so soon after the other node was heard could not be called off in time


class Violation(Exception):
    """Something that must hold does not. The text says what, and for how long."""


class Watch:
    """Watches a pair after each step. Raises Violation."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        pair.holds, pair.strikes, pair.fences = self.held, self.struck, self.fence_begins
        self.both = self.one_way = self.none = 0.0
        self.longest = {"both": 0.0, "one way": 0.0, "none": 0.0}
        self.healthy_since = dict.fromkeys(pair.nodes, pair.now)
        self.heard_since: dict[str, float | None] = dict.fromkeys(pair.nodes)
        self.off_at = dict.fromkeys(pair.nodes, -1e9)  # when a fence switched this node off
        self.dead_since = dict.fromkeys(pair.nodes, 0.0)  # since when this node's heartbeat calls the peer dead
        self.seen = dict.fromkeys(pair.nodes, "")
        self.crash: tuple[float, Node] | None = None
        self.served: Node | None = None

    def look(self) -> None:
        """After each step."""
        pair, one, two = self.pair, self.pair.one, self.pair.two
        for node in (one, two):
            if node.seen == "dead" and self.seen[node.name] != "dead":
                self.dead_since[node.name] = pair.now
            self.seen[node.name] = node.seen
            if node.running and node.seen == "active":
                if self.heard_since[node.name] is None:
                    self.heard_since[node.name] = pair.now
            else:
                self.heard_since[node.name] = None
            if not self.healthy(node):
                self.healthy_since[node.name] = pair.now
            if not self.pair.other(node).fenced:
                node.told_off = False
            self.consistent(node)
        first, second = pair.answers(one), pair.answers(two)
        both = first and second
        ways = sum(pair.reaches(node) and self.listens(pair.other(node)) for node in (one, two))
        self.both = self.count("both", self.both, both and ways == 2, BOTH_SECONDS,
                               "both nodes answer, and hear each other")
        self.one_way = self.count("one way", self.one_way, both and ways >= 1, ONE_WAY_SECONDS,
                                  "both nodes answer, and one hears the other")
        self.look_none(first, second)

    def count(self, name: str, so_far: float, on: bool, limit: float, what: str) -> float:
        """How long something has lasted. Raises Violation beyond the limit, in seconds."""
        so_far = so_far + STEP if on else 0.0
        self.longest[name] = max(self.longest[name], so_far)
        if so_far > limit + STEP / 2:
            raise Violation(f"{what}, for more than {limit:g} s")
        return so_far

    def listens(self, node: Node) -> bool:
        """Whether what arrives at a node reaches its agent, and the agent works."""
        return self.pair.beats(node) and node.running and self.pair.now >= node.stuck_until and node.seen == "active"

    def healthy(self, node: Node) -> bool:
        """Whether a node could serve, and nothing that the pages know of keeps it from taking over."""
        pair, machine = self.pair, node.machine
        return (self.pair.beats(node) and node.running and pair.now >= node.stuck_until and node.carrier and node.pings
                and node.daemon == "alive" and node.compared and machine.facts.daemon == "alive"
                and not machine.facts.starved() and not machine.facts.peer_stall
                and machine.facts.peer != "init" and pair.now - node.forced_off_at > 10.0)

    def look_none(self, first: bool, second: bool) -> None:
        """Nobody answers: how long that may last."""
        pair = self.pair
        if first or second:
            self.none, self.crash = 0.0, None
            self.served = None if first and second else (pair.one if first else pair.two)
            return
        if self.served is not None:  # it has just stopped answering
            served, standby = self.served, pair.other(self.served)
            self.served = None
            calm = pair.now - self.healthy_since[standby.name] >= CALM_BEFORE_SECONDS
            if not pair.turns(served) and calm and standby.machine.role == "standby" and (
                    self.heard(standby) >= CALM_BEFORE_SECONDS) and not standby.machine.facts.careful():
                self.crash = pair.now, standby
        if self.crash:
            since, standby = self.crash
            limit = standby.site.deadtime + 0.25 + CLEAN_SECONDS + (FENCED_SECONDS if standby.site.fence else 0.0)
            back = self.heard_again(standby, since)
            if back or self.pair.fence_result != "ok" or self.healthy_since[standby.name] > since - STEP / 2:
                self.crash = None
            elif pair.now - since > limit:
                raise Violation(f"{standby.name} is healthy, and has not taken over {limit:g} s after the active node "
                                "lost its power")
        able = [node for node in (pair.one, pair.two)
                if pair.now - self.healthy_since[node.name] > self.none - STEP / 2 and not node.site.fence]
        self.none = self.count("none", self.none, bool(able), NONE_SECONDS,
                               "no node answers, and one of them is healthy")

    def heard_again(self, node: Node, since: float) -> bool:
        """Whether a node has heard the other one anew after `since`: that one came back."""
        began = self.heard_since[node.name]
        return began is not None and began > since

    def heard(self, node: Node) -> float:
        """For how many seconds a node has heard the other one without a break."""
        since = self.heard_since[node.name]
        return 0.0 if since is None else self.pair.now - since

    def consistent(self, node: Node) -> None:
        """Role and addresses agree."""
        if node.running and self.pair.turns(node) and self.pair.now >= node.stuck_until:
            role, kernel = node.machine.role, node.kernel
            if (role == "standby" and kernel != "none") or (
                    role == "active" and not node.machine.muted and kernel != "held"):
                raise Violation(f"{node.name} is {role}, and its addresses are {kernel}")

    def held(self, node: Node) -> None:
        """A node takes the addresses: with a fence, nothing is taken from a node that may be alive."""
        cause, event = node.machine.cause, self.pair.handled
        if isinstance(event, Received) and isinstance(event.message, dict) and event.message["kind"] == "yield":
            late = self.pair.now - event.message["at"]
            if late > event.message["within"] + STEP + TURN_SECONDS:
                raise Violation(f"{node.name} obeys a yield that comes {late:.1f} s late")
        if not node.site.fence or "forced" in cause or node.machine.facts.peer != "dead":
            return
        peer = self.pair.other(node)
        if not peer.fenced and self.off_at[peer.name] < self.dead_since[node.name] - 3.0:
            raise Violation(f"{node.name} takes the addresses ({cause}), and {peer.name} was not switched off")

    def struck(self, by: Node, at: Node) -> None:
        """A fence switches a node off: not one that the other node has heard again."""
        self.off_at[at.name] = self.pair.now
        if by.running and self.pair.turns(by) and self.heard(by) > KNOWN_SECONDS:
            raise Violation(f"{by.name} has {at.name} switched off, and has heard it for {self.heard(by):.1f} s")

    def fence_begins(self, by: Node, at: Node) -> None:
        """A fence command starts: not for a node that is off, as the one who fences it knows."""
        again = self.dead_since[by.name] > self.off_at[at.name] + by.site.deadtime + 1.5  # its own heartbeat began anew
        if at.fenced and by.told_off and not again:
            raise Violation(f"{by.name} fences {at.name} again, which is off since it did so before")

    def converged(self) -> str:
        """What is wrong with a healed pair, empty when nothing is."""
        pair = self.pair
        roles = sorted(node.machine.role for node in pair.nodes.values())
        answers = [node.name for node in pair.nodes.values() if pair.answers(node)]
        if not all(node.running for node in pair.nodes.values()):
            return "not both agents run"
        if roles != ["active", "standby"] or len(answers) != 1:
            return f"roles {', '.join(roles)}; {' and '.join(answers) or 'nobody'} answers"
        return ""
