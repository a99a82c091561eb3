"""The connection between the two nodes: TLS 1.3 over one of heartbeat's paths, and the frames in it.

A frame is: length of what follows the number (4 bytes), kind (1), number (8), content. Numbers go up by one; a hole
ends the connection, and the next one begins with everything. Nothing here waits: the loop calls when the socket is
ready.
"""
from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import struct
from typing import Any

from sessions import identity, xfrm
from sessions.identity import Identity, Unknown
from sessions.tunnels import Change, DropPolicy, DropState, Numbers, PutPolicy, PutState

HEAD = struct.Struct(">IBQ")
MAX_FRAME_BYTES = 1 << 16
MAX_WAITING_BYTES = 64 << 20  # to be sent: a peer that takes nothing for so long has to start anew
READ_BYTES = 1 << 18
OPENING_SECONDS = 5.0  # from the connection to the end of TLS's handshake
# Contents: JSON for these ...
BEAT, ACK, BEGIN, END, NEED, NAMES = b"b", b"a", b"f", b"e", b"n", b"i"
# ... and the kernel's own bytes for these.
STATE, POLICY, NO_STATE, NO_POLICY, NUMBERS = b"S", b"P", b"D", b"X", b"N"


class Closed(Exception):
    """The connection has ended. The text says why."""


def encode(change: Change) -> tuple[bytes, bytes]:
    """Kind and content of the frame for a change."""
    if isinstance(change, PutState):
        return STATE, change.state.body()
    if isinstance(change, PutPolicy):
        return POLICY, change.policy.body()
    if isinstance(change, DropState):
        return NO_STATE, change.id.body()
    if isinstance(change, DropPolicy):
        return NO_POLICY, change.id.body()
    return NUMBERS, xfrm.new_counters(change.id, change.counters)


def decode(kind: bytes, content: bytes) -> Change | None:
    """The change in a frame; None for a frame of another kind. Raises xfrm.Malformed."""
    if kind == STATE:
        return PutState(xfrm.State.parse(content))
    if kind == POLICY:
        return PutPolicy(xfrm.Policy.parse(content))
    if kind == NO_STATE:
        return DropState(xfrm.deleted_state(content))
    if kind == NO_POLICY:
        return DropPolicy(xfrm.deleted_policy(content))
    if kind == NUMBERS:
        found = xfrm.counters_of_event(content)
        return Numbers(*found) if found else None
    return None


class Link:
    """One connection to the other node, from its first byte."""

    def __init__(self, sock: socket.socket, me: Identity, peer: str, key: bytes, server: bool, now: float,
                 path: str) -> None:
        """`path`: its name in status and log. `now`: seconds of any steady clock."""
        self.plain, self.me, self.peer, self.key, self.server, self.path = sock, me, peer, key, server, path
        self.tls: ssl.SSLSocket | None = None
        self.open = False
        self.until = now + OPENING_SECONDS
        self.waiting = bytearray(me.hello(key))  # to be sent
        self.got = bytearray()
        self.sent_number = self.got_number = 0
        self.blocked = True  # the socket takes nothing now: wait until it can be written to
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        return (self.tls or self.plain).fileno()

    def wants_to_write(self) -> bool:
        """Whether the loop has to wait for the socket to take bytes."""
        return self.blocked and bool(self.waiting or not self.open)

    def close(self) -> None:
        """Ends it."""
        (self.tls or self.plain).close()

    def work(self) -> list[tuple[bytes, bytes]]:
        """Goes on as far as it can. Returns the frames that have come. Raises Closed."""
        try:
            if not self.tls:
                self.introduce()
            if self.tls and not self.open:
                self.shake()
            if not self.open:
                return []
            self.flush()
            return self.read()
        except (ssl.SSLWantReadError, BlockingIOError):
            return []
        except ssl.SSLWantWriteError:
            self.blocked = True
            return []
        except Unknown as error:
            raise Closed(str(error)) from None
        except ssl.SSLError as error:
            raise Closed(f"TLS: {error.reason or error}") from None
        except ValueError as error:
            raise Closed(f"what it sent makes no sense ({type(error).__name__})") from None
        except OSError as error:
            raise Closed(os.strerror(error.errno) if error.errno else str(error)) from None

    def introduce(self) -> None:
        """Both send their hello, in clear."""
        if self.waiting:
            wrong = self.plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if wrong:
                raise OSError(wrong, os.strerror(wrong))
            try:
                del self.waiting[:self.plain.send(self.waiting)]
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOTCONN, errno.EINPROGRESS):
                    return
                raise
        self.blocked = bool(self.waiting)
        # Not one byte more than the line: what follows is TLS's.
        while not self.got.endswith(b"\n"):
            peeked = self.plain.recv(identity.MAX_HELLO_BYTES, socket.MSG_PEEK)
            if not peeked or len(self.got) + len(peeked) > identity.MAX_HELLO_BYTES:
                raise Unknown("it ended the connection" if not peeked else "what it sent is no introduction")
            end = peeked.find(b"\n") + 1 or len(peeked)
            self.got += self.plain.recv(end)
        if self.waiting:
            return
        peer = identity.introduced(bytes(self.got), self.peer, self.key)
        self.got.clear()
        self.tls = self.me.context(peer, self.server).wrap_socket(self.plain, server_side=self.server,
                                                                  do_handshake_on_connect=False)

    def shake(self) -> None:
        """TLS's handshake. Without the other node's certificate it fails."""
        assert self.tls
        self.blocked = False
        self.tls.do_handshake()
        self.open = True

    def send(self, kind: bytes, content: bytes) -> int:
        """Puts a frame into the queue. Returns its number. Raises Closed."""
        self.sent_number += 1
        self.waiting += HEAD.pack(len(content), kind[0], self.sent_number) + content
        if len(self.waiting) > MAX_WAITING_BYTES:
            raise Closed("it takes nothing")
        return self.sent_number

    def say(self, kind: bytes, **content: Any) -> int:
        """A frame whose content is JSON."""
        return self.send(kind, json.dumps(content).encode())

    def flush(self) -> None:
        """Sends what waits, as far as the socket takes it."""
        assert self.tls
        self.blocked = False
        while self.waiting:
            del self.waiting[:self.tls.send(self.waiting[:1 << 16])]

    def flush_now(self) -> None:
        """As flush(), for a frame that was just put into the queue. Raises Closed."""
        try:
            self.flush()
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except ssl.SSLWantWriteError:
            self.blocked = True
        except OSError as error:
            raise Closed(str(error)) from None

    def read(self) -> list[tuple[bytes, bytes]]:
        """The frames that have come."""
        assert self.tls
        left = READ_BYTES
        try:
            while left > 0:
                data = self.tls.recv(1 << 16)
                if not data:
                    raise Closed("it ended the connection")
                self.got += data
                left -= len(data)
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        frames = []
        at = 0
        while len(self.got) - at >= HEAD.size:
            length, kind, number = HEAD.unpack_from(self.got, at)
            if length > MAX_FRAME_BYTES or number != self.got_number + 1:
                raise Closed(f"frame {number} of {length} bytes after {self.got_number}")
            if len(self.got) - at < HEAD.size + length:
                break
            self.got_number = number
            frames.append((bytes([kind]), bytes(self.got[at + HEAD.size:at + HEAD.size + length])))
            at += HEAD.size + length
        del self.got[:at]
        return frames

    def pending(self) -> bool:
        """Whether TLS holds bytes that poll() does not see."""
        return bool(self.tls and self.open and self.tls.pending())
