"""_modules/gateway_events.py: every change is reported once, numbered, safe on the disk, signed."""
from __future__ import annotations

import hashlib
import hmac
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

from alerts import authentic
from tests.conftest import give_time, load_module

KEY = "5f" * 32
DOWN = {"slave_down:bond0/eth1": {"severity": "warning", "was": "up", "is": "down", "facts": {"active": "eth0"}}}


def write(path: str, text: str, mode: int) -> None:
    """commit_confirm.replace_file, without the wait for a disk."""
    new = Path(f"{path}.new")
    new.touch(mode)
    new.write_text(text, "utf-8")
    new.replace(path)


def node(folder: Path, key: str = KEY, role: str = "standby") -> ModuleType:
    """The module in a minion that has just started, on a node that has these files."""
    module = load_module("_modules/gateway_events.py")
    module.EVENTS_FOLDER = folder
    module.__salt__ = {
        "gateway.settings": lambda: {"site": "winterthur", "node": "gw1"}, "commit_confirm.replace_file": write,
        "heartbeat.glance": lambda: {"role": role},
        "pillar.get": lambda name, default, unmask: key if name == "gateway_event_key" and unmask else default}
    module.__opts__, module.__grains__, module.__context__ = {"id": "gw1.winterthur"}, {"nodename": "gw1"}, {}
    module.os.fdatasync = lambda handle: None
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "events"


def short(events: list[dict]) -> list[tuple]:
    return [(each["condition"], each["subject"], each["was"], each["is"], each["recovered"]) for each in events]


def test_begins_changes_and_recovers_each_once(folder: Path) -> None:
    module = node(folder)
    assert short(module.changed("bonding", DOWN)) == [("slave_down", "bond0/eth1", "up", "down", False)]
    assert module.changed("bonding", DOWN) == []
    more = {"slave_down:bond0/eth1": DOWN["slave_down:bond0/eth1"] | {"is": "going back"}}
    assert short(module.changed("bonding", more)) == [("slave_down", "bond0/eth1", "down", "going back", False)]
    assert short(module.changed("bonding", {})) == [("slave_down", "bond0/eth1", "going back", "up", True)]
    assert module.changed("bonding", {}) == []


def test_an_event_is_complete(folder: Path) -> None:
    event, = node(folder).changed("bonding", DOWN)
    assert event.pop("tag") == "slave_down"
    assert len(event.pop("journal")) == 16
    assert event.pop("at") == event.pop("since")
    text = event.pop("signature")
    assert event == {
        "version": 1, "n": 1, "id": "gw1.winterthur", "site": "winterthur", "node": "gw1", "role": "standby",
        "beacon": "bonding", "condition": "slave_down", "subject": "bond0/eth1", "severity": "warning", "was": "up",
        "is": "down", "recovered": False, "once": False, "cause": "", "facts": {"active": "eth0"}}
    assert len(text) == 64


def test_the_signature_is_over_all_the_rest(folder: Path) -> None:
    event, = node(folder).changed("bonding", DOWN)
    del event["tag"]
    text = event.pop("signature")
    signed = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    assert hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest() == text


def test_without_a_key_it_is_fired_unsigned_and_signed_when_it_is_fetched(folder: Path) -> None:
    event, = node(folder, key="").changed("bonding", DOWN)
    assert event["signature"] == ""
    fetched, = node(folder).since()["events"]
    assert fetched["signature"] and fetched["n"] == event["n"]


def test_the_key_is_on_no_file(folder: Path) -> None:
    node(folder).changed("bonding", DOWN)
    assert all(KEY not in path.read_text() for path in folder.iterdir())
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700


def test_facts_and_cause_alone_are_no_news(folder: Path) -> None:
    module = node(folder)
    module.changed("bonding", DOWN)
    other = {"slave_down:bond0/eth1": DOWN["slave_down:bond0/eth1"] | {"facts": {"active": ""}, "cause": "x"}}
    assert module.changed("bonding", other) == []
    graver = {"slave_down:bond0/eth1": DOWN["slave_down:bond0/eth1"] | {"severity": "critical"}}
    assert [each["severity"] for each in module.changed("bonding", graver)] == ["critical"]


