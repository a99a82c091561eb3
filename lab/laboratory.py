"""A whole lab: sites, roadwarriors, master. It lives in namespaces of its own and ends with its process."""
from __future__ import annotations

import base64
import ctypes
import fcntl
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lab import applied, cache, image, network
from lab.guest import Guest
from lab.identities import AUTHORITY, Authority, EncryptedPillar, site_secrets
from lab.kernel import Kernel, choose
from lab.master import PORT_OF_PACKAGES, Master
from lab.progress import step
from lab.topology import TREE, Counter, Host, Site, roadwarrior, site

if TYPE_CHECKING:
    from lab.observe import Listener

LAB_FOLDER = Path("/run/gateway-lab")
PREPARED_LOCK = cache.ROOT / ".prepared"             # locked while `meanwhile` makes kernel and images
PREPARED_MARK = "complete"                           # the lock file's content when that has succeeded
CLONE_NEWNET = 0x40000000                            # unshare(2); Python has it from 3.12 on
CLIENT_PACKAGES = ["libreswan", "libnss3-tools"]     # what a roadwarrior's user installs
ROADWARRIOR = "roadwarrior"
STRONGSWAN = "strongswan"                            # with a strongSwan client, in labs that have it


def prepare(names: list[str], which: str, more_packages: tuple[str, ...] = ()) -> Kernel:
    """Make everything that needs the internet: kernel, images, packages. All of it is cached. Returns the kernel.

    `names` are sites, `which` is as for `lab.kernel.choose`, `more_packages` are Debian 13 packages.
    """
    kernel = choose(which, image.tree(image.TRIXIE))
    for release in _repositories(wired(names, ())[0], more_packages):
        image.disk(release)
    return kernel


