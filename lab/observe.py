"""Observations of a running lab: from the hosts themselves, and from the wire."""
from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, TypeVar

from lab.guest import Guest
from lab.laboratory import Lab
from sessions.adoption import FIRST_REQID

Answer = TypeVar("Answer")
DROPPED_COUNTER = "input_dropped"


def call(lab: Lab, guest: Guest, function: str, *arguments: str) -> object:
    """An execution function's return from a minion, through the master; None when the minion does not answer."""
    return lab.master.ask(guest.host.minion_id, function, *arguments).get(guest.host.minion_id)


def addresses(guest: Guest) -> set[str]:
    """Every address that the host holds, without prefix length."""
    links = json.loads(guest.run(["ip", "-j", "address"], check=True).stdout)
    return {info["local"] for link in links for info in link.get("addr_info", [])}


def virtual_held(lab: Lab, guest: Guest) -> set[str]:
    """The virtual IPs of its site that a gateway holds."""
    view = next(site.view for site in lab.sites if site.name == guest.host.domain)
    return {virtual["address"] for virtual in view["virtual"]} & addresses(guest)


def holds_all(lab: Lab, guest: Guest) -> bool:
    """Whether a gateway holds every virtual IP of its site."""
    view = next(site.view for site in lab.sites if site.name == guest.host.domain)
    return len(virtual_held(lab, guest)) == len(view["virtual"])


def holder(lab: Lab, site: str) -> Guest | None:
    """The one gateway that holds all virtual IPs while the other holds none, or None."""
    holding = [guest for guest in lab.gateways(site) if virtual_held(lab, guest)]
    return holding[0] if len(holding) == 1 and holds_all(lab, holding[0]) else None


def active(lab: Lab, site: str) -> Guest:
    """The one gateway that holds all virtual IPs. Raises AssertionError when there is none."""
    found = holder(lab, site)
    assert found, f"{site}: held are {({guest.host.name: virtual_held(lab, guest) for guest in lab.gateways(site)})}"
    return found


def standby(lab: Lab, site: str) -> Guest:
    """The gateway that is not the active one. Raises AssertionError when none is active."""
    holder = active(lab, site)
    return next(guest for guest in lab.gateways(site) if guest is not holder)


def roles(lab: Lab, site: str) -> dict[str, str]:
    """Each node's role, by node, as `heartbeat.role` returns it."""
    said = lab.master.ask(f"*.{site}", "heartbeat.role")
    return {guest.host.name: str(said.get(guest.host.minion_id, "no answer")) for guest in lab.gateways(site)}


def agent(guest: Guest) -> dict[str, Any] | None:
    """What a node's role agent says of itself, as `agent/run status` prints it; None where none runs."""
    return guest.ask("/run/gateway-agent.sock", {"command": "status"})


def active_slave(guest: Guest, bond: str) -> str:
    """The slave that a bond uses now, as the kernel names it."""
    return guest.run(["cat", f"/sys/class/net/{bond}/bonding/active_slave"]).stdout.strip()


def tunnels(guest: Guest) -> int:
    """How many ESP states the host's own IPsec daemon has made; copies of the other node's are left out."""
    said = guest.run(["ip", "xfrm", "state"]).stdout
    return sum(int(reqid) < FIRST_REQID for reqid in re.findall(r"proto esp .* reqid (\d+)", said))


def sessions(guest: Guest) -> dict[str, Any]:
    """What a node's process gateway-sessions says of itself; empty where none runs."""
    return guest.ask("/run/gateway-sessions.sock", {"command": "status"}) or {}


def connect_roadwarrior(lab: Lab) -> None:
    """Restart the roadwarrior's client, which connects by itself, and wait for the first reply."""
    lab.roadwarrior.run(["systemctl", "restart", "ipsec"], check=True)
    eventually(lambda: ping_through_tunnel(lab, count=1), 60)


def inner_target(lab: Lab) -> str:
    """The address of the inner server that the roadwarrior pings."""
    return lab.sites[0].server.addresses[0].split("/")[0]


