"""Reads the master's event bus. The one place that does, for both engines and for questions that wait for answers.

Any minion can put nearly any tag and any data there, so nothing of it counts before it is verified: events by
alerts/authentic.py, answers by nodes/answers.py.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import salt.payload
import salt.transport

from alerts import authentic
from nodes.answers import TRIMMED

log = logging.getLogger(__name__)

CONNECTED = object()  # what :func:`messages` yields for a new connection: messages before it may be lost
AGAIN_SECONDS = 0.5  # between two attempts to connect
EVENTS = (b"salt/beacon/", b"gateway/master/")


class Listener(Protocol):
    """Who is told what comes over the bus. Called by the reader's thread for each message, so it must not wait."""

    def offer(self, tag: str, data: object) -> None:
        """A message with the tag of an event, not verified."""

    def refuse(self, why: str) -> None:
        """A message with the tag of an event that can be none."""

    def wants(self, job: str) -> bool:
        """Whether answers to this job are expected."""

    def answer(self, job: str, minion: str, said: object) -> None:
        """An answer to an expected job, not verified; or TRIMMED."""

    def started(self, minion: str) -> None:
        """Somebody says that a minion has started."""

    def lost(self) -> None:
        """The connection is new, so messages may be missing."""

    def other(self, tag: bytes, data: bytes) -> None:
        """A message with another tag."""


def read_forever(opts: dict[str, Any], listener: Listener) -> None:
    """
    Pass everything on without delay: the master drops a listener that is 10,000 events behind. For a thread.

    Args:
        opts: the master's configuration.
        listener: is told.
    """
    while True:
        try:
            asyncio.run(_read(opts, listener))
        except Exception:  # a broken connection, of many kinds
            log.exception("lost the connection to the master's bus; connecting again")
        time.sleep(AGAIN_SECONDS)


async def _read(opts: dict[str, Any], listener: Listener) -> None:
    async for raw in messages(opts):
        if isinstance(raw, bytes):
            try:
                sort(raw, listener)
            except Exception as error:  # the content can be anything, and must not end the reader
                log.debug("dropped: %s", error)
                listener.refuse("malformed")
        else:
            listener.lost()


async def messages(opts: dict[str, Any]) -> AsyncGenerator[object, None]:
    """
    The messages on the bus, each as bytes; and CONNECTED first and after each time that Salt's client has connected
    anew by itself.
    """
    # Not SaltEvent.get_event: it unpacks every event on the bus before it looks at the tag, also the returns of large
    # states, and runs its event loop once for each.
    client = salt.transport.ipc_publish_client("master", opts, io_loop=asyncio.get_running_loop())
    try:
        await client.connect()
        yield CONNECTED
        stream, count = getattr(client, "_stream", None), 0
        while True:
            raw = await client.recv()
            if raw is None:
                continue
            if getattr(client, "_stream", None) is not stream:
                stream = client._stream
                yield CONNECTED
            yield raw
            count += 1
            if count % 50 == 0:
                await asyncio.sleep(0)
    finally:
        client.close()


def sort(raw: bytes, listener: Listener) -> None:
    """Pass one message on. Most messages are for others."""
    tag, _, data = raw.partition(authentic.END_OF_TAG)
    if tag.startswith(EVENTS):
        if len(raw) > authentic.MAX_MESSAGE_BYTES or len(tag) > authentic.MAX_TAG_BYTES:
            listener.refuse("large")
            return
        try:
            content = salt.payload.loads(data, encoding="utf-8")
            name = tag.decode("utf-8")
        except Exception:  # the content can be anything
            listener.refuse("malformed")
            return
        listener.offer(name, content)
    elif tag.startswith(b"salt/job/"):
        job, minion = returned(tag)
        if job and listener.wants(job):
            listener.answer(job, minion, said(data))
    elif tag.startswith(b"salt/minion/") and tag.endswith(b"/start") and len(tag) < authentic.MAX_TAG_BYTES:
        listener.started(tag.decode("utf-8", "replace").split("/")[2])
    else:
        listener.other(tag, data)


def returned(tag: bytes) -> tuple[str, str]:
    """Job and minion in the tag of an answer, `salt/job/JOB/ret/MINION`; two empty texts for another tag."""
    parts = tag.decode("utf-8", "replace").split("/")
    fits = len(parts) == 5 and parts[:2] == ["salt", "job"] and parts[3] == "ret" and len(tag) < authentic.MAX_TAG_BYTES
    return (parts[2], parts[4]) if fits else ("", "")


def said(data: bytes) -> object:
    """What a message says that a function returned: anything, TRIMMED, or None for a message that is no answer."""
    if b"VALUE_TRIMMED" in data:
        return TRIMMED
    try:
        content = salt.payload.loads(data, encoding="utf-8")
    except Exception:  # the content can be anything
        return None
    return content.get("return") if isinstance(content, dict) else None
