"""One cause makes one alert, one more when it becomes more severe, one at its end; a flapping condition has its own."""
from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts import message
from alerts.authentic import Event, within
from alerts.incident import Alert, Settings
from alerts.incidents import JOIN, MAX_LINES_OF_NODE, MAX_REMEMBERED_OF_NODE, IncidentMachine
from tests.unit.alerts.events import T, made


def run(machine: IncidentMachine, *steps: tuple) -> list[tuple[float, str, str, int]]:
    """Feeds (time, event) in, with ticks in between, as a clock would. Returns (time, kind, severity, lines)."""
    out, todo = [], sorted(steps, key=lambda step: step[0])
    for step in range(int(todo[-1][0] * 20) + 10):
        now = T + step / 20 + 1e-4
        while todo and T + todo[0][0] <= now:
            out += machine.take(T + todo[0][0], todo.pop(0)[1])
        out += machine.tick(now)
    return [(round(alert.at - T, 2), alert.kind, alert.severity, len(alert.lines)) for alert in out]


def test_what_comes_together_is_one_alert():
    told = run(IncidentMachine(), (0, made(1)), (0.05, made(2, subject="bond0/eth2")),
               (0.1, made(1, minion="gw2.winterthur", condition="link_dead", beacon="heartbeat")))
    assert told == [(0.15, "alert", "warning", 3)]


def test_two_sites_are_two_alerts():
    told = run(IncidentMachine(), (0, made(1)), (0, made(1, minion="gw-a.bern")))
    assert [kind for _, kind, _, _ in told] == ["alert", "alert"]


def test_what_follows_joins_silently_unless_it_is_worse():
    told = run(IncidentMachine(), (0, made(1)), (5, made(2, subject="bond0/eth2")),
               (10, made(3, condition="bond_down", severity="critical")),
               (12, made(4, subject="x", severity="critical")))
    assert told == [(0.15, "alert", "warning", 1), (10.15, "escalation", "critical", 3)]


def test_what_joined_and_stays_is_told_later():
    told = run(IncidentMachine(), (0, made(1)), (1, made(2, subject="bond0/eth2")),
               (2, made(3, subject="c", severity="info")), (3, made(4, subject="d")),
               (9, made(5, subject="d", recovered=True)), (40, made(9, minion="gw-a.bern")))
    assert told[:2] == [(0.15, "alert", "warning", 1), (31.0, "update", "warning", 4)]


def test_a_second_critical_one_does_not_wait_that_long():
    machine = IncidentMachine()
    told = run(machine, (0, made(1, severity="critical")), (1, made(2, condition="none_active", severity="critical")),
               (20, made(9, minion="gw-a.bern")))
    assert told[:2] == [(0.15, "alert", "critical", 1), (11.0, "update", "critical", 2)]
    machine.take(T + 21, made(3, condition="none_active", severity="critical", now="x"))
    assert not [alert for alert in machine.tick(T + 80) if alert.kind == "update"]


def test_after_half_a_minute_it_is_another_incident():
    told = run(IncidentMachine(), (0, made(1)), (JOIN + 1, made(2, subject="bond1/eth3")))
    assert [kind for _, kind, _, _ in told] == ["alert", "alert"]


def test_the_end_is_told_when_all_is_over():
    told = run(IncidentMachine(), (0, made(1)), (1, made(2, subject="bond0/eth2")), (3, made(3, recovered=True)),
               (40, made(4, subject="bond0/eth2", recovered=True)))
    assert told == [(0.15, "alert", "warning", 1), (31.0, "update", "warning", 2), (40.0, "recovery", "warning", 2)]


def test_what_is_over_before_it_was_told_is_told_with_its_end():
    machine = IncidentMachine()
    told = run(machine, (0, made(1)), (0.05, made(2, recovered=True)), (1, made(3, recovered=True)))
    assert told == [(0.15, "alert", "warning", 1)] and not machine.incidents


def test_what_only_happened_has_no_end():
    machine = IncidentMachine()
    told = run(machine, (0, made(1, condition="slave_flapped", once=True)), (JOIN + 2, made(2, recovered=True)))
    assert told == [(0.15, "alert", "warning", 1)] and not machine.incidents


