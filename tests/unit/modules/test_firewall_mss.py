"""
The MSS that each end is told through a node, on a real kernel: three hosts in namespaces, and the node's whole ruleset.

An interface stands for the tunnel, as not every kernel that runs this has ESP: `meta ipsec` and `rt ipsec` become its
name, all else is the ruleset. With real tunnels: tests/lab/test_large_packets.py.
"""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import yaml

from tests.conftest import TREE, load_module

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
PROBE = "nft 'table inet probe { }' && ip link add outer type veth peer name far"
pytestmark = pytest.mark.skipif(
    not (shutil.which("ip") and shutil.which("nft"))
    or subprocess.run([*UNSHARE, "sh", "-c", PROBE], capture_output=True, check=False, timeout=20).returncode != 0,
    reason="no user namespaces with interfaces and a packet filter here")

FAR, NEAR, NODE = "198.51.100.225", "198.51.100.66", "198.51.100.75"
FAR6, NEAR6 = "2001:db8:f::225", "2001:db8:be:1::66"

# far --- tunnel [node] inside --- near
SETUP = f"""
set -e
unshare --net sleep 60 & far=$!
unshare --net sleep 60 & near=$!
while [ "$(readlink /proc/$far/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
while [ "$(readlink /proc/$near/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link set lo up
ip link add tunnel address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns $far
ip link add inside address 02:00:00:00:00:03 type veth peer name eth0 address 02:00:00:00:00:04 netns $near
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip link set tunnel up; ip link set inside up
ip address add {NODE}/26 dev inside; ip -6 address add 2001:db8:be:1::b/64 dev inside nodad
ip address add 192.0.2.74/32 dev tunnel
# Neighbours are not asked for in a tunnel, and the ruleset lets nobody ask there.
ip route add 198.51.100.224/27 dev tunnel; ip -6 route add 2001:db8:f::/64 dev tunnel
ip neigh add {FAR} lladdr 02:00:00:00:00:02 dev tunnel; ip neigh add {FAR6} lladdr 02:00:00:00:00:02 dev tunnel
in_far() {{ nsenter -t $far -n "$@"; }}
in_near() {{ nsenter -t $near -n "$@"; }}
in_far ip link set eth0 up; in_near ip link set eth0 up
in_far ip address add {FAR}/32 dev eth0; in_far ip -6 address add {FAR6}/128 dev eth0 nodad
in_far ip neigh add 192.0.2.74 lladdr 02:00:00:00:00:01 dev eth0
in_far ip neigh add fe80::1 lladdr 02:00:00:00:00:01 dev eth0
in_far ip route add default via 192.0.2.74 dev eth0 onlink; in_far ip -6 route add default via fe80::1 dev eth0
in_near ip address add {NEAR}/26 dev eth0; in_near ip -6 address add {NEAR6}/64 dev eth0 nodad
in_near ip route add default via {NODE}; in_near ip -6 route add default via 2001:db8:be:1::b
nft -f "$1"
"""

# Connects once for each case and says what the SYN and its answer carried when they arrived. RFC 9293, 3.1 and 3.2.
TRY = r"""
import ctypes, json, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
places = {"node": os.open("/proc/self/ns/net", os.O_RDONLY)}
places |= {name: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for name, pid in zip(("far", "near"), sys.argv[1:3])}

def at(place):
    assert libc.setns(places[place], 0) == 0, os.strerror(ctypes.get_errno())

def mss(frame):
    "The MSS option of a SYN in an Ethernet frame; None in any other packet."
    start = 14 + (40 if frame[12:14] == b"\x86\xdd" else (frame[14] & 15) * 4)
    if frame[20 if start == 54 else 23] != 6 or not frame[start + 13] & 2:
        return None
    options = frame[start + 20:start + (frame[start + 12] >> 4) * 4]
    while options:
        if options[0] == 2:
            return struct.unpack("!H", options[2:4])[0]
        options = options[1:] if options[0] == 1 else options[options[1]:]
    return 0

def watch(place, interface):
    at(place)
    seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    seen.bind((interface, 0))
    seen.settimeout(3)
    return seen

def arrived(seen):
    while True:
        frame, sender = seen.recvfrom(4096)
        if sender[2] != 4 and mss(frame) is not None:        # not what this host sent itself
            return mss(frame)

def told(caller, called, address, ours, theirs):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    nic = lambda place: "eth0" if place != "node" else "tunnel"
    there, back = watch(called, nic(called)), watch(caller, nic(caller))
    at(called)
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, theirs)
    server.bind((address, 22))
    server.listen()
    at(caller)
    client = socket.socket(family)
    client.settimeout(3)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, ours)
    client.connect((address, 22))        # fails with a wrong checksum
    found = [arrived(there), arrived(back)]
    if called == "node":                 # what arrives at an interface is not yet changed by the chain input:
        accepted = server.accept()[0]    # the largest segment that it sends now, less 12 for the timestamps
        found[0] = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) + 12
    for each in (server, client, there, back):
        each.close()
    return found

print(json.dumps([told(*case) for case in json.loads(sys.argv[3])]))
"""


