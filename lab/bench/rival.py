"""What a user would choose today instead: keepalived (VRRP version 3, 50 ms) with strongSwan as hot standby.

It is tuned as well as possible: shortest stable advertisement interval, real-time priority, tracked interfaces, a
daemon that must answer, a router that must be reachable, repeated announcements, and a node that calls the peers when
it takes over. Bonds and kernel parameters are the product's own, so that only the takeover differs.
"""
from __future__ import annotations

from lab.bench import clients
from lab.guest import Guest
from lab.laboratory import Lab
from lab.results import apply

CALL_SCRIPT = "/etc/keepalived/call"
PACKAGES = ["keepalived", *clients.STRONGSWAN_PACKAGES]
ONLY_NETWORK = ('pillar={"gateway": {"features": {"firewall": false, "openswan": false, "heartbeat": false, '
                '"logging": false, "time": false, "sshd": false}}}')


def set_up(lab: Lab, known: list[clients.Client]) -> None:
    """Turn the first site's bare hosts into the rival's pair, configured for these clients.

    Raises SystemExit when a state fails.
    """
    its, peers = lab.sites[0], [client for client in known if client.network]
    applied = apply(lab, f"*.{its.name}", ONLY_NETWORK)
    if applied.failed:
        raise SystemExit(f"lab: {applied.failed}")
    bundle = lab.authority.issue(its.view["identity"]["id"])
    for number, guest in enumerate(lab.gateways(its.name)):
        lab.install(guest, PACKAGES)
        clients.put_identity(lab, guest, "gateway", bundle)
        lab.copy_to(guest, "/etc/swanctl/conf.d/gateway.conf", _swanctl(lab, known).encode())
        lab.copy_to(guest, "/etc/strongswan.d/lab.conf", clients.tuned_charon().encode())
        lab.copy_to(guest, "/etc/keepalived/keepalived.conf", _keepalived(lab, guest, 200 - number).encode())
        lab.copy_to(guest, CALL_SCRIPT, _call(peers).encode())
        guest.run(["chmod", "0700", CALL_SCRIPT], check=True)
        guest.run(["systemctl", "enable", "strongswan", "keepalived"], check=True)
        guest.run(["systemctl", "restart", "strongswan", "keepalived"], check=True)
        # a crash soon afterwards would leave empty files
        guest.run(["sync"], check=True)


def _keepalived(lab: Lab, guest: Guest, priority: int) -> str:
    its = lab.sites[0]
    virtual = its.view["virtual"]
    inner = next(bond for bond in its.settings[guest.host.name]["bonds"] if bond["side"] == "internal")
    bonds = " ".join(bond["name"] for bond in its.view["bonds"])
    held = "\n".join(f"        {each['address']}/{each['prefix']} dev {each['interface']}" for each in virtual)
    upstream = next(bond["gateways"][0] for bond in its.view["bonds"] if bond["side"] == "external")
    # A failing script makes the node give up the role. With a weight the node would only lose priority, and nopreempt
    # keeps the other node from taking over from a node with less priority.
    return f"""global_defs {{
    vrrp_version 3
    vrrp_garp_master_delay 0
    vrrp_garp_master_repeat 5
    vrrp_rt_priority 50
    vrrp_no_swap
    enable_script_security
    script_user root
}}
# not vrrp_track_process: that needs a kernel with CONFIG_PROC_EVENTS, which the lab's has not
vrrp_script charon {{
    script "/usr/sbin/swanctl --stats"
    interval 1
    timeout 1
    fall 1
    rise 1
}}
vrrp_script upstream {{
    script "/usr/bin/ping -q -c 1 -W 1 {upstream}"
    interval 1
    timeout 2
    fall 2
    rise 1
}}
vrrp_instance gateway {{
    state BACKUP
    interface {inner["name"]}
    virtual_router_id 10
    priority {priority}
    advert_int 0.05
    nopreempt
    garp_master_delay 0
    virtual_ipaddress {{
{held}
    }}
    track_interface {{
        {"; ".join(bonds.split())}
    }}
    track_script {{
        charon
        upstream
    }}
    notify_master {CALL_SCRIPT}
}}
""".replace("; ", "\n        ")


def _call(peers: list[clients.Client]) -> str:
    commands = [f"/usr/sbin/swanctl --initiate --child {peer.name} --timeout 2 &\n" for peer in peers]
    return "".join(["#!/bin/sh\n", *commands])


def _swanctl(lab: Lab, known: list[clients.Client]) -> str:
    """swanctl.conf(5) for all clients.

    Each roadwarrior has an inner address of its own, as with the product: a Libreswan client asks for the address that
    it had, and 5.2 gives up for good when the other node's pool gives another one.
    """
    its = lab.sites[0]
    connection = next(each for each in its.view["connections"] if each["kind"] == "roadwarrior")
    inner = ",".join(connection["local"]["subnets"])
    persons = clients.persons(known)
    sections, pools = [], []
    for client in known:
        if client.network:
            sections.append(_connection(
                lab, client.name, f"remote_addrs = {clients.address(lab, client)}", client.identities[0],
                f"local_ts = {inner}\n        remote_ts = {client.network}", 1 if client.tuned else 5))
            continue
        for number, identity in enumerate(client.identities, 1):
            name = f"{client.name}-{number}"
            # Libreswan's is its certificate's subject (leftid=%fromcert)
            subject = f"CN={identity}" if client.make == "Libreswan" else identity
            sections.append(_connection(lab, name, f"pools = {name}", f'"{subject}"', f"local_ts = {inner}"))
            pools.append(f"  {name} {{\n    addrs = {persons[identity]}/32\n  }}\n")
    return f"""connections {{
{"".join(sections)}}}
pools {{
{"".join(pools)}}}
"""


def _connection(lab: Lab, name: str, who: str, identity: str, traffic: str, dpd: int = 5) -> str:
    its = lab.sites[0]
    return f"""  {name} {{
    version = 2
    mobike = no
    local_addrs = {its.virtual("external")}
    {who}
    proposals = {clients.PROPOSALS}
    dpd_delay = {dpd}s
    unique = replace
    local {{
      auth = pubkey
      certs = gateway.pem
      id = {its.view["identity"]["id"]}
    }}
    remote {{
      auth = pubkey
      id = {identity}
    }}
    children {{
      {name} {{
        {traffic}
        esp_proposals = aes256gcm16
      }}
    }}
  }}
"""