@pytest.mark.parametrize("severity", ["critical", "info"])
@pytest.mark.parametrize("back", [3, 25])
def test_a_role_that_moves_back_is_told_too(severity, back):
    """Within half a minute it joined without an alert, so the last alert named the wrong role."""
    def moved(second: int, number: int, minion: str, now: str) -> tuple[int, Event]:
        return second, made(number, minion=minion, condition="role_changed", severity=severity, once=True, now=now,
                            at=f"2024-05-01T10:00:{second:02}.100Z")

    machine, told = IncidentMachine(), []
    steps = [moved(0, 1, "gw2.winterthur", "active"), moved(1, 1, "gw1.winterthur", "standby"),
             moved(back, 2, "gw1.winterthur", "active"), moved(back + 1, 2, "gw2.winterthur", "standby")]
    for tenth in range(600):
        now = T + tenth / 10
        for at, event in steps:
            told += machine.take(now, event) if at == tenth / 10 else []
        told += machine.tick(now)
    assert [(alert.kind, [line["is"] for line in alert.lines]) for alert in told] == [
        ("alert", ["active"]), ("update", ["active", "standby"])]
    assert told[1].lines[0]["id"] == "gw1.winterthur" and round(told[1].at - T) == back + 10
    assert not machine.incidents


def test_a_condition_that_grows_worse_is_told_again():
    told = run(IncidentMachine(), (0, made(1, severity="warning")), (100, made(2, severity="critical")),
               (200, made(3, severity="warning")))
    assert told == [(0.15, "alert", "warning", 1), (100.15, "escalation", "critical", 1)]


def test_it_begins_again_after_its_end():
    told = run(IncidentMachine(), (0, made(1)), (5, made(2, recovered=True)), (8, made(3)),
               (10, made(4, recovered=True)))
    assert [kind for _, kind, _, _ in told] == ["alert", "recovery", "alert", "recovery"]


def test_the_update_names_what_is_new_first():
    machine = IncidentMachine()
    machine.take(T, made(1, severity="critical"))
    machine.tick(T + 1)
    machine.take(T + 2, made(2, subject="new"))
    (alert,) = machine.tick(T + 40)
    assert [line["subject"] for line in alert.lines] == ["new", "bond0/eth1"]


def test_a_late_event_does_not_undo_a_later_one():
    machine = IncidentMachine()
    assert run(machine, (0, made(2, recovered=True)), (0.1, made(1))) == []
    assert not machine.incidents


def test_what_comes_and_goes_is_one_notice_and_one_calm_again():
    machine = IncidentMachine(Settings(times=3, minutes=1))
    steps, number = [], 0
    for second in range(0, 40, 4):
        number += 1
        steps.append((second, made(number)))
        number += 1
        steps.append((second + 2, made(number, recovered=True)))
    told = run(machine, *steps, (110, made(900, minion="gw-a.bern", recovered=True)))
    assert [kind for _, kind, _, _ in told] == ["alert", "recovery"] * 3 + ["flapping", "calm"]
    assert 98 <= told[-1][0] <= 99
    assert not machine.incidents


def test_calm_again_and_still_down_stays_open():
    machine = IncidentMachine(Settings(times=1, minutes=1))
    told = run(machine, (0, made(1)), (1, made(2, recovered=True)), (2, made(3)), (70, made(4, recovered=True)))
    assert [kind for _, kind, _, _ in told] == ["alert", "recovery", "flapping", "calm", "recovery"]


def test_what_happens_again_and_again_is_flapping_too():
    machine = IncidentMachine(Settings(times=2, minutes=1))
    told = run(machine, *[(second, made(second + 1, once=True)) for second in range(0, 20, 2)], (90, made(99)))
    assert [kind for _, kind, _, _ in told][:3] == ["alert", "flapping", "calm"]


def test_quiet_is_remembered_and_its_end_is_told():
    machine = IncidentMachine()
    assert machine.take(T, made(1), quiet=True) == [] and machine.tick(T + 5) == []
    assert [alert.kind for alert in machine.take(T + 9, made(2, recovered=True))] == ["recovery"]
    machine.take(T + 20, made(3), quiet=True)
    assert machine.take(T + 21, made(4, recovered=True), quiet=True) == [] and not machine.incidents


