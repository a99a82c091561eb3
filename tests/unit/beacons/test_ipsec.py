"""What the beacon reports about the IPsec daemon, second by second."""
from __future__ import annotations

import datetime

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import give_time

TUNNELS = {"bern": {"peer": "192.0.2.74", "calls": False, "site": True, "moves": False},
           "roadwarrior": {"peer": "%any", "calls": False, "site": False, "moves": True}}
DATE = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)


def sa(number=1, peer="192.0.2.74", peer_id="", into=0, out=0) -> dict:
    return {"number": number, "peer": peer, "peer_id": peer_id, "in_bytes": into, "out_bytes": out}


def answer(bern=(), people=(), **more) -> dict:
    found = {"bern": {"up": bool(bern), "sas": list(bern)}, "roadwarrior": {"up": bool(people), "sas": list(people)}}
    listening = more.get("listening", [{"address": "192.0.2.10", "port": 500}])
    return {"connections": found, "listening": listening, "fixed": "192.0.2.10", "late": [], "replays": {},
            "unheard": [] if listening else ["192.0.2.10"], "unserved": [], "foreign": []} | more


class Daemon:
    """One look a second, and what the beacon concludes from each."""

    def __init__(self, module) -> None:
        self.module = module
        self.now = 1000.0
        self.memory: dict = {}
        self.restart_minion()
        self.pid, self.serves, self.word = 100, True, "alive"

    def restart_minion(self) -> None:
        self.watch = self.module.Watch(self.memory)

    def second(self, said=None, seconds=1.0, **more) -> dict:
        self.now += seconds
        seen = {"process": bool(self.pid), "pid": self.pid, "hung": False, "serves": self.serves,
                "addresses": ["192.0.2.10"], "tunnels": TUNNELS, "gone": [], "answer": said, "journal": [],
                "counters": None, "dates": None} | more
        found = self.watch.judge(seen, self.word, self.now, DATE, 30)
        self.memory = found["memory"]
        self.conditions, self.once, self.unknown = found["conditions"], found["once"], found["unknown"]
        return self.conditions


@pytest.fixture
def module(load):
    return load("_beacons/ipsec.py")


@pytest.fixture
def daemon(module):
    found = Daemon(module)
    found.second(answer(bern=[sa()]), dates={"certificates": {}, "lists": {}})
    return found


def test_nothing_is_told_of_what_is_well(daemon):
    assert daemon.second(answer(bern=[sa()])) == {} and not daemon.once and not daemon.unknown


def test_nothing_is_said_of_tunnels_before_the_daemon_was_asked(module):
    daemon = Daemon(module)
    assert daemon.second() == {} and "tunnel_down" in daemon.unknown


@pytest.mark.parametrize("peer", ["%any", "203.0.113.5"])
def test_a_peer_that_may_come_back_elsewhere_has_the_grace_time(daemon, monkeypatch, peer):
    """A branch on a line that gets a new address every night; a peer with a second line."""
    monkeypatch.setitem(TUNNELS, "bern", {"peer": peer, "calls": peer != "%any", "site": True, "moves": True})
    assert daemon.second(answer(bern=[sa()])) == {}
    assert daemon.second(answer()) == {} and daemon.second(answer(), 29) == {}
    assert daemon.second(answer(bern=[sa(2)]), 1) == {} and not daemon.once     # it is no roadwarrior
    assert daemon.second(answer()) == {} and daemon.second(answer(), 29) == {}
    found = daemon.second(answer(), 2)["tunnel_down:bern"]
    waits = "the peer calls" if peer == "%any" else "this end calls"
    assert (found["severity"], found["cause"]) == ("critical", f"it was up on this node; {waits}")
    assert found["facts"] == {"peer": peer, "kind": "site-to-site"}
    daemon.serves = False
    assert daemon.second(answer()) == {}


def test_a_tunnel_that_was_up_here_is_told_at_once(daemon):
    found = daemon.second(answer())["tunnel_down:bern"]
    assert (found["severity"], found["is"], found["cause"]) == (
        "critical", "down", "it was up on this node; the peer calls")
    assert daemon.second(answer(bern=[sa(2)])) == {}


def test_the_kernels_word_is_enough_for_a_tunnel_that_goes(daemon):
    assert daemon.second(gone=["bern"]).keys() == {"tunnel_down:bern"}
    assert daemon.second().keys() == {"tunnel_down:bern"}


