"""Whether this node sends under the tunnels' keys: one nftables table, changed in one step.

While it serves, every packet gets the mark that adopted policies match. While it does not, none has it, and a packet
that is encrypted all the same is dropped before it leaves: nothing is sent twice under one number. `quiet` besides
keeps the daemon's last words in: a daemon that gives its tunnels away must not tell the peers that they end.

libnftables is loaded once and used in this process: starting `nft` takes 0.06 to 0.22 s on a busy machine.
"""
from __future__ import annotations

import ctypes
import ipaddress
import re
import socket
from collections.abc import Iterable

from sessions.adoption import MARK

TABLE = "inet gateway_sessions"


class Refused(Exception):
    """nftables did not take the change. The text is what it said."""


def table(addresses: Iterable[str]) -> str:
    """The table for these virtual IPs, in the state in which nothing is sent."""
    rules = []
    for family, version in (("ip", 4), ("ip6", 6)):
        mine = [each for each in addresses if ipaddress.ip_address(each).version == version]
        if mine:
            rules.append(f"{family} saddr {{ {', '.join(mine)} }} jump leaving")
    lines = "\n        ".join(rules)
    return f"""
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
    chain serving {{ }}
    chain sealed {{ drop; }}
    chain words {{ }}
    chain leaving {{
        meta l4proto esp jump sealed
        udp sport 4500 @th,64,32 != 0 jump sealed
        udp sport {{ 500, 4500 }} jump words
    }}
    chain prerouting {{
        type filter hook prerouting priority mangle
        jump serving
    }}
    chain output {{
        type route hook output priority mangle
        jump serving
    }}
    chain postrouting {{
        type filter hook postrouting priority 300
        {lines}
    }}
}}
"""


SERVE = f"""
flush chain {TABLE} serving
flush chain {TABLE} sealed
flush chain {TABLE} words
add rule {TABLE} serving meta mark set meta mark or 0x{MARK:x}
"""
SEAL = f"""
flush chain {TABLE} serving
flush chain {TABLE} sealed
flush chain {TABLE} words
add rule {TABLE} sealed drop
"""
QUIET = SEAL + f"add rule {TABLE} words drop\n"


class Switch:
    """The table in this network namespace."""

    def __init__(self, addresses: Iterable[str], library: str = "libnftables.so.1") -> None:
        """Raises OSError where the library is missing. libnftables(3)."""
        self.addresses = tuple(addresses)
        self.lib = ctypes.CDLL(library)
        self.lib.nft_ctx_new.restype = ctypes.c_void_p
        self.lib.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self.lib.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        self.context = ctypes.c_void_p(self.lib.nft_ctx_new(0))
        self.lib.nft_ctx_buffer_error(self.context)
        self.lib.nft_ctx_buffer_output(self.context)
        self.state = "none"

    def run(self, text: str) -> None:
        """One transaction. Raises Refused."""
        if self.lib.nft_run_cmd_from_buffer(self.context, text.encode()):
            raise Refused((self.lib.nft_ctx_get_error_buffer(self.context) or b"").decode("utf-8", "replace").strip())

    def output(self) -> str:
        """What the last run() has printed."""
        return (self.lib.nft_ctx_get_output_buffer(self.context) or b"").decode("utf-8", "replace")

    def serves(self) -> bool:
        """Whether the table that is there lets this node send under adopted keys: an earlier process has served."""
        try:
            self.run(f"list chain {TABLE} serving")
        except Refused:
            return False
        return "mark set" in self.output()

    def change(self, text: str) -> None:
        """One transaction, in which the table is made where this process has not made it yet."""
        self.run((table(self.addresses) if self.state == "none" else "") + text)

    def keep(self) -> bool:
        """Makes the table once more where somebody has removed or changed it (`nft flush ruleset`). Whether it had to.

        Without the mark the adopted tunnels stand still, and without the drop a node that gave its tunnels away may
        send.
        """
        if self.state == "none":
            return False
        try:
            self.run(f"list table {TABLE}")
            said = self.output()
            mark, drop = "mark set" in said, bool(re.search(r"chain sealed \{\s+drop", said))
            whole = said.count("jump serving") == 2 and said.count("jump leaving") >= 1
            if whole and (mark, drop) == ((True, False) if self.state == "serving" else (False, True)):
                return False
        except Refused:
            pass  # it is gone
        self.run(table(self.addresses) + {"serving": SERVE, "sealed": SEAL, "quiet": QUIET}[self.state])
        return True

    def serve(self) -> None:
        """From now on this node sends, under adopted keys too."""
        self.change(SERVE)
        self.state = "serving"

    def seal(self, quiet: bool = False) -> None:
        """From now on it does not. `quiet`: the daemon's messages to the peers are kept in as well."""
        self.change(QUIET if quiet else SEAL)
        self.state = "quiet" if quiet else "sealed"

    def remove(self) -> None:
        """Takes the table away: without this process the node works as if there were none."""
        self.run(f"add table {TABLE}\ndelete table {TABLE}\n")
        self.state = "none"


def changes() -> socket.socket:
    """A socket that is readable when somebody changes nftables' rules. Raises OSError.

    include/uapi/linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES; linux/netlink.h: NETLINK_NETFILTER.
    """
    new = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 12)
    new.bind((0, 0))
    new.setsockopt(270, 1, 7)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
    return new


def impossible() -> str:
    """Why this kernel can not hold packets back, in one line; empty when it can."""
    try:
        changes().close()
        Switch(()).run("list tables")
    except (OSError, Refused) as error:
        return f"this kernel has no nf_tables ({str(error).splitlines()[0]}): its tunnels can not be copied"
    return ""
