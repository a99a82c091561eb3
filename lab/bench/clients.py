"""The connected clients: roadwarriors with Libreswan and strongSwan, also behind NAT, and site-to-site peers.

They are tuned for speed or as shipped: what a takeover costs depends on both ends.
"""
from __future__ import annotations

import ipaddress
import itertools
import random
import re
import time
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from lab.guest import Guest
from lab.identities import Bundle
from lab.laboratory import Lab

STRONGSWAN_PACKAGES = ["charon-systemd", "strongswan-swanctl", "libstrongswan-standard-plugins"]
# What Libreswan and strongSwan agree on without a second round (docs/openswan.md has the gateways' list).
PROPOSALS = "aes256gcm16-prfsha512-ecp256"
# Inner addresses between the peers' networks and the pool (examples/sites/winterthur.sls).
FIRST_PERSON = 161
SHIPPED_DPD_SECONDS = 30   # strongSwan's dpd_delay of a client as shipped (swanctl.conf(5): no default)


@dataclass(frozen=True)
class Client:
    """One kind of client.

    `name` is also its host's name, and the name of its connection on the pair if it has a `network`.
    """

    name: str
    make: str
    tuned: bool
    behind_nat: bool = False
    network: str = ""              # the network behind a site-to-site peer; empty for a roadwarrior
    people: int = 1                # roadwarriors on this one host, each connected at a different moment

    @property
    def identities(self) -> list[str]:
        """Their names in IKE."""
        return [f"{self.name}{f'-{number}' if number > 1 else ''}.example" for number in range(1, self.people + 1)]


# strongSwan as shipped takes three minutes to come back by itself: six runs of it are one round with six people.
CLIENTS = [Client("strong-fast", "strongSwan", True), Client("strong-plain", "strongSwan", False, people=6),
           Client("libre-fast", "Libreswan", True), Client("libre-plain", "Libreswan", False),
           Client("strong-nat", "strongSwan", True, behind_nat=True),
           Client("nat-plain", "strongSwan", False, behind_nat=True),
           Client("libre-nat", "Libreswan", True, behind_nat=True),
           Client("site-fast", "strongSwan", True, network="198.51.100.128/28"),
           Client("site-plain", "strongSwan", False, network="198.51.100.144/28")]


def equip(lab: Lab, client: Client) -> None:
    """Install and configure a client. Roadwarriors call when their daemon starts, peers when there is traffic."""
    if client.make == "Libreswan":
        _equip_libreswan(lab, client)
    else:
        _equip_strongswan(lab, client)


def call(lab: Lab, client: Client) -> None:
    """Let a client reconnect now; several people connect one after the other, at random moments.

    From then on strongSwan checks every `dpd_delay` whether the other end lives.
    """
    guest = lab.roadwarriors[client.name]
    guest.run(["systemctl", "restart", "ipsec" if client.make == "Libreswan" else "strongswan"], check=True)
    if client.people > 1:
        moments = sorted(random.uniform(0, SHIPPED_DPD_SECONDS) for _ in client.identities)
        for number, (before, moment) in enumerate(itertools.pairwise([0.0, *moments]), 1):
            time.sleep(moment - before)
            guest.run(["swanctl", "--initiate", "--child", f"gateway-{number}", "--timeout", "10"], timeout=30)


def _equip_libreswan(lab: Lab, client: Client) -> None:
    guest = lab.roadwarriors[client.name]
    lab.equip_roadwarrior(lab.sites[0], client.name)
    if client.tuned:
        # It sends again after 0.15 s and gives up 0.3 s later, as the tuned strongSwan does.
        tune_libreswan(lab, guest, "400ms")


def tune_libreswan(lab: Lab, guest: Guest, patience: str) -> None:
    """Make a Libreswan roadwarrior notice sooner and try more often. Its daemon reads that when it is restarted.

    `patience` is its retransmit-timeout (ipsec.conf(5)). If the gateway is away for longer than that, Libreswan 5.2
    waits 5 and 10 s before it calls again.
    """
    text = guest.run(["cat", "/etc/ipsec.conf"], check=True).stdout
    text = re.sub(r"retransmit-timeout=.*", f"retransmit-timeout={patience}\n    retransmit-interval=150", text)
    text = re.sub(r"dpddelay=.*", "dpddelay=1s", text)
    lab.copy_to(guest, "/etc/ipsec.conf", text.encode())


