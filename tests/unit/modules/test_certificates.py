"""_modules/_certificates.py: what a certificate says."""
from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.unit.modules.identities import KEY


def test_the_id_of_a_key_is_the_one_nss_gives(load):
    """RSA: over the modulus. EC: over the point, as the subject key identifier of RFC 5280."""
    certificates = load("_modules/_certificates.py")
    wanted = x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).digest.hex()
    assert certificates.key_id(KEY.public_key()) == wanted
    key = rsa.RSAPublicNumbers(e=65537, n=(1 << 1023) | 0xF00D | 1).public_key()
    assert len(certificates.key_id(key)) == 40
