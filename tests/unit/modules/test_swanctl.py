"""strongSwan's folders: what is put there, what is in the way, and what stays as it was."""
from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from salt.exceptions import CommandExecutionError

from tests.unit.modules.identities import AUTHORITY, DAY, KEY, NAME, OTHER, REFUSED, Authority, bundle, leaf, pem


@pytest.fixture
def swanctl(certs, monkeypatch, tmp_path):
    """`certs` with a folder in place of /etc/swanctl; `.folder`."""
    certs.folder = tmp_path / "swanctl"
    monkeypatch.setattr(certs.swanctl, "SWANCTL", str(certs.folder))
    monkeypatch.setattr(certs.nss, "DATABASE", str(tmp_path / "none"))
    certs.pillar = {"a": bundle()}
    return certs


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below a folder, by path: its kind, mode and content."""
    return {str(path.relative_to(folder)): (oct(path.lstat().st_mode), path.lstat().st_mtime_ns,
                                            path.read_bytes() if path.is_file() and not path.is_symlink() else None)
            for path in sorted(folder.rglob("*"))}


def there(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_strongswan_gets_three_kinds_of_files(swanctl):
    before = swanctl.state_of("gateway", "a", NAME, "swanctl")
    assert (before["current"], before["key"], before["same"]) == ("", False, False) and not swanctl.folder.exists()
    swanctl.install("gateway", "a", NAME, "swanctl")
    key, = (swanctl.folder / "private").iterdir()
    authority, = (swanctl.folder / "x509ca").iterdir()
    assert re.fullmatch(r"gateway-[0-9a-f]{16}\.pem", key.name)
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o400, 0o700)
    assert (swanctl.folder / "x509/gateway.pem").stat().st_mode & 0o777 == 0o644
    assert load_pem_private_key(key.read_bytes(), None).public_key() == KEY.public_key()
    assert x509.load_pem_x509_certificate(authority.read_bytes()) == AUTHORITY.certificate
    after = swanctl.state_of("gateway", "a", NAME, "swanctl")
    assert after["same"] and after["current"] == after["wanted"]["fingerprint"] and after["issuer"] == "CN=Test CA"
    all_of_it = tree(swanctl.folder)
    swanctl.install("gateway", "a", NAME, "swanctl")
    assert tree(swanctl.folder) == all_of_it


def test_a_renewed_one_takes_its_place_with_its_key_there_before_and_the_old_key_gone_after(swanctl, monkeypatch):
    swanctl.install("gateway", "a", store="swanctl")
    swanctl.pillar = {"a": bundle(OTHER, leaf(OTHER))}
    seen = []
    replace = os.replace

    def watched(source, target):
        keys = [load_pem_private_key(path.read_bytes(), None).public_key()
                for path in (swanctl.folder / "private").glob("gateway-*.pem")]
        its = x509.load_pem_x509_certificate((swanctl.folder / "x509/gateway.pem").read_bytes())
        seen.append(its.public_key() in keys)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    swanctl.install("gateway", "a", store="swanctl")
    assert seen == [True, True]          # at the key, at the certificate: there is never a certificate without its key
    key, = (swanctl.folder / "private").iterdir()
    assert load_pem_private_key(key.read_bytes(), None).public_key() == OTHER.public_key()
    assert swanctl.state_of("gateway", "a", store="swanctl")["same"]


@pytest.mark.parametrize("how", ["half", "noise", "mode", "link", "gone", "left over"])
def test_what_is_not_as_it_has_to_be_is_put_right(swanctl, how, tmp_path):
    swanctl.install("gateway", "a", store="swanctl")
    whole = there(swanctl.folder)
    key, = (swanctl.folder / "private").iterdir()
    certificate = swanctl.folder / "x509/gateway.pem"
    (tmp_path / "target").write_text("untouched")
    match how:
        case "half":
            certificate.write_bytes(certificate.read_bytes()[:200])
        case "noise":
            certificate.write_bytes(bytes(range(256)))
        case "mode":
            key.chmod(0o644)
        case "link":
            key.unlink()
            key.symlink_to(tmp_path / "target")
        case "gone":
            certificate.unlink()
        case "left over":
            (key.parent / f"gateway-{'0' * 16}.pem").write_bytes(pem(OTHER).encode())
    assert not swanctl.state_of("gateway", "a", store="swanctl")["same"]
    swanctl.install("gateway", "a", store="swanctl")
    assert swanctl.state_of("gateway", "a", store="swanctl")["same"]
    assert there(swanctl.folder) == whole and (tmp_path / "target").read_text() == "untouched"


def test_others_files_stay(swanctl):
    (swanctl.folder / "private").mkdir(parents=True)
    for name in ("gateway.pem", "gateway-old.pem", "gateway-2-0123456789abcdef.pem"):
        (swanctl.folder / "private" / name).write_text("somebody else's")
    swanctl.install("gateway", "a", store="swanctl")
    assert len(list((swanctl.folder / "private").iterdir())) == 4


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("how", REFUSED)
def test_bad_input_is_one_line_and_changes_no_file(swanctl, how, there_before):
    source, message = REFUSED[how]
    if there_before:
        swanctl.install("gateway", "a", NAME, "swanctl")
    before = tree(swanctl.folder)
    swanctl.pillar = {"a": source()}
    for function in (swanctl.state_of, swanctl.install):
        with pytest.raises(CommandExecutionError, match=message) as told:
            function("gateway", "a", NAME, "swanctl")
        assert "\n" not in str(told.value) and "right" not in str(told.value).replace("put that right", "")
    assert tree(swanctl.folder) == before


@pytest.mark.parametrize("way", ["folder", "link at the folder", "file at the folder", "full"])
def test_what_is_in_the_way_is_one_line_and_changes_no_file(swanctl, monkeypatch, tmp_path, way):
    swanctl.install("gateway", "a", NAME, "swanctl")
    swanctl.pillar = {"a": bundle(OTHER, leaf(OTHER))}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    certificate, authorities = swanctl.folder / "x509/gateway.pem", swanctl.folder / "x509ca"
    match way:
        case "folder":
            certificate.unlink()
            certificate.mkdir()
            message = "gateway.pem is a folder, and a file has to be there; remove it"
        case "link at the folder":
            certificate.unlink()
            certificate.parent.rmdir()
            certificate.parent.symlink_to(elsewhere)
            message = "x509 is a link, and a folder of the daemon's own has to be there; remove it"
        case "file at the folder":
            shutil.rmtree(authorities)
            authorities.write_text("x")
            message = "x509ca is a file, and a folder has to be there; remove it"
        case "full":
            shutil.rmtree(authorities)          # a folder that was made in vain is removed again
            room = iter((True, True, False))
            fsync = os.fsync

            def full(descriptor):
                if not next(room):
                    raise OSError(28, "No space left on device")
                fsync(descriptor)
            monkeypatch.setattr(os, "fsync", full)
            message = "could not be written: No space left on device; put that right, then apply again"
    before = tree(swanctl.folder)
    with pytest.raises(CommandExecutionError, match=message) as told:
        swanctl.install("gateway", "a", NAME, "swanctl")
    assert "\n" not in str(told.value)
    assert {name: (mode, data) for name, (mode, _when, data) in tree(swanctl.folder).items()} == {
        name: (mode, data) for name, (mode, _when, data) in before.items()}
    assert list(elsewhere.iterdir()) == []


def test_a_list_for_strongswan(swanctl):
    crl = AUTHORITY.crl(number=7)
    swanctl.pillar |= {"list": pem(crl), "old": pem(AUTHORITY.crl(number=6)),
                       "forged": pem(Authority("Test CA").crl(number=8)), "stale": pem(AUTHORITY.crl(end=-DAY / 2))}
    with pytest.raises(CommandExecutionError, match="whose certificate is not in .*swanctl"):
        swanctl.install_crl("list", "swanctl")
    swanctl.install("gateway", "a", store="swanctl")
    assert not swanctl.crl_state_of("list", "swanctl")["same"]
    swanctl.install_crl("list", "swanctl")
    file, = (swanctl.folder / "x509crl").iterdir()
    assert x509.load_der_x509_crl(file.read_bytes()) == crl
    assert swanctl.crl_state_of("list", "swanctl")["same"]
    before = tree(swanctl.folder)
    for name, message in {"old": "is number 6 of .*, and number 7 of", "forged": "is not signed by",
                          "stale": "is stale"}.items():
        with pytest.raises(CommandExecutionError, match=message):
            swanctl.install_crl(name, "swanctl")
    assert tree(swanctl.folder) == before
    file.write_bytes(file.read_bytes()[:40])          # an incomplete list counts as none: it is replaced
    swanctl.install_crl("list", "swanctl")
    assert tree(swanctl.folder).keys() == before.keys() and swanctl.crl_state_of("list", "swanctl")["same"]
