"""The connection between the two nodes, over real sockets and real TLS."""
from __future__ import annotations

import json
import select
import socket
import time
from pathlib import Path

import pytest

from sessions import channel, identity
from sessions.channel import Closed, Link
from sessions.identity import Identity, Unknown
from sessions.tunnels import DropPolicy, DropState, Numbers, PutPolicy, PutState
from sessions.xfrm import Counters
from tests.unit.sessions.made import SECRET, policy, state

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def nodes() -> tuple[Identity, Identity]:
    return identity.issue("gw1"), identity.issue("gw2")


def ends(one: Identity, two: Identity, keys=(KEY, KEY)) -> tuple[Link, Link]:
    listener = socket.create_server(("127.0.0.1", 0))
    caller = socket.create_connection(listener.getsockname())
    called, _ = listener.accept()
    listener.close()
    return (Link(caller, one, "gw2", keys[0], False, 0.0, "a"), Link(called, two, "gw1", keys[1], True, 0.0, "b"))


def together(*links: Link, until, seconds: float = 5.0) -> dict[Link, list]:
    """Lets the links work until a condition holds."""
    got = {each: [] for each in links}
    end = time.monotonic() + seconds
    while not until(got):
        assert time.monotonic() < end, "nothing comes"
        select.select(links, [each for each in links if each.wants_to_write()], [], 0.05)
        for each in links:
            got[each] += each.work()
    return got


def test_both_ends_open_and_frames_come_in_order_whatever_their_size(nodes):
    one, two = ends(*nodes)
    together(one, two, until=lambda _got: one.open and two.open)
    assert one.tls.version() == "TLSv1.3"
    sent = [(channel.STATE, bytes([n % 256]) * (n * 37 % 5000)) for n in range(2000)]
    for each in sent:
        one.send(*each)
    got = together(one, two, until=lambda got: len(got[two]) == len(sent))
    assert got[two] == sent and two.got_number == len(sent)
    two.send(channel.ACK, two.got_number.to_bytes(8, "big"))
    assert together(one, two, until=lambda got: got[one])[one] == [(channel.ACK, len(sent).to_bytes(8, "big"))]


def test_the_wire_has_no_key_in_clear(nodes):
    listener = socket.create_server(("127.0.0.1", 0))
    tap = socket.create_server(("127.0.0.1", 0))
    caller = socket.create_connection(tap.getsockname())
    middle, _ = tap.accept()
    onward = socket.create_connection(listener.getsockname())
    called, _ = listener.accept()
    one, two = Link(caller, nodes[0], "gw2", KEY, False, 0.0, "a"), Link(called, nodes[1], "gw1", KEY, True, 0.0, "b")
    wire, got, end = b"", [], time.monotonic() + 5
    one_sent = False
    while not got and time.monotonic() < end:
        for source, to in ((middle, onward), (onward, middle)):
            if select.select([source], [], [], 0.01)[0]:
                data = source.recv(1 << 16)
                wire += data
                to.sendall(data)
        one.work()
        got += two.work()
        if one.open and not one_sent:
            one.send(*channel.encode(PutState(state())))
            one_sent = True
    assert got and SECRET in got[0][1] and len(wire) > 2000
    assert SECRET not in wire and KEY not in wire and nodes[0].chain[:60] not in wire
    for each in (listener, tap, middle, onward):
        each.close()


def test_who_does_not_have_the_pairs_key_is_refused(nodes):
    one, two = ends(*nodes, keys=(bytes(32), KEY))
    with pytest.raises(Closed, match="does not have the key of this pair"):
        together(two, one, until=lambda _got: False)


def test_another_nodes_name_is_refused(nodes):
    stranger = Identity("gw3", nodes[0].certificate, nodes[0].chain)
    one, two = ends(stranger, nodes[1])
    with pytest.raises(Closed, match="says that it is 'gw3'"):
        together(two, one, until=lambda _got: False)


def test_a_hello_that_was_recorded_opens_nothing_without_its_private_key(nodes):
    """Who has only listened can send the line again; TLS then asks for the key behind the certificate."""
    thief = identity.issue("gw1")
    recorded = nodes[0].hello(KEY)
    one, two = ends(thief, nodes[1])
    one.waiting = bytearray(recorded)
    with pytest.raises(Closed, match="TLS"):
        together(two, one, until=lambda _got: two.open)
    assert not two.open


@pytest.mark.parametrize("line", [
    b"", b"{}\n", b"[]\n", b"null\n", b"\xff\xfe\n", b"[" * 3000 + b"\n", b"x" * 5000 + b"\n",
    json.dumps({"version": 1, "node": "gw1", "certificate": "!!", "code": "x"}).encode() + b"\n",
    b'{"version": 1, "node": "gw1", "certificate": "QQ==", "code": "\\ud800"}\n',
    json.dumps({"version": 1, "node": 5, "certificate": "", "code": 7}).encode() + b"\n"])
def test_an_introduction_that_is_none_ends_the_connection_with_one_line(nodes, line):
    _one, two = ends(*nodes)
    _one.plain.setblocking(True)
    _one.plain.sendall(line)
    _one.plain.shutdown(socket.SHUT_WR)
    with pytest.raises(Closed, match="no introduction|ended the connection"):
        together(two, until=lambda _got: False)


def test_a_frame_out_of_order_or_too_long_ends_the_connection(nodes):
    for head in (channel.HEAD.pack(0, 98, 5), channel.HEAD.pack(1 << 30, 98, 1)):
        one, two = ends(*nodes)
        together(one, two, until=lambda _got, one=one, two=two: one.open and two.open)
        one.waiting += head
        with pytest.raises(Closed, match="frame"):
            together(one, two, until=lambda _got: False)


def test_a_peer_that_takes_nothing_is_given_up(nodes, monkeypatch):
    monkeypatch.setattr(channel, "MAX_WAITING_BYTES", 100_000)
    one, two = ends(*nodes)
    together(one, two, until=lambda _got: one.open and two.open)
    with pytest.raises(Closed, match="takes nothing"):
        for _ in range(10):
            one.send(channel.STATE, bytes(20_000))


@pytest.mark.parametrize("change", [
    PutState(state()), PutPolicy(policy()), DropState(state().id), DropPolicy(policy().id),
    Numbers(state().id, Counters(1 << 40, 7, 128, bytes(range(16)), True)),
    Numbers(state().id, Counters(4, 7, 32, b"\1\2\3\4", False))])
def test_a_change_arrives_as_it_was_sent(change):
    assert channel.decode(*channel.encode(change)) == change


def test_the_pairs_key_is_heartbeats(tmp_path: Path):
    keys = tmp_path / "authkeys"
    keys.write_text("auth 2\n1 sha1 old\n2 sha1 the key, with spaces\n")
    first = identity.pair_key(keys)
    keys.write_text("auth 1\n1 sha1 old\n")
    assert identity.pair_key(keys) != first and len(first) == 32 and b"the key" not in first
    keys.write_text("auth 1\n1 crc\n")
    with pytest.raises(Unknown, match="must be signed"):
        identity.pair_key(keys)


def test_each_process_has_a_key_of_its_own(nodes):
    assert nodes[0].certificate != identity.issue("gw1").certificate
