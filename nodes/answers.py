"""Verifies what nodes answer to the master's questions. No I/O.

Any accepted minion can put `salt/job/JOB/ret/OTHER` on the master's bus, and sees the number of each job (Salt 3008.3,
masterapi._minion_event). So the master asks through `gateway_answers.ask`: it sends a nonce, and the node signs its
answer together with the nonce, its own id, the function and the job. The key is the one of its events; what is signed
begins with another word, so neither can pass as the other.

A forged answer changes nothing, also when it comes before the true one: the question stays open.
"""
from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alerts.authentic import key_of

FUNCTION = "gateway_answers.ask"  # on the nodes
PURPOSE = b"gateway-answer:1\n"  # begins what is signed. Twin: _modules/gateway_answers.py
_SIGNED = ("id", "nonce", "function", "job", "at", "retcode", "error", "answer")  # as _modules/gateway_answers.py
UNSIGNED, NO_MODULE, NO_KEY, WRONG = "unsigned", "no module", "no key", "signature"  # why an answer does not count
TRIMMED = object()  # stands for an answer that was too large for the bus (`max_event_size`); the job cache has it
# For people. ID stands for the node's, from the master's own knowledge.
_HELP = {
    UNSIGNED: "something answers for it without a signature",
    NO_MODULE: "its modules seem older than this master's tree: salt 'ID' saltutil.sync_modules",
    NO_KEY: "it seems to have no key: salt 'ID' saltutil.refresh_pillar",
    WRONG: "what answers for it signs with another key: salt 'ID' saltutil.refresh_pillar, and if that does not help, "
           "another minion answers in its name",
}


class Answer(NamedTuple):
    """A node's own answer."""

    value: Any  # what the function returned; None when it failed
    error: str  # why the function failed; "" when it did not
    retcode: int  # as Salt counts: 0 when all went well
    at: float  # the node's clock when it answered, seconds since 1970


@dataclass
class Question:
    """A question that was sent as one job to some nodes."""

    job: str
    function: str
    nonce: str
    minions: frozenset[str] | None = None  # whom; None: any
    what: str = ""  # the asker's own word for it
    at: float = field(default_factory=time.time)  # seconds since 1970
    answered: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)  # by minion that was asked, why its last answer did not count

    def take(self, minion: str, said: object, secret: bytes) -> tuple[Answer | None, str]:
        """
        Verify what came as an answer.

        Returns:
            The answer, once for each minion, and ""; or None and why it does not count. "" with None: nothing new, or
            nobody asked this minion.
        """
        if minion in self.answered or self.minions is not None and minion not in self.minions:
            return None, ""
        answer, why = check(said, minion, self, secret)
        if answer is not None:
            self.answered.add(minion)
            self.refused.pop(minion, None)
        elif self.minions is not None:
            self.refused[minion] = why
        return answer, why

    def missing(self) -> list[str]:
        """The minions without an answer that counts."""
        return sorted((self.minions or frozenset()) - self.answered)


def question(job: str, function: str, minions: Iterable[str], what: str = "") -> Question:
    """A new question, with a nonce of its own."""
    return Question(job, function, nonce(), frozenset(minions), what)


def nonce() -> str:
    """128 random bits. Begins with a letter: a command line reads 12e45 as a number."""
    return "n" + secrets.token_hex(16)


def check(said: object, minion: str, asked: Question, secret: bytes) -> tuple[Answer | None, str]:
    """
    Verify an answer. Never raises, whatever it is.

    Args:
        said: what came over the bus.
        minion: in whose name it came.
        asked: the question.
        secret: of authentic.load_secret.

    Returns:
        The answer and "", or None and one of UNSIGNED, NO_MODULE, NO_KEY, WRONG.
    """
    if isinstance(said, str) and FUNCTION in said[:200] and "not available" in said[:200]:
        return None, NO_MODULE
    if not isinstance(said, dict) or "signature" not in said:
        return None, UNSIGNED
    its = {name: said.get(name) for name in _SIGNED}
    given, at, retcode, error = said["signature"], its["at"], its["retcode"], its["error"]
    if given == "":
        return None, NO_KEY
    if not (isinstance(given, str) and len(given) == 64 and given.isascii() and isinstance(at, (int, float))
            and type(retcode) is int and isinstance(error, str)):
        return None, WRONG
    if (its["id"], its["nonce"], its["function"], its["job"]) != (minion, asked.nonce, asked.function, asked.job):
        return None, WRONG
    try:
        right = signature(its, key_of(secret, minion))
    except (TypeError, ValueError, RecursionError):
        return None, WRONG
    if not asked.nonce or not hmac.compare_digest(right, given):
        return None, WRONG
    return Answer(its["answer"], error, retcode, float(at)), ""


def signature(fields: dict[str, Any], key: str) -> str:
    """
    The signature of an answer: HMAC-SHA256 over PURPOSE and the fields as JSON (sorted keys, no blanks, ASCII).

    Raises:
        TypeError, ValueError, RecursionError: the fields can not be written as JSON.
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hmac.new(key.encode(), PURPOSE + text.encode(), hashlib.sha256).hexdigest()


def explained(minion: str, why: str) -> str:
    """What a person is told about an answer that does not count; "" for an unknown reason."""
    return _HELP.get(why, "").replace("ID", minion)