def ping_through_tunnel(lab: Lab, count: int = 2) -> bool:
    """Whether the inner server answers the roadwarrior."""
    return lab.roadwarrior.run(["ping", "-q", "-c", str(count), "-W", "1", "-i", "0.2", inner_target(lab)],
                               timeout=30).returncode == 0


class Pings:
    """A ping through the tunnel from one roadwarrior, from now until `stop`.

    `every` is in seconds. `source` is the inner address to send from, for a roadwarrior that has several.
    """

    def __init__(self, lab: Lab, guest: Guest, every: float, source: str = "") -> None:
        self.guest = guest
        self.log = f"/tmp/pings{source and '-' + source}"
        sender = f"-I {source} " if source else ""
        self.command = (f"ping -D -n {sender}-i {every} {inner_target(lab)} > {self.log} 2>&1 & "
                        f"echo $! > {self.log}.pid")
        self.start()

    def start(self) -> None:
        """Start it again.

        Trap: ping chooses its own address when it starts, and keeps it even if it is one from outside the tunnel.
        """
        self.begun = time.time()
        self.guest.run(["sh", "-c", self.command], check=True)

    def replies(self) -> list[float]:
        """When replies came, in seconds since the epoch by this machine's clock."""
        lines, behind = self.guest.run(["cat", self.log], check=True).stdout.splitlines(), self.guest.behind()
        return [float(line[1:].split("]")[0]) + behind for line in lines if " bytes from " in line]

    def lost(self) -> int:
        """How many pings were not answered, of those sent before the last answered one."""
        seen = {int(number) for number in re.findall(r" bytes from .* icmp_seq=(\d+) ",
                                                     self.guest.run(["cat", self.log], check=True).stdout)}
        assert seen, "no ping was answered"
        return max(seen) - len(seen)

    def longest_gap(self, since: float = 0) -> float:
        """The longest time without a reply, in seconds. Only gaps that ended after `since` count."""
        # A tunnel that never comes back has no second reply to end its gap: the present counts as one.
        times = [self.begun, *self.replies(), time.time()]
        return max(later - earlier for earlier, later in itertools.pairwise(times) if later > since)

    def stop(self) -> None:
        """End it."""
        self.guest.run(["sh", "-c", f"kill $(cat {self.log}.pid)"])


@contextmanager
def pings(lab: Lab, every: float = 0.1, guest: Guest | None = None) -> Iterator[Pings]:
    """Ping through the tunnel while the block runs, from the first roadwarrior if none is given."""
    running = Pings(lab, guest or lab.roadwarrior, every)
    try:
        yield running
    finally:
        running.stop()


# Prints each event of the master's bus as one JSON line: when it came, its tag, its data.
_LISTEN = """
import json, os, sys, time
import salt.config, salt.utils.event
opts = salt.config.client_config(os.path.join(os.environ["SALT_CONFIG_DIR"], "master"))
with salt.utils.event.get_event("master", opts=opts, sock_dir=opts["sock_dir"], listen=True) as bus:
    assert bus.connect_pub(timeout=10), "the master's event bus is not there"
    print("listening", flush=True)
    while True:
        event = bus.get_event(wait=60, full=True, auto_reconnect=True)
        if event is not None:
            print(json.dumps([time.time(), event["tag"], event["data"]], default=str), flush=True)
"""


class Happened(NamedTuple):
    """One event of the master's bus. A beacon's `data` is what docs/monitoring.md calls an event."""

    came: float      # seconds since the epoch; the hosts have the same clock
    tag: str
    data: dict[str, Any]


class Listener:
    """Hears the master's bus from its making until the lab ends: all that came is in `heard`."""

    def __init__(self, lab: Lab) -> None:
        """Raises RuntimeError when the bus can not be listened to."""
        self.heard: list[Happened] = []
        self.process = subprocess.Popen([sys.executable, "-c", _LISTEN], stdout=subprocess.PIPE, text=True,
                                        env=os.environ | {"SALT_CONFIG_DIR": str(lab.master.config)})
        said = self.process.stdout
        if not said or said.readline().strip() != "listening":
            raise RuntimeError("listening on the master's event bus fails")
        threading.Thread(target=self._collect, args=[said], daemon=True).start()

    def _collect(self, said: IO[str]) -> None:
        for line in said:
            self.heard.append(Happened(*json.loads(line)))


