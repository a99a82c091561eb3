"""Delivers the queue: one thread per target, which sends what the limits allow and retries until the target takes it.

A slow or unreachable target delays no other. After failures in a row the pause grows from 1 s to 5 minutes.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from alerts import message
from alerts.limits import Limiter, Limits
from alerts.shapes import Delivery, Message
from alerts.spool import Spool
from alerts.targets import Failed, mail, reason, slack, syslog, webhook

log = logging.getLogger(__name__)

MAX_PAUSE_SECONDS = 300.0
WAYS: dict[str, Callable[[dict[str, Any], Message], str]] = {
    "mail": mail.deliver, "webhook": webhook.deliver, "slack": slack.deliver, "syslog": syslog.deliver}


class Sender(threading.Thread):
    """Delivers to one target until :meth:`stop`."""

    def __init__(self, name: str, deliver: Callable[[Message], str], spool: Spool, limits: Limits) -> None:
        """
        Args:
            name: the target's name.
            deliver: delivers one message; returns the target's answer in words, or raises Failed.
            spool: the queue.
            limits: the limits of this target.
        """
        super().__init__(name=f"alerts-{name}", daemon=True)
        self.target = name
        self._deliver, self._spool, self._limiter = deliver, spool, Limiter(limits)
        self._stopping = threading.Event()
        self._failures = 0
        self._tries: dict[int, int] = {}  # by number in the queue, how often the target refused it
        self.status: Delivery = {"sent": 0, "last_taken": None, "said": "", "failing_since": None, "failure": "",
                                 "failed": 0}

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._stopping.wait(self._once())
            except Exception:  # whatever the error is, the thread goes on
                log.exception("alerts: %s: delivery", self.target)
                self._stopping.wait(5)

    def stop(self) -> None:
        """Ends the thread. What waits stays in the queue."""
        self._stopping.set()
        self._spool.wake()

    def _once(self) -> float:
        """Delivers at most one message. Returns the seconds to wait before the next call."""
        now = time.monotonic()
        waiting = self._spool.waiting(self.target)
        if not waiting:
            self._tries.clear()
            self._spool.wait(self.target, 1.0, anything_new=False)
            return 0.0
        if self._tries:
            # Refused messages go to the end: a message that the target never takes delays no other.
            waiting = dict(sorted(waiting.items(), key=lambda each: (self._tries.get(each[0], 0), each[0])))
        plan = self._limiter.plan(now, waiting)
        if not plan.send:
            self._spool.wait(self.target, min(plan.wait, 1.0), anything_new=True)
            return 0.0
        chosen = [waiting[number] for number in plan.send]
        one = chosen[0] if len(chosen) == 1 and chosen[0]["kind"] != "digest" else message.digest(
            chosen, f"{plan.send[0]}-{plan.send[-1]}")
        try:
            said = self._deliver(one)
        except Failed as error:
            return self._failed(plan.send, str(error))
        except Exception as error:
            log.error("alerts: %s: %s", self.target, type(error).__name__)
            return self._failed(plan.send, reason(error))
        self._spool.done(self.target, plan.send)
        self._limiter.sent(now, plan, chosen[0]["site"])
        if self._failures:
            log.info("alerts: %s takes alerts again", self.target)
        self._failures = 0
        self.status |= {"sent": self.status["sent"] + len(plan.send), "last_taken": time.time(), "said": said,
                        "failing_since": None, "failure": ""}
        return 0.0

    def _failed(self, numbers: list[int], why: str) -> float:
        self._failures += 1
        for number in numbers:
            self._tries[number] = self._tries.get(number, 0) + 1
        if self._failures in (1, 5) or self._failures % 50 == 0:
            log.warning("alerts: %s does not take alerts (%s); %d wait", self.target, why,
                        self._spool.counts().get(self.target, 0))
        self.status |= {"failure": why, "failing_since": self.status["failing_since"] or time.time(),
                        "failed": self.status.get("failed", 0) + 1}
        return pause(self._failures)


def pause(failures: int) -> float:
    """Seconds to wait after a number of failures in a row."""
    return min(MAX_PAUSE_SECONDS, 2.0 ** min(failures - 1, 10))


def way_to(target: dict[str, Any]) -> Callable[[Message], str]:
    """The function that delivers a message to a configured target."""
    return lambda one: WAYS[target["type"]](target, one)
