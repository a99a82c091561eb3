"""The secret from which all nodes' keys are derived, as it is in the master's file now.

Everything on the master that verifies holds one of these. So a changed file counts everywhere from the next check on.
"""
from __future__ import annotations

import logging
import os
from pathlib import Path

from alerts import authentic

log = logging.getLogger(__name__)


class Keys:
    """The master's secret. Reads its file again when the file has changed; that look costs about a microsecond."""

    def __init__(self, pki_dir: str | os.PathLike[str]) -> None:
        """
        Args:
            pki_dir: the master's folder of keys. The file is made when there is none.

        Raises:
            OSError, ValueError: as :func:`authentic.load_secret`.
        """
        self._path: Path | None = Path(pki_dir) / authentic.SECRET
        self._secret = authentic.load_secret(pki_dir)
        self._stamp = self._look()
        self.changes = 0  # how often another secret was read

    @classmethod
    def fixed(cls, secret: bytes) -> Keys:
        """Keys of a secret that never changes."""
        its = cls.__new__(cls)
        its._path, its._secret, its._stamp, its.changes = None, secret, None, 0
        return its

    def secret(self) -> bytes:
        """
        The secret. While the file is missing or damaged, as when somebody is about to replace it, it is the one before.
        """
        stamp = self._look()
        if stamp is not None and stamp != self._stamp and self._path is not None:
            self._stamp = stamp
            try:
                secret = authentic.load_secret(self._path.parent)
            except (OSError, ValueError) as error:
                log.error("%s: the key before stays in use", error)
            else:
                self.changes += secret != self._secret
                self._secret = secret
        return self._secret

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path) if self._path else None
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size) if found else None


def keys_of(secret: bytes | Keys) -> Keys:
    """Keys from either."""
    return Keys.fixed(secret) if isinstance(secret, bytes) else secret
