"""Reaches minions through Salt's clients: sends a question, lists who has an accepted key, reads the job cache."""
from __future__ import annotations

import logging
import threading
from typing import Any

import salt.client
import salt.utils.jid
import salt.utils.minions

from nodes import answers

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 15  # for the master to take a question


class Links:
    """The minions of one master. Each thread that asks has a client of its own: Salt's are not made for two."""

    def __init__(self, opts: dict[str, Any]) -> None:
        """
        Args:
            opts: the master's configuration.
        """
        self._opts = opts
        self._clients = threading.local()

    def new_job(self) -> str:
        """A number for a new job."""
        found: str = salt.utils.jid.gen_jid(self._opts)
        return found

    def send(self, asked: answers.Question, arguments: list[Any], named: dict[str, Any] | None = None) -> None:
        """
        Send a question. The answers come over the bus.

        Args:
            asked: the question; who reads the bus knows it already.
            arguments: of its function; those by name as `named`.

        Raises:
            Exception: of Salt's, of many kinds.
        """
        if getattr(self._clients, "jobs", None) is None:
            self._clients.jobs = salt.client.get_local_client(mopts=self._opts)
        try:
            self._clients.jobs.run_job(
                sorted(asked.minions or ()), answers.FUNCTION, [asked.nonce, asked.function, *arguments],
                tgt_type="list", jid=asked.job, timeout=PUBLISH_SECONDS, listen=False, kwarg=named or {})
        except Exception:
            self._clients.jobs = None
            raise

    def cached(self, job: str, minion: str) -> Any:
        """What a minion returned to a job, from the job cache; None when it is not there."""
        try:
            with salt.client.get_local_client(mopts=self._opts) as client:
                return client.get_cache_returns(job).get(minion, {}).get("ret")
        except Exception as error:  # a returner's, of many kinds
            log.warning("the job cache has no answer of %s: %s", minion, error)
            return None

    def known(self) -> list[str]:
        """The ids of all minions with an accepted key."""
        found: list[str] = salt.utils.minions.CkMinions(self._opts).check_minions("*", "glob")["minions"]
        return found


