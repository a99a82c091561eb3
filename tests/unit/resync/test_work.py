"""Salt's result of a roll-out in the words of an alert; which nodes are asked and which are not."""
from __future__ import annotations

import pytest

from nodes import asking
from nodes.answers import NO_MODULE, Answer, explained
from nodes.keys import Keys
from resync import work
from resync.work import Hands, compared, failures, outcome
from tests.conftest import EXAMPLES

GW1, GW2 = "gw1.winterthur", "gw2.winterthur"
NUMBER = "f" * 64
NOT_SIGNED = explained(GW2, NO_MODULE)


def state(name: str, number: int, result: bool | None, comment: str = "", **more) -> dict:
    return {f"salt_|-{name}_|-{name}_|-state": {"result": result, "comment": comment, "__run_num__": number, **more}}


def orchestrated(*states: dict) -> dict:
    return {"data": {"master_master": {key: each for one in states for key, each in one.items()}}, "retcode": 0}


STEPS = ("standby_applied", "standby_healthy", "active_applied", "active_healthy")


def test_all_went_well():
    assert outcome(orchestrated(*[state(name, number, True) for number, name in enumerate(STEPS)])) == ("done", "")


def test_the_standby_fails():
    returned = {"out": "highstate", "ret": {GW2: {
        "file_|-/etc/ipsec.conf_|-/etc/ipsec.conf_|-managed": {"result": False, "comment": "No space\nleft"},
        "service_|-ipsec_|-ipsec_|-running": {"result": False, "comment": "One or more requisite failed: x"}}}}
    said = outcome(orchestrated(
        state("standby_applied", 0, False, "Run failed on minions: gw2.winterthur", changes=returned),
        *[state(name, number, False, "One or more requisite failed", __state_ran__=False)
          for number, name in enumerate(STEPS[1:], 1)]))
    assert said == ("failed", "the standby could not be applied: gw2.winterthur: /etc/ipsec.conf: No space left; "
                              "the active node was not touched")


def test_the_standby_is_not_healthy():
    returned = {"ret": {GW2: "ERROR: not healthy after 60 s: the IPsec daemon does not run"}}
    _, why = outcome(orchestrated(state("standby_applied", 0, True),
                                  state("standby_healthy", 1, False, changes=returned)))
    assert why.startswith("the standby is not healthy: gw2.winterthur: ERROR: not healthy after 60 s")
    assert why.endswith("the active node was not touched")


def test_the_active_node_fails():
    said = outcome(orchestrated(state("standby_applied", 0, True), state("standby_healthy", 1, True),
                                state("active_applied", 2, False, "Minion did not return")))
    assert said == ("failed", "the active node could not be applied: Minion did not return")


def test_a_node_that_falls_silent_has_not_failed():
    said = outcome(orchestrated(state("standby_applied", 0, False, changes={"out": "highstate", "ret": {GW2: False}}),
                                state("standby_healthy", 1, False, "One or more requisite", __state_ran__=False)))
    assert said == ("waits", "gw2.winterthur did not answer to the end: the standby could not be applied")


RUNS = ('The function "state.highstate" is running as PID 4711 and was started at 2026, Nov 29 12:04:43.123456 with '
        "jid 20261129120443123456")


@pytest.mark.parametrize("out", [{"out": "highstate"}, {}])          # salt.state, salt.function
def test_a_node_that_runs_states_already_is_waited_for(out):
    said = outcome(orchestrated(state("standby_applied", 0, False, changes=out | {"ret": {GW2: [RUNS]}}),
                                state("standby_healthy", 1, False, "One or more requisite", __state_ran__=False)))
    assert said == ("waits", f"{GW2}: {RUNS}")


def test_roles_that_have_changed_are_waited_for():
    said = outcome(orchestrated(state("mistake-1", 0, False, "winterthur: gw2.winterthur is stopped; one node has")))
    assert said[0] == "waits" and "is stopped" in said[1]


@pytest.mark.parametrize("said", [None, "Exception occurred", {}, {"data": {}}, {"data": {"m": ["SLS failed"]}},
                                  {"data": {"m": {}}}, {"data": None}])
def test_what_is_no_result_is_a_failure(said):
    assert outcome(said)[0] == "failed"


