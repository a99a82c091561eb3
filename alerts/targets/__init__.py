"""The ways out: each file delivers one message to one kind of target, or says why it could not.

A message is what message.py makes of an alert. deliver() returns a few words on what was answered and raises
:class:`Failed` otherwise; neither holds a secret.
"""
from __future__ import annotations

import ssl
from typing import Any


class Failed(Exception):
    """Not delivered. The text is for people: no secret, no address that holds one."""


def context(target: dict[str, Any]) -> ssl.SSLContext:
    """
    What certificates are checked with: the machine's authorities, or those in the target's `ca`.

    Raises:
        Failed: there is no such file, or it is none.
    """
    try:
        return ssl.create_default_context(cafile=target.get("ca"))
    except (OSError, ssl.SSLError) as error:
        raise Failed(f"{target.get('ca')}: {error.strerror or 'is no PEM file with certificates'}") from None


def reason(error: Exception) -> str:
    """An error in words that hold nothing of the target's configuration."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason or 'broken off'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
