"""The command line of `run`."""
from __future__ import annotations

import sys
from pathlib import Path

from peers import daemon, settings


def main(words: list[str]) -> int:
    """
    Without words the process itself, started by systemd; `check FILE` reads a settings file.

    Returns the exit code: 0 done, 1 wrong settings, 2 wrong use.
    """
    if words and (words[0] != "check" or len(words) != 2):
        print("usage: run [check FILE]", file=sys.stderr)
        return 2
    path = Path(words[1]) if words else settings.FILE
    try:
        found = settings.load(path)
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    if not words:
        daemon.serve(found)
    return 0
