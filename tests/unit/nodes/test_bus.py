"""One reader of the bus: each message goes to the one part that it is for, and a new connection is noticed."""
from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import salt.payload

from nodes import answers, bus


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *what: self.heard.append((name, *what))

    def wants(self, job: str) -> bool:
        return job == "7"


def message(tag: str, data: object) -> bytes:
    return tag.encode() + b"\n\n" + salt.payload.dumps(data)


@pytest.mark.parametrize(("raw", "heard"), [
    (message("salt/beacon/gw1.x/ipsec/a", {"n": 1}), [("offer", "salt/beacon/gw1.x/ipsec/a", {"n": 1})]),
    (message("gateway/master/apart", {}), [("offer", "gateway/master/apart", {})]),
    (message("salt/beacon/" + "x" * 500, {}), [("refuse", "large")]),
    (message("salt/beacon/a", {"x": "y" * 70_000}), [("refuse", "large")]),
    (b"salt/beacon/a\n\n\xc1", [("refuse", "malformed")]),
    (message("salt/job/7/ret/gw1.x", {"return": [1]}), [("answer", "7", "gw1.x", [1])]),
    (message("salt/job/7/ret/gw1.x", {"return": "VALUE_TRIMMED"}), [("answer", "7", "gw1.x", answers.TRIMMED)]),
    (message("salt/job/7/ret/gw1.x", []), [("answer", "7", "gw1.x", None)]),
    (b"salt/job/7/ret/gw1.x\n\n\xc1", [("answer", "7", "gw1.x", None)]),
    (message("salt/job/8/ret/gw1.x", {"return": 1}), []), (message("salt/job/7/ret/a/b", {"return": 1}), []),
    (message("salt/job/7/new", {}), []), (message("salt/job/7/ret/" + "x" * 500, {"return": 1}), []),
    (message("salt/minion/gw1.x/start", {}), [("started", "gw1.x")]),
    (message("else", {}), [("other", b"else", salt.payload.dumps({}))])])
def test_each_message_goes_where_it_belongs(raw: bytes, heard: list[tuple[Any, ...]]) -> None:
    listener = Listener()
    bus.sort(raw, listener)
    assert listener.heard == heard


def test_a_client_that_has_connected_anew_by_itself_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        _stream: Any = "first"
        closed = False

        async def connect(self) -> None:
            pass

        async def recv(self) -> bytes | None:
            self.count = getattr(self, "count", 0) + 1
            if self.count == 3:
                self._stream = "second"
            return None if self.count == 2 else b"%d" % self.count

        def close(self) -> None:
            self.closed = True

    client = Client()
    monkeypatch.setattr(bus.salt.transport, "ipc_publish_client", lambda *_args, **_named: client)

    async def read() -> list[object]:
        found: list[object] = []
        stream = bus.messages({})
        async for each in stream:
            found.append(each)
            if len(found) == 5:
                await stream.aclose()
                break
        return found

    assert asyncio.run(read()) == [bus.CONNECTED, b"1", bus.CONNECTED, b"3", b"4"]
    assert client.closed


def test_no_message_ends_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order is unpacked by the listener; anybody can send something else with its tag."""
    class Broken(Listener):
        def other(self, _tag: bytes, data: bytes) -> None:
            salt.payload.loads(data)

    async def messages(_opts: Any) -> AsyncGenerator[object, None]:
        yield bus.CONNECTED
        yield b"gateway/resync/order\n\n\xc1"
        yield message("salt/minion/gw1.x/start", {})

    listener = Broken()
    monkeypatch.setattr(bus, "messages", messages)
    asyncio.run(bus._read({}, listener))
    assert listener.heard == [("lost",), ("refuse", "malformed"), ("started", "gw1.x")]
