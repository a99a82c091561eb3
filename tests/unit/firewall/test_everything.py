"""A peer that sends everything through its tunnel: what leaves outside, and what comes back. On a real kernel."""
from __future__ import annotations

import pytest

from tests.unit.firewall import hosts
from tests.unit.firewall.hosts import FAR, VIRTUAL, VIRTUAL6, WEB, WEB6

pytestmark = pytest.mark.skipif(not hosts.possible(), reason="no namespaces with interfaces and a packet filter here")

BEHIND_ANOTHER_TUNNEL = "10.99.0.1"
PROGRAM = r"""
def made(address, kind, protocol=0):
    its = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, protocol)
    its.settimeout(3)
    return its

def connected(web):
    "A connection from far to a server: its two ends, and who that is for the server."
    at("web")
    server = made(web, socket.SOCK_STREAM)
    server.bind((web, 80))
    server.listen()
    at("far")
    client = made(web, socket.SOCK_STREAM)
    client.connect((web, 80))
    return client, *server.accept()

def download(web):
    "The address and port that a server sees, and how much of what it sends arrives."
    client, accepted, peer = connected(web)
    threading.Thread(target=lambda: (accepted.sendall(bytes(300000)), accepted.close())).start()
    came = 0
    while data := client.recv(65536):
        came += len(data)
    return peer[0], peer[1] >= 10000, came

def from_the_port_of_ike(web):
    at("web")
    server = made(web, socket.SOCK_DGRAM)
    server.bind((web, 4500))
    at("far")
    client = made(web, socket.SOCK_DGRAM)
    client.bind(("", 4500))
    client.sendto(b"question", (web, 4500))
    _, peer = server.recvfrom(100)
    server.sendto(b"answer", peer)
    return peer[0], peer[1] >= 10000, client.recvfrom(100)[0].decode()

def refused(web):
    "Whether the ICMP error of a closed port comes back."
    at("far")
    client = made(web, socket.SOCK_DGRAM)
    client.connect((web, 9))
    client.send(b"x")
    try:
        client.recv(100)
    except ConnectionRefusedError:
        return True

def ping(web):
    "The address under which the web is asked."
    seen = watch("web")
    at("far")
    six = ":" in web
    client = made(web, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
    # RFC 792, 4443: the kernel makes ICMPv6's checksum only
    kind, checksum = (128, 0) if six else (8, 0xffff - 0x0800 - 0x1234)
    client.sendto(struct.pack("!BBHHH", kind, 0, checksum, 0x1234, 0), (web, 0))
    while (client.recv(1000) if six else client.recv(1000)[20:])[0] != (129 if six else 0):
        pass
    while True:
        frame = seen.recv(1000)
        source, its = (frame[22:38], frame[54:]) if six else (frame[26:30], frame[34:])
        if len(frame) > 34 and its[:1] == bytes([kind]):
            return socket.inet_ntop(client.family, source)

def forgotten(web):
    "What a connection gets through after the node has forgotten all of them, as one that has taken over."
    client, accepted, _ = connected(web)
    accepted.settimeout(3)
    at("node")
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)     # NETLINK_NETFILTER
    # IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK, with NLM_F_REQUEST and NLM_F_ACK, without an attribute: all
    netlink.send(struct.pack("=IHHIIBBH", 20, 0x0102, 5, 1, 0, 0, 0, 0))
    assert netlink.recv(100)[16:20] == bytes(4)
    accepted.sendall(b"from the server")
    client.settimeout(0.5)
    try:
        first = client.recv(100).decode()
    except TimeoutError:
        first = ""
    client.settimeout(10)
    client.sendall(b"from the client")
    return first, accepted.recv(100).decode(), client.recv(100).decode()

def never(web, far, elsewhere):
    "What must not arrive: at the web in clear text, and at the far end without having been asked for."
    at_web, at_far = watch("web"), watch("far")
    at("far")
    made(web, socket.SOCK_RAW, 50).sendto(b"for the daemon", (web, 0))               # ESP
    # TCP with a wrong checksum
    segment = struct.pack("!HHIIHHHH", 7777, 80, 1, 1, 0x5010, 99, 1, 0) + b"invalid"
    made(web, socket.SOCK_RAW, 6).sendto(segment, (web, 0))
    made(web, socket.SOCK_DGRAM).sendto(b"for another tunnel", (elsewhere, 7777))
    at("web")
    made(web, socket.SOCK_DGRAM).sendto(b"not asked for", (far, 7777))
    time.sleep(0.3)
    found = set()
    for seen, words in ((at_web, ("for the daemon", "for another tunnel", "invalid")), (at_far, ("not asked for",))):
        seen.setblocking(False)
        try:
            while frame := seen.recv(4096):
                found |= {word for word in words if word.encode() in frame}
        except BlockingIOError:
            pass
    return sorted(found)

print(json.dumps({name: globals()[name](*words) for name, words in asked}))
"""


@pytest.fixture(scope="module")
def rules() -> str:
    """bern's: its roadwarriors send everything, its peer all IPv6, and there is a peer of another kind."""
    return hosts.ruleset({
        "roadwarrior": {"local": {"subnets": "0.0.0.0/0"}},
        "winterthur": {"local": {"subnets": "::/0"}, "peer": {
            "address": "192.0.2.10", "id": "gateway.winterthur.example", "subnets": "2001:db8:f::/64"}},
        "basel": {"kind": "site-to-site", "peer": {
            "address": "192.0.2.200", "id": "gateway.basel.example", "subnets": "10.99.0.0/16"}},
    }, [])


@pytest.mark.parametrize(("web", "virtual"), [(WEB, VIRTUAL), (WEB6, VIRTUAL6)])
def test_it_reaches_the_internet_under_the_virtual_address(rules, tmp_path, web, virtual):
    asked = ["download", "from_the_port_of_ike", "refused", "ping"]
    assert hosts.run(tmp_path, rules, PROGRAM, [[name, [web]] for name in asked]) == {
        "download": [virtual, True, 300000], "from_the_port_of_ike": [virtual, True, "answer"], "refused": True,
        "ping": virtual}


def test_a_node_that_takes_over_lets_a_connection_go_on_when_the_client_sends_something(rules, tmp_path):
    assert hosts.run(tmp_path, rules, PROGRAM, [["forgotten", [WEB]]]) == {
        "forgotten": ["", "from the client", "from the server"]}


def test_nothing_else_leaves_in_clear_text_and_nothing_comes_unasked(rules, tmp_path):
    assert hosts.run(tmp_path, rules, PROGRAM, [["never", [WEB, FAR, BEHIND_ANOTHER_TUNNEL]]]) == {"never": []}


def test_the_test_above_sees_what_is_let_through(rules, tmp_path):
    text = rules.replace("policy drop", "policy accept").replace(" drop\n", " accept\n").replace("        drop", "")
    seen = hosts.run(tmp_path, text, PROGRAM, [["never", [WEB, FAR, BEHIND_ANOTHER_TUNNEL]]])["never"]
    assert seen == ["for another tunnel", "for the daemon", "invalid", "not asked for"]
