"""The formulas of a whole site, compiled and run with test=True on real minions; states of files are applied twice."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

NODES = {"gw1.winterthur": "winterthur", "gw-a.bern": "bern"}
FORMULAS = {"kernel", "bonding", "firewall", "openswan", "heartbeat", "logging", "time", "sshd", "services"}
# The result of these states depends on the machine that runs the tests: its kernel, and what manages its network.
OF_THE_HOST = {"kernel-options", "bonds", "firewall"}
# By site and file, what the file must contain.
FACTS = {
    "winterthur": {
        "/etc/ha.d/ha.cf": ["node gw1", "node gw2", "ping 192.0.2.1", "bcast bond1", "auto_failback off",
                            "respawn root /usr/local/lib/gateway/agent/run"],
        "/etc/ha.d/agent.json": ['"node": "gw1"', '"deadtime": 1.0', '"initiate": []'],
        "/etc/ha.d/gateway.conf": ["address 192.0.2.10/32 bond0", "address 198.51.100.10/32 bond1"],
        "/etc/chrony/chrony.conf": ["0.debian.pool.ntp.org"],
        "/etc/ssh/sshd_config.d/10-gateway.conf": ["PermitRootLogin prohibit-password"],
        "/etc/rsyslog.d/60-gateway.conf": ["/var/log/warn"],
        "/etc/modules-load.d/gateway.conf": ["xfrm_user"],
    },
    "bern": {
        "/etc/ha.d/ha.cf": ["node gw-a", "node gw-b", "ucast inside 198.51.100.76", "ucast outside 192.0.2.76"],
        "/etc/ha.d/gateway.conf": ["address 192.0.2.74/32 outside", "address 2001:db8:be::a/128 outside",
                                   "initiate winterthur"],
    },
}
MODES = {"/etc/ipsec.secrets": "0o600", "/etc/ha.d/resource.d/gateway": "0o755",
         "/usr/local/lib/gateway/agent/run": "0o755", "/usr/local/lib/gateway/agent/decide.py": "0o644"}


def formulas(highstate: dict) -> set[str]:
    """The formulas whose states are in a highstate, without what only takes one away (metrics.off)."""
    return {state["__sls__"].split(".")[0] for state in highstate.values()
            if not state["__sls__"].endswith(".off")} - {"gateway"}


def failures(returns: dict) -> dict[str, str]:
    """The states that failed themselves, not because of a requisite, with their comments."""
    return {state["__id__"]: state["comment"] for state in returns.values()
            if state["result"] is False and "requisite failed" not in state["comment"]}


def files(highstate: dict, root: Path) -> dict:
    """High data that writes a highstate's files under another root, without anything that runs commands."""
    high = {}
    for name, state in highstate.items():
        words = [word for word in state.get("file", []) if isinstance(word, dict)]
        arguments = {key: value for word in words for key, value in word.items()}
        if "source" in arguments or "contents" in arguments:
            path = f"{root}{arguments.get('name', name)}"
            function = "recurse" if "recurse" in state["file"] else "managed"
            kept = {key: arguments[key] for key in (
                "source", "contents", "template", "context", "mode", "show_changes", "file_mode", "dir_mode", "clean",
                "exclude_pat") if key in arguments}
            kept |= {"makedirs": True} if function == "managed" else {}
            high[path] = {"file": [function, *({key: value} for key, value in kept.items())],
                          "__sls__": state["__sls__"], "__env__": "base"}
    return high


@pytest.mark.parametrize("minion", NODES)
def test_a_bare_node_s_highstate_has_every_formula(highstates, minion):
    assert isinstance(highstates[minion], dict), highstates[minion]
    assert formulas(highstates[minion]) == FORMULAS


@pytest.mark.parametrize("minion", NODES)
def test_looking_first_on_a_bare_node_finds_nothing_wrong(looked, minion):
    assert isinstance(looked[minion], dict), looked[minion]
    wrong = failures(looked[minion])
    assert set(wrong) <= OF_THE_HOST, wrong
    assert not [text for text in wrong.values() if "Traceback" in text or "exception" in text], wrong
    assert "None" in {str(state["result"]) for state in looked[minion].values()}


def test_what_is_switched_off_is_left_out(salt_, looked):
    off = {"gateway": {"features": {"firewall": False, "time": False}}}
    highstate = salt_.call("gw1.winterthur", "state.show_highstate", pillar=off)
    assert formulas(highstate) == FORMULAS - {"firewall", "time"}
    packages = str(highstate["all-packages"])
    assert "'libreswan'" in packages and "'nftables'" not in packages and "'chrony'" not in packages


