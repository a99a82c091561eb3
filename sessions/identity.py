"""Who the other node is: each process issues itself a certificate, and the pair's key vouches for it.

The certificate and its private key live in this process's memory only, and are made anew at each start. A node shows
its certificate with an authentication code (HMAC-SHA256, RFC 2104) under a key that only the two nodes have: the one
between their heartbeats (/etc/ha.d/authkeys). Then TLS 1.3 asks both for exactly these certificates. Whoever listens
learns nothing, also when he learns the pair's key later.
"""
from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

AUTHKEYS = Path("/etc/ha.d/authkeys")
ISSUE_SECONDS = 20.0
DAYS = 2
PURPOSE = b"gateway sessions: certificate of a node\0"
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h
MAX_HELLO_BYTES = 4096


class Unknown(Exception):
    """This is not the other node, or it can not be told. The text says why."""


@dataclass(frozen=True)
class Identity:
    """A node's certificate (DER) and the context that holds its key."""
    node: str
    certificate: bytes
    chain: bytes  # certificate and key, PEM

    def context(self, peer: bytes, server: bool) -> ssl.SSLContext:
        """TLS 1.3 with this identity, for a peer with exactly the certificate `peer` (DER)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # The code vouches for the certificate. Two nodes whose clocks differ have to trust each other all the same.
        context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
        context.load_verify_locations(cadata=peer)
        # load_cert_chain() takes files only: one that exists in memory.
        fd = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:
            os.write(fd, self.chain)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.ftruncate(fd, 0)
            os.close(fd)
        return context

    def hello(self, key: bytes) -> bytes:
        """The line with which this node introduces itself."""
        return json.dumps({"version": 1, "node": self.node, "certificate": base64.b64encode(self.certificate).decode(),
                           "code": code(key, self.node, self.certificate)}).encode() + b"\n"


def code(key: bytes, node: str, certificate: bytes) -> str:
    """The authentication code of a node's certificate."""
    return hmac.new(key, PURPOSE + node.encode() + b"\0" + certificate, hashlib.sha256).hexdigest()


def pair_key(path: Path = AUTHKEYS) -> bytes:
    """The pair's key, from heartbeat's file (the line of the method that `auth` names). Raises OSError, Unknown."""
    lines = path.read_text("utf-8").splitlines()
    number = next((line.split()[1] for line in lines if re.fullmatch(r"\s*auth\s+\S+\s*", line)), "")
    for line in lines:
        words = line.split(None, 2)
        if len(words) == 3 and words[0] == number and words[1] in ("sha1", "md5"):
            return hashlib.sha256(b"gateway sessions\0" + words[2].strip().encode()).digest()
    raise Unknown(f"{path} has no key: heartbeat's messages must be signed (heartbeat:authentication)")


def issue(node: str) -> Identity:
    """A new certificate for this node, with a key of its own. Raises OSError, subprocess.SubprocessError."""
    made = subprocess.run(
        ["/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", str(DAYS), "-subj", f"/CN={node}", "-keyout", "/dev/stdout", "-out", "/dev/stdout"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=ISSUE_SECONDS, check=True).stdout
    begin = made.index(b"-----BEGIN CERTIFICATE-----")
    text = made[begin:made.index(b"-----END CERTIFICATE-----") + 26]
    return Identity(node, ssl.PEM_cert_to_DER_cert(text.decode()), made)


def introduced(line: bytes, peer: str, key: bytes) -> bytes:
    """The certificate (DER) in the other node's hello. Raises Unknown."""
    try:
        told = json.loads(line)
        node, certificate = told["node"], base64.b64decode(told["certificate"], validate=True)
        given = told["code"].encode("ascii")
        if told["version"] != 1 or not isinstance(node, str):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise Unknown("what it sent is no introduction") from None
    if node != peer:
        raise Unknown(f"it says that it is {node[:64]!r}, not {peer}")
    if not hmac.compare_digest(code(key, node, certificate).encode(), given):
        raise Unknown("it does not have the key of this pair (/etc/ha.d/authkeys)")
    return certificate
