"""One real Salt master and five real minions, in temporary roots; they write nothing else on this machine.

Each of their processes runs in a mount namespace of its own. In it the tree is at /srv/gateway, etc/ is linked in
unchanged, as docs/install.md says, and everything else of the machine is read-only. Root can do that; other users need
the kernel's permission to make user namespaces.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import salt.channel.client
import salt.utils.user
import yaml
from pytestshellutils.utils.processes import ProcessResult
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion
from saltfactories.manager import FactoriesManager
from saltfactories.plugins.event_listener import _restart_event_listener  # noqa: F401  # a fixture, used by its name

from lab.client import client
from lab.identities import Authority, EncryptedPillar, site_secrets
from tests.conftest import TREE, load_module

# By id, a minion's grains. The last two have accepted keys but are not gateways; the laptop's grains lie.
MINIONS = {
    "gw1.winterthur": {"nodename": "gw1"},
    "gw2.winterthur": {"nodename": "gw2"},
    "gw-a.bern": {"nodename": "gw-a"},
    "laptop.winterthur": {"nodename": "gw1", "id": "gw1.winterthur", "site": "winterthur"},
    "web.elsewhere": {"nodename": "web"},
}
SITES = {"winterthur": "gw1", "bern": "gw-a"}
_CONTAINER = """#!/bin/sh
# python, where the tree is at /srv/gateway and the host can not be changed
exec {unshare} --mount --propagation private sh -ec '
  mount --bind {scratch} {scratch}
  mount -t tmpfs gateway /srv
  mkdir /srv/gateway
  mount --bind {tree} /srv/gateway
  # where the service manager would be reached
  mount -t tmpfs gateway /run
  if [ "{root}" ]; then
    mount --bind /proc/sys /proc/sys
    for place in / /etc /usr /var /boot /home /root /proc/sys; do
      if mountpoint -q $place; then mount -o remount,bind,ro $place; fi
    done
  fi
  export APT_CONFIG={packages}/apt.conf
  exec {python} "$@"' python "$@"
"""
# A mirror with the packages' names only: enough for test=True, which asks what could be installed.
_APT = """\
Dir::Etc::sourcelist "{packages}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "{packages}/lists";
Dir::Cache "{packages}/cache";
APT::Sandbox::User "root";
"""
_PACKAGE = "Package: {}\nVersion: 5.2\nArchitecture: all\nFilename: ./none.deb\nSize: 1\nSHA256: 0\n\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@dataclass
class Salt:
    """The running master with its minions."""

    master: SaltMaster
    minions: dict[str, SaltMinion]
    tree: Path                               # the copy that the master has at /srv/gateway
    secrets: dict[str, dict]                 # by site, in clear
    keyring: EncryptedPillar                 # the master's, to encrypt more secrets

    def call(self, minion: str, function: str, *args: object, **kwargs: object) -> object:
        """The return of an execution function on a minion."""
        return self.call_all([minion], function, *args, **kwargs)[minion]

    def call_all(self, minions: Iterable[str], function: str, *args: object, **kwargs: object) -> dict:
        """The returns of an execution function on several minions, by minion."""
        # Trap: Salt 3008 cuts a subscriber off that reads nothing for a minute while much happens on the bus
        # (publish_drain_timeout), and each later call would find no answer: so a client for each call.
        with pytest.MonkeyPatch.context() as patch, client(dict(self.master.config)) as one:
            # in their namespace the daemons are root, whichever user runs the tests
            patch.setattr(salt.utils.user, "get_specific_user", lambda: "root")
            answers = one.cmd(list(minions), function, list(args), kwarg=kwargs, tgt_type="list", timeout=300)
        silent = set(minions) - set(answers)
        if silent:
            pytest.fail(f"{', '.join(sorted(silent))} did not answer {function}")
        return answers

    def run(self, *words: str) -> ProcessResult:
        """The output and exit status of `salt-run`."""
        return self.master.salt_run_cli(timeout=120).run(*words)

    def ask_master(self, minion: str, **load: object) -> object:
        """The master's answer to a message that a minion's own code would never send, under that minion's key."""
        with self._channel(minion) as channel:
            return channel.send({"id": minion, "saltenv": "base", **load}, timeout=20, tries=1)

    def ask_pillar(self, minion: str, whose: str, called: str = "", **load: object) -> dict:
        """The pillar of `whose`, requested under a minion's key. `called` is the id that the minion claims to have."""
        with self._channel(minion, called) as channel:
            return channel.crypted_transfer_decode_dictentry(
                {"cmd": "_pillar", "id": whose, "grains": {"id": whose}, "saltenv": "base", **load}, dictkey="pillar",
                timeout=20, tries=1)

    def _channel(self, minion: str, called: str = "") -> salt.channel.client.ReqChannel:
        config = dict(self.minions[minion].config)
        config |= {"id": called or minion, "master_uri": f"tcp://127.0.0.1:{config['master_port']}"}
        return salt.channel.client.ReqChannel.factory(config)