def test_a_silenced_site_is_told_about_what_is_left():
    machine = IncidentMachine()
    machine.silences = {"winterthur": T + 60}
    told = run(machine, (0, made(1)), (5, made(2, subject="bond0/eth2")),
               (10, made(3, subject="bond0/eth2", recovered=True)), (1, made(1, minion="gw-a.bern")),
               (70, made(9, minion="gw-a.bern", recovered=True)))
    assert told == [(1.15, "alert", "warning", 1), (60.0, "alert", "warning", 2), (70.0, "recovery", "warning", 1)]


def test_what_came_and_went_in_silence_is_not_told():
    machine = IncidentMachine()
    machine.silences = {"winterthur": T + 60}
    assert run(machine, (0, made(1)), (5, made(2, recovered=True)), (70, made(3, recovered=True))) == []
    assert not machine.incidents


def in_silence(machine: IncidentMachine, *steps: tuple, until: float = 60) -> list[tuple[float, str, str, list[str]]]:
    """As :func:`run`, with a silence from second 1 on; (time, kind, severity, subjects that are named)."""
    out: list[Alert] = []
    for step in range(int(max(until, steps[-1][0]) + 40)):
        if step == 1:
            machine.silences = {"winterthur": T + until}
        for at, event in steps:
            if step <= at < step + 1:
                out += machine.take(T + at, event)
        out += machine.tick(T + step + 0.9)
    return [(round(alert.at - T), alert.kind, alert.severity, [line["subject"] for line in alert.lines])
            for alert in out]


def test_the_end_of_what_was_told_before_a_silence_is_told_at_once():
    told = in_silence(IncidentMachine(), (0, made(1)), (20, made(2, recovered=True)))
    assert told == [(1, "alert", "warning", ["bond0/eth1"]), (20, "recovery", "warning", ["bond0/eth1"])]


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_the_end_of_what_a_silence_kept_from_people_is_not_told(severity):
    """A recovery named what nobody had been told of, as severe as nobody knew, so that it reached others."""
    told = in_silence(IncidentMachine(), (0, made(1)), (5, made(2, subject="bond0/eth2", severity=severity)),
                      (30, made(3, subject="bond0/eth2", recovered=True)), (40, made(4, recovered=True)))
    assert told == [(1, "alert", "warning", ["bond0/eth1"]), (40, "recovery", "warning", ["bond0/eth1"])]


def test_what_a_silence_kept_from_people_and_lasts_is_told_and_so_is_its_end():
    told = in_silence(IncidentMachine(), (0, made(1)), (5, made(2, subject="bond0/eth2", severity="critical")),
                      (70, made(3, subject="bond0/eth2", recovered=True)), (80, made(4, recovered=True)))
    assert [each[:3] for each in told] == [
        (1, "alert", "warning"), (61, "escalation", "critical"), (80, "recovery", "critical")]
    assert sorted(told[2][3]) == ["bond0/eth1", "bond0/eth2"]


def test_what_was_told_and_begins_again_in_a_silence_is_among_what_is_over():
    told = in_silence(IncidentMachine(), (0, made(1)), (0, made(2, subject="bond0/eth2")),
                      (5, made(3, recovered=True)), (10, made(4)), (20, made(5, subject="bond0/eth2", recovered=True)),
                      (30, made(6, recovered=True)))
    assert [each[:2] for each in told] == [(1, "alert"), (30, "recovery")]
    assert sorted(told[1][3]) == ["bond0/eth1", "bond0/eth2"]


@pytest.mark.parametrize("events", [
    [(5, made(1)), (5.1, made(2, recovered=True))], [(5, made(1, condition="slave_flapped", once=True))],
    [(5, made(1, condition="slave_flapped", once=True)), (9, made(2, condition="slave_flapped", once=True))]])
def test_what_began_and_ended_in_a_silence_is_told_nobody_however_short_it_was(events):
    machine = IncidentMachine()
    assert in_silence(machine, *events) == [] and not machine.incidents


def many_times(times: int, first: int = 2) -> list[tuple[float, Event]]:
    return [(first + number, made(first + number, recovered=number % 2 == 1)) for number in range(2 * times)]


def test_what_flaps_in_a_silence_only_is_told_nobody():
    """Its calm was told, of which nobody had heard that it flapped."""
    machine = IncidentMachine(Settings(times=4, minutes=0.5))
    assert in_silence(machine, *many_times(6)) == [] and not machine.incidents


