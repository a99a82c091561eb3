"""What Salt set up on a node is recorded and compared, in a folder of the test."""
from __future__ import annotations

import hashlib
import os

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.modules.drift_node import running, static


def test_nothing_is_told_of_what_is_as_it_was(node):
    node.record("sshd", static(node.write("a", "one\n")))
    assert node.looks(3) == {}


def test_the_record_and_its_copies_are_roots_alone(node):
    node.record("sshd", static(node.write("a", "one\n")))
    state = node.folder / "state"
    assert [oct(each.stat().st_mode & 0o777) for each in (state, state / "copies", state / "record")] == [
        "0o700", "0o700", "0o600"]
    assert {each.name for each in (state / "copies").iterdir()} == {hashlib.sha256(b"one\n").hexdigest()}


def test_the_same_again_writes_nothing(node):
    low = static(node.write("a", "one\n"))
    assert len(node.record("sshd", low)["changed"]) == 1
    before = os.stat(node.folder / "state/record")
    assert node.record("sshd", low) == {"things": 1, "changed": []}
    assert os.stat(node.folder / "state/record").st_mtime_ns == before.st_mtime_ns


def test_one_formulas_run_leaves_the_others_record(node):
    first, second = node.write("a", "one\n"), node.write("b", "one\n")
    node.record("sshd", static(first))
    node.record("time", static(second))
    node.write("a", "two\n")
    node.record("time", static(second))
    assert node.looks().keys() == {f"file_changed:{first}"}
    node.record("sshd", static(first))
    assert node.looks() == {}


def test_of_a_state_that_failed_the_old_record_stays(node):
    path = node.write("a", "one\n")
    low = {"state": "file", "fun": "managed", **static(path)}
    node.record("sshd", low)
    node.write("a", "half\n")
    node.record("sshd", others=(low,))
    assert node.looks().keys() == {f"file_changed:{path}"}


def test_a_damaged_record_is_no_reason_to_fail(node):
    node.record("sshd", static(node.write("a", "one\n")))
    (node.folder / "state/record").write_text('{"formulas": {"sshd": 1}, "inputs": "", "inputs_at": ""}')
    assert node.looks() == {}
    (node.folder / "state/record").write_text("{")
    assert node.module.inputs()["inputs"] == ""


def test_the_tree_that_a_node_was_made_of_counts_as_long_as_its_modules_are_those(node):
    assert node.module.inputs()["tree"] == ""
    module = node.write("extmods/modules/drift.py", "one\n")
    node.module.compared("digest", ["sshd"], "tree")
    assert node.module.inputs()["tree"] == "tree"
    node.write("extmods/modules/drift.py", "two\n")
    assert node.module.inputs()["tree"] == ""
    node.module.compared("digest", ["sshd"], "tree")
    assert node.module.inputs()["tree"] == "tree"
    os.unlink(module)
    assert node.module.inputs()["tree"] == ""
    (node.folder / "state/tree").write_text("[")
    assert node.module.inputs()["tree"] == ""


def test_whole_runs_that_somebody_has_disabled_are_said(node):
    assert node.module.inputs()["disabled"] is False
    node.disabled = ["highstate"]
    assert node.module.inputs()["disabled"] is True


def test_nothing_is_told_while_states_are_applied(node):
    path = node.write("a", "one\n")
    node.record("sshd", static(path))
    node.looks()
    node.runs = [{"fun": "state.apply"}]
    node.write("a", "two\n")
    assert node.module.glance() is None
    node.record("sshd", static(path))
    node.runs = []
    assert node.looks() == {}


def test_a_node_that_was_not_compared_since_its_boot_says_so(node):
    node.module.CURRENT.unlink()
    assert node.looks()["not_compared:node"]["severity"] == "info"
    node.module.compared(None)
    assert node.looks() == {}


def test_inputs_are_kept_and_formulas_that_are_gone_forgotten(node):
    path = node.write("a", "one\n")
    node.record("sshd", static(path))
    node.record("old", static(node.write("b", "one\n")))
    node.module.compared("digest", ["gateway", "sshd"])
    found = node.module.inputs()
    assert (found["inputs"], found["current"]) == ("digest", True) and found["recorded_at"]
    node.write("b", "two\n")
    assert node.looks() == {}
    before = os.stat(node.folder / "state/record").st_mtime_ns
    node.module.compared("digest", ["gateway", "sshd"])
    assert os.stat(node.folder / "state/record").st_mtime_ns == before


