"""What is installed where."""
from __future__ import annotations

import pytest

from sites import minions
from tests.conftest import TREE

VERSION = (TREE / "VERSION").read_text().strip()


@pytest.fixture
def versions(nodes, monkeypatch):
    """A master with a single site, whose nodes answer what is in `.said`."""
    (nodes.pillar / "sites/bern.sls").unlink()
    nodes.said, nodes.asked = {"gw1.winterthur": VERSION, "gw2.winterthur.example": VERSION}, []

    def ask(minions, function):
        nodes.asked.append((minions, function))
        return {minion: said for minion, said in nodes.said.items() if said is not None}

    monkeypatch.setattr(minions, "ask_unsigned", lambda _opts, *asked: ask(*asked))
    return nodes


@pytest.mark.parametrize("site", [None, "winterthur"])
def test_the_version_here_and_on_each_node(versions, site):
    assert versions.version(site) == {"master": VERSION, "nodes": versions.said, "mistakes": [], "retcode": 0}
    assert versions.asked == [(list(versions.said), "gateway_version.installed")]


@pytest.mark.parametrize("said, shown", [
    (None, "silent"), ("0.9.11", "0.9.11"), ("'gateway_version.installed' is not available.", "unknown"),
    ("", "unknown"), ("1.0.0\n", "unknown"), ("1.0.0\x1b[2J", "unknown"), ("1.7", "unknown"),
    ("1.0.0" * 1000, "unknown"), ("\u0661.0.0", "unknown"), ("None", "unknown")])
def test_a_node_that_has_no_such_version_is_named(versions, said, shown):
    versions.said["gw2.winterthur.example"] = said
    result = versions.version()
    assert result["nodes"] == {"gw1.winterthur": VERSION, "gw2.winterthur.example": shown}
    assert len(result["mistakes"]) == result["retcode"] == versions.__context__["retcode"] == 1
    assert result["mistakes"][0].startswith("winterthur: gw2.winterthur.example ")
    assert shown in ("silent", said) or not said or said not in str(result)


def test_a_minion_that_was_not_asked_has_no_version(versions):
    versions.said["laptop.winterthur"] = "6.6.6"
    assert "6.6.6" not in str(versions.version())


def test_a_site_with_mistakes_does_not_hide_the_others(versions):
    (versions.pillar / "sites/bern.sls").write_text("gateway: 7\n")
    result = versions.version()
    assert result["nodes"] == versions.said and result["retcode"] == 1 and len(result["mistakes"]) == 1


def test_the_version_of_a_node_without_a_key(versions, monkeypatch):
    monkeypatch.setattr(minions, "accepted", lambda _opts: ["gw1.winterthur"])
    result = versions.version("winterthur")
    assert list(result["nodes"]) == ["gw1.winterthur"] and "gw2: no minion has an accepted key" in result["mistakes"][0]
    monkeypatch.setattr(minions, "accepted", lambda _opts: [])
    versions.asked.clear()
    assert versions.version("winterthur")["nodes"] == {} and versions.asked == []


@pytest.mark.parametrize("name", ["nowhere", "../secrets/winterthur", "*"])
def test_the_version_of_what_is_no_site(versions, name):
    result = versions.version(name)
    assert (result["nodes"], result["retcode"], len(result["mistakes"])) == ({}, 1, 1)
