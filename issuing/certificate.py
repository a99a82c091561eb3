"""The certificates that the authority issues, and its revocation lists: what they say, and how they are signed."""
from __future__ import annotations

import base64
import contextlib
import datetime
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import salt.utils.x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID

from issuing.errors import refuse

_KEYS = {"ec256": ("ec", 256), "ec384": ("ec", 384), "rsa2048": ("rsa", 2048), "rsa3072": ("rsa", 3072),
         "rsa4096": ("rsa", 4096)}
_IPSEC_IKE = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17")  # RFC 4945, 5.1.3.12
_BACKDATED = datetime.timedelta(minutes=10)  # a client's clock may be slow
# The passphrase has 160 random bits, so there is nothing for more rounds to slow down.
_KDF_ROUNDS = 2048

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Entry = dict[str, Any]         # a line of the journal, as JSON has it


class Authority(NamedTuple):
    """The authority, with what it signs with."""

    folder: Path
    certificate: x509.Certificate
    key: Key


class Issued(NamedTuple):
    """A certificate that was just issued, with its key and its line for the journal."""

    key: Key
    certificate: x509.Certificate
    record: Entry


def make_authority(name: str, kind: str, days: int, organization: str) -> tuple[Key, x509.Certificate]:
    """A new authority: its key of this kind, and its certificate for so many days."""
    key, subject = new_key(kind), subject_of(name, None, organization)
    now = utc_now()
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(serial()).not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, digest(key)))
    return key, certificate


def issue(authority: Authority, profile: str, site: str, name: str, names: list[x509.GeneralName], kind: str, days: int,
          organization: str) -> Issued:
    """
    Make a key and its certificate. The signing policy is here.

    Args:
        authority: who signs it.
        profile: gateway or roadwarrior.
        site: the site's name, its OU.
        name: its CN.
        names: its subjectAltNames.
        kind: of the key, such as ec256.
        days: how long it is valid, if the authority is so long.
        organization: its O, or empty.

    Raises:
        SaltRunnerError: the authority expires, or the name can not stand in a certificate.
    """
    key, now = new_key(kind), utc_now()
    until = min(now + datetime.timedelta(days=days), authority.certificate.not_valid_after_utc)
    if authority.certificate.not_valid_after_utc < now + datetime.timedelta(days=1):
        raise refuse(f"it expires on {authority.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and can issue "
                      "nothing any more; make a new one in another folder, and new certificates for everyone")
    own = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    # Apple's and Windows' clients ask for serverAuth in the gateway's certificate. A roadwarrior can not be a server.
    uses = {"gateway": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, _IPSEC_IKE],
            "roadwarrior": [ExtendedKeyUsageOID.CLIENT_AUTH, _IPSEC_IKE]}
    certificate = (
        x509.CertificateBuilder().subject_name(subject_of(name, site, organization))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key()).serial_number(serial()).not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses[profile]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .sign(authority.key, digest(authority.key)))
    return Issued(key, certificate, record(profile, site, name, certificate))


def revocation_list(authority: Authority, number: int, now: datetime.datetime, next_update: datetime.datetime,
                     entries: list[Entry]) -> x509.CertificateRevocationList:
    """A revocation list (RFC 5280, 5) of some entries of the journal."""
    revoked = []
    for each in entries:
        builder = (x509.RevokedCertificateBuilder().serial_number(int(each["serial"], 16))
                   .revocation_date(date_of(each["revoked"]["at"])))
        if each["revoked"]["reason"] != "unspecified":          # RFC 5280, 5.3.1: then left out
            flag = getattr(x509.ReasonFlags, each["revoked"]["reason"])
            builder = builder.add_extension(x509.CRLReason(flag), critical=False)
        revoked.append(builder.build())
    # All at once: when they are added one by one, each call copies all those before.
    return (x509.CertificateRevocationListBuilder(
        issuer_name=authority.certificate.subject, last_update=now, next_update=next_update,
        revoked_certificates=revoked)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
                       critical=False)
        .sign(authority.key, digest(authority.key)))


