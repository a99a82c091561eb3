"""The types of targets: each file delivers a message to one type, or says why it could not.

A message is what message.py makes of an alert. deliver() returns the target's answer in a few words, or raises
:class:`Failed`. Neither holds a secret.
"""
from __future__ import annotations

import ssl
from typing import Any


class Failed(Exception):
    """The message was not delivered. The text is for people; it holds no secret, and no address that is one."""


def context(target: dict[str, Any]) -> ssl.SSLContext:
    """
    The settings for TLS: certificates are checked with the machine's authorities, or with those in the target's `ca`.

    Raises:
        Failed: the file `ca` does not exist, or holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=target.get("ca"))
    except (OSError, ssl.SSLError) as error:
        raise Failed(f"{target.get('ca')}: {error.strerror or 'is no PEM file with certificates'}") from None


def reason(error: Exception) -> str:
    """Describes an error, without anything from the target's configuration."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason or 'broken off'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