def test_since_when_is_kept_until_it_is_over(folder: Path) -> None:
    module = node(folder)
    early = {"a:x": {"severity": "info", "was": "", "is": "1", "since": "2026-03-01T01:00:00+01:00"}}
    first, = module.changed("bonding", early)
    assert first["since"] == "2026-03-01T00:00:00.000+00:00"
    second, = module.changed("bonding", {"a:x": {"severity": "info", "was": "", "is": "2"}})
    over, = module.changed("bonding", {})
    assert second["since"] == over["since"] == first["since"]
    assert over["at"] >= second["at"] >= first["at"]


def test_a_restarted_minion_repeats_nothing_and_tells_the_recovery(folder: Path) -> None:
    node(folder).changed("bonding", DOWN)
    assert node(folder).changed("bonding", DOWN) == []
    assert short(node(folder).changed("bonding", {})) == [("slave_down", "bond0/eth1", "down", "up", True)]
    assert node(folder).changed("bonding", {}) == []


def test_what_can_not_be_judged_stays_as_it_is(folder: Path) -> None:
    module = node(folder)
    module.changed("heartbeat", {"link_dead:bond1": {"severity": "warning", "was": "up", "is": "dead"}})
    assert module.changed("heartbeat", {}, unknown=["link_dead"]) == []
    assert len(module.changed("heartbeat", {})) == 1


def test_what_happened_and_is_over_is_told_once_and_recovers_never(folder: Path) -> None:
    module = node(folder)
    event, = module.changed("heartbeat", {}, once=[{
        "condition": "role_changed", "subject": "gw1", "severity": "critical", "was": "standby", "is": "active",
        "cause": "gw2 is dead", "since": "2026-03-01T00:00:00+00:00"}])
    assert event["once"] and event["cause"] == "gw2 is dead" and event["since"] == "2026-03-01T00:00:00.000+00:00"
    assert node(folder).changed("heartbeat", {}) == []
    assert module.conditions() == []


def test_nothing_is_written_while_nothing_changes(folder: Path) -> None:
    module = node(folder)
    assert module.changed("bonding", {}) == []
    assert not folder.exists()
    module.changed("bonding", DOWN, memory={"a": 1})
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    module.__salt__["commit_confirm.replace_file"] = None
    module.changed("bonding", DOWN, memory={"a": 1})
    module.changed("bonding", DOWN)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_beacon_finds_what_it_wanted_to_remember(folder: Path) -> None:
    assert node(folder).memory("bonding") == {}
    node(folder).changed("bonding", {}, memory={"failures": {"bond0/eth1": 3}})
    module = node(folder)
    assert module.memory("bonding") == {"failures": {"bond0/eth1": 3}}
    module.changed("bonding", DOWN)
    assert node(folder).memory("bonding") == {"failures": {"bond0/eth1": 3}}


def test_the_master_asks_for_what_it_does_not_have(folder: Path) -> None:
    module = node(folder)
    assert module.since() == {"journal": "", "newest": 0, "taken": 0, "events": []}
    module.changed("bonding", DOWN)
    module.changed("bonding", {})
    all_of_it = module.since()
    assert [each["n"] for each in all_of_it["events"]] == [1, 2] and all_of_it["newest"] == 2
    assert [each["n"] for each in module.since(1, all_of_it["journal"])["events"]] == [2]
    assert module.since(2, all_of_it["journal"])["events"] == []
    assert len(module.since(2, "another")["events"]) == 2
    assert all(each["signature"] for each in all_of_it["events"])


def test_the_master_leaves_a_mark_of_what_it_has_taken(folder: Path) -> None:
    module = node(folder)
    assert module.taken({"gw1.winterthur": 17, "gw2.winterthur": 4})
    assert not module.taken({"gw2.winterthur": 4})
    module.taken({"gw1.winterthur": 3})
    assert module.since()["taken"] == 17


def test_how_far_it_has_got_is_told_without_the_events(folder: Path) -> None:
    module = node(folder)
    assert module.newest() == {"journal": "", "newest": 0, "taken": 0}
    module.changed("bonding", DOWN)
    module.taken({"gw1.winterthur": 1})
    there = module.since()
    assert module.newest() == {"journal": there["journal"], "newest": there["newest"], "taken": 1}


