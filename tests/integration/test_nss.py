"""Identities and revocation lists in a real NSS database, with the real tools, without a daemon: what is imported."""
from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module
from tests.unit.modules.identities import (
    AUTHORITY,
    DAY,
    KEY,
    NAME,
    OTHER,
    REFUSED,
    Authority,
    bundle,
    functions,
    leaf,
    pem,
    subject,
    wired,
)

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not shutil.which("certutil"), reason="no libnss3-tools")]


@pytest.fixture
def nss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The state module on the execution modules on the tools; `.certs` and `.nss` are these, `.pillar` their pillar."""
    state = load_module("_states/certs.py")
    state.pillar, state.commands = {"a": bundle()}, []

    def run_all(argv: list[str], **options: object) -> dict:
        state.commands.append(argv)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"},
                              timeout=options["timeout"])
        return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    certs = wired(**{"commands.run": run_all})
    certs.__salt__["pillar.get"] = lambda path, default, unmask: state.pillar.get(path, default)
    monkeypatch.setattr(certs.nss, "DATABASE", str(tmp_path / "var/nss"))
    monkeypatch.setattr(certs.nss, "LISTS", str(tmp_path / "var/lists"))
    state.certs, state.nss = certs, certs.nss
    state.__salt__ = {**functions(certs, "certs"), **functions(certs.nss, "nss")}
    state.__opts__ = {"test": False}
    return state


def contents(folder: Path) -> dict[str, tuple[str, bytes | None]]:
    """All files below a folder, each with its mode and content."""
    return {str(path.relative_to(folder)): (oct(path.lstat().st_mode), path.read_bytes() if path.is_file() else None)
            for path in sorted(folder.rglob("*"))}


def comes_in(nss: ModuleType) -> dict:
    """Apply the state, then again, which must change nothing. Returns the first return."""
    ret = nss.present("gateway", "a", NAME)
    assert ret["result"] is True, ret
    before = contents(Path(nss.nss.DATABASE))
    again = nss.present("gateway", "a", NAME)
    assert (again["result"], again["changes"]) == (True, {}) and contents(Path(nss.nss.DATABASE)) == before
    return ret


@pytest.mark.parametrize("form", ["pkcs12", "pem"])
def test_an_identity_is_one_state_and_the_second_run_changes_nothing(nss, form):
    certificate = leaf()
    if form == "pem":
        nss.pillar = {"a": {"certificate": pem(certificate), "key": pem(KEY), "chain": pem(AUTHORITY.certificate)}}
    nss.__opts__["test"] = True
    assert nss.present("gateway", "a", NAME)["result"] is None and not Path(nss.nss.DATABASE).exists()
    nss.__opts__["test"] = False
    ret = comes_in(nss)
    stored = {each["nickname"]: each for each in nss.nss.stored()}
    assert set(stored) == {"gateway", "Test CA"} and stored["gateway"]["private_key"]
    assert ret["changes"]["gateway"] == {"old": "", "new": stored["gateway"]["fingerprint"]}
    assert stored["Test CA"]["trust"] == "CT,,"
    database = Path(nss.nss.DATABASE)
    assert database.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in database.glob("*.db")} == {0}
    assert not [word for argv in nss.commands for word in argv if "PRIVATE" in word or "right" in word]


def of_another_authority() -> dict:
    other = Authority("New CA")
    names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
    its = other.sign(OTHER, subject(NAME), [names], start=-DAY / 2, end=60 * DAY)
    return bundle(OTHER, its, (other.certificate,))


def of_another_subject() -> dict:
    names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
    return bundle(OTHER, AUTHORITY.sign(OTHER, subject("Gateway"), [names]))


@pytest.mark.parametrize(("new", "without"), [
    pytest.param(lambda: bundle(OTHER, leaf(OTHER, start=-DAY / 2, end=60 * DAY)), 0, id="a new key"),
    pytest.param(lambda: bundle(certificate=leaf(start=-DAY / 2, end=60 * DAY)), 0, id="the same key"),
    pytest.param(lambda: bundle(OTHER, leaf(OTHER, start=-3 * DAY, end=5 * DAY)), 0, id="an older one comes back"),
    # docs/openswan.md, Limits: NSS can only delete the wanted certificate before it, so that one is added again
    pytest.param(lambda: bundle(OTHER, leaf(OTHER, start=-DAY / 2, end=5 * DAY)), 1, id="one that ends earlier"),
    pytest.param(of_another_authority, 0, id="another authority"),
    pytest.param(of_another_subject, 0, id="another subject")])
def test_while_one_is_replaced_there_is_always_one_with_its_key(nss, new, without, monkeypatch):
    comes_in(nss)
    old = nss.certs.inspect("a")["fingerprint"]
    nss.pillar = {"a": new()}
    wanted = nss.certs.inspect("a")["fingerprint"]
    run, seen = nss.nss.__salt__["commands.run"], []

    def watched(argv: list[str], **options: object) -> dict:
        done = run(argv, **options)
        if not {"-L", "-K"} & set(argv):          # after each step that changes something
            with monkeypatch.context() as patch:
                patch.setitem(nss.nss.__salt__, "commands.run", run)
                seen.append([each["fingerprint"] for each in nss.nss.stored() if each["private_key"]])
        return done

    monkeypatch.setitem(nss.nss.__salt__, "commands.run", watched)
    comes_in(nss)
    assert seen and len([step for step in seen if not {old, wanted} & set(step)]) == without, seen
    held = [(each["nickname"], each["fingerprint"]) for each in nss.nss.stored() if each["private_key"]]
    assert ("gateway", wanted) in held and {nickname for nickname, _fingerprint in held} == {"gateway"}


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("how", REFUSED)
def test_bad_input_is_one_line_and_changes_no_file(nss, how, there_before, tmp_path):
    if there_before:
        comes_in(nss)
    source, message = REFUSED[how]
    nss.pillar = {"a": source()}
    before = contents(tmp_path)
    ret = nss.present("gateway", "a", NAME)
    assert ret["result"] is False and ret["changes"] == {} and "\n" not in ret["comment"]
    assert message in ret["comment"] and ret["comment"].startswith("certs: a")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", ["cert9.db", "key4.db"])
@pytest.mark.parametrize("how", ["truncated", "noise", "a folder", "a planted link", "gone"])
def test_a_database_with_something_wrong_is_made_anew(nss, how, what, tmp_path):
    comes_in(nss)
    file, target = Path(nss.nss.DATABASE, what), tmp_path / "target"
    target.write_bytes(file.read_bytes())
    untouched = target.read_bytes()
    match how:
        case "truncated":
            file.write_bytes(untouched[:9000])
        case "noise":
            file.write_bytes(bytes(range(256)) * 99)
        case "a folder":
            file.unlink()
            file.mkdir()
        case "a planted link":
            file.unlink()
            file.symlink_to(target)
        case "gone":
            file.unlink()
    ret = comes_in(nss)
    assert "made anew" in ret["changes"]["database"]["new"]
    assert target.read_bytes() == untouched
    assert {each["nickname"]: each["private_key"] for each in nss.nss.stored()} == {"gateway": True, "Test CA": False}
    assert len([path for path in tmp_path.glob("var/*") if ".damaged-" in path.name]) == 1


@pytest.mark.parametrize("what", ["a file", "a planted link"])
def test_something_else_where_the_database_has_to_be_is_one_line(nss, what, tmp_path):
    place, elsewhere = Path(nss.nss.DATABASE), tmp_path / "elsewhere"
    comes_in(nss)
    if what == "a file":
        shutil.rmtree(place)
        place.write_text("x")
    else:
        place.rename(elsewhere)
        place.symlink_to(elsewhere)
    nss.pillar = {"a": bundle(OTHER, leaf(OTHER, end=60 * DAY))}
    before = contents(tmp_path)
    ret = nss.present("gateway", "a", NAME)
    assert ret["result"] is False and ret["changes"] == {} and "\n" not in ret["comment"]
    assert "is no folder, and the daemon's database has to be there; remove it" in ret["comment"]
    assert contents(tmp_path) == before


@pytest.fixture
def small_disk(nss: ModuleType, tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB for the database and the lists."""
    disk = tmp_path / "var"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", disk], capture_output=True,
                      check=False).returncode:
        pytest.skip("no leave to mount")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("there_before", [False, True])
