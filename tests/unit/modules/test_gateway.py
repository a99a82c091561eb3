"""A site's mistakes, each check with its message; a node's settings; the schema itself."""
from __future__ import annotations

import copy
import datetime
import json

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

from tests.conftest import EXAMPLES, TREE, load_module

GATEWAY = load_module("_modules/gateway.py")
IPSEC = load_module("_modules/ipsec.py")
IPSEC.__salt__ = {"certs.inspect": lambda _pillar: {"key": "ec 256"}}
SCHEMA = yaml.safe_load((TREE / "pillar/schema.sls").read_text(encoding="utf-8"))["gateway_schema"]
SITES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["gateway"]
         for path in sorted((EXAMPLES / "sites").glob("*.sls"))}
GONE = object()
PEM = "-----BEGIN {0}-----\nMIIB\n-----END {0}-----\n"
SECRETS = {
    "heartbeat": {"key": "0123456789abcdef"},
    "certificates": {"gateway": {"pkcs12": "MIIB", "passphrase": "0815 is text"}},
    "psk": {"bern": "a secret with blanks"},
}


def changed(site: str, changes: dict[str, object]) -> dict:
    """A shipped site, with the values at some paths replaced or removed."""
    tree = copy.deepcopy(SITES[site])
    for path, value in changes.items():
        *way, last = path.split("/")
        place = tree
        for key in way:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[int(key)]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return tree


def mistakes(site: str, changes: dict[str, object], **more) -> list[str]:
    """The mistakes in a shipped site after a change."""
    return GATEWAY.find_mistakes(changed(site, changes), SCHEMA, **more)