@pytest.fixture(scope="session")
def tree() -> Iterator[Path]:
    """A copy of the tree, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(TREE, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.pyc"))
        for folder in ("pillar/secrets", "pillar/sites"):
            for file in (copy / folder).glob("*.sls"):
                file.unlink()           # an operator's own file
        shutil.copytree(copy / "examples/sites", copy / "pillar/sites", dirs_exist_ok=True)
        yield copy


@pytest.fixture(scope="session")
def salt_factories_config(tree: Path) -> dict:
    """The daemons' root folder, and the Python interpreter that runs them all: it sees the tree at /srv/gateway."""
    root = os.geteuid() == 0
    script, packages = tree.parent / "python", tree.parent / "packages"
    parts = [part for site, node in SITES.items() for part in _view(tree, site, node)["packages"].values()]
    for folder in ("lists/partial", "cache/archives/partial"):
        (packages / folder).mkdir(parents=True)
    (packages / "apt.conf").write_text(_APT.format(packages=packages))
    (packages / "sources.list").write_text(f"deb [trusted=yes] file:{packages} ./\n")
    (packages / "Packages").write_text("".join(map(_PACKAGE.format, sorted({name for part in parts for name in part}))))
    script.write_text(_CONTAINER.format(
        unshare="unshare" if root else "unshare --map-root-user", root="yes" if root else "", tree=tree,
        scratch=tempfile.gettempdir(), packages=packages, python=sys.executable))
    script.chmod(0o755)
    tried = subprocess.run([script, "-c", ""], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.fail(f"these tests need root, or user namespaces for others (sysctl kernel.unprivileged_userns_clone, "
                    f"user.max_user_namespaces): {tried.stderr}")
    return {"root_dir": tree.parent, "python_executable": str(script), "inject_sitecustomize": False,
            "slow_stop": False, "start_timeout": 240}


@pytest.fixture(scope="package")
def salt_(salt_factories: FactoriesManager, tree: Path) -> Iterator[Salt]:
    """The master and the minions, running."""
    salt_factories.event_listener.timeout = 3600          # keep every event
    # debug: this log has everything that any log can have
    quiet = {"log": {"level": "error"}}
    shared = {"user": "root", "log_level_logfile": "debug", "enable_gpu_grains": False, "enable_fqdns_grains": False,
              "pytest-master": quiet, "pytest-minion": quiet}
    master = salt_factories.salt_master_daemon("master", overrides=shared | {
        "worker_threads": 3, "auto_accept": True, "gateway_authority": {"folder": str(tree.parent / "authority")},
        # A test stops minions for minutes: Salt would cut them off the bus after one, and they come back late.
        "publish_drain_timeout": 900,
        # On a busy machine answers are late; test_two_masters.py tests it.
        "gateway_alerts": {"presence": 0}})
    _link(master, "master.d")
    _listen(master)
    keyring = Path(master.config_dir) / "gpgkeys"
    encrypted = EncryptedPillar(keyring)
    secrets = _write_secrets(tree, encrypted)
    minions = {name: master.salt_minion_daemon(name, overrides=shared | {"grains": grains})
               for name, grains in MINIONS.items()}
    for minion in minions.values():
        _link(minion, "minion.d")
    try:
        with master.started():
            with ThreadPoolExecutor() as pool:
                started = pool.map(SaltMinion.start, minions.values())
            assert all(started)
            yield Salt(master, minions, tree, secrets, encrypted)
            with ThreadPoolExecutor() as pool:
                list(pool.map(SaltMinion.terminate, minions.values()))
    finally:
        subprocess.run(["gpgconf", "--homedir", keyring, "--kill", "gpg-agent"], check=False)


def _link(daemon: SaltMaster | SaltMinion, folder: str) -> None:
    """Link the drop-in of etc/, as an operator does."""
    place = Path(daemon.config_dir) / folder
    place.mkdir()
    (place / "gateway.conf").symlink_to(f"/srv/gateway/etc/salt/{folder}/gateway.conf")


def _listen(daemon: SaltMaster) -> None:
    """
    Add the engine by which pytest-salt-factories hears the master to those of etc/: a drop-in's list replaces the list
    of the file before it.
    """
    shipped = yaml.safe_load((TREE / "etc/salt/master.d/gateway.conf").read_text())
    (Path(daemon.config_dir) / "master.d/tests.conf").write_text(yaml.safe_dump({
        "engines": [*shipped["engines"], "pytest"], "gateway_resync": {"enabled": True},
        "engines_dirs": [*shipped["engines_dirs"], str(FactoriesManager.get_salt_engines_path())]}))


@pytest.fixture(scope="package")
def looked(salt_: Salt) -> dict[str, dict]:
    """The returns of `state.apply test=True` on one bare node of each site; nothing was synced to them before."""
    return salt_.call_all(["gw1.winterthur", "gw-a.bern"], "state.apply", test=True)


@pytest.fixture(scope="package")
def highstates(salt_: Salt, looked: dict) -> dict[str, dict]:
    """The compiled highstates of the same nodes: what state.apply would run."""
    return salt_.call_all(looked, "state.show_highstate")


def _view(tree: Path, name: str, node: str) -> dict:
    """A site's settings, as one of its nodes sees them."""
    site, schema = (yaml.safe_load((tree / "pillar" / file).read_text())
                    for file in (f"sites/{name}.sls", "schema.sls"))
    return load_module("_modules/gateway.py").derive(site["gateway"], schema["gateway_schema"], node)


def _write_secrets(tree: Path, keyring: EncryptedPillar) -> dict[str, dict]:
    """Write made-up secrets of both sites, encrypted as in production. Returns them in clear, by site."""
    authority, made = Authority(), {}
    for name, node in SITES.items():
        made[name] = site_secrets(authority, _view(tree, name, node))
        (tree / f"pillar/secrets/{name}.sls").write_text(keyring.render(made[name]))
    return made