def test_a_full_disk_is_one_line_and_changes_no_file(nss, small_disk, there_before):
    if there_before:
        comes_in(nss)
        nss.pillar = {"a": bundle(OTHER, leaf(OTHER, end=60 * DAY))}
    nss.pillar["list"] = pem(AUTHORITY.crl(number=7))
    filler = small_disk / "filler"
    with filler.open("wb") as handle:
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        handle.write(b"x" * (free - 4096))
    before = contents(small_disk)
    returns = [nss.present("gateway", "a", NAME)] + ([nss.crl_present("list", "list")] if there_before else [])
    for ret in returns:
        assert ret["result"] is False and ret["changes"] == {} and "\n" not in ret["comment"]
        assert "could not be written: No space left on device; put that right, then apply again" in ret["comment"]
    assert contents(small_disk) == before
    filler.unlink()
    comes_in(nss)


def test_a_list_comes_in_once_and_an_older_a_forged_or_a_stale_one_does_not(nss, tmp_path):
    comes_in(nss)
    nss.pillar |= {"list": pem(AUTHORITY.crl(number=300)), "newer": pem(AUTHORITY.crl(number=1 << 40, start=-DAY / 2)),
                   "forged": pem(Authority("Test CA").crl(number=1 << 50)),
                   "stale": pem(AUTHORITY.crl(number=1 << 50, end=-DAY / 2)),
                   "cut": pem(AUTHORITY.crl(number=1 << 50))[:200]}
    for name in ("list", "newer"):
        ret = nss.crl_present(name, name)
        assert ret["result"] is True and ret["changes"], ret
        before = contents(tmp_path)
        again = nss.crl_present(name, name)
        assert (again["result"], again["changes"]) == (True, {}) and contents(tmp_path) == before
    for name, message in {"list": "is number 300 of", "forged": "is not signed by", "stale": "is stale",
                          "cut": "is no readable certificate revocation list"}.items():
        ret = nss.crl_present(name, name)
        assert ret["result"] is False and message in ret["comment"] and "\n" not in ret["comment"]
    assert contents(tmp_path) == before
    with pytest.raises(CommandExecutionError, match="is number 300"):
        nss.certs.install_crl("list")