# Each line: the site, the change, and the whole message of the one mistake that it makes.
ONE_MISTAKE = [
    # what YAML may bring
    ("winterthur", {"pingnodes": "192.0.2.1"}, "gateway:pingnodes: is no known key; did you mean ping_nodes?"),
    ("winterthur", {"bonds/external/mii": 100},
     "gateway:bonds:external:mii: is no known key; known are name, slaves, mode, monitor, networks, gateway, virtual, "
     "routes, mtu, options"),
    ("winterthur", {"services": {False: ["cups"]}},
     "gateway:services:false: is no known key (YAML reads on, off, yes and no as true and false); known are disabled"),
    ("winterthur", {"time": ["time.example"]},
     "gateway:time: ['time.example'] is a list; give a mapping with servers"),
    ("winterthur", {"connections": "none"}, "gateway:connections: none is text; give a mapping"),
    ("winterthur", {"heartbeat/auto_failback": "off"},
     "gateway:heartbeat:auto_failback: off is text; give true or false, without quotes"),
    ("winterthur", {"heartbeat/port": "694"},
     "gateway:heartbeat:port: 694 is text; give a whole number, without quotes"),
    ("winterthur", {"heartbeat/port": True},
     "gateway:heartbeat:port: true is a boolean (YAML reads on, off, yes and no as true and false); give a "
     "whole number, without quotes"),
    ("winterthur", {"heartbeat/port": 70000},
     "gateway:heartbeat:port: 70000 is outside 1 to 65535; give a number in between (YAML reads 0100 as 64 and "
     "1:20 as 80)"),
    ("winterthur", {"bonds/external/mtu": 1500.0},
     "gateway:bonds:external:mtu: 1500.0 is a number with a point; give a whole number, without quotes"),
    ("winterthur", {"time/servers": ["time.example", 10]},
     "gateway:time:servers: 10 is a number (YAML reads 010 as 8 and 1:20 as 80); put it in quotes if it is meant "
     "as text"),
    ("winterthur", {"time/servers": datetime.date(2004, 2, 1)},
     "gateway:time:servers: datetime.date(2004, 2, 1) is a date; put it in quotes if it is meant as text"),
    ("winterthur", {"time/servers": None},
     "gateway:time:servers: nothing is empty; put it in quotes if it is meant as text"),
    ("winterthur", {"time/servers": "time server"},
     "gateway:time:servers: time server does not fit; give a name such as gateway.site.example, without a leading @"),
    ("winterthur", {"firewall/ssh_from": {"a": 1}},
     "gateway:firewall:ssh_from: {'a': 1} is a mapping; give one text"),
    ("winterthur", {"bonds/external/mode": "activ-backup"},
     "gateway:bonds:external:mode: activ-backup is not known; did you mean active-backup?"),
    ("winterthur", {"bonds/external/mode": 1},
     "gateway:bonds:external:mode: 1 is not known; give one of active-backup, balance-rr, balance-xor, broadcast, "
     "802.3ad, balance-tlb, balance-alb"),
    ("winterthur", {"heartbeat/deadtime": "10 seconds"},
     "gateway:heartbeat:deadtime: 10 seconds is no time; give seconds, or milliseconds such as 500ms"),
    ("winterthur", {"heartbeat/deadtime": True},
     "gateway:heartbeat:deadtime: true is a boolean (YAML reads on, off, yes and no as true and false); give "
     "seconds, or milliseconds such as 500ms"),
    ("winterthur", {"heartbeat/initdead": 86400},
     "gateway:heartbeat:initdead: 86400 is outside 1 ms to one hour; give seconds, or milliseconds such as 500ms"),
    ("winterthur", {"ping_nodes": ["192.0.2.1", "198.51.100.2", "192.0.2.1"]},
     "gateway:ping_nodes: 192.0.2.1 occurs twice; leave one out"),
    # required keys
    ("winterthur", {"site": GONE},
     "gateway:site: is missing; The site's name, the SITE of the file's name and of the minion ids NODE.SITE."),
    ("winterthur", {"identity": GONE},
     "gateway:identity: is missing; How the gateway shows who it is. Both nodes are the same to a peer."),
    ("winterthur", {"identity/id": GONE},
     "gateway:identity:id: is missing; Its name in IKE, one of the certificate's subjectAltNames; without a leading "
     "@."),
    ("winterthur", {"ping_nodes": []},
     "gateway:ping_nodes: is empty; Neighbours that show whether a node still reaches both sides: at least one "
     "outside and one inside, neither of them a gateway node."),
    ("winterthur", {"connections/bern/kind": GONE},
     "gateway:connections:bern:kind: is missing; roadwarrior: people from anywhere. site-to-site: one peer gateway "
     "with networks behind it."),
    # characters that would break a file
    ("winterthur", {"identity/id": "gateway.example\nconn evil"},
     "gateway:identity:id: 'gateway.example\\nconn evil' does not fit; give a name such as gateway.site.example, "
     "without a leading @"),
    ("winterthur", {"identity/id": "@gateway.example"},
     "gateway:identity:id: @gateway.example does not fit; give a name such as gateway.site.example, without a "
     "leading @"),
    ("winterthur", {"identity/certificate": 'gate"way'},
     'gateway:identity:certificate: gate"way does not fit; give a letter, then letters, digits, - and _, '
     "63 characters at most"),
    ("winterthur", {"connections/road warrior": {"kind": "roadwarrior"}},
     "gateway:connections:road warrior: the name does not fit; give a letter, then letters, digits, - and _, "
     "63 characters at most"),
    ("winterthur", {"connections/roadwarrior/options": {"fragmentation": "yes\n"}},
     "gateway:connections:roadwarrior:options:fragmentation: 'yes\\n' does not fit; give a number, true, false, or "
     "letters, digits and _.,:;+/%-"),
    ("winterthur", {"connections/roadwarrior/options": {"mobike": True}},
     "gateway:connections:roadwarrior:options:mobike: the name is not known; give one of fragmentation, "
     "encapsulation, compress, replay-window, esn, pfs, narrowing, modecfgdomains, rekeymargin, rekeyfuzz, "
     "nat-keepalive, nic-offload, sha2-truncbug, ms-dh-downgrade, send-redirect, accept-redirect, decap-dscp, "
     "encap-dscp, nopmtudisc, tfc, mtu, priority, metric, leftsendcert, rightca, keyingtries, retransmit-interval"),
    ("winterthur", {"connections/roadwarrior/proposals/esp": ["aes256 # all"]},
     "gateway:connections:roadwarrior:proposals:esp: aes256 # all does not fit; give algorithms such as "
     "aes_gcm256-sha2_512-dh19"),
    ("winterthur", {"firewall/extra/input": ["tcp dport 80 accept }"]},
     "gateway:firewall:extra:input: tcp dport 80 accept } does not fit; give one nft rule on one line, without #, "
     "emoji and the like, and with its braces closed"),
    *[("winterthur", {"firewall/extra/output": [rule]},
       f"gateway:firewall:extra:output: {rule} has {word} in it; give one nft rule without include, define, variables, "
       "; and \\, its quotes closed") for rule, word in (
        ('include "/etc/shadow"', "include"), ('accept; include "/etc/shadow"', ";"), ("accept; policy drop", ";"),
        ('comment "a" include"/etc/shadow"', "include"), ('accept comment "', '"'), ("accept \\", "\\"),
        ("define a = 1", "define"), ("ip daddr $net accept", "$"))],
    ("winterthur", {"kernel/sysctl": {"ip_forward": 1}},
     "gateway:kernel:sysctl:ip_forward: the name does not fit; give a kernel parameter such as net.ipv4.ip_forward"),
    ("winterthur", {"heartbeat/mail_to": "ops"},
     "gateway:heartbeat:mail_to: ops does not fit; give a mail address such as ops@site.example"),
    ("winterthur", {"heartbeat/log_file": "ha-log"},
     "gateway:heartbeat:log_file: ha-log does not fit; give a file under /var/log, of letters, digits and ._+-, "
     "without .."),
    # what would be written where it must not
    ("winterthur", {"heartbeat/log_file": "/etc/shadow"},
     "gateway:heartbeat:log_file: /etc/shadow does not fit; give a file under /var/log, of letters, digits and ._+-, "
     "without .."),
    ("winterthur", {"heartbeat/debug_file": "/var/log/../../etc/shadow"},
     "gateway:heartbeat:debug_file: /var/log/../../etc/shadow does not fit; give a file under /var/log, of letters, "
     "digits and ._+-, without .."),
    ("winterthur", {"logging": {"warn_file": "/var/log/x/.."}},
     "gateway:logging:warn_file: /var/log/x/.. does not fit; give a file under /var/log, of letters, digits and ._+-, "
     "without .."),
    ("winterthur", {"logging": {"warn_file": "/var/log/wtmp"}},
     "gateway:logging:warn_file: /var/log/wtmp is another program's; give a file of its own"),
    ("winterthur", {"heartbeat/log_file": "/var/log/journal/x"},
     "gateway:heartbeat:log_file: /var/log/journal/x is another program's; give a file of its own"),
    ("winterthur", {"logging": {"warn_file": "/var/log/ha-log"}},
     "gateway:logging:warn_file: /var/log/ha-log is gateway:heartbeat:log_file already; give a file of its own"),
    ("winterthur", {"heartbeat/profile": "paper", "heartbeat/debug_file": "/var/log/ha-log"},
     "gateway:heartbeat:debug_file: /var/log/ha-log is gateway:heartbeat:log_file already; give a file of its own"),
    ("winterthur", {"heartbeat/watchdog": "/dev/sda"},
     "gateway:heartbeat:watchdog: /dev/sda does not fit; give a watchdog such as /dev/watchdog or /dev/watchdog1"),
    ("winterthur", {"heartbeat/paths": [{"broadcast": "bond0"}, {"broadcast": "bond1"}, {"serial": "/dev/ttyS0"},
                                        {"serial": "/dev/serial/../sda"}]},
     "gateway:heartbeat:paths:3:serial: /dev/serial/../sda does not fit; give a serial line such as /dev/ttyS0, or one "
     "under /dev/serial"),
    # what would break the gateway or lock people out
    ("winterthur", {"heartbeat/port": 4500},
     "gateway:heartbeat:port: 4500 is the port of IKE behind NAT; give another, or leave it out"),
    ("winterthur", {"heartbeat/port": 500},
     "gateway:heartbeat:port: 500 is the port of IKE; give another, or leave it out"),
    ("winterthur", {"services": {"disabled": "ssh"}},
     "gateway:services:disabled: ssh has to run: nobody could log in any more; leave it out"),
    ("winterthur", {"services": {"disabled": ["cups", "ssh.socket"]}},
     "gateway:services:disabled: ssh.socket has to run: nobody could log in any more; leave it out"),
    ("winterthur", {"services": {"disabled": "salt-minion.service"}},
     "gateway:services:disabled: salt-minion.service has to run: the master would not reach this machine any more; "
     "leave it out"),
    ("winterthur", {"services": {"disabled": "ipsec"}},
     "gateway:services:disabled: ipsec has to run: features:openswan needs it; leave it out"),
    ("winterthur", {"services": {"disabled": "ifup@bond0.service"}},
     "gateway:services:disabled: ifup@bond0.service has to run: it may be what brings the bonds up, unless "
     "network:manager is networkd; leave it out"),
    ("winterthur", {"services": {"disabled": "gateway-rollback-network.timer"}},
     "gateway:services:disabled: gateway-rollback-network.timer has to run: it is the gateway's own; leave it out"),
    ("winterthur", {"packages": {"kernel": "openssh-server-"}},
     "gateway:packages:kernel: openssh-server- does not fit; give a Debian package's name"),
    ("winterthur", {"bonds/internal/name": "bond1.120", "heartbeat/paths": [{"broadcast": "bond0"}],
                    "heartbeat/one_path": True},
     "gateway:bonds:internal:name: bond1.120 is what a VLAN on bond1 is called, and this is the bond itself; give a "
     "name without a dot such as bond1"),
    ("winterthur", {"bonds/internal/slaves": {"lo": "switch-c"}},
     "gateway:bonds:internal:slaves: lo is a name that Linux has for something else; give a network interface"),
    # characters and numbers that no SLS or message can hold
    ("winterthur", {"firewall/extra/input": ['tcp dport 80 accept comment "\U0001f600"']},
     "gateway:firewall:extra:input: 'tcp dport 80 accept comment \"\\U0001f600\"' does not fit; give one nft rule on "
     "one line, without #, emoji and the like, and with its braces closed"),
    ("winterthur", {"heartbeat/port": 16 ** 5000},
     "gateway:heartbeat:port: a number of thousands of digits is outside 1 to 65535; give a number in between (YAML "
     "reads 0100 as 64 and 1:20 as 80)"),
    ("winterthur", {"heartbeat/deadtime": 16 ** 5000},
     "gateway:heartbeat:deadtime: a number of thousands of digits is no time; give seconds, or milliseconds such as "
     "500ms"),
    ("winterthur", {"bonds/external/mode": 16 ** 5000},
     "gateway:bonds:external:mode: a number of thousands of digits is not known; give one of active-backup, "
     "balance-rr, balance-xor, broadcast, 802.3ad, balance-tlb, balance-alb"),
    ("winterthur", {"kernel/sysctl": {"net.core.somaxconn": 1 << 64}},
     "gateway:kernel:sysctl:net.core.somaxconn: 18446744073709551616 has more than 64 bits; give a smaller number"),
    ("winterthur", {"time": {16 ** 5000: 1}},
     "gateway:time:a number of thousands of digits: is no known key; known are servers"),
    # names of tunnels
    ("winterthur", {"connections/default": {"kind": "roadwarrior"}},
     "gateway:connections:default: default is the name of a section that ipsec.conf has of itself; give the connection "
     "another"),
    ("winterthur", {"connections/setup": {"kind": "roadwarrior"}},
     "gateway:connections:setup: setup is the name of a section that ipsec.conf has of itself; give the connection "
     "another"),
    ("winterthur", {"connections/roadwarrior/persons": {"anna": "198.51.100.129", "anna-dn": "198.51.100.130"}},
     "gateway:connections:roadwarrior:persons:anna-dn: the person anna-dn of the connection roadwarrior and the person "
     "anna of the connection roadwarrior would both be called roadwarrior-anna-dn in ipsec.conf, and one would vanish; "
     "give one of them another name, or a person another connection"),
    ("winterthur", {"connections/roadwarrior/persons": {"bern": "198.51.100.129"},
                    "connections/roadwarrior-bern": {"kind": "site-to-site", "peer": {
                        "address": "192.0.2.200", "id": "x.example", "subnets": "10.9.0.0/16"}}},
     "gateway:connections:roadwarrior-bern: the connection roadwarrior-bern and the person bern of the connection "
     "roadwarrior would both be called roadwarrior-bern in ipsec.conf, and one would vanish; give one of them another "
     "name, or a person another connection"),
    # everything through the tunnel
    ("winterthur", {"connections/roadwarrior": {"kind": "roadwarrior", "local": {"subnets": "0.0.0.0/0"}}},
     "gateway:connections:roadwarrior:local:subnets: 0.0.0.0/0: what leaves outside is translated, and these clients "
     "keep addresses of their own, which could be anybody's; give a pool, or the networks that are meant"),
    ("winterthur", {"connections/roadwarrior/local": {"subnets": "0.0.0.0/0"}, "bonds/external/gateway": []},
     "gateway:connections:roadwarrior:local:subnets: 0.0.0.0/0: no bond has an IPv4 gateway by which that could leave; "
     "give one, or the networks that are meant"),
    ("bern", {"connections/roadwarrior/local": {"subnets": "::/0"}, "connections/roadwarrior/pool": "2001:db8:f::/112",
              "connections/roadwarrior/persons": {}, "bonds/external/virtual": "192.0.2.74"},
     "gateway:connections:roadwarrior:local:subnets: ::/0: what leaves outside gets a virtual address, and the "
     "external bond has no IPv6 one; give one, or the networks that are meant"),
    # what fits through the tunnels
    ("winterthur", {"connections/bern/mtu": 1400, "connections/bern/mss": 1300},
     "gateway:connections:bern:mss: 1300 besides the mtu 1400: each says how large packets may be; give one of them"),
    ("winterthur", {"tunnels": {"mtu": 1400, "mss": 1300}},
     "gateway:tunnels:mss: 1300 besides the mtu 1400: each says how large packets may be; give one of them"),
    ("winterthur", {"connections/bern/mtu": 1501},
     "gateway:connections:bern:mtu: 1501 is more than the external bond's mtu 1500; give 1500 or less"),
    ("winterthur", {"tunnels": {"mtu": 9000}, "bonds/internal/mtu": 9000},
     "gateway:tunnels:mtu: 9000 is more than the external bond's mtu 1500; give 1500 or less"),
    ("winterthur", {"connections/bern/mtu": 500},
     "gateway:connections:bern:mtu: 500 is outside 576 to 65535 bytes; give a number in between (YAML reads 0100 as 64 "
     "and 1:20 as 80)"),
    ("winterthur", {"connections/bern/mss": 1300, "features": {"firewall": False}},
     "gateway:connections:bern:mss: 1300 has no effect without features:firewall, whose ruleset lowers the MSS; leave "
     "it out, and lower it in your own ruleset (docs/network.md)"),
    ("winterthur", {"tunnels": {"mtu": 1400}, "features": {"firewall": False}},
     "gateway:tunnels:mtu: 1400 has no effect without features:firewall, whose ruleset lowers the MSS; leave it out, "
     "and lower it in your own ruleset (docs/network.md)"),
    ("winterthur", {"connections/bern/options": {"mtu": 1400}},
     "gateway:connections:bern:options:mtu: 1400 has no effect, as the gateway's tunnels have no routes; give "
     "gateway:connections:bern:mtu, the largest packet on the way to the other end"),
    # nodes and their machines
    ("winterthur", {"nodes": GONE},
     "gateway:nodes: is missing; The two machines, each as its `uname -n` says. The first is the preferred one, the "
     "paper's master."),
    ("winterthur", {"bonds/internal/slaves": {}},
     "gateway:bonds:internal:slaves: is empty; The interfaces in the bond, each with the switch it is plugged into. "
     "The order is the order of preference."),
    ("winterthur", {"nodes/gw3": {"external": "192.0.2.13", "internal": "198.51.100.13"}},
     "gateway:nodes: gw1, gw2, gw3: that is 3; a gateway is a pair, give two"),
    ("winterthur", {"nodes/gw2": GONE}, "gateway:nodes: gw1: that is 1; a gateway is a pair, give two"),
    # bonds
    ("winterthur", {"bonds/internal": GONE, "heartbeat/paths": [{"broadcast": "bond0"}], "heartbeat/one_path": True,
                    "nodes/gw1/internal": "198.51.100.11"},
     "gateway:bonds: internal is missing; a gateway stands between an external and an internal network"),
    ("winterthur", {"bonds/external/slaves": {"ethernet-number-0": "switch-a", "eth1": "switch-b"}},
     "gateway:bonds:external:slaves:ethernet-number-0: the name does not fit; give an interface's name: a letter, then "
     "letters, digits, . - and _, 15 characters at most"),
    ("winterthur", {"bonds/external/slaves": {"eth0:1": "switch-a", "eth1": "switch-b"}},
     "gateway:bonds:external:slaves:eth0:1: the name does not fit; give an interface's name: a letter, then "
     "letters, digits, . - and _, 15 characters at most"),
    ("winterthur", {"bonds/external/slaves": {"eth0": "switch-a", "eth1": "switch-b", "bond0": "switch-b"}},
     "gateway:bonds:external:name: bond0 is a slave's name too; give the bond a name of its own"),
    ("winterthur", {"bonds/internal/slaves": {"eth1": "switch-c"}},
     "gateway:bonds:internal: eth1 is in the external bond already; an interface belongs to one bond"),
    ("winterthur", {"bonds/external/slaves": {"eth0": "switch-a", "eth1": "switch-a"}},
     "gateway:bonds:external:slaves: both nodes prefer switch-a (eth0 on gw1, eth0 on gw2), and a fault behind it "
     "would leave no path; give the second node's primary another switch"),
    ("winterthur", {"nodes/gw1/primary": {"external": "eth1"}, "nodes/gw2/primary": {"external": "eth1"}},
     "gateway:bonds:external:slaves: both nodes prefer switch-b (eth1 on gw1, eth1 on gw2), and a fault behind it "
     "would leave no path; give the second node's primary another switch"),
    ("winterthur", {"nodes/gw2/primary": {"external": "eth2"}},
     "gateway:nodes:gw2:primary:external: eth2 is not a slave of bond0; give one of eth0, eth1"),
    ("winterthur", {"nodes/gw2/primary": {"external": "eth1"}, "bonds/external/mode": "802.3ad"},
     "gateway:nodes:gw2:primary:external: eth1 has no effect, as 802.3ad has no primary; leave it out"),
    ("winterthur", {"bonds/external/monitor": {"updelay": 250}},
     "gateway:bonds:external:monitor:updelay: 250 is no multiple of miimon 100, the kernel would round it down; give "
     "a multiple"),
    ("bern", {"bonds/internal/monitor/miimon": 100},
     "gateway:bonds:internal:monitor:miimon: 100 and arp are two ways of monitoring; give one of them"),
    ("bern", {"bonds/internal/mode": "802.3ad"},
     "gateway:bonds:internal:monitor:arp: the kernel has no ARP monitoring for 802.3ad; give miimon"),
    ("bern", {"bonds/internal/monitor/arp/targets": ["192.0.2.65"]},
     "gateway:bonds:internal:monitor:arp:targets: 192.0.2.65 is outside 198.51.100.64/26, 2001:db8:be:1::/64; give an "
     "address of that network"),
    ("bern", {"bonds/internal/monitor/arp/targets": ["198.51.100.76"]},
     "gateway:bonds:internal:monitor:arp:targets: 198.51.100.76 is gw-b's own address, which proves nothing about the "
     "network; give a neighbour"),
    ("bern", {"bonds/internal/monitor/arp/targets": ["2001:db8:be:1::5"]},
     "gateway:bonds:internal:monitor:arp:targets: 2001:db8:be:1::5 is IPv6 and ARP is IPv4; give an IPv4 address"),
    ("bern", {"bonds/internal/monitor/arp/targets": [f"198.51.100.{n}" for n in range(90, 107)]},
     "gateway:bonds:internal:monitor:arp:targets: has 17 entries; 16 are possible"),
    # addresses and networks
    ("winterthur", {"nodes/gw2/external": "192.0.2.200"},
     "gateway:nodes:gw2:external: 192.0.2.200 is outside 192.0.2.0/26; give an address of that network"),
    ("winterthur", {"nodes/gw2/external": "192.0.2.63"},
     "gateway:nodes:gw2:external: 192.0.2.63 is the broadcast address of 192.0.2.0/26; give one of its hosts"),
    ("winterthur", {"nodes/gw2/external": "192.0.2.0"},
     "gateway:nodes:gw2:external: 192.0.2.0 is the address of the network 192.0.2.0/26 itself; give one of its hosts"),
    ("bern", {"nodes/gw-b/external": ["192.0.2.76", "2001:db8:be::"]},
     "gateway:nodes:gw-b:external: 2001:db8:be:: is the address of the network 2001:db8:be::/64 itself; give one of "
     "its hosts"),
    ("bern", {"nodes/gw-b/external": ["192.0.2.76"]},
     "gateway:nodes:gw-b:external: has no address in 2001:db8:be::/64; give one"),
    ("winterthur", {"nodes/gw2/external": ["192.0.2.12", "192.0.2.13"]},
     "gateway:nodes:gw2:external: 192.0.2.12, 192.0.2.13 are both in 192.0.2.0/26; give one of them"),
    ("winterthur", {"nodes/gw2/heartbeat": "10.255.0.2"},
     "gateway:nodes:gw2:heartbeat: 10.255.0.2: there is no such bond; describe it in gateway:bonds:heartbeat"),
    ("winterthur", {"nodes/gw2/external": "192.0.2.11"},
     "gateway:nodes:gw2:external: 192.0.2.11 is gw1's own address already; give one that nothing else has"),
    ("winterthur", {"bonds/external/virtual": "192.0.2.12"},
     "gateway:bonds:external:virtual: 192.0.2.12 is gw2's own address already; give one that nothing else has"),
    ("winterthur", {"bonds/external/gateway": "192.0.2.10"},
     "gateway:bonds:external:gateway: 192.0.2.10 is a virtual address already; give the router's"),
    ("winterthur", {"bonds/external/gateway": "192.0.2.65"},
     "gateway:bonds:external:gateway: 192.0.2.65 is outside 192.0.2.0/26; give an address of that network"),
    ("winterthur", {"bonds/internal/gateway": "198.51.100.1"},
     "gateway:bonds:internal:gateway: 198.51.100.1 is a second default gateway besides 192.0.2.1; keep one for each "
     "IP version and give the other's networks under routes"),
    ("winterthur", {"bonds/external/virtual": "192.0.2.70"},
     "gateway:bonds:external:virtual: 192.0.2.70 is outside 192.0.2.0/26; give an address of that network"),
    ("winterthur", {"bonds/internal/virtual": GONE},
     "gateway:bonds:internal:virtual: is missing; give the address that moves with the active role"),
    ("winterthur", {"bonds/internal/routes": [{"to": "10.0.0.0/8", "via": "192.0.2.1"}]},
     "gateway:bonds:internal:routes: 192.0.2.1 is outside 198.51.100.0/26; give an address of that network"),
    ("winterthur", {"bonds/internal/routes": [{"to": "2001:db8::/32", "via": "198.51.100.1"}]},
     "gateway:bonds:internal:routes: 2001:db8::/32 cannot be reached via 198.51.100.1; give a router of the same IP "
     "version"),
    ("winterthur", {"bonds/internal/routes": {"to": "10.0.0.0/8"}},
     "gateway:bonds:internal:routes:0:via: is missing; The router, an address in one of the bond's networks."),
    ("winterthur", {"firewall/ssh_from": "198.51.100.7/26"},
     "gateway:firewall:ssh_from: 198.51.100.7/26 is an address in a network; give the network, 198.51.100.0/26"),
    ("winterthur", {"firewall/ssh_from": "198.51.100.0"},
     "gateway:firewall:ssh_from: 198.51.100.0 has no prefix length; give one such as 198.51.100.0/24"),
    ("winterthur", {"firewall/ssh_from": "198.51.100.0/33"},
     "gateway:firewall:ssh_from: 198.51.100.0/33 is no network; give one such as 192.0.2.0/26 or 2001:db8::/64"),
    ("winterthur", {"nodes/gw2/external": "192.0.2.12/26"},
     "gateway:nodes:gw2:external: 192.0.2.12/26 is no IP address; give one without the prefix length"),
    ("winterthur", {"rollback/confirm_with": "127.0.0.1"},
     "gateway:rollback:confirm_with: 127.0.0.1 is no address of one host in a network; give one such as 192.0.2.11 or "
     "2001:db8::11"),
    # ping nodes
    ("winterthur", {"ping_nodes": GONE},
     "gateway:ping_nodes: is missing; Neighbours that show whether a node still reaches both sides: at least one "
     "outside and one inside, neither of them a gateway node."),
    ("winterthur", {"ping_nodes": ["192.0.2.1", "198.51.100.2", "198.51.100.12"]},
     "gateway:ping_nodes: 198.51.100.12 is gw2's own address, which answers whatever the network does; give a "
     "neighbour"),
    ("winterthur", {"ping_nodes": ["192.0.2.1", "198.51.100.2", "198.51.100.10"]},
     "gateway:ping_nodes: 198.51.100.10 is a virtual address, which answers whatever the network does; give a "
     "neighbour"),
    ("winterthur", {"ping_nodes": ["192.0.2.1"]},
     "gateway:ping_nodes: 192.0.2.1: none is a neighbour on the internal side, so a fault there would cause no "
     "takeover; add one in 198.51.100.0/26"),
    ("winterthur", {"ping_nodes": ["198.51.100.2"]},
     "gateway:ping_nodes: 198.51.100.2: none is a neighbour on the external side, so a fault there would cause no "
     "takeover; add one in 192.0.2.0/26"),
    ("bern", {"ping_nodes": ["192.0.2.65", "198.51.100.66", "2001:db8:be::1"]},
     "gateway:ping_nodes: 2001:db8:be::1 is IPv6 and heartbeat pings IPv4; give an IPv4 address"),
    # connections
    ("winterthur", {"connections/bern/peer": GONE, "connections/bern/kind": "site-to-site",
                    "connections/bern/peer/id": "a.example", "connections/bern/peer/subnets": "203.0.113.0/24"},
     "gateway:connections:bern:peer:address: is missing; a site-to-site connection needs the peer's address"),
    ("winterthur", {"connections/bern/peer/id": GONE},
     "gateway:connections:bern:peer:id: is missing; a site-to-site connection needs the peer's id"),
    ("winterthur", {"connections/bern/peer/subnets": GONE},
     "gateway:connections:bern:peer:subnets: is missing; a site-to-site connection needs the peer's subnets"),
    ("winterthur", {"connections/bern/peer/address": "192.0.2.12"},
     "gateway:connections:bern:peer:address: 192.0.2.12 is gw2's own address; give the peer's"),
    ("winterthur", {"connections/bern/peer/id": "gateway.winterthur.example"},
     "gateway:connections:bern:peer:id: gateway.winterthur.example is this site's own; give the peer's"),
    ("winterthur", {"connections/bern/pool": "10.0.0.0/24"},
     "gateway:connections:bern:pool: 10.0.0.0-10.0.0.255: that is for roadwarriors; leave it out"),
    ("winterthur", {"connections/bern/subject": "OU=bern, CN=*"},
     "gateway:connections:bern:subject: OU=bern, CN=*: that is for roadwarriors; leave it out"),
    ("winterthur", {"connections/roadwarrior/subject": "OU=winterthur, CN=*", "connections/roadwarrior/auth": "psk"},
     "gateway:connections:roadwarrior:subject: OU=winterthur, CN=*: that works only with IKEv2 and certificates; "
     "leave it out"),
    ("winterthur", {"connections/roadwarrior/subject": 'OU=winterthur" rightca=%any'},
     'gateway:connections:roadwarrior:subject: OU=winterthur" rightca=%any does not fit; give a certificate\'s subject '
     "such as OU=site, CN=*, of C, ST, L, O, OU, CN, DC and UID; or any"),
    ("winterthur", {"connections/roadwarrior/subject": "any", "connections/roadwarrior/auth": "psk"},
     "gateway:connections:roadwarrior:subject: any: that works only with IKEv2 and certificates; leave it out"),
    ("winterthur", {"connections/roadwarrior/subject": "anybody"},
     "gateway:connections:roadwarrior:subject: anybody does not fit; give a certificate's subject such as OU=site, "
     "CN=*, of C, ST, L, O, OU, CN, DC and UID; or any"),
    ("winterthur", {"connections/roadwarrior/peer": {"id": "somebody.example"}},
     "gateway:connections:roadwarrior:peer: is for site-to-site, a roadwarrior comes from anywhere; leave it out"),
    ("winterthur", {"connections/roadwarrior/initiate": True},
     "gateway:connections:roadwarrior:initiate: true: nobody can call a roadwarrior; leave it out"),
    ("winterthur", {"connections/roadwarrior/pool": GONE, "connections/roadwarrior/dns": "198.51.100.2"},
     "gateway:connections:roadwarrior:dns: 198.51.100.2: name servers are given along with an address; add a pool"),
    ("winterthur", {"connections/roadwarrior/persons": {"anna": "198.51.100.200"}},
     "gateway:connections:roadwarrior:persons:anna: 198.51.100.200 is in the pool 198.51.100.192-198.51.100.223, which "
     "any roadwarrior may get; give an address outside"),
    ("winterthur", {"connections/roadwarrior/persons": {"anna": "198.51.100.20"}},
     "gateway:connections:roadwarrior:persons:anna: 198.51.100.20 is in the internal network 198.51.100.0/26; give an "
     "address outside"),
    ("winterthur", {"connections/roadwarrior/persons": {"anna": "198.51.100.70"}},
     "gateway:connections:roadwarrior:persons:anna: 198.51.100.70 is in the peer's network 198.51.100.64/26; give an "
     "address outside"),
    ("winterthur", {"connections/roadwarrior/persons": {"anna": "198.51.100.129", "CN=bert, O=x": "198.51.100.129"}},
     "gateway:connections:roadwarrior:persons:CN=bert, O=x: 198.51.100.129 is anna's already; give another"),
    ("winterthur", {"connections/roadwarrior/persons": {"anna": ["198.51.100.129", "198.51.100.130"]}},
     "gateway:connections:roadwarrior:persons:anna: 198.51.100.129, 198.51.100.130: give one address"),
    ("winterthur", {"connections/bern/persons": {"anna": "198.51.100.129"}},
     "gateway:connections:bern:persons: anna: that is for roadwarriors; leave it out"),
    ("winterthur", {"connections/roadwarrior/pool": "198.51.100.223-198.51.100.192"},
     "gateway:connections:roadwarrior:pool: 198.51.100.223-198.51.100.192 is no range of addresses; give a network "
     "such as 192.0.2.192/27, or first-last"),
    ("winterthur", {"connections/roadwarrior/pool": ["198.51.100.192/28", "198.51.100.208/28"]},
     "gateway:connections:roadwarrior:pool: 198.51.100.208-198.51.100.223 is a second IPv4 pool besides "
     "198.51.100.192-198.51.100.207; give one"),
    ("bern", {"connections/roadwarrior/pool": "2001:db8:99::1-2001:db8:99::9"},
     "gateway:connections:roadwarrior:pool: 2001:db8:99::1-2001:db8:99::9 is no prefix, as an IPv6 pool must be; "
     "give one such as 2001:db8::/112"),
    ("winterthur", {"connections/bern/local/address": "192.0.2.11"},
     "gateway:connections:bern:local:address: 192.0.2.11 is no external virtual address; give one of 192.0.2.10"),
    ("winterthur", {"connections/bern/peer/address": "2001:db8:be::a"},
     "gateway:connections:bern:peer:address: 2001:db8:be::a cannot be reached from 192.0.2.10; give one of the same "
     "IP version"),
    ("winterthur", {"connections/bern/peer/subnets": ["198.51.100.64/26", "2001:db8:be:1::/64"]},
     "gateway:connections:bern:local:subnets: has nothing that 2001:db8:be:1::/64 could reach; give an IPv6 network"),
    ("bern", {"connections/winterthur/local/subnets": ["198.51.100.64/26", "2001:db8:be:1::/64"]},
     "gateway:connections:winterthur:local:subnets: 2001:db8:be:1::/64 has no IPv6 counterpart; leave it out"),
    ("winterthur", {"connections/roadwarrior/local/subnets": ["10.1.0.0/24", "10.1.4.0/24"]},
     "gateway:connections:roadwarrior:local:subnets: 10.1.0.0/24, 10.1.4.0/24: a roadwarrior gets one tunnel, to the "
     "first of these 2; give one that covers them, such as 10.1.0.0/21"),
    ("winterthur", {"connections/roadwarrior/local/subnets": ["10.1.0.0/24", "192.168.4.0/24"]},
     "gateway:connections:roadwarrior:local:subnets: 10.1.0.0/24, 192.168.4.0/24: a roadwarrior gets one tunnel, to "
     "the first of these 2; give one that covers them, such as 0.0.0.0/0, all that a client sends"),
    ("bern", {"connections/roadwarrior/persons": {"anna.example": ["198.51.100.240", "2001:db8:be:2::5"]}},
     "gateway:connections:roadwarrior:local:subnets: 198.51.100.64/26, 2001:db8:be:1::/64: a roadwarrior gets one "
     "tunnel, to the first of these 2; leave one IP version out, in pool and persons too"),
    ("winterthur", {"connections/roadwarrior/dpd": {"delay": 5, "timeout": 4}},
     "gateway:connections:roadwarrior:dpd:timeout: 4 is less than the delay 5; give several times the delay"),
    ("winterthur", {"connections/roadwarrior/ike": "ikev1"},
     "gateway:connections:roadwarrior:pool: 198.51.100.192-198.51.100.223: IKEv1 hands out no addresses without "
     "XAUTH; give ike: ikev2, or leave the pool out"),
    ("winterthur", {"connections/bern/ike": "ikev1", "connections/bern/proposals/ike": "aes_gcm256-sha2_512"},
     "gateway:connections:bern:proposals:ike: aes_gcm256-sha2_512 is for IKEv2, IKEv1 encrypts its own messages with "
     "CBC only; give one such as aes256-sha2_256;modp2048"),
    ("winterthur", {"connections/bern/ike": "ikev1", "connections/bern/options/narrowing": True},
     "gateway:connections:bern:options:narrowing: yes: that is for IKEv2; leave it out"),
    # tunnels
    ("winterthur", {"connections/bern/peer/subnets": "198.51.100.0/25"},
     "gateway:connections:bern:peer:subnets: 198.51.100.0/25 overlaps the internal network 198.51.100.0/26; give one "
     "that does not"),
    ("winterthur", {"connections/roadwarrior/pool": "198.51.100.32/27"},
     "gateway:connections:roadwarrior:pool: 198.51.100.32-198.51.100.63 overlaps the internal network "
     "198.51.100.0/26; give one that does not"),
    ("winterthur", {"connections/roadwarrior/pool": "192.0.2.60-192.0.2.66"},
     "gateway:connections:roadwarrior:pool: 192.0.2.60-192.0.2.66 overlaps the external network 192.0.2.0/26; give "
     "one that does not"),
    ("winterthur", {"connections/more": {"kind": "roadwarrior", "pool": "198.51.100.200/32"}},
     "gateway:connections:more:pool: 198.51.100.200-198.51.100.200 overlaps 198.51.100.192-198.51.100.223 of the "
     "connection roadwarrior, and a packet belongs to one tunnel; give one that does not"),
    ("winterthur", {"connections/basel": {"kind": "site-to-site", "peer": {
        "address": "203.0.113.1", "id": "gateway.basel.example", "subnets": ["10.0.0.0/8", "198.51.100.96/27"]}}},
     "gateway:connections:basel:peer:subnets: 198.51.100.96/27 overlaps 198.51.100.64/26 of the connection bern, and "
     "a packet belongs to one tunnel; give one that does not"),
    ("winterthur", {"bonds/internal/networks": ["198.51.100.0/26", "192.0.2.32/27"],
                    "nodes/gw1/internal": ["198.51.100.11", "192.0.2.41"],
                    "nodes/gw2/internal": ["198.51.100.12", "192.0.2.42"]},
     "gateway:bonds:internal:networks: 192.0.2.32/27 overlaps 192.0.2.0/26 of the external bond; give one that does "
     "not"),
    # heartbeat
    ("winterthur", {"heartbeat/keepalive": 2, "heartbeat/deadtime": 2},
     "gateway:heartbeat:deadtime: 2 is not above the keepalive 2, every heartbeat would be late; give several times "
     "the keepalive"),
    ("winterthur", {"heartbeat/warntime": "200ms"},
     "gateway:heartbeat:warntime: 200ms is not between the keepalive 200ms and the deadtime 1; give a time between "
     "them"),
    ("winterthur", {"heartbeat/warntime": 4},
     "gateway:heartbeat:warntime: 4 is not between the keepalive 200ms and the deadtime 1; give a time between them"),
    ("winterthur", {"heartbeat/initdead": 1},
     "gateway:heartbeat:initdead: 1 is less than twice the deadtime 1; give more, the network may come up late"),
    ("winterthur", {"heartbeat/profile": "fast", "heartbeat/deadtime": "200ms"},
     "gateway:heartbeat:deadtime: 200ms is less than the 250 ms after which heartbeat looks again for dead nodes, "
     "which makes nothing faster; give 250ms or more"),
    ("winterthur", {"heartbeat/deadping": "300ms"},
     "gateway:heartbeat:deadping: 300ms is less than twice the keepalive 200ms, one lost ping would count; give "
     "several times the keepalive"),
    ("winterthur", {"heartbeat/paths": {"broadcast": "bond1"}},
     "gateway:heartbeat:paths: bond1: when this one is cut both nodes become active; give a second path over "
     "something else, or one_path: true if there is nothing else"),
    ("winterthur", {"heartbeat/paths": [{"broadcast": "bond1"}, {"unicast": "bond1"}]},
     "gateway:heartbeat:paths: bond1: when this one is cut both nodes become active; give a second path over "
     "something else, or one_path: true if there is nothing else"),
    ("winterthur", {"heartbeat/one_path": True},
     "gateway:heartbeat:one_path: true, and there are 2: bond0, bond1; leave it out"),
    # keys for the agent, and keys for heartbeat's scripts
    ("winterthur", {"heartbeat/ipfail": False},
     "gateway:heartbeat:ipfail: false is for the profile paper; in default the agent compares ping nodes itself; leave "
     "it out"),
    ("winterthur", {"heartbeat/mail_to": "ops@winterthur.example"},
     "gateway:heartbeat:mail_to: ops@winterthur.example: only heartbeat's scripts send mails, in the profile "
     "paper; leave it out"),
    ("winterthur", {"heartbeat/failback_delay": 60},
     "gateway:heartbeat:failback_delay: 60 has no effect with auto_failback: false; leave one of them out"),
    ("winterthur", {"heartbeat/profile": "paper", "heartbeat/auto_failback": True, "heartbeat/failback_delay": 60},
     "gateway:heartbeat:failback_delay: works only with the agent, and the profile paper has none; leave it out"),
    ("winterthur", {"heartbeat/profile": "paper", "heartbeat/compare": True},
     "gateway:heartbeat:compare: works only with the agent, and the profile paper has none; leave it out"),
    ("winterthur", {"heartbeat/profile": "paper", "heartbeat/fence": {"command": "/usr/local/sbin/fence"}},
     "gateway:heartbeat:fence: works only with the agent, and the profile paper has none; leave it out"),
    ("winterthur", {"heartbeat/fence": {}},
     "gateway:heartbeat:fence:command: is missing; The program, which has to be on both nodes."),
    ("winterthur", {"heartbeat/watchdog": "softdog"},
     "gateway:heartbeat:watchdog: softdog does not fit; give a watchdog such as /dev/watchdog or /dev/watchdog1"),
    ("winterthur", {"heartbeat/paths": GONE},
     "gateway:heartbeat:paths: is missing; Over what heartbeats go; more than one, so that a single cut is no split. "
     "Each is one of unicast, broadcast, multicast and serial."),
    ("winterthur", {"heartbeat/paths": []},
     "gateway:heartbeat:paths: is empty; Over what heartbeats go; more than one, so that a single cut is no split. "
     "Each is one of unicast, broadcast, multicast and serial."),
    ("winterthur", {"heartbeat/paths": [{"broadcast": "eth0"}]},
     "gateway:heartbeat:paths: eth0 is no bond of the site; give one of bond0, bond1, or describe a link of the "
     "nodes' own in gateway:bonds:heartbeat"),
    ("winterthur", {"heartbeat/paths": [{"broadcast": "bond0", "unicast": "bond1"}]},
     "gateway:heartbeat:paths: unicast, broadcast: a path is of one kind; give one of unicast, broadcast, multicast, "
     "serial"),
    ("winterthur", {"bonds/heartbeat": {"name": "hb0", "slaves": {"eth3": "cable"}, "networks": "2001:db8:5::/64"},
                    "nodes/gw1/heartbeat": "2001:db8:5::1", "nodes/gw2/heartbeat": "2001:db8:5::2",
                    "heartbeat/paths": [{"unicast": "hb0"}, {"broadcast": "bond0"}]},
     "gateway:heartbeat:paths: hb0 has no IPv4 address on gw1, and heartbeat's unicast is IPv4; give one"),
    ("winterthur", {"heartbeat/paths": [{"baud": 9600}, {"broadcast": "bond0"}, {"broadcast": "bond1"}]},
     "gateway:heartbeat:paths: no kind: a path is of one kind; give one of unicast, broadcast, multicast, serial"),
    ("winterthur", {"heartbeat/paths": [{"multicast": "bond0", "group": "192.0.2.9"}]},
     "gateway:heartbeat:paths:0:group: 192.0.2.9 is no IPv4 multicast group; give one such as 239.0.0.43"),
    ("winterthur", {"heartbeat/paths": [{"serial": "ttyS0"}]},
     "gateway:heartbeat:paths:0:serial: ttyS0 does not fit; give a serial line such as /dev/ttyS0, or one under "
     "/dev/serial"),
]


