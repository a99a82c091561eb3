"""What both halves of the process share on one node: its settings, its kernel, who it is, and what went wrong."""
from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import replace

from agent.system import log
from sessions import adoption, identity, kernel, xfrm
from sessions.adoption import Reqids, Rules
from sessions.names import Names
from sessions.settings import HeartbeatPath, Settings

AGE_SLACK_SECONDS = 10.0  # copies may be older than the deadtime twice and this, and are adopted all the same
UNKNOWN_LINK_MEGABITS = 10_000  # where no interface says how fast it is
FRESH_SECONDS = 1.0  # the copies are current when something was confirmed within this time
SILENT_SECONDS = 0.6  # a connection on which nothing comes for this long is given up for the next path
NEAR_SECONDS = 1.0  # longer than between two words of the kernel about a state's numbers (kernel.TELL_AFTER_100MS)
NOTES = 10  # kept for status


def packed(address: str) -> bytes:
    """A virtual IP as xfrm_address_t."""
    return socket.inet_pton(family(address), address).ljust(16, b"\0")


def family(address: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def fastest_link(folder: str = "/sys/class/net") -> float:
    """Mbit/s of this machine's fastest interface (sysfs-class-net: speed)."""
    speeds = []
    for name in os.listdir(folder):
        try:
            with open(f"{folder}/{name}/speed", encoding="ascii") as file:
                speeds.append(int(file.read()))
        except (OSError, ValueError):
            pass
    return float(max((each for each in speeds if each > 0), default=UNKNOWN_LINK_MEGABITS))


def near(jump: int, megabits: float) -> int:
    """How far this node's own states go ahead when it puts them back: never as far as the other node's copies stand."""
    return min(adoption.jump(megabits, NEAR_SECONDS), jump // 4)


class Node:
    """This node. Raises OSError, identity.Unknown and subprocess.SubprocessError where it can not be one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.max_age = 2 * settings.deadtime + AGE_SLACK_SECONDS
        self.rules = Rules(frozenset(map(packed, settings.addresses)),
                           adoption.jump(fastest_link(), self.max_age), int(settings.lifetime))
        # For what this node itself has to put back: it knows the numbers as of a moment ago.
        self.near = replace(self.rules, jump=near(self.rules.jump, fastest_link()))
        # For a role that this node gave away and takes back: the other one may have served meanwhile, a jump ahead.
        self.far = replace(self.rules, jump=2 * self.rules.jump)
        self.key = identity.pair_key()
        self.me = identity.issue(settings.node)
        self.kernel = kernel.Kernel()
        self.reqids = Reqids(0 if settings.first else 1, int(time.time()))
        self.names = Names()
        self.notes: list[str] = []

    def note(self, text: str, priority: str = "warning") -> None:
        """Logs a text and keeps it for status."""
        self.notes = [*self.notes[1 - NOTES:], text]
        log(priority, text)

    def change(self, requests: Iterable[kernel.Request]) -> list[kernel.Request]:
        """Makes changes in the kernel. Returns those that it refused."""
        again: list[kernel.Request] = []
        wrong: list[tuple[kernel.Request, int]] = []
        for request, code in self.kernel.change(requests):
            if request.kind == xfrm.NEWSA and code == errno.EEXIST:
                # Keys and numbers change only by a new state.
                again += [kernel.delete_state(xfrm.State.parse(request.body).id), request]
            else:
                wrong.append((request, code))
        wrong += self.kernel.change(again)
        for request, code in wrong[:3]:
            self.note(f"the kernel refuses {request.what}: {os.strerror(code)}")
        return [request for request, _code in wrong]

    def socket_on(self, path: HeartbeatPath) -> socket.socket:
        """A TCP socket for a path, which never waits."""
        return socket.socket(family(path.own), socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def holds_address(self) -> bool:
        """Whether this machine has one of the virtual IPs."""
        for address in self.settings.addresses:
            with socket.socket(family(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                try:
                    sock.bind((address, 0))
                    return True
                except OSError:
                    pass
        return False
