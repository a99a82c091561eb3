"""The state says which option is missing and changes nothing."""
from __future__ import annotations

import pytest

from tests.conftest import load_module


@pytest.fixture
def present(monkeypatch):
    module = load_module("_states/kernel_options.py")
    asked = []

    def with_missing(missing):
        def answer(features):
            asked.append(features)
            return missing
        monkeypatch.setattr(module, "__salt__", {"kernel_options.missing": answer}, raising=False)
        monkeypatch.setattr(module, "__grains__", {"kernelrelease": "7.2.7"}, raising=False)
        return module.present, asked
    return with_missing


def test_only_features_that_are_on_are_asked_for(present):
    state, asked = present([])
    assert state("k", {"firewall": False, "bonding": True})["result"] is True
    assert asked == [["bonding"]]


def test_each_missing_option_has_its_line_and_there_is_a_way_out(present):
    state, _ = present([{"name": "NFT_XFRM", "module": "nft_xfrm", "purpose": "rules by IPsec policy"}])
    result = state("k", {"firewall": True})
    assert result["result"] is False and result["changes"] == {}
    assert "CONFIG_NFT_XFRM (rules by IPsec policy)" in result["comment"].splitlines()
    assert "features:firewall" in result["comment"]