def test_who_asks_gets_all_present_conditions(folder: Path) -> None:
    node(folder).changed("bonding", DOWN)
    node(folder).changed("heartbeat", {"peer_dead:gw2": {"severity": "critical", "was": "active", "is": "dead"}})
    found = node(folder).conditions()
    assert [each["condition"] for each in found] == ["slave_down", "peer_dead"]
    assert all("normal" not in each and each["signature"] for each in found)


def test_the_journal_is_cut_and_numbers_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = node(folder)
    monkeypatch.setattr(module, "JOURNAL_EVENTS_KEPT", 5)
    for number in range(40):
        module.changed("bonding", DOWN if number % 2 == 0 else {})
        assert len((folder / "journal").read_text().splitlines()) <= 11
    assert [each["n"] for each in module.since()["events"]] == [36, 37, 38, 39, 40]


@pytest.mark.parametrize("damage", [
    lambda text: text[:-20],                                  # an incomplete last line
    lambda text: b"\0" * len(text),                           # what ext4 may leave after a power cut
    lambda text: b"",
    lambda text: text.splitlines(keepends=True)[0],
    lambda text: b"\xff\xfe" + text,
    lambda text: b"".join(text.splitlines(keepends=True)[1:]),
    lambda text: text + b'{"n": "7"}\n[]\n' + b"[" * 5000 + b"\n",
    None,
])
@pytest.mark.parametrize("name", ["journal", "bonding.told"])
def test_a_damaged_file_is_replaced_and_no_number_is_given_twice(folder: Path, damage, name: str) -> None:
    module = node(folder)
    for _ in range(3):
        module.changed("bonding", DOWN)
        module.changed("bonding", {})
    module.changed("bonding", DOWN)
    file = folder / name
    file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
    module = node(folder)
    assert module.changed("bonding", DOWN) == []      # the other file still knows what was reported
    over, = module.changed("bonding", {})
    assert over["n"] == 8 and over["recovered"]
    later, = node(folder).changed("bonding", DOWN)
    assert later["n"] == 9 and later["journal"] == over["journal"]
    assert [each["n"] for each in node(folder).since(7, over["journal"])["events"]] == [8, 9]
    assert not load_module("_modules/gateway_events.py")._json(b"[")
    for path in folder.glob("*.told"):
        json.loads(path.read_bytes())
    assert all(json.loads(line) for line in (folder / "journal").read_bytes().splitlines())


def test_with_both_files_gone_the_mark_of_the_master_still_counts(folder: Path) -> None:
    module = node(folder)
    module.changed("bonding", DOWN)
    module.taken({"gw1.winterthur": 30})
    (folder / "journal").unlink()
    (folder / "bonding.told").unlink()
    assert [each["n"] for each in node(folder).changed("bonding", DOWN)] == [31]


def test_a_crash_between_journal_and_state_repeats_nothing(folder: Path) -> None:
    module = node(folder)
    module.changed("bonding", {}, memory={"a": 1})

    def crash(path: str, text: str, mode: int) -> None:
        if path.endswith("told"):
            raise KeyboardInterrupt
        write(path, text, mode)

    module.__salt__["commit_confirm.replace_file"] = crash
    with pytest.raises(KeyboardInterrupt):
        module.changed("bonding", DOWN)
    assert node(folder).changed("bonding", DOWN) == []
    assert [each["n"] for each in node(folder).changed("bonding", {})] == [2]


def test_what_another_process_told_is_not_told_again(folder: Path) -> None:
    here, there = node(folder), node(folder)
    assert here.changed("drift", {}) == []
    there.changed("drift", {"file_changed:/etc/x": {"severity": "warning", "was": "a", "is": "b"}})
    assert here.changed("drift", {"file_changed:/etc/x": {"severity": "warning", "was": "a", "is": "b"}}) == []
    assert len(there.changed("drift", {})) == 1


def _many(folder: str, number: int) -> None:
    module = node(Path(folder))
    for turn in range(15):
        module.changed(f"beacon{number}", DOWN if turn % 2 == 0 else {})


def test_processes_beside_each_other_give_each_number_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_many, args=(str(folder), number)) for number in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    numbers = [each["n"] for each in node(folder).since()["events"]]
    assert numbers == list(range(1, 46))


