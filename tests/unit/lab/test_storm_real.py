"""A storm over a pair that is made up: what is wrong with the pair is found, and what is wrong with the storm too."""
from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import pytest
import yaml

from lab.bench.faults import NotThere
from lab.storm import burst, configuration, faults, growth, options, real
from lab.storm.calendar import Calendar
from lab.storm.configuration import Configuration, lost
from lab.storm.invariants import Violation
from lab.storm.report import Report
from lab.storm.schedule import ACTIVE, STANDBY, Planned
from lab.storm.watcher import StormFailed
from lab.topology import Counter, site
from tests.conftest import TREE

SITE = site("winterthur", Counter())


def guest(number: int) -> SimpleNamespace:
    return SimpleNamespace(host=SITE.gateways[number], behind=lambda: 0.0,
                           journal=lambda since, *options: f"line of {SITE.gateways[number].name}\n")


class Pair:
    """Two nodes, of which the first is active and always whole."""

    def __init__(self) -> None:
        self.guests, self.site, self.whole = [guest(0), guest(1)], SITE, True

    def active(self):
        return self.guests[0]

    def other(self, guest):
        return next(each for each in self.guests if each is not guest)

    def settled(self):
        return self.whole


class Watcher:
    """A watch that sees nothing wrong, or what a test puts there."""

    def __init__(self, where, invariants, found) -> None:
        self.begun, self.lock, self.found, self.stopped = time.time(), threading.Lock(), found, False
        self.invariants = invariants(self.begun)
        self.invariants.answers = 1
        self.error = ""

    def check(self) -> None:
        if self.error:
            raise StormFailed(self.error)

    def share(self) -> float:
        return 0.01

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """What the faults' steps did, in their order."""
    done: list[str] = []

    def fault(name):
        def make(pair, guest):
            done.append(f"prepare {name} {guest.host.name}")
            yield
            done.append(f"make {name}")
            yield
            done.append(f"heal {name}")
        return make

    monkeypatch.setattr(faults, "MAKE", {name: fault(name) for name in faults.MAKE})
    monkeypatch.setattr(faults, "restore", lambda pair: done.append("restore") or [])
    return done


def planned(*each: tuple[float, str, str, float]) -> list[Planned]:
    return [Planned(at, 0, fault, target, seconds) for at, fault, target, seconds in each]


def test_a_fault_is_prepared_made_and_healed_on_the_node_that_has_the_role(made):
    pair, calendar = Pair(), Calendar("fast")
    its = burst.make(pair, calendar, planned((5, "one NIC", STANDBY, 0.1)), pair.guests[0], False)
    assert made == ["prepare one NIC gw2", "make one NIC", "heal one NIC"] and calendar.bursts == [its]
    [fault] = its.faults
    assert fault.healed - fault.made >= 0.1 and not fault.wrong and not its.end


def test_two_faults_overlap_and_what_needs_a_console_is_healed_after_power(made):
    pair = Pair()
    burst.make(pair, Calendar("fast"), planned((5, "one NIC", ACTIVE, 0.05), (5.1, "crash", ACTIVE, 0.1)),
               pair.guests[0], False)
    assert [each for each in made if not each.startswith("prepare")] == [
        "make one NIC", "make crash", "heal crash", "heal one NIC"]


def test_a_fault_that_can_not_be_made_is_said_and_everything_is_restored(made, monkeypatch):
    def refused(pair, guest):
        raise NotThere
        yield

    monkeypatch.setitem(faults.MAKE, "daemon killed", refused)
    pair = Pair()
    its = burst.make(pair, Calendar("fast"), planned((5, "daemon killed", ACTIVE, 1), (5, "one NIC", STANDBY, 0.01)),
                     pair.guests[0], False)
    assert "not prepared: NotThere" in its.faults[0].wrong[0] and not its.faults[0].made
    assert made[-2:] == ["heal one NIC", "restore"]


def test_a_mistake_of_the_storm_itself_is_no_violation_but_an_error(made, monkeypatch):
    def mistaken(pair, guest):
        yield
        raise KeyError("eth9")

    monkeypatch.setitem(faults.MAKE, "one NIC", mistaken)
    pair = Pair()
    with pytest.raises(KeyError):
        burst.make(pair, Calendar("fast"), planned((5, "one NIC", ACTIVE, 1)), pair.guests[0], False)


