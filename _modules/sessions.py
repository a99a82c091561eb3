"""
Copies of the tunnels on the standby
====================================

Asks the process ``gateway-sessions`` of this node, which copies the active node's tunnels into the standby's kernel
(docs/session-takeover.md). No answer contains a key.
"""
from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

__virtualname__ = "sessions"

SOCKET = Path("/run/gateway-sessions.sock")
SETTINGS = Path("/etc/ha.d/sessions.json")
PROGRAM = Path("/usr/local/lib/gateway/sessions/run")
ANSWER_SECONDS = 10.0
POSSIBLE_SECONDS = 30.0
MAX_ANSWER_BYTES = 1 << 20


def __virtual__() -> str:
    return __virtualname__


def possible() -> bool:
    """
    Whether this node's kernel can do it: the process needs nf_tables. False also where the process is not installed.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' sessions.possible
    """
    if not PROGRAM.exists():
        return False
    try:
        return bool(__salt__["commands.run"]([str(PROGRAM), "possible"], timeout=POSSIBLE_SECONDS)["retcode"] == 0)
    except CommandExecutionError:
        return True  # too busy to say: systemd will show


def status() -> dict:
    """
    How many tunnels are copied, and how old the copies are.

    Returns:
        ``on``: whether this site copies its tunnels; without it nothing but ``why``. ``role``: active, standby,
        released (gives its tunnels away) or unknown; ``connected``, and over which ``path``; ``age``: seconds since the
        other node last confirmed (active) or told (standby) all that there is; ``complete``: the copies are whole;
        ``states`` and ``policies``: how many, ``adopted``: how many of the states came from the other node;
        ``refused``: how many states are not copied, by reason; ``jump``: by how many numbers a copy goes ahead;
        ``max_age``: seconds up to which copies are adopted; ``why``: what is missing; ``notes``: the last things that
        went wrong.

    Raises:
        CommandExecutionError: the process does not run or does not answer.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' sessions.status
    """
    if not SETTINGS.exists():
        return {"on": False, "why": "the site has `sessions: false`, the profile `paper`, or no IPsec"}
    return {"on": True, **_ask({"command": "status"})}


def verify(nonce: str = "00") -> dict:
    """
    Compares what this node's kernel holds with what it should hold.

    nonce
        Hexadecimal digits. With the same ones both nodes compute the same ``digest`` when they hold the same tunnels,
        keys included.

    Returns:
        ``role``, ``states``, ``policies``, ``digest``, and ``wrong``: a line for each state or policy that is missing
        or differs, 20 at most; empty when all is well.

    Raises:
        CommandExecutionError: the process does not run or does not answer, or the nonce is not hexadecimal.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' sessions.verify
    """
    nonce = str(nonce)
    if not re.fullmatch(r"([0-9a-fA-F]{2}){1,64}", nonce):
        raise CommandExecutionError(
            f"nonce: {nonce[:40]!r} is not hexadecimal; give an even number of digits, such as 7f03")
    return _ask({"command": "verify", "nonce": nonce})


def adopted() -> list[dict]:
    """
    The tunnels that this node serves and has taken over from the other one: its IPsec daemon does not know them.

    Returns:
        For each ``inner`` (the peer's network inside), ``peer`` (its address outside), ``peer_id`` (empty where nobody
        knows), ``tunnel`` (the connection's name), ``since`` (seconds since 1970) and ``reqid`` (the kernel's, which
        its states have). Empty where the site does not copy tunnels.

    Raises:
        CommandExecutionError: the process does not run or does not answer.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' sessions.adopted
    """
    if not SETTINGS.exists():
        return []
    found: list[dict] = []
    while more := _ask({"command": "adopted", "after": len(found)})["tunnels"]:
        found += more
    return found


def end(inner: list[str]) -> int:
    """
    Ends adopted tunnels, on both nodes. The peers are not told; they call again when they notice.

    inner
        The peers' networks inside, as :py:func:`adopted` has them.

    Returns how many states that were.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.winterthur' sessions.end '["198.51.100.161/32"]'
    """
    return _ask({"command": "end", "inner": list(inner)})["ended"]


def _ask(question: dict) -> dict:
    """The process's answer to one question."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(ANSWER_SECONDS)
            client.connect(str(SOCKET))
            client.sendall(json.dumps(question).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n") and len(data) < MAX_ANSWER_BYTES:
                more = client.recv(65536)
                if not more:
                    raise ConnectionError("it ended")
                data += more
        answer = json.loads(data)
    except (FileNotFoundError, ConnectionError) as error:
        raise CommandExecutionError(
            f"gateway-sessions does not run here ({error}): tunnels are not copied to the other node. "
            "`systemctl status gateway-sessions`, `journalctl -t gateway-sessions`") from None
    except (OSError, ValueError) as error:
        raise CommandExecutionError(f"gateway-sessions does not answer ({error}): "
                                    "`systemctl restart gateway-sessions`; that ends no tunnel") from None
    if "error" in answer:
        raise CommandExecutionError(f"gateway-sessions: {answer['error']}")
    return answer