def connections(lab: Lab, chosen: list[Client]) -> dict[str, dict[str, Any]]:
    """The `connections` of the pair's pillar for these clients.

    Each roadwarrior gets an inner address of its own, as docs/install.md says. Otherwise each node's pool gives another
    address, and a ping that runs through a takeover keeps its old sender, as does Libreswan 5.2 as a client. Both ends
    of a tuned site-to-site connection notice soon: when their calls cross, the peer may delete one of two tunnels.
    """
    return {"roadwarrior": {"persons": persons(chosen)}} | {
        peer.name: {"kind": "site-to-site", "peer": {
            "address": address(lab, peer), "id": peer.identities[0], "subnets": peer.network}}
        | ({"dpd": {"delay": 1, "timeout": 2}} if peer.tuned else {})
        for peer in chosen if peer.network}


def persons(chosen: list[Client]) -> dict[str, str]:
    """Each roadwarrior's inner address, by identity."""
    identities = [identity for client in chosen if not client.network for identity in client.identities]
    return {identity: f"198.51.100.{FIRST_PERSON + number}" for number, identity in enumerate(identities)}


def address(lab: Lab, client: Client) -> str:
    """A client's own address, without prefix length."""
    return lab.roadwarriors[client.name].host.addresses[0].split("/")[0]


def _equip_strongswan(lab: Lab, client: Client) -> None:
    guest = lab.roadwarriors[client.name]
    lab.install(guest, STRONGSWAN_PACKAGES)
    for identity in client.identities:
        put_identity(lab, guest, identity, lab.authority.issue(identity))
    if client.network:
        # one address stands for the whole network: strongSwan uses it as the source of what goes through the tunnel
        guest.run(["ip", "address", "add", f"{ipaddress.ip_network(client.network)[1]}/32", "dev", "lo"], check=True)
    sections = [_strongswan_connection(lab, client, identity, f"gateway-{number}")
                for number, identity in enumerate(client.identities, 1)]
    lab.copy_to(guest, "/etc/swanctl/conf.d/gateway.conf", f"connections {{\n{''.join(sections)}}}\n".encode())
    if client.tuned:
        lab.copy_to(guest, "/etc/strongswan.d/lab.conf", tuned_charon().encode())


def _strongswan_connection(lab: Lab, client: Client, identity: str, name: str) -> str:
    its = lab.sites[0]
    start = "trap" if client.network else "start" if client.people == 1 else "none"     # `call` starts several
    return f"""  {name} {{
    version = 2
    mobike = no
    unique = replace
    remote_addrs = {its.virtual("external")}
    {"" if client.network else "vips = 0.0.0.0"}
    proposals = {PROPOSALS}
    dpd_delay = {"1s" if client.tuned else f"{SHIPPED_DPD_SECONDS}s"}
    keyingtries = 0
    local {{
      auth = pubkey
      certs = {identity}.pem
      id = {identity}
    }}
    remote {{
      auth = pubkey
      id = {its.view["identity"]["id"]}
    }}
    children {{
      {name} {{
        {f"local_ts = {client.network}" if client.network else ""}
        remote_ts = {its.settings[its.gateways[0].name]["bonds"][1]["networks"][0]}
        esp_proposals = aes256gcm16
        start_action = {start}
        dpd_action = {"trap" if client.network else "restart"}
        close_action = {"trap" if client.network else "start"}
      }}
    }}
  }}
"""


def tuned_charon() -> str:
    """A strongswan.conf(5) with retransmission tuned to the limit: after 0.15 s, two times."""
    return ("charon-systemd {\n  retransmit_timeout = 0.15\n  retransmit_tries = 2\n  retransmit_base = 1\n"
            "  retry_initiate_interval = 1\n}\n")


def put_identity(lab: Lab, guest: Guest, name: str, bundle: Bundle) -> None:
    """Write a PKCS#12's key, certificate and authority to where swanctl(8) reads them."""
    key, certificate, authorities = pkcs12.load_key_and_certificates(bundle.pkcs12, bundle.passphrase.encode())
    assert key and certificate, f"the bundle of {name} has no key"
    for folder, file, content in (
            ("private", name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
            ("x509", name, certificate.public_bytes(Encoding.PEM)),
            ("x509ca", "authority", authorities[0].public_bytes(Encoding.PEM))):
        lab.copy_to(guest, f"/etc/swanctl/{folder}/{file}.pem", content)
