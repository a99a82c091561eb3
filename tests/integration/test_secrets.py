"""No secret leaves pillar and its file: not in a return, an event, the job cache, or a log at the highest level."""
from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests import needles as needles_


def leaves(tree: object) -> Iterator[str]:
    """All texts in nested mappings."""
    for value in tree.values() if isinstance(tree, dict) else [tree]:
        yield from leaves(value) if isinstance(value, dict) else [value]


def needles(values: Iterator[str]) -> list[bytes]:
    """A piece of each value that survives line breaks and escapes: its longest run of harmless characters, cut."""
    return [max(re.findall(r"[A-Za-z0-9+/_=-]+", value), key=len)[:24].encode() for value in values]


@pytest.fixture(scope="module")
def wanted(salt_, looked, highstates) -> list[bytes]:
    """The secrets of both sites, after a run on both. None of them is so short that it could be found by chance."""
    found = needles(leaves(salt_.secrets))
    assert len(found) >= 6 and min(map(len, found)) >= 20
    return found


@pytest.fixture(scope="module")
def marker(salt_, looked) -> bytes:
    """A value that is not secret and went the same way: a search that misses it would miss a secret too."""
    word = f"no-secret-{secrets.token_hex(8)}"
    assert salt_.call("gw1.winterthur", "test.echo", word) == word
    return word.encode()


def searched(paths: list[Path]) -> dict[Path, bytes]:
    """The contents of all files under some paths."""
    return {path: path.read_bytes() for top in paths for path in [top, *top.rglob("*")]
            if path.is_file() and not path.is_socket()}


def places(contents: dict[Path, bytes], wanted: list[bytes]) -> list[Path]:
    """The files that contain one of the wanted pieces."""
    return sorted(path for path, data in contents.items() if any(needle in data for needle in wanted))


def test_returns_hold_no_secret(looked, highstates, wanted):
    text = json.dumps([looked, highstates], default=str).encode()
    assert b"gateway.winterthur.example" in text
    assert not [needle for needle in wanted if needle in text]


def test_events_hold_no_secret(salt_, wanted, marker):
    events, deadline = [], time.monotonic() + 20          # events come a moment later
    while not any(marker in event for event in events) and time.monotonic() < deadline:
        time.sleep(0.2)
        events = [str(event.full_data).encode() for event in list(salt_.master.event_listener.store)]
    assert any(marker in event for event in events)
    assert not [event[:300] for event in events if any(needle in event for needle in wanted)]


def test_the_job_cache_holds_no_secret(salt_, wanted, marker):
    jobs = searched([Path(salt_.master.config["cachedir"]) / "jobs"])
    assert places(jobs, [marker])
    assert places(jobs, wanted) == []


def test_logs_hold_no_secret(salt_, wanted, marker):
    logs = searched([Path(daemon.config["log_file"]) for daemon in (salt_.master, *salt_.minions.values())])
    assert len(places(logs, [marker])) >= 2          # the master's and the minion's
    assert places(logs, wanted) == []


def test_no_secret_is_on_a_disk_in_clear(salt_, wanted, marker):
    """Neither the master nor a minion keeps pillar: etc/salt/master.d and minion.d switch Salt's caches off."""
    roots = {name: searched([Path(daemon.config["root_dir"])])
             for name, daemon in {"master": salt_.master, **salt_.minions}.items()}
    assert places(roots["master"], [marker])
    assert [path for contents in roots.values() for path in places(contents, wanted)] == []


# The authority on the master


@dataclass
class Issued:
    """What salt-run printed, and the secrets that must not be in it."""

    printed: bytes
    needles: list[bytes]
    marker: bytes


@pytest.fixture(scope="module")
def issued(salt_) -> Iterator[Issued]:
    """Everything that the authority does, with salt-run on the real master. A third site has no certificate yet."""
    pillar, folder = salt_.tree / "pillar", salt_.tree.parent / "authority"
    site = pillar / "sites/basel.sls"
    site.write_text((pillar / "sites/bern.sls").read_text().replace("site: bern", "site: basel"))
    printed = b""
    try:
        for words in (["create", "Integration authority"], ["issue_gateway", "basel"],
                      ["issue_roadwarrior", "winterthur", "anna"], ["issue_roadwarrior", "winterthur", "[bert, carl]"],
                      ["renew", "winterthur", "days=1000"], ["issue_gateway", "winterthur"],
                      ["revoke", "winterthur", "anna", "reason=key_compromise"], ["crl"], ["list"]):
            done = salt_.run(f"authority.{words[0]}", *words[1:])
            refused = words == ["issue_gateway", "winterthur"]          # this site has the operator's own certificate
            assert done.returncode == refused, done
            printed += done.stdout.encode() + done.stderr.encode()
        yield Issued(printed, _secrets_of(salt_, folder), b"Integration authority")
    finally:
        site.unlink()
        for made in ("issued", "crls"):
            shutil.rmtree(pillar / "secrets" / made, ignore_errors=True)
        # what the nodes have in memory would be these secrets in whatever module comes next
        salt_.call_all([name for name in salt_.minions if name.endswith((".winterthur", ".bern"))],
                       "saltutil.refresh_pillar", wait=True)


