"""Dates of certificates in words, for people."""
from __future__ import annotations

import datetime

from issuing.certificate import Entry, date_of, utc_now


def in_words(each: Entry, newest: str, renew_days: int) -> str:
    """The state of a certificate. `newest`: the serial number of its holder's newest one."""
    if each["revoked"]:
        return f"revoked on {each['revoked']['at'][:10]} ({each['revoked']['reason'].replace('_', ' ')})"
    renewed = "" if each["serial"] == newest else "; a newer one was issued"
    return expiry(each["not_after"], renew_days) + renewed


def expiry(date: str, renew_days: int, ahead: str = "valid for ", gone: str = "expired ") -> str:
    """Until when something is valid, or since when no longer."""
    left = date_of(date) - utc_now()
    days = round(abs(left) / datetime.timedelta(days=1))
    words = "less than a day" if not days else "1 day" if days == 1 else f"{days} days"
    if left < datetime.timedelta(0):
        return f"{gone}{words} ago ({date[:10]})"
    soon = " more, renew it" if ahead.startswith("valid") and days < renew_days else ""
    return f"{ahead}{words}{soon} ({date[:10]})"
