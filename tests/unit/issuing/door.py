"""The runner authority, the door to what is issued, on a master of the test's own; and what it wrote."""
from __future__ import annotations

import subprocess

import salt.config
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from issuing import gpg
from tests.conftest import TREE, copy_pillar, load_module

# once: it keeps the templates it has compiled
RUNNER = load_module("_runners/authority.py")
GPG = gpg.run


def runner_on(place, keyring):
    runner = RUNNER
    runner.pillar, runner.folder = place / "pillar", place / "authority"
    copy_pillar(runner.pillar)
    runner.policy = {"folder": str(runner.folder)}
    runner.__opts__ = dict(salt.config.DEFAULT_MASTER_OPTS) | {
        "pillar_roots": {"base": [str(runner.pillar)]}, "file_roots": {"base": [str(TREE / "salt")]},
        "gpg_keydir": str(keyring), "gateway_authority": runner.policy}
    runner.__context__ = {}
    return runner


def decrypted(keyring, text: str) -> bytes:
    return subprocess.run(["gpg", "--homedir", keyring, "--batch", "--quiet", "--decrypt"], input=text.encode(),
                          capture_output=True, check=True).stdout


def opened(authority, name="anna", file=None):
    """A bundle's PKCS#12: key, certificate, chain."""
    folder = authority.folder / "bundles/winterthur"
    data = file or (folder / name / f"{name}.p12").read_bytes()
    return pkcs12.load_key_and_certificates(data, (folder / f"{name}.passphrase").read_bytes().strip())


def root(authority):
    return x509.load_pem_x509_certificate((authority.folder / "authority.pem").read_bytes())


def listed(authority, site="winterthur"):
    text = (authority.pillar / f"secrets/crls/{site}.sls").read_text()
    secrets = yaml.safe_load(text)["gateway_secrets"]
    return x509.load_pem_x509_crl(secrets["crls"]["gateway-authority"].encode()), secrets["revoked"]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
