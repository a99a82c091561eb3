"""What was issued, in words."""
from __future__ import annotations

import re


def test_the_list_says_it_in_words(authority):
    authority.policy["roadwarrior_days"] = 10
    authority.issue_roadwarrior("winterthur", "anna")
    authority.policy["roadwarrior_days"] = 365
    authority.issue_roadwarrior("winterthur", ["anna", "bert"])
    authority.revoke("winterthur", "bert", "affiliation_changed")
    states = [(each["name"], re.sub(r"\d{4}-\d\d-\d\d", "DATE", each["state"]))
              for each in authority.list_("winterthur")["certificates"]]
    assert states == [("bert", "revoked on DATE (affiliation changed)"), ("anna", "valid for 365 days (DATE)"),
                      ("anna", "valid for 10 days more, renew it (DATE); a newer one was issued")]
    assert authority.list_("bern")["certificates"] == []
