"""What was issued, and until when it is valid, in words."""
from __future__ import annotations

from typing import Any

from issuing import policy, vault, words
from issuing.journal import certificates
from issuing.journal import read as read_journal


def overview(opts: dict[str, Any], site: str | None) -> dict[str, Any]:
    """For ``authority.list``."""
    folder, renew_days = vault.folder(opts), policy.value(opts, "renew_days")
    journal = read_journal(folder)
    newest = {(each["site"], each["name"]): each["serial"] for each in certificates(journal, site)}
    rows = []
    for each in reversed(certificates(journal, site)):
        rows.append({"site": each["site"], "name": each["name"], "profile": each["profile"], "key": each["key"],
                     "serial": each["serial"],
                     "state": words.in_words(each, newest[each["site"], each["name"]], renew_days)})
    last = next((each for each in reversed(journal) if each["event"] == "crl"), None)
    own = next(each for each in journal if each["event"] == "issued" and each["profile"] == "authority")
    return {"authority": f"{own['name']}: {words.expiry(own['not_after'], renew_days)}",
            "revocation list": f"number {last['number']}, {last['entries']} entries, the next is due "
                               f"{words.expiry(last['next_update'], renew_days, 'in ', '')}"
            if last else "none was published",
            "certificates": rows}
