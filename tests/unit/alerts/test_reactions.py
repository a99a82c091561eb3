"""Which events are reacted to, how many, and only once: the part of the reactions in the engine's loop."""
from __future__ import annotations

import json
import re
import time
import tracemalloc

import pytest

from alerts import reaction_queue, reactions
from alerts.catalogue import CATALOGUE
from alerts.incidents import IncidentMachine
from alerts.reaction_queue import ReactionQueue
from alerts.reaction_settings import OWN_CONDITIONS, USUAL_PHASES, Rule, Settings
from alerts.reactions import Reactions
from tests.unit.alerts.events import T, made


def rule(sls: str = "ticket", **more) -> Rule:
    return Rule(**{"conditions": (), "beacons": (), "severities": (), "sites": (), "phases": ("opened", "happened"),
                   "sls": (sls,), "settings": {"a": 1}} | more)


class World:
    """The loop: reactions see each event before the incidents do."""

    def __init__(self, folder, *rules: Rule) -> None:
        self.folder, self.rules, self.machine = folder, rules, IncidentMachine()
        self.start()

    def start(self) -> None:
        """A new engine on the same folder. (The old one is not closed, as after kill -9.)"""
        self.its = Reactions(self.folder, Settings(self.rules))

    def take(self, *events, now: float = T, quiet: bool = False) -> list:
        for event in events:
            self.its.offer(now, event, quiet, self.machine)
            self.machine.take(now, event, quiet)
        told = self.its.tell(now, self.machine)
        for event in told:
            self.machine.take(now, event)
        return told

    @property
    def waiting(self) -> list[dict]:
        return list(self.its._queue._waiting.values())

    @property
    def phases(self) -> list[tuple[str, str]]:
        return [(each["data"]["phase"], each["data"]["condition"]) for each in self.waiting]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No test here is about the disk."""
    monkeypatch.setattr("alerts.reaction_queue.os.fsync", lambda _handle: None)


def test_phases_are_those_of_the_alerts(tmp_path):
    world = World(tmp_path, rule(phases=("opened", "update", "recovery", "happened")))
    world.take(made(1), made(2, now="still down"), made(3, recovered=True), made(4),
               made(5, condition="slave_flapped", once=True))
    assert world.phases == [("opened", "slave_down"), ("update", "slave_down"), ("recovery", "slave_down"),
                            ("opened", "slave_down"), ("happened", "slave_flapped")]


def test_a_condition_that_becomes_critical_is_reacted_to(tmp_path):
    """A certificate that expires is a warning first: who wants to know of what is critical hears of it all the same."""
    world = World(tmp_path, rule(severities=("critical",), phases=USUAL_PHASES))
    world.take(made(1), made(2, severity="critical"), made(3, severity="critical", now="worse"))
    assert world.phases == [("escalation", "slave_down")]


def test_an_event_that_was_overtaken_is_not_reacted_to(tmp_path):
    """A ticket opened after the one that closes it would stay open for ever."""
    world = World(tmp_path, rule(phases=("opened", "recovery")))
    world.take(made(2, recovered=True))
    world.take(made(1))
    assert world.phases == [("recovery", "slave_down")]


@pytest.mark.parametrize("wanted, fits", [
    ({}, True), ({"conditions": ("slave_down",)}, True), ({"conditions": ("bond_down",)}, False),
    ({"beacons": ("bonding",)}, True), ({"beacons": ("ipsec",)}, False), ({"severities": ("warning", "info")}, True),
    ({"severities": ("critical",)}, False), ({"sites": ("winterthur",)}, True), ({"sites": ("bern",)}, False),
    ({"phases": ("recovery",)}, False)])
def test_an_entry_names_what_it_is_about(tmp_path, wanted, fits):
    world = World(tmp_path, rule(**wanted))
    world.take(made())
    assert bool(world.waiting) is fits


def test_all_entries_that_fit_react(tmp_path):
    world = World(tmp_path, rule("ticket"), rule("orchestrate"), rule("x", severities=("info",)))
    world.take(made())
    assert [each["sls"] for each in world.waiting] == [["reactor/ticket.sls"], ["reactor/orchestrate.sls"]]


def test_words_that_the_master_knows_are_apart_from_the_nodes_texts(tmp_path):
    world = World(tmp_path, rule())
    world.take(made(7, subject="{{ subject }}", was="{{ was }}", now="{{ now }}", cause="{{ cause }}"))
    (item,) = world.waiting
    assert "{{" not in json.dumps(item["data"])
    assert {key: item["data"][key] for key in ("id", "site", "node", "condition", "severity", "number")} == {
        "id": "gw1.winterthur", "site": "winterthur", "node": "gw1", "condition": "slave_down", "severity": "warning",
        "number": 7}
    # Nothing in it can be more than a word, whatever an SLS does with it.
    known = {key: value for key, value in item["data"].items() if key not in ("settings", "number")}
    assert all(re.fullmatch(r"[A-Za-z0-9_.:+-]*", value) for value in known.values()), known
    assert item["texts"]["subject"] == "{{ subject }}" and "{{ subject }}" in item["texts"]["happened"]


def test_the_key_is_of_the_condition_and_the_name_of_the_event(tmp_path):
    world = World(tmp_path, rule(phases=("opened", "recovery")))
    world.take(made(1), made(2, recovered=True, at="2024-05-01T10:00:01Z"), made(3, subject="other"))
    first, second, third = [(each["data"]["key"], each["data"]["event"]) for each in world.waiting]
    assert first[0] == second[0] != third[0] and len({first[1], second[1], third[1]}) == 3


def test_an_event_is_reacted_to_once(tmp_path):
    world = World(tmp_path, rule())
    world.take(made(1))
    world.machine = IncidentMachine()  # whatever the alerts have forgotten
    world.take(made(1))
    assert len(world.waiting) == 1


def test_an_event_is_reacted_to_once_across_restarts(tmp_path):
    """After each step a new engine, which has lost all of its other state, gets the same event again."""
    world = World(tmp_path, rule())
    for _ in range(3):
        world.take(made(1))
        world.machine = IncidentMachine()
        world.start()
        assert len(world.waiting) == 1
    item = world.its._queue.begin(set())
    world.its._queue.done(item["number"])
    for _ in range(2):
        world.machine = IncidentMachine()
        world.start()
        world.take(made(1))
        assert world.waiting == []


def test_a_reaction_that_the_master_did_not_survive_is_told_and_not_repeated(tmp_path):
    world = World(tmp_path, rule())
    world.take(made(1))
    assert world.its._queue.begin(set())
    world.machine = IncidentMachine()
    world.start()
    (said,) = world.take(made(1))
    assert (said.condition, said.subject) == ("reaction_failed", "reactor/ticket.sls at winterthur")
    assert "not repeated" in said.now
    assert world.waiting == []


def test_a_machine_that_was_set_back_gives_a_number_a_second_time(tmp_path):
    world = World(tmp_path, rule())
    world.take(made(1))
    world.machine = IncidentMachine()
    world.take(made(1, at="2024-05-01T10:05:00Z"), now=T + 301)
    assert len(world.waiting) == 2


def test_old_events_are_not_news(tmp_path):
    """Also not when all state was lost and somebody replays them."""
    world = World(tmp_path, rule())
    world.take(made(1), now=T + 601)
    assert world.waiting == [] and world.its.status()["old"] == 1
    world = World(tmp_path, rule(max_age=3600.0))
    world.take(made(1), now=T + 601)
    assert len(world.waiting) == 1


def test_what_is_older_than_all_that_is_remembered_is_not_news(tmp_path, monkeypatch):
    monkeypatch.setattr(reaction_queue, "MAX_REMEMBERED_OF_NODE", 3)
    queue = ReactionQueue(tmp_path / "queue")
    for number in range(5):
        queue.add("gw1", reaction_queue.Took(f"e{number}", T + number, T + number, "w", [0]), [])
    queue.flush()
    for again in (queue, ReactionQueue(tmp_path / "queue")):
        assert not any(again.is_new("gw1", f"e{number}", T + number) for number in range(5))
        assert again.is_new("gw1", "other", T + 2) and again.is_new("gw2", "e1", T + 1)


def test_ten_thousand_events_stay_within_the_limit_and_are_told_once(tmp_path):
    world = World(tmp_path, rule(limit=10))
    world.take(made(1))
    tracemalloc.start()
    begun, told = time.process_time(), []
    for number in range(2, 10_002):
        world.its.offer(T + number / 100, made(number, subject=str(number)), False, world.machine)
        told += world.its.tell(T + number / 100, world.machine) if number % 100 == 0 else []
    took, (_, most) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(world.waiting) == 10
    (one,) = told
    assert (one.condition, one.severity, one.recovered) == ("reactions_left_out", "warning", False)
    assert "more than 10 events" in one.now and one.subject == "reactor/ticket.sls at winterthur"
    assert world.its.status() | {"old": 0} == {"entries": 1, "waiting": 10, "taken": 10, "ran": 0, "failed": 0,
                                               "left_out": 9_991, "silenced": 0, "old": 0}
    assert took < 10 and most < 2_000_000, (took, most)


def test_the_limit_is_of_one_site_and_of_ten_minutes(tmp_path):
    world = World(tmp_path, rule(limit=2))
    for number in range(1, 6):
        world.take(made(number, subject=str(number)))
    world.take(made(1, "gw-a.bern"))
    assert [each["site"] for each in world.waiting] == ["winterthur", "winterthur", "bern"]
    world.take(made(6, subject="6", at="2024-05-01T10:10:00Z"), now=T + 601)
    assert len(world.waiting) == 4


def test_the_limit_holds_across_restarts(tmp_path):
    world = World(tmp_path, rule(limit=2))
    for number in range(1, 9):
        world.take(made(number, subject=str(number)))
        world.start()
    assert len(world.waiting) == 2


def test_the_queue_is_bounded_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setattr(reaction_queue, "MAX_WAITING", 5)
    world, told = World(tmp_path, rule()), []
    for number in range(1, 51):
        told += world.take(made(1, f"gw1.site{number}"))
    assert len(world.waiting) == 5
    (one,) = told
    assert (one.condition, one.site, one.subject) == ("reactions_left_out", "", "the queue")


def test_the_queue_is_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(reaction_queue, "MAX_WAITING_BYTES", 20_000)
    world = World(tmp_path, rule())
    for number in range(1, 51):
        world.take(made(1, f"gw1.site{number}", cause="c" * 900, was="w" * 900, now="n" * 900))
    assert 1 < len(world.waiting) < 10


def test_the_file_does_not_grow_with_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(reaction_queue, "COMPACT_BYTES", 10_000)
    monkeypatch.setattr(reaction_queue, "MAX_REMEMBERED_OF_NODE", 20)
    world = World(tmp_path, rule(limit=1000))
    for number in range(1, 401):
        world.take(made(number, subject=str(number), at=f"2024-05-01T10:00:{number % 60:02}Z"), now=T + 60)
        if item := world.its._queue.begin(set()):
            world.its._queue.done(item["number"])
    assert (tmp_path / reaction_queue.FILE).stat().st_size < 40_000
    assert (tmp_path / reaction_queue.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [
    b'{"took": ["x", 1', b"\xff\xfe\n", b'{"took": 7}\n', b'{"took": [], "id": "", "items": [{"number": 9}]}\n',
    b'{"ran": {"a": {"floor": 0, "events": [[]]}}, "next": 1}\n', b"[" * 100_000, b"[]\n", b"null\n", b"7\n"])
def test_a_damaged_file_costs_only_the_damaged_line(tmp_path, damage):
    world = World(tmp_path, rule())
    world.take(made(1))
    with (tmp_path / reaction_queue.FILE).open("ab") as file:
        file.write(damage)
    world.start()
    assert len(world.waiting) == 1


def test_a_full_disk_does_not_stop_the_engine(tmp_path, monkeypatch):
    world = World(tmp_path, rule())

    def full(_handle):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("alerts.reaction_queue.os.fsync", full)
    assert world.take(made(1)) == []
    with pytest.raises(OSError):  # nothing runs that is not on the disk as begun
        world.its._queue.begin(set())
    monkeypatch.undo()
    world.take()
    assert world.its._queue.begin(set())["site"] == "winterthur"


def test_a_silenced_site_is_not_reacted_to(tmp_path):
    world = World(tmp_path, rule())
    world.machine.silences["winterthur"] = T + 60
    world.take(made(1))
    assert world.waiting == [] and world.its.status()["silenced"] == 1


def test_a_persons_order_is_not_reacted_to(tmp_path):
    world = World(tmp_path, rule())
    world.take(made(1, "master", condition="go", beacon="resync", once=True, severity="info"))
    assert world.waiting == []


def test_what_the_other_master_takes_care_of_is_not_reacted_to(tmp_path):
    world = World(tmp_path, rule())
    world.take(made(1), quiet=True)
    assert world.waiting == []


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_wrong_is_over_when_it_has_not_happened_for_ten_minutes(tmp_path, restart):
    """Also when the engine was restarted meanwhile, and without the entry that it was about."""
    world = World(tmp_path, rule(limit=1))
    (begin,) = world.take(made(1), made(2, subject="b"), made(3, subject="c"))
    if restart:
        world.rules = ()
        world.start()
        world.take(now=T + 1)
    assert world.take(now=T + 599) == []
    (end,) = world.take(now=T + 601)
    assert (end.condition, end.subject, end.recovered) == (begin.condition, begin.subject, True)
    assert end.now == ("1 in all" if restart else "2 in all")
    assert world.take(now=T + 9999) == [] and not world.machine.open_now("master", "reactions_left_out")


def test_reactions_do_not_react_to_themselves(tmp_path):
    world = World(tmp_path, rule(limit=1))
    told = world.take(made(1), made(2, subject="b"))
    assert [each.condition for each in told] == ["reactions_left_out"]
    world.machine = IncidentMachine()  # which does not know them yet
    world.take(*told)
    assert len(world.waiting) == 1
    assert all(("master", condition) in CATALOGUE for condition in OWN_CONDITIONS)


def test_one_order_runs_one_after_the_other(tmp_path):
    world = World(tmp_path, rule("ticket"), rule("orchestrate"))
    world.take(made(1), made(2, subject="b"), made(1, "gw-a.bern"))
    queue = world.its._queue
    begun = []
    while item := queue.begin({each["order"] for each in begun}):
        begun.append(item)
    assert [each["order"] for each in begun] == ["0 winterthur", "1 winterthur", "0 bern", "1 bern"]
    queue.done(begun[0]["number"])
    assert queue.begin({each["order"] for each in begun[1:]})["texts"]["subject"] == "b"


def test_without_entries_nothing_is_written(tmp_path):
    world = Reactions(tmp_path)
    world.offer(T, made(1), False, IncidentMachine())
    assert world.tell(T, IncidentMachine()) == [] and world.status() == {} and list(tmp_path.iterdir()) == []
    assert reactions.name_of(made(1)) != reactions.name_of(made(2))
