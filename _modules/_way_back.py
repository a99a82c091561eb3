"""
The way back of a change: its shell scripts, and its copy that survives a power cut. For ``commit_confirm``.

Salt syncs this file and does not load it (its name begins with _); ``commit_confirm`` loads it by its path.
"""
from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import salt.utils.path


def scripts(name: str, folder: Path, lasting: Path, saved: dict[str, str], commands: list[list[str]],
            afterwards: list[list[str]]) -> dict[str, str]:
    """
    The texts of the files in the folder of a way back.

    Args:
        name: what is about to change, such as ``network``.
        folder: where they will be, below /run.
        lasting: where their copy survives a power cut.
        saved: by path of a file to restore, the name of its copy in the folder; "" for a file that did not exist.
        commands: argument lists, for the live network.
        afterwards: argument lists, run when the files are restored.

    Returns:
        ``undo``: the whole way back, a shell script. ``files``: the script that restores the files from the copies
        beside it. ``programs``: the paths of the programs that the live network needs, one a line.
    """
    live, then = ([[which(command[0]), *command[1:]] for command in each] for each in (commands, afterwards))
    barrier, flock = shlex.quote(f"{folder}.keeping"), which("flock")
    undo = [f"# Undoes the {name} change that waits for its confirmation. The live network waits for no disk.",
            "live() {", "    :", *(f"    {shlex.join(command)}" for command in live), "}",
            "# While its files are written, the change's run may still change the network: again when it has ended.",
            "# Asked before: it may end while the network comes back. A run that is not there yet sees it has lost.",
            f"keeping=; {flock} -n {barrier} true || keeping=yes", "live",
            f'[ ! "$keeping" ] || {{ {flock} {barrier} true; live; }}',
            *_restoring(lasting, saved), *(shlex.join(command) for command in then),
            # what the change did not get to can not be undone; that is no failure
            "exit 0"]
    # of `timeout 10 systemctl`, both
    named = (which(word) for command in live for word in command[1:] if which(word) != word)
    programs = {"/bin/sh", which("mv"), flock, which("true"), *(command[0] for command in live), *named}
    files = [f"# Puts the files back that the {name} change has replaced.",
             *_restoring(lasting, {path: copy for path, copy in saved.items() if not path.startswith("/run/")}),
             '[ ! "$failed" ]']
    return {"undo": _text(undo), "files": _text(files), "programs": _text(sorted(programs))}


def which(program: str) -> str:
    """A program's path: looking along PATH later may need the disk."""
    return salt.utils.path.which(program) or program


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _restoring(lasting: Path, saved: dict[str, str]) -> list[str]:
    """Each file is restored whole or not at all, and not written when it is as it was."""
    lines = [
        "here=${0%/*}", "failed=", "restore() {", '    cmp -s "$1" "$2" && return',
        '    new="${2%/*}/.${2##*/}.undone"', '    cp -p "$1" "$new" && sync "$new" && mv -f "$new" "$2" && return',
        '    rm -f "$new"', "    failed=yes", "}"]
    for path, copy in saved.items():
        target = shlex.quote(path)
        lines.append(f'restore "$here/{copy}" {target}' if copy
                     else f"[ ! -e {target} ] || rm -f {target} || failed=yes")
    its = shlex.quote(str(lasting))
    # First the script: without it the rest means nothing at boot.
    return [*lines, f'[ "$failed" ] || [ ! -e {its} ] || {{ rm -f {its}/files; sync {its}; rm -rf {its}; }}']


def remember(folder: Path, lasting: Path) -> None:
    """Note on the disk that files are about to be replaced, with the old ones: complete, or not there. OSError."""
    scratch = lasting.with_name(f".{lasting.name}.new")
    for old in (lasting, scratch):
        shutil.rmtree(old, ignore_errors=True)
    try:
        scratch.mkdir(mode=0o700, parents=True)
        for path in folder.iterdir():
            if path.name == "files" or path.name.startswith("saved-"):
                shutil.copy2(path, scratch / path.name)
                _sync(scratch / path.name)
        _sync(scratch)
        os.rename(scratch, lasting)
        _sync(lasting.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def forget(lasting: Path) -> None:
    """The new files are confirmed. First the script goes: without it the rest means nothing at boot. OSError."""
    if is_lasting(lasting):
        (lasting / "files").unlink()
        _sync(lasting)
    shutil.rmtree(lasting, ignore_errors=True)


def is_lasting(lasting: Path) -> bool:
    """Whether files are on the disk that nobody has confirmed."""
    return (lasting / "files").exists()


def restore(lasting: Path, seconds: float) -> str:
    """Put the old files back. Returns "", or what is wrong. `seconds`: how long it may take."""
    return run(["/bin/sh", str(lasting / "files")], seconds)


def run(argv: list[str], seconds: float) -> str:
    """Run a command; it goes on when this takes too long or the calling process ends. Returns "", or what is wrong."""
    try:
        process = subprocess.Popen(argv, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        code = process.wait(seconds)
    except OSError as err:
        return str(err)
    except subprocess.TimeoutExpired:
        return f"it has not ended after {seconds} s: does a disk stand still?"
    return f"exit code {code}" if code else ""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
