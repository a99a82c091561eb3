"""The runner gateway, the door to the sites, on a master of the test's own."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import salt.config

from tests.conftest import TREE, copy_pillar, load_module

SECRETS = """\
gateway_secrets:
  heartbeat: {key: 0123456789abcdef}
  certificates: {gateway: {pkcs12: MIIB, passphrase: secret-passphrase}}
"""
# The minions with an accepted key
ACCEPTED = ["gw1.winterthur", "gw2.winterthur.example", "gw1.winterthur2", "gw-a.bern", "laptop.winterthur"]


def master_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The runner on a master that has a copy of the tree's pillar, secrets included; `.pillar` is the copy."""
    pillar = tmp_path / "pillar"
    copy_pillar(pillar)
    for name in ("bern", "winterthur"):
        (pillar / f"secrets/{name}.sls").write_text(SECRETS)
    opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(pillar)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "cachedir": str(tmp_path), "extension_modules": str(tmp_path)}
    runner = load_module("_runners/gateway.py")
    monkeypatch.setattr(runner, "__opts__", opts, raising=False)
    monkeypatch.setattr(runner, "__context__", {}, raising=False)
    runner.pillar = pillar
    return runner
