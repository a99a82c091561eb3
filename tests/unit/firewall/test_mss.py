"""The MSS that each end is told through a node, on a real kernel."""
from __future__ import annotations

import re

import pytest

from tests.unit.firewall import hosts
from tests.unit.firewall.hosts import FAR, FAR6, NEAR, NEAR6, NODE

pytestmark = pytest.mark.skipif(not hosts.possible(), reason="no namespaces with interfaces and a packet filter here")

# Connects once for each case and says what the SYN and its answer carried when they arrived. RFC 9293, 3.1 and 3.2.
TOLD = r"""
def mss(frame):
    "The MSS option of a SYN in an Ethernet frame, 0 without one; None in any other packet."
    start = 14 + (40 if frame[12:14] == b"\x86\xdd" else (frame[14] & 15) * 4)
    if frame[20 if start == 54 else 23] != 6 or not frame[start + 13] & 2:
        return None
    options = frame[start + 20:start + (frame[start + 12] >> 4) * 4]
    while options:
        if options[0] == 2:
            return struct.unpack("!H", options[2:4])[0]
        options = options[1:] if options[0] == 1 else options[options[1]:]
    return 0

def arrived(seen):
    seen.settimeout(3)
    while True:
        frame, sender = seen.recvfrom(4096)
        if sender[2] != 4 and mss(frame) is not None:        # not what this host sent itself
            return mss(frame)

def told(caller, called, address, ours, theirs):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    there, back = (watch(place, "tunnel" if place == "node" else "eth0") for place in (called, caller))
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

print(json.dumps([told(*case) for case in asked]))
"""

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


@pytest.fixture(scope="module")
def rules() -> str:
    """bern's, with IPv6 to its peer, and SSH for its roadwarriors."""
    return hosts.ruleset({"winterthur": {"peer": {"address": "192.0.2.10", "id": "gateway.winterthur.example",
                                                  "subnets": "2001:db8:f::/64"}}}, ["198.51.100.224/28"])


def test_each_end_is_told_what_fits_and_never_more_than_the_other_said(rules, tmp_path):
    told = hosts.run(tmp_path, rules, TOLD, [list(case) for case in CASES])
    assert dict(zip(CASES, told, strict=True)) == CASES


def test_a_larger_number_in_the_ruleset_raises_nothing(rules, tmp_path):
    """Also: that the test above sees what the ruleset does, and nothing else does it."""
    text = re.sub(r"set \d+$", "set 9000", rules, flags=re.M)
    assert hosts.run(tmp_path, text, TOLD, [["far", "near", NEAR, 1460, 1460]]) == [[1460, 1460]]