def test_after_a_takeover_a_tunnel_has_its_grace_time(daemon):
    daemon.serves = False
    assert daemon.second(answer(listening=[])) == {}
    daemon.serves = True
    assert daemon.second(answer()) == {}
    assert daemon.second(answer(), 28) == {}
    assert daemon.second(answer(), 2)["tunnel_down:bern"]["cause"].startswith("it has not come up on this node")


def test_on_the_standby_no_tunnel_is_expected(daemon):
    daemon.second(answer())
    daemon.serves = False
    assert daemon.second(answer(listening=[]), 100) == {}
    assert daemon.memory["down"] == []


def test_a_tunnel_that_was_told_stays_told_while_the_daemon_is_new(daemon):
    daemon.second(answer())
    daemon.pid = 200
    assert daemon.second() == {} and "tunnel_down" in daemon.unknown
    assert daemon.second(answer()).keys() == {"tunnel_down:bern"}


def test_after_a_new_daemons_start_tunnels_have_the_grace_time(daemon):
    daemon.pid = 200
    daemon.second(answer())
    assert daemon.second(answer(), 20) == {}
    assert daemon.second(answer(), 20).keys() == {"tunnel_down:bern"}


def test_a_restarted_minion_still_knows_what_was_up(daemon):
    daemon.restart_minion()
    assert daemon.second(answer()).keys() == {"tunnel_down:bern"}


def test_a_dead_daemon_is_told_and_its_tunnels_are_not(daemon):
    daemon.pid = 0
    assert daemon.second().keys() == {"daemon_dead:pluto"}
    assert {"tunnel_down", "connection_missing"} <= daemon.unknown


def test_a_daemon_that_need_not_run_yet_is_not_dead(daemon):
    daemon.pid = 0
    assert daemon.second(process=None) == {} and "daemon_dead" in daemon.unknown


def test_a_daemon_that_was_back_before_anybody_looked_is_told_once(daemon):
    line = "ipsec.service: Main process exited, code=killed, status=9/KILL"
    daemon.pid = 200
    daemon.second(journal=["ipsec.service: Scheduled restart job, restart counter is at 1.", line])
    assert [(each["condition"], each["is"], each["cause"]) for each in daemon.once] == [
        ("daemon_dead", "died, and was started again", "its process ended: killed, status=9/KILL")]
    daemon.pid = 0
    daemon.second(seconds=60)
    daemon.pid = 300
    daemon.second(journal=[line])
    assert not daemon.once


def test_a_daemon_that_died_is_told_by_the_agents_word_while_the_next_one_starts(daemon):
    daemon.word = "alive"
    daemon.second(answer(bern=[sa()]))
    daemon.word, daemon.pid = "dead", 200
    cause = daemon.second()["daemon_dead:pluto"]["cause"]
    assert cause == "its process has ended, and the next one does not answer yet"
    assert daemon.second().keys() == {"daemon_dead:pluto"}
    daemon.word = "alive"
    assert daemon.second() == {}
    # the journal shows its end as well
    daemon.second(journal=["ipsec.service: Main process exited, code=killed, status=9/KILL"])
    assert not daemon.once


def test_a_daemon_that_the_agent_has_not_seen_alive_yet_boots_and_is_not_dead(module):
    daemon = Daemon(module)
    daemon.word = "dead"
    assert daemon.second(answer(bern=[sa()])) == {}


@pytest.mark.parametrize(("word", "own", "told"), [
    ("hung", False, True), ("alive", True, False), ("", True, True), ("unknown", True, True), ("", False, False)])
def test_the_agents_word_on_a_hung_daemon_counts_where_there_is_one(daemon, word, own, told):
    daemon.word = word
    assert ("daemon_hung:pluto" in daemon.second(hung=own)) == told


def test_a_connection_that_is_not_loaded_is_told_once_the_daemon_has_started(daemon):
    said = answer(bern=[sa()])
    del said["connections"]["roadwarrior"]
    assert daemon.second(said) == {}
    assert daemon.second(said, 25).keys() == {"connection_missing:roadwarrior"}


def test_a_roadwarrior_that_comes_and_goes_is_told_with_its_name(daemon):
    anna = sa(3, "192.0.2.50", "CN=anna")
    daemon.second(answer(bern=[sa()], people=[anna]))
    assert [(each["condition"], each["subject"], each["severity"], each["facts"]["peer"]) for each in daemon.once] == [
        ("tunnel_up", "roadwarrior/CN=anna", "info", "192.0.2.50")]
    daemon.second(answer(bern=[sa()], people=[anna | {"number": 9}]), 30)
    assert not daemon.once
    daemon.second(answer(bern=[sa()]), 30)
    assert not daemon.once
    daemon.second(answer(bern=[sa()]), 5)
    assert [(each["condition"], each["is"]) for each in daemon.once] == [("tunnel_down", "gone")]


