"""Where a peer is called next, second by second, and what is told to the daemon."""
from __future__ import annotations

import json

import pytest

from peers import __main__ as command
from peers import daemon, settings
from peers.decide import AS_WRITTEN, Call, Caller
from peers.settings import Peer, Place

A, B, X, Y = "203.0.113.33", "203.0.113.65", "203.0.113.98", "203.0.113.99"
TUNNELS = {"aws/1": {"left": "127.0.0.1", "auto": "start"}, "aws/2": {"left": "127.0.0.1", "auto": "start"}}


def caller(*hosts: str, names: dict[str, list[str]] | None = None) -> Caller:
    """A peer with a patience of 15 s that is known by its addresses, or as @it where it has a name."""
    known = names if names is not None else {}
    places = tuple(Place(host, host if names is None else "@it") for host in hosts)
    return Caller(Peer("aws", "127.0.0.1", 15.0, places, TUNNELS), lambda host: list(known.get(host, [])))


def seen(its: Caller, *looks: tuple[float, bool]) -> list[tuple[float, str]]:
    """What is called when: at seconds at which this node serves, and whether a tunnel is up."""
    found = [(now, its.look(now, True, up)) for now, up in looks]
    return [(now, call.address) for now, call in found if call]


def test_the_second_address_is_called_when_the_first_does_not_answer_and_then_the_first_again():
    down = [(float(now), False) for now in range(60)]
    assert seen(caller(A, B), *down) == [(15, B), (30, A), (45, B)]


def test_each_address_has_its_own_identity():
    its = caller(A, B)
    assert [its.look(now, True, False) for now in (0, 15, 30)] == [None, Call(B, B), Call(A, A)]


def test_nobody_is_called_while_a_tunnel_is_up_and_the_first_comes_first_when_it_is_lost():
    looks = [(float(now), 20 <= now < 400) for now in range(420)]
    assert seen(caller(A, B), *looks) == [(15, B), (404, A), (419, B)]


def test_a_name_is_called_at_once_and_looked_up_again_when_the_peer_is_lost():
    names = {"home.example": [X]}
    its = caller("home.example", names=names)
    assert seen(its, (0, False), (1, True), (500, True)) == [(0, X)]
    names["home.example"] = [Y]
    assert seen(its, (504, False), (505, False), (506, True)) == [(505, Y)]


def test_a_peer_with_a_name_may_call_by_itself_in_between():
    """Its address may have changed before the name has: then the daemon must accept it from anywhere."""
    down = [(float(now), False) for now in range(46)]
    assert seen(caller("home.example", names={"home.example": [X]}), *down) == [(0, X), (15, ""), (30, X), (45, "")]


def test_a_name_that_is_not_known_is_looked_up_again_soon():
    names: dict[str, list[str]] = {}
    its = caller("home.example", names=names)
    assert seen(its, (0, False), (4, False)) == []
    names["home.example"] = [X]
    assert seen(its, (5, False)) == [(5, X)]


def test_a_name_beside_an_address_and_all_addresses_of_a_name():
    names = {"home.example": [X, Y]}
    down = [(float(now), False) for now in range(0, 76, 15)]
    assert seen(caller("home.example", A, names=names), *down) == [(0, X), (15, Y), (30, A), (45, ""), (60, X), (75, Y)]
    assert seen(caller(A, "home.example", names=names), *down[:4]) == [(15, X), (30, Y), (45, A)]


def test_the_standby_calls_nobody_and_has_again_what_is_written():
    its = caller(A, B)
    assert seen(its, (0, False), (15, False), (16, True)) == [(15, B)]
    assert its.look(17, False, False) == AS_WRITTEN
    assert its.look(18, False, False) is None
    assert seen(its, (20, False), (34, False), (35, False)) == [(35, B)]


GIVEN = [{"name": "aws", "local": "127.0.0.1", "patience": 15, "tunnels": TUNNELS,
          "places": [{"host": A, "id": A}, {"host": B, "id": B}]}]


