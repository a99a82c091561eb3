"""What is refused."""
from __future__ import annotations

import pytest

from tests.conftest import TREE
from tests.unit.issuing.door import files


@pytest.mark.parametrize("call, expected", [
    (lambda a: a.issue_roadwarrior("winterthur", "Anna"), "'Anna' can be no roadwarrior's name"),
    (lambda a: a.issue_roadwarrior("winterthur", "../anna"), "can be no roadwarrior's name"),
    (lambda a: a.issue_roadwarrior("winterthur", ["anna", 7]), "7 can be no roadwarrior's name"),
    (lambda a: a.issue_roadwarrior("winterthur", []), "no name was given"),
    (lambda a: a.issue_roadwarrior("../x", "anna"), "is no site's name"),
    (lambda a: a.issue_roadwarrior("basel", "anna"), "sites/basel.sls is under none of"),
    (lambda a: a.issue_roadwarrior("winterthur", "anna", "bern"), "has no roadwarrior connection bern"),
    (lambda a: a.revoke("winterthur", "anna"), "winterthur has no certificate of anna"),
    (lambda a: a.revoke("winterthur", "anna", "because"), "reason=because is none of"),
    (lambda a: (a.policy.update(key="rsa512"), a.issue_gateway("winterthur"))[1], "is rsa512; give one of ec256"),
    (lambda a: (a.policy.update(days=1), a.issue_gateway("winterthur"))[1], "gateway_authority:days in the"),
    (lambda a: (a.policy.update(gateway_days="x"), a.issue_gateway("winterthur"))[1], "is x; give a number of days"),
    (lambda a: (a.folder.chmod(0o755), a.issue_gateway("winterthur"))[1], "has to belong to Salt's user alone"),
    (lambda a: (a.policy.update(folder=str(TREE / "salt/x")), a.list_())[1], "which the file server gives"),
    (lambda a: (a.policy.update(folder=str(a.pillar)), a.list_())[1], "make it with `salt-run authority.create`"),
    (lambda a: ((a.folder / "authority.pem").write_text("x"), a.issue_gateway("winterthur"))[1], "no readable cert"),
    (lambda a: ((a.folder / "authority.key.gpg").write_text("x"), a.issue_gateway("winterthur"))[1], "--decrypt fail"),
    (lambda a: ((a.folder / "journal.jsonl").write_text("x\n"), a.list_())[1], "is damaged in line 1"),
])
def test_what_is_refused_is_told_in_one_line_and_changes_nothing(authority, call, expected):
    before = files(authority.folder) | files(authority.pillar)
    result = call(authority)
    assert result["retcode"] == authority.__context__["retcode"] == 1
    assert len(result["mistakes"]) == 1 and expected in result["mistakes"][0], result
    after = files(authority.folder) | files(authority.pillar)
    # but for what the test itself has damaged
    assert {path: data if data.strip() == b"x" else before.get(path) for path, data in after.items()} == after
    assert after.keys() == before.keys()
