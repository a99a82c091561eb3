"""Authorities, certificates, identities and revocation lists, and the modules that handle them, for tests."""
from __future__ import annotations

import base64
import datetime
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from tests.conftest import load_module

RECORDED = Path(__file__).resolve().parent.parent / "recorded/certs"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
NAME = "gateway.winterthur.example"


def subject(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


class Authority:
    def __init__(self, name: str = "Test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject(name)
        self.certificate = self.sign(self.key, self.name, [x509.BasicConstraints(ca=True, path_length=0)])

    def sign(self, key, name, extensions=(), start=-DAY, end=30 * DAY):
        builder = (x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(NOW + start).not_valid_after(NOW + end))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def crl(self, end=7 * DAY, number=None, start=-DAY):
        builder = (x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW + start)
                   .next_update(NOW + end))
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        return builder.sign(self.key, hashes.SHA256())


AUTHORITY = Authority()
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def leaf(key=KEY, **kwargs):
    return AUTHORITY.sign(key, subject(NAME), [x509.SubjectAlternativeName([x509.DNSName(NAME)])], **kwargs)


def bundle(key=KEY, certificate=None, chain=(AUTHORITY.certificate,), passphrase="right") -> dict:
    # one round of key derivation instead of thousands: the file is made and read a hundred times here
    encryption = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1).build(b"right")
    data = pkcs12.serialize_key_and_certificates(b"any", key, certificate or leaf(key), list(chain), encryption)
    return {"pkcs12": base64.b64encode(data).decode(), "passphrase": passphrase}


def pem(thing) -> str:
    if hasattr(thing, "private_bytes"):
        return thing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return thing.public_bytes(Encoding.PEM).decode()


def cut(source: dict) -> dict:
    return source | {"pkcs12": base64.b64encode(base64.b64decode(source["pkcs12"])[:-40]).decode()}


REFUSED = {
    "wrong passphrase": (lambda: bundle(passphrase="wrong"), "wrong passphrase"),
    "another's key": (lambda: {"certificate": pem(leaf()) + pem(AUTHORITY.certificate), "key": pem(OTHER)}, "belong"),
    "expired": (lambda: bundle(certificate=leaf(start=-3 * DAY, end=-DAY)), "expired on"),
    "not yet valid": (lambda: bundle(certificate=leaf(start=DAY)), "is not valid before"),
    "wrong chain": (lambda: bundle(chain=(Authority("Other CA").certificate,)), "which is not in its chain"),
    "wrong name": (lambda: bundle(certificate=AUTHORITY.sign(KEY, subject(NAME), [x509.SubjectAlternativeName(
        [x509.DNSName("other.example")])])), "is for other.example, not for"),
    "weak key": (lambda: bundle(ec.generate_private_key(ec.SECP192R1())), "is too weak"),
    "truncated": (lambda: cut(bundle()), "is truncated"),
}


def printed(crl) -> str:
    """A list as crlutil prints it."""
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    data = f"{number} ({number:#x})"
    if number >= 1 << 31:
        octets = number.to_bytes((number.bit_length() + 8) // 8, "big").hex(":")
        data = f"\n            {octets}"
    return (f"CRL Info:\n    This Update: {crl.last_update_utc:%a %b %d %H:%M:%S %Y}\n    CRL Extensions:\n"
            f"        Name: CRL Number\n        Data: {data}\n\n        Name: Other\n")


def functions(module: ModuleType, name: str) -> dict[str, Callable]:
    """A module's public functions for another's `__salt__`, each as it is when it is called: a test may replace it."""
    def late(function: str) -> Callable:
        return lambda *args, **kwargs: getattr(module, function)(*args, **kwargs)
    return {f"{name}.{function}": late(function) for function, its in vars(module).items()
            if inspect.isfunction(its) and not function.startswith("_") and its.__module__ == module.__name__}


def wired(**salt: Callable) -> ModuleType:
    """`certs` with its stores, `.nss` and `.swanctl`; `.pillar` is what it finds in pillar."""
    certs = load_module("_modules/certs.py")
    certs.nss, certs.swanctl, certs.pillar = load_module("_modules/nss.py"), load_module("_modules/swanctl.py"), {}
    certs.__salt__ = {
        "pillar.get": lambda path, default, unmask: certs.pillar.get(path, default) if unmask else "**********",
        **functions(certs.nss, "nss"), **functions(certs.swanctl, "swanctl")}
    certs.nss.__salt__ = salt
    return certs