def test_only_what_is_no_nodes_own_has_to_be_the_same_on_both(node):
    same = static(node.write("same", "192.0.2.110 and gw10\n"), template="jinja")
    own = [static(node.write(name, text), template="jinja")
           for name, text in {"a": "address 192.0.2.11/26\n", "b": "peer gw2.site\n", "c": "node 'gw1'\n"}.items()]
    by_hand = static(node.write("code", "gw1 in a comment\n"))
    node.write("bond0", "MACAddress=02:00:00:00:00:01\n")
    node.record("x", same, *own, by_hand,
                {"state": "bonding", "fun": "applied", "name": "bonds", "bonds": []})
    node.module.__salt__["nss.stored"] = lambda: [
        {"nickname": "gateway", "trust": "u,u,u", "private_key": key, "not_before": begin, "fingerprint": print_,
         "subject": "CN=g"}
        for key, begin, print_ in ((False, "2026-01-02", "old"), (True, "2026-01-01", "new"))] + [
        {"nickname": "Our CA", "trust": "CT,,", "private_key": False, "not_before": "2026", "fingerprint": "ca",
         "subject": "CN=Our CA"}]
    found = node.module.fingerprints()
    assert found.keys() == {f"{node.folder}/same", f"{node.folder}/code", "certificate gateway", "authority CN=Our CA"}
    assert found["certificate gateway"] == "new"


def test_a_certificate_without_its_key_is_another_one(node):
    node.module.__salt__["nss.stored"] = lambda: [
        {"nickname": "gateway", "trust": ",,", "private_key": False, "not_before": "2026", "fingerprint": "f",
         "subject": "CN=g"}]
    assert node.module.fingerprints() == {"certificate gateway": "f without its key"}


def test_ipsec_conf_is_compared_by_what_it_was_made_of(node):
    path = node.write("ipsec.conf", "# for 5.2\n")
    low = {"state": "ipsec", "fun": "configured", "name": path, "settings": {"connections": [{"name": "bern"}]}}
    node.record("openswan", low)
    first = node.module.fingerprints()
    node.write("ipsec.conf", "# for 4.10\n")
    node.record("openswan", low)
    assert node.module.fingerprints() == first and path in first


def test_without_settings_nothing_that_was_rendered_is_compared(node):
    def broken():
        raise CommandExecutionError("a mistake")

    node.module.__salt__["gateway.settings"] = broken
    node.record("x", static(node.write("a", "x\n"), template="jinja"))
    assert node.module.fingerprints() == {}


def test_differences_are_looked_at_afresh(node):
    node.starts("chrony.service")
    path = node.write("a", "one\n")
    node.record("time", static(path), running("chrony"))
    os.unlink(path)
    (node.folder / "units/invocation:chrony.service").unlink()
    node.units["chrony.service"] = "inactive"
    assert [(each["condition"], each["formula"], each["is"], each["diff"]) for each in node.module.differences()] == [
        ("file_changed", "time", "removed", "@@ -1 +0,0 @@\n-one"), ("service_changed", "time", "stopped", "")]


def test_a_run_with_a_pillar_of_its_own_is_told_from_one_without(node):
    import salt.payload

    job = {"pid": os.getpid(), "fun": "state.apply", "arg": [{"__kwarg__": True, "test": False}]}
    (node.folder / "cache/proc").mkdir(parents=True)
    proc = node.folder / "cache/proc/1"
    proc.write_bytes(salt.payload.dumps(job))
    assert node.module.overridden() is False
    proc.write_bytes(salt.payload.dumps(job | {"arg": [{"__kwarg__": True, "pillar": {"gateway": {}}}]}))
    assert node.module.overridden() is True


def test_a_module_that_was_not_synced_is_told_in_one_line(node):
    low = static(node.write("a", "one\n"))
    node.record("sshd", low)
    node.module.__salt__ = {name: its for name, its in node.module.__salt__.items() if "drift_things" not in name}
    for call in (node.module.glance, node.module.differences, lambda: node.record("sshd", low)):
        with pytest.raises(CommandExecutionError, match=r"^drift: drift_things\.\w+ is missing; run saltutil.sync_mod"):
            call()
