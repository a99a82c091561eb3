"""
Measures the authority: how long roadwarriors' certificates with their bundles take, and a long revocation list.

Runs as root or any user, on a machine with Salt's Python, gpg and this tree; everything is in a temporary folder::

    PYTHONPATH=. python3 -m lab.bench.certificates [PEOPLE [REVOKED]]
"""
from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import salt.config
import yaml
from cryptography import x509

from lab.identities import EncryptedPillar
from lab.topology import EXAMPLE_SITES, TREE, loaded


def _runner(folder: Path) -> ModuleType:
    """The runner `authority`, on a master that has a copy of the tree's pillar."""
    runner = loaded(TREE / "_runners/authority.py", "authority_of_the_tree")
    shutil.copytree(TREE / "pillar", folder / "pillar", ignore=shutil.ignore_patterns("issued", "crls"))
    shutil.copytree(EXAMPLE_SITES, folder / "pillar/sites", dirs_exist_ok=True)
    for file in (folder / "pillar/secrets").glob("*.sls"):
        file.unlink()
    EncryptedPillar(folder / "gpg")
    vars(runner)["__opts__"] = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(folder / "pillar")]}, "file_roots": {"base": [str(TREE / "salt")]},
        "gpg_keydir": str(folder / "gpg"), "gateway_authority": {"folder": str(folder / "authority")}}
    vars(runner)["__context__"] = {}
    return runner


def _revoke(folder: Path, count: int) -> None:
    """Add `count` certificates that were revoked earlier to the authority's journal."""
    now = "2000-01-01T00:00:00+00:00"
    with (folder / "authority/journal.jsonl").open("a") as journal:
        for number in range(count):
            serial = secrets.token_hex(19)
            for entry in ({"event": "issued", "profile": "roadwarrior", "site": "winterthur", "name": f"old-{number}",
                           "serial": serial, "subject": f"CN=old-{number},OU=winterthur", "not_after":
                           "2100-01-01T00:00:00+00:00", "names": [f"old-{number}.gateway.winterthur.example"],
                           "at": now, "key": "ec 256", "connection": "roadwarrior", "version": "5.2"},
                          {"event": "revoked", "serial": serial, "reason": "key_compromise", "at": now}):
                journal.write(json.dumps(entry) + "\n")


def main() -> int:
    given = [int(word) for word in sys.argv[1:3]]
    people, revoked = given + [1000, 10000][len(given):]
    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        folder = Path(name)
        runner = _runner(folder)
        try:
            assert runner.create("Benchmark authority")["retcode"] == 0
            start = time.monotonic()
            done = runner.issue_roadwarrior("winterthur", [f"person-{number}" for number in range(people)])
            issued = time.monotonic() - start
            assert len(done["issued"]) == people == len(list((folder / "authority").rglob("*.sswan")))
            _revoke(folder, revoked)
            start = time.monotonic()
            done = runner.crl("winterthur")
            published = time.monotonic() - start
        finally:
            subprocess.run(["gpgconf", "--homedir", folder / "gpg", "--kill", "gpg-agent"], check=False, timeout=60)
        text = Path(done["written"][0]).read_text()
        listed = yaml.load(text, Loader=yaml.CSafeLoader)["gateway_secrets"]["crls"]["gateway-authority"]
        assert len(x509.load_pem_x509_crl(listed.encode())) == revoked == done["entries"]
        print(f"{people} certificates with bundles: {issued:.1f} s")
        print(f"a revocation list of {revoked} entries: {published:.1f} s; pillar grows by {len(text) >> 10} KiB")
        print(f"together: {issued + published:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
