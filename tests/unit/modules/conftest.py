"""What the tests of several modules share: of certs and its stores, of drift, of bonding and its parts."""
from __future__ import annotations

import pytest

from tests.unit.modules.drift_node import Node
from tests.unit.modules.identities import AUTHORITY, wired
from tests.unit.modules.network_node import Node as NetworkNode


@pytest.fixture(scope="module")
def certs_module():
    """The module, once for all examples that hypothesis tries in one test."""
    return wired()


@pytest.fixture
def certs():
    return wired()


@pytest.fixture
def nss(certs):
    return certs.nss


@pytest.fixture
def lists(certs, monkeypatch, tmp_path):
    """A database with an authority and, if `.text` is set, its list; `.asked` records what was installed."""
    certs.text, certs.asked = "", []

    def nss(command, **_kwargs):
        if "-I" in command:
            certs.asked.append(command)
        return certs.text

    monkeypatch.setattr(certs.nss, "LISTS", str(tmp_path / "lists"))
    known = [certs.nss.Entry("Test CA", "CT,,", AUTHORITY.certificate, False)]
    monkeypatch.setattr(certs.nss, "_entries", lambda: known)
    monkeypatch.setattr(certs.nss, "_nss", nss)
    return certs


@pytest.fixture
def node(load, tmp_path, monkeypatch):
    return Node(load("_modules/drift.py"), load("_modules/drift_things.py"), tmp_path, monkeypatch)


@pytest.fixture
def bonding(load):
    return load("_modules/bonding.py")


@pytest.fixture
def bare(bonding, tmp_path, monkeypatch):
    return NetworkNode(bonding, "bare", tmp_path, monkeypatch)


@pytest.fixture
def bonded(bonding, tmp_path, monkeypatch):
    return NetworkNode(bonding, "bonded", tmp_path, monkeypatch)
