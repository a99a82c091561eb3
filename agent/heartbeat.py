"""heartbeat's client library, libhbclient, through ctypes.

The order of the functions in struct llc_ops and what they do: heartbeat/hb_api.h, ha_msg.h (package libheartbeat2-dev,
3.0.6).
"""
from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any

from agent.decide import Event, Peer, PeerAgent, Ping, Received

CLIENT_NAME = "gateway-agent"  # as in apiauth in ha.cf
MESSAGE_TYPE = "gwagent"  # of the messages between the agents
JSON_FIELD = "json"  # of such a message: its content
MAX_MESSAGE_BYTES = 4096  # of that content; more is not read
API_OK = 1  # HA_OK in ha_msg.h

P, S, I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int  # noqa: E741  # pointer, string, int as in C
MESSAGE = ctypes.CFUNCTYPE(None, P, P)
NODE = ctypes.CFUNCTYPE(None, S, S, P)
LINK = ctypes.CFUNCTYPE(None, S, S, S, P)
# Each function: its position in struct llc_ops, its result, its arguments after the handle
OPS: dict[str, tuple[int, Any, tuple[Any, ...]]] = {
    "signon": (0, I, (S,)), "signoff": (1, I, (I,)), "delete": (2, I, ()),
    "set_msg_callback": (3, I, (S, MESSAGE, P)), "set_nstatus_callback": (4, I, (NODE, P)),
    "set_ifstatus_callback": (5, I, (LINK, P)), "set_cstatus_callback": (6, I, (LINK, P)),
    "node_status": (10, S, (S,)), "init_ifwalk": (15, I, (S,)), "nextif": (16, S, ()), "end_ifwalk": (17, I, ()),
    "if_status": (18, S, (S, S)), "client_status": (19, S, (S, S, I)),
    "sendnodemsg": (23, I, (P, S)), "inputfd": (27, I, ()), "msgready": (29, I, ()), "rcvmsg": (31, I, (I,)),
    "chan_is_connected": (40, I, ()), "errmsg": (43, S, ()),
}


class Gone(Exception):
    """heartbeat does not answer on this node. The text says at which step."""


class Cluster(ctypes.Structure):
    """struct ll_cluster"""
    _fields_ = [("private", P), ("ops", ctypes.POINTER(P))]


