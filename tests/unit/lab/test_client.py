"""A client finds its own master's jobs, whichever clients this process has had."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import salt.client
import salt.config

from lab.client import client

JOB = "20261201030000497711"
LOAD = {"jid": JOB, "fun": "test.ping", "tgt": "gw1", "tgt_type": "glob"}


def configuration(folder: Path) -> dict[str, Any]:
    (folder / "extmods").mkdir(parents=True)
    opts: dict[str, Any] = dict(salt.config.master_config(None))
    return {
        **opts, "cachedir": str(folder), "sock_dir": str(folder), "pki_dir": str(folder), "root_dir": str(folder),
        "extension_modules": str(folder / "extmods"), "log_file": str(folder / "log"), "user": "root"}


def job_of(one: salt.client.LocalClient) -> dict[str, Any]:
    found: dict[str, Any] = one.returns_for_job(JOB)
    return found


def test_a_client_finds_its_jobs_after_and_beside_others(tmp_path):
    mine, others = configuration(tmp_path / "mine"), configuration(tmp_path / "others")
    with client(mine) as one:
        one.returners["local_cache.save_load"](JOB, LOAD, ["gw1"])
        assert job_of(one)["fun"] == "test.ping"
        with client(others) as other:
            assert job_of(other) == {}
            assert job_of(one)["fun"] == "test.ping"
    with client(mine) as one:
        assert job_of(one)["fun"] == "test.ping"


def test_without_it_they_find_each_others(tmp_path):
    """When this fails, Salt has mended it, and lab/client.py can go."""
    mine, others = configuration(tmp_path / "mine"), configuration(tmp_path / "others")
    with salt.client.LocalClient(mopts=mine) as one, salt.client.LocalClient(mopts=others) as other:
        one.returners["local_cache.save_load"](JOB, LOAD, ["gw1"])
        assert job_of(one)["fun"] == "test.ping" and job_of(other) == {}
        assert job_of(one) == {}
