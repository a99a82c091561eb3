"""The lab's Salt master: native, with the tree at /srv/gateway and the drop-in of etc/ as production has them."""
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

import salt.client
import salt.utils.args
from salt.exceptions import SaltClientError

from lab.topology import EXAMPLES, TREE

PLACE = Path("/srv/gateway")          # where etc/salt/master.d/gateway.conf expects the tree
PORT_OF_PACKAGES = 8080


class Master:
    """A running salt-master; `folder` is the lab's own scratch folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "etc/salt"
        self.secrets = PLACE / "pillar/secrets"
        self._packages: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # only in this lab's mount namespace: the host's /srv stays as it is
        subprocess.run(["mount", "-t", "tmpfs", "lab", "/srv"], check=True)
        for name in ("gateway", ".changed", ".work"):
            (PLACE.parent / name).mkdir()
        # a test may change pillar and tree there as an operator does: it is gone with the lab
        layers = f"lowerdir={TREE},upperdir={PLACE.parent}/.changed,workdir={PLACE.parent}/.work"
        subprocess.run(["mount", "-t", "overlay", "lab", "-o", layers, PLACE], check=True)
        # the example sites, where an operator puts sites; an own one of the same name stays
        for example in EXAMPLES.glob("*.sls"):
            place = PLACE / "pillar/sites" / example.name
            if not place.exists():
                shutil.copy(example, place)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "lab", self.secrets], check=True)
        (self.config / "master.d").mkdir(parents=True)
        (self.config / "master.d/gateway.conf").symlink_to(PLACE / "etc/salt/master.d/gateway.conf")
        (self.config / "master").write_text(
            f"root_dir: {folder}\npki_dir: {folder}/pki\ncachedir: {folder}/cache\nsock_dir: {folder}/sock\n"
            f"log_file: {folder}/master.log\npidfile: {folder}/master.pid\ngpg_keydir: {self.config}/gpgkeys\n"
            f"gateway_authority: {{folder: {folder}/authority}}\n"
            "interface: 0.0.0.0\nuser: root\nworker_threads: 3\n"
            "auto_accept: True                 # a lab's hosts are known; production accepts keys by hand\n")
        # What tests change by hand would be put right before they have looked; `resync` switches the engine on.
        self._resync({"enabled": False})
        os.environ["SALT_CONFIG_DIR"] = str(self.config)

    def start(self) -> None:
        """Start it; `salt` works in this process's environment from then on."""
        with open(self.folder / "master.out", "ab") as log:
            self._process = subprocess.Popen([f"{sys.prefix}/bin/salt-master", "-l", "warning"],
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """End it in order; the packages are served on."""
        assert self._process, "the master was never started"
        self._process.terminate()
        self._process.wait(timeout=60)

    def resync(self, **settings: object) -> None:
        """Start it anew with these settings of the engine gateway_resync."""
        self.stop()
        self._resync(settings)
        self.start()

    def _resync(self, settings: dict[str, object]) -> None:
        (self.config / "master.d/resync.conf").write_text(json.dumps({"gateway_resync": settings}) + "\n")

    def serve_packages(self, folder: Path) -> None:
        """Serve `folder`/RELEASE as apt repositories to the hosts, as an operator's mirror would."""
        with open(self.folder / "packages.log", "ab") as log:
            self._packages = subprocess.Popen(
                [sys.executable, "-m", "http.server", str(PORT_OF_PACKAGES), "--directory", str(folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def salt(self, *words: str, timeout: int = 300) -> dict[str, Any]:
        """Run the `salt` command and give what it returned for each minion.

        Raises RuntimeError when it printed nothing that can be read.
        """
        command = [f"{sys.prefix}/bin/salt", "--out=json", "--static", f"--timeout={timeout}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout + 120)
        try:
            returned: dict[str, Any] = json.loads(done.stdout)
        except json.JSONDecodeError as err:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}") from err
        return returned

    def ask(self, target: str | Iterable[str], function: str, *words: str, timeout: int = 60) -> dict[str, Any]:
        """What `salt` prints with these words, by minion, without the two seconds that a command takes to start.

        `target` is a pattern, or the ids themselves. A minion that does not answer is not in it.
        Raises RuntimeError when the master can not be reached.
        """
        arguments, named = salt.utils.args.parse_input(words, condition=False)
        kind = "glob" if isinstance(target, str) else "list"
        try:
            with salt.client.LocalClient(str(self.config / "master")) as client:
                said: dict[str, Any] = client.cmd(target if kind == "glob" else list(target), function, arguments,
                                                  timeout, kind, kwarg=named)
        except SaltClientError as err:
            raise RuntimeError(f"{function}: {err}") from err
        return said

    def run(self, *words: str, check: bool = True) -> str:
        """Run `salt-run` and give its text. With `check`, raises RuntimeError with that text when it fails."""
        done = subprocess.run([f"{sys.prefix}/bin/salt-run", "--no-color", *words], check=False,
                              capture_output=True, text=True)
        if done.returncode and check:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def wait_for(self, minions: set[str], timeout: float = 120) -> None:
        """Wait until all these minions answer."""
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
