"""The authority on the disk: its key, its folder, one run at a time."""
from __future__ import annotations

import os
import re

from cryptography import x509

from issuing import files as files_
from issuing import gpg
from issuing import journal as journal_
from tests.unit.issuing.door import GPG, decrypted, files, root


def test_its_key_is_encrypted_and_nobody_elses(authority, keyring):
    assert b"PRIVATE KEY" not in b"".join(files(authority.folder).values())
    assert b"BEGIN PRIVATE KEY" in decrypted(keyring, (authority.folder / "authority.key.gpg").read_text())
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in authority.folder.iterdir()} == {0o600}
    certificate = root(authority)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert certificate.serial_number.bit_length() > 64
    certificate.verify_directly_issued_by(certificate)


def test_gpg_that_hangs_holds_nobody_and_neither_does_its_lock(authority, monkeypatch, tmp_path):
    """It hung under the lock: every later run waited for ever, and said nothing."""
    hangs = tmp_path / "gpg"
    hangs.write_text("#!/bin/sh\ntrap '' TERM\nsleep 60 &\nwhile :; do sleep 0.1; done\n")
    hangs.chmod(0o755)
    before = files(authority.folder)
    with monkeypatch.context() as patch:
        patch.setattr(gpg, "program", lambda: str(hangs))
        patch.setattr(gpg, "run", GPG)
        patch.setattr(gpg, "GPG_SECONDS", 0.3)
        told = authority.crl()
    assert told["retcode"] == 1 and len(told["mistakes"]) == 1 and files(authority.folder) == before
    assert re.search(r"gpg --homedir \S+ --decrypt: no answer within 0.3 s, so it was ended; its agent may hang: "
                     r"`gpgconf --homedir \S+ --kill gpg-agent`, then try again", told["mistakes"][0])
    assert authority.crl("winterthur")["retcode"] == 0


def test_a_run_does_not_wait_for_another_for_ever(authority, monkeypatch):
    monkeypatch.setattr(files_, "LOCK_SECONDS", 0.3)
    with files_.locked(authority.folder):
        told = authority.crl()
    assert told["retcode"] == 1 and len(told["mistakes"]) == 1
    assert "lock for 0.3 s; `salt-run jobs.active` shows runs that still go on" in told["mistakes"][0]


def test_links_and_folders_at_the_place_of_a_file(authority, tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    place = authority.pillar / "secrets/issued/winterthur.sls"
    place.parent.mkdir()
    place.symlink_to(target)
    assert authority.issue_gateway("winterthur")["retcode"] == 0
    assert target.read_text() == "untouched" and not place.is_symlink()
    place.unlink()
    place.mkdir()
    assert "is a folder; a file has to be there" in authority.issue_gateway("winterthur")["mistakes"][0]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (authority.folder / "bundles").symlink_to(folder)
    assert "is a link; remove it" in authority.issue_roadwarrior("winterthur", "anna")["mistakes"][0]
    assert not list(folder.rglob("*.p12"))
    (authority.folder / "journal.jsonl").rename(authority.folder / "j")
    (authority.folder / "journal.jsonl").symlink_to(authority.folder / "j")
    assert "journal.jsonl" in authority.issue_gateway("winterthur")["mistakes"][0]


def test_runs_at_once_wait_for_each_other(authority):
    """Two processes: no serial or number is lost."""
    child = os.fork()
    for name in ([f"{'a' if child else 'b'}{number}" for number in range(3)]):
        done = authority.issue_roadwarrior("winterthur", name)
        authority.crl("winterthur")
        if done["retcode"]:
            os._exit(1)
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    journal = journal_.read(authority.folder)
    assert [each["number"] for each in journal if each["event"] == "crl"] == list(range(1, 7))
    assert len(authority.list_()["certificates"]) == 6
