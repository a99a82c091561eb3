"""Two state machines and random faults, in simulated time: what docs/takeover.md promises in seconds holds.

`lab/run storm --simulated --minutes 60` plays more of the same. A seed that found a defect is a test here, by name.
"""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import serving, standby
from agent.decide import (
    Command,
    Compared,
    Connected,
    Daemon,
    Fenced,
    Gap,
    Peer,
    PeerAgent,
    Ping,
    Reached,
    Received,
    Released,
    RoleMachine,
    Site,
    Terminate,
    Tick,
    Uplink,
)
from lab.storm import simulated
from lab.storm.simulated_faults import Fault, Scenario, scenario

SCENARIOS = 150  # some eight seconds
PINGS = ("192.0.2.1", "192.0.2.2")

CUT_WHILE_HANDING_OVER = Scenario(1, False, False, 1.0, (
    Fault(8.75, "cut one way", "gw2", 0.5), Fault(9.6, "standby", "gw1", 0.1)))
CUT_AND_TAKEN_BY_FORCE = Scenario(1, False, False, 1.0, (
    Fault(8.75, "cut one way", "gw2", 0.5), Fault(9.6, "takeover --force", "gw2", 0.1)))

FOUND = {
    "a yield that comes late to an agent that has just started": 100245,
    "an epoch on a disk that lags behind": 200675,
    "a hung agent beside a link that works in one direction": 201911,
    "a fence whose own heartbeat dies": 619,
    "a person hands over to a node that does not hear it": 301356,
    "the same by force": 302331,
    "a split in which an agent dies": 607492,
    "a split in which heartbeat restarts itself": 610011,
    "a node that comes back while it is fenced": 609180,
    "a heartbeat that dies while it is stopped": 609525,
    "a fence of a node that a person has stopped": 120,
}


@pytest.mark.parametrize("first", range(0, SCENARIOS, 10))
def test_what_the_pages_promise_holds_under_random_faults(first):
    for seed in range(first, first + 10):
        what = scenario(seed)
        found = simulated.play(what)
        assert not found.wrong, simulated.report(what, found)


@pytest.mark.parametrize("seed", FOUND.values(), ids=FOUND.keys())
def test_what_the_storm_has_found_is_put_right(seed):
    what = scenario(seed)
    found = simulated.play(what)
    assert not found.wrong, simulated.report(what, found)


@pytest.mark.parametrize("what", [CUT_WHILE_HANDING_OVER, CUT_AND_TAKEN_BY_FORCE], ids=["handed over", "forced"])
def test_a_split_under_a_link_that_works_in_one_direction_ends(what):
    """It lasted as long as the cut did: 599 of 600 s."""
    found = simulated.play(what)
    assert not found.wrong, simulated.report(what, found)
    assert 2.5 < found.longest["one way"] < 4.5


def test_a_seed_plays_the_same_each_time():
    assert simulated.play(scenario(7)) == simulated.play(scenario(7))


def test_the_storm_notices_a_split_that_does_not_end_and_names_what_is_necessary_for_it(monkeypatch):
    monkeypatch.setattr(serving, "GIVE_WAY_SECONDS", 1e9)
    more = CUT_WHILE_HANDING_OVER._replace(faults=(
        Fault(8.1, "twice", "gw1", 0.1), *CUT_WHILE_HANDING_OVER.faults, Fault(9.9, "compared", "gw2", 0.1)))
    found = simulated.play(more)
    assert "one hears the other, for more than 4.5 s" in found.wrong
    said = simulated.report(more, found)
    assert "cut one way gw2" in said and "standby gw1" in said
    assert "twice" not in said and "--- compared" not in said
    assert "WRONG: both nodes answer" in said


@pytest.mark.parametrize(("place", "name", "does", "wrong"), [
    (standby.Standby, "fenced", lambda self: True, "was not switched off"),
    (standby.Standby, "hears", lambda self: False, "has not taken over"),
    (standby.Standby, "call_off", lambda self, why: None, "has heard it for"),
    (serving.Serving, "outranks", lambda self, state: True, "hear each other"),
])
def test_the_storm_notices_an_agent_that_decides_wrongly(monkeypatch, place, name, does, wrong):
    monkeypatch.setattr(place, name, does)
    found = (simulated.play(scenario(seed)).wrong for seed in range(400))
    assert wrong in next(filter(None, found))


def test_the_command_ends_in_time_and_says_how_much_it_played(capsys):
    assert simulated.run(0.02, 5) == 0
    said = capsys.readouterr().out
    assert "from seed 5" in said and "scenarios, 0 wrong" in said


def test_the_command_fails_with_the_seed_of_what_it_found(monkeypatch, capsys):
    monkeypatch.setattr(serving.Serving, "outranks", lambda self, state: True)
    assert simulated.run(1.0, 0) == 1
    assert "the faults that are necessary for it:\nseed " in capsys.readouterr().out


EVENT = st.one_of(
    st.builds(Connected, st.booleans()), st.builds(Peer, st.sampled_from(["init", "up", "active", "dead", "odd"])),
    st.builds(PeerAgent, st.booleans()), st.builds(Compared, st.booleans()),
    st.builds(Ping, st.sampled_from([*PINGS, "192.0.2.9"]), st.booleans()),
    st.builds(Reached, st.sampled_from([*PINGS, "192.0.2.9"])),
    st.builds(Uplink, st.sampled_from(["bond0", "eth9"]), st.booleans()),
    st.builds(Daemon, st.sampled_from(["alive", "hung", "dead"])), st.builds(Gap, st.floats(0, 1e6)),
    st.builds(Fenced, st.booleans(), st.text()), st.builds(Released), st.builds(Tick),
    st.builds(Terminate, st.booleans()),
    st.builds(Command, st.sampled_from(["standby", "takeover", "dance"]), st.booleans(), st.integers()),
    st.builds(Received, st.fixed_dictionaries({}, optional={
        "kind": st.sampled_from(["state", "yield", "claim", "refuse", 7]),
        "role": st.sampled_from(["active", "standby", "transition", 1]),
        "epoch": st.integers(-1, 2**60), "pings": st.integers(0, 3), "ready": st.booleans(), "preferred": st.booleans(),
        "able": st.booleans(), "stall": st.floats(), "need": st.booleans(), "why": st.text(), "cause": st.text(),
        "force": st.booleans(), "hears": st.booleans(), "at": st.floats(), "echo": st.floats(), "ago": st.floats(),
        "request": st.integers(), "answers": st.integers(), "within": st.floats(), "highest": st.integers(),
        "ask": st.integers(), "re": st.integers(0, 5)})))


@given(st.lists(st.tuples(EVENT, st.floats(0, 40)), max_size=60), st.sampled_from(["none", "held", "muted", "parked"]))
def test_nothing_raises(events, held):
    site = Site("gw1", "gw2", True, ("bond0",), PINGS, failback=True, fence=True, compare=True)
    machine, now = RoleMachine(site, 0.0, 1, 1, held), 0.0
    for event, then in events:
        machine.handle(event, now)
        now += then
