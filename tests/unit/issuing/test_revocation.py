"""Who is on the revocation list."""
from __future__ import annotations

import datetime

from cryptography import x509

from tests.unit.issuing.door import files, listed, opened, root


def test_a_revoked_one_is_on_every_sites_list(authority):
    authority.issue_gateway("bern")
    authority.issue_roadwarrior("winterthur", ["anna", "bert"])
    first = authority.crl()
    done = authority.revoke("winterthur", "anna", "keyCompromise")
    assert (first["number"], done["number"], done["entries"]) == (1, 2, 1)
    for site, told in (("winterthur", True), ("bern", False)):
        found, revoked = listed(authority, site)
        assert found.is_signature_valid(root(authority).public_key())
        entry = found.get_revoked_certificate_by_serial_number(opened(authority)[1].serial_number)
        assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason == x509.ReasonFlags.key_compromise
        assert found.get_revoked_certificate_by_serial_number(opened(authority, "bert")[1].serial_number) is None
        assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
        assert found.next_update_utc - found.last_update_utc == datetime.timedelta(days=30)
        assert [each["ids"] for each in revoked] == (
            [["CN=anna,OU=winterthur", "anna.gateway.winterthur.example"]] if told else [])
    assert "number" not in authority.issue_roadwarrior("winterthur", "carl")
    assert listed(authority)[1][0]["again"] is False
    # back with a new certificate: the gateways must not end that tunnel, whatever is applied next
    assert authority.issue_roadwarrior("winterthur", "anna")["number"] == 3
    assert listed(authority)[1][0]["again"] is True
    assert authority.revoke("winterthur", "bert")["number"] == 4


def test_a_gateways_only_certificate_is_not_revoked(authority):
    authority.issue_gateway("winterthur")
    before = files(authority.folder)
    refused = authority.revoke("winterthur", "gateway.winterthur.example")
    assert "is the only certificate of gateway.winterthur.example" in refused["mistakes"][0]
    assert files(authority.folder) == before
    newer = authority.issue_gateway("winterthur")["certificate"]["serial"]
    assert newer not in authority.revoke("winterthur", "gateway.winterthur.example", "superseded")["revoked"]
