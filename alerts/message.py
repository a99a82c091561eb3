"""Writes an alert as a message, the same for every target: subject, text, and the facts for machines."""
from __future__ import annotations

import datetime
import json
from typing import Any

from alerts import catalogue
from alerts.authentic import rank
from alerts.incident import Alert
from alerts.intake import seconds
from alerts.shapes import Line, Message
from alerts.spool import chosen, joined

_MAX_LINES = 12  # conditions that the text names
MAX_CONDITIONS_BYTES = 64 * 1024  # of the conditions of one message, as JSON; the least severe ones are only counted
MAX_DIGEST_ALERTS, MAX_DIGEST_BYTES = 2000, 512 * 1024  # that a digest names for machines, and their bytes as JSON
_KINDS = {"alert": "", "escalation": "now worse: ", "update": "also: ", "recovery": "over: ",
          "flapping": "comes and goes: ", "calm": "calm again: ", "test": "test: ", "path": "sign of life: "}


def compose(alert: Alert) -> Message:
    """
    Write an alert as the message that goes into the queue.

    Returns:
        id, kind, site, severity, at (seconds since 1970), incident, subject, text, brief (the next step, one line),
        conditions (for machines), more (conditions that are not among these), caused (when the node
        noticed the event that led to the alert, as `at`).
    """
    lines = alert.lines or []
    described = [catalogue.describe(line, alert.site) for line in lines]
    first = described[0] if described else {"happened": "something", "means": "", "done": "", "todo": ""}
    label = "over" if alert.kind in ("recovery", "calm") and not any(line["open"] for line in lines) else alert.severity
    rest = max(0, len(lines) + alert.more - 1)
    named = _first([_fields(line) for line in lines], MAX_CONDITIONS_BYTES)
    subject = f"[{label}] {alert.site or 'gateways'}: {_KINDS.get(alert.kind, '')}{first['happened']}"
    if rest > 0:
        subject += f" (and {rest} more)"
    return {"id": alert.id, "kind": alert.kind, "site": alert.site, "severity": alert.severity, "at": alert.at,
            "incident": alert.incident, "subject": _cut(subject, 180), "text": _text(alert, lines, described),
            "brief": first["todo"] if label != "over" else "", "conditions": named, "more": rest + 1 - len(named),
            "caused": _caused(alert, lines)}


def _caused(alert: Alert, lines: list[Line]) -> float:
    """When the cause was noticed, by the nodes' clocks: of an alert its first event, of all other kinds the last."""
    if alert.kind == "alert":
        return min((seconds(line["at"]) for line in lines), default=alert.at)
    return max((seconds(line["recovered_at"] or line["at"]) for line in lines), default=alert.at)


