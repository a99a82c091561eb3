"""The two kernels that a lab host can run: Debian's packaged user-mode-linux, and one that the lab builds.

The packaged kernel is ready in seconds and has no packet filter. The built kernel, from Debian's
linux-source with `kernel.config`, has everything.
"""
from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import cache
from lab.debian import Release

# user-mode-linux before 7.0 dies at start on processors with AMX (put_fp_registers).
RELEASE = "forky"
SOURCE = "linux-source-7.2"
CONFIG = Path(__file__).parent / "kernel.config"
_SECONDS = 600              # that one tool may take
_COMPILE_SECONDS = 7200
BUILD_COMMAND = "lab/run kernel"


@dataclass(frozen=True)
class Kernel:
    """A user-mode-linux binary with its modules (`modules/VERSION`) and `config`, in one folder."""

    folder: Path
    built: bool

    @property
    def binary(self) -> Path:
        """The program that runs as the host."""
        return self.folder / "linux"

    @property
    def name(self) -> str:
        """Its name in a table."""
        version = next((self.folder / "modules").iterdir()).name
        return f"{version} ({'built from Debian source' if self.built else 'packaged user-mode-linux'})"


def _build_inputs() -> list[str]:
    return [SOURCE, cache.files_digest(CONFIG)]


def built_is_cached() -> bool:
    """Whether `built()` returns at once."""
    return cache.find("kernel-built", _build_inputs()) is not None


def built() -> Kernel:
    """The kernel with everything. The first call compiles it (minutes).

    Raises SystemExit with the end of the build log when it does not build.
    """

    def make(folder: Path) -> None:
        # in /dev/shm if there is room: the source tree is 1.8 GB of small files
        roomy = shutil.disk_usage("/dev/shm").free > 4 << 30
        scratch = Path("/dev/shm" if roomy else folder) / f"gateway-lab-kernel-{os.getpid()}"
        try:
            scratch.mkdir()
            Release(RELEASE, scratch / "apt").unpack(SOURCE, scratch)
            subprocess.run(["tar", "-xJf", f"usr/src/{SOURCE}.tar.xz"], cwd=scratch, check=True,
                           timeout=_SECONDS)
            source = scratch / SOURCE
            _compile(source, folder / "build.log")
            subprocess.run(["strip", "-o", folder / "linux", source / "linux"], check=True,
                           timeout=_SECONDS)
            shutil.copy(source / ".config", folder / "config")
            (scratch / "lib/modules").rename(scratch / "modules")
            shutil.copytree(scratch / "modules", folder / "modules", symlinks=True,
                            ignore=shutil.ignore_patterns("build", "source"))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    why = f"building the kernel with a packet filter from Debian's {SOURCE} (5 to 10 minutes, once)"
    return Kernel(cache.made("kernel-built", _build_inputs(), make, why), built=True)


def _compile(source: Path, log: Path) -> None:
    make = ["make", "ARCH=um", f"-j{os.cpu_count()}"]
    with open(log, "w", encoding="utf-8") as output:
        def run(*arguments: str) -> None:
            subprocess.run([*make, *arguments], cwd=source, check=True, stdout=output, stderr=output,
                           timeout=_COMPILE_SECONDS)

        try:
            run("tinyconfig")
            with open(source / ".config", "a", encoding="ascii") as config:
                config.write(CONFIG.read_text(encoding="ascii"))
            run("olddefconfig")
            run("linux", "modules")
            run("modules_install", f"INSTALL_MOD_PATH={source.parent}")
        except subprocess.CalledProcessError as err:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"lab: the kernel does not build ({' '.join(err.cmd)}):\n{tail}") from err


def packaged(libc: Path) -> Kernel:
    """Debian's own binary. `libc` is a Debian 13 tree: the binary needs a newer libc than Debian 12 has."""

    def make(folder: Path) -> None:
        Release(RELEASE, folder / "apt").unpack("user-mode-linux", folder / "package")
        shutil.rmtree(folder / "apt")
        package = folder / "package/usr"
        shutil.copy(package / "bin/linux.uml", folder / "linux")
        # Its own loader and libc beside it, named in the binary: calling the loader by hand is not enough, because the
        # binary executes itself again.
        (folder / "libc").mkdir()
        shutil.copy(libc / "usr/lib/x86_64-linux-gnu/libc.so.6", folder / "libc")
        shutil.copy(libc / "usr/lib64/ld-linux-x86-64.so.2", folder / "libc")
        final = cache.ROOT / f"kernel-packaged-{cache.key(inputs)}" / "libc"
        subprocess.run(["patchelf", "--set-interpreter", final / "ld-linux-x86-64.so.2", "--set-rpath", final,
                        folder / "linux"], check=True, timeout=_SECONDS)
        (package / "lib/uml/modules").rename(folder / "modules")
        with open(folder / "config", "wb") as config:
            subprocess.run(["zcat", package / "share/doc/user-mode-linux/config.gz"], stdout=config, check=True,
                           timeout=_SECONDS)
        version = next((folder / "modules").iterdir()).name
        (folder / "lib").mkdir()
        (folder / "lib/modules").symlink_to("../modules")
        subprocess.run(["depmod", "-b", folder, version], check=True, timeout=_SECONDS)
        shutil.rmtree(folder / "package")

    inputs = ["user-mode-linux", RELEASE, libc.parent.name]
    return Kernel(cache.made("kernel-packaged", inputs, make, "fetching the packaged kernel"), built=False)


def choose(which: str, libc: Path) -> Kernel:
    """The kernel `which`: `built`, `packaged`, or `auto` (the built one if it is cached, else the packaged)."""
    if which == "built" or (which == "auto" and built_is_cached()):
        return built()
    return packaged(libc)
