"""Prints one line for each step, with the time since the command began."""
from __future__ import annotations

import os
import sys
import time

# In the environment, because the command goes on as another process in the namespaces: the clock covers all of it.
_START = float(os.environ.setdefault("LAB_STARTED", str(time.time())))


def elapsed() -> float:
    """Seconds since the user's command began."""
    return time.time() - _START


def step(text: str) -> None:
    """Print one step on standard error: standard output carries results only."""
    print(f"[{elapsed():6.1f} s] {text}", file=sys.stderr, flush=True)