def _secrets_of(salt_, folder: Path) -> list[bytes]:
    """Passphrases, keys and bundles, in the forms in which they could leak."""
    def opened(text: str | bytes) -> bytes:
        return subprocess.run(["gpg", "--homedir", Path(salt_.master.config_dir) / "gpgkeys", "--batch", "--quiet",
                               "--decrypt"], input=text if isinstance(text, bytes) else text.encode(),
                              capture_output=True, check=True).stdout
    root = load_pem_private_key(opened((folder / "authority.key.gpg").read_bytes()), None)
    sealed = yaml.safe_load((salt_.tree / "pillar/secrets/issued/basel.sls").read_text())["gateway_secrets"]
    gateway = {key: opened(text) for key, text in next(iter(sealed["certificates"].values())).items()}
    bundles = [(base64.b64decode(gateway["pkcs12"]), gateway["passphrase"])]
    for file in sorted((folder / "bundles/winterthur").glob("*.passphrase")):
        name = file.name.removesuffix(".passphrase")
        bundles.append((file.with_suffix("").joinpath(f"{name}.p12").read_bytes(), file.read_bytes().strip()))
    assert len(bundles) == 4
    return needles_.of_key(root) + [piece for bundle in bundles for piece in needles_.of_bundle(*bundle)]


def test_what_the_authority_prints_holds_no_secret(issued):
    assert issued.marker in issued.printed and b"anna.passphrase" in issued.printed
    assert not [needle for needle in issued.needles if needle in issued.printed]


def test_what_the_authority_did_is_in_events_jobs_and_logs_without_a_secret(salt_, issued, marker):
    """A runner's return is an event, and is kept as any job's is."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        events = [str(event.full_data).encode() for event in list(salt_.master.event_listener.store)]
        if any(issued.marker in event for event in events):
            break
        time.sleep(0.2)
    assert any(issued.marker in event for event in events)
    assert not [event[:300] for event in events if any(needle in event for needle in issued.needles)]
    kept = searched([Path(salt_.master.config["cachedir"]), Path(salt_.master.config["log_file"])])
    assert places({path: data for path, data in kept.items() if "jobs" in path.parts}, [issued.marker])
    assert places(kept, issued.needles) == []


def test_what_the_authority_issued_is_readable_by_its_owner_only(salt_, issued):
    pillar = salt_.tree / "pillar/secrets"
    for top in (salt_.tree.parent / "authority", pillar / "issued", pillar / "crls"):
        for path in [top, *top.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path
    asked = salt_.ask_master("gw1.winterthur", cmd="_file_list")
    assert not [name for name in asked if "authority" in name and not name.endswith((".py", ".pyc"))]


def test_the_list_reaches_the_sites_nodes_and_nobody_else(salt_, issued):
    told = salt_.ask_pillar("gw1.winterthur", "gw1.winterthur")["gateway_secrets"]
    assert [each["ids"][0] for each in told["revoked"]] == ["CN=anna,OU=winterthur"]
    assert "BEGIN X509 CRL" in told["crls"]["gateway-authority"] and told["certificates"]["gateway"]
    assert salt_.ask_pillar("laptop.winterthur", "laptop.winterthur") == {}


def test_the_states_take_a_list_and_end_tunnels_in_the_right_order(salt_, issued, looked):
    assert salt_.call("gw1.winterthur", "saltutil.refresh_pillar", wait=True)
    shown = salt_.call("gw1.winterthur", "state.show_sls", "openswan")
    order = {name: next(iter(each for kind in ("ipsec", "module", "certs") for each in shown[name].get(kind, [])
                             if isinstance(each, dict) and "order" in each))["order"]
             for name in ("openswan_crl_1", "openswan_expelled", "openswan_lists", "openswan_expelled_again")}
    assert sorted(order, key=order.get) == list(order)
    done = salt_.call("gw1.winterthur", "state.apply", "openswan", test=True)
    found = {each["__id__"]: each for each in done.values()}
    # Without the daemon's tools openswan_current has no answer, and the states that need it do not run.
    assert found["openswan_crl_1"]["changes"] and "openswan_current" in found["openswan_expelled"]["comment"]
    assert not [needle for needle in issued.needles if needle in json.dumps(done, default=str).encode()]
