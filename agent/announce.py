"""Tells the neighbours which node has a virtual IP: gratuitous ARP and unsolicited neighbour advertisements."""
from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from agent.settings import Address

BROADCAST = b"\xff" * 6
ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464, section 7
# Seconds after the takeover. Repeated, because switches and neighbours may be busy at first.
ANNOUNCE_AT_SECONDS = (0.0, 0.05, 0.25, 0.75, 1.5, 2.5)


def gratuitous_arp(mac: bytes, address: bytes, operation: int) -> bytes:
    """An Ethernet frame that says that `address` (4 bytes) is at `mac`.

    operation 1 (request) is what RFC 5227 calls an announcement; 2 (reply) is for neighbours that accept only replies.
    """
    target = b"\0" * 6 if operation == 1 else BROADCAST
    return (BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
            + struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + address + target + address)


ETH_P_ARP = 0x0806  # linux/if_ether.h
ETH_P_IPV6 = 0x86DD


def advertisement(mac: bytes, address: bytes) -> bytes:
    """An Ethernet frame with an unsolicited neighbour advertisement: `address` (16 bytes) is at `mac`.

    To all nodes, with the override flag set (RFC 4861, sections 4.4 and 7.2.6).
    """
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + address + struct.pack("!BB", 2, 1) + mac
    pseudo = address + ALL_NODES + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    # Receivers drop it unless the hop limit is 255
    header = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255) + address + ALL_NODES
    return ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6) + header + body


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frames(address: Address, mac: bytes) -> list[bytes]:
    """The frames that announce one virtual IP at `mac`."""
    packed = ipaddress.ip_address(address.address).packed
    if len(packed) == 4:
        return [gratuitous_arp(mac, packed, 1), gratuitous_arp(mac, packed, 2)]
    return [advertisement(mac, packed)]


def send(addresses: Iterable[Address]) -> list[str]:
    """Announces all addresses once. Returns one line for each that failed; the caller repeats it anyway."""
    wrong = []
    try:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        return [f"no address was announced: {error}"]
    with raw:
        for each in addresses:
            try:
                # Read each time: a bond without members takes the MAC address of the first one that it gets.
                text = Path(f"/sys/class/net/{each.interface}/address").read_text()
                mac = bytes.fromhex(text.strip().replace(":", ""))
                for frame in frames(each, mac):
                    raw.sendto(frame, (each.interface, 0))
            except (OSError, ValueError) as error:
                wrong.append(f"{each.address} was not announced on {each.interface}: {error}")
    return wrong
