"""A master with the drop-in of etc/ serves the tree: custom modules reach the minions, runners the operator."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml

from tests.conftest import TREE


def test_the_master_has_the_drop_in_unchanged(salt_):
    wanted = yaml.safe_load((TREE / "etc/salt/master.d/gateway.conf").read_text())
    assert wanted["file_roots"] == {"base": ["/srv/gateway/salt"]}
    script = "import json, salt.config, sys; its = salt.config.master_config(sys.argv[1]); " \
             "print(json.dumps({key: its[key] for key in sys.argv[2:]}))"
    done = subprocess.run([salt_.master.python_executable, "-c", script, salt_.master.config_file, *wanted],
                          capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    # the tests' own, after those of etc/
    assert found["engines"].pop() == "pytest" and found["engines_dirs"].pop().endswith("saltext/engines")
    assert found == wanted


def test_a_minion_has_the_drop_in_unchanged(salt_):
    wanted = yaml.safe_load((TREE / "etc/salt/minion.d/gateway.conf").read_text())
    its = salt_.call("web.elsewhere", "config.items")
    assert {key: its[key] for key in wanted} == wanted


def test_the_first_run_brings_every_custom_module(salt_, looked):
    """No saltutil.sync_all by hand is needed."""
    synced = Path(salt_.minions["gw1.winterthur"].config["extension_modules"])
    for kind in ("modules", "states", "beacons"):
        names = {path.name for path in (TREE / f"_{kind}").glob("*.py")}
        assert {path.name for path in (synced / kind).glob("*.py")} == names, kind
    assert salt_.call("gw1.winterthur", "gateway.settings")["peer"] == "gw2"
    assert salt_.call("gw1.winterthur", "gateway.mistakes") == []


def test_the_runner_finds_both_sites_valid_with_their_secrets(salt_):
    done = salt_.run("gateway.validate")
    assert done.data == {"valid": ["bern", "winterthur"], "mistakes": [], "retcode": 0}
    assert done.returncode == 0


def test_the_runner_names_a_mistake_and_fails(salt_):
    file = salt_.tree / "pillar/sites/winterthur.sls"
    right = file.read_text()
    file.write_text(right.replace("192.0.2.12", "192.0.2.200"))
    try:
        done = salt_.run("gateway.validate", "winterthur")
    finally:
        file.write_text(right)
    assert done.returncode == 1
    assert any("192.0.2.200 is outside 192.0.2.0/26" in line for line in done.data["mistakes"])


def test_the_runner_writes_a_client_s_file(salt_):
    done = salt_.run("--out=txt", "gateway.roadwarrior", "bern")
    assert done.returncode == 0, done
    assert "right=192.0.2.74\n" in done.stdout and "rightid=@gateway.bern.example\n" in done.stdout