@pytest.mark.parametrize("change", [
    {"tunnels": {"aws\nconn evil": {}}}, {"tunnels": {"aws": {"left": "1\n    also=x"}}}, {"places": [{"host": A}]},
    {"places": [{"host": "$(reboot)", "id": A}]}, {"places": [{"host": A, "id": 'x"\n'}]}, {"patience": "long"},
    {"name": 5}, {"places": [{"host": "--service", "id": A}]},
])
def test_settings_that_would_break_a_file_are_refused_in_one_line(tmp_path, capsys, change):
    file = tmp_path / "peers.json"
    file.write_text(json.dumps(GIVEN))
    assert command.main(["check", str(file)]) == 0
    file.write_text(json.dumps([GIVEN[0] | change]))
    assert command.main(["check", str(file)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert command.main([]) == 1 and command.main(["chek"]) == 2      # no such file here; and no such command


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The daemon's commands as scripts that note how they are called; `.up` is what --trafficstatus prints."""
    log, up = tmp_path / "log", tmp_path / "up"
    up.write_text("")
    for name in ("whack", "addconn"):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\n[ "$1" != --trafficstatus ] || exec cat {up}\necho {name} "$@" >>{log}\n'
                          f'[ "$2" != {tmp_path}/aws_1.conf ] || cp {tmp_path}/aws_1.conf {tmp_path}/loaded\n')
        script.chmod(0o755)
        monkeypatch.setattr(daemon, name.upper(), str(script))
    monkeypatch.setattr(daemon, "FOLDER", tmp_path)
    return lambda: log.read_text().splitlines() if log.exists() else [], up, tmp_path


def test_what_the_daemon_is_told(told):
    lines, up, folder = told
    callers = [Caller(peer, daemon.lookup(4)) for peer in settings.parse(json.dumps(GIVEN))]
    for now in (0, 14, 15):
        daemon.look(callers, now)
    assert lines() == [f"addconn --config {folder}/aws_1.conf aws/1", "whack --asynchronous --initiate --name aws/1",
                       f"addconn --config {folder}/aws_2.conf aws/2", "whack --asynchronous --initiate --name aws/2"]
    assert (folder / "loaded").read_text().splitlines() == [
        "conn aws/1", "    left=127.0.0.1", "    auto=start", f"    right={B}", f"    rightid={B}"]
    assert (folder / "aws_1.conf").stat().st_mode & 0o777 == 0o600
    up.write_text(f'#4: "aws/2"[1] {B}, type=ESP, add_time=1, inBytes=0, outBytes=0\n')
    for now in range(20, 100, 2):
        daemon.look(callers, now)
    assert len(lines()) == 4


def test_a_node_without_the_address_asks_nobody(told):
    lines, _up, _folder = told
    elsewhere = [GIVEN[0] | {"local": "192.0.2.254"}]
    callers = [Caller(peer, daemon.lookup(4)) for peer in settings.parse(json.dumps(elsewhere))]
    for now in range(0, 60, 5):
        daemon.look(callers, now)
    assert lines() == []


def test_a_daemon_that_hangs_is_waited_for(told, monkeypatch):
    lines, _up, folder = told
    (folder / "whack").write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(daemon.run, "__kwdefaults__", {"limit": 0.2})
    callers = [Caller(peer, daemon.lookup(4)) for peer in settings.parse(json.dumps(GIVEN))]
    for now in (0, 20, 40):
        daemon.look(callers, now)
    assert lines() == []


def test_names_are_looked_up_as_the_host_does(monkeypatch):
    assert daemon.lookup(4)("203.0.113.7") == ["203.0.113.7"]
    assert daemon.lookup(6)("2001:db8::7") == ["2001:db8::7"]
    assert daemon.lookup(4)("localhost") == []                 # nobody is called there
    assert daemon.lookup(4)("no-such-name.invalid") == []
    assert daemon.holds("127.0.0.1") and not daemon.holds("192.0.2.254")


def test_the_loop_ends_where_it_is_told(told):
    waits: list[float] = []
    daemon.serve(settings.parse(json.dumps(GIVEN)), rounds=2, wait=waits.append)
    assert waits == [daemon.LOOK_SECONDS] * 2