def test_a_roadwarrior_that_calls_again_at_once_was_never_away(daemon):
    anna = sa(3, "192.0.2.50", "CN=anna")
    daemon.second(answer(bern=[sa()], people=[anna]))
    daemon.second(answer(bern=[sa()]), 1)
    daemon.second(answer(bern=[sa()], people=[anna | {"number": 5}]), 2)
    assert not daemon.once
    daemon.second(answer(bern=[sa()], people=[anna | {"number": 5}]), 20)
    assert not daemon.once


def test_many_people_at_once_are_one_event(daemon):
    people = [sa(number, "192.0.2.50", f"CN=p{number}") for number in range(3, 30)]
    daemon.second(answer(bern=[sa()], people=people))
    assert [each["subject"] for each in daemon.once] == ["27 roadwarriors"]


def test_who_is_there_at_a_takeover_did_not_just_come(daemon):
    daemon.serves = False
    daemon.second(answer(listening=[]))
    daemon.serves = True
    daemon.second(answer(people=[sa(3, "192.0.2.50", "CN=anna")]))
    assert not daemon.once
    daemon.serves = False
    daemon.second(answer(listening=[]), 60)
    daemon.second(answer(listening=[]), 60)
    assert not daemon.once


def test_keys_that_are_not_renewed_in_time_are_told(daemon):
    assert daemon.second(answer(bern=[sa()], late=["bern"])) == {}
    assert daemon.second(answer(bern=[sa()], late=["bern"]), 26).keys() == {"rekey_failing:bern"}
    assert daemon.second(answer(bern=[sa(2)])) == {}


def test_the_active_nodes_daemon_has_to_listen_on_the_virtual_address(daemon):
    deaf = answer(bern=[sa()], listening=[])
    assert daemon.second(deaf) == {}
    assert daemon.second(deaf, 10)["wrong_listen:pluto"]["is"] == "does not listen on 192.0.2.10"
    daemon.serves = False
    assert daemon.second(answer(listening=[])) == {}


def test_an_active_node_whose_daemon_takes_connections_for_nobodys_is_told(daemon):
    refuses = answer(unserved=["bern", "roadwarrior"])
    assert "connection_unserved:pluto" not in daemon.second(refuses)
    found = daemon.second(refuses, 10)["connection_unserved:pluto"]
    assert (found["severity"], found["is"]) == ("critical", "takes bern, roadwarrior for nobody's")
    assert daemon.second(answer(bern=[sa()])) == {}
    daemon.serves = False
    assert daemon.second(refuses, 100) == {}


def test_of_many_connections_that_are_nobodys_a_few_are_named(daemon):
    seen = daemon.second(answer(bern=[sa()], unserved=[f"peer{number}" for number in range(1000)]), 10)
    found = seen["connection_unserved:pluto"]
    assert found["is"] == "takes peer0, peer1, peer2, peer3, peer4 and 995 more for nobody's"
    assert len(found["facts"]["connections"]) == 20


def test_serving_on_the_nodes_own_address_is_told_where_there_is_one_to_listen_on(daemon):
    both = [{"address": "192.0.2.10", "port": 500}, {"address": "192.0.2.11", "port": 500}]
    assert daemon.second(answer(bern=[sa()], listening=both)).keys() == {"address_of_node:192.0.2.11"}
    assert daemon.second(answer(bern=[sa()], listening=both, fixed="")) == {}
    found = daemon.second(answer(bern=[sa()], listening=both, fixed="", foreign=["192.0.2.11"]))
    assert found["address_of_node:192.0.2.11"]["is"] == "a tunnel ends there"


def traffic(daemon, into, out, seconds=30.0, number=1):
    return daemon.second(answer(bern=[sa(number, into=into, out=out)]), seconds)


def test_packets_one_way_only_are_told_where_they_went_both_ways(daemon):
    for step in range(1, 4):
        assert traffic(daemon, 100 * step, 100 * step) == {}
    assert traffic(daemon, 300, 400) == {}
    assert traffic(daemon, 300, 500) == {}
    found = traffic(daemon, 300, 600)["one_way:bern"]
    assert (found["is"], found["cause"]) == ("packets out only", "for a minute bytes went out and none in")
    assert traffic(daemon, 400, 700) == {}


def test_a_tunnel_that_is_used_one_way_only_is_no_alarm(daemon):
    for step in range(1, 10):
        assert traffic(daemon, 0, 100 * step) == {}


