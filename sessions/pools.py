"""Addresses that adopted tunnels use must not be given to newcomers: the daemon here knows nothing of those leases.

Libreswan gives out the first free address of a pool. So on this node the pool of such a connection leaves the addresses
in use out: the largest part without any of them is what it gives out until the daemon starts anew. ipsec.conf(5),
rightaddresspool: a range for IPv4, a prefix for IPv6.
"""
from __future__ import annotations

import ipaddress
import itertools
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

IPSEC_CONF = Path("/etc/ipsec.conf")
NARROWED = Path("/run/gateway-sessions/ipsec.conf")
ADDCONN = "/usr/libexec/ipsec/addconn"
ADD_SECONDS = 5.0
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def narrowed(pool: str, used: Iterable[Address]) -> str:
    """The largest part of a pool without any of these addresses; empty where none is left. Raises ValueError."""
    first, dash, last = pool.partition("-")
    if dash:
        low, high = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
    else:
        network = ipaddress.ip_network(pool.strip())
        low, high = network[0], network[-1]
    inside = sorted({int(each) for each in used if each.version == low.version and int(low) <= int(each) <= int(high)})
    if not inside:
        return pool
    if isinstance(low, ipaddress.IPv4Address):
        edges = [int(low) - 1, *inside, int(high) + 1]
        size, start = max((after - before - 1, before + 1) for before, after in itertools.pairwise(edges))
        return f"{ipaddress.IPv4Address(start)}-{ipaddress.IPv4Address(start + size - 1)}" if size else ""
    part = ipaddress.IPv6Network(pool.strip())
    while part.prefixlen < 128:
        halves = list(part.subnets())
        taken = [sum(int(half[0]) <= each <= int(half[-1]) for each in inside) for half in halves]
        if 0 in taken:
            return str(halves[1 if not taken[1] else 0])
        part = halves[0 if taken[0] < taken[1] else 1]
    return ""


def rewritten(text: str, used: Iterable[Address]) -> tuple[str, list[str]]:
    """ipsec.conf with narrowed pools, and the connections that have another pool in it than in `text`."""
    used = tuple(used)
    lines, changed, name = [], [], ""
    for line in text.splitlines():
        section = re.match(r"conn\s+(\S+)", line)
        name = section[1] if section else name
        option = re.match(r"(\s+rightaddresspool=)(.*)", line)
        if option:
            new = narrowed(option[2], used)
            if new and new != option[2]:
                line = option[1] + new
                changed.append(name)
        lines.append(line)
    return "\n".join(lines) + "\n", changed


class Pools:
    """The daemon's pools on this node."""

    def __init__(self, conf: Path = IPSEC_CONF, narrowed_conf: Path = NARROWED) -> None:
        self.conf, self.narrowed_conf = conf, narrowed_conf
        self.told = ""
        self.job: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    def narrow(self, used: Iterable[Address], now: float) -> str:
        """Starts to tell the daemon, where it does not know yet. Returns what went wrong, empty if nothing."""
        if self.job and self.job.poll() is None:
            if now - self.started < ADD_SECONDS:
                return ""
            self.job.kill()
        if self.job and self.job.returncode:
            self.told = ""  # the daemon was not there, or not yet
        try:
            text, changed = rewritten(self.conf.read_text("utf-8"), used)
            if not changed or text == self.told:
                return ""
            self.narrowed_conf.parent.mkdir(mode=0o700, exist_ok=True)
            new = self.narrowed_conf.with_suffix(".new")
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
            new.replace(self.narrowed_conf)
            self.job = subprocess.Popen(
                [ADDCONN, "--config", str(self.narrowed_conf), *changed], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except (OSError, ValueError) as error:
            return f"pools: {error}: a newcomer may get the address of an adopted tunnel"
        self.told, self.started = text, now
        return ""

    def forget(self) -> None:
        """The daemon has started anew, with the pools of its file."""
        self.told = ""
