"""
What a certificate or a revocation list says, once it proved readable. For ``certs``, ``nss`` and ``swanctl``.

Salt syncs this file and does not load it (its name begins with _); those modules load it by its path. Nothing here
reads pillar, runs a command or writes a file.

Formats: RFC 5280.
"""
from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from salt.exceptions import CommandExecutionError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_Thing = TypeVar("_Thing", "x509.Certificate", "x509.CertificateRevocationList")

TRUSTED_AUTHORITY = "CT,,"  # signs servers and clients: what `ipsec import` sets too
# What cryptography raises for what it can not read: mostly as it loads an object, sometimes only as a field is read.
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
              x509.UnsupportedGeneralNameType) if HAS_CRYPTOGRAPHY else ()


# No dataclass: a module that is loaded by its path is not in sys.modules, where dataclasses look for it.
class Identity(NamedTuple):
    """A private key with its certificate and the authorities' certificates above it."""

    key: PrivateKey
    certificate: x509.Certificate
    authorities: tuple[x509.Certificate, ...]


class Entry(NamedTuple):
    """A certificate in a store."""

    nickname: str          # of Libreswan; the file's name of strongSwan
    trust: str             # certutil's three columns
    certificate: x509.Certificate
    has_key: bool          # whether its key is in the store


def error(where: str, what: str) -> CommandExecutionError:
    """What an operator reads, in one line: where something is wrong (a pillar path, a file), and what."""
    return CommandExecutionError(f"certs: {where} {what}")


def whole(thing: _Thing) -> _Thing:
    """A certificate or list, once every field needed later proved readable. Raises one of UNREADABLE if not."""
    _ = (thing.issuer.rfc4514_string(), list(thing.extensions), thing.signature_hash_algorithm)
    if isinstance(thing, x509.Certificate):
        thing.subject.rfc4514_string()
        thing.public_key()
        facts(thing)
        usage(thing)
    else:
        _ = (len(thing), thing.last_update_utc, thing.next_update_utc)
    return thing


def facts(certificate: x509.Certificate) -> dict[str, Any]:
    """The public facts, as ``certs.inspect`` returns them."""
    key = certificate.public_key()
    kinds = {"rsa": rsa.RSAPublicKey, "ec": ec.EllipticCurvePublicKey}
    kind = next((name for name, of in kinds.items() if isinstance(key, of)), "other")
    return {
        "fingerprint": fingerprint(certificate),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": names(certificate),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "key": f"{kind} {getattr(key, 'key_size', '')}".strip(),
    }


def names(certificate: x509.Certificate) -> list[str]:
    """The names of the holder: subjectAltName (RFC 5280, 4.2.1.6)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, (x509.DNSName, x509.IPAddress, x509.RFC822Name))]


def usage(certificate: x509.Certificate) -> str:
    """What a certificate may be used for (RFC 5280, 4.2.1.3 and 4.2.1.12)."""
    words = []
    with contextlib.suppress(x509.ExtensionNotFound):
        bits = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if bits.key_cert_sign:
            words.append("certificates" + (" and revocation lists" if bits.crl_sign else ""))
        # RFC 4945, 5.1.3.2: for IKE either of the two is enough
        words.append("signatures" if bits.digital_signature or bits.content_commitment else "not for signatures")
    with contextlib.suppress(x509.ExtensionNotFound):
        known = {ExtendedKeyUsageOID.SERVER_AUTH: "servers", ExtendedKeyUsageOID.CLIENT_AUTH: "clients",
                 x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17"): "IPsec"}
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        words += [known.get(each, each.dotted_string) for each in uses]
    return ", ".join(words) or "anything"


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether the certificate may sign others (RFC 5280, 4.2.1.9)."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority has signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def weakness(certificate: x509.Certificate) -> str:
    """
    Why a certificate is too weak, in words; "" if it is not.

    NIST SP 800-131A: RSA with 2048 bits or more, curves with 224 or more (here 256, which IKE has), no SHA-1.
    """
    key, digest = certificate.public_key(), certificate.signature_hash_algorithm
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        return f"its RSA key has {key.key_size} bits; the minimum is 2048"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256:
        return f"its EC key has {key.key_size} bits; the minimum is 256"
    # The signature of an authority on its own certificate protects nothing.
    if digest is not None and digest.name in ("sha1", "md5") and certificate.subject != certificate.issuer:
        return f"it is signed with {digest.name}"
    return ""


def public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    """A public key in a form that can be compared (DER, SubjectPublicKeyInfo)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_id(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    """The CKAID under which NSS lists a key (PK11_MakeIDFromPubKey in NSS)."""
    if isinstance(public_key, rsa.RSAPublicKey):
        modulus = public_key.public_numbers().n
        data = modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")
    else:
        data = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha1(data).hexdigest()  # an identifier, not a protection


def crl_number(crl: x509.CertificateRevocationList) -> int | None:
    """The number of a list (RFC 5280, 5.2.3); None without one."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None


def crl_file_name(crl: x509.CertificateRevocationList) -> str:
    """The name of the file in which a node keeps the lists of this issuer."""
    return hashlib.sha256(crl.issuer.public_bytes()).hexdigest()[:16] + ".crl"
