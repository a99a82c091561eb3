"""What Salt set up on a node is recorded and compared, in a folder of the test."""
from __future__ import annotations

import hashlib
import json
import os
import time

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import give_time, load_module

COMMIT = load_module("_modules/commit_confirm.py")


class Node:
    """The machine under the module: its folders, and what other modules say about it."""

    def __init__(self, module, folder, monkeypatch) -> None:
        self.module, self.folder, self.monkeypatch = module, folder, monkeypatch
        self.units: dict[str, str] = {}
        self.ruleset = "table inet gateway {\n\tchain input {\n\t\ttcp dport 22 accept\n\t}\n}"
        self.held: dict | None = {"certificates": ["aa", "bb"], "keys": ["01"]}
        self.runs: list[dict] = []
        self.told: list[tuple[int, bytes]] = []
        self.listed = 0
        for name, path in {"RECORD_FOLDER": "state", "CURRENT": "run/current", "PROC_SYS": "sys", "UNITS": "units",
                           "WANTED_BY": "systemd"}.items():
            monkeypatch.setattr(module, name, folder / path)
        monkeypatch.setattr(module, "NSS", str(folder / "nss"))
        monkeypatch.setattr(module, "__context__", {}, raising=False)
        monkeypatch.setattr(module, "__pillar__", {"gateway": {}, "gateway_schema": {}}, raising=False)
        monkeypatch.setattr(module, "__opts__", {"cachedir": str(folder / "cache"),
                                                 "extension_modules": str(folder / "extmods")}, raising=False)
        self.disabled: list[str] = []
        monkeypatch.setattr(module, "__salt__", {
            "commit_confirm.replace_file": COMMIT.replace_file,
            "state.list_disabled": lambda: self.disabled,
            "gateway.settings": lambda: {"node": "gw1", "peer": "gw2", "bonds": [{"address": "192.0.2.11/26"}], "n": 1},
            "gateway.derive": lambda _site, _schema, node: {
                "node": "gw2", "peer": "gw1", "bonds": [{"address": "192.0.2.12/26"}], "n": 1},
            "nss.held": lambda: self.held,
            "certs.inspect": lambda _pillar: {"fingerprint": "aa", "authorities": [{"fingerprint": "bb"}]},
            "certs.list_file": lambda _pillar, _store: str(folder / "list.crl"),
            "nss.sign": lambda: [list(module._sign(str(folder / "nss/cert9.db")))],
            "nss.stored": lambda: [],
            "bonding.files": lambda _bonds, _manager: [str(folder / "bond0")],
            "firewall.loaded": lambda: self.ruleset,
            "firewall.file": lambda: str(folder / "nftables.conf"),
            "firewall.listing": lambda: ["nft", "list"],
            "watching.states_run": lambda: bool(self.runs),
            "commands.run": self.run,
            "watching.listen": lambda *_: self,
            "watching.heard": self.heard,
            "watching.start": lambda argv, _seconds: argv,
            "watching.answer": self.run,
        }, raising=False)
        monkeypatch.setattr(module.salt.utils.path, "which", lambda name: f"/usr/bin/{name}")
        for part in ("run", "units", "sys/net/ipv4", "systemd/multi-user.target.wants", "nss"):
            (folder / part).mkdir(parents=True)
        self.write("sys/net/ipv4/ip_forward", "1\n")
        self.write("run/current", "")

    def run(self, argv, **_kwargs) -> dict:
        if argv[0] == "nft":
            self.listed += 1
            return {"retcode": 0 if self.ruleset else 1, "stdout": self.ruleset}
        if "--property=Id" in argv:
            return {"retcode": 0, "stdout": "\n\n".join(f"Id={name}.service" for name in argv[3:] or argv[3:])}
        return {"retcode": 0, "stdout": self.units.get(argv[-1], "inactive") + "\n"}

    def heard(self, _listener):
        told, self.told = self.told, []
        return told, False

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def starts(self, unit: str) -> None:
        (self.folder / f"units/invocation:{unit}").symlink_to("1234")
        self.units[unit] = "active"

    def record(self, formula: str, *lows: dict, others: tuple = ()) -> dict:
        return self.module.record(formula, [{"fun": "managed", "state": "file", **low} for low in lows], list(others))

    def later(self, seconds: float) -> None:
        """Move the clock forward."""
        now = self.module.time.monotonic() + seconds
        give_time(self.monkeypatch, self.module, monotonic=lambda: now)

    def looks(self, times: int = 1) -> dict:
        for _ in range(times):
            found = self.module.glance()
        return found["conditions"]


@pytest.fixture
def node(load, tmp_path, monkeypatch):
    return Node(load("_modules/drift.py"), tmp_path, monkeypatch)


def static(path: str, **more) -> dict:
    return {"name": path, "source": "salt://x", **more}


def test_nothing_is_told_of_what_is_as_it_was(node):
    node.record("sshd", static(node.write("a", "one\n")))
    assert node.looks(3) == {}


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
    assert node.looks() == {}
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


def running(name: str, fun: str = "running", **more) -> dict:
    return {"state": "service", "fun": fun, "name": name, **more}


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