class Heartbeat:
    """A signed-on client of heartbeat. read() returns what heartbeat reports, as events of decide.py."""

    def __init__(self, node: str, peer: str, ping_nodes: tuple[str, ...]) -> None:
        """Signs on. Waits for heartbeat's answers, a keepalive each or for long (agent/signon.py). Raises Gone."""
        self.node, self.peer, self.ping_nodes = node, peer, ping_nodes
        self.events: list[Event] = []
        self.links: dict[str, str] = {}
        self.echoes = 0
        self.client = ctypes.CDLL("libhbclient.so.1")
        self.plumb = ctypes.CDLL("libplumb.so.2")
        self.client.ll_cluster_new.restype = ctypes.POINTER(Cluster)
        self.plumb.ha_msg_new.restype = P
        self.plumb.ha_msg_add.argtypes = [P, S, S]
        self.plumb.ha_msg_del.argtypes = [P]
        self.plumb.ha_msg_del.restype = None
        self.plumb.cl_get_string.argtypes = [P, S]
        self.plumb.cl_get_string.restype = S
        self.cluster = self.client.ll_cluster_new(b"heartbeat")
        if not self.cluster:
            raise Gone("libhbclient does not start")
        self.functions = {
            name: ctypes.CFUNCTYPE(result, P, *arguments)(self.cluster.contents.ops[position])
            for name, (position, result, arguments) in OPS.items()}
        try:
            self.sign_on()
        except Gone:
            self.close()
            raise

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of OPS with its arguments as ctypes takes them."""
        return self.functions[name](ctypes.cast(self.cluster, P), *arguments)

    def sign_on(self) -> None:
        """Signs on, sets the callbacks, and asks for the present state of peer, ping nodes and links. Raises Gone."""
        if self.call("signon", CLIENT_NAME.encode()) != API_OK:
            raise Gone("sign-on refused, or heartbeat does not run")
        # The reference keeps them alive for as long as the library may call them.
        self.callbacks = (MESSAGE(self.on_message), NODE(self.on_node), LINK(self.on_link), LINK(self.on_client))
        message, node, link, client = self.callbacks
        for name, callback in (("set_nstatus_callback", node), ("set_ifstatus_callback", link),
                               ("set_cstatus_callback", client)):
            if self.call(name, callback, None) != API_OK:
                raise Gone(name)
        if self.call("set_msg_callback", MESSAGE_TYPE.encode(), message, None) != API_OK:
            raise Gone("set_msg_callback")
        for name in (self.peer, *self.ping_nodes):
            status = self.call("node_status", name.encode())
            if status is None:
                raise Gone(f"heartbeat does not know {name}: is ha.cf older or newer than agent.json?")
            self.on_node(name.encode(), status, None)
        if self.call("init_ifwalk", self.peer.encode()) == API_OK:
            names = []
            while name := self.call("nextif"):
                names.append(name)
            self.call("end_ifwalk")
            for name in names:
                self.on_link(self.peer.encode(), name, self.call("if_status", self.peer.encode(), name) or b"", None)
        # The answer comes to on_client() (a timeout below zero: do not wait).
        self.call("client_status", self.peer.encode(), CLIENT_NAME.encode(), -1)

    # Called by the library. An exception in here would be lost.

    def on_message(self, message: int, _data: object) -> None:
        sender = (self.plumb.cl_get_string(message, b"src") or b"").decode("ascii", "replace").lower()
        text = self.plumb.cl_get_string(message, JSON_FIELD.encode()) or b""
        if sender == self.node:
            self.echoes += 1
        elif sender == self.peer:
            try:
                self.events.append(Received(json.loads(text) if len(text) <= MAX_MESSAGE_BYTES else None))
            except (ValueError, RecursionError):
                self.events.append(Received(None))

    def on_node(self, node: bytes, status: bytes, _data: object) -> None:
        name, word = node.decode("ascii", "replace").lower(), status.decode("ascii", "replace")
        if name == self.peer:
            self.events.append(Peer(word))
        elif name in self.ping_nodes:
            self.events.append(Ping(name, word == "ping"))

    def on_link(self, node: bytes, link: bytes, status: bytes, _data: object) -> None:
        if node.decode("ascii", "replace").lower() == self.peer:
            self.links[link.decode("ascii", "replace")] = "up" if status == b"up" else "dead"

    def on_client(self, node: bytes, client: bytes, status: bytes, _data: object) -> None:
        if node.decode("ascii", "replace").lower() == self.peer and client == CLIENT_NAME.encode():
            self.events.append(PeerAgent(status in (b"online", b"join")))

    # Called by the agent

    def fileno(self) -> int:
        """The descriptor to poll. The library may hold further messages that poll() does not see."""
        return int(self.call("inputfd"))

    def read(self) -> list[Event]:
        """All events that have arrived, without waiting. Raises Gone when the connection has ended."""
        while self.call("msgready"):
            if self.call("rcvmsg", 0) != 1 and not self.call("chan_is_connected"):
                raise Gone("the connection has ended")
        if not self.call("chan_is_connected"):
            raise Gone("the connection has ended")
        events, self.events = self.events, []
        return events

    def send(self, message: Mapping[str, object], node: str = "") -> None:
        """Sends a message to the peer's agent, or to the agent on `node`. Raises Gone."""
        text = json.dumps(message).encode()
        new = self.plumb.ha_msg_new(4)
        try:
            self.plumb.ha_msg_add(new, b"t", MESSAGE_TYPE.encode())
            self.plumb.ha_msg_add(new, JSON_FIELD.encode(), text)
            if self.call("sendnodemsg", new, (node or self.peer).encode()) != API_OK:
                raise Gone("it takes no message")
        finally:
            self.plumb.ha_msg_del(new)

    def close(self) -> None:
        """Signs off, if that is still possible."""
        if self.cluster:
            self.call("delete")
            self.cluster = None
