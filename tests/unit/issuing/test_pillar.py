"""What is written into pillar."""
from __future__ import annotations


def test_a_certificate_of_the_operators_own_is_not_covered_up(authority):
    file = authority.pillar / "secrets/winterthur.sls"
    file.write_text("#!yaml|gpg\ngateway_secrets: {certificates: {gateway: {pkcs12: x, passphrase: y}}}\n")
    assert "gives certificates:gateway already" in authority.issue_gateway("winterthur")["mistakes"][0]
    file.write_text("#!yaml|gpg\ngateway_secrets: {certificates: [")
    assert "is not YAML" in authority.issue_gateway("winterthur")["mistakes"][0]
