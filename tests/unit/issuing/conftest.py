"""What the tests of the authority have in common."""
from __future__ import annotations

import shutil
import subprocess

import pytest

from issuing import gpg
from lab.identities import EncryptedPillar
from tests.unit.issuing.door import GPG, runner_on
from tests.unit.runners.conftest import read_once

REMEMBERED: dict[tuple, bytes] = {}


@pytest.fixture(autouse=True)
def _gpg_runs_once_for_the_same_question(monkeypatch):
    """The key that is opened for each call, who the recipient is."""
    def run(keyring, arguments, data):
        key = (keyring, *arguments, data)
        return REMEMBERED.get(key) or REMEMBERED.setdefault(key, GPG(keyring, arguments, data))

    monkeypatch.setattr(gpg, "run", run)


@pytest.fixture(scope="session")
def keyring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpg") / "k"
    EncryptedPillar(folder)
    yield folder
    subprocess.run(["gpgconf", "--homedir", folder, "--kill", "gpg-agent"], check=False)


@pytest.fixture
def bare(tmp_path, keyring):
    """The runner on a master without an authority; `.pillar`, `.folder` and `.policy` are what it works on."""
    return runner_on(tmp_path, keyring)


@pytest.fixture(scope="session")
def made(tmp_path_factory, keyring):
    """The folder of an authority that was made once for all tests."""
    maker = runner_on(tmp_path_factory.mktemp("made"), keyring)
    assert maker.create("Test authority")["retcode"] == 0
    return maker.folder


@pytest.fixture
def authority(bare, made):
    """The runner with an authority, a copy of the one that was made."""
    shutil.copytree(made, bare.folder)
    return bare


_same_text_is_read_once = pytest.fixture(autouse=True)(read_once)