def test_a_quiet_tunnel_is_no_alarm(daemon):
    for step in range(1, 4):
        traffic(daemon, 100 * step, 100 * step)
    for _ in range(10):
        assert traffic(daemon, 300, 300) == {}


def test_a_new_sa_that_counts_from_the_beginning_is_no_alarm(daemon):
    for step in range(1, 5):
        traffic(daemon, 100 * step, 100 * step)
    for step in range(3):
        assert traffic(daemon, 10 * step, 10 * step, number=7) == {}


def test_counters_that_rise_are_told_once_a_minute_with_their_rise(daemon):
    daemon.second(counters={"XfrmInStateProtoError": 5, "XfrmInNoStates": 1, "XfrmInStateSeqError": 0})
    assert not daemon.once
    daemon.second(seconds=5, counters={"XfrmInStateProtoError": 8, "XfrmInNoStates": 900, "XfrmInStateSeqError": 9})
    assert [(each["condition"], each["subject"], each["facts"]) for each in daemon.once] == [
        ("xfrm_errors", "XfrmInStateProtoError", {"rise": 3})]
    daemon.second(seconds=5, counters={"XfrmInStateProtoError": 10, "XfrmInNoStates": 999, "XfrmInStateSeqError": 12})
    assert [(each["condition"], each["subject"]) for each in daemon.once] == [("replay_drops", "XfrmInStateSeqError")]
    daemon.second(seconds=56, counters={"XfrmInStateProtoError": 12, "XfrmInNoStates": 1, "XfrmInStateSeqError": 12})
    assert [each["facts"] for each in daemon.once] == [{"rise": 4}]


def test_packets_dropped_as_repeated_are_told_by_tunnel(daemon):
    daemon.second(answer(bern=[sa()], replays={"bern": 3}))
    daemon.second(answer(bern=[sa()], replays={"bern": 9}))
    assert not daemon.once
    daemon.second(answer(bern=[sa()], replays={"bern": 14}))
    assert [(each["condition"], each["subject"], each["facts"]) for each in daemon.once] == [
        ("replay_drops", "bern", {"rise": 11})]


def test_what_ends_soon_is_told_and_says_the_same_every_day(daemon):
    dates = {"certificates": {"gateway": "2026-12-20T00:00:00+00:00", "Our CA": "2030-01-01T00:00:00+00:00",
                              "old": "2026-11-30T00:00:00+00:00", "soon": "2026-12-05T00:00:00+00:00"},
             "lists": {"CN=Our CA": {"this_update": "", "next_update": "2026-12-06T00:00:00+00:00"},
                       "CN=Other": {"this_update": "", "next_update": "2026-12-20T00:00:00+00:00"}}}
    found = daemon.second(dates=dates)
    assert {key: each["severity"] for key, each in found.items()} == {
        "certificate_expiring:gateway": "warning", "certificate_expiring:old": "critical",
        "certificate_expiring:soon": "critical", "crl_expiring:CN=Our CA": "warning"}
    assert found["certificate_expiring:old"]["is"] == "ended on 2026-11-30 00:00 UTC"
    assert daemon.second() == found


def test_dates_that_were_not_read_yet_are_not_judged(module):
    daemon = Daemon(module)
    daemon.second()
    assert {"certificate_expiring", "crl_expiring"} <= daemon.unknown


class Minion:
    """The beacon in a minion, and what it reports."""

    def __init__(self, module, monkeypatch) -> None:
        self.module, self.told, self.runs = module, [], []
        self.seen: dict | None = None
        monkeypatch.setattr(module, "__context__", {}, raising=False)
        monkeypatch.setattr(module, "__salt__", {
            "watching.states_run": lambda: bool(self.runs), "ipsec.glance": lambda: self.seen,
            "heartbeat.glance": lambda: {"daemon": "alive"},
            "gateway_events.watched": lambda _feature: {"node": "gw1"}, "gateway_events.memory": lambda _name: {},
            "gateway_events.changed": lambda *words: self.told.append(words) or ["event"],
            "gateway_events.validate_config": lambda config, more: (isinstance(config, list), "said")}, raising=False)

    def look(self, said, **more):
        self.seen = {"process": True, "pid": 1, "hung": False, "serves": True, "addresses": ["192.0.2.10"],
                     "tunnels": TUNNELS, "gone": [], "answer": said, "journal": [], "counters": None,
                     "dates": {"certificates": {}, "lists": {}}} | more
        self.module.beacon([])
        return self.told[-1]


