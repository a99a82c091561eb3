"""What is in the queue survives any crash, and is there only once."""
from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time

from alerts import spool as spools
from alerts.spool import Spool
from tests.conftest import TREE


def alert(number: int, severity: str = "warning", site: str = "winterthur") -> dict:
    return {"id": f"a{number}", "kind": "alert", "site": site, "severity": severity, "at": 1000.0 + number,
            "incident": "", "subject": f"subject {number}", "text": "", "conditions": []}


def ids(spool: Spool, target: str) -> list[str]:
    return [each["id"] for each in spool.waiting(target).values()]


def test_what_waits_is_there_again(tmp_path):
    one = Spool(tmp_path / "q/queue")
    one.add([(alert(1), ["mail", "log"]), (alert(2), ["mail"])])
    one.done("log", list(one.waiting("log")))
    again = Spool(tmp_path / "q/queue")
    assert ids(again, "mail") == ["a1", "a2"] and ids(again, "log") == [] and again.counts() == {"mail": 2}
    assert stat.S_IMODE((tmp_path / "q/queue").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "q").stat().st_mode) == 0o700


def test_an_alert_that_was_there_is_not_there_again(tmp_path):
    one = Spool(tmp_path / "queue")
    one.add([(alert(1), ["mail"])])
    one.done("mail", list(one.waiting("mail")))
    for spool in (one, Spool(tmp_path / "queue"), Spool(tmp_path / "queue")):
        spool.add([(alert(1), ["mail"])])
        assert ids(spool, "mail") == []


def test_a_line_that_was_cut_off_costs_that_line(tmp_path):
    one = Spool(tmp_path / "queue")
    one.add([(alert(1), ["mail"]), (alert(2), ["mail"])])
    data = (tmp_path / "queue").read_bytes()
    for cut in range(1, len(data), 31):
        (tmp_path / "queue").write_bytes(data[:-cut])
        left = ids(Spool(tmp_path / "queue"), "mail")
        assert left in (["a1", "a2"], ["a1"], [])
    (tmp_path / "queue").write_bytes(data + b'{"add": 9, "to": 7}\n[]\n\xff\xfe\n' + b'"x"\n')
    assert ids(Spool(tmp_path / "queue"), "mail") == ["a1", "a2"]


def test_the_file_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "COMPACT_BYTES", 2000)
    one = Spool(tmp_path / "queue")
    for number in range(60):
        one.add([(alert(number), ["mail"])])
        one.done("mail", list(one.waiting("mail")))
    one.add([(alert(999), ["mail"])])
    assert (tmp_path / "queue").stat().st_size < 9_000
    assert ids(Spool(tmp_path / "queue"), "mail") == ["a999"]


def test_too_much_becomes_a_digest_of_the_oldest_and_least_severe(tmp_path):
    one = Spool(tmp_path / "queue", most=100)
    one.add([(alert(number, "info" if number % 2 else "critical"), ["mail"]) for number in range(140)])
    for spool in (one, Spool(tmp_path / "queue", most=100)):
        waiting = list(spool.waiting("mail").values())
        assert len(waiting) <= 140 - 9
        digest = waiting[0] if spool is one else next(each for each in waiting if each["kind"] == "digest")
        assert [entry["subject"] for entry in digest["digest"]][:3] == ["subject 1", "subject 3", "subject 5"]
        assert sum(each.get("count", 1) for each in waiting) == 140


def test_too_many_bytes_become_a_digest_too(tmp_path, monkeypatch):
    """5,000 messages could wait, whatever their size: half a gigabyte at 100 KB each."""
    monkeypatch.setattr(spools.os, "fsync", lambda _handle: None)
    monkeypatch.setattr(spools, "COMPACT_BYTES", 100_000)
    one = Spool(tmp_path / "queue", most_bytes=400_000)
    for number in range(300):
        large = alert(number, "warning" if number % 50 else "critical") | {"text": "x" * 10_000}
        one.add([(large, ["mail", "log"])])
    for spool in (one, Spool(tmp_path / "queue", most_bytes=400_000)):
        waiting = list(spool.waiting("mail").values())
        assert len(json.dumps(waiting)) <= 410_000
        assert sum(each.get("count", 1) for each in waiting) == 300
        assert [each["id"] for each in waiting if each["severity"] == "critical"] == [
            f"a{number}" for number in range(0, 300, 50)], "the least severe gave way"
    assert (tmp_path / "queue").stat().st_size < 1_500_000, "the file does not keep what is in the digest"


def test_a_digest_that_waits_names_the_most_severe_and_counts_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(spools.os, "fsync", lambda _handle: None)
    one = Spool(tmp_path / "queue", most=10)
    for number in range(2000):
        one.add([(alert(number, "critical" if number < 5 else "warning"), ["mail"])])
    one.add([(alert(number, "critical"), ["mail"]) for number in range(3000, 3100)])
    waiting = list(one.waiting("mail").values())
    assert len(waiting) <= 10 and sum(each.get("count", 1) for each in waiting) == 2100
    entries, count, critical = spools.joined(waiting)
    assert (count, critical) == (2100, 105)
    assert sum(entry["severity"] == "critical" for entry in entries) == 105, "no critical one is only counted"
    assert len(json.dumps(waiting)) < 1_000_000


def test_targets_that_are_gone_are_forgotten(tmp_path):
    one = Spool(tmp_path / "queue")
    one.add([(alert(1), ["mail", "old"])])
    assert one.keep_only({"mail"}) == ["old"]
    assert Spool(tmp_path / "queue").counts() == {"mail": 1}


def test_kill_9_at_any_moment_loses_nothing(tmp_path):
    """A process adds, delivers and prints each step. What it printed before it was killed is true afterwards."""
    script = f"""
import sys, time
sys.path.insert(0, {str(TREE)!r})
from pathlib import Path
from alerts import spool as spools
alert = lambda number: {{"id": f"a{{number}}", "severity": "info"}}
spools.COMPACT_BYTES = 3000
one = spools.Spool(Path({str(tmp_path / 'queue')!r}))
start = int(sys.argv[1])
for number in range(start, start + 100000):
    one.add([(alert(number), ["mail", "log"])])
    print("added", number, flush=True)
    one.done("log", list(one.waiting("log")))
    if number % 3 == 0:
        first = next(iter(one.waiting("mail").items()))
        print("done", first[1]["id"], flush=True)
        one.done("mail", [first[0]])
"""
    added, done = set(), set()
    for turn, pause in enumerate((0.01, 0.08)):
        child = subprocess.Popen([sys.executable, "-c", script, str(turn * 1_000_000)], stdout=subprocess.PIPE,
                                 text=True)
        first = child.stdout.readline()
        time.sleep(pause)
        os.kill(child.pid, signal.SIGKILL)
        for line in [first, *child.stdout.read().splitlines()]:
            word, *rest = line.split()
            if rest and word == "added":
                added.add(f"a{rest[0]}")
            elif rest and word == "done":
                done.add(rest[0])
        child.wait()
    left = set(ids(Spool(tmp_path / "queue"), "mail"))
    assert len(added) > 3
    assert added - done - left == set()
    assert len(done & left) <= 2        # printed, and killed before it was written
    assert json.loads((tmp_path / "queue").read_bytes().splitlines()[0])["ids"]