def test_a_lock_that_is_held_does_not_hold_the_minion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, other = node(folder), node(folder)
    times = iter(range(100))
    give_time(monkeypatch, module, monotonic=lambda: next(times))
    with other._lock(), pytest.raises(CommandExecutionError, match="has held the lock"):
        module.changed("bonding", DOWN)
    assert len(module.changed("bonding", DOWN)) == 1


def test_without_site_and_agent_an_event_is_sent_all_the_same(folder: Path) -> None:
    module = node(folder)

    def broken() -> dict:
        raise CommandExecutionError("mistakes")

    module.__salt__ |= {"gateway.settings": broken, "heartbeat.glance": broken}
    event, = module.changed("bonding", DOWN)
    assert (event["site"], event["node"], event["role"]) == ("", "gw1", "unknown")


@pytest.mark.parametrize("condition", [{"severity": "grave", "is": "x"}, {"is": "x"}])
def test_a_condition_that_makes_no_sense_is_refused(folder: Path, condition: dict) -> None:
    with pytest.raises(CommandExecutionError, match="is no condition"):
        node(folder).changed("bonding", {"slave_down:bond0": condition})
    with pytest.raises(CommandExecutionError, match="is no condition"):
        node(folder).changed("bonding", {"../x:bond0": {"severity": "info", "is": "x"}})
    with pytest.raises(CommandExecutionError, match="no beacon's name"):
        node(folder).changed("../bonding", {})


def test_what_has_to_last_is_told_when_it_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, clock = node(folder), [100.0]
    give_time(monkeypatch, module, monotonic=lambda: clock[0])
    late = {"lacp_churn:bond0/eth1": {"severity": "warning", "was": "agreed", "is": "churned", "after": 5}}
    assert module.changed("bonding", late) == []
    clock[0] += 4
    assert module.changed("bonding", late) == []
    assert module.changed("bonding", {}) == []         # over: no event, and the waiting time starts from 0
    assert module.changed("bonding", late) == []
    clock[0] += 4
    assert module.changed("bonding", {}, unknown=["lacp_churn"]) == []
    clock[0] += 1
    event, = module.changed("bonding", late)
    assert event["since"] <= event["at"]
    assert node(folder).changed("bonding", late) == []  # it was reported: a restarted minion does not wait again
    assert len(module.changed("bonding", {})) == 1


def test_what_is_watched_is_worked_out_once_for_a_pillar(folder: Path, tmp_path: Path) -> None:
    module, asked = node(folder), []

    def site() -> dict:
        asked.append(1)
        return {"features": {"monitoring": True, "bonding": True, "heartbeat": False}}

    def of(pillar: dict) -> None:
        module.__pillar__ = pillar
        module.__salt__["pillar.get"] = lambda name, default, unmask: pillar.get(name, default)

    module.WATCHED = tmp_path / "run/watched"
    module.__salt__ |= {"gateway.settings": site}
    (tmp_path / "run").mkdir()
    of({})
    assert module.watched("bonding") == {} and asked == [] and module.watched_now() == ""
    of({"gateway": {"site": "x"}, "gateway_schema": {}, "beacons": {"bonding": []}})
    for _ in range(3):
        assert module.watched("bonding")["features"]["bonding"]
        assert module.watched("heartbeat") == {}
    assert asked == [1] and module.watched_now() == module.pillar_digest() != ""
    before = module.pillar_digest()
    of({"gateway": {"site": "x"}, "gateway_schema": {}, "beacons": {"bonding": [], "heartbeat": []}})
    module.watched("bonding")
    assert asked == [1, 1] and module.watched_now() == module.pillar_digest() != before


def test_a_site_with_mistakes_is_not_watched(folder: Path, tmp_path: Path) -> None:
    module = node(folder)

    def wrong() -> dict:
        raise CommandExecutionError("gateway:site: missing")

    module.WATCHED = tmp_path / "watched"
    module.__pillar__, module.__salt__["gateway.settings"] = {"gateway": {"nodes": {}}}, wrong
    assert module.watched("bonding") == {}


def test_several_minions_on_one_machine_have_files_of_their_own(tmp_path: Path) -> None:
    module = node(Path("/var/lib/gateway/events"))
    module.__opts__["root_dir"] = str(tmp_path)
    module.changed("bonding", DOWN)
    assert (tmp_path / "var/lib/gateway/events/journal").exists()


