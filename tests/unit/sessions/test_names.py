"""Whose tunnel it is, from the daemon's own words. Recorded with Libreswan 5.2 (Debian 13) in the lab."""
from __future__ import annotations

import stat
import time

import pytest

from sessions import names
from sessions.names import Name, Names

SAID = """\
006 #4: "roadwarrior"[1] 203.0.113.5, type=ESP, add_time=1795467000, inBytes=168, outBytes=168, maxBytes=2^63B, \
id='CN=road1.example', lease=198.51.100.192/32
006 #6: "roadwarrior-anna"[2] 203.0.113.5, type=ESP, add_time=1795467002, inBytes=0, outBytes=0, maxBytes=2^63B, \
id='C=CH, O=it's, CN=anna', lease=198.51.100.193/32
006 #9: "bern", type=ESP, add_time=1795466001, inBytes=84, outBytes=84, maxBytes=2^63B, id='@gateway.bern.example'
006 #2: "site-plain"[1] 203.0.113.13, type=ESP, add_time=1795466000, inBytes=84, outBytes=84, maxBytes=2^63B, \
id='@site-plain.example'
"""


def test_each_tunnel_is_known_by_its_inner_network_or_its_outer_address():
    """A site's line has neither: it stays nameless, and is not taken for a revoked person's (ipsec.expelled)."""
    assert names.parse(SAID) == {
        "198.51.100.192/32": Name("CN=road1.example", "203.0.113.5", "roadwarrior", 1795467000),
        "198.51.100.193/32": Name("C=CH, O=it's, CN=anna", "203.0.113.5", "roadwarrior-anna", 1795467002),
        "203.0.113.13": Name("@site-plain.example", "203.0.113.13", "site-plain", 1795466000)}


@pytest.mark.parametrize("told", [None, 5, {}, {"id": "a", "peer": "b", "tunnel": "c", "since": "x"}, []])
def test_what_the_other_node_tells_is_read_with_care(told):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Name.parse(told)


@pytest.fixture
def whack(tmp_path, monkeypatch):
    """A daemon's client that says what the test wants."""
    program = tmp_path / "whack"

    def says(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)

    monkeypatch.setattr(names, "WHACK", str(program))
    return says


def ask(its: Names, seconds: float = 3.0) -> bool:
    its.want(0.0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if its.tick(1.0):
            return True
        time.sleep(0.01)
    return False


def test_the_daemon_is_asked_beside_the_loop_and_earlier_names_stay(whack, tmp_path):
    (tmp_path / "said").write_text(SAID)
    whack(f"sleep 0.1; cat {tmp_path}/said")
    its = Names()
    its.known["198.51.100.200/32"] = Name("CN=adopted", "203.0.113.9", "roadwarrior", 1)
    assert ask(its) and len(its.known) == 4 and its.process is None


def test_a_daemon_that_says_nothing_or_fails_changes_nothing(whack):
    whack("exit 1")
    its = Names()
    assert not ask(its, 0.5) and its.known == {} and its.process is None


def test_a_daemon_that_hangs_is_asked_again_later(whack):
    whack("exec sleep 60")
    its = Names()
    its.want(0.0)
    its.tick(1.0)
    process = its.process
    its.tick(1.0 + names.ASK_SECONDS + 1)
    assert its.process is None and its.due > 1.0 + names.ASK_SECONDS
    assert process.wait(5) == -9
