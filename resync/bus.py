"""Takes from the master's event bus what concerns resync: verified drift reports of nodes, starts of minions, and
orders of people. Any minion can put anything on the bus; an unsigned message causes a question to a node at most.

The reader, the check and the questions for what is missing are those of the alerts: nodes/bus.py, nodes/feed.py.
"""
from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import salt.payload

from alerts import authentic
from nodes import bus
from nodes.feed import Came, Feed, Outside
from nodes.keys import Keys, keys_of
from nodes.links import Links
from resync import events
from resync.waits import ASK_SITE_SECONDS

log = logging.getLogger(__name__)

ORDER_TAG = "gateway/resync/order"
ORDER_NAMES = ("stop", "go", "now")
MAX_ORDER_AGE_SECONDS = 60.0  # an older order is ignored
LOOK_SECONDS = 0.1  # between two looks at what is due
_MAX_JOURNALS = 10_000  # of which the newest number is remembered


def read(opts: dict[str, Any], secret: bytes | Keys, sites: authentic.Sites, pipe: int) -> None:
    """
    Runs in a process of its own, for ever. Writes each event as a line of JSON: [class in events, its values].

    Args:
        opts: the master's configuration.
        secret, sites: see :class:`Sorter`.
        pipe: the file descriptor to write to.
    """
    links = Links(opts)

    def publish(what: str, minions: list[str], arguments: list[Any]) -> None:
        links.send(sorter.feed.expect(links.new_job(), what, minions), arguments)

    sorter = Sorter(secret, sites, Outside(publish, links.known, links.cached))
    for target, arguments in ((bus.read_forever, (opts, sorter)), (sorter.feed.ask_forever, ())):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    while True:
        for found in sorter.due(time.time()):
            os.write(pipe, json.dumps([type(found).__name__, *found]).encode() + b"\n")
        with sorter.feed.wake:
            if not sorter.feed.waiting() and not sorter.found:
                sorter.feed.wake.wait(LOOK_SECONDS)


class _Feed(Feed):
    """Keeps the formula that a drift report names."""

    def light(self, event: authentic.Event) -> authentic.Event:
        return event if event.beacon == "drift" else super().light(event)


class Sorter:
    """Turns messages of the bus into events for the decisions (events.py). A bus.Listener."""

    def __init__(self, secret: bytes | Keys, sites: authentic.Sites, outside: Outside | None = None) -> None:
        """
        Args:
            secret: the master's, which does not change; or the keys that read it from its file.
            sites: the sites in the master's pillar.
            outside: the functions that reach Salt; None: nobody is asked for what is missing.
        """
        self.keys, self.sites = keys_of(secret), sites
        self.feed = _Feed(self.keys, sites, outside or Outside(lambda *_: None, lambda: (), lambda *_: None))
        self.newest: dict[tuple[str, str], int] = {}  # of orders: by id and journal, the newest number
        self.asked: dict[str, float] = {}  # by site, when the last start of one of its minions was passed on
        self.found: deque[events.ResyncEvent] = deque()
        self.clock: Callable[[], float] = time.time
        # The feed's own part of bus.Listener
        self.offer, self.refuse, self.wants, self.answer = (self.feed.offer, self.feed.refuse, self.feed.wants,
                                                            self.feed.answer)
        self.lost = self.feed.lost

    def sort(self, raw: bytes, now: float) -> events.ResyncEvent | None:
        """Takes a message at this time; the event that follows, or None. Further ones: :meth:`due`. For tests."""
        self.clock = lambda: now
        try:
            bus.sort(raw, self)
        except Exception as error:  # noqa: BLE001  # the content can be anything
            log.debug("resync: dropped: %s", error)
        found = self.due(now)
        self.found.extendleft(reversed(found[1:]))
        return found[0] if found else None

    def due(self, now: float) -> list[events.ResyncEvent]:
        """What has come and is in order. Sends the questions that are due. `now`: seconds since 1970."""
        for came in self.feed.step(now):
            self.found.extend(meanings(came))
        self.feed.questions(now)
        out = []
        while self.found:
            out.append(self.found.popleft())
        return out

    def started(self, minion: str) -> None:
        """Somebody says that a minion has started."""
        self.feed.started(minion)
        site, now = self.sites.sender(minion), self.clock()
        if site and now - self.asked.get(site, 0.0) >= ASK_SITE_SECONDS:
            self.asked[site] = now
            self.found.append(events.Reconnected(site, minion))

    def other(self, tag: bytes, data: bytes) -> None:
        """A message that may be a person's order."""
        if tag != ORDER_TAG.encode() or len(data) > authentic.MAX_MESSAGE_BYTES:
            return
        content = authentic.payload(salt.payload.loads(data, encoding="utf-8"))
        event, _why = authentic.check(content, None, self.keys.secret())
        if not event or event.id != authentic.MASTER or event.beacon != "resync" or event.condition not in ORDER_NAMES:
            return
        age = self.clock() - datetime.fromisoformat(event.at).timestamp()
        if abs(age) < MAX_ORDER_AGE_SECONDS and self.fresh(event):
            self.found.append(events.Order(event.condition, event.site))

    def fresh(self, event: authentic.Event) -> bool:
        """Whether an order is new: its number is higher than all before it in its journal."""
        key = event.id, event.journal
        if event.n <= self.newest.get(key, 0):
            return False
        if len(self.newest) > _MAX_JOURNALS:
            self.newest.clear()
        self.newest[key] = event.n
        return True


def meanings(came: Came) -> list[events.ResyncEvent]:
    """The events for the decisions in what came from a node."""
    signed = [each.event for each in (*came.taken, *(came.conditions or ()))]
    return [found for event in signed if event.id != authentic.MASTER and (found := meaning(event))]


def meaning(event: authentic.Event) -> events.Drifted | events.Returned | None:
    """The event for the decisions in a signed event of the beacon drift; None for another kind of event."""
    if event.beacon != "drift" or event.once:
        return None
    if event.condition == "not_compared":
        return events.Returned(event.site, event.id, not event.recovered)
    formula = event.facts.get("formula")
    return events.Drifted(event.site, event.id, event.condition, event.subject,
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