def test_what_still_flaps_after_a_silence_is_told_then_and_so_is_its_calm():
    machine = IncidentMachine(Settings(times=4, minutes=0.5))
    told = in_silence(machine, *many_times(7), until=30)
    assert [each[:2] for each in told] == [(31, "flapping"), (46, "calm")] and not machine.incidents


def test_what_was_told_and_then_flaps_in_a_silence_is_told_to_be_over():
    """Another condition of the incident lasts, so the incident is the same; what flaps was told before it did."""
    machine = IncidentMachine(Settings(times=4, minutes=0.5))
    told = in_silence(machine, (0, made(1)), (0, made(90, subject="bond0/eth2")), *many_times(6, 3),
                      (20, made(91, subject="bond0/eth2", recovered=True)), until=90)
    assert [each[:2] for each in told] == [(1, "alert"), (45, "recovery")]
    assert sorted(told[1][3]) == ["bond0/eth1", "bond0/eth2"]


def test_what_a_silence_keeps_from_people_is_kept_over_a_restart_too():
    machine, told = IncidentMachine(), []
    told += machine.take(T, made(1)) + machine.tick(T + 1)
    machine.silences = {"winterthur": T + 60}
    told += machine.take(T + 2, made(2, subject="bond0/eth2")) + machine.tick(T + 40)
    again = IncidentMachine()
    again.restore(json.loads(json.dumps(machine.state())))
    again.silences = {"winterthur": T + 60}
    told += again.take(T + 41, made(3, subject="bond0/eth2", recovered=True))
    told += again.take(T + 42, made(4, recovered=True))
    assert [(each.kind, [line["subject"] for line in each.lines]) for each in told] == [
        ("alert", ["bond0/eth1"]), ("recovery", ["bond0/eth1"])]


def test_what_the_node_does_not_say_any_more_is_over():
    machine = IncidentMachine()
    run(machine, (0, made(1)), (0, made(2, subject="bond0/eth2")), (0, made(1, minion="gw2.winterthur")))
    machine.present(T + 50, "gw1.winterthur", [(made(1), False)], asked=T + 49)
    left = [line["subject"] for each in machine.incidents.values() for line in each.lines.values() if line["open"]]
    assert left == ["bond0/eth1", "bond0/eth1"]
    assert machine.present(T + 51, "gw1.winterthur", [], asked=T - 1) == []      # asked before it began
    machine.present(T + 51, "gw1.winterthur", [], asked=T + 50)
    told = machine.present(T + 52, "gw2.winterthur", [], asked=T + 51)
    assert [alert.kind for alert in told] == ["recovery"]


def test_what_the_node_says_and_nobody_told_is_told():
    machine = IncidentMachine()
    machine.present(T, "gw1.winterthur", [(made(7), False)], asked=T)
    assert [alert.kind for alert in machine.tick(T + 1)] == ["alert"]


def test_many_conditions_stay_one_readable_incident():
    machine = IncidentMachine()
    for number in range(1, 400):
        machine.take(T, made(number, subject=f"x{number}"))
    (alert,) = machine.tick(T + 1)
    assert len(alert.lines) == 100 and alert.more == 299


def flood(machine: IncidentMachine, minion: str, seconds: int, severity: str = "critical", text: str = "\U0001f600",
          ) -> list[Alert]:
    """What a node may send: ten events a second, each as large as its limits allow, each of another condition."""
    alerts, long = [], within(text * 100, 1000)
    for number in range(seconds * 10):
        event = made(number + 1, minion=minion, subject=within(f"{number}{text * 30}", 300), severity=severity,
                     now=long, was=long, cause=long)
        alerts += machine.take(T + number / 10, event) + machine.tick(T + number / 10 + 0.05)
    return alerts


def test_what_one_node_says_is_bounded_in_bytes_and_nothing_critical_goes_uncounted():
    """After 1,000 s at the permitted rate the state had 22.8 MB, and one alert 722 KB."""
    machine = IncidentMachine()
    alerts = flood(machine, "gw1.winterthur", 100)
    assert len(json.dumps(machine.state())) < 300_000
    assert max(len(json.dumps(message.compose(alert))) for alert in alerts) < 200_000
    most = max(alerts, key=lambda alert: alert.severe)
    assert most.severe > 500 and " of them critical" in message.compose(most)["text"]
    seen = sum(len(of) for of in machine._newest.values())
    assert seen <= MAX_REMEMBERED_OF_NODE


