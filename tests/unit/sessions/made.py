"""States and policies as a kernel tells them, made byte by byte for the tests."""
from __future__ import annotations

import socket
import struct

from sessions import xfrm
from sessions.adoption import MIN_JUMP, Rules
from sessions.xfrm import Counters, Policy, State

VIRTUAL, PEER = "192.0.2.10", "203.0.113.5"
SECRET = b"0123456789abcdef-a key to look for"


def packed(address: str) -> bytes:
    return socket.inet_aton(address).ljust(16, b"\0")


RULES = Rules(frozenset({packed(VIRTUAL)}), MIN_JUMP, 28800)


def state(source: str = VIRTUAL, to: str = PEER, spi: int = 0x11223344, reqid: int = 16388, out: int = 0, into: int = 0,
          esn: bool = True, window: int = 128, more: tuple[tuple[int, bytes], ...] = (), key: bytes = SECRET) -> State:
    head = bytearray(xfrm.STATE_SIZE)
    head[56:72], head[80:96] = packed(to), packed(source)
    struct.pack_into("!I", head, 72, spi)
    head[76] = xfrm.ESP
    for at in range(96, 128, 8):
        struct.pack_into("=Q", head, at, (1 << 64) - 1)
    struct.pack_into("=QQQQ", head, 160, 1000, 10, 1_790_000_000, 1_790_000_010)
    struct.pack_into("=III", head, 200, 0, 77, reqid)  # 204: seq, 208: reqid
    struct.pack_into("=HBBB", head, 212, socket.AF_INET, 1, 0, xfrm.STATE_ESN if esn else 0)
    counters = Counters(out, into, window, bytes(window // 8), True)
    aead = b"rfc4106(gcm(aes))".ljust(64, b"\0") + struct.pack("=II", len(key) * 8, 128) + key
    return State(bytes(head), ((xfrm.ALG_AEAD, aead), (xfrm.LASTUSED, bytes(8)), *more)).with_counters(counters)


def policy(direction: int = xfrm.OUT, reqid: int = 16388, inner: str = "198.51.100.161", mark: bytes = b"",
           priority: int = 1_753_280, peer: str = PEER) -> Policy:
    head = bytearray(xfrm.POLICY_SIZE)
    near, far = ("198.51.100.0", 26), (inner, 32)
    source, to = (near, far) if direction == xfrm.OUT else (far, near)
    head[:16], head[16:32] = packed(to[0]), packed(source[0])
    struct.pack_into("=HBB", head, 40, socket.AF_INET, to[1], source[1])
    struct.pack_into("=IIB", head, 152, priority, 513, direction)
    outer = (VIRTUAL, peer) if direction == xfrm.OUT else (peer, VIRTUAL)
    template = bytearray(xfrm.TEMPLATE_SIZE)
    template[:16], template[28:44] = packed(outer[1]), packed(outer[0])
    template[20] = xfrm.ESP
    struct.pack_into("=H", template, 24, socket.AF_INET)
    struct.pack_into("=I", template, 44, reqid)
    rest = ((xfrm.TMPL, bytes(template)), *(((xfrm.MARK, mark),) if mark else ()))
    return Policy(bytes(head), rest)
