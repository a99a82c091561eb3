"""A client's ipsec.conf."""
from __future__ import annotations

import pytest


def test_a_client_gets_its_file(master):
    text = master.roadwarrior("winterthur", certificate="laptop")
    for line in ("right=192.0.2.10", "rightid=@gateway.winterthur.example", "leftcert=laptop"):
        assert line in text.split()


@pytest.mark.parametrize(("version", "narrows"), [("5.2", False), ("4.10", True)])
def test_a_roadwarrior_of_libreswan_5_is_no_template(master, version, narrows):
    """One IKE_AUTH without an answer, and its instance was never called again (libreswan issue 3030)."""
    text = master.roadwarrior("winterthur", version=version)
    assert "leftmodecfgclient=yes" in text and ("narrowing=yes" in text) == narrows


@pytest.mark.parametrize("site, connection, expected", [
    ("winterthur", "bern", "winterthur: gateway:connections: no roadwarrior connection bern; known are roadwarrior"),
    ("nowhere", None, "sites/nowhere.sls is under none of"),
    ("basel", None, "basel: gateway:ping_nodes: is missing"),
])
def test_no_file_for_a_client_of_what_is_not_there(master, site, connection, expected):
    text = (master.pillar / "sites/bern.sls").read_text()
    (master.pillar / "sites/basel.sls").write_text(text.replace("site: bern", "site: basel").replace("ping_nodes", "#"))
    result = master.roadwarrior(site, connection)
    assert result["retcode"] == 1 and result["mistakes"][0].startswith(expected)
