"""How the authority refuses."""
from __future__ import annotations

from salt.exceptions import SaltRunnerError


def refuse(text: str) -> SaltRunnerError:
    """The error with this text, on one line."""
    return SaltRunnerError(f"authority: {' '.join(text.split())}")
