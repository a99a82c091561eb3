"""
Answers that the master can believe
===================================

Any minion can put a false answer to another's job on the master's bus. So the master's engines and orchestrations call
this module, which calls the function and signs what it returns with the key of this node's events (the pillar key
``gateway_event_key``, ``gateway_events``). An answer is one mapping::

    answer     what the function returned, as JSON; null when it failed
    error      why it failed; empty when it did not
    retcode    as Salt counts: 0 when all went well
    id         this minion
    nonce      of the question
    function, job
    at         seconds since 1970, by this node's clock
    signature  HMAC-SHA256, hexadecimal, over "gateway-answer:1", a newline, and the rest as JSON (sorted keys, no
               blanks, ASCII); empty without a key

Twin: ``nodes/answers.py``, which verifies it.
"""
from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import salt.payload
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict
    __context__: dict

log = logging.getLogger(__name__)

__virtualname__ = "gateway_answers"

PURPOSE = b"gateway-answer:1\n"  # Twin: nodes/answers.py
# What the master decides on. Nothing else: whom Salt allows to call this module gets no further function by it.
FUNCTIONS = ("drift.fingerprints", "drift.inputs", "gateway_events.conditions", "gateway_events.newest",
             "gateway_events.since", "gateway_events.taken", "gateway_version.installed", "heartbeat.daemon_ready",
             "heartbeat.healthy", "heartbeat.role", "heartbeat.standby", "heartbeat.wait_for_role", "network.connect",
             "saltutil.find_job", "state.apply", "state.highstate", "test.ping")


def __virtual__() -> str:
    return __virtualname__


def ask(nonce: str, function: str, *args: object, **kwargs: object) -> dict[str, Any]:
    """
    Call a function, and sign what it returns together with the question.

    Args:
        nonce: a random text of the question.
        function: one of FUNCTIONS.
        args, kwargs: the function's own.

    Returns:
        The mapping described above. A function that raises is an answer too, with its ``error``.

    Raises:
        CommandExecutionError: the function is none of FUNCTIONS.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' gateway_answers.ask n1 heartbeat.role
    """
    if function not in FUNCTIONS:
        raise CommandExecutionError(
            f"{str(function)[:60]!r}: this module does not sign its answers; call it without gateway_answers.ask")
    job = str(kwargs.get("__pub_jid") or "")
    given = {key: value for key, value in kwargs.items() if not key.startswith("__pub_")}
    if function.startswith("state."):
        given |= {key: value for key, value in kwargs.items() if key.startswith("__pub_")} | {"__pub_fun": function}
    answer, error = None, ""
    try:
        if function.startswith("state."):
            _show_as(function, list(args), job)
        answer = _plain(__salt__[function](*args, **given))
    except CommandExecutionError as err:
        error = str(err) or type(err).__name__
    except Exception as err:
        log.exception("%s failed", function)
        error = f"{type(err).__name__}: {err}"
    retcode = __context__.get("retcode") or 0
    if error or isinstance(answer, dict) and not (answer.get("result", True) and answer.get("success", True)):
        retcode = retcode or 1
        __context__["retcode"] = retcode
    return _signed({"id": __opts__["id"], "nonce": str(nonce), "function": function, "job": job,
                    "at": round(time.time(), 3), "retcode": int(retcode), "error": _plain(error), "answer": answer})


def _signed(fields: dict[str, Any]) -> dict[str, Any]:
    key = __salt__["pillar.get"]("gateway_event_key", "", unmask=True)
    if not key or not isinstance(key, str):
        log.error("this node has no gateway_event_key, so the master does not believe its answer: "
                  "salt '%s' saltutil.refresh_pillar", __opts__["id"])
        return {**fields, "signature": ""}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return {**fields, "signature": hmac.new(key.encode(), PURPOSE + text.encode(), hashlib.sha256).hexdigest()}


def _show_as(function: str, args: list[object], job: str) -> None:
    """
    Write into this job's file which function it really runs.

    Trap: by that file Salt keeps two state runs from running at once (state.running), and the drift beacon sees that
    states run (watching.states_run). Both look for jobs whose function begins with `state.`.
    """
    if not job:
        return
    path = Path(str(__opts__["cachedir"]), "proc", os.path.basename(job))
    # Not beside it: Salt removes a file there that it finds empty.
    new = path.parent.with_name(f"gateway_answers.{os.path.basename(job)}")
    try:
        found = salt.payload.loads(path.read_bytes())
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:
            file.write(salt.payload.dumps({**found, "fun": function, "arg": args}))
        os.replace(new, path)
    except (OSError, TypeError) as err:
        raise CommandExecutionError(f"{path}: {err}: without this file two state runs could run at once, so nothing "
                                    "was run") from err


def _plain(value: Any) -> Any:
    """A value that msgpack and JSON both return unchanged, so that the signature still fits at the other end."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    return _plain(str(value))
