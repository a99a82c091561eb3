"""One real-kernel host: a user-mode-linux process over its own copy-on-write disk."""
from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from lab.kernel import Kernel
from lab.topology import Host, Nic


class Failed(subprocess.CalledProcessError):
    """A command on a host ended with an error; the text contains what the command printed."""

    def __str__(self) -> str:
        return f"{super().__str__()} {self.stdout}{self.stderr}".strip()


class Guest:
    """A host that can be started, crashed, hung, cut off, and queried over its console."""

    def __init__(self, host: Host, kernel: Kernel, disk: Path, folder: Path, processor: int) -> None:
        """`processor`: the processor of this machine that the host runs on, as taskset counts them.

        The host's kernel and the process that it runs take turns some thousand times a second, and waking a process on
        another processor is slow: without pinning everything takes half as long again (docs/lab.md).
        """
        self.host, self.kernel, self.disk, self.processor = host, kernel, disk, processor
        self.folder = folder / host.minion_id
        self.disk_file = self.folder / "disk.cow"     # what the host has written over `disk`
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._bell: socket.socket | None = None       # the other end is the host's /dev/tty1 (lab-console)
        for part in ("console", "root"):
            (self.folder / part).mkdir(parents=True)
        (self.folder / "kernel").mkdir()
        # A mount, because links of this machine mean nothing inside the host. Read-only, so that nobody who cleans up
        # after a lab empties the cache.
        subprocess.run(["mount", "--bind", "-o", "ro", kernel.folder, self.folder / "kernel"], check=True,
                       timeout=60)
        nics = [f"vec{number} {nic.name} {nic.mac}\n" for number, nic in enumerate(host.nics)]
        (self.folder / "nics").write_text("".join(nics))
        self._installers_answers()

    # the answers to an installer's questions: name, network, and for these hosts the minion's master

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file that is on the host when it boots for the first time. `path` is the path there."""
        target = self.folder / "root" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def _installers_answers(self) -> None:
        host = self.host
        self.put("/etc/hostname", f"{host.name}\n")
        self.put("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {host.minion_id} {host.name}\n::1 localhost\n")
        if host.release.network == "networkd":
            lines = [f"[Match]\nName={host.configured}\n\n[Network]\n", *(f"Address={a}\n" for a in host.addresses)]
            self.put("/etc/systemd/network/10-installer.network",
                     "".join(lines) + (f"Gateway={host.gateway}\n" if host.gateway else ""))
        else:
            stanzas = [f"iface {host.configured} {'inet6' if ':' in a else 'inet'} static\n    address {a}\n"
                       for a in host.addresses]
            stanzas[0] += f"    gateway {host.gateway}\n" if host.gateway else ""
            loopback = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\n"
            self.put("/etc/network/interfaces", loopback + f"auto {host.configured}\n" + "\n".join(stanzas))
        if host.master:
            self.put("/etc/salt/minion.d/installer.conf", f"master: {host.master}\nid: {host.minion_id}\n")

    # power

    def start(self) -> None:
        """Switch it on."""
        shutil.rmtree(self.folder / "console")
        (self.folder / "console").mkdir()
        identity = hashlib.sha256(self.host.minion_id.encode()).hexdigest()[:32]
        devices = [f"vec{number}:transport=tap,ifname={nic.tap},depth=64,mac=02:ff{nic.mac[5:]}"
                   for number, nic in enumerate(self.host.nics)]
        if self._bell:
            self._bell.close()
        self._bell, its_end = socket.socketpair()
        self._bell.setblocking(False)
        # pty.legacy_count: the packaged kernel's 256 legacy terminals are 500 units to systemd, and each
        # daemon-reload (such as apt's) takes three seconds longer.
        # MALLOC_...: for systemd. In a daemon-reload it frees memory and allocates it again, at a page fault each, and
        # page faults are slow here.
        # Trap: without "t" (no trim) user-mode-linux writes the zeroes that ext4 asks for into the wrong
        # place of a copy-on-write file, and the disk is corrupt at the next boot.
        command = ["taskset", "--cpu-list", str(self.processor),
                   str(self.kernel.binary), "seccomp=on", "mem=640M", f"umid={self.host.minion_id}",
                   f"ubd0t={self.disk_file},{self.disk}", "root=/dev/ubda", "rw", "quiet",
                   "con=null", "con0=null,fd:1", f"con1=fd:{its_end.fileno()},null",
                   "net.ifnames=0", "pty.legacy_count=0", "MALLOC_TOP_PAD_=33554432",
                   "MALLOC_TRIM_THRESHOLD_=268435456", f"systemd.machine_id={identity}",
                   f"systemd.hostname={self.host.name}", f"labdir={self.folder}", *devices]
        if not self.host.master:
            command.append("systemd.mask=salt-minion.service")
        with open(self.folder / "console.log", "ab") as log:
            # a session of its own: the kernel's processes are stopped and killed together
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             pass_fds=[its_end.fileno()], start_new_session=True,
                                             env=os.environ | {"TMPDIR": "/dev/shm"})
        its_end.close()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process, f"{self.host.name} was never started"
        return self._process

    def _processes(self) -> list[int]:
        # user-mode-linux gives each guest process a host process, in sessions of their own
        tree = [self._running().pid]
        for pid in tree:
            children = Path(f"/proc/{pid}/task").glob("*/children")
            tree += [int(child) for listing in children for child in listing.read_text().split()]
        return tree

    def _signal(self, number: int) -> None:
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def crash(self) -> None:
        """Cut the power: the host flushes nothing and announces nothing."""
        self._signal(signal.SIGKILL)
        self._running().wait()

    def off(self) -> bool:
        """Whether it is switched off."""
        return self._running().poll() is not None

    def hang(self) -> None:
        """Stop all of the host's processes (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a hung host go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def cable(self, nic: Nic | str, plugged: bool) -> None:
        """Plug in or pull one interface's cable: it gets or loses carrier."""
        name = nic if isinstance(nic, str) else nic.name
        self.run(["ip", "-n", "phy", "link", "set", f"plug-{name}", "up" if plugged else "down"], check=True)

    # console

    def run(self, argv: list[str], timeout: float = 60, check: bool = False,
            stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on the host, over its console (needs no network). `timeout` is in seconds.

        Returns the exit code and the output; the exit code is 124 after a timeout on the host.

        Raises Failed when the command fails and `check` is true, TimeoutError when the host does not answer at all.
        """
        code, stdout, stderr = self._answer({"argv": argv, "stdin": stdin, "timeout": timeout}, " ".join(argv))
        if check and code:
            raise Failed(code, argv, stdout, stderr)
        return subprocess.CompletedProcess(argv, code, stdout, stderr)

    def ask(self, path: str, question: dict[str, Any], timeout: float = 10) -> dict[str, Any] | None:
        """What a daemon's socket answers to a question, both of them a line of JSON; None when nobody is there.

        Nothing is started on the host: what is asked again and again must not keep it from what it is asked about.
        """
        job = {"socket": path, "stdin": json.dumps(question), "timeout": timeout}
        code, said, _ = self._answer(job, path)
        answer: dict[str, Any] | None = json.loads(said) if code == 0 and said.endswith("\n") else None
        return answer

    def _answer(self, job: dict[str, Any], what: str) -> tuple[int, str, str]:
        answer, deadline = self._ask(job), time.monotonic() + job["timeout"] + 5
        while not answer.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.host.name} does not answer on its console ({what})")
            time.sleep(0.01)
        code, stdout, stderr = json.loads(answer.read_text())
        answer.unlink()
        return code, stdout, stderr

    def behind(self) -> float:
        """Seconds that its clock is behind this machine's; 0 when they agree to a second or so, as they should.

        The host takes the time from this machine when it boots. If this machine's clock is set later, they differ.
        """
        before = time.time()
        its = float(self.run(["date", "+%s.%N"], check=True).stdout)
        after = time.time()     # a busy host takes its time to answer
        return 0.0 if before - 1 <= its <= after + 1 else (before + after) / 2 - its

    def journal(self, since: float, *options: str) -> str:
        """Its journal since `since`, in seconds since the epoch by this machine's clock (options: journalctl(1))."""
        return self.run(["journalctl", "-q", f"--since=@{int(since - self.behind())}", *options], check=True).stdout

    def _ask(self, job: dict[str, Any]) -> Path:
        """Hand a job over (lab-console) and return the path where its answer will be."""
        base = self.folder / "console" / f"{next(self._numbers):06d}"
        writing = base.with_suffix(".asking")
        writing.write_text(json.dumps(job))
        writing.rename(base.with_suffix(".request"))
        if self._bell:
            with contextlib.suppress(OSError):      # it is off, or so busy that a hundred rings wait already
                self._bell.send(b"\n")
        return base.with_suffix(".answer")

    def wait_up(self, timeout: float = 120) -> None:
        """Wait until it has booted (systemd has nothing left to start). Raises SystemExit after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not (self.folder / "console").exists() or self._booting():
            if time.monotonic() > deadline or self._running().poll() is not None:
                tail = (self.folder / "console.log").read_text(errors="replace").splitlines()[-20:]
                raise SystemExit(f"lab: {self.host.name} did not boot; the end of its console:\n" + "\n".join(tail))
            time.sleep(0.3)

    def _booting(self) -> bool:
        try:
            return self.run(["systemctl", "is-system-running"], timeout=3).stdout.strip() not in ("running", "degraded")
        except TimeoutError:
            return True

    def shut_down(self) -> None:
        """Shut it down in order, and wait for its end."""
        # does not wait for an answer: the console goes down with the rest
        self._ask({"argv": ["systemctl", "poweroff"], "stdin": "", "timeout": 60})
        self._running().wait(timeout=120)

    def reboot(self) -> None:
        """Reboot it in order, and wait until it has booted."""
        self.shut_down()
        self.start()
        self.wait_up()
