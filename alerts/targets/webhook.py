"""A message as JSON by HTTP POST, signed when the target has a secret.

With a secret, `X-Gateway-Signature: t=SECONDS,v1=HEX` is HMAC-SHA256 over SECONDS, a dot and the body.
"""
from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from alerts.shapes import Message
from alerts.targets import Failed, context, reason


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: an alert goes only to the configured address."""

    def redirect_request(self, *_args: Any) -> None:
        return None


def deliver(target: dict[str, Any], message: Message) -> str:
    """
    Send a message; returns the server's answer in words.

    Raises:
        Failed: with the server's answer, or the reason why there was none.
    """
    fields = dict(message)
    body = json.dumps({key: fields[key] for key in (
        "id", "kind", "site", "severity", "at", "caused", "incident", "subject", "text", "conditions", "more",
        "alerts")
        if key in fields}).encode()
    headers = dict(target.get("headers", {}))
    if "secret" in target:
        now = str(int(time.time()))
        digest = hmac.new(target["secret"].encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers["X-Gateway-Signature"] = f"t={now},v1={digest}"
    return post(target, body, headers)


def post(target: dict[str, Any], body: bytes, headers: dict[str, str]) -> str:
    """
    Send a body to the target's address; returns the server's answer in words.

    Raises:
        Failed: as :func:`deliver`. The text never holds the address, because Slack's addresses are secrets.
    """
    request = urllib.request.Request(target["url"], data=body, method="POST", headers={
        "Content-Type": "application/json; charset=utf-8", "User-Agent": "gateway-alerts", **headers})
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if target["url"].startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=context(target)))
    else:
        handlers.append(urllib.request.ProxyHandler({}))  # http goes only to the master itself, never through a proxy
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=target.get("timeout", 10)) as answer:
            answer.read(4096)
            return f"answered {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            raise Failed(f"answered {error.code}") from None
    except urllib.error.URLError as error:
        why = error.reason
        raise Failed(reason(why) if isinstance(why, Exception) else "can not be reached") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failed(reason(error)) from None
