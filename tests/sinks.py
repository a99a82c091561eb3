"""The servers that alerts are delivered to in the tests, on loopback: a mail server, a web server, a log server."""
from __future__ import annotations

import base64
import contextlib
import datetime
import email
import email.policy
import http.server
import ipaddress
import json
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class Web(NamedTuple):
    """One POST request; `at` is when it came, in seconds since the epoch."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Sink:
    """A server that keeps what it received in `got`."""

    def __init__(self, server: socketserver.BaseServer) -> None:
        self.got: list[Any] = []
        self.status = 200        # the status that a web server answers with
        self.refuse = False      # whether a mail server refuses everything
        self.slow = 0.0          # seconds before it answers
        self.log: list[str] = []  # the commands of mail clients
        server.sink = self
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, count: int = 1, seconds: float = 10.0) -> list[Any]:
        """Everything received, as soon as there are `count`, or after `seconds`."""
        return self.until(lambda got: len(got) >= count, seconds)

    def until(self, enough: Callable[[list[Any]], bool], seconds: float = 10.0) -> list[Any]:
        """Everything received, as soon as `enough` is true of it, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while not enough(list(self.got)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return list(self.got)


@contextlib.contextmanager
def web(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Sink]:
    """A web server that accepts POST."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sink = self.server.sink
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(sink.slow)
            self.send_response(sink.status)
            if sink.status == 302:
                self.send_header("Location", f"http://127.0.0.1:{sink.port}/elsewhere")
            self.end_headers()
            self.wfile.write(b"ok")
            if sink.status == 200:
                sink.got.append(Web(self.path, dict(self.headers), body, time.time()))

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    sink = Sink(server)
    try:
        yield sink
    finally:
        sink.close()


@contextlib.contextmanager
def mail(port: int = 0, tls: ssl.SSLContext | None = None, password: str = "") -> Iterator[Sink]:
    """A mail server: RFC 5321's commands, STARTTLS with `tls`, AUTH PLAIN or LOGIN not before that with `password`."""

    class Handler(socketserver.StreamRequestHandler):
        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def handle(self) -> None:
            sink, secure, known = self.server.sink, False, not password
            self.say("220 sink")
            while line := self.rfile.readline().decode().strip():
                word = line.split()[0].upper()
                sink.log.append(word)
                if word == "EHLO":
                    offers = ["sink"] + (["STARTTLS"] if tls and not secure else []) + (
                        ["AUTH PLAIN"] if password and (secure or not tls) else [])
                    for number, offer in enumerate(offers, 1):
                        self.say(f"250{' ' if number == len(offers) else '-'}{offer}")
                elif word == "STARTTLS":
                    self.say("220 go on")
                    self.request = tls.wrap_socket(self.request, server_side=True)
                    self.rfile, self.wfile, secure = self.request.makefile("rb"), self.request.makefile("wb", 0), True
                elif word == "AUTH":
                    known = base64.b64decode(line.split()[2]).split(b"\0")[2].decode() == password
                    self.say("235 hello" if known else "535 no")
                elif word == "MAIL":
                    self.say("450 later" if sink.refuse else "250 ok" if known else "530 who are you")
                elif word == "DATA":
                    self.say("354 go")
                    data = b""
                    while (row := self.rfile.readline()) != b".\r\n":
                        data += row[1:] if row.startswith(b"..") else row
                    time.sleep(sink.slow)
                    sink.got.append(email.message_from_bytes(data, policy=email.policy.default))
                    self.say("250 taken")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 ok")

    with _Threads(("127.0.0.1", port), Handler) as server:
        sink = Sink(server)
        try:
            yield sink
        finally:
            sink.close()


def text_of(one: EmailMessage) -> str:
    """A mail's text."""
    return one.get_content()


@contextlib.contextmanager
def log_udp() -> Iterator[Sink]:
    """A log server that receives datagrams."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.server.sink.got.append(self.request[0])

    with socketserver.UDPServer(("127.0.0.1", 0), Handler) as server:
        sink = Sink(server)
        try:
            yield sink
        finally:
            sink.close()


@contextlib.contextmanager
def log_tcp(tls: ssl.SSLContext | None = None) -> Iterator[Sink]:
    """A log server that receives streams; each is kept whole."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.server.sink.got.append(self.rfile.read())

    with _Threads(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        sink = Sink(server)
        try:
            yield sink
        finally:
            sink.close()


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for this machine: its file, and a server's TLS context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(7).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256()))
    file, both = folder / f"{name}.pem", folder / f"{name}.both.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    both.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + file.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return file, context
