"""The announcements, byte by byte."""
from __future__ import annotations

import struct

from agent.announce import ANNOUNCE_AT_SECONDS, checksum, frames
from agent.settings import Address

MAC = bytes.fromhex("020000001100")


def test_gratuitous_arp():
    request, reply = frames(Address("192.0.2.10", 32, "bond0"), MAC)
    assert request.hex() == ("ffffffffffff" "020000001100" "0806" "0001" "0800" "06" "04" "0001"
                             "020000001100" "c000020a" "000000000000" "c000020a")
    assert reply.hex() == ("ffffffffffff" "020000001100" "0806" "0001" "0800" "06" "04" "0002"
                           "020000001100" "c000020a" "ffffffffffff" "c000020a")


def test_unsolicited_advertisement():
    (frame,) = frames(Address("2001:db8::10", 128, "bond0"), MAC)
    assert frame[:14].hex() == "333300000001" "020000001100" "86dd"
    header, body = frame[14:54], frame[54:]
    version, length, following, hops = struct.unpack("!IHBB", header[:8])
    assert (version >> 28, length, following, hops) == (6, 32, 58, 255)
    assert header[8:24].hex() == "20010db8000000000000000000000010"
    assert header[24:].hex() == "ff020000000000000000000000000001"
    assert body[:2].hex() == "8800" and body[4:8].hex() == "20000000"  # override, not solicited
    assert body[8:24] == header[8:24]
    assert body[24:].hex() == "0201020000001100"  # target link-layer address
    pseudo = header[8:40] + struct.pack("!II", 32, 58)
    assert checksum(pseudo + body) == 0


def test_repeated():
    assert ANNOUNCE_AT_SECONDS[0] == 0 and len(ANNOUNCE_AT_SECONDS) >= 5 and ANNOUNCE_AT_SECONDS[-1] >= 2