@pytest.fixture
def storm(made, monkeypatch, tmp_path):
    """A storm of a few seconds: short faults, one after the other."""
    lab = SimpleNamespace(sites=[SITE], listener=SimpleNamespace(heard=[], process=SimpleNamespace(
        poll=lambda: None, returncode=0)))
    lab.master = SimpleNamespace(run=lambda *_words: "[]", wait_for=lambda *_words: None)
    monkeypatch.setattr(real, "Watcher", Watcher)
    monkeypatch.setattr(real.observe, "events", lambda _lab: threading.Lock())
    monkeypatch.setattr(real.observe, "agent", lambda guest: {"starved": False, "role": "active"})
    monkeypatch.setattr(real.configuration, "mark_compared", lambda lab, guest: made.append("compared"))
    monkeypatch.setattr(growth, "of_guest", lambda guest: [["agent", 1, 2, 3, 4]])
    monkeypatch.setattr(growth, "of_master", lambda: [["master x", 1, 2, 3, 4]])
    monkeypatch.setattr(real.schedule, "schedule", lambda seed, minutes: [
        Planned(0, 0, "agent killed", ACTIVE, 0.05), Planned(0.2, 1, "reboot", STANDBY, 0.05)])
    monkeypatch.setattr(real.told, "TOLD_SECONDS", 0.0)
    for name in ("WHOLE_SECONDS", "RESTARTED_SECONDS", "ENDED_SECONDS", "ASKED_SECONDS"):
        monkeypatch.setattr(real, name, 0.2)
    traffic = SimpleNamespace(begin=lambda: None, never_back=lambda: [], gaps=lambda since: {"libre-fast": 0.3})
    arguments = options.parser().parse_args(["--minutes", "1", "--seed", "9"])
    report = Report(tmp_path, "fast", 9, 1)
    return real.Storm(lab, Pair(), arguments, report, traffic)


def kinds(storm) -> list[str]:
    return [each.what for each in storm.report.violations]


def tell(storm, condition: str, number: str = "i-1") -> None:
    data = {"id": number, "kind": "alert", "conditions": [{"node": "gw1", "condition": condition}]}
    storm.lab.listener.heard.append(SimpleNamespace(came=time.time() + 30, tag="gateway/alert/winterthur/critical",
                                                    data=data))


def test_a_pair_that_does_as_it_should_has_no_violation(storm, made):
    tell(storm, "peer_dead")
    storm.run()
    storm.end()
    assert kinds(storm) == []
    assert [each for each in made if each.startswith("make")] == ["make agent killed", "make reboot"]
    assert made.count("compared") == 1
    rows = [json.loads(line) for line in storm.report.path.read_text().splitlines()]
    assert [row["faults"] for row in rows if row["kind"] == "burst"] == [["agent killed"], ["reboot"]]
    assert {row["host"] for row in rows if row["kind"] == "sample"} == {"gw1", "gw2", "master"}
    table = storm.report.table()
    assert "| reboot | 1 |" in table and "2 of 2" in table and "| **violations** | **0** |" in table


def test_an_alert_that_does_not_come_is_a_violation_with_seed_faults_and_what_the_nodes_said(storm, capsys):
    storm.run()
    storm.end()
    assert kinds(storm) == ["alert lost"]
    said = capsys.readouterr().out
    for part in ("seed 9", "profile fast", "fault: ", "reboot on gw2 (standby)", "gw1 said:\n    line of gw1",
                 "gw2 said"):
        assert part in said, said
    rows = [json.loads(line) for line in storm.report.path.read_text().splitlines()]
    [row] = [each for each in rows if each["kind"] == "violation"]
    assert row["seed"] == 9 and row["faults"]
    assert row["said"] == {"the watch": "", "gw1": "line of gw1", "gw2": "line of gw2"}


def test_an_alert_that_stays_is_a_violation(storm):
    tell(storm, "peer_dead")
    line = "gw1 hears nothing of the other node gw2 (critical, since x)"
    storm.lab.master.run = lambda *_words: json.dumps([{"site": "winterthur", "conditions": [line]}])
    storm.run()
    storm.end()
    assert kinds(storm) == ["alert stays"]


def test_a_role_that_moves_without_a_reason_is_a_violation(storm, made, monkeypatch):
    tell(storm, "peer_dead")
    make = real.bursting.make

    def moving(pair, calendar, planned, *more):
        if planned[0].burst == 0:
            storm.watcher.invariants.moves.append((time.time() + 1, storm.external, "gw2"))
        return make(pair, calendar, planned, *more)

    monkeypatch.setattr(real.bursting, "make", moving)
    storm.run()
    assert "role" in kinds(storm)


