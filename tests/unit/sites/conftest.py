"""What the tests of the sites have in common."""
from __future__ import annotations

import pytest

from sites import minions
from tests.unit.runners.conftest import read_once
from tests.unit.sites.door import ACCEPTED, master_on

_same_text_is_read_once = pytest.fixture(autouse=True)(read_once)
master = pytest.fixture(master_on)


@pytest.fixture
def nodes(master, monkeypatch):
    """A master whose minions answer what is in `.roles`."""
    master.roles_said = {"gw1.winterthur": "active", "gw2.winterthur.example": "standby"}
    monkeypatch.setattr(minions, "accepted", lambda _opts: ACCEPTED)
    monkeypatch.setattr(minions, "ask", lambda _opts, asked, _function: {
        minion: said for minion, said in master.roles_said.items() if minion in asked})
    return master
