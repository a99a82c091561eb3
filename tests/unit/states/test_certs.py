"""certs.present and certs.crl_present: same, changed, test=True, refused."""
from __future__ import annotations

import pytest
from salt.exceptions import CommandExecutionError

FOUND = {"wanted": {"fingerprint": "new", "not_after": "2027-01-01"}, "current": "new", "key": True,
         "missing_authorities": [], "same": True}
CRL = {"wanted": {"issuer": "CN=CA", "this_update": "2026-11-23", "next_update": "2026-12-01"}, "current": "",
       "same": False}


@pytest.fixture
def state(load, monkeypatch):
    module = load("_states/certs.py")
    module.installed, module.damage = [], ""

    def run(function, found, test=False):
        def state_of(*_args):
            if isinstance(found, Exception):
                raise found
            return found
        monkeypatch.setattr(module, "__opts__", {"test": test}, raising=False)
        monkeypatch.setattr(module, "__salt__", {
            "nss.damaged": lambda: module.damage, "certs.state_of": state_of, "certs.crl_state_of": state_of,
            "certs.install": lambda *args: module.installed.append(args),
            "certs.install_crl": lambda *args: module.installed.append(args)}, raising=False)
        return getattr(module, function)("gateway", "gateway_secrets:x")

    module.run = run
    return module


def test_what_is_there_stays(state):
    ret = state.run("present", FOUND)
    assert (ret["result"], ret["changes"], state.installed) == (True, {}, [])


def test_a_new_certificate_is_brought_in(state):
    ret = state.run("present", FOUND | {"current": "old", "missing_authorities": ["CN=CA"], "same": False})
    assert ret["result"] is True
    assert ret["changes"] == {"gateway": {"old": "old", "new": "new"}, "CN=CA": {"old": "", "new": "trusted"}}
    assert state.installed == [("gateway", "gateway_secrets:x", "", "nss")]


@pytest.mark.parametrize(("function", "found"), [
    ("present", FOUND | {"key": False, "same": False}),
    ("crl_present", CRL),
])
def test_test_mode_only_tells(state, function, found):
    ret = state.run(function, found, test=True)
    assert (ret["result"], state.installed) == (None, [])
    assert ret["changes"]


def test_what_is_neither_certificate_nor_authority_is_a_change_too(state):
    """For example, the key of an older certificate is still there."""
    ret = state.run("present", FOUND | {"same": False})
    assert list(ret["changes"]) == ["gateway"] and len(state.installed) == 1


def test_a_damaged_database_is_told(state):
    state.damage = "key4.db is missing"
    ret = state.run("present", FOUND | {"current": "", "same": False})
    assert ret["changes"]["database"] == {"old": "key4.db is missing", "new": "made anew"}
    assert "when it is restarted" in ret["comment"]


def test_a_list_is_brought_in(state):
    assert state.run("crl_present", CRL)["changes"] == {"CN=CA": {"old": "", "new": "2026-11-23"}}
    assert state.installed == [("gateway_secrets:x", "nss")]


@pytest.mark.parametrize("function", ["present", "crl_present"])
def test_an_error_is_the_comment_and_changes_nothing(state, function):
    ret = state.run(function, CommandExecutionError("certs: one line"))
    assert ret == {"name": "gateway", "result": False, "changes": {}, "comment": "certs: one line"}