@pytest.mark.parametrize("site, changes, expected", ONE_MISTAKE, ids=[case[2].split(";")[0] for case in ONE_MISTAKE])
def test_one_mistake(site, changes, expected):
    found = mistakes(site, changes)
    assert any(line.split(": ", 1)[1] == expected for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize("site, changes", [
    ("winterthur", {"connections/roadwarrior/persons": {"a+b": "198.51.100.129", "a_b": "198.51.100.130"}}),
    ("winterthur", {"connections/roadwarrior/persons": {"a@b": "198.51.100.129", "a_b": "198.51.100.130"}}),
    ("winterthur", {"connections/roadwarrior/persons": {"persons": "198.51.100.129"}}),
    ("winterthur", {"connections/roadwarrior/persons": {"O=a, CN=b": "198.51.100.129", "O_a_CN_b": "198.51.100.130"}}),
    ("winterthur", {"connections/roadwarrior/persons": {"anna": "198.51.100.129"},
                    "connections/roadwarrior-persons": {"kind": "roadwarrior"}}),
    ("winterthur", {"connections/roadwarrior/persons": {"b-c": "198.51.100.129"},
                    "connections/roadwarrior-b": {"kind": "roadwarrior", "persons": {"c": "198.51.100.130"}}}),
])
def test_two_tunnels_of_one_name_are_refused(site, changes):
    found = mistakes(site, changes)
    assert found and all("would both be called roadwarrior-" in line for line in found)


@given(st.data())
def test_a_site_without_mistakes_loses_no_section(data):
    """What is refused are the names that sections have: of the rest each makes its own."""
    name = st.sampled_from(["a", "a-b", "a-persons", "a-b-dn", "a-dn", "b"])
    person = st.sampled_from(["b", "b-dn", "dn", "persons", "b+dn", "b_dn", "b.c", "b.c-dn", "b@c", "CN=b", "CN_b"])
    number = iter(range(1, 250))
    connections = {each: {
        "kind": "roadwarrior", "pool": ["10.0.0.0/24"] if data.draw(st.booleans()) else [], "persons": {
            who: [f"10.0.1.{next(number)}"] for who in data.draw(st.lists(person, max_size=3, unique=True))}}
        for each in data.draw(st.lists(name, min_size=1, max_size=3, unique=True))}
    whole = changed("winterthur", {"connections": connections})
    made = [section for one in GATEWAY.derive(whole, SCHEMA, "gw1")["connections"] for section in
            IPSEC._tunnels(one, 5, "winterthur", True)]
    full = GATEWAY._complete(whole, SCHEMA)
    said = [tunnel for each, its in full["connections"].items() for _, tunnel in GATEWAY._tunnel_names(each, its)]
    aliases = [f"{each}-persons" for each, its in connections.items() if its["persons"]]
    assert set(said) == {*made, *aliases}
    refused = any("would both be called" in line for line in GATEWAY.find_mistakes(whole, SCHEMA))
    assert refused == (len(set(said)) < len(said))
    assert refused or len(set(made)) == len(said) - len(aliases)


@pytest.mark.parametrize("changes", [
    {"heartbeat/log_file": "/var/log/heartbeat/..ha.log"}, {"heartbeat/port": 695},
    {"heartbeat/watchdog": "/dev/watchdog1"}, {"heartbeat/debug_file": "/var/log/ha-log"},
    {"packages": {"kernel": ["g++", "a1"]}},
    {"services": {"disabled": ["systemd-timesyncd", "ModemManager", "sshguard", "systemd-resolved.service"]}},
    {"services": {"disabled": ["systemd-networkd"]}, "network": {"manager": "ifupdown"}},
    {"services": {"disabled": ["chrony"]}, "features": {"time": False}},
    {"firewall/extra/input": ['tcp dport 80 accept comment "f\u00fcr \u65e5\u672c"']},
    {"firewall/extra/input": ['tcp dport 80 log prefix "we include; $5" accept', 'iifname { "eth0", "eth1" } accept']},
    {"kernel/sysctl": {"kernel.shmmax": (1 << 64) - 1}},
    {"connections/roadwarrior/persons": {"anna": "198.51.100.129", "anna.example": "198.51.100.130"}},
])
def test_what_does_no_harm_is_accepted(changes):
    assert mistakes("winterthur", changes) == []


def test_a_message_can_be_shown_by_an_sls():
    """It becomes JSON in one, where a character above U+FFFF is two surrogates, which YAML refuses."""
    for line in mistakes("winterthur", {"site": "\U0001f600", "\U0001f600": "\ud83d", "time/servers": ["\U0001f600"]},
                         minion_id="\U0001f600.x", secrets={"crls": {"\U0001f600": "x"}}):
        assert max(line) <= "\uffff" and yaml.safe_load(json.dumps(line)) == line


def test_a_revocation_list_has_a_name_that_an_sls_can_hold():
    (line,) = mistakes("winterthur", {}, secrets=SECRETS | {"crls": {"\U0001f600": "MIIB"}})
    assert line.startswith("winterthur: gateway_secrets:crls:'\\U0001f600': the name ")


@pytest.mark.parametrize("name", SITES)
def test_a_good_site_has_no_mistakes(name):
    site = SITES[name]
    for node in site["nodes"]:
        assert GATEWAY.find_mistakes(site, SCHEMA, node, SECRETS, f"{node}.{name}.example.org") == []


def test_a_mistake_names_the_site_and_the_key_in_one_line():
    assert mistakes("winterthur", {"nodes/gw2/external": "192.0.2.200"})[0] == (
        "winterthur: gateway:nodes:gw2:external: 192.0.2.200 is outside 192.0.2.0/26; give an address of that network")


def test_all_mistakes_at_once():
    changes = {}
    for _, change, _ in (case for case in ONE_MISTAKE if case[0] == "winterthur"):
        if set(change) in ({"ping_nodes"}, {"heartbeat/port"}, {"bonds/external/virtual"}, {"identity/id"}):
            changes |= {key: value for key, value in change.items() if value is not GONE}
    paths = {line.split(": ")[1] for line in mistakes("winterthur", changes)}
    assert paths >= {"gateway:ping_nodes", "gateway:heartbeat:port", "gateway:bonds:external:virtual",
                     "gateway:identity:id"}


def test_what_follows_from_a_mistake_is_not_reported_too():
    assert len(mistakes("winterthur", {"identity": GONE})) == 1
    assert len(GATEWAY.find_mistakes([], SCHEMA)) == len(GATEWAY.find_mistakes("x", SCHEMA)) == 1


@pytest.mark.parametrize("nodename, minion_id, expected", [
    ("gw3", None, "gateway:nodes: this machine's `uname -n` is gw3, which is none of gw1, gw2; rename the machine, or "
                  "the node"),
    ("gw1.example", None, "gateway:nodes: this machine's `uname -n` is gw1.example, which is none of gw1, gw2; rename "
                          "the machine, or the node"),
    ("gw1", "gw1.bern", "gateway:site: winterthur is not the site in the minion id gw1.bern, which is NODE.SITE"),
    ("gw1", "gw1", "gateway:site: winterthur is not the site in the minion id gw1, which is NODE.SITE"),
    ("gw1", "gw2.winterthur", "gateway:nodes: gw2 in the minion id gw2.winterthur is not this machine's `uname -n` "
                              "gw1; change the id, or the machine's name"),
])
def test_the_machine_is_the_node(nodename, minion_id, expected):
    assert mistakes("winterthur", {}, nodename=nodename, minion_id=minion_id) == [f"winterthur: {expected}"]


PSK = {"connections/bern/auth": "psk"}


@pytest.mark.parametrize("changes, secrets, path, text", [
    ({}, {"heartbeat": GONE}, "heartbeat:key", "is missing; give it in pillar/secrets/winterthur.sls"),
    ({}, {"heartbeat/key": "two words"}, "heartbeat:key", "is empty or has characters"),
    ({}, {"heartbeat/key": "line\nline"}, "heartbeat:key", "is empty or has characters"),
    ({}, {"heartbeat/key": ""}, "heartbeat:key", "is empty or has characters"),
    ({}, {"heartbeat/key": 815}, "heartbeat:key", "is a number"),
    ({}, {"certificates": GONE}, "certificates:gateway", "is missing, and gateway:identity:certificate names it"),
    ({"identity/certificate": "other"}, {}, "certificates:other", "is missing, and gateway:identity:certificate"),
    ({}, {"certificates/gateway/pkcs12": "no base64!"}, "certificates:gateway:pkcs12", "is no PKCS#12 file"),
    ({}, {"certificates/gateway/pkcs12": "c2VjcmV0"}, "certificates:gateway:pkcs12", "is no PKCS#12 file"),
    ({}, {"certificates/gateway/passphrase": GONE}, "certificates:gateway:passphrase", "is missing"),
    ({}, {"certificates/gateway/passphrase": 815}, "certificates:gateway:passphrase", "is a number"),
    ({}, {"certificates/gateway": {"certificate": "x", "key": PEM.format("EC PRIVATE KEY")}},
     "certificates:gateway:certificate", "is missing or no PEM"),
    ({}, {"certificates/gateway": {"certificate": PEM.format("CERTIFICATE")}},
     "certificates:gateway:key", "is missing or no PEM"),
    ({}, {"certificates/gateway": {"certificate": PEM.format("CERTIFICATE"), "key": PEM.format("PRIVATE KEY"),
                                   "chain": ["x"]}}, "certificates:gateway:chain", "is missing or no PEM"),
    ({}, {"crls": {"ca": "x"}}, "crls:ca", "is no certificate revocation list"),
    (PSK, {"psk": GONE}, "psk:bern", "is missing"),
    (PSK, {"psk/bern": 'with "quotes"'}, "psk:bern", "is empty or has characters"),
])
def test_secrets_by_presence_and_shape(monkeypatch, changes, secrets, path, text):
    monkeypatch.setitem(SITES, "secrets", SECRETS)
    given = changed("secrets", secrets)
    found = mistakes("winterthur", changes, secrets=given)
    assert len(found) == 1
    assert found[0].startswith(f"winterthur: gateway_secrets:{path}: {text}")


def test_no_secret_is_ever_shown():
    given = {"heartbeat": {"key": "hush hush"}, "psk": {"bern": 'hush "'}, "crls": {"ca": "hush"},
             "certificates": {"gateway": {"pkcs12": "hush", "passphrase": ["hush"]}}}
    found = mistakes("winterthur", PSK, secrets=given)
    assert len(found) == 5 and "hush" not in str(found)


def test_secrets_are_asked_for_only_where_they_are_used():
    off = {"features": {"heartbeat": False, "openswan": False}}
    assert mistakes("winterthur", off, secrets={}) == []
    assert len(mistakes("winterthur", {}, secrets={})) == 2
    good = {"certificates": {"gateway": {"certificate": PEM.format("CERTIFICATE"), "key": PEM.format("RSA PRIVATE KEY"),
                                         "chain": [PEM.format("CERTIFICATE")]}},
            "heartbeat": {"key": "k"}, "crls": {"one": PEM.format("X509 CRL"), "two": "MIIB"}}
    assert mistakes("winterthur", {}, secrets=good) == []


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=3) | st.dates()
    | st.builds(pow, st.just(16), st.just(5000))
    | st.sampled_from(["192.0.2.1", "192.0.2.0/26", "2001:db8::1", "10.0.0.9-10.0.0.1", "bond0", "eth0", "500ms"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["eth0", "gw1"]),
        inner, max_size=3),
    max_leaves=8)


