"""The runner gateway: results and exit status of what an operator asks about the sites."""
from __future__ import annotations

import re

from tests.conftest import TREE


def test_shipped_sites_are_valid(master):
    assert master.validate() == {"valid": ["bern", "winterthur"], "mistakes": [], "retcode": 0}


def test_a_fresh_clone_has_no_site_and_says_what_to_do(master):
    for file in (master.pillar / "sites").glob("*.sls"):
        file.unlink()
    result = master.validate()
    assert (result["valid"], result["mistakes"], result["retcode"], master.__context__["retcode"]) == ([], [], 0, 0)
    assert "there is no site yet" in result["next"] and f"{master.pillar}/sites/SITE.sls" in result["next"]
    assert (TREE / re.search(r"examples/\S+", result["next"])[0]).is_file()


def test_mistakes_of_all_sites_at_once_and_an_exit_status(master):
    for name in ("bern", "winterthur"):
        file = master.pillar / f"sites/{name}.sls"
        file.write_text(file.read_text().replace("ping_nodes:", "ping_node:"))
    result = master.validate()
    assert result["retcode"] == master.__context__["retcode"] == 1
    assert [line.split(":")[0] for line in result["mistakes"]] == ["bern", "bern", "winterthur", "winterthur"]
    assert "did you mean ping_nodes?" in result["mistakes"][0]


def test_one_site_only(master):
    (master.pillar / "sites/bern.sls").write_text("gateway: {}\n")
    assert master.validate("winterthur")["valid"] == ["winterthur"]


def test_a_site_that_does_not_exist(master):
    assert "sites/nowhere.sls is under none of" in master.validate("nowhere")["mistakes"][0]
