"""How the worker sees heartbeat: alive, hung, or alive without reading."""
from __future__ import annotations

from typing import Any

import pytest

from agent import decide, sessions, worker
from agent.jobs import Jobs
from agent.loop import Loop
from agent.patient import Patient
from agent.settings import Address, Settings

SETTINGS = Settings("gw1", "gw2", True, (Address("192.0.2.10", 32, "bond0"),), ("bond0",), (), "manual", 0.0, None, 1.0,
                    1.0, None, False)


class Library:
    """A heartbeat that runs, and returns messages while it reads."""

    def __init__(self) -> None:
        self.reads, self.echoes, self.links, self.sent = True, 0, {}, []

    def send(self, message: dict[str, Any], node: str = "") -> None:
        self.sent.append(message["kind"])
        self.echoes += self.reads

    def read(self) -> list[Any]:
        return []


class Silent:
    """A part that has nothing to do in this test."""

    def tick(self, _now: float) -> None:
        pass


class Agent(worker.Worker):
    """A worker whose loop the test drives, beside a heartbeat with `turns` on the processor."""

    def __init__(self) -> None:
        self.settings, self.heartbeat, self.parent = SETTINGS, Library(), 2949
        self.now = self.turned = 100.0
        self.echo_sent = self.waits = self.glanced = self.listen_at = 0.0
        self.echoes, self.unread, self.turns = 0, False, ""
        self.queue, self.ended, self.loop, self.pulses = [], False, Loop(), 0
        self.jobs, self.server = Jobs(self.loop), Silent()
        self.addresses, self.kept = Patient(Silent(), self.beat), Silent()
        site = decide.Site("gw1", "gw2", True, ("bond0",), deadtime=1.0, daemon=False)
        self.machine = decide.RoleMachine(site, self.now, 4, 4, "held")
        self.sessions = sessions.Sessions("/nowhere")
        self.done: list[str] = []
        self.tell(decide.Connected(True), decide.Peer("active"), decide.PeerAgent(True))

    def beat(self) -> None:
        self.pulses += 1

    def tell(self, *events: Any) -> None:
        for each in events:
            self.handle(each)

    def do_leave(self, _action: decide.Leave) -> None:
        self.done.append("Leave")

    def do_note(self, _action: decide.Note) -> None:
        pass

    do_keep = do_note
    do_log = do_note


@pytest.fixture
def agent(monkeypatch) -> Agent:
    made = Agent()
    made.at_work = True
    monkeypatch.setattr(worker, "clock", lambda: made.now)
    monkeypatch.setattr(worker, "progress", lambda pid: ("S", f"{made.now if made.at_work else 0:.2f} 0 1"))
    return made


def wait(agent: Agent, seconds: float) -> None:
    for _ in range(round(seconds / worker.TICK_SECONDS)):
        agent.now += worker.TICK_SECONDS
        agent.keep_heartbeat(agent.now)
        agent.handle(decide.Tick())


def test_a_heartbeat_that_returns_messages_is_alive_and_gets_few(agent):
    wait(agent, 10)
    assert agent.machine.connected and not agent.unread
    assert 4 <= agent.heartbeat.sent.count("echo") <= 6


def test_a_hung_heartbeat_is_noticed_after_a_second_and_the_addresses_go(agent):
    agent.heartbeat.reads = agent.at_work = False
    wait(agent, 1.2)
    assert not agent.machine.connected and agent.machine.role == "active"
    wait(agent, 1.0)
    assert agent.done == ["Leave"] and agent.machine.role == "standby"


def test_a_heartbeat_that_does_not_read_is_alive_and_is_not_flooded(agent):
    """While the other node's heartbeat restarts itself: "all clients are now paused"."""
    agent.heartbeat.reads = False
    agent.heartbeat.sent.clear()
    wait(agent, 31)
    assert agent.machine.connected and agent.machine.role == "active" and agent.done == []
    assert len(agent.heartbeat.sent) < 40, "its queue is full after about a hundred"
    agent.heartbeat.reads = True
    wait(agent, 3)
    assert agent.machine.connected and not agent.unread


