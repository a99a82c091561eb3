"""
Reactions to what the gateways report
=====================================

For ``gateway_reactions`` in the master's configuration (docs/monitoring.md): looks for mistakes, and runs the command
that a reaction names. The engine ``_engines/gateway_alerts.py`` renders and runs the reactions.
"""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from salt.exceptions import SaltRunnerError

# Trap: Salt's loader has this file's own folder on the path, where runners are called like the packages. So the tree
# comes first in the path, and only for these imports.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from alerts import authentic, reaction_settings
finally:
    del sys.path[0]

__virtualname__ = "reactions"

MAX_ARGUMENT_BYTES = 4096
MAX_TIMEOUT_SECONDS = 7200


def validate() -> dict[str, Any]:
    """
    Look for mistakes in ``gateway_reactions``, as the files have it now. It counts once the master was restarted.

    Returns:
        ``reactions`` in words, ``mistakes``; ``retcode`` 1 when there are mistakes.

    CLI Example:

    .. code-block:: bash

        salt-run reactions.validate
    """
    sites = authentic.Sites(__opts__["pillar_roots"].get("base", [])).names()
    its = reaction_settings.of_master(__opts__, sites)
    words = [f"{', '.join(rule.phases)} of {', '.join([*rule.beacons, *rule.conditions]) or 'every event'}, "
             f"{' or '.join(rule.severities) or 'of any severity'}, at {', '.join(rule.sites) or 'all sites'}: "
             f"{', '.join(rule.sls)}" for rule in its.rules]
    __context__["retcode"] = 1 if its.mistakes else 0
    return {"reactions": words, "mistakes": list(its.mistakes), "retcode": __context__["retcode"]}


def command(command: list[str], arguments: list[str] | None = None, given: dict[str, Any] | None = None,
            timeout: float = 30) -> dict[str, Any]:
    """
    Run a command on the master, as Salt's user, for a reaction. No shell sees it.

    Args:
        command: the operator's own words: an absolute path, and arguments.
        arguments: further arguments.
        given: what the command can read at its standard input, as one line of JSON.
        timeout: seconds. Then the command is ended.

    Returns:
        ``retcode`` 0.

    Raises:
        SaltRunnerError: the command can not be started, takes too long, or ends with another status than 0. The text
            has no argument in it.

    CLI Example:

    .. code-block:: bash

        salt-run reactions.command '[/usr/local/bin/ticket]' '[opened, test]'
    """
    words = [*command, *(arguments or [])] if isinstance(command, list) and isinstance(arguments or [], list) else []
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words) \
            or not words[0].startswith("/"):
        raise SaltRunnerError("command: give a list of texts: the command's absolute path, then its arguments")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= MAX_TIMEOUT_SECONDS:
        raise SaltRunnerError(f"timeout: give a number of seconds, at most {MAX_TIMEOUT_SECONDS}")
    if any(len(word.encode("utf-8", "replace")) > MAX_ARGUMENT_BYTES for word in words):
        raise SaltRunnerError(f"arguments: one has more than {MAX_ARGUMENT_BYTES} bytes")
    try:
        # Not in a session of its own: the reactor ends all that a reaction has started, by its process group.
        done = subprocess.run(words, input=json.dumps(given or {}).encode() + b"\n", stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise SaltRunnerError(f"{words[0]}: took more than {timeout:g} s and was ended") from None
    except (OSError, ValueError) as error:
        raise SaltRunnerError(f"{words[0]}: can not be started ({type(error).__name__})") from None
    if done.returncode:
        raise SaltRunnerError(f"{words[0]}: ended with status {done.returncode}")
    return {"retcode": 0}