def test_a_flood_of_one_node_hides_nothing_of_another_one():
    machine = IncidentMachine()
    machine.take(T, made(1, minion="gw2.winterthur", subject="mine"))
    flood(machine, "gw1.winterthur", 60)
    machine.take(T + 60, made(2, minion="gw2.winterthur", subject="later", severity="info"))
    machine.take(T + 61, made(1, minion="gw1.bern", subject="far"))
    subjects = [line["subject"] for each in machine.incidents.values() for line in each.lines.values()]
    assert {"mine", "later", "far"} <= set(subjects)


def test_the_least_severe_gives_way_and_then_what_was_told_already():
    machine = IncidentMachine()
    for number in range(MAX_LINES_OF_NODE):
        machine.take(T, made(number + 1, subject=f"{number}", severity="info" if number < 2 else "warning"))
    machine.take(T, made(200, subject="worse", severity="critical"))
    machine.take(T, made(201, subject="lesser", severity="info"))
    (alert,) = machine.tick(T + 1)
    subjects = [line["subject"] for line in alert.lines]
    assert subjects[0] == "worse" and "0" not in subjects and "lesser" not in subjects and alert.more == 2
    machine.take(T + 2, made(202, subject="new"))
    machine.take(T + 2, made(203, subject="newer"))
    (incident,) = machine.incidents.values()
    subjects = [line["subject"] for line in incident.lines.values()]
    assert "1" not in subjects and "2" not in subjects and {"new", "newer", "worse"} <= set(subjects)
    assert incident.more == 4 and incident.severe == 0


def test_a_critical_one_that_is_only_counted_is_told_a_minute_later():
    machine = IncidentMachine()
    for number in range(MAX_LINES_OF_NODE):
        machine.take(T, made(number + 1, subject=f"{number}", severity="critical"))
    machine.tick(T + 1)
    for number in range(MAX_LINES_OF_NODE):
        machine.take(T + 2, made(number + 200, subject=f"new{number}", severity="critical"))
    machine.take(T + 2, made(900, subject="one more", severity="critical"))
    machine.take(T + 3, made(901, subject="one more", severity="critical", now="still"))
    told = [alert for second in range(4, 90) for alert in machine.tick(T + second)]
    assert told[-1].kind == "update" and (told[-1].more, told[-1].severe) == (101, 101)
    assert "101 of them critical" in message.compose(told[0])["text"] or told[0].more


def test_what_was_only_counted_is_asked_for_when_the_incident_ends():
    machine = IncidentMachine()
    for number in range(MAX_LINES_OF_NODE + 1):
        machine.take(T, made(number + 1, subject=f"{number}", severity="critical"))
    machine.tick(T + 1)
    for number in range(MAX_LINES_OF_NODE):
        machine.take(T + 2, made(number + 200, subject=f"{number}", severity="critical", recovered=True))
    assert machine.unsure == {"gw1.winterthur"} and not machine.incidents
    last = made(MAX_LINES_OF_NODE + 1, subject=f"{MAX_LINES_OF_NODE}", severity="critical")
    machine.present(T + 3, "gw1.winterthur", [(last, False)], asked=T + 3)
    assert [alert.lines[0]["subject"] for alert in machine.tick(T + 4)] == [f"{MAX_LINES_OF_NODE}"]


def test_facts_are_not_kept():
    machine = IncidentMachine()
    machine.take(T, made(1)._replace(facts={"diff": "secret"}))
    (alert,) = machine.tick(T + 1)
    assert "secret" not in json.dumps(machine.state()) + json.dumps(message.compose(alert))


def test_the_large_state_of_an_earlier_tree_is_brought_within_the_limits():
    machine = IncidentMachine()
    lines = {}
    for number in range(300):
        machine.take(T, made(1, subject=f"{number}", severity="critical" if number == 7 else "warning"))
        lines |= next(iter(machine.incidents.values())).lines
        machine.incidents, machine._of = {}, {}
    for line in lines.values():
        line["facts"] = {"diff": "x" * 2000}
    incident = {"id": "a", "site": "winterthur", "opened": T, "severity": "critical", "lines": lines, "due": None,
                "told": 1, "more": 3, "held": False, "update": False}
    machine.restore({"incidents": [incident], "flaps": {}, "raised": {
        f"gw1.winterthur|bonding|slave_down|{number}": [T] for number in range(6000)}})
    assert len(json.dumps(machine.state())) < 150_000
    (its,) = machine.incidents.values()
    assert its.more + len(its.lines) == 303 and any(line["subject"] == "7" for line in its.lines.values())