def test_a_client_that_does_not_come_back_is_a_violation(storm):
    storm.traffic.never_back = lambda: ["libre-fast"]
    storm.run()
    assert kinds(storm)[:2] == ["client", "client"]


def test_a_pair_that_is_not_whole_again_is_a_violation_and_then_the_end(storm, monkeypatch):
    storm.pair.whole = False
    for each in storm.pair.guests:
        each.run = lambda *_words, **_more: None
    with pytest.raises(real.GivenUp):
        storm.run()
    assert kinds(storm) == ["not whole"]


def test_it_stops_at_the_first_violation_if_asked_to(storm):
    storm.arguments.stop = True
    storm.report.violation(Violation("x", "y", time.time()))
    storm.run()
    assert storm.report.figures["bursts, of those planned"] == "1 of 2"


@pytest.mark.parametrize("break_it", [
    lambda storm: setattr(storm.watcher, "error", "it has died"),
    lambda storm: setattr(storm.lab.listener.process, "poll", lambda: 1)])
def test_a_storm_that_does_not_see_any_more_fails(storm, break_it):
    break_it(storm)
    with pytest.raises(StormFailed):
        storm.run()


@pytest.mark.parametrize("outcome, code", [(None, 0), ("violation", 1), (StormFailed("blind"), 2), (KeyError("x"), 2),
                                           (SystemExit("lab: gw1 did not boot"), 2)])
def test_the_exit_code_says_whether_anything_is_known(monkeypatch, tmp_path, outcome, code, capsys):
    def go(arguments, report):
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome:
            report.violation(Violation("two answered", "text", time.time()))

    monkeypatch.setattr(real, "go", go)
    monkeypatch.setenv(real.FOLDER_VARIABLE, str(tmp_path / "results"))
    assert real.main(["--minutes", "1", "--seed", "3"]) == code
    assert "**violations**" in (said := capsys.readouterr().out)
    assert ("THE STORM ITSELF FAILED" in said) == (code == 2)
    [file] = (tmp_path / "results").iterdir()
    assert json.loads(file.read_text().splitlines()[-1])["code"] == code


def test_the_storms_site_is_valid_and_has_the_profile_and_the_clients(gateway, schema):
    data = yaml.safe_load((TREE / "examples/sites/winterthur.sls").read_text())
    peers = {"roadwarrior": {"persons": {"libre-fast.example": "198.51.100.161"}},
             "site-fast": {"kind": "site-to-site", "dpd": {"delay": 1, "timeout": 2},
                           "peer": {"address": "203.0.113.10", "id": "site-fast.example",
                                    "subnets": "198.51.100.128/28"}}}
    its = configuration.site(data, "default", peers)["gateway"]
    assert gateway.find_mistakes(its, schema, nodename="gw1", minion_id="gw1.winterthur") == []
    assert its["heartbeat"]["profile"] == "default" and set(its["connections"]) == {"roadwarrior", "site-fast"}
    assert its["connections"]["roadwarrior"]["pool"] and its["connections"]["roadwarrior"]["persons"]


BEFORE = Configuration({"gw1": {"/etc/a": "1", "/etc/b": "2"}, "gw2": {"/etc/a": "1"}},
                       {"gw1.w": {"f": "x"}, "gw2.w": {"f": "x"}}, {"gw1.w": ["old"]}, {})


@pytest.mark.parametrize("after, words", [
    (BEFORE, []),
    (Configuration({**BEFORE.files, "gw1": {"/etc/a": "9", "/etc/c": "1"}}, BEFORE.same, {}, {}),
     ["gw1: /etc/b is gone", "gw1: /etc/c is new", "gw1: /etc/a was changed"]),
    (Configuration(BEFORE.files, {"gw1.w": {"f": "x"}, "gw2.w": {"f": "y"}}, {}, {}),
     ["gw1.w and gw2.w are not the same: f"]),
    (Configuration(BEFORE.files, BEFORE.same, {"gw1.w": ["old", "new"]}, {}), ["gw1.w: state.apply would change new"]),
    (Configuration(BEFORE.files, BEFORE.same, {}, {"gw2.w": ["s: c"]}), ["gw2.w: state.apply test=True fails: s: c"])])
def test_what_a_storm_has_cost_a_node_is_named(after, words):
    assert lost(BEFORE, after) == words


