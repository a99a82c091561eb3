"""_modules/lifelines.py: who is heard, with real sockets on the loopback interface; a real packet filter: tests/lab."""
from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.conftest import load_module

# A heartbeat as tcpdump shows it between two nodes of the lab (heartbeat 3.0.6-17 of Debian 13); the identifier in the
# middle is binary there.
HEARTBEAT = (
    "###\n11:(0)t=status,12:(0)st=active,9:(0)dt=3e8,13:(0)protocol=1,10:(0)src={},27:(1)srcuuid=0123456789abcdef,"
    "10:(0)seq=517,14:(0)hg=6b0e1256,14:(0)ts=6b0e1fd7,30:(0)ld=1.60 0.83 0.35 8/71 2832,8:(0)ttl=5,"
    "50:(0)auth=1 822c57f2d478a385de793a9a436626edd7400000,%%%\n")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_module("_modules/lifelines.py")
    monkeypatch.setattr(module, "__opts__", {}, raising=False)
    monkeypatch.setattr(module, "__salt__", {"cmd.retcode": lambda argv, **_: 0 if argv[-1] == "known" else 2},
                        raising=False)
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.5)
    return module


@contextlib.contextmanager
def sending(*nodes: str) -> Iterator[None]:
    """Heartbeats of these nodes, and other packets, as long as this lasts."""
    over = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while not over.wait(0.05):
                for text in (*map(HEARTBEAT.format, nodes), "###", "noise\n###\nsrc=gw9\n"):
                    out.sendto(text.encode(), ("127.0.0.1", 16940))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="a raw socket needs root")
def test_a_peers_heartbeats_are_heard_and_no_others(module):
    own = os.uname().nodename
    with sending(own):
        assert module.alive([])["peers"] == []
    with sending(own, "GW2"):
        before = module.alive([])
        assert before["peers"] == ["gw2"]
        assert module.lost(before, 2) == []
    assert module.lost(before, 0) == ["the heartbeat of gw2"]


def test_a_peer_that_is_still_heard_on_a_serial_line_is_not_lost(module, monkeypatch):
    monkeypatch.setattr(module, "_heard", lambda *_: [])
    before = {"publish": [], "names": [], "peers": ["gw2"]}
    links = {"bond1": "dead", "/dev/ttyS0": "up"}
    module.__salt__["heartbeat.status"] = lambda: {"links": links}
    assert module.lost(before, 0) == []
    links["/dev/ttyS0"] = "dead"
    assert module.lost(before, 0) == ["the heartbeat of gw2"]


def test_a_master_whose_jobs_no_longer_come_is_lost(module, monkeypatch):
    monkeypatch.setattr(module, "_heard", lambda *_: [])
    with socket.create_server(("127.0.0.1", 0)) as server:
        module.__opts__["publish_port"] = server.getsockname()[1]
        before = module.alive(["127.0.0.1", "127.0.0.9"])
        assert before["publish"] == ["127.0.0.1"] and before["names"] == []
        assert module.lost(before, 0) == []
    assert module.lost(before, 0) == [f"127.0.0.1 port {module.__opts__['publish_port']}"]


def test_a_masters_name_that_is_no_longer_known_is_lost(module, monkeypatch):
    monkeypatch.setattr(module, "_heard", lambda *_: [])
    monkeypatch.setattr(module, "_publishes", lambda _host: False)
    before = module.alive(["known", "unknown", "2001:db8::1"])
    assert before == {"publish": [], "names": ["known"], "peers": []}
    module.__salt__["cmd.retcode"] = lambda *_, **__: 2
    assert module.lost(before, 0) == ["a name server (for known)"]


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x4f" + bytes(70), b"\x45" + bytes(27) + b"###\n7:(0)src=,"])
def test_a_packet_that_is_no_heartbeat_has_no_sender(module, packet):
    assert module._sender(packet) == ""
