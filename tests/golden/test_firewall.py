"""The whole ruleset of a node of each example site: a change of the template shows here, line by line."""
from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from tests.conftest import TREE, load_module

HERE = Path(__file__).parent / "firewall"


@pytest.mark.parametrize(("name", "node"), [("winterthur", "gw1"), ("bern", "gw-a")])
def test_the_ruleset_of_a_site(settings, name, node):
    firewall = load_module("_modules/firewall.py")
    firewall.__salt__ = {"ipsec.esp_proposals": load_module("_modules/ipsec.py").esp_proposals,
                         "tunnel_sizes.segment": load_module("_modules/tunnel_sizes.py").segment}
    template = (TREE / "salt/firewall/files/ruleset.nft.jinja").read_text()
    strict = jinja2.Environment(undefined=jinja2.StrictUndefined)
    made = strict.from_string(template).render(rules=firewall.rules(settings(name, node)))
    assert made == (HERE / f"{name}-{node}.nft.txt").read_text()
