"""Which sites the lab boots: the examples, and an operator's own beside them."""
from __future__ import annotations

import shutil

import pytest

from lab import topology
from tests.conftest import EXAMPLES, TREE


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder for an operator's own sites, in a temporary tree."""
    (tmp_path / "pillar/sites").mkdir(parents=True)
    for path in ("pillar/schema.sls", "_modules/gateway.py", "_modules/_peers.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(TREE / path, tmp_path / path)
    monkeypatch.setattr(topology, "TREE", tmp_path)
    return tmp_path / "pillar/sites"


def test_the_examples_are_there_without_anything_of_an_operators(own):
    assert topology.EXAMPLE_SITES == EXAMPLES / "sites" and topology.sites() == ["bern", "winterthur"]
    assert [host.minion_id for host in topology.site("bern", topology.Counter()).gateways] == ["gw-a.bern", "gw-b.bern"]


def test_an_own_site_is_booted_too(own):
    text = (EXAMPLES / "sites/bern.sls").read_text()
    (own / "zug.sls").write_text(text.replace("site: bern", "site: zug"))
    assert topology.sites() == ["bern", "winterthur", "zug"]
    assert [host.minion_id for host in topology.site("zug", topology.Counter()).gateways] == ["gw-a.zug", "gw-b.zug"]


def test_an_own_site_comes_before_an_example_of_its_name(own):
    (own / "bern.sls").write_text((EXAMPLES / "sites/bern.sls").read_text().replace("gw-a", "left"))
    assert [host.name for host in topology.site("bern", topology.Counter()).gateways] == ["left", "gw-b"]


def test_git_ignores_an_operators_sites_and_secrets():
    ignored = (TREE / ".gitignore").read_text().splitlines()
    assert {"/pillar/sites/*.sls", "/pillar/secrets/*.sls", "/pillar/secrets/issued/", "/pillar/secrets/crls/",
            "/pillar/alerts.sls"} <= set(ignored)