def prepare_meanwhile() -> subprocess.Popen[bytes]:
    """Start `python -m lab meanwhile`, which prepares the tests' lab while the tests run that do not need it.

    With niceness 5: those tests watch real processes and go first, but the lab's tests wait for it (`prepared`).
    """
    cache.ROOT.mkdir(parents=True, exist_ok=True)
    with open(PREPARED_LOCK, "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)      # the child inherits it: it ends when no process has the file open
        lock.truncate(0)
        return subprocess.Popen(tied(["nice", "-n", "5", sys.executable, "-m", "lab", "meanwhile",
                                      str(lock.fileno())]), pass_fds=[lock.fileno()])


def prepared(names: list[str], more_packages: tuple[str, ...] = ()) -> Kernel:
    """Wait for `prepare_meanwhile`, and return the kernel that it made. Raises RuntimeError when it has failed."""
    with open(PREPARED_LOCK, encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if lock.read() != PREPARED_MARK:
            raise RuntimeError("the lab's kernel and images could not be made; the error is above, before the tests")
    return prepare(names, "built", more_packages)


def wired(names: list[str], persons: tuple[str, ...],
          behind_nat: tuple[str, ...] = ()) -> tuple[list[Site], list[Host]]:
    """The sites and the roadwarriors, with interfaces and switches assigned. `behind_nat`: the persons in the hotel."""
    counter = Counter()
    return ([site(name, counter) for name in names],
            [roadwarrior(counter, person, number, person in behind_nat) for number, person in enumerate(persons)])


def _repositories(sites: list[Site], more: tuple[str, ...]) -> dict[image.Release, Path]:
    """By release the folder with the packages that its hosts may ask apt for."""
    wanted: dict[image.Release, set[str]] = {image.TRIXIE: set(CLIENT_PACKAGES)}
    for its in sites:
        for gateway in its.gateways:
            wanted.setdefault(gateway.release, set()).update(
                package for packages in its.settings[gateway.name]["packages"].values() for package in packages)
    return {release: image.repository(release, sorted(packages), more if release is image.TRIXIE else ())
            for release, packages in wanted.items()}


def tied(words: list[str]) -> list[str]:
    """The command `words`, made so that it is killed when the process that starts it ends, however that ends."""
    return ["setpriv", "--pdeathsig", "KILL", *words]


def command(arguments: list[str], own_network: bool = True) -> list[str]:
    """The command that runs `python -m lab ARGUMENTS` in new mount and process namespaces.

    With `own_network` it has a network namespace too. When that process ends, however it ends, the kernel removes every
    process, interface and mount of the lab with it.
    """
    return ["unshare", *(["--net"] if own_network else []), "--mount", "--pid", "--fork", "--kill-child",
            "--mount-proc", sys.executable, "-m", "lab", *arguments]


def enter(words: list[str]) -> None:
    """Replace this process by a command of `command`."""
    os.execvp(words[0], words)


def leave_network() -> None:
    """Move this thread, and all that it starts from now on, into a new network namespace; open sockets stay open.

    Raises OSError when the kernel refuses it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    network.ip("link", "set", "lo", "up")


class Lab:
    """A lab. It must be made inside the namespaces of `command`."""

    def __init__(self, names: list[str], kernel: Kernel, persons: tuple[str, ...] = (ROADWARRIOR,),
                 more_packages: tuple[str, ...] = (), behind_nat: tuple[str, ...] = (),
                 kept: Path | None = None) -> None:
        """`names` are the sites. `persons` are the roadwarriors' names, `behind_nat` those of them in the hotel.

        `more_packages` are as for `prepare`. `kept` is a folder of lab/applied.py; without it the hosts are bare.
        """
        self.kernel = kernel
        self.more_packages = more_packages
        self.listener: Listener | None = None      # once somebody wants events (observe.events)
        self.sites, people = wired(names, persons, behind_nat)
        for place in (LAB_FOLDER, Path("/run/netns")):
            place.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "lab", place], check=True, timeout=60)
        self.authority = Authority(kept and kept / applied.AUTHORITY)
        hosts = [*(gateway for its in self.sites for gateway in its.gateways), *people]
        network.build(self.sites, hosts)
        self.master = Master(LAB_FOLDER / "master")
        if kept:
            shutil.copytree(kept / "master", self.master.folder, dirs_exist_ok=True)
            shutil.copytree(kept / applied.SECRETS, self.master.secrets, dirs_exist_ok=True)
        else:
            self._write_secrets()
        self._serve_packages()
        # A site's gateways on two processors, if there are two: then one that boots takes no time from the other.
        processors = sorted(os.sched_getaffinity(0))
        self.guests = {host.minion_id: self._guest(host, processor)
                       for host, processor in zip(hosts, itertools.cycle(processors))}
        for guest in self.guests.values():
            # a host that was not in the kept lab is a bare one
            if kept and (its := kept / f"{guest.host.minion_id}.cow").exists():
                applied.copy_disk(its, guest.disk_file)
        self.roadwarriors = {host.name: self.guests[host.minion_id] for host in people}
        self.roadwarrior = self.guests[people[0].minion_id]

    def _write_secrets(self) -> None:
        pillar = EncryptedPillar(self.master.config / "gpgkeys")
        for its in self.sites:
            text = pillar.render(site_secrets(self.authority, its.view))
            # This authority writes no site into its certificates: a site's `subject` would let nobody in.
            people = {each["name"]: {"subject": "any"} for each in its.view["connections"]
                      if each["kind"] == "roadwarrior" and each["auth"] == "certificate"}
            text += yaml.safe_dump({"gateway": {"connections": people}}) if people else ""
            (self.master.secrets / f"{its.name}.sls").write_text(text)

    def _serve_packages(self) -> None:
        served = LAB_FOLDER / "packages"
        served.mkdir()
        for release, repository in _repositories(self.sites, self.more_packages).items():
            (served / release.name).symlink_to(repository)
        self.master.serve_packages(served)

    def _guest(self, host: Host, processor: int) -> Guest:
        guest = Guest(host, self.kernel, image.disk(host.release), LAB_FOLDER, processor)
        for path in ("/etc/apt/sources.list", "/etc/apt/sources.list.d/0000.sources"):
            guest.put(path, "")
        source = f"http://{host.master or network.LAB_ON_THE_STREET}:{PORT_OF_PACKAGES}/{host.release.name}"
        guest.put("/etc/apt/sources.list.d/mirror.list", f"deb [trusted=yes] {source} ./\n")
        if host.master:
            guest.put("/etc/salt/minion.d/gateway.conf", (TREE / "etc/salt/minion.d/gateway.conf").read_text())
        return guest

    def gateways(self, name: str) -> list[Guest]:
        """The two gateways of a site."""
        return [self.guests[host.minion_id] for its in self.sites if its.name == name for host in its.gateways]

    def start(self) -> None:
        """Boot everything and wait until every minion answers."""
        step(f"booting {len(self.guests)} hosts, kernel {self.kernel.name}")
        self.master.start()
        for guest in self.guests.values():
            guest.start()
        for guest in self.guests.values():
            guest.wait_up()
        step("waiting for the minions")
        self.master.wait_for({name for name, guest in self.guests.items() if guest.host.master})

    def equip_roadwarrior(self, its: Site, name: str = ROADWARRIOR) -> None:
        """Do what a roadwarrior's user does: install the client, import the bundle, copy the configuration."""
        guest, person = self.roadwarriors[name], f"{name}.example"
        bundle = self.authority.issue(person)
        self.install(guest, CLIENT_PACKAGES)
        self.copy_to(guest, "/root/bundle.p12", bundle.pkcs12)
        self.copy_to(guest, "/root/passphrase", bundle.passphrase.encode())
        configuration = self.master.run("gateway.roadwarrior", its.name, f"certificate={person}", "key=ec")
        self.copy_to(guest, "/etc/ipsec.conf", configuration.encode())
        database = "sql:/var/lib/ipsec/nss"
        for command in (["ipsec", "checknss"],
                        ["pk12util", "-i", "/root/bundle.p12", "-w", "/root/passphrase", "-d", database],
                        ["certutil", "-M", "-n", AUTHORITY, "-t", "CT,,", "-d", database],
                        ["rm", "/root/bundle.p12", "/root/passphrase"]):
            guest.run(command, check=True)

    def install(self, guest: Guest, packages: list[str]) -> None:
        """Install packages on a host, from the lab's own repository."""
        guest.run(["apt-get", "-qq", "update"], timeout=60, check=True)
        guest.run(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "install", "-y",
                   "--no-install-recommends", *packages], timeout=300, check=True)

    def copy_to(self, guest: Guest, path: str, content: bytes) -> None:
        """Write a file on a running host, readable by root only."""
        script = f"umask 077; base64 -d > {shlex.quote(path)}"
        guest.run(["sh", "-c", script], check=True, stdin=base64.b64encode(content).decode())