def _paths(tree: dict, path: tuple = ()) -> list[tuple]:
    """Every path in a tree."""
    found = []
    for key, value in tree.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += _paths(value, (*path, key))
    return found


@profile(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_yaml_brings_is_a_mistake_and_never_a_crash(data):
    """Any values anywhere in a site: the result is messages, never an exception."""
    site = copy.deepcopy(data.draw(st.sampled_from(list(SITES.values()))))
    for _ in range(data.draw(st.integers(1, 4))):
        *way, last = data.draw(st.sampled_from(_paths(site) or [("site",)]))
        place = site
        for key in way:
            place = place[key]
        place[last] = data.draw(ODD)
    found = GATEWAY.find_mistakes(site, SCHEMA, "gw1", data.draw(ODD), "gw1.winterthur")
    assert all(line.count(": ") >= 2 and line.isprintable() for line in found)
    if not GATEWAY.find_mistakes(site, SCHEMA):
        for node in site["nodes"]:
            GATEWAY.derive(site, SCHEMA, node)


@given(ODD)
def test_a_site_may_be_anything(anything):
    assert GATEWAY.find_mistakes(anything, SCHEMA, "gw1", {}, "gw1.winterthur")


# Settings

def bonds(settings: dict) -> dict[str, dict]:
    return {bond["side"]: bond for bond in settings["bonds"]}


@pytest.mark.parametrize("name, node, peer, preferred, external, internal", [
    ("winterthur", "gw1", "gw2", True,
     ("eth0", "192.0.2.11/26", "192.0.2.12"), ("eth2", "198.51.100.11/26", "198.51.100.12")),
    ("winterthur", "gw2", "gw1", False,
     ("eth1", "192.0.2.12/26", "192.0.2.11"), ("eth2", "198.51.100.12/26", "198.51.100.11")),
    ("bern", "gw-a", "gw-b", True,
     ("enp1s0f0", "192.0.2.75/26", "192.0.2.76"), ("enp2s0f0", "198.51.100.75/26", "198.51.100.76")),
    ("bern", "gw-b", "gw-a", False,
     ("enp1s0f1", "192.0.2.76/26", "192.0.2.75"), ("enp2s0f1", "198.51.100.76/26", "198.51.100.75")),
])
def test_each_node_has_its_own_view(settings, name, node, peer, preferred, external, internal):
    its = settings(name, node)
    assert (its["site"], its["node"], its["peer"], its["preferred"]) == (name, node, peer, preferred)
    for side, expected in (("external", external), ("internal", internal)):
        bond = bonds(its)[side]
        assert (bond["primary"], bond["addresses"][0], bond["peer_addresses"][0]) == expected


@pytest.mark.parametrize("name", SITES)
def test_what_does_not_depend_on_the_node_is_the_same_on_both(settings, name):
    first, second = (settings(name, node) for node in SITES[name]["nodes"])
    for key in set(first) - {"node", "peer", "preferred", "bonds", "heartbeat", "agent", "sessions"}:
        assert first[key] == second[key], key
    assert first.keys() == second.keys()


def test_ipv6(settings):
    its = settings("bern", "gw-b")
    assert bonds(its)["internal"]["addresses"] == ["198.51.100.76/26", "2001:db8:be:1::c/64"]
    assert bonds(its)["external"]["gateways"] == ["192.0.2.65", "2001:db8:be::1"]
    assert [(v["address"], v["prefix"]) for v in its["virtual"] if v["side"] == "external"] == [
        ("192.0.2.74", 32), ("2001:db8:be::a", 128)]
    assert "net.ipv6.conf.all.forwarding" in its["kernel"]["sysctl"]
    assert not any("ipv6" in key for key in settings("winterthur", "gw1")["kernel"]["sysctl"])


def test_a_monitor_is_of_one_kind(settings):
    its = bonds(settings("bern", "gw-a"))
    assert its["external"]["monitor"] == {"miimon": 100, "updelay": 0, "downdelay": 0}
    assert its["internal"]["monitor"] == {
        "arp_interval": 250, "arp_targets": ["198.51.100.66"], "arp_validate": "none"}


def test_connections(settings):
    roadwarrior, bern = settings("winterthur", "gw2")["connections"]
    assert roadwarrior["local"] == {"address": "192.0.2.10", "subnets": ["198.51.100.0/26"],
                                    "id": "gateway.winterthur.example", "certificate": "gateway"}
    assert roadwarrior["pool"] == ["198.51.100.192-198.51.100.223"]
    assert "peer" not in roadwarrior and roadwarrior["initiate"] is False
    assert bern["peer"] == {"address": "192.0.2.74", "id": "gateway.bern.example", "subnets": ["198.51.100.64/26"]}
    assert bern["initiate"] is False
    assert settings("bern", "gw-a")["connections"][1]["initiate"] is True


def derived(site: str, node: str, changes: dict) -> dict:
    tree = changed(site, changes)
    assert GATEWAY.find_mistakes(tree, SCHEMA) == []
    return GATEWAY.derive(tree, SCHEMA, node)


@pytest.mark.parametrize("changes, roadwarrior, bern", [
    ({}, (1500, 0), (1500, 0)),
    # a bond for large packets: what comes from the internet is no larger for it
    ({"bonds/external/mtu": 9000}, (1500, 0), (9000, 0)),
    ({"bonds/external/mtu": 1400}, (1400, 0), (1400, 0)),
    ({"tunnels": {"mtu": 1400}}, (1400, 0), (1400, 0)),
    ({"tunnels": {"mtu": 1400}, "connections/bern/mtu": 1480}, (1400, 0), (1480, 0)),
    ({"tunnels": {"mtu": 1400}, "connections/bern/mss": 1200}, (1400, 0), (1500, 1200)),
    ({"tunnels": {"mss": 1200}, "connections/bern/mtu": 1480}, (1500, 1200), (1480, 0)),
])
def test_what_fits_is_said_by_the_connection_then_by_the_site_then_by_the_bond(changes, roadwarrior, bern):
    assert mistakes("winterthur", changes) == []
    its = {each["name"]: each for each in GATEWAY.derive(changed("winterthur", changes), SCHEMA, "gw1")["connections"]}
    assert [(its[name]["mtu"], its[name]["mss"]) for name in ("roadwarrior", "bern")] == [roadwarrior, bern]


def test_a_connection_takes_the_ip_versions_of_its_far_end():
    its = derived("bern", "gw-a", {"connections/winterthur/peer": {
        "address": "2001:db8:1::1", "id": "a.example", "subnets": ["2001:db8:2::/64"]}})["connections"][1]
    assert (its["local"]["address"], its["local"]["subnets"]) == ("2001:db8:be::a", ["2001:db8:be:1::/64"])
    without_pool = derived("bern", "gw-a", {"connections/roadwarrior/pool": GONE})["connections"][0]
    assert without_pool["local"]["subnets"] == ["198.51.100.64/26"]


def test_two_tunnels_to_one_network_may_each_carry_another_local_one():
    peer = {"address": "203.0.113.1", "id": "a.example", "subnets": ["10.0.0.0/8"]}
    connections = {f"connections/{name}": {"kind": "site-to-site", "peer": peer, "local": {"subnets": [net]}}
                   for name, net in (("one", "198.51.100.0/27"), ("two", "198.51.100.32/27"))}
    assert len(derived("winterthur", "gw1", connections)["connections"]) == 4


def test_heartbeat_paths_are_complete():
    its = derived("winterthur", "gw2", {"heartbeat/paths": [
        {"unicast": "bond1"}, {"broadcast": "bond0"}, {"multicast": "bond0"}, {"serial": "/dev/ttyS0"}]})
    assert its["heartbeat"]["paths"] == [
        {"kind": "unicast", "interface": "bond1", "peer": "198.51.100.11",
         "addresses": ["198.51.100.11", "198.51.100.12"]},
        {"kind": "broadcast", "interface": "bond0"},
        {"kind": "multicast", "interface": "bond0", "group": "239.0.0.43"},
        {"kind": "serial", "device": "/dev/ttyS0", "baud": 19200}]


@pytest.mark.parametrize("heartbeat, times", [
    ({}, ("200ms", "600ms", "1", "1", "30")),
    ({"heartbeat/profile": "fast"}, ("100ms", "200ms", "300ms", "1", "30")),
    ({"heartbeat/profile": "paper"}, ("2", "", "10", "", "120")),
    ({"heartbeat/profile": "paper", "heartbeat/deadtime": 9.5, "heartbeat/warntime": "5s"},
     ("2", "5", "9500ms", "", "120")),
])
def test_timing(heartbeat, times):
    its = derived("winterthur", "gw1", heartbeat)["heartbeat"]
    assert tuple(its[key] for key in ("keepalive", "warntime", "deadtime", "deadping", "initdead")) == times
    assert "profile" not in its


def test_the_profiles_are_consistent():
    for profile_name in SCHEMA["heartbeat"]["keys"]["profile"]["choices"]:
        assert mistakes("winterthur", {"heartbeat/profile": profile_name}) == []


@pytest.mark.parametrize("changes, primaries", [
    ({}, ("eth0", "eth1")),
    ({"nodes/gw2/primary": {"external": "eth0"}}, ("eth1", "eth0")),
    ({"nodes/gw1/primary": {"external": "eth1"}}, ("eth1", "eth0")),
    ({"bonds/external/slaves": {"eth0": "switch-a", "eth3": "switch-a", "eth1": "switch-b"}}, ("eth0", "eth1")),
    ({"bonds/external/slaves": {"eth0": "switch-a"}}, ("eth0", "eth0")),
    ({"bonds/external/mode": "802.3ad"}, ("", "")),
])
def test_primaries_are_on_different_switches(changes, primaries):
    views = [bonds(derived("winterthur", node, changes)) for node in ("gw1", "gw2")]
    assert tuple(view["external"]["primary"] for view in views) == primaries


def test_a_link_of_the_nodes_own():
    changes = {"bonds/heartbeat": {"name": "hb0", "slaves": {"eth3": "cable"}, "networks": "10.255.0.0/30"},
               "nodes/gw1/heartbeat": "10.255.0.1", "nodes/gw2/heartbeat": "10.255.0.2",
               "heartbeat/paths": [{"unicast": "hb0"}], "heartbeat/one_path": True}
    its = derived("winterthur", "gw1", changes)
    assert bonds(its)["heartbeat"]["addresses"] == ["10.255.0.1/30"]
    assert its["heartbeat"]["paths"] == [{"kind": "unicast", "interface": "hb0", "peer": "10.255.0.2",
                                          "addresses": ["10.255.0.1", "10.255.0.2"]}]
    assert [v["side"] for v in its["virtual"]] == ["external", "internal"]


def test_defaults_follow_from_other_keys():
    its = derived("winterthur", "gw1", {"firewall/ssh_from": GONE, "features": {"time": False}})
    assert its["firewall"]["ssh_from"] == ["198.51.100.0/26"]
    assert its["rollback"] == {"seconds": 60, "confirm_with": ["192.0.2.1"]}
    assert "time" not in its["packages"] and its["packages"]["openswan"] == ["libreswan", "libnss3-tools"]


def test_mails_need_a_package():
    assert "bsd-mailx" not in str(derived("winterthur", "gw1", {})["packages"])
    its = derived("winterthur", "gw1", {"heartbeat/profile": "paper", "heartbeat/mail_to": "ops@winterthur.example"})
    assert its["packages"]["heartbeat"] == ["heartbeat", "resource-agents", "bsd-mailx"]


@pytest.mark.parametrize("profile_name, agent", [("default", True), ("fast", True), ("paper", False)])
def test_the_profile_says_who_decides(profile_name, agent):
    its = derived("winterthur", "gw1", {"heartbeat/profile": profile_name})
    assert its["heartbeat"]["agent"] is (its["agent"] is not None) is agent
    assert ("python3" in its["packages"]["heartbeat"]) is agent


def test_what_the_agent_is_told():
    assert derived("bern", "gw-b", {})["agent"] == {
        "node": "gw-b", "peer": "gw-a", "preferred": False,
        "addresses": [{"address": "192.0.2.74", "prefix": 32, "interface": "outside"},
                      {"address": "2001:db8:be::a", "prefix": 128, "interface": "outside"},
                      {"address": "198.51.100.74", "prefix": 32, "interface": "inside"},
                      {"address": "2001:db8:be:1::a", "prefix": 128, "interface": "inside"}],
        "uplinks": ["outside"], "ping_nodes": ["192.0.2.65", "198.51.100.66"],
        "failback": "manual", "failback_delay": 300, "deadtime": 1.0, "deadping": 1.0,
        "fence": None, "compare": False}
    its = derived("winterthur", "gw1", {
        "heartbeat/profile": "fast", "heartbeat/auto_failback": True, "heartbeat/failback_delay": 60,
        "heartbeat/fence": {"command": "/usr/local/sbin/fence", "timeout": 20}})["agent"]
    assert its["preferred"] and its["deadtime"] == 0.3
    assert (its["failback"], its["failback_delay"]) == ("auto", 60)
    assert its["fence"] == {"command": ["/usr/local/sbin/fence", "gw2"], "timeout": 20}


def test_a_mapping_is_laid_over_its_default_and_a_list_replaces_it():
    its = derived("winterthur", "gw1", {"kernel/sysctl": {"net.ipv4.conf.all.rp_filter": 0, "vm.swappiness": True},
                                        "kernel/modules": "bonding", "sshd/permit_root_login": False})
    assert its["kernel"]["sysctl"]["net.ipv4.conf.all.rp_filter"] == 0
    assert its["kernel"]["sysctl"]["vm.swappiness"] == 1
    assert its["kernel"]["sysctl"]["net.ipv4.ip_forward"] == 1
    assert its["kernel"]["modules"] == ["bonding"]
    assert its["sshd"]["permit_root_login"] == "no"


def test_derive_leaves_its_input_alone():
    site, schema = copy.deepcopy(SITES["bern"]), copy.deepcopy(SCHEMA)
    first = GATEWAY.derive(site, schema, "gw-a")
    first["kernel"]["sysctl"].clear()
    first["packages"]["openswan"].clear()
    first["bonds"][0]["networks"].clear()
    assert (site, schema) == (SITES["bern"], SCHEMA)
    assert GATEWAY.derive(site, schema, "gw-a")["kernel"]["sysctl"]


# On a minion

@pytest.fixture
def minion(monkeypatch):
    """The module on winterthur's gw1."""
    module = load_module("_modules/gateway.py")
    for name, value in {
        "__pillar__": {"gateway": copy.deepcopy(SITES["winterthur"]), "gateway_schema": SCHEMA,
                       "gateway_secrets": SECRETS},
        "__grains__": {"nodename": "gw1"}, "__opts__": {"id": "gw1.winterthur"}, "__context__": {},
    }.items():
        monkeypatch.setattr(module, name, value, raising=False)
    return module


def test_settings_on_a_node(minion, settings):
    assert minion.mistakes() == []
    assert minion.settings() == settings("winterthur", "gw1")
    for secret in (SECRETS["heartbeat"]["key"], SECRETS["psk"]["bern"]):
        assert secret not in str(minion.settings())


def test_settings_are_derived_once_and_nobody_can_spoil_them(minion, monkeypatch):
    minion.settings()["bonds"].clear()
    monkeypatch.setattr(minion, "derive", None)
    assert minion.settings()["bonds"]


def test_new_pillar_means_new_settings(minion):
    minion.settings()
    minion.__pillar__["gateway"]["bonds"]["external"]["virtual"] = "192.0.2.20"
    assert minion.settings()["virtual"][0]["address"] == "192.0.2.20"


def test_an_invalid_site_is_an_error_with_every_mistake(minion):
    minion.__pillar__["gateway"]["ping_nodes"] = "192.0.2.12"
    minion.__pillar__["gateway_secrets"] = {}
    with pytest.raises(CommandExecutionError) as error:
        minion.settings()
    lines = str(error.value).splitlines()
    assert lines == minion.mistakes() and len(lines) == 5


def test_a_minion_without_a_site_is_told_so(minion, monkeypatch):
    monkeypatch.setattr(minion, "__pillar__", {})
    monkeypatch.setattr(minion, "__opts__", {"id": "laptop"})
    assert len(minion.mistakes()) == 1 and "laptop: no pillar `gateway`" in minion.mistakes()[0]
    with pytest.raises(CommandExecutionError, match="NODE.SITE"):
        minion.settings()


# The schema

def rules(keys: dict, path: str = "gateway"):
    """Every rule of the schema with its path."""
    for key, rule in keys.items():
        yield f"{path}:{key}", rule
        for inner in (rule, rule.get("of")):
            if isinstance(inner, dict) and "keys" in inner:
                yield from rules(inner["keys"], f"{path}:{key}")


@pytest.mark.parametrize("path, rule", [pytest.param(path, rule, id=path) for path, rule in rules(SCHEMA)])
def test_every_key_is_described_and_its_default_fits(path, rule):
    assert rule["about"][0].isupper() or rule["about"].split(":")[0].split(",")[0].islower()
    assert rule["about"].endswith(".") and "\n" not in rule["about"]
    assert set(rule) <= {"type", "of", "names", "keys", "required", "default", "derived", "optional", "about",
                         "counterpart", "choices", "min", "max", "unit"}
    assert "keys" in rule or rule["type"] in {*GATEWAY.TYPES, "list", "mapping"}
    if "default" in rule:
        found = []
        filled = GATEWAY._fill(rule["default"], rule, path, found)
        assert found == [] and filled == rule["default"]
