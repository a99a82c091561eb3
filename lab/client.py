"""A client of a Salt master, in a process that has had clients of others."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import salt.client

LOADED = "salt.loaded."          # where Salt's loader puts what it has loaded


@contextmanager
def client(config: Path | dict[str, Any]) -> Iterator[salt.client.LocalClient]:
    """A client for one call. `config` is the master's configuration: its file, or its content.

    Trap: Salt 3008 keeps a loaded module for all loaders of a process, with the options of the last one
    (LazyLoader._load_module). So any other client, or a runner in a test long ago that is collected just now, gives the
    job cache another folder, and every call returns False at once. What is loaded anew belongs to this client alone.

    Raises SaltClientError when the master can not be reached.
    """
    for name in [name for name in sys.modules if name.startswith(LOADED)]:
        sys.modules.pop(name, None)
    arguments = {"mopts": dict(config)} if isinstance(config, dict) else {"c_path": str(config)}
    with salt.client.LocalClient(**arguments) as made:
        yield made
