"""Throw-away keys of one lab: a certificate authority, the gateways' and roadwarrior's identities, encrypted pillar.

Every lab makes its own, and they end with it. In production they come from the operator (docs/install.md).
"""
from __future__ import annotations

import base64
import datetime
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY = "Lab certificate authority"


@dataclass(frozen=True)
class Bundle:
    """A PKCS#12 file and its passphrase."""

    pkcs12: bytes
    passphrase: str


class Authority:
    """A certificate authority that lives as long as the lab, or as a kept lab (lab/applied.py)."""

    def __init__(self, kept: Path | None = None) -> None:
        """A new authority, or the one that `save` wrote to the file `kept`."""
        if kept:
            pem = kept.read_bytes()
            key = load_pem_private_key(pem, None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._key = key
            self._certificate = x509.load_pem_x509_certificate(pem)
            self._name = self._certificate.subject
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY)])
        usage = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False,
                              data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                              encipher_only=False, decipher_only=False)
        self._certificate = (self._signed(self._name, self._key)
                             .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                             .add_extension(usage, critical=True)
                             .sign(self._key, hashes.SHA256()))

    def save(self, path: Path) -> None:
        """Write key and certificate into one file (PEM), which only its owner may read."""
        path.touch(mode=0o600)
        path.write_bytes(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                         + self._certificate.public_bytes(Encoding.PEM))

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
                .public_key(key.public_key()).serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(days=30)))

    def issue(self, identity: str) -> Bundle:
        """Issue a certificate for one identity (a DNS name), as a PKCS#12 with its key and the authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity)])
        usage = x509.KeyUsage(digital_signature=True, content_commitment=True, key_encipherment=False,
                              data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
                              encipher_only=False, decipher_only=False)
        certificate = (self._signed(subject, key)
                       .add_extension(x509.SubjectAlternativeName([x509.DNSName(identity)]), critical=False)
                       .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                       .add_extension(usage, critical=True)
                       .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH,
                                                             ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
                       .sign(self._key, hashes.SHA256()))
        passphrase = secrets.token_urlsafe(18)
        bundle = pkcs12.serialize_key_and_certificates(identity.encode(), key, certificate, [self._certificate],
                                                       BestAvailableEncryption(passphrase.encode()))
        return Bundle(bundle, passphrase)

    def revocation_list(self, days: float) -> bytes:
        """An empty revocation list (DER, RFC 5280) whose next update is due in `days` days."""
        now = datetime.datetime.now(datetime.UTC)
        return (x509.CertificateRevocationListBuilder().issuer_name(self._name)
                .last_update(now - datetime.timedelta(hours=1)).next_update(now + datetime.timedelta(days=days))
                .sign(self._key, hashes.SHA256())).public_bytes(Encoding.DER)


class EncryptedPillar:
    """Secrets as the production master keeps them: each value encrypted to the master's gpg key."""

    def __init__(self, keydir: Path) -> None:
        keydir.mkdir(mode=0o700, parents=True)
        self._gpg = ["gpg", "--homedir", str(keydir), "--batch", "--quiet", "--trust-model", "always"]
        subprocess.run([*self._gpg, "--passphrase", "", "--quick-generate-key", "lab salt master", "future-default",
                        "default", "never"], check=True, capture_output=True, timeout=60)

    def encrypt(self, secret: str) -> str:
        """One secret as an ASCII-armoured message."""
        return subprocess.run([*self._gpg, "--armor", "--encrypt", "--recipient", "lab salt master"], input=secret,
                              capture_output=True, text=True, check=True, timeout=60).stdout

    def render(self, secrets_of_site: dict[str, Any]) -> str:
        """The text of pillar/secrets/SITE.sls: nested mappings whose leaves are secrets."""
        return "#!yaml|gpg\n" + self._render({"gateway_secrets": secrets_of_site}, 0)

    def _render(self, value: dict[str, Any], depth: int) -> str:
        text = ""
        for name, inner in value.items():
            text += f"{'  ' * depth}{name}:"
            if isinstance(inner, dict):
                text += "\n" + self._render(inner, depth + 1)
            else:
                message = self.encrypt(inner).splitlines()
                text += " |\n" + "".join(f"{'  ' * (depth + 1)}{line}\n" for line in message)
        return text


def site_secrets(authority: Authority, view: dict[str, Any]) -> dict[str, Any]:
    """What one site's gateways need, made up for this lab. `view` is a node's settings."""
    identity = view["identity"]
    bundle = authority.issue(identity["id"])
    return {
        "heartbeat": {"key": secrets.token_urlsafe(24)},
        "certificates": {identity["certificate"]: {"pkcs12": base64.b64encode(bundle.pkcs12).decode(),
                                                   "passphrase": bundle.passphrase}},
        **({"psk": psks} if (psks := {c["name"]: secrets.token_urlsafe(24) for c in view["connections"]
                                      if c["auth"] == "psk"}) else {}),
    }
