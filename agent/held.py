"""The note of the addresses that this node holds, for a later agent, whose settings may name others."""
from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from agent import history
from agent.addresses import Addresses
from agent.settings import Address, Settings

HELD_FILE = Path("/run/gateway-agent.addresses")


def former(path: Path = HELD_FILE) -> list[Address]:
    """The addresses that this node held last. Empty where nothing is noted."""
    try:
        return [Address(*each) for each in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def note(addresses: Iterable[Address], path: Path = HELD_FILE) -> None:
    """Notes the addresses that this node holds from now on. Raises OSError.

    For none of them the file stays, and with it the room that it has: /run may be full when it is needed next.
    """
    history.replace(path, json.dumps(list(addresses)))


def release(settings: Settings | None) -> None:
    """Takes all virtual IPs off this node, those of former settings too. Raises OSError."""
    wanted = {*former(), *(settings.addresses if settings else ())}
    Addresses(wanted).leave()
    HELD_FILE.unlink(missing_ok=True)