def test_a_late_heartbeat_is_back_with_its_first_turn(agent):
    """It has not returned the message yet: that waits in its queue, and the addresses stay meanwhile."""
    agent.heartbeat.reads = agent.at_work = False
    wait(agent, 1.5)
    assert not agent.machine.connected
    agent.at_work = True
    wait(agent, 0.1)
    assert agent.machine.connected
    wait(agent, 5)
    assert agent.done == []


def test_a_heartbeat_that_reports_something_lives(agent, monkeypatch):
    agent.heartbeat.reads = agent.at_work = False
    monkeypatch.setattr(agent.heartbeat, "read", lambda: [decide.Ping("192.0.2.1", True)])
    wait(agent, 5)
    assert agent.machine.connected and agent.done == []


def test_a_heartbeat_that_never_reads_again_counts_as_dead(agent):
    agent.heartbeat.reads = False
    wait(agent, 50)
    assert not agent.machine.connected and agent.machine.role == "standby"


class Late:
    """A daemon that does not answer the first question for two seconds."""

    def __init__(self) -> None:
        self.told, self.pidfd = 0, -1

    def listen(self, done: Any) -> None:
        self.told += 1
        done(self.told > 1)

    def hears(self, _addresses: list[str]) -> bool:
        return self.told > 1

    def tick(self, _now: float) -> None:
        pass


@pytest.mark.parametrize("role", ["active", "standby"])
def test_a_daemon_that_is_only_late_is_not_restarted_but_told_once_more(agent, monkeypatch, role):
    agent.daemon, agent.daemon_fd, agent.announcing, agent.next_look = Late(), -1, [], 1e9
    monkeypatch.setattr(agent.machine, "role", role)
    agent.daemon.listen(agent.on_listened)
    assert agent.queue == []
    for _ in range(60):
        agent.now += worker.TICK_SECONDS
        agent.tick(agent.now)
    assert agent.daemon.told == (2 if role == "active" else 1)
    assert not agent.machine.unheard


def test_after_a_silence_the_daemon_is_told_to_look_again(agent, monkeypatch):
    """A daemon that looked while they were muted would stay deaf on the active node until a person comes."""
    class There:
        def unmute(self) -> None:
            told.append("unmute")

    class Daemon:
        def listen(self, done: Any, call: bool = True) -> None:
            told.append("calls" if call else "listens")
            for ok in (True, False):
                done(ok)

        def hears(self, addresses: list[str]) -> bool:
            told.extend(addresses)
            return False

    told: list[str] = []
    agent.addresses, agent.daemon = Patient(There(), agent.beat), Daemon()
    agent.kept.addresses = lambda addresses: None
    monkeypatch.setattr(worker.announce, "send", lambda addresses: [])
    agent.do_unmute(decide.Unmute())
    assert told == ["unmute", "listens", "192.0.2.10", "192.0.2.10"]
    assert agent.queue == [decide.Listened(False)]  # one of the two answers: a busy daemon is no event
    assert agent.listen_at > agent.now, "it must be told once more"


@pytest.mark.parametrize(("role", "state", "left"), [
    ("standby", "parked", ["leave"]), ("standby", "none", []), ("leaving", "parked", []), ("parting", "parked", [])])
def test_a_standby_removes_addresses_that_it_could_not_remove_when_it_left(agent, monkeypatch, role, state, left):
    """For instance, the kernel did not answer in time. Nothing else would remove them."""
    class Parked:
        def __init__(self) -> None:
            self.done: list[str] = []

        def look(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
            return state, (), ("192.0.2.10",)

        def leave(self) -> None:
            self.done.append("leave")

    parked = Parked()
    agent.addresses, agent.heartbeat = Patient(parked, agent.beat), None
    monkeypatch.setattr(agent.machine, "role", role)
    monkeypatch.setattr(agent.machine, "deadline", agent.now + 5)
    worker.Worker.look(agent)
    assert parked.done == left
