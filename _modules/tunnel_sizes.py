"""
What fits through a tunnel: the largest inner packet, and the largest TCP segment in it.

Plain arithmetic on ESP in tunnel mode (RFC 4303, 2 and 3.1.2), always with the UDP header that a peer behind NAT needs
(RFC 3948, 2.1): who calls from where is known only when he calls.

Sizes in bytes. Headers: IPv4 20 (RFC 791, 3.1), IPv6 40 (RFC 8200, 3), UDP 8 (RFC 768), TCP 20 (RFC 9293, 3.1).
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__virtualname__ = "tunnel_sizes"

_IP = {4: 20, 6: 40}
_UDP = 8
_TCP = 20
_ESP = 8                # SPI and sequence number; the upper half of an extended one is not sent (RFC 4303, 2.2.1)
_TRAILER = 2            # pad length and next header


class Algorithm(NamedTuple):
    """What an algorithm adds to each packet; `align`: what the encrypted part is a multiple of."""

    iv: int
    align: int
    icv: int


# ESP's encrypted part ends on a boundary of 4 bytes, with every algorithm (RFC 4303, 2.4).
_STREAM, _NULL, _TRIPLE_DES, _BLOCK = (8, 4), (0, 4), (8, 8), (16, 16)
# By the beginning of its name in Libreswan: IV and alignment; and the longest ICV if it checks integrity itself.
_ENCRYPTION: tuple[tuple[str, tuple[int, int], int | None], ...] = (
    ("null_auth_aes_gmac", _STREAM, 16),    # RFC 4543, 3
    ("aes_gcm", _STREAM, 16),               # RFC 4106, 3.1 and 6
    ("aes_ccm", _STREAM, 16),               # RFC 4309, 3.1 and 6
    ("chacha20_poly1305", _STREAM, 16),     # RFC 7634, 2
    ("aes_ctr", _STREAM, None),             # RFC 3686, 3.1
    ("3des", _TRIPLE_DES, None),            # RFC 2451, 2.3 and 3
    ("null", _NULL, None),                  # RFC 2410, 2
)
# ICV by integrity algorithm.
_INTEGRITY = {
    **dict.fromkeys(("md5", "sha1", "sha", "aes_xcbc", "aes_cmac"), 12),    # RFC 2403, 2404, 3566, 4494: 96 bits
    "sha2_256": 16, "sha2": 16, "sha2_384": 24, "sha2_512": 32,             # RFC 4868, 2.3: half of the hash
}
# AES-CBC (RFC 3602, 2 and 3) and HMAC-SHA-512: nothing that Libreswan knows takes more.
_WORST = Algorithm(*_BLOCK, 32)


def __virtual__() -> str:
    return __virtualname__


def algorithms(proposal: str) -> list[Algorithm]:
    """
    What the algorithms of one ESP proposal add, for each combination that it allows.

    Args:
        proposal: as Libreswan writes it (ipsec.conf(5), esp=), such as ``aes_gcm256``, ``aes256+3des-sha2_512+sha1``.

    An algorithm that is not known here, or not named, counts as the one that adds most.

    CLI Example:

    .. code-block:: bash

        salt-call tunnel_sizes.algorithms aes256-sha2_256
    """
    # ENCRYPTION-INTEGRITY-GROUP, or ;GROUP. A group in the place of integrity leaves that to the daemon: unknown.
    encryption, integrity, *_ = [*re.split("[-;]", proposal), ""]
    icvs = [_integrity(name) for name in integrity.split("+")]
    found = []
    for name in encryption.split("+"):
        sizes, icv = next(((sizes, icv) for start, sizes, icv in _ENCRYPTION if name.startswith(start)), (_BLOCK, None))
        found += [Algorithm(*sizes, each) for each in ([icv] if icv is not None else icvs)]
    return found


def _integrity(name: str) -> int:
    """The ICV of one integrity algorithm, whose name may end in its length (sha2_256_128)."""
    matching = [start for start in _INTEGRITY if name == start or name.startswith(f"{start}_")]
    return _INTEGRITY[max(matching, key=len)] if matching else _WORST.icv


def inner(mtu: int, outer: int, algorithm: Algorithm) -> int:
    """
    The largest packet that fits through a tunnel.

    Args:
        mtu: the largest IP packet that the way outside takes.
        outer: the IP version outside, 4 or 6.
        algorithm: what ESP adds, see :func:`algorithms`.

    CLI Example:

    .. code-block:: bash

        salt-call tunnel_sizes.inner 1500 4 '[8, 4, 16]'
    """
    iv, align, icv = algorithm
    room = mtu - _IP[outer] - _UDP - _ESP - iv - icv
    return room // align * align - _TRAILER


def segment(mtu: int, outer: int, version: int, proposals: Iterable[str]) -> int:
    """
    The largest TCP segment (MSS; RFC 9293, 3.7.1) that fits, whichever of the proposals is agreed upon.

    Args:
        mtu: the largest IP packet that the way outside takes.
        outer: the IP version outside.
        version: the IP version inside.
        proposals: ESP proposals as for :func:`algorithms`; without any, as if everything were allowed.

    CLI Example:

    .. code-block:: bash

        salt-call tunnel_sizes.segment 1500 4 4 '[aes_gcm256]'
    """
    allowed = [each for proposal in proposals for each in algorithms(proposal)] or [_WORST]
    return min(inner(mtu, outer, each) for each in allowed) - _IP[version] - _TCP