def test_a_failure_is_cut_to_what_an_event_takes():
    returned = {"ret": {GW2: {f"a_|-{number}_|-b_|-c": {"result": False, "comment": "x" * 5000}
                              for number in range(50)}}}
    _, why = outcome(orchestrated(state("standby_applied", 0, False, changes=returned)))
    assert len(why) <= work.MAX_REASON_CHARACTERS and why.endswith("the active node was not touched")


@pytest.mark.parametrize(("states", "lines"), [
    ({"a_|-b_|-c_|-d": {"result": True, "comment": ""}}, []),
    ({"a_|-b_|-c_|-d": {"result": None, "comment": ""}}, []),
    ({"a_|-b_|-c_|-d": {"result": False, "comment": "no"}}, ["b: no"]),
    (["Rendering SLS failed"], ["Rendering SLS failed"]), ("did not answer", ["did not answer"]), (False, ["False"]),
])
def test_failures_of_a_state_run(states, lines):
    assert failures(states) == lines


def test_differences_say_what_is_where():
    one = {"/etc/ipsec.conf": "a" * 64, "certificate gateway": "b" * 64, "/only": "c"}
    two = {"/etc/ipsec.conf": "a" * 64, "certificate gateway": "b" * 64 + " without its key"}
    assert compared([GW1, GW2], one, two) == [
        "/only: only on gw1.winterthur",
        f"certificate gateway: gw1.winterthur has {'b' * 16}, gw2.winterthur {'b' * 16} without its key"]
    assert compared([GW1, GW2], one, dict(one)) == []


class Pair(Hands):
    """Two nodes whose answers the test gives."""

    def __init__(self, accepted=(GW1, GW2, "laptop.winterthur", "gw-a.bern"), after=(), **of) -> None:
        super().__init__({"pillar_roots": {"base": [str(EXAMPLES)]}, "ret_port": 4506, "pki_dir": ""}, after)
        self.accepted = lambda: list(accepted)
        self.number, self.roles, self.current = [NUMBER, NUMBER], ["active", "standby"], [True, True]
        self.wrong, self.reaches, self.conditions, self.ran = [], False, [], []
        self.tree, self.disabled, self.given = ["", ""], [False, False], []
        for name, value in of.items():
            setattr(self, name, value)

    def ask(self, minions, functions, timeout=15):
        found = {}
        for minion, number, role, current, tree, disabled in zip(
                (GW1, GW2), self.number, self.roles, self.current, self.tree, self.disabled, strict=True):
            if minion in minions and role != "silent":
                answers = {"heartbeat.role": role, "network.connect": {"result": self.reaches},
                           "drift.inputs": {"inputs": number, "recorded_at": "", "current": current, "tree": tree,
                                            "disabled": disabled},
                           "gateway_events.conditions": self.conditions}
                found[minion] = {name: answers[name] for name in functions}
        return found

    def run(self, function, *arguments, **named):
        self.ran.append(function)
        self.given.append(named.get("pillar"))
        if function == "gateway.validate":
            return {"mistakes": self.wrong}
        if sorted(self.roles) != ["active", "standby"]:
            return orchestrated(state("mistake-1", 0, False, "one node has to be active and the other standby"))
        return orchestrated(state("standby_applied", 0, True))


def test_who_belongs_to_a_site():
    assert Pair().minions("winterthur") == [GW1, GW2] and Pair().minions("bern") == ["gw-a.bern"]


@pytest.mark.parametrize(("pair", "expected"), [
    ({"number": ["old", "old"]}, "done"), ({"number": [NUMBER, "old"]}, "done"), ({}, "current"),
    ({"current": [True, False]}, "done"), ({"wrong": ["winterthur: x"]}, "refused"),
    ({"number": ["", ""]}, "bare"), ({"accepted": ()}, "bare"),
    ({"number": ["old", "old"], "roles": ["active", "silent"]}, "waits"),
    ({"number": ["old", "old"], "disabled": [False, True]}, "waits"),
    ({"number": ["old", "old"], "roles": ["active", "active"]}, "waits"),
    ({"number": ["old", "old"], "roles": ["silent", "silent"]}, "waits"),
    ({"number": ["old", "old"], "after": ("192.0.2.5",), "reaches": True}, "elsewhere"),
    ({"number": ["old", "old"], "after": ("192.0.2.5",)}, "done"),
])
def test_what_becomes_of_a_roll_out(pair, expected):
    hands = Pair(**pair)
    assert hands.roll_out("winterthur", NUMBER)[0] == expected
    assert "state.orch" in hands.ran or expected != "done"
    assert "state.orch" not in hands.ran or expected in ("done", "waits")


