"""One state machine, told what happens: for tests of what it does then."""
from __future__ import annotations

from typing import Any

from agent import decide
from agent.decide import (
    Connected,
    Daemon,
    Peer,
    PeerAgent,
    Ping,
    Probe,
    Reached,
    Received,
    RoleMachine,
    Send,
    Site,
    Tick,
    Uplink,
)

SITE = Site("gw1", "gw2", True, ("bond0",), ("192.0.2.1", "192.0.2.2"), 1.0, daemon=True)


def state(role: str = "standby", epoch: int = 0, **more: Any) -> Received:
    return Received({"kind": "state", "role": role, "epoch": epoch, "ready": True, "why": "", "pings": 2,
                     "preferred": False, **more})


class Node:
    """A state machine, its clock, and its last actions."""

    def __init__(self, site: Site = SITE, **more: Any) -> None:
        self.now = 100.0
        self.machine = RoleMachine(site, self.now, **more)
        self.done: list[Any] = []
        self.hears = True  # whether ping nodes answer this agent's own questions
        self.tell(Connected(True), Peer("active"), PeerAgent(True), Daemon("alive"), Uplink("bond0", True),
                  *(Ping(each, True) for each in site.ping_nodes))

    def tell(self, *events: Any, after: float = 0.0) -> list[str]:
        self.done = []
        self.now += after
        for event in events:
            self.done += self.handle(event)
        return self.names()

    def handle(self, event: Any) -> list[Any]:
        done = self.machine.handle(event, self.now)
        if self.hears and Probe() in done:
            done += self.machine.handle(Reached(self.machine.site.ping_nodes[0]), self.now)
        return done

    def wait(self, seconds: float, *each: Any) -> list[str]:
        """Time passes in steps of 50 ms. `state`, where given, comes from the peer every second."""
        done, until, step = [], self.now + seconds, 0
        while self.now < until:
            self.now += 0.05
            step += 1
            for event in (*(each if step % 10 == 0 else ()), Tick()):
                done += self.handle(event)
        self.done = done
        return self.names()

    def names(self) -> list[str]:
        return [type(each).__name__ for each in self.done
                if type(each).__name__ not in ("Log", "Keep", "Note", "Probe", "Trust")]

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [each.message for each in self.done if isinstance(each, Send) and each.message["kind"] == kind]

    def said(self) -> str:
        return "\n".join(each.text for each in self.done if isinstance(each, decide.Log))

    @property
    def role(self) -> str:
        return self.machine.role


def active(**more: Any) -> Node:
    node = Node(own=4, highest=4, held="held", **more)
    node.tell(state())
    return node
