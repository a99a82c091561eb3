"""A message as one line of syslog.

Over UDP (RFC 5426), TCP (RFC 6587, octet counting) and TLS (RFC 5425) it is an RFC 5424 line. The local socket takes
RFC 3164; there the syslog daemon adds host name and time.
"""
from __future__ import annotations

import contextlib
import datetime
import re
import socket
from typing import Any

from alerts.routes import FACILITIES
from alerts.shapes import Message
from alerts.targets import Failed, context, reason

_SEVERITIES = {"critical": 2, "warning": 4, "info": 6}
_PORTS = {"udp": 514, "tcp": 514, "tls": 6514}
MAX_LINE_BYTES = 1900  # every receiver must take 480, should take 2048 (RFC 5424, 6.1)


def line(target: dict[str, Any], message: Message) -> bytes:
    """
    Write a message as a line, without framing.

    Args:
        target: the target's configuration.
        message: see message.py.
    """
    priority = FACILITIES[target.get("facility", "daemon")] * 8 + _SEVERITIES[message["severity"]]
    text = f"{message['subject']}: {' '.join(message['brief'].split())}" if message["brief"] else message["subject"]
    if target.get("protocol", "unix") == "unix":
        return _cut(f"<{priority}>gateway-alerts: {text}".encode())
    at = datetime.datetime.fromtimestamp(message["at"], datetime.UTC).isoformat(timespec="milliseconds")
    host = re.sub(r"[^!-~]", "", socket.gethostname())[:255] or "-"
    # The @ marks a private element. 32473 is the enterprise number for examples (RFC 5612).
    named = (("id", message["id"]), ("kind", message["kind"]), ("site", message["site"]),
             ("severity", message["severity"]))
    data = "".join(f' {key}="{_quoted(value)}"' for key, value in named if value)
    head = f"<{priority}>1 {at.replace('+00:00', 'Z')} {host} gateway-alerts - {message['kind']} [gateway@32473{data}] "
    return _cut(head.encode() + b"\xef\xbb\xbf" + text.encode())


def deliver(target: dict[str, Any], message: Message) -> str:
    """
    Send a message; returns in words what became of it. Over UDP nobody knows whether it arrived.

    Raises:
        Failed: it could not be sent.
    """
    protocol, timeout = target.get("protocol", "unix"), target.get("timeout", 10)
    data = line(target, message)
    try:
        if protocol == "unix":
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
                there.settimeout(timeout)
                there.connect(target.get("path", "/dev/log"))
                there.send(data)
            return "given to the syslog daemon"
        host, port = target["host"], target.get("port", _PORTS[protocol])
        if protocol == "udp":
            family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind, number) as there:
                there.settimeout(timeout)
                there.sendto(data, address)
            return "sent; over UDP nobody answers"
        with socket.create_connection((host, port), timeout) as plain:
            framed = b"%d %s" % (len(data), data)
            if protocol == "tls":
                secured = context(target).wrap_socket(plain, server_hostname=host)
                secured.sendall(framed)
                with contextlib.suppress(OSError):
                    secured.unwrap()
            else:
                plain.sendall(framed)
            return "sent"
    except (OSError, ValueError) as error:
        raise Failed(reason(error)) from None


def _quoted(text: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", text)


def _cut(data: bytes) -> bytes:
    return data if len(data) <= MAX_LINE_BYTES else data[:MAX_LINE_BYTES].decode("utf-8", "ignore").encode() + b"..."