def new_key(kind: str) -> Key:
    """A new key of a kind such as ec256. Raises SaltRunnerError for an unknown one."""
    if kind not in _KEYS:
        raise refuse(f"gateway_authority:key in the master's configuration is {kind}; give one of {', '.join(_KEYS)}")
    make: dict[str, Callable[[int], Key]] = {
        "ec": salt.utils.x509.generate_ec_privkey, "rsa": salt.utils.x509.generate_rsa_privkey}
    return make[_KEYS[kind][0]](_KEYS[kind][1])


def digest(key: Key) -> hashes.SHA256 | hashes.SHA384:
    """The hash that a key signs with: as strong as the key."""
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256 else hashes.SHA256()


def serial() -> int:
    """159 random bits. RFC 5280, 4.1.2.2: positive, 20 octets at most; the CA/Browser Forum wants 64 random bits."""
    return x509.random_serial_number()


def subject_of(name: str, site: str | None, organization: str) -> x509.Name:
    """A subject. _modules/ipsec.py knows its form (_ISSUED)."""
    parts = [(x509.NameOID.ORGANIZATION_NAME, organization),
             (x509.NameOID.ORGANIZATIONAL_UNIT_NAME, site), (x509.NameOID.COMMON_NAME, name)]
    try:
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])
    except ValueError as error:
        raise refuse(f"{name} can not stand in a certificate: {error}") from None


def usage(**bits: bool) -> x509.KeyUsage:
    """Key usage (RFC 5280, 4.2.1.3) with these bits."""
    known = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**dict.fromkeys(known, False) | bits)


def record(profile: str, site: str, name: str, certificate: x509.Certificate) -> Entry:
    """What the journal keeps of a certificate."""
    return {"event": "issued", "profile": profile, "site": site, "name": name, "at": text_of(utc_now()),
            **{key: value for key, value in facts(certificate).items() if key != "issuer"}}


def facts(certificate: x509.Certificate) -> dict[str, Any]:
    """What a certificate says, in words that JSON can have."""
    names = []
    with contextlib.suppress(x509.ExtensionNotFound):
        names = [str(each.value) for each in certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName).value]
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise refuse("a certificate's key is neither EC nor RSA")
    return {"serial": f"{certificate.serial_number:x}", "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(), "names": names,
            "key": f"{'rsa' if isinstance(key, rsa.RSAPublicKey) else 'ec'} {key.key_size}",
            "not_before": text_of(certificate.not_valid_before_utc),
            "not_after": text_of(certificate.not_valid_after_utc),
            "fingerprint": certificate.fingerprint(hashes.SHA256()).hex()}


def new_passphrase() -> str:
    """160 random bits in letters that people can read to each other: 8 groups of 4."""
    text = base64.b32encode(secrets.token_bytes(20)).decode().lower()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def packed(authority: Authority, issued: Issued, nickname: str, passphrase: str, algorithm: pkcs12.PBES) -> bytes:
    """A PKCS#12 file (RFC 7292): key, certificate and the authority's certificate, encrypted with the passphrase."""
    mac = hashes.SHA256() if algorithm is pkcs12.PBES.PBESv2SHA256AndAES256CBC else hashes.SHA1()
    encryption = (PrivateFormat.PKCS12.encryption_builder().kdf_rounds(_KDF_ROUNDS).key_cert_algorithm(algorithm)
                  .hmac_hash(mac).build(passphrase.encode()))
    return pkcs12.serialize_key_and_certificates(nickname.encode(), issued.key, issued.certificate,
                                                 [authority.certificate], encryption)


def common_name(certificate: x509.Certificate) -> str:
    """The CN of a certificate's subject."""
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def utc_now() -> datetime.datetime:
    """The time, in whole seconds."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def text_of(date: datetime.datetime) -> str:
    """A date as the journal has it: ISO 8601."""
    return date.isoformat()


def date_of(text: str) -> datetime.datetime:
    """A date of the journal."""
    return datetime.datetime.fromisoformat(text)