def _text(alert: Alert, lines: list[Line], described: list[dict[str, str]]) -> str:
    at = datetime.datetime.fromtimestamp(alert.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    out = [f"Site {alert.site or '(all)'}, {alert.severity}, {at}"]
    if alert.silenced:
        out.append("The site was silenced. The silence has ended; this is the state now.")
    if alert.kind == "flapping":
        out.append("The condition comes and goes. The next alert comes when it has been quiet for a while.")
    if not lines:
        return "\n".join(out) + "\n"
    first, words = lines[0], described[0]
    over = not first["open"] and not first["once"]
    happened = [f"  {_sentence(words['happened'])}", f"  {_detail(first)}"]
    if first.get("times"):
        happened.append(f"  It began {first['times']} times.")
    if first["cause"]:
        happened.append(f"  Cause: {first['cause']}")
    out += ["", "What happened", *happened]
    if not over:
        out += ["", "What it means for users", f"  {words['means']}",
                "", "What was done automatically", f"  {words['done']}",
                "", "What to do", f"  {words['todo']}"]
    if lines[1:] or alert.more:
        out += ["", "Also, from the same site within half a minute"]
        for line, each in list(zip(lines, described, strict=True))[1:_MAX_LINES]:
            state = "over" if not line["open"] and not line["once"] else line["severity"]
            out.append(f"  - [{state}] {_sentence(each['happened'])}")
            if not over and state == "critical":
                out.append(f"    To do: {each['todo']}")
        left = max(0, len(lines) - _MAX_LINES) + alert.more
        severe = alert.severe + sum(line["severity"] == "critical" and (line["open"] or line["once"])
                                    for line in lines[_MAX_LINES:])
        if left:
            out.append(f"  - and {_more(left, severe)}: salt-run alerts.open")
    return "\n".join(out) + "\n"


def _detail(line: Line) -> str:
    """The sentence with what the event says itself."""
    if line["recovered_at"]:
        return f"{line['id']} says {line['is'] or 'over'}, at {_short(line['recovered_at'])}; it had begun at " \
               f"{_short(line['since'])}."
    return f"{line['id']} ({line['role']}) says {line['was'] or '-'} -> {line['is'] or '-'}, since " \
           f"{_short(line['since'])}, noticed at {_short(line['at'])}."


def _short(time: str) -> str:
    return time[:19].replace("T", " ")


def _sentence(text: str) -> str:
    """With a full stop."""
    return f"{text}."


def _more(count: int, severe: int) -> str:
    """How many more there are."""
    return f"{count} more" + (f", {severe} of them critical" if severe else "")


def _fields(line: Line) -> dict[str, Any]:
    names = ("id", "node", "role", "beacon", "condition", "subject", "severity", "was", "is", "since", "at", "cause",
             "open", "once", "recovered_at", "n", "journal")
    fields = dict(line)
    return {name: fields[name] for name in names}


def _first(items: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The first of some mappings: as many as have at most this many bytes as JSON."""
    for number, each in enumerate(items):
        most -= len(json.dumps(each)) + 2
        if most < 0:
            return items[:number]
    return items


def digest(messages: list[Message], number: str) -> Message:
    """
    Join several messages to one.

    Args:
        messages: as they stood in the queue; digests among them are taken apart.
        number: the id is `digest-NUMBER`.
    """
    entries, count, critical = joined(messages)
    sites = {entry["site"] for entry in entries}
    severity = max((entry["severity"] for entry in entries), key=rank)
    last, caused = entries[-1]["at"], min(entry["caused"] or entry["at"] for entry in entries)
    entries = chosen(entries, MAX_DIGEST_ALERTS, MAX_DIGEST_BYTES)
    site = sites.pop() if len(sites) == 1 else ""
    text = [f"{count} alerts came faster than they can be sent one by one. The newest is last:", ""]
    shown = chosen(entries, 300, MAX_DIGEST_BYTES)
    for entry in shown:
        at = datetime.datetime.fromtimestamp(entry["at"], datetime.UTC).strftime("%H:%M:%S")
        text.append(f"  {at} {entry['subject']}")
    if count > len(shown):
        left = critical - sum(entry["severity"] == "critical" for entry in shown)
        text.append(f"  and {_more(count - len(shown), left)}")
    text += ["", "What is wrong now: salt-run alerts.open"]
    conditions = [condition for message in messages for condition in message.get("conditions", [])]
    conditions = sorted(conditions, key=lambda each: -rank(each["severity"]))
    named = _first(conditions, MAX_CONDITIONS_BYTES)
    more = len(conditions) - len(named) + sum(message.get("more", 0) for message in messages)
    return {"id": f"digest-{number}", "kind": "digest", "site": site, "severity": severity,
            "at": last, "incident": "", "subject": f"[{severity}] {site or 'gateways'}: {count} alerts",
            "text": "\n".join(text) + "\n", "brief": "salt-run alerts.open", "conditions": named, "more": more,
            "alerts": entries, "caused": caused}


def simple(kind: str, name: str, at: float, condition: str, text: str, site: str = "") -> Message:
    """A message about the alerts themselves: a test (kind `test`) or the sign of life (kind `path`)."""
    line: Line = {"id": "master", "node": "", "role": "unknown", "beacon": "master", "condition": condition,
                  "subject": "", "severity": "info", "was": "", "is": "", "since": iso(at), "at": iso(at),
                  "cause": text, "open": False, "once": True, "recovered_at": "", "n": 0, "journal": ""}
    return compose(Alert(name, kind, site, "info", at, "", [line]))


def iso(at: float) -> str:
    """A time in seconds since 1970 as ISO 8601, UTC, as in events."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest - 3] + "..."