@pytest.mark.parametrize("minion", NODES)
def test_files_say_what_the_site_says_and_a_second_run_changes_nothing(salt_, highstates, minion, tmp_path):
    high = files(highstates[minion], tmp_path)
    first = salt_.call(minion, "state.high", high)
    assert not failures(first) and all(state["changes"] for state in first.values()), first
    for name, facts in FACTS[NODES[minion]].items():
        text = re.sub(r"[ \t]+", " ", Path(f"{tmp_path}{name}").read_text())
        missing = [fact for fact in facts if fact not in text]
        assert not missing, f"{name} lacks {missing}:\n{text}"
    modes = {name: oct(Path(f"{tmp_path}{name}").stat().st_mode & 0o7777) for name in MODES}
    assert modes == MODES
    second = salt_.call(minion, "state.high", high)
    assert {name: state["changes"] for name, state in second.items() if state["changes"] or not state["result"]} == {}


def test_a_shared_secret_stands_in_its_file_in_clear_and_nowhere_else(salt_, highstates, tmp_path):
    """Salt masks pillar in its returns; a template with the mask in place of the secret would lock the peer out."""
    high = {name: state for name, state in files(highstates["gw-a.bern"], tmp_path).items() if "ipsec.secrets" in name}
    ((path, state),) = high.items()
    context = next(word["context"] for word in state["file"] if "context" in word)
    assert context["secrets"] == []             # certificates only
    context["secrets"] = [{"local": "@gateway.bern.example", "peer": "@gateway.winterthur.example", "number": 0,
                           "pillar": "gateway_secrets:psk:winterthur"}]
    done = salt_.call("gw-a.bern", "state.high", high,
                      pillar={"gateway_secrets": {"psk": {"winterthur": "made-up-for-this-test"}}})
    assert '@gateway.winterthur.example : PSK "made-up-for-this-test"' in Path(path).read_text()
    assert "made-up" not in str(done)


# A site with mistakes

def only_mistakes(highstate: dict) -> bool:
    """Whether a highstate has no state that could change anything."""
    return isinstance(highstate, dict) and {function for state in highstate.values() for words in state.values()
                                            if isinstance(words, list) for function in words
                                            if isinstance(function, str)} == {"fail_without_changes"}


MISTAKES = {"gateway": {"bonds": {"external": {"virtual": "192.0.2.200"}}, "heartbeat": {"deadtime": "100ms"},
                        "featurs": {"time": False}}}
NAMED = ["winterthur: gateway:featurs: is no known key", "192.0.2.200 is outside 192.0.2.0/26", "100ms is not above"]


def test_a_site_with_mistakes_changes_nothing_and_names_all_at_once(salt_, looked):
    """Checks with test=True first, so that the real run below does no harm if the check fails."""
    compiled = salt_.call("gw1.winterthur", "state.show_highstate", pillar=MISTAKES)
    assert only_mistakes(compiled), compiled
    for test in (True, False):
        states = salt_.call("gw1.winterthur", "state.apply", test=test, pillar=MISTAKES).values()
        assert not [state for state in states if state["result"] is not False or state["changes"]]
        said = "".join(f"{state['name']} {state['comment']}" for state in states)
        assert [line for line in NAMED if line not in said] == [], said


def test_a_broken_site_file_stops_its_own_nodes_only(salt_, looked):
    file = salt_.tree / "pillar/sites/winterthur.sls"
    right = file.read_text()
    file.write_text(right + "  firewall: [")
    try:
        compiled = salt_.call_all(["gw1.winterthur", "gw-a.bern"], "state.show_highstate")
    finally:
        file.write_text(right)
    assert formulas(compiled["gw-a.bern"]) == FORMULAS
    assert "formula" not in str(compiled["gw1.winterthur"]) and "bonds" not in compiled["gw1.winterthur"]
    assert "illar" in str(compiled["gw1.winterthur"]), compiled["gw1.winterthur"]


def test_missing_secrets_are_named_before_anything_changes(salt_, looked):
    file = salt_.tree / "pillar/secrets/winterthur.sls"
    kept = file.read_text()
    file.unlink()
    try:
        compiled = salt_.call("gw1.winterthur", "state.show_highstate")
        assert only_mistakes(compiled), compiled
        assert "pillar/secrets/winterthur.sls" in str(compiled)
    finally:
        file.write_text(kept)