def test_validate_config(folder: Path) -> None:
    module = node(folder)
    assert module.validate_config([]) == (True, "valid")
    assert module.validate_config([{"interval": 5}, {"limit": 3}, {"_beacon_name": "x"}], ["limit"]) == (True, "valid")
    assert module.validate_config({})[1].startswith("the configuration must be a list")
    assert module.validate_config(["x"])[1] == "each entry of the configuration must be a mapping, and 'x' is none"
    assert module.validate_config([{"intervall": 5}])[1].startswith("no key 'intervall'; there are ")


# any conditions, in any order, across any restarts

TEXTS = st.text(max_size=6) | st.text(st.characters(categories=["Cs", "Lu", "Cc"]), max_size=400)
CONDITION = st.fixed_dictionaries(
    {"severity": st.sampled_from(["critical", "warning", "info"]), "was": TEXTS, "is": TEXTS})
CONDITIONS = st.dictionaries(
    st.builds("{}:{}".format, st.sampled_from(["slave_down", "bond_down"]), st.sampled_from(["a", "b", "ä:" * 300])),
    CONDITION, max_size=4)
LOOK = st.tuples(CONDITIONS, st.sampled_from(["goes on", "goes on", "restarted", "damaged"]))
# A failure is shown as hypothesis found it: shrinking it takes minutes.
QUICK = settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


@QUICK
@given(st.lists(LOOK, max_size=8), st.sampled_from(["journal", "bonding.told"]))
def test_each_change_once_and_each_recovery_once(looks: list, file: str) -> None:
    """This holds across damage to one of the two files, again and again."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "events"
        module, open_now, newest = node(folder), {}, 0
        for conditions, what in looks:
            if what == "damaged" and (folder / file).exists():
                os.truncate(folder / file, os.path.getsize(folder / file) // 2)
            if what != "goes on":
                module = node(folder)
            events = module.changed("bonding", conditions)
            for event in events:
                assert event["n"] == newest + 1
                newest += 1
                key = f"{event['condition']}:{event['subject']}"
                if event["recovered"]:
                    assert open_now.pop(key)[0] == event["was"]
                else:
                    assert open_now.get(key) != (event["is"], event["severity"])
                    open_now[key] = (event["is"], event["severity"])
            assert len(open_now) == len({each["subject"] + each["condition"] for each in module.conditions()})
            assert len(open_now) == len(conditions)
            assert module.changed("bonding", conditions) == []
            assert node(folder).changed("bonding", conditions) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | st.binary(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=20) | st.integers(), inner), max_leaves=60)


@QUICK
@given(facts=st.dictionaries(st.text(max_size=20), VALUES, max_size=8), long=st.text(min_size=1, max_size=3000))
def test_whatever_the_facts_an_event_is_plain_json_of_8_kib_at_most(facts: dict, long: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        module = node(Path(scratch) / "events")
        event, = module.changed("bonding", {f"a:{long}": {
            "severity": "info", "was": long, "is": long, "cause": long, "facts": facts | {"long": long * 5}}})
        text = json.dumps(event, allow_nan=False)
        assert len(text) <= 8192
        assert json.loads(text) == event
        text.encode("utf-8")
        json.dumps(event, ensure_ascii=False).encode("utf-8")
        kept, = module.since()["events"]
        assert kept == {key: value for key, value in event.items() if key != "tag"}


def test_a_long_text_is_cut_rather_than_left_out(folder: Path) -> None:
    facts = {"diff": "x" * 20000, "formula": "heartbeat"}
    event, = node(folder).changed("drift", {"file_changed:/etc/x": {
        "severity": "warning", "was": "a", "is": "b", "facts": facts}})
    assert event["facts"]["formula"] == "heartbeat"
    assert 6000 < len(event["facts"]["diff"]) < 8192 and event["facts"]["diff"].endswith("x…")


def test_the_master_knows_the_same_severities_in_the_same_order() -> None:
    """Two lists, as Salt's loader allows no import between them; the order is that of `alerts.incidents`."""
    assert load_module("_modules/gateway_events.py").SEVERITIES == authentic.SEVERITIES


def test_the_master_knows_the_same_roles() -> None:
    assert {*load_module("_modules/gateway_events.py").ROLES, "unknown"} == set(authentic.ROLES)
