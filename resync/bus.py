"""The master's event bus, read for what concerns resync: drift that a node has signed, a minion that has started, and a
person's order. Anybody may put anything there; what is not signed leads to a question at most.
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
MAX_ORDER_AGE_SECONDS = 60.0  # an order is not followed later than that
_MAX_JOURNALS = 1000


def read(opts: dict[str, Any], secret: bytes, sites: authentic.Sites, pipe: int) -> None:
    """In a process of its own, until the bus goes: what there is, a line of JSON each, [event of decide, values]."""
    asyncio.run(_read(opts, Sorter(secret, sites), pipe))


async def _read(opts: dict[str, Any], sorter: Sorter, pipe: int) -> None:
    # Not SaltEvent.get_event: it unpacks everything on the bus, returns of large states included. And read at once:
    # the master drops a listener that is 10,000 events behind.
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
    """What a message on the bus means, if anything."""

    def __init__(self, secret: bytes, sites: authentic.Sites) -> None:
        self.secret, self.sites = secret, sites
        self.newest: dict[tuple[str, str], int] = {}  # by id and journal
        self.asked: dict[str, float] = {}  # by site: when a minion of it said last that it has started

    def sort(self, raw: bytes, now: float) -> decide.Event | None:
        """An event of decide, or None. `now`: seconds since 1970."""
        tag, _, data = raw.partition(authentic.END_OF_TAG)
        try:
            if tag.startswith(b"salt/beacon/") and tag.count(b"/drift/") == 1:
                return self.drift(tag, data)
            if tag.startswith(b"salt/minion/") and tag.endswith(b"/start") and len(tag) < authentic.MAX_TAG_BYTES:
                return self.started(tag.decode().split("/")[2], now)
            if tag == ORDER_TAG.encode():
                return self.order(data, now)
        except Exception as error:  # noqa: BLE001  # whatever somebody has put there
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
        """Not one that was there already."""
        key = event.id, event.journal
        if event.n <= self.newest.get(key, 0):
            return False
        if len(self.newest) > 10 * _MAX_JOURNALS:
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
    """What a signed event of the beacon drift is for decide; None for what it does not know."""
    if event.beacon != "drift" or event.once:
        return None
    if event.condition == "not_compared":
        return decide.Returned(event.site, event.id, not event.recovered)
    formula = event.facts.get("formula")
    return decide.Drifted(event.site, event.id, event.condition, event.subject,
                          formula if isinstance(formula, str) else "", not event.recovered)


def order(name: str, site: str, secret: bytes, journal: str, number: int) -> dict[str, Any]:
    """A person's order, signed by this master, to be fired with the tag ORDER_TAG."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return authentic.of_master(secret, journal, number, name, now, beacon="resync", site=site, once=True)
