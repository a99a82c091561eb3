"""What a lab host boots from: a bare Debian with a Salt minion, and the packages it may ask apt for."""
from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import cache
from lab.debian import KEYRING, mirror

GUEST = Path(__file__).parent / "guest"
SALT = "3008.3"


@dataclass(frozen=True)
class Release:
    """One Debian release as the lab installs it. `network` is what an installer left to manage the network."""

    name: str
    python: str
    network: str

    @property
    def packages(self) -> list[str]:
        """What makes it a bare host: of what Debian's installer always leaves the part that matters here
        (priorities important and standard), and Python for the minion."""
        bare = ["systemd-sysv", "dbus", "udev", "kmod", "iproute2", "iputils-ping", "procps", "nftables", "logrotate",
                "perl", "python3", "ca-certificates"]
        return bare + (["ifupdown"] if self.network == "ifupdown" else [])


TRIXIE = Release("trixie", "3.13", "ifupdown")
BOOKWORM = Release("bookworm", "3.11", "networkd")
# Salt offers dates in words through timelib, which has no wheel for every Python; it does without.
OVERRIDES = Path(__file__).parent / "overrides.txt"


def tree(release: Release) -> Path:
    """The bare release with Salt in /opt/salt, as a folder (`tree` in it)."""

    def make(folder: Path) -> None:
        root = folder / "tree"
        leave_out = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")]
        # Trap: it mounts /proc and /sys in there; where it is killed they would stay, in the way of whoever clears up.
        subprocess.run(["unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--variant=apt",
                        f"--keyring={KEYRING}", *leave_out, f"--include={','.join(release.packages)}", release.name,
                        root, mirror()], check=True)
        subprocess.run([_uv(), "pip", "install", "--quiet", "--python-version", release.python,
                        "--overrides", OVERRIDES, "--target", root / "opt/salt", f"salt=={SALT}"],
                       check=True, env=os.environ | {"UV_CACHE_DIR": str(cache.ROOT / "uv"), "UV_LINK_MODE": "copy"})
        _install_lab_files(root)
        if release.network == "networkd":
            subprocess.run(["systemctl", f"--root={root}", "--quiet", "enable", "systemd-networkd.service"], check=True)

    inputs = ["tree", release.name, release.packages, SALT,
              cache.files_digest(*GUEST.iterdir(), OVERRIDES, Path(__file__))]
    return cache.made(f"tree-{release.name}", inputs, make,
                      f"installing a bare Debian {release.name} with a Salt minion") / "tree"


def _uv() -> str:
    import uv  # of the lab's own environment, not whatever PATH has

    return uv.find_uv_bin()


def _install_lab_files(root: Path) -> None:
    for name, place in {"lab-setup": "usr/local/sbin", "lab-console": "usr/local/sbin", "salt-call": "usr/local/bin",
                        "lab-setup.service": "etc/systemd/system", "lab-console.service": "etc/systemd/system",
                        "salt-minion.service": "etc/systemd/system"}.items():
        shutil.copy(GUEST / name, root / place / name)
    for unit, target in {"lab-setup": "sysinit", "lab-console": "sysinit", "salt-minion": "multi-user"}.items():
        wants = root / f"etc/systemd/system/{target}.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / f"{unit}.service").symlink_to(f"/etc/systemd/system/{unit}.service")
    # Any valid id, so that this is no first boot (which would enable every unit there is);
    # each host gets its own from the kernel's command line.
    (root / "etc/machine-id").write_text("11111111111111111111111111111111\n")
    # no login prompts: nobody sits there
    (root / "etc/systemd/system/getty.target").symlink_to("/dev/null")
    # user-mode-linux has 64 serial lines that nobody uses: each would be two units more to look at in every
    # daemon-reload, and apt asks for many
    rules = (root / "usr/lib/udev/rules.d/99-systemd.rules").read_text(encoding="utf-8").splitlines(keepends=True)
    (root / "etc/udev/rules.d/99-systemd.rules").write_text(
        "".join(line for line in rules if not line.startswith('SUBSYSTEM=="tty"')), encoding="utf-8")
    # no generators for what a lab host has not got: each daemon-reload waits for all of them
    generators = root / "etc/systemd/system-generators"
    generators.mkdir(exist_ok=True)
    for name in ("debug", "getty", "gpt-auto", "hibernate-resume", "rc-local", "run", "ssh", "system-update", "tpm2"):
        (generators / f"systemd-{name}-generator").symlink_to("/dev/null")
    # compiled once here rather than at every host's first start
    subprocess.run(["chroot", root, "python3", "-m", "compileall", "-q", "-j0", "/opt/salt"], check=False,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def disk(release: Release) -> Path:
    """The read-only ext4 image that every host of a release writes its own differences over."""
    source = tree(release)

    def make(folder: Path) -> None:
        # with a journal: a host that is killed in a test has to come up again
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-J", "size=16", "-d", source, folder / "base.ext4", "2G"],
                       check=True, stdout=subprocess.DEVNULL)

    return cache.made(f"disk-{release.name}", ["disk", source.parent.name], make,
                      f"making the disk image of Debian {release.name}") / "base.ext4"


def repository(release: Release, packages: list[str], other: tuple[str, ...] = ()) -> Path:
    """An apt repository with `packages` and all they depend on, for a bare host of this release.

    `other` are for hosts of another kind: strongSwan's can not be installed beside Libreswan's.

    What they only recommend stays out, as the formulas leave it out: heartbeat's recommendations
    alone bring 600 packages (compilers, cloud clients) onto Debian 13.
    """
    source = tree(release)

    def make(folder: Path) -> None:
        # apt itself says what a bare host would fetch: a throw-away layer over the tree
        layer = {name: folder / name for name in ("upper", "work", "root")}
        for part in layer.values():
            part.mkdir()
        options = f"lowerdir={source},upperdir={layer['upper']},workdir={layer['work']}"
        subprocess.run(["mount", "-t", "overlay", "lab", "-o", options, layer["root"]], check=True)
        try:
            shutil.copy("/etc/resolv.conf", layer["root"] / "etc/resolv.conf")
            fetch = ["install", "--download-only", "--no-install-recommends", "-y"]
            for command in (["update"], [*fetch, *packages], *([[*fetch, *other]] if other else [])):
                subprocess.run(["chroot", layer["root"], "apt-get", "-qq", "-oAPT::Sandbox::User=root", *command],
                               check=True, stdout=subprocess.DEVNULL)
            for archive in (layer["root"] / "var/cache/apt/archives").glob("*.deb"):
                shutil.move(archive, folder / archive.name)
        finally:
            subprocess.run(["umount", layer["root"]], check=True)
        for part in layer.values():
            shutil.rmtree(part)
        with open(folder / "Packages", "wb") as index:
            subprocess.run(["dpkg-scanpackages", "-m", "."], cwd=folder, check=True, stdout=index,
                           stderr=subprocess.DEVNULL)

    inputs = ["repository", source.parent.name, sorted(packages), *sorted(other)]
    return cache.made(f"repository-{release.name}", inputs, make,
                      f"fetching the packages the gateways will ask for (Debian {release.name})")
