"""Asks nodes and waits for their answers. For processes that may wait: the jobs of the resync engine, and runners.

Not LocalClient.cmd: it takes the first thing on the bus that has the job's number, whoever put it there.
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from alerts.authentic import END_OF_TAG
from nodes import answers, bus
from nodes.answers import Answer
from nodes.keys import Keys
from nodes.links import Links

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0  # to the master's bus, on this machine
ANSWER_SECONDS = 15.0  # for an answer that needs no time
LOOK_SECONDS = 0.2  # between two looks at what is due
CACHE_SECONDS = 1.5  # after an answer that was too large for the bus: then the job cache has it
# A long answer is waited for while the node says that it works on it. It is asked after so many seconds, and given up
# when it has not said so so many times in a row: its network may be away for a moment.
STILL_SECONDS, STILL_TIMES = 10.0, 2
SILENT = "does not answer"  # why, when nothing answers


@dataclass
class Said:
    """What became of a question."""

    answers: dict[str, Answer] = field(default_factory=dict)  # by minion
    missing: dict[str, str] = field(default_factory=dict)  # by minion without an answer that counts, why, in words


def ask(opts: dict[str, Any], keys: Keys, minions: Iterable[str], function: str, arguments: Iterable[Any] = (),
        named: dict[str, Any] | None = None, seconds: float = ANSWER_SECONDS, long: bool = False) -> Said:
    """
    Call a function on some minions and collect the answers that they have signed.

    Args:
        opts: the master's configuration.
        keys: the master's secret.
        minions: their ids.
        function: one of those that _modules/gateway_answers.py signs for.
        arguments, named: the function's.
        seconds: how long to wait at most.
        long: the function takes its time, as a state run does. A node that does not work on it any more and has not
            answered is given up before the end.

    Raises:
        Exception: of Salt's, of many kinds, when the master's bus can not be reached or does not take the question.
    """
    asked = frozenset(minions)
    if not asked:
        return Said()
    found: list[Said] = []
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            found.append(asyncio.run(_Talk(opts, keys).hold(asked, function, list(arguments), named, seconds, long)))
        except BaseException as error:  # raised again in the caller's thread
            wrong.append(error)

    # A thread of its own: the caller's may run a loop of Salt's.
    thread = threading.Thread(target=work, name="asking", daemon=True)
    thread.start()
    thread.join()
    if wrong:
        raise wrong[0]
    return found[0]


class _Talk:
    """One question, and the questions whether the nodes still work on it."""

    def __init__(self, opts: dict[str, Any], keys: Keys) -> None:
        self.opts, self.keys, self.links = opts, keys, Links(opts)
        self.questions: dict[str, answers.Question] = {}
        self.answers: dict[str, dict[str, Answer]] = {}  # by job and minion
        self.trimmed: dict[tuple[str, str], float] = {}  # when to look into the job cache

    async def hold(self, minions: frozenset[str], function: str, arguments: list[Any], named: dict[str, Any] | None,
                   seconds: float, long: bool) -> Said:
        """See :func:`ask`."""
        stream = bus.messages(self.opts)
        coming: asyncio.Future[object] = asyncio.ensure_future(anext(stream))
        try:
            # Connected: from now on no answer is missed. Salt's client tries for ever.
            if not (await asyncio.wait({coming}, timeout=CONNECT_SECONDS))[0]:
                raise ConnectionError("the master's bus can not be reached: does salt-master run?")
            await coming
            coming = asyncio.ensure_future(anext(stream))
            until = time.monotonic() + seconds
            first = await self.send(minions, function, arguments, named)
            patience = Patience(time.monotonic(), float(self.opts.get("gather_job_timeout") or STILL_SECONDS))
            still = ""  # the job that asks whether they still work
            given_up: set[str] = set()
            while (missing := set(first.missing()) - given_up) and time.monotonic() < until:
                # Most messages are for others: they cost no more than a look at their tag.
                came, again = 0, time.monotonic() + LOOK_SECONDS
                while not came and (left := again - time.monotonic()) > 0:
                    await asyncio.wait({coming}, timeout=left)
                    if coming.done():
                        came += self.take(coming.result())
                        coming = asyncio.ensure_future(anext(stream))
                self.look(time.monotonic())
                if not long:
                    continue
                working = {each for each, its in self.answers.get(still, {}).items() if its.value} if still else set()
                ask_now, gone = patience.look(time.monotonic(), missing, working)
                given_up |= gone
                if ask_now:
                    still = (await self.send(frozenset(missing - gone), "saltutil.find_job", [first.job], None)).job
        finally:
            coming.cancel()
            with contextlib.suppress(BaseException):
                await coming
            with contextlib.suppress(Exception):
                await stream.aclose()
        return Said(self.answers.get(first.job, {}), {
            minion: answers.explained(minion, first.refused.get(minion, "")) or SILENT for minion in first.missing()})

    async def send(self, minions: frozenset[str], function: str, arguments: list[Any], named: dict[str, Any] | None,
                   ) -> answers.Question:
        asked = answers.question(self.links.new_job(), function, minions)
        self.questions[asked.job] = asked
        await asyncio.to_thread(self.links.send, asked, arguments, named)
        return asked

    def take(self, raw: object) -> bool:
        """A message of the bus. Returns whether it is an answer to a question of this, true or not."""
        if not isinstance(raw, bytes) or not raw.startswith(b"salt/job/"):
            return False
        tag, _, data = raw.partition(END_OF_TAG)
        job, minion = bus.returned(tag)
        if job in self.questions:
            self.answer(job, minion, bus.said(data))
        return job in self.questions

    def answer(self, job: str, minion: str, said: object) -> None:
        if said is answers.TRIMMED:
            self.trimmed.setdefault((job, minion), time.monotonic() + CACHE_SECONDS)
            return
        asked = self.questions[job]
        before = asked.refused.get(minion)
        found, why = asked.take(minion, said, self.keys.secret())
        if found is not None:
            self.answers.setdefault(job, {})[minion] = found
        elif why and before is None:
            log.warning("an answer of %s to %s does not count: %s", minion, asked.function,
                        answers.explained(minion, why))

    def look(self, now: float) -> None:
        """Reads what was too large for the bus."""
        for (job, minion), when in list(self.trimmed.items()):
            if when <= now:
                del self.trimmed[job, minion]
                if minion in self.questions[job].missing():
                    self.answer(job, minion, self.links.cached(job, minion))


class Patience:
    """Decides how long nodes are waited for that work on something. No I/O; times are of a steady clock."""

    def __init__(self, now: float, answer: float) -> None:
        """
        Args:
            now: the time.
            answer: seconds within which a node says that it still works.
        """
        self._answer = answer
        self._next, self._asked = now + STILL_SECONDS, 0.0
        self._silent: dict[str, int] = {}

    def look(self, now: float, missing: set[str], working: set[str]) -> tuple[bool, set[str]]:
        """
        Compare.

        Args:
            now: the time.
            missing: who has not answered yet.
            working: who has said since the last question that it still works.

        Returns:
            Whether to ask now who still works, and who is given up.
        """
        if self._asked and (now - self._asked >= self._answer or missing <= working):
            self._asked, self._next = 0.0, now + (STILL_SECONDS if missing <= working else 0.0)
            self._silent = {each: 0 if each in working else self._silent.get(each, 0) + 1 for each in missing}
            return False, {each for each, times in self._silent.items() if times >= STILL_TIMES}
        if not self._asked and now >= self._next:
            self._asked = now
            return True, set()
        return False, set()
