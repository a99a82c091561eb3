"""Who is active, and what speaks against moving the active role."""
from __future__ import annotations

import pytest


def test_a_pair_by_its_roles(nodes):
    assert nodes.pair("winterthur") == {
        "site": "winterthur", "roles": nodes.roles_said, "preferred": "gw1.winterthur", "active": "gw1.winterthur",
        "standby": "gw2.winterthur.example", "mistakes": []}
    assert nodes.roles("winterthur") == nodes.roles_said
    assert nodes.active("winterthur") == "gw1.winterthur"


@pytest.mark.parametrize("first, second, roles, active, mistakes", [
    ("standby", "active", ("standby", "active"), "gw2.winterthur.example", 0),
    ("active", "active", ("split", "split"), "", 2),
    ("active", "split", ("split", "split"), "", 2),
    ("standby", "standby", ("standby", "standby"), "", 2),
    ("active", "stopped", ("active", "stopped"), "gw1.winterthur", 1),
    ("active", "Passed invalid arguments", ("active", "Passed invalid arguments"), "gw1.winterthur", 1),
    (None, "active", ("silent", "active"), "gw2.winterthur.example", 1),
])
def test_what_speaks_against_moving_a_role(nodes, first, second, roles, active, mistakes):
    nodes.roles_said = {minion: role for minion, role in zip(nodes.roles_said, (first, second), strict=True) if role}
    its = nodes.pair("winterthur")
    assert (tuple(its["roles"].values()), its["active"], len(its["mistakes"])) == (roles, active, mistakes)
    assert all(line.startswith("winterthur: gw") for line in its["mistakes"])
    if not active:
        assert nodes.active("winterthur")["retcode"] == 1


def test_a_node_without_a_key_is_named(nodes):
    its = nodes.pair("bern")
    assert its["roles"] == {} and its["mistakes"] == [
        "bern: gw-b: no minion has an accepted key; there has to be one, with the id gw-b.bern"]


def test_a_site_with_mistakes_moves_nothing(nodes):
    file = nodes.pillar / "sites/winterthur.sls"
    file.write_text(file.read_text().replace("ping_nodes:", "ping_node:"))
    its = nodes.pair("winterthur")
    assert its["active"] == "" and "did you mean ping_nodes?" in its["mistakes"][0]
