"""Pieces of secrets, in the forms in which a leak would show them."""
from __future__ import annotations

import base64

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12


def of_key(key: object) -> list[bytes]:
    """An EC key's number as bytes, in hex, in base64 and in PEM: pieces that survive line breaks."""
    number = key.private_numbers().private_value.to_bytes(32, "big")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()
    return [number, number.hex().encode(), base64.b64encode(number)[:40], pem[1][-40:], pem[2][:40]]


def of_bundle(data: bytes, passphrase: bytes) -> list[bytes]:
    """A PKCS#12 file's passphrase, a piece of the file in base64, and its key."""
    return [passphrase, base64.b64encode(data)[200:240],
            *of_key(pkcs12.load_key_and_certificates(data, passphrase)[0])]