class Events:
    """What has come over the master's bus since this was made."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._begin = listener, len(listener.heard)

    @property
    def all(self) -> list[Happened]:
        """All of them, in order."""
        return self._listener.heard[self._begin:]

    def of(self, minion: str = "", beacon: str = "", since: float = 0, **fields: object) -> list[Happened]:
        """The events after `since`, of a minion or `master`, of a beacon, with these values in their data.

        Example: `of(condition="slave_down")`. An empty `minion` or `beacon` stands for any.
        """
        found = []
        for event in self.all:
            parts = event.tag.split("/")
            sender = parts[2:4] if parts[:2] == ["salt", "beacon"] else ["master"] * 2
            if (parts[:2] in (["salt", "beacon"], ["gateway", "master"]) and "once" in event.data and event.came > since
                    and minion in ("", sender[0]) and beacon in ("", sender[1])
                    and all(event.data.get(key) == fields[key] for key in fields)):
                found.append(event)
        return found

    def wait(self, timeout: float = 10, minion: str = "", beacon: str = "", since: float = 0,
             **fields: object) -> Happened:
        """The first such event, see `of`. Raises AssertionError with all others after `timeout` seconds without one."""
        try:
            return eventually(lambda: self.of(minion, beacon, since, **fields), timeout, every=0.05)[0]
        except AssertionError:
            seen = [f"{each.tag} {each.data}" for each in self.of(since=since)]
            wanted = {"minion": minion, "beacon": beacon, "since": since, **fields}
            raise AssertionError(f"no event {wanted} within {timeout} s; there were:\n" + "\n".join(seen)) from None


@contextmanager
def events(lab: Lab) -> Iterator[Events]:
    """Collect the events on the master's bus while the block runs: `with events(lab) as seen: ... seen.wait(...)`.

    One process listens for the whole lab: it takes seconds of a processor to start.
    """
    if lab.listener is None or lab.listener.process.poll() is not None:
        lab.listener = Listener(lab)
    yield Events(lab.listener)


def capture(namespace: str, interface: str, expression: str, during: Callable[[], object]) -> str:
    """What tcpdump saw on an interface while `during` ran. An empty `namespace` is the lab's own.

    Each line begins with the time in seconds since the epoch. `expression` is a filter (pcap-filter(7)).
    """
    enter = ["ip", "netns", "exec", namespace] if namespace else []
    dump = subprocess.Popen([*enter, "tcpdump", "-lnntt", "-i", interface, expression], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    assert dump.stderr
    # tcpdump says when it listens; it misses what is sent before
    while "listening on" not in (line := dump.stderr.readline()):
        if not line:
            raise RuntimeError("tcpdump does not start")
    during()
    time.sleep(0.5)
    dump.send_signal(signal.SIGINT)
    return dump.communicate(timeout=10)[0]


# Small programs that run inside a namespace. Their arguments are addresses.
_TCP = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()
    print("accepted")
except ConnectionRefusedError:
    print("refused")
except OSError:
    print("")
"""
# RFC 7296: any daemon that serves the address answers an IKE header with nothing valid behind it: with
# INVALID_SYNTAX, NO_PROPOSAL_CHOSEN or INVALID_MAJOR_VERSION (here: version 3.0).
_IKE = """
import os, socket, struct, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(1.5)
sa = bytes.fromhex("%s")
s.sendto(sa, (sys.argv[1], 500))
try:
    s.recvfrom(4096)
    print("answered")
except OSError:
    print("")
"""
_UDP = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes.fromhex(sys.argv[3]), (sys.argv[1], int(sys.argv[2])))
"""


# Sends ESP packets (RFC 4303) that leave for an address a second time: unchanged, or forged, with a sequence number
# that has not come yet and a wrong last byte. A packet socket sees sent packets too (packet(7), PACKET_OUTGOING).
_ESP_AGAIN = """
import socket, struct, sys
interface, target, count, forged = sys.argv[1], socket.inet_aton(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "forged"
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((interface, 3))
s.settimeout(15)
seen = []
while len(seen) < count:
    frame, sender = s.recvfrom(4096)
    if sender[2] == 4 and frame[12:14] == b"\\x08\\x00" and frame[23] == 50 and frame[30:34] == target:
        seen.append(bytearray(frame))
for frame in seen:
    if forged:
        number = 14 + (frame[14] & 15) * 4 + 4
        struct.pack_into("!I", frame, number, struct.unpack_from("!I", frame, number)[0] + 1000)
        frame[-1] ^= 1
    s.send(frame)
"""


def _inside(namespace: str, program: str, *arguments: str) -> str:
    enter = ["ip", "netns", "exec", namespace] if namespace else []
    return subprocess.run([*enter, sys.executable, "-I", "-c", program, *arguments], check=True, text=True,
                          capture_output=True, timeout=20).stdout.strip()


def tcp_answers(namespace: str, address: str, port: int) -> str:
    """The result of a TCP connection from a namespace: `accepted`, `refused`, or empty when there is no answer."""
    return _inside(namespace, _TCP, address, str(port))


def _ike_sa_init() -> bytes:
    """An IKE_SA_INIT (RFC 7296, 1.2) with AES-GCM-256, SHA2-256, ECP-256, which the gateways propose themselves."""
    def payload(next_type: int, body: bytes) -> bytes:
        return bytes([next_type, 0]) + (len(body) + 4).to_bytes(2, "big") + body

    def transform(more: bool, kind: int, number: int, attribute: bytes = b"") -> bytes:
        return bytes([3 if more else 0, 0]) + (8 + len(attribute)).to_bytes(2, "big") + bytes([kind, 0]) \
            + number.to_bytes(2, "big") + attribute

    transforms = (transform(True, 1, 20, bytes.fromhex("800e0100")) + transform(True, 2, 5)
                  + transform(False, 4, 19))
    proposal = bytes([0, 0]) + (8 + len(transforms)).to_bytes(2, "big") + bytes([1, 1, 0, 3]) + transforms
    # as public value a point on the curve that any implementation accepts: its generator (SEC 2)
    point = bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
                          "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")
    body = (payload(34, proposal) + payload(40, (19).to_bytes(2, "big") + b"\0\0" + point)
            + payload(0, os.urandom(32)))
    header = os.urandom(8) + bytes(8) + bytes([33, 0x20, 34, 0x08]) + bytes(4) + (28 + len(body)).to_bytes(4, "big")
    return header + body


def ike_answers(namespace: str, address: str) -> bool:
    """Whether a well-formed IKE_SA_INIT from a namespace gets any answer."""
    return _inside(namespace, _IKE % _ike_sa_init().hex(), address) == "answered"


def send_udp(namespace: str, address: str, port: int, data: bytes) -> None:
    """Send one datagram from a namespace."""
    _inside(namespace, _UDP, address, str(port), data.hex())


def send_esp_again(namespace: str, interface: str, address: str, count: int, forged: bool = False) -> None:
    """Send `count` ESP packets a second time that leave by this interface for an address; or forgeries of them."""
    _inside(namespace, _ESP_AGAIN, interface, address, str(count), "forged" if forged else "")


def dropped(guest: Guest) -> int:
    """How many packets to the host itself its firewall has dropped so far, by the firewall's own counter."""
    table = json.loads(guest.run(["nft", "-j", "list", "table", "inet", "gateway"], check=True).stdout)["nftables"]
    return next(int(entry["counter"]["packets"]) for entry in table
                if entry.get("counter", {}).get("name") == DROPPED_COUNTER)


def eventually(check: Callable[[], Answer | None], timeout: float, every: float = 0.3) -> Answer:
    """Call `check` every `every` seconds until it returns something true, and return that.

    Raises AssertionError with its last answer when that takes longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    answer: Answer | None = None
    while time.monotonic() < deadline:
        answer = check()
        if answer:
            return answer
        time.sleep(every)
    raise AssertionError(f"not within {timeout} s; last answer: {answer!r}")