def test_a_list_without_several_conditions_of_one_incident_ends_them_all():
    """The second of them was looked up in an incident that had just ended."""
    machine = IncidentMachine()
    run(machine, (0, made(1)), (0, made(2, subject="b")), (1, made(3, subject="b", recovered=True)))
    assert [alert.kind for alert in machine.present(T + 9, "gw1.winterthur", [], asked=T + 8)] == ["recovery"]


@pytest.mark.parametrize("when", range(0, 9))
def test_a_restart_changes_nothing(when):
    """Stopped at any point and continued from the saved state: the alerts are the same."""
    steps = [(0, made(1)), (0.1, made(2, subject="b")), (3, made(3, subject="c", severity="critical")),
             (5, made(4, recovered=True)), (6, made(5)), (8, made(6, recovered=True)),
             (9, made(7, subject="b", recovered=True)),
             (12, made(8, subject="c", recovered=True)), (50, made(9))]
    machine = IncidentMachine(Settings(times=2, minutes=1))
    whole = [(kind, severity) for _, kind, severity, _ in run(machine, *steps)]
    first, second, told = IncidentMachine(Settings(2, 1)), IncidentMachine(Settings(2, 1)), []
    for number, (at, event) in enumerate(steps):
        machine = first if number < when else second
        if number == when:
            second.restore(json.loads(json.dumps(first.state())))
        told += machine.tick(T + at) + machine.take(T + at, event) + machine.tick(T + at + 0.01)
        if number + 1 == len(steps) or steps[number + 1][0] - at > 0.5:
            told += machine.tick(T + at + 0.2)
    assert [(alert.kind, alert.severity) for alert in told] == whole


def test_an_incident_in_which_something_still_flaps_is_not_closed_by_what_it_tells():
    """The engine ended with a KeyError when the flapping condition came again."""
    machine, now = IncidentMachine(Settings(times=2, minutes=1)), T
    for number, (subject, recovered, once, pause) in enumerate([
            ("a", False, False, 1.0), ("a", False, False, 1.0), ("b", False, False, 1.0), ("a", False, False, 0.0),
            ("a", True, False, 0.0), ("b", False, True, 40.0)], 1):
        now += pause
        machine.tick(now)
        severity = "critical" if number == 2 else "warning" if number in (4, 6) else "info"
        machine.take(now, made(number, subject=subject, severity=severity, recovered=recovered, once=once))
    assert [alert.kind for alert in machine.tick(now + 1)] and [alert.kind for alert in machine.tick(now + 1 + JOIN)]
    assert not machine._flaps


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["info", "warning", "critical"]), st.booleans(),
                          st.booleans(), st.sampled_from([0.0, 0.05, 1.0, 40.0])), max_size=30))
def test_nothing_wrong_is_left_untold(history):
    """Whatever comes: what is open at the end was alerted, and no alert is empty."""
    machine, now, alerts = IncidentMachine(Settings(times=2, minutes=1)), T, []
    for number, (subject, severity, recovered, once, pause) in enumerate(history, 1):
        now += pause
        event = made(number, subject=subject, severity=severity, recovered=recovered and not once, once=once)
        alerts += machine.tick(now) + machine.take(now, event)
        machine.restore(json.loads(json.dumps(machine.state())))
    alerts += machine.tick(now + 1)
    told = {line["subject"] for alert in alerts for line in alert.lines}
    for incident in machine.incidents.values():
        assert incident.told
        for line in incident.lines.values():
            assert not line["open"] or line["subject"] in told or incident.told
    alerts += machine.tick(now + 1 + JOIN)
    assert all(line["told"] or line["severity"] == "info" or not line["open"]
               for incident in machine.incidents.values() for line in incident.lines.values()
               if not machine._flaps_in(incident))
    assert all(alert.lines for alert in alerts)
    assert len({alert.id for alert in alerts}) == len(alerts)
    assert set(machine._of.values()) <= set(machine.incidents)