def test_a_daemon_that_a_state_run_restarts_is_no_news(module, monkeypatch):
    minion = Minion(module, monkeypatch)
    minion.look(answer(bern=[sa()]))
    minion.runs = [{"fun": "state.apply"}]
    _name, conditions, _once, unknown, _memory = minion.look(None, process=False, pid=0)
    assert conditions == {} and "daemon_dead" in unknown
    minion.runs = []
    assert minion.look(None, process=False, pid=0)[1].keys() == {"daemon_dead:pluto"}
    # and stays reported when a state run begins that will start it
    minion.runs = [{"fun": "state.apply"}]
    assert minion.look(None, process=False, pid=0)[1].keys() == {"daemon_dead:pluto"}


def test_a_tunnel_that_a_state_run_negotiates_anew_is_no_news_unless_it_stays_away(module, monkeypatch):
    minion = Minion(module, monkeypatch)
    clock = [1000.0]
    give_time(monkeypatch, module, monotonic=lambda: clock[0])
    minion.look(answer(bern=[sa()]))
    minion.runs = [{"fun": "state.apply"}]
    assert minion.look(answer())[1] == {} and "tunnel_down" in minion.told[-1][3]
    clock[0] += 11
    assert minion.look(None)[1].keys() == {"tunnel_down:bern"}


def test_before_the_first_state_run_nothing_is_said(module, monkeypatch):
    minion = Minion(module, monkeypatch)
    assert module.beacon([]) == [] and not minion.told


def test_grace_is_a_number_of_seconds(module, monkeypatch):
    Minion(module, monkeypatch)
    assert module.validate([{"grace": 10}])[0] and module.validate([])[0]
    for wrong in ("10", -1, True, 4000):
        assert not module.validate([{"grace": wrong}])[0]


@pytest.mark.parametrize(("line", "subject"), [
    ('"bern" #4: liveness action - clearing connection kind CK_INSTANCE', "bern"),
    ('"roadwarrior"[1] 192.0.2.50 #3: ESTABLISHED_IKE_SA: 15 second timeout exceeded after 7 retransmits.  No response '
     '(or no acceptable response) to our IKEv2 message', "roadwarrior/192.0.2.50"),
])
def test_a_peer_that_does_not_answer_is_told_from_the_journal(daemon, line, subject):
    daemon.second(journal=['"bern" #2: initiating Child SA', line])
    assert [(each["condition"], each["subject"]) for each in daemon.once] == [("liveness_timeout", subject)]


def test_a_peer_that_has_never_answered_did_not_fall_silent(daemon):
    daemon.second(journal=['"bern" #9: initiator: 60 second timeout exceeded after 8 retransmits.  No response (or no '
                           'acceptable response) to our first IKEv2 message'])
    assert not daemon.once


def test_an_adopted_tunnel_is_not_told_as_down_for_an_hour(module, monkeypatch):
    minion = Minion(module, monkeypatch)
    clock, asked = [1000.0], []
    give_time(monkeypatch, module, monotonic=lambda: clock[0])
    module.__salt__["ipsec.adopted"] = lambda: asked.append(clock[0]) or [{"tunnel": "bern"}]
    minion.look(answer(bern=[sa()]), serves=False)
    for _ in range(20):
        clock[0] += 5
        assert minion.look(answer())[1] == {}
    assert len(asked) == 4, "seldom: the answer may take seconds"
    clock[0] += 3600
    assert minion.look(answer())[1].keys() == {"tunnel_down:bern"}


def test_an_adopted_tunnel_whose_peer_has_called_is_like_any_other(module, monkeypatch):
    minion = Minion(module, monkeypatch)
    clock = [1000.0]
    give_time(monkeypatch, module, monotonic=lambda: clock[0])
    module.__salt__["ipsec.adopted"] = lambda: [{"tunnel": "bern"}]
    minion.look(answer(bern=[sa()]), serves=False)
    for said in (answer(), answer(), answer(bern=[sa()])):
        clock[0] += 5
        assert minion.look(said)[1] == {}
    clock[0] += 5
    assert minion.look(answer())[1].keys() == {"tunnel_down:bern"}


def test_a_tunnel_is_told_as_down_when_nobody_says_that_it_was_adopted(module, monkeypatch):
    minion = Minion(module, monkeypatch)
    clock = [1000.0]
    give_time(monkeypatch, module, monotonic=lambda: clock[0])

    def hangs() -> list:
        raise CommandExecutionError("gateway-sessions does not answer")

    module.__salt__["ipsec.adopted"] = hangs
    minion.look(answer(), serves=False)
    minion.look(answer())
    clock[0] += 31
    assert minion.look(answer())[1].keys() == {"tunnel_down:bern"}
