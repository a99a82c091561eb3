"""
A node's whole ruleset on a real kernel: four hosts in namespaces, the node in their middle.

    far --- tunnel [node] inside --- near
                 outside
                    |
                   web

An interface stands for the tunnel, as not every kernel that runs this has ESP: `meta ipsec` and `rt ipsec` become its
name, all else is the ruleset. With real tunnels: tests/lab.
"""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import yaml

from tests.conftest import TREE, load_module

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
_PROBE = "nft 'table inet probe { }' && ip link add outer type veth peer name far"
FAR, NEAR, NODE, VIRTUAL, WEB = "198.51.100.225", "198.51.100.66", "198.51.100.75", "192.0.2.74", "203.0.113.80"
FAR6, NEAR6, VIRTUAL6, WEB6 = "2001:db8:f::225", "2001:db8:be:1::66", "2001:db8:be::a", "2001:db8:99::80"

SETUP = f"""
set -e
start() {{
    unshare --net sleep 60 & started=$!
    while [ "$(readlink /proc/$started/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
}}
start; far=$started; start; near=$started; start; web=$started
in_far() {{ nsenter -t $far -n "$@"; }}
in_near() {{ nsenter -t $near -n "$@"; }}
in_web() {{ nsenter -t $web -n "$@"; }}
# Nobody waits for duplicates of its link-local address.
for each in "" in_far in_near in_web; do $each sysctl -qw net.ipv6.conf.default.accept_dad=0; done
ip link set lo up
ip link add tunnel address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns $far
ip link add inside type veth peer name eth0 netns $near
ip link add outside type veth peer name eth0 netns $web
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
for each in tunnel inside outside; do ip link set $each up; done
ip address add {NODE}/26 dev inside; ip -6 address add 2001:db8:be:1::b/64 dev inside nodad
ip address add 192.0.2.75/26 dev outside; ip -6 address add 2001:db8:be::b/64 dev outside nodad
ip address add {VIRTUAL}/32 dev outside; ip -6 address add {VIRTUAL6}/128 dev outside nodad
ip route add default via 192.0.2.65; ip -6 route add default via 2001:db8:be::1
# Neighbours are not asked for in a tunnel, and the ruleset lets nobody ask there.
ip route add 198.51.100.224/27 dev tunnel; ip -6 route add 2001:db8:f::/64 dev tunnel
ip neigh add {FAR} lladdr 02:00:00:00:00:02 dev tunnel; ip neigh add {FAR6} lladdr 02:00:00:00:00:02 dev tunnel
in_far ip link set eth0 up
in_far ip address add {FAR}/32 dev eth0; in_far ip -6 address add {FAR6}/128 dev eth0 nodad
in_far ip neigh add {VIRTUAL} lladdr 02:00:00:00:00:01 dev eth0
in_far ip neigh add fe80::1 lladdr 02:00:00:00:00:01 dev eth0
in_far ip route add default via {VIRTUAL} dev eth0 onlink; in_far ip -6 route add default via fe80::1 dev eth0
in_near ip link set eth0 up
in_near ip address add {NEAR}/26 dev eth0; in_near ip -6 address add {NEAR6}/64 dev eth0 nodad
in_near ip route add default via {NODE}; in_near ip -6 route add default via 2001:db8:be:1::b
in_web ip link set lo up; in_web ip link set eth0 up
in_web ip address add 192.0.2.65/26 dev eth0; in_web ip -6 address add 2001:db8:be::1/64 dev eth0 nodad
in_web ip address add {WEB}/32 dev lo; in_web ip -6 address add {WEB6}/128 dev lo nodad
# It could send to the tunnel directly, too.
in_web ip route add 198.51.100.224/27 via 192.0.2.75; in_web ip -6 route add 2001:db8:f::/64 via 2001:db8:be::b
nft -f "$1"
"""

# The beginning of a program that runs in these hosts: at("far") and so on moves it to one of them.
_PLACES = r"""
import ctypes, json, os, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
places = {"node": os.open("/proc/self/ns/net", os.O_RDONLY)}
for name, pid in zip(("far", "near", "web"), sys.argv[1:4]):
    places[name] = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)

def at(place):
    assert libc.setns(places[place], 0) == 0, os.strerror(ctypes.get_errno())

def watch(place, interface="eth0"):
    "A socket that sees every Ethernet frame of an interface."
    at(place)
    seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    seen.bind((interface, 0))
    return seen

asked = json.loads(sys.argv[4])
"""


def possible() -> bool:
    """Whether this kernel and this machine have what it takes."""
    return bool(shutil.which("ip") and shutil.which("nft")) and subprocess.run(
        [*UNSHARE, "sh", "-c", _PROBE], capture_output=True, check=False, timeout=20).returncode == 0


def ruleset(changes: dict[str, Any], ssh_from: list[str]) -> str:
    """
    The ruleset of bern's first node, its tunnels the interface `tunnel`.

    `changes`: by connection, the keys that replace its own, or a new one's. `ssh_from`: networks with SSH besides.
    """
    gateway, firewall = load_module("_modules/gateway.py"), load_module("_modules/firewall.py")
    firewall.__salt__ = {"ipsec.esp_proposals": load_module("_modules/ipsec.py").esp_proposals,
                         "tunnel_sizes.segment": load_module("_modules/tunnel_sizes.py").segment}
    schema = yaml.safe_load((TREE / "pillar/schema.sls").read_text())["gateway_schema"]
    site = yaml.safe_load((TREE / "examples/sites/bern.sls").read_text())["gateway"]
    for name, keys in changes.items():
        site["connections"].setdefault(name, {}).update(keys)
    site["firewall"]["ssh_from"] += ssh_from
    assert gateway.find_mistakes(site, schema) == []
    template = jinja2.Template((TREE / "salt/firewall/files/ruleset.nft.jinja").read_text())
    text = template.render(rules=firewall.rules(gateway.derive(site, schema, "gw-a")))
    for old, new in {"meta ipsec exists": 'iifname "tunnel"', "meta ipsec missing": 'iifname != "tunnel"',
                     "rt ipsec exists": 'oifname "tunnel"', "rt ipsec missing": 'oifname != "tunnel"'}.items():
        assert old in text or old == "rt ipsec missing"
        text = text.replace(old, new)
    return text


def run(folder: Path, rules: str, program: str, asked: object) -> Any:
    """What a program prints, as JSON, that runs in the hosts with these rules on the node. `asked`: its argument."""
    (folder / "rules").write_text(rules)
    (folder / "program.py").write_text(_PLACES + program)
    script = f'{SETUP}\nexec {sys.executable} -I "$2" $far $near $web "$3"\n'
    done = subprocess.run([*UNSHARE, "sh", "-c", script, "sh", folder / "rules", folder / "program.py",
                           json.dumps(asked)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
