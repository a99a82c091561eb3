"""A message to Slack, or to a server that takes the same JSON (Mattermost, Rocket.Chat, Discord's /slack).

The format: https://api.slack.com/messaging/webhooks, with the classic `attachments` for the colour.
"""
from __future__ import annotations

import json
from typing import Any

from alerts.shapes import Message
from alerts.targets import webhook

_COLOURS = {"critical": "#c0392b", "warning": "#e67e22", "info": "#2980b9"}
_COLOUR_OVER = "#27ae60"
MAX_CHARACTERS = 3000  # of the text; Slack cuts a much longer one


def compose(target: dict[str, Any], message: Message) -> dict[str, Any]:
    """
    Write a message as Slack's JSON.

    Args:
        target: the target's configuration.
        message: see message.py.
    """
    text = message["text"]
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + "\n..."
    colour = _COLOUR_OVER if message["kind"] in ("recovery", "calm") else _COLOURS[message["severity"]]
    made = {"text": _escaped(message["subject"]),
            "attachments": [{"color": colour, "text": _escaped(text), "fallback": _escaped(message["subject"]),
                             "ts": int(message["at"])}]}
    return made | ({"channel": target["channel"]} if "channel" in target else {})


def deliver(target: dict[str, Any], message: Message) -> str:
    """
    Send a message; returns the server's answer in words.

    Raises:
        targets.Failed: see webhook.post.
    """
    return webhook.post(target, json.dumps(compose(target, message)).encode(), {})


def _escaped(text: str) -> str:
    """Slack's three: https://api.slack.com/reference/surfaces/formatting#escaping. So no event can mention a person."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
