"""Reads from the master's event bus what concerns resync: signed drift reports of nodes, starts of minions, and orders
of people. Any minion can put anything on the bus; an unsigned message causes a question to a node at most.
"""
from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from datetime import UTC, datetime
from typing import Any

import salt.payload
import salt.transport

from alerts import authentic
from resync import decide

log = logging.getLogger(__name__)

ORDER_TAG = "gateway/resync/order"
ORDER_NAMES = ("stop", "go", "now")
MAX_ORDER_AGE_SECONDS = 60.0  # an older order is ignored
_MAX_JOURNALS = 10_000  # of which the newest number is remembered


def read(opts: dict[str, Any], secret: bytes, sites: authentic.Sites, pipe: int) -> None:
    """
    Runs in a process of its own until the bus ends. Writes each event as a line of JSON: [class in decide, its values].

    Args:
        opts: the master's configuration.
        secret, sites: see :class:`Sorter`.
        pipe: the file descriptor to write to.
    """
    asyncio.run(_read(opts, Sorter(secret, sites), pipe))


async def _read(opts: dict[str, Any], sorter: Sorter, pipe: int) -> None:
    # Not SaltEvent.get_event: it unpacks everything on the bus, also the returns of large states. And each message is
    # read without delay: the master drops a listener that is 10,000 events behind.
    client = salt.transport.ipc_publish_client("master", opts, io_loop=asyncio.get_running_loop())
    await client.connect()
    count = 0
    while True:
        raw = await client.recv()
        if raw is None:
            continue
        found = sorter.sort(raw, time.time())
        if found is not None:
            os.write(pipe, json.dumps([type(found).__name__, *found]).encode() + b"\n")
        count += 1
        if count % 50 == 0:
            await asyncio.sleep(0)


class Sorter:
    """Turns messages of the bus into events of decide."""

    def __init__(self, secret: bytes, sites: authentic.Sites) -> None:
        self.secret, self.sites = secret, sites
        self.newest: dict[tuple[str, str], int] = {}  # by id and journal, the newest number
        self.asked: dict[str, float] = {}  # by site, when the last start of one of its minions was passed on

    def sort(self, raw: bytes, now: float) -> decide.ResyncEvent | None:
        """The event of a message, or None when it does not concern resync. `now`: seconds since 1970."""
        tag, _, data = raw.partition(authentic.END_OF_TAG)
        try:
            if tag.startswith(b"salt/beacon/") and tag.count(b"/drift/") == 1:
                return self.drift(tag, data)
            if tag.startswith(b"salt/minion/") and tag.endswith(b"/start") and len(tag) < authentic.MAX_TAG_BYTES:
                return self.started(tag.decode().split("/")[2], now)
            if tag == ORDER_TAG.encode():
                return self.order(data, now)
        except Exception as error:  # noqa: BLE001  # the content can be anything
            log.debug("resync: dropped: %s", error)
        return None

    def drift(self, tag: bytes, data: bytes) -> decide.Drifted | decide.Returned | None:
        if len(data) > authentic.MAX_MESSAGE_BYTES or len(tag) > authentic.MAX_TAG_BYTES:
            return None
        content = authentic.payload(salt.payload.loads(data, encoding="utf-8"))
        event, _why = authentic.check(content, tag.decode(), self.secret)
        if not event or event.beacon != "drift" or not self.fresh(event):
            return None
        return meaning(event) if self.sites.sender(event.id) == event.site else None

    def fresh(self, event: authentic.Event) -> bool:
        """Whether an event is new: its number is higher than all before it in its journal."""
        key = event.id, event.journal
        if event.n <= self.newest.get(key, 0):
            return False
        if len(self.newest) > _MAX_JOURNALS:
            self.newest.clear()
        self.newest[key] = event.n
        return True

    def started(self, minion: str, now: float) -> decide.Reconnected | None:
        site = self.sites.sender(minion)
        if not site or now - self.asked.get(site, 0.0) < decide.ASK_SITE_SECONDS:
            return None
        self.asked[site] = now
        return decide.Reconnected(site, minion)

    def order(self, data: bytes, now: float) -> decide.Order | None:
        if len(data) > authentic.MAX_MESSAGE_BYTES:
            return None
        event, _why = authentic.check(authentic.payload(salt.payload.loads(data, encoding="utf-8")), None, self.secret)
        if not event or event.id != authentic.MASTER or event.beacon != "resync" or event.condition not in ORDER_NAMES:
            return None
        age = now - datetime.fromisoformat(event.at).timestamp()
        if abs(age) >= MAX_ORDER_AGE_SECONDS or not self.fresh(event):
            return None
        return decide.Order(event.condition, event.site)


def meaning(event: authentic.Event) -> decide.Drifted | decide.Returned | None:
    """The event of decide for a signed event of the beacon drift; None for another kind of event."""
    if event.beacon != "drift" or event.once:
        return None
    if event.condition == "not_compared":
        return decide.Returned(event.site, event.id, not event.recovered)
    formula = event.facts.get("formula")
    return decide.Drifted(event.site, event.id, event.condition, event.subject,
                          formula if isinstance(formula, str) else "", not event.recovered)


def order(name: str, site: str, secret: bytes, journal: str, number: int) -> dict[str, Any]:
    """
    A person's order, signed by this master, to be sent with the tag ORDER_TAG.

    Args:
        name: one of ORDER_NAMES.
        site: the site's name; "" for all sites.
        secret: see authentic.load_secret.
        journal, number: see authentic.of_master.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return authentic.of_master(secret, journal, number, name, now, beacon="resync", site=site, once=True)
