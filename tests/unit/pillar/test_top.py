"""Who gets which pillar, asked of Salt's own pillar compiler."""
from __future__ import annotations

import functools

import pytest
import salt.config
import salt.pillar
import salt.utils.files

from tests.conftest import copy_pillar


@pytest.fixture(scope="module")
def pillar(tmp_path_factory):
    """What the master would send to a minion with that id, whatever the minion says of itself."""
    folder = tmp_path_factory.mktemp("master")
    copy_pillar(folder / "pillar")
    (folder / "pillar/secrets/bern.sls").write_text("#!yaml|gpg\ngateway_secrets: {heartbeat: {key: of-bern}}\n")
    (folder / "pillar/outside.sls").write_text("gateway: {nodes: {gw1: {}}}\n")
    opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "root_dir": str(folder), "cachedir": str(folder / "cache"), "extension_modules": str(folder / "ext"),
        "pillar_roots": {"base": [str(folder / "pillar")]}, "file_roots": {"base": [str(folder / "salt")]}}
    opts["__role"] = "master"

    @functools.cache
    def compiled(minion_id: str) -> dict:
        grains = {"id": "gw1.winterthur", "nodename": "gw1", "host": "gw1", "domain": "winterthur"}
        return salt.pillar.Pillar(opts, grains, minion_id, "base").compile_pillar()

    compiled.folder = folder / "pillar"
    return compiled


@pytest.mark.parametrize("minion_id, site", [
    ("gw1.winterthur", "winterthur"), ("gw2.winterthur.example.org", "winterthur"), ("gw-a.bern", "bern")])
def test_a_node_gets_its_site(pillar, minion_id, site):
    its = pillar(minion_id)
    assert its["gateway"]["site"] == site
    assert set(its) - {"gateway_secrets"} == {"gateway", "gateway_schema", "beacons"}


def test_secrets_go_to_their_own_site_only(pillar):
    assert pillar("gw-b.bern")["gateway_secrets"] == {"heartbeat": {"key": "of-bern"}}
    assert "of-bern" not in str(pillar("gw1.winterthur"))


def test_missing_secrets_are_no_error_of_the_pillar(pillar):
    its = pillar("gw1.winterthur")
    assert "_errors" not in its and "gateway_secrets" not in its


@pytest.mark.parametrize("minion_id", [
    "laptop.winterthur",             # a key that was accepted, of a machine that is no node
    "gw1.bern",                      # a node's name, another site
    "web.example.org",               # another machine of this master
    "web", "gw1.winterthur/../bern", "gw1.../outside", "gw1.outside", "gw1.schema", "*.winterthur", "gw1.{{ 7 }}"])
def test_anyone_else_gets_nothing_and_no_error(pillar, minion_id):
    assert pillar(minion_id) == {}


def test_a_broken_site_breaks_no_other(pillar):
    broken = pillar.folder / "sites/basel.sls"
    broken.write_text("gateway: {nodes: [")
    try:
        assert "_errors" in pillar("gw1.basel")
        assert "_errors" not in pillar("gw1.winterthur.example.net")
        assert pillar("web.example.net") == {}
    finally:
        broken.unlink()


def test_the_cost_does_not_grow_with_the_number_of_sites(pillar, monkeypatch):
    """Only one site's file is opened."""
    opened = set()
    true = salt.utils.files.fopen

    def watched(path, *args, **kwargs):
        opened.add(str(path))
        return true(path, *args, **kwargs)

    monkeypatch.setattr(salt.utils.files, "fopen", watched)
    pillar("gw2.winterthur")
    assert any("sites/winterthur.sls" in path for path in opened)
    assert not any("bern" in path for path in opened)
