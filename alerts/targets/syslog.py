"""A message as one line of syslog: RFC 5424, over UDP (RFC 5426), TCP (RFC 6587, octet counting), TLS (RFC 5425), or
the local socket, which takes RFC 3164 and where the sender's own name and time are left to the daemon.
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
MAX_LINE_BYTES = 1900  # bytes; every receiver has to take 480, should take 2048 (RFC 5424, 6.1)


def line(target: dict[str, Any], message: Message) -> bytes:
    """
    Args:
        target: its configuration.
        message: see message.py.
    """
    priority = FACILITIES[target.get("facility", "daemon")] * 8 + _SEVERITIES[message["severity"]]
    text = f"{message['subject']}: {' '.join(message['brief'].split())}" if message["brief"] else message["subject"]
    if target.get("protocol", "unix") == "unix":
        return _cut(f"<{priority}>gateway-alerts: {text}".encode())
    at = datetime.datetime.fromtimestamp(message["at"], datetime.UTC).isoformat(timespec="milliseconds")
    host = re.sub(r"[^!-~]", "", socket.gethostname())[:255] or "-"
    # 32473 is the number for examples (RFC 5612): this is a private element, as the @ says.
    named = (("id", message["id"]), ("kind", message["kind"]), ("site", message["site"]),
             ("severity", message["severity"]))
    data = "".join(f' {key}="{_quoted(value)}"' for key, value in named if value)
    head = f"<{priority}>1 {at.replace('+00:00', 'Z')} {host} gateway-alerts - {message['kind']} [gateway@32473{data}] "
    return _cut(head.encode() + b"\xef\xbb\xbf" + text.encode())


def deliver(target: dict[str, Any], message: Message) -> str:
    """
    Raises:
        Failed: it could not be sent. Over UDP nobody knows whether it arrived.
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