@pytest.mark.parametrize(("its", "tree", "same"), [
    (["t", "t"], "t", True), (["t", "u"], "t", False), (["", ""], "t", False), (["", ""], "", False),
    (["unsettled-t", "t"], "t", False)])
def test_modules_are_looked_for_unless_both_nodes_have_the_trees(its, tree, same):
    hands = Pair(number=["old", "old"], tree=its)
    assert hands.roll_out("winterthur", NUMBER, False, tree)[0] == "done"
    assert hands.given[-1] == {"site": "winterthur", "same_tree": same}


def test_by_hand_is_done_whatever_the_nodes_have():
    assert Pair().roll_out("winterthur", NUMBER, by_hand=True)[0] == "done"


def answers(monkeypatch, said) -> list:
    """Signed answers with `said(minions, function)`. The list has the questions."""
    asked = []

    def ask(_opts, _keys, minions, function, arguments, _named, _seconds, _long):
        asked.append((minions, function, arguments))
        found = said(minions, function)
        return asking.Said({minion: Answer(value, "", 0, 0.0) for minion, value in found.items()},
                           {minion: NOT_SIGNED for minion in minions if minion not in found})

    monkeypatch.setattr(work.asking, "ask", ask)
    monkeypatch.setattr(work, "Keys", lambda _folder: Keys.fixed(bytes(32)))
    return asked


def test_a_node_that_runs_states_already_is_repaired_after_that(monkeypatch):
    answers(monkeypatch, lambda minions, _: {minions[0]: [RUNS]})
    assert Pair().repair("winterthur", GW1, "openswan", NUMBER) == ("waits", RUNS)


@pytest.mark.parametrize(("pair", "formula", "alone", "expected"), [
    ({}, "openswan", False, "done"), ({"number": ["old", NUMBER]}, "openswan", False, "behind"),
    ({"number": ["", NUMBER]}, "openswan", False, "gone"), ({"number": ["", ""]}, "", False, "gone"),
    ({"roles": ["silent", "active"]}, "openswan", False, "waits"),
    ({"roles": ["stopped", "active"]}, "openswan", False, "waits"),
    ({"after": ("192.0.2.5",), "reaches": True}, "openswan", False, "elsewhere"),
    ({"after": ("192.0.2.5",)}, "openswan", False, "gone"),
    ({"after": ("192.0.2.5",), "conditions": [{"condition": "file_changed", "subject": "/x"}]}, "openswan", False,
     "done"),
    ({}, "", False, "gone"), ({"current": [False, True]}, "", False, "done"),
    ({"current": [False, True], "roles": ["transition", "standby"]}, "", False, "waits"),
    ({"current": [False, False]}, "", True, "waits"),
    ({"current": [False, False], "roles": ["active", "silent"]}, "", True, "done"),
    ({"current": [False, False], "roles": ["standby", "active"]}, "", True, "done"),
    ({"accepted": ()}, "openswan", False, "waits"),
])
def test_what_becomes_of_a_repair(monkeypatch, pair, formula, alone, expected):
    applied = answers(monkeypatch, lambda minions, _: {minions[0]: {"a_|-b_|-c_|-d": {"result": True}}})
    said = Pair(**pair).repair("winterthur", GW1, formula, NUMBER, [("file_changed", "/x")], alone)
    assert said[0] == expected, said
    assert applied == ([([GW1], "state.apply", [formula] if formula else [])] if expected == "done" else [])


