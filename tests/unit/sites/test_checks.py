"""Mistakes in a site's secrets, and a site that lets in more than it should."""
from __future__ import annotations

import re

import yaml

from lab.identities import Authority, site_secrets
from tests.unit.sites.door import SECRETS


def test_a_site_that_is_open_to_the_whole_authority_is_valid_with_a_warning(master):
    """Its certificate says nothing of the site, and the site says nothing of who gets in."""
    identity = site_secrets(Authority(), {"identity": {"id": "gateway.winterthur.example", "certificate": "gateway"},
                                          "connections": []})
    (master.pillar / "secrets/winterthur.sls").write_text(yaml.safe_dump({"gateway_secrets": identity}))
    assert "warnings" not in master.validate("winterthur")
    file = master.pillar / "sites/winterthur.sls"
    file.write_text(re.sub(r" +subject: .*\n", "", file.read_text()))
    said = master.validate("winterthur")
    assert (said["valid"], said["mistakes"], said["retcode"]) == (["winterthur"], [], 0)
    assert len(said["warnings"]) == 1 and said["warnings"][0].startswith(
        "winterthur: gateway:connections:roadwarrior: lets in everybody whom the authority")
    passphrase = identity["certificates"]["gateway"]["passphrase"]
    assert passphrase not in str(said)


def test_missing_secrets_are_named_and_present_ones_never_shown(master):
    (master.pillar / "secrets/bern.sls").unlink()
    (master.pillar / "secrets/winterthur.sls").write_text(SECRETS.replace("MIIB", "c2VjcmV0"))
    lines = master.validate()["mistakes"]
    assert any(line.startswith("bern: gateway_secrets:heartbeat:key: is missing; give it in") for line in lines)
    assert any(line.startswith("winterthur: gateway_secrets:certificates:gateway:pkcs12") for line in lines)
    assert "c2VjcmV0" not in str(lines) and "secret-passphrase" not in str(lines)
