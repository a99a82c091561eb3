"""What is told of each kind of thing, once somebody has changed it."""
from __future__ import annotations

import json
import os
import time

import pytest

from tests.unit.modules.drift_node import running, static


def test_an_edit_is_told_with_its_difference_and_its_formula(node):
    path = node.write("a", "one\ntwo\n")
    node.record("sshd", static(path))
    node.looks()
    node.write("a", "one\n2\n")
    assert node.looks() == {f"file_changed:{path}": {
        "severity": "warning", "was": f"as Salt wrote it, mode 0644, owner {os.getuid()}:{os.getgid()}",
        "is": "other contents", "cause": "changed by hand",
        "facts": {"formula": "sshd", "diff": "@@ -1,2 +1,2 @@\n one\n-two\n+2"}}}
    node.write("a", "one\ntwo\n")
    assert node.looks() == {}


def test_an_edit_of_the_same_length_within_a_moment_is_seen(node):
    path = node.write("a", "one\n")
    node.record("sshd", static(path))
    node.looks()
    before = os.stat(path)
    node.write("a", "two\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert node.looks()


def test_mode_and_kind_are_looked_at(node):
    path = node.write("a", "one\n")
    node.record("sshd", static(path))
    os.chmod(path, 0o666)
    assert node.looks()[f"file_changed:{path}"]["is"] == "mode 0666"
    os.unlink(path)
    os.symlink("/etc/passwd", path)
    assert node.looks()[f"file_changed:{path}"]["is"] == "a link"
    os.unlink(path)
    os.mkfifo(path)
    assert node.looks()[f"file_changed:{path}"]["is"] == "no longer a file"


def test_a_file_that_is_gone_for_one_look_is_not_told(node):
    path = node.write("a", "one\n")
    node.record("sshd", static(path))
    node.looks()
    os.unlink(path)
    assert node.looks() == {}
    assert node.module.glance()["conditions"][f"file_changed:{path}"]["is"] == "removed"
    node.write("a", "one\n")
    assert node.module.glance() == {"conditions": {}, "unknown": []}
    os.unlink(path)
    assert node.module.glance() == {"conditions": {}, "unknown": ["file_changed"]}


@pytest.mark.parametrize(("mode", "low"), [(0o600, {}), (0o644, {"show_changes": False})])
def test_what_is_secret_is_kept_and_told_as_a_digest_only(node, mode, low):
    path = node.write("secrets", "PSK one\n", mode)
    node.record("openswan", static(path, **low))
    node.looks()
    node.write("secrets", "PSK two\n", mode)
    assert node.looks()[f"file_changed:{path}"]["facts"] == {"formula": "openswan", "diff": ""}
    kept = "".join(each.read_text() for each in (node.folder / "state").rglob("*") if each.is_file())
    assert "PSK" not in kept and "PSK" not in json.dumps(node.module.differences())
    os.unlink(path)
    assert node.looks(2)[f"file_changed:{path}"]["facts"]["diff"] == ""


def test_a_public_file_that_was_closed_shows_nothing_either(node):
    path = node.write("a", "one\n")
    node.record("sshd", static(path))
    node.write("a", "a secret\n", 0o600)
    assert node.looks()[f"file_changed:{path}"]["facts"]["diff"] == ""


def test_a_large_difference_is_cut(node):
    path = node.write("a", "x\n")
    node.record("sshd", static(path))
    node.write("a", "".join(f"line {number}\n" for number in range(1000)))
    diff = node.looks()[f"file_changed:{path}"]["facts"]["diff"]
    assert len(diff.encode()) <= 2048 and diff.endswith("\n...")
    node.write("a", "y\n" * 20000)
    begun = time.monotonic()
    assert "too many lines" in node.looks()[f"file_changed:{path}"]["facts"]["diff"]
    assert time.monotonic() - begun < 0.2


def test_a_folder_that_salt_cleans_holds_nothing_else(node):
    node.write("agent/a.py", "a\n")
    node.write("agent/run", "run\n")
    low = {"state": "file", "fun": "recurse", "name": str(node.folder / "agent"), "source": "salt://agent",
           "clean": True, "exclude_pat": "E@__pycache__|^run$"}
    assert node.record("heartbeat", low)["things"] == 2
    node.looks()
    node.write("agent/__pycache__/a.pyc", "x")
    assert node.looks() == {}
    node.write("agent/b.py", "b\n")
    found = node.looks()[f"file_changed:{node.folder}/agent"]
    assert (found["is"], found["facts"]["formula"]) == ("holds b.py, which is not Salt's", "heartbeat")


def test_a_sysctl_is_told_in_the_kernels_words(node):
    node.write("sys/kernel/printk", "4\t4\t1\t7\n")
    node.record("kernel", {"state": "sysctl", "fun": "present", "name": "kernel.printk", "value": "4 4 1 7"},
                {"state": "sysctl", "fun": "present", "name": "net.ipv4.ip_forward", "value": True})
    assert node.looks() == {}
    node.write("sys/net/ipv4/ip_forward", "0\n")
    node.later(5)
    found = node.looks()["sysctl_changed:net.ipv4.ip_forward"]
    assert (found["was"], found["is"], found["facts"]) == ("1", "0", {"formula": "kernel", "diff": ""})


def test_sysctls_are_read_every_fifth_second_and_at_once_when_somebody_asks(node):
    node.write("sys/net/ipv4/ip_forward", "1\n")
    node.record("kernel", {"state": "sysctl", "fun": "present", "name": "net.ipv4.ip_forward", "value": 1})
    assert node.looks() == {}
    node.write("sys/net/ipv4/ip_forward", "0\n")
    assert node.looks() == {}
    assert [each["subject"] for each in node.module.differences()] == ["net.ipv4.ip_forward"]
    node.later(5)
    assert list(node.looks()) == ["sysctl_changed:net.ipv4.ip_forward"]


def test_a_service_that_was_stopped_is_told_once_systemd_says_so(node):
    node.starts("chrony.service")
    node.record("time", running("chrony", enable=True))
    assert node.looks() == {}
    (node.folder / "units/invocation:chrony.service").unlink()
    node.units["chrony.service"] = "inactive"
    assert node.module.glance() == {"conditions": {}, "unknown": ["service_changed"]}
    assert node.looks()["service_changed:chrony"]["is"] == "stopped"


def test_a_service_that_is_only_restarted_is_not_told(node):
    node.starts("chrony.service")
    node.record("time", running("chrony"))
    node.looks()
    (node.folder / "units/invocation:chrony.service").unlink()
    node.units["chrony.service"] = "activating"
    assert node.looks(3) == {}
    node.starts("chrony.service")
    assert node.looks(2) == {}


def test_a_service_that_was_stopping_when_systemd_was_asked_is_told_as_soon_as_it_has_stopped(node):
    node.starts("chrony.service")
    node.record("time", running("chrony"))
    node.looks()
    (node.folder / "units/invocation:chrony.service").unlink()
    node.units["chrony.service"] = "deactivating"
    assert node.looks(3) == {}
    node.units["chrony.service"] = "inactive"
    assert node.looks(2)["service_changed:chrony"]["is"] == "stopped"


def test_a_service_that_stays_stopped_is_asked_for_seldom(node):
    node.starts("chrony.service")
    node.record("time", running("chrony"))
    (node.folder / "units/invocation:chrony.service").unlink()
    node.units["chrony.service"] = "failed"
    asked = []
    run = node.module.__salt__["watching.start"]
    node.module.__salt__["watching.start"] = lambda argv, seconds: asked.append(argv) or run(argv, seconds)
    assert node.looks(5)["service_changed:chrony"]["is"] == "failed"
    assert len(asked) == 1


def test_a_service_switched_off_for_the_next_boot_is_told(node):
    node.starts("chrony.service")
    link = node.folder / "systemd/multi-user.target.wants/chrony.service"
    link.symlink_to("/lib/systemd/system/chrony.service")
    node.record("time", running("chrony", enable=True))
    link.unlink()
    found = node.looks()["service_changed:chrony"]
    assert (found["was"], found["is"]) == ("running, started at boot", "not started at boot")


def test_a_service_that_has_to_be_off_is_told_when_it_runs(node):
    node.record("services", running("rpcbind", "dead", enable=False))
    assert node.looks() == {}
    node.starts("rpcbind.service")
    assert node.looks(2)["service_changed:rpcbind"]["is"] == "running"


def test_the_ruleset_is_listed_when_the_kernel_speaks_of_it_and_not_otherwise(node):
    node.write("nftables.conf", "x", 0o600)
    node.record("firewall", {"state": "firewall", "fun": "applied", "name": "firewall"})
    assert node.module.glance() == {"conditions": {}, "unknown": ["firewall_changed"]}
    assert node.looks(5) == {}
    assert node.listed == 1
    node.ruleset = node.ruleset.replace("22", "23")
    assert node.looks() == {}
    node.told = [(0xa06, b"")]
    found = node.looks(2)[f"firewall_changed:{node.module.RULESET}"]
    assert "-\t\ttcp dport 22 accept\n+\t\ttcp dport 23 accept" in found["facts"]["diff"]
    node.ruleset, node.told = "", [(0xa06, b"")]
    assert node.looks(2)[f"firewall_changed:{node.module.RULESET}"]["is"] == "gone: nothing is filtered"


def test_a_node_without_the_packet_filter_is_left_alone(node):
    node.module.__salt__["watching.listen"] = None
    node.record("sshd", static(node.write("a", "one\n")))
    assert node.looks(2) == {}


def test_certificates_and_keys_are_looked_at_when_their_database_changes(node):
    node.write("nss/cert9.db", "1")
    low = {"state": "certs", "fun": "present", "name": "gateway", "pillar": "gateway_secrets:certificates:gateway"}
    node.record("openswan", low)
    key = f"file_changed:{node.folder}/nss"
    assert node.looks() == {}
    node.held = {"certificates": ["bb", "cc"], "keys": []}
    assert node.looks() == {}
    node.write("nss/cert9.db", "22")
    assert node.looks()[key]["is"] == "1 certificate missing, 1 key missing, 1 certificate that is not Salt's"
    node.held, _ = None, node.write("nss/cert9.db", "333")
    assert node.module.glance() == {"conditions": {}, "unknown": ["file_changed"]}


def test_a_foreign_authority_does_not_become_known_by_another_run(node):
    node.write("nss/cert9.db", "1")
    low = {"state": "certs", "fun": "present", "name": "gateway", "pillar": "gateway_secrets:certificates:gateway"}
    node.record("openswan", low)
    node.held = {"certificates": ["aa", "bb", "evil"], "keys": ["01"]}
    node.record("openswan", low)
    assert node.looks()[f"file_changed:{node.folder}/nss"]["is"] == "1 certificate that is not Salt's"
