"""Revokes certificates, and publishes the revocation list into pillar."""
from __future__ import annotations

import datetime
import re
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from issuing import certificate, files, of_site, pillar, policy, vault
from issuing.certificate import Authority, date_of, text_of, utc_now
from issuing.errors import refuse
from issuing.journal import certificates, expelled, note
from issuing.journal import read as read_journal
from sites import files as site_files

# RFC 5280, 5.3.1, without the reasons about an authority and the one that takes a revocation back
REASONS = ("unspecified", "key_compromise", "affiliation_changed", "superseded", "cessation_of_operation",
           "privilege_withdrawn")


def revoke(opts: dict[str, Any], site: str, name: str, reason: str) -> dict[str, Any]:
    """For ``authority.revoke``."""
    code = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", str(reason)).lower()
    if code not in REASONS:
        raise refuse(f"reason={reason} is none of {', '.join(REASONS)}")
    with vault.opened(opts) as authority:
        journal = read_journal(authority.folder)
        its = [each for each in certificates(journal, site) if each["name"] == name]
        if not its:
            known = sorted({each["name"] for each in certificates(journal, site)})
            raise refuse(f"{site} has no certificate of {name}; there are {', '.join(known[:20]) or 'none'}")
        if its[-1]["profile"] == "gateway":
            # With the list in their databases the peers would refuse the gateway from one moment to the next.
            *its, newest = its
            if not its:
                raise refuse(f"{newest['serial']} is the only certificate of {name}; issue a new one and apply it "
                             "first, then revoke the old one")
        live = [each for each in its if not each["revoked"] and date_of(each["not_after"]) > utc_now()]
        note(authority.folder, [{"event": "revoked", "serial": each["serial"], "reason": code,
                                 "at": text_of(utc_now())} for each in live])
        published = publish(opts, authority, None)
    return {"revoked": [each["serial"] for each in live], **published}


def crl(opts: dict[str, Any], wanted: list[str] | None) -> dict[str, Any]:
    """For ``authority.crl``. `wanted`: as of :func:`publish`."""
    with vault.opened(opts) as authority:
        return publish(opts, authority, wanted)


def publish(opts: dict[str, Any], authority: Authority, wanted: list[str] | None) -> dict[str, Any]:
    """Put a new revocation list into the pillar of some sites; None: of all that have a certificate."""
    journal = read_journal(authority.folder)
    sites = sorted({each["site"] for each in certificates(journal, None)} & set(site_files.names(opts)))
    if wanted is not None:
        for site in wanted:
            of_site.settings(opts, site)
        sites = wanted
    now = utc_now()
    next_update = now + datetime.timedelta(days=policy.value(opts, "crl_days"))
    number = 1 + max((each["number"] for each in journal if each["event"] == "crl"), default=0)
    # RFC 5280, 3.3: an expired certificate may go from the list. A day more, for slow clocks.
    entries = [each for each in certificates(journal, None)
               if each["revoked"] and date_of(each["not_after"]) > now - datetime.timedelta(days=1)]
    listed = certificate.revocation_list(authority, number, now, next_update, entries)
    # The number is used up before the list is out: no two lists ever have the same.
    note(authority.folder, [{"event": "crl", "number": number, "entries": len(entries), "at": text_of(now),
                             "next_update": text_of(next_update)}])
    pem = listed.public_bytes(Encoding.PEM).decode()
    written = []
    for site in sites:
        with files.locked(pillar.file(opts, "crls", site).parent):
            others = pillar.lists(opts, site).get("crls", {})          # what the runner lists has fetched
            written.append(pillar.write_lists(opts, site, {"crls": others | {pillar.OWN_LIST: pem},
                                                           "revoked": expelled(journal, site)}))
    return {"number": number, "entries": len(entries), "next_update": text_of(next_update), "written": written,
            "next": "; ".join(map(pillar.apply, sites))
            or "issue a certificate first: no site has one of this authority"}
