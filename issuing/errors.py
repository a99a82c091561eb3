"""How the authority refuses, and how a runner tells it."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import SaltRunnerError


def refuse(text: str) -> SaltRunnerError:
    """The error with this text, on one line."""
    return SaltRunnerError(f"authority: {' '.join(text.split())}")


def told(context: dict[str, Any], function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """
    Call a function for a runner. Gives its result with return code 0, or its mistakes, a line each, with return code 1.

    Args:
        context: the runner's ``__context__``, which gets the return code.
    """
    try:
        found = function(*args) | {"retcode": 0}
    except SaltRunnerError as error:
        found = {"mistakes": str(error).splitlines(), "retcode": 1}
    except OSError as error:
        # Only what the system says: the path and why.
        found = {"mistakes": [f"authority: {error.filename or 'a file'}: {error.strerror}; "
                              "`authority.list` says what was issued before"], "retcode": 1}
    # An exception that leaves this function makes salt-run print a traceback.
    context["retcode"] = found["retcode"]
    return found