@pytest.mark.parametrize(("pair", "expected"), [
    ({}, "done"), ({"roles": ["stopped", "active"]}, "waits"), ({"roles": ["transition", "standby"]}, "waits"),
    ({"number": ["old", NUMBER]}, "behind"), ({"after": ("192.0.2.5",)}, "gone"),
    ({"after": ("192.0.2.5",), "conditions": [{"beacon": "drift", "condition": "not_compared", "subject": "node"}]},
     "gone"),
    ({"after": ("192.0.2.5",), "conditions": [{"beacon": "drift", "condition": "file_changed", "subject": "/y"}]},
     "done")])
def test_a_node_with_too_many_changes_is_applied_although_it_was_compared(monkeypatch, pair, expected):
    applied = answers(monkeypatch, lambda minions, _: {minions[0]: {"a_|-b_|-c_|-d": {"result": True}}})
    said = Pair(**pair).repair("winterthur", GW1, "", NUMBER, [(work.MORE, work.MORE_SUBJECT)])
    assert said[0] == expected, said
    assert applied == ([([GW1], "state.apply", [])] if expected == "done" else [])


def test_a_job_is_of_one_function_and_who_is_silent_is_not_asked_again(monkeypatch):
    """While a job of several functions runs, no state can be applied."""
    asked = answers(monkeypatch, lambda _, function: (
        {GW1: ""} if function == "heartbeat.role" else {GW1: {"inputs": ""}}))
    hands = Hands({"pillar_roots": {}, "ret_port": 4506, "pki_dir": ""})
    assert hands.ask([GW1, GW2], {"heartbeat.role": [], "drift.inputs": [1]}) == {
        GW1: {"heartbeat.role": "", "drift.inputs": {"inputs": ""}}}
    assert asked == [([GW1, GW2], "heartbeat.role", []), ([GW1], "drift.inputs", [1])]
    assert hands.ask([], {"heartbeat.role": []}) == {}


def test_a_node_that_can_not_sign_waits_and_the_reason_says_what_to_do(monkeypatch):
    """It is of an older tree. What its old modules answer, anybody could have sent."""
    asked = answers(monkeypatch, lambda minions, _: {GW1: {"inputs": "old", "current": True}})
    hands = Hands({"pillar_roots": {"base": [str(EXAMPLES)]}, "ret_port": 4506, "pki_dir": ""})
    hands.accepted, hands.mistakes = lambda: [GW1, GW2], lambda _site: []
    assert hands.roll_out("winterthur", NUMBER) == ("waits", f"{GW2}: {NOT_SIGNED}")
    assert f"salt '{GW2}' saltutil.sync_modules" in NOT_SIGNED
    assert {function for _minions, function, _arguments in asked} == {"drift.inputs"}


def test_a_state_run_whose_end_nobody_has_signed_is_none(monkeypatch):
    answers(monkeypatch, lambda *_: {})
    outcome_, why = Pair().repair("winterthur", GW1, "openswan", NUMBER)
    assert outcome_ == "waits" and why.startswith("it did not answer to the end: ")


def test_a_step_through_the_runner_is_read_as_one_of_salts_own():
    def step(minion, said, **more):
        return {"return": {"ret": {minion: said}, "Error": "x", "retcode": 1, **more}}

    failed = {"file_|-/etc/ipsec.conf_|-/etc/ipsec.conf_|-managed": {"result": False, "comment": "No space left"}}
    assert outcome(orchestrated(state("standby_applied", 0, False, changes=step(GW2, failed)))) == (
        "failed", f"the standby could not be applied: {GW2}: /etc/ipsec.conf: No space left; "
                  "the active node was not touched")
    assert outcome(orchestrated(state("standby_applied", 0, False, changes=step(GW2, [RUNS])))) == (
        "waits", f"{GW2}: {RUNS}")
    assert outcome(orchestrated(state("standby_applied", 0, False, changes=step(GW2, False, why={GW2: NOT_SIGNED})))
                   ) == ("waits", f"{GW2} did not answer to the end: the standby could not be applied; "
                                  f"{GW2}: {NOT_SIGNED}")


def test_all_nodes_of_all_sites_are_asked_at_once():
    told = Pair().told()
    assert told["nodes"] == {"winterthur": {GW1: [NUMBER, True], GW2: [NUMBER, True]}, "bern": {"gw-a.bern": None}}
    assert Pair().told(["bern"])["nodes"] == {"bern": {"gw-a.bern": None}}
