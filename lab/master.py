"""The lab's Salt master. It runs natively, with the tree at /srv/gateway and the drop-in of etc/ as in production."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import salt.utils.args
from salt.exceptions import SaltClientError

from lab.client import client
from lab.topology import EXAMPLE_SITES, TREE

MASTER_TREE = Path("/srv/gateway")          # where etc/salt/master.d/gateway.conf expects the tree
PORT_OF_PACKAGES = 8080
_RUNNER_SECONDS = 3600      # that a runner may take: an orchestration waits for whole state runs


class Master:
    """A running salt-master; `folder` is the lab's own scratch folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "etc/salt"
        self.secrets = MASTER_TREE / "pillar/secrets"
        self._packages: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # only in this lab's mount namespace: the host's /srv stays as it is
        subprocess.run(["mount", "-t", "tmpfs", "lab", "/srv"], check=True, timeout=60)
        for name in ("gateway", ".changed", ".work"):
            (MASTER_TREE.parent / name).mkdir()
        # a test may change pillar and tree there as an operator does; the changes end with the lab
        layers = f"lowerdir={TREE},upperdir={MASTER_TREE.parent}/.changed,workdir={MASTER_TREE.parent}/.work"
        subprocess.run(["mount", "-t", "overlay", "lab", "-o", layers, MASTER_TREE], check=True, timeout=60)
        # the example sites, where an operator puts sites; an operator's own site of the same name stays
        for example in EXAMPLE_SITES.glob("*.sls"):
            place = MASTER_TREE / "pillar/sites" / example.name
            if not place.exists():
                shutil.copy(example, place)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "lab", self.secrets], check=True,
                       timeout=60)
        (self.config / "master.d").mkdir(parents=True)
        (self.config / "master.d/gateway.conf").symlink_to(MASTER_TREE / "etc/salt/master.d/gateway.conf")
        (self.config / "master").write_text(
            f"root_dir: {folder}\npki_dir: {folder}/pki\ncachedir: {folder}/cache\nsock_dir: {folder}/sock\n"
            f"log_file: {folder}/master.log\npidfile: {folder}/master.pid\ngpg_keydir: {self.config}/gpgkeys\n"
            f"gateway_authority: {{folder: {folder}/authority}}\n"
            "interface: 0.0.0.0\nuser: root\nworker_threads: 3\n"
            "auto_accept: True                 # a lab's hosts are known; production accepts keys by hand\n")
        # Otherwise the engine repairs what tests change by hand before they have looked; `resync` switches it on.
        self._resync({"enabled": False})
        os.environ["SALT_CONFIG_DIR"] = str(self.config)

    def start(self) -> None:
        """Start the master. From then on `salt` works in this process's environment."""
        with open(self.folder / "master.out", "ab") as log:
            self._process = subprocess.Popen([f"{sys.prefix}/bin/salt-master", "-l", "warning"],
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """Stop the master in order. Packages are still served."""
        assert self._process, "the master was never started"
        self._process.terminate()
        self._process.wait(timeout=60)

    def resync(self, **settings: object) -> None:
        """Restart the master with these settings of the engine gateway_resync."""
        self.stop()
        self._resync(settings)
        self.start()

    def _resync(self, settings: dict[str, object]) -> None:
        (self.config / "master.d/resync.conf").write_text(json.dumps({"gateway_resync": settings}) + "\n")

    def serve_packages(self, folder: Path) -> None:
        """Serve `folder`/RELEASE to the hosts as apt repositories, as an operator's mirror does."""
        with open(self.folder / "packages.log", "ab") as log:
            self._packages = subprocess.Popen(
                [sys.executable, "-m", "http.server", str(PORT_OF_PACKAGES), "--directory", str(folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def salt(self, *words: str, timeout: int = 300) -> dict[str, Any]:
        """Run the `salt` command and return each minion's return, by id. `timeout` is in seconds.

        Raises RuntimeError when its output is not JSON.
        """
        command = [f"{sys.prefix}/bin/salt", "--out=json", "--static", f"--timeout={timeout}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout + 120)
        try:
            returned: dict[str, Any] = json.loads(done.stdout)
        except json.JSONDecodeError as err:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}") from err
        return returned

    def ask(self, target: str | Iterable[str], function: str, *words: str, timeout: int = 60) -> dict[str, Any]:
        """Each minion's return of a function, by id, as `salt` prints it, without that command's two seconds of start.

        `target` is a pattern, or the ids; `timeout` is in seconds. A minion that does not answer is left out.

        Raises RuntimeError when the master can not be reached.
        """
        arguments, named = salt.utils.args.parse_input(words, condition=False)
        kind = "glob" if isinstance(target, str) else "list"
        try:
            with client(self.config / "master") as one:
                said: dict[str, Any] = one.cmd(target if kind == "glob" else list(target), function, arguments,
                                               timeout, kind, kwarg=named)
        except SaltClientError as err:
            raise RuntimeError(f"{function}: {err}") from err
        return said

    def run(self, *words: str, check: bool = True) -> str:
        """Run `salt-run` and return its output. With `check`, raises RuntimeError with the output when it fails."""
        done = subprocess.run([f"{sys.prefix}/bin/salt-run", "--no-color", *words], check=False,
                              capture_output=True, text=True, timeout=_RUNNER_SECONDS)
        if done.returncode and check:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def wait_for(self, minions: set[str], timeout: float = 120) -> None:
        """Wait until all these minions answer. Raises SystemExit after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        accepted = self.folder / "pki/minions"
        while not minions <= {path.name for path in accepted.glob("*")}:
            if time.monotonic() > deadline:
                missing = minions - {path.name for path in accepted.glob("*")}
                raise SystemExit(f"lab: no key came from {', '.join(sorted(missing))}; see {self.folder}")
            time.sleep(0.3)
        while True:
            try:
                if minions <= {name for name, up in self.ask(minions, "test.ping", timeout=5).items() if up is True}:
                    return
            except RuntimeError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"lab: the minions {', '.join(sorted(minions))} do not all answer; see {self.folder}")
