"""gpg on the master's keyring, that of Salt's gpg renderer. Secrets go through pipes: never an argument or a file."""
from __future__ import annotations

import functools
import subprocess

import salt.utils.path

from issuing.errors import refuse

# How long gpg may take for one secret.
GPG_SECONDS = 60


@functools.lru_cache(maxsize=1)
def program() -> str:
    """The path of gpg. Raises SaltRunnerError without one."""
    found: str | None = salt.utils.path.which("gpg")
    if not found:
        raise refuse("gpg is not installed (Debian package gpg)")
    return found


def run(keyring: str, arguments: list[str], data: bytes) -> bytes:
    """Run gpg on a keyring, and give what it prints."""
    command = [program(), "--homedir", keyring, "--batch", "--quiet", "--no-tty", *arguments]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=GPG_SECONDS)
    except subprocess.TimeoutExpired:
        raise refuse(f"gpg --homedir {keyring} {arguments[0]}: no answer within {GPG_SECONDS} s, so it was "
                      f"ended; its agent may hang: `gpgconf --homedir {keyring} --kill gpg-agent`, then try "
                      "again") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise refuse(f"gpg --homedir {keyring} {arguments[0]} failed: {said[-1]}")
    return done.stdout
