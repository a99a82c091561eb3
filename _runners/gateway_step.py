"""
One step of an orchestration, on one node
=========================================

``salt.state`` and ``salt.function`` believe the first thing on the master's bus that looks like the node's answer, and
any minion can put it there. Because of such answers the orchestrations under ``salt/orch`` move roles, and go on from
the standby to the active node. So they call this runner: it takes only what the node itself has signed
(``_modules/gateway_answers.py``).
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import salt.utils.state

# Trap: Salt's loader has this file's own folder on the path, where runners are called like the packages. So the tree
# comes first in the path, and only for these imports.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from nodes import asking
    from nodes.keys import Keys
finally:
    del sys.path[0]

__virtualname__ = "gateway_step"

SECONDS = 300  # for a function
APPLY_SECONDS = 1500  # for a state run, as long as the node works on it


def __virtual__() -> str:
    return __virtualname__


def run(minion: str, call: str, arguments: list[Any] | None = None, named: dict[str, Any] | None = None,
        ) -> dict[str, Any]:
    """
    Call a function on one node, and fail unless the node itself says that it succeeded.

    Args:
        minion: the node's minion id.
        call: the function, one of those that ``gateway_answers`` signs for.
        arguments, named: the function's.

    Returns:
        ``ret``: by minion what it returned, False without a valid answer; ``why``: by minion without one, why; and, if
        the step failed, ``Error``, one line, and ``retcode`` 1.

    CLI Example:

    .. code-block:: bash

        salt-run gateway_step.run gw1.winterthur heartbeat.healthy '["active"]'
    """
    state_run = call.startswith("state.")
    try:
        said = asking.ask(dict(__opts__), Keys(__opts__["pki_dir"]), [minion], call, arguments or [], named,
                          APPLY_SECONDS if state_run else SECONDS, long=True)
    except Exception as error:  # noqa: BLE001  # the master can not be reached, or its key not be read
        return _result({"ret": {minion: False}, "why": {minion: f"was not asked: {error}"}},
                       f"{minion}: {call}: was not asked: {error}")
    its = said.answers.get(minion)
    if its is None:
        why = said.missing.get(minion, "")
        return _result({"ret": {minion: False}, "why": {minion: why}}, f"{minion}: {call}: {why}")
    value = f"ERROR: {its.error}" if its.error else its.value
    good = not its.error and not its.retcode and value is not False
    if state_run:
        good = good and isinstance(value, dict) and salt.utils.state.check_result(value)
    return _result({"ret": {minion: value}}, "" if good else f"{minion}: {call} failed")


def _result(result: dict[str, Any], wrong: str) -> dict[str, Any]:
    """The result. The return code is for salt-run, `Error` for the state salt.runner."""
    __context__["retcode"] = 1 if wrong else 0
    return {**result, **({"Error": wrong, "retcode": 1} if wrong else {})}
