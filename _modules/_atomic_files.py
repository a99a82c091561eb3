"""
Files that are written whole or not at all, with their mode from the start. For ``nss`` and ``swanctl``.

Salt syncs this file and does not load it (its name begins with _); those modules load it by its path. For a single text
file there is ``commit_confirm.replace_file``; here are several at once, and keys among them.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from salt.exceptions import CommandExecutionError


def _error(where: str, what: str) -> CommandExecutionError:
    return CommandExecutionError(f"certs: {where} {what}")


def put_all(files: dict[Path, tuple[bytes, int]]) -> None:
    """
    Write files in this order, each in one step and with its mode from the start; never through a link.

    All are complete on the disk before the first is moved into place. So an obstacle or a full disk changes nothing.
    """
    for file in files:
        if file.is_dir() and not file.is_symlink():
            raise _error(str(file), "is a folder, and a file has to be there; remove it")
        if file.parent.is_symlink():
            raise _error(str(file.parent), "is a link, and a folder of the daemon's own has to be there; remove it")
        if file.parent.exists() and not file.parent.is_dir():
            raise _error(str(file.parent), "is a file, and a folder has to be there; remove it")
    made: dict[Path, str] = {}
    folders: list[Path] = []
    with writing(str(next(iter(files)).parent)):
        try:
            for file, (data, mode) in files.items():
                for folder in reversed([each for each in (file.parent, *file.parent.parents) if not each.exists()]):
                    folder.mkdir(mode=0o755 if mode & 0o077 else 0o700)
                    folders.append(folder)
                descriptor, made[file] = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")          # 0600
                with os.fdopen(descriptor, "wb") as handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                    os.fchmod(handle.fileno(), mode)
            for file, temporary in made.items():
                os.replace(temporary, file)
        except OSError:
            with contextlib.suppress(OSError):
                for temporary in made.values():
                    Path(temporary).unlink(missing_ok=True)
                for folder in reversed(folders):
                    folder.rmdir()
            raise


def as_wanted(file: Path, data: bytes, mode: int) -> bool:
    """Whether the file exists, is no link, belongs to this user, and has this mode and content."""
    try:
        its = file.lstat()
        return (stat.S_ISREG(its.st_mode) and stat.S_IMODE(its.st_mode) == mode and its.st_uid == os.geteuid()
                and read(file) == data)
    except OSError:
        return False


def read(file: Path) -> bytes:
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as handle:
        return handle.read()


@contextlib.contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn an error of the system, such as a full disk or a file in a folder's place, into a one-line message."""
    try:
        yield
    except OSError as error:
        raise _error(str(error.filename or where), f"could not be written: {error.strerror}; put that right, then "
                     "apply again") from None


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder in memory that only root can enter; what is written there never reaches a disk."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-", dir="/run" if os.access("/run", os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def written(path: Path, data: bytes) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)
    return str(path)