@pytest.fixture(scope="module")
def rendered(gateway, schema):
    """The ruleset of a node, whose tunnels are the interface `tunnel`."""
    site = load_site(gateway, schema)
    firewall = load_module("_modules/firewall.py")
    firewall.__salt__ = {"ipsec.esp_proposals": load_module("_modules/ipsec.py").esp_proposals,
                         "tunnel_sizes.segment": load_module("_modules/tunnel_sizes.py").segment}
    template = jinja2.Template((TREE / "salt/firewall/files/ruleset.nft.jinja").read_text())
    text = template.render(rules=firewall.rules(gateway.derive(site, schema, "gw-a")))
    for old, new in {"meta ipsec exists": 'iifname "tunnel"', "meta ipsec missing": 'iifname != "tunnel"',
                     "rt ipsec exists": 'oifname "tunnel"'}.items():
        assert old in text
        text = text.replace(old, new)
    return text


def load_site(gateway, schema) -> dict:
    """bern, with SSH for its roadwarriors, and IPv6 to its peer."""
    site = yaml.safe_load((TREE / "examples/sites/bern.sls").read_text())["gateway"]
    site["connections"]["winterthur"]["peer"]["subnets"] = "2001:db8:f::/64"
    site["firewall"]["ssh_from"] = [*site["firewall"]["ssh_from"], "198.51.100.224/28"]
    assert gateway.find_mistakes(site, schema) == []
    return site


def told(text: str, cases: list[tuple], tmp_path: Path) -> list[list[int]]:
    """For each case (who calls, who is called, at which address, the MSS that each of them says): what arrives."""
    (tmp_path / "rules").write_text(text)
    (tmp_path / "try.py").write_text(TRY)
    script = f'{SETUP}\nexec {sys.executable} -I "$2" $far $near "$3"\n'
    done = subprocess.run([*UNSHARE, "sh", "-c", script, "sh", tmp_path / "rules", tmp_path / "try.py",
                           json.dumps(cases)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CASES = {
    # who calls, who is called, at which address, the MSS that each of them says: the MSS that each is told
    ("far", "near", NEAR, 1460, 1460): [1398, 1398],
    ("near", "far", FAR, 1460, 1460): [1398, 1398],
    ("far", "near", NEAR, 1200, 1460): [1200, 1398],
    ("far", "near", NEAR, 1460, 1200): [1398, 1200],
    ("near", "far", FAR, 1397, 1399): [1397, 1398],
    ("far", "near", NEAR6, 1440, 1440): [1378, 1378],
    ("near", "far", FAR6, 1440, 1100): [1378, 1100],
    ("far", "node", NODE, 1460, 1460): [1398, 1398],
    ("far", "node", NODE, 1300, 1000): [1000, 1000],     # its own is smaller, and nothing raises it
}


def test_each_end_is_told_what_fits_and_never_more_than_the_other_said(rendered, tmp_path):
    assert dict(zip(CASES, told(rendered, [list(case) for case in CASES], tmp_path), strict=True)) == CASES


def test_a_larger_number_in_the_ruleset_raises_nothing(rendered, tmp_path):
    """Also: that the test above sees what the ruleset does, and nothing else does it."""
    text = re.sub(r"set \d+$", "set 9000", rendered, flags=re.M)
    assert told(text, [["far", "near", NEAR, 1460, 1460]], tmp_path) == [[1460, 1460]]
