"""The daemon follows its file: when it is reloaded, restarted, or must wait."""
from __future__ import annotations

import pytest
from salt.exceptions import CommandExecutionError

NOTHING = {"restart": [], "add": [], "replace": [], "remove": [], "authority": []}


@pytest.fixture
def state(load, monkeypatch):
    module = load("_states/ipsec.py")
    module.calls, module.reissued = [], []

    def set_up(pending, held=(), test=False, refused=(), alive=True, installed="CN=Our CA"):
        def reload():
            module.calls.append("reload")
            return {key: pending[key] for key in ("add", "replace", "remove")} | {"refused": list(refused)}
        monkeypatch.setattr(module, "__opts__", {"test": test}, raising=False)
        monkeypatch.setattr(module, "__salt__", {
            "ipsec.running": lambda: alive, "ipsec.reload": reload,
            "ipsec.pending": lambda reissued: module.reissued.extend(reissued) or pending,
            "certs.state_of": lambda _name, _pillar: {"issuer": installed, "wanted": {"issuer": "CN=Our CA"}},
            "ipsec.restart": lambda: module.calls.append("restart") or True,
            "network.ip_addrs": lambda **_: list(held), "network.ip_addrs6": lambda **_: []}, raising=False)
        return module.current("ipsec", ["192.0.2.10", "198.51.100.10"], ["gateway"])

    module.run = set_up
    return module


def test_nothing_to_do(state):
    ret = state.run(NOTHING)
    assert (ret["result"], ret["changes"], state.calls) == (True, {}, [])


def test_changed_connections_are_reloaded_on_either_node(state):
    ret = state.run(NOTHING | {"replace": ["bern"]}, held=["192.0.2.10"])
    assert ret["changes"] == {"connections": {"replace": ["bern"]}}
    assert state.calls == ["reload"]


def test_the_standby_restarts_for_an_option_of_the_daemon(state):
    ret = state.run(NOTHING | {"restart": ["listen"]})
    assert (ret["result"], state.calls) == (True, ["restart"])
    assert ret["changes"]["daemon"]["new"] == "listen"


def test_the_active_node_waits_and_says_so(state):
    ret = state.run(NOTHING | {"restart": ["listen"]}, held=["192.0.2.10"])
    assert (ret["result"], ret["changes"], state.calls) == (True, {}, [])
    assert "192.0.2.10" in ret["comment"] and "switch over" in ret["comment"]


def test_a_refused_connection_is_an_error_unless_a_restart_is_pending(state):
    pending = NOTHING | {"add": ["bern"]}
    assert state.run(pending, refused=["bern"])["result"] is False
    assert state.run(pending | {"restart": ["ikev1-policy"]}, held=["192.0.2.10"], refused=["bern"])["result"] is True


@pytest.mark.parametrize("pending", [NOTHING | {"add": ["bern"]}, NOTHING | {"restart": ["listen"]}])
def test_test_mode_does_nothing(state, pending):
    ret = state.run(pending, test=True)
    assert (ret["result"], state.calls) == (None, [])
    assert ret["changes"]


@pytest.mark.parametrize(("installed", "test", "reissued"), [
    ("CN=Another CA", True, ["gateway"]), ("CN=Our CA", True, []), ("", True, []), ("CN=Another CA", False, [])])
def test_looking_first_asks_who_will_have_issued_the_certificate(state, installed, test, reissued):
    state.run(NOTHING, test=test, installed=installed)
    assert state.reissued == reissued


@pytest.mark.parametrize("test", [True, False])
def test_a_connection_of_another_authority_is_told(state, test):
    ret = state.run(NOTHING | {"replace": ["roadwarrior"], "authority": ["roadwarrior"]}, ["192.0.2.10"], test)
    assert ret["changes"] == {"connections": {"replace": ["roadwarrior"]}}
    assert ret["result"] is (None if test else True)
    assert "another authority" in ret["comment"] and "roadwarrior" in ret["comment"]


def test_a_dead_daemon_is_an_error(state):
    assert state.run(NOTHING, alive=False)["result"] is False
    assert state.run(NOTHING, alive=False, test=True)["result"] is None


def test_a_refused_configuration_reaches_no_file(state, monkeypatch):
    monkeypatch.setattr(state, "__states__", {}, raising=False)
    monkeypatch.setattr(state, "__salt__", {"ipsec.sections": lambda _s: {}, "ipsec.problems": lambda _s: ["bern: no"]},
                        raising=False)
    assert state.configured("/etc/ipsec.conf", "salt://x", {"site": "s"}) == {
        "name": "/etc/ipsec.conf", "result": False, "changes": {}, "comment": "bern: no"}

    def broken(_settings):
        raise CommandExecutionError("ipsec: one line")
    monkeypatch.setitem(state.__salt__, "ipsec.sections", broken)
    assert state.configured("/etc/ipsec.conf", "salt://x", {"site": "s"})["comment"] == "ipsec: one line"


def test_a_connection_that_is_open_to_all_is_a_warning_and_no_failure(state, monkeypatch):
    monkeypatch.setattr(state, "__salt__", {"ipsec.open_connections": lambda _s: ["winterthur: open"]}, raising=False)
    ret = state.admits("x", {"site": "s"})
    assert (ret["result"], ret["changes"], ret["warnings"]) == (True, {}, ["winterthur: open"])
    monkeypatch.setitem(state.__salt__, "ipsec.open_connections", lambda _s: [])
    assert "warnings" not in state.admits("x", {"site": "s"})


def test_a_good_configuration_goes_through_the_daemons_parser(state, monkeypatch):
    seen = {}
    monkeypatch.setattr(state, "__states__", {"file.managed": lambda _name, **kwargs: seen.update(kwargs)},
                        raising=False)
    monkeypatch.setattr(state, "__salt__", {"ipsec.sections": lambda _settings: {"config setup": {}},
                                            "ipsec.problems": lambda _sections: []}, raising=False)
    state.configured("/etc/ipsec.conf", "salt://x", {"site": "s"})
    assert "--checkconfig" in seen["check_cmd"]
    assert seen["context"] == {"site": "s", "sections": {"config setup": {}}}


GONE = [{"peer_id": "OU=winterthur, CN=anna", "peer": "192.0.2.50", "tunnel": "roadwarrior"}]


@pytest.mark.parametrize(("found", "test", "result", "called"), [
    ([], False, True, "expel"), (GONE, False, True, "expel"), (GONE, True, None, "expelled")])
def test_who_was_revoked_goes(load, monkeypatch, found, test, result, called):
    module, calls = load("_states/ipsec.py"), []
    monkeypatch.setattr(module, "__opts__", {"test": test}, raising=False)
    monkeypatch.setattr(module, "__salt__", {
        f"ipsec.{name}": lambda pillar, name=name: calls.append(name) or found for name in ("expel", "expelled")},
        raising=False)
    ret = module.expelled("ipsec", "gateway_secrets:revoked")
    assert (ret["result"], bool(ret["changes"]), calls) == (result, bool(found), [called])


def test_a_daemon_that_does_not_answer_is_told(load, monkeypatch):
    def fails(_pillar):
        raise CommandExecutionError("ipsec: one line")
    module = load("_states/ipsec.py")
    monkeypatch.setattr(module, "__opts__", {"test": False}, raising=False)
    monkeypatch.setattr(module, "__salt__", {"ipsec.expel": fails}, raising=False)
    assert module.expelled("ipsec", "x") == {"name": "ipsec", "result": False, "changes": {},
                                             "comment": "ipsec: one line"}
