"""What a roadwarrior gets: the files of each maker's client, in a folder of its own."""
from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import plistlib
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from issuing.certificate import Authority, Issued, common_name, packed
from issuing.errors import refuse
from issuing.files import write


def left_out(connection: dict[str, Any]) -> str:
    """Why a bundle has files for Libreswan only; empty when it has all files."""
    if connection["ike"] != "ikev2":
        return "all but Libreswan's: the connection is IKEv1"
    if any(connection["proposals"].values()):
        return "all but Libreswan's: the connection has proposals of its own, which other clients call otherwise"
    if not connection["pool"] and not connection["persons"]:
        return "all but Libreswan's: the connection has no pool, and other clients want an address from the gateway"
    return ""


def everything(connection: dict[str, Any]) -> bool:
    """Whether the clients of a connection send everything through the tunnel."""
    return any(subnet in ("0.0.0.0/0", "::/0") for subnet in connection["local"]["subnets"])


def made(authority: Authority, issued: Issued, site: str, connection: dict[str, Any], version: str,
         passphrase: str, find: Callable[[str], Path]) -> dict[str, bytes]:
    """A person's files by name. None of them holds the passphrase. `find` gives a template's place."""
    name, identity = issued.record["name"], issued.record["names"][0]
    kind = issued.record["key"].split()[0]
    client = {"name": site, "certificate": f"{name}.{site}", "key": kind, "version": version, "person": name,
              "id": identity, "authority": common_name(authority.certificate), "left_out": left_out(connection),
              "everything": everything(connection)}
    strong = packed(authority, issued, client["certificate"], passphrase, pkcs12.PBES.PBESv2SHA256AndAES256CBC)
    files = {
        f"{name}.p12": strong,
        "authority.pem": authority.certificate.public_bytes(Encoding.PEM),
        "libreswan.conf": _rendered(find("roadwarrior.conf.jinja"), connection, client),
        "README.txt": _rendered(find("client/README.txt.jinja"), connection, client),
    }
    if not client["left_out"]:
        # Apple's devices, and Androids before 13 or so, read nothing newer; see there for what protects it.
        old = packed(authority, issued, client["certificate"], passphrase,
                      pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        files |= {
            "swanctl.conf": _rendered(find("client/swanctl.conf.jinja"), connection, client),
            "windows.ps1": _rendered(find("client/windows.ps1.jinja"), connection, client).replace(b"\n", b"\r\n"),
            f"{name}.mobileconfig": _mobileconfig(authority, client, connection, old),
            f"{name}.sswan": _sswan(authority, client, connection, old),
        }
    return files


@functools.lru_cache(maxsize=8)
def _template(path: Path, _changed: int) -> jinja2.Template:
    # Compiled once for a thousand people. Plain Jinja, without Salt's functions: it sees public values only.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(path.read_text(encoding="utf-8"))


def _rendered(path: Path, connection: dict[str, Any], client: dict[str, Any]) -> bytes:
    return _template(path, path.stat().st_mtime_ns).render(connection=connection, client=client).encode()


def _mobileconfig(authority: Authority, client: dict[str, str], connection: dict[str, Any], bundle: bytes) -> bytes:
    """
    For Apple's devices: Device Management Profile, payloads VPN (IKEv2), CertificatePKCS12 and CertificateRoot.

    There is no Password in the PKCS#12's payload: the device asks for it when the profile is installed.
    """
    local, suite = connection["local"], {"EncryptionAlgorithm": "AES-256-GCM", "IntegrityAlgorithm": "SHA2-256",
                                         "DiffieHellmanGroup": 19}
    size = authority.key.key_size
    kinds = {"PKCS12": "com.apple.security.pkcs12", "root": "com.apple.security.root", "vpn": "com.apple.vpn.managed"}
    ids = {kind: str(uuid.uuid4()).upper() for kind in ("profile", *kinds)}

    def payload(kind: str, title: str, **content: Any) -> dict[str, Any]:
        return {"PayloadType": kinds.get(kind, "Configuration"), "PayloadVersion": 1, "PayloadUUID": ids[kind],
                "PayloadIdentifier": f"{client['id']}.{kind.lower()}", "PayloadDisplayName": title, **content}

    ikev2 = {
        "RemoteAddress": local["address"], "RemoteIdentifier": local["id"],
        # A name: a DN would be sent as if it were one.
        "LocalIdentifier": client["id"],
        "AuthenticationMethod": "Certificate", "ExtendedAuthEnabled": 0, "PayloadCertificateUUID": ids["PKCS12"],
        "CertificateType": f"ECDSA{size}" if client["key"] == "ec" else "RSA",
        "ServerCertificateIssuerCommonName": client["authority"], "ServerCertificateCommonName": local["id"],
        "DisableMOBIKE": 1, "DisableRedirect": 1, "EnablePFS": 1, "DeadPeerDetectionRate": "High",
        "UseConfigurationAttributeInternalIPSubnet": 0,
        "IKESecurityAssociationParameters": suite, "ChildSecurityAssociationParameters": suite,
    }
    return plistlib.dumps(payload(
        "profile", f"VPN {client['name']}", PayloadRemovalDisallowed=False, PayloadContent=[
            payload("PKCS12", client["certificate"], PayloadCertificateFileName=f"{client['person']}.p12",
                    PayloadContent=bundle),
            payload("root", client["authority"], PayloadCertificateFileName="authority.cer",
                    PayloadContent=authority.certificate.public_bytes(Encoding.DER)),
            payload("vpn", f"VPN {client['name']}", UserDefinedName=f"VPN {client['name']}", VPNType="IKEv2",
                    IKEv2=ikev2)]))


def _sswan(authority: Authority, client: dict[str, str], connection: dict[str, Any], bundle: bytes) -> bytes:
    """
    For strongSwan's app on Android: docs.strongswan.org, Android VPN client, VPN profiles (.sswan).

    The app asks for the PKCS#12's passphrase when it imports the profile.
    """
    local = connection["local"]
    profile = {
        "uuid": str(uuid.uuid4()), "name": f"VPN {client['name']}", "type": "ikev2-cert",
        "remote": {"addr": local["address"], "id": local["id"],
                   "cert": base64.b64encode(authority.certificate.public_bytes(Encoding.DER)).decode()},
        "local": {"id": client["id"], "p12": base64.b64encode(bundle).decode()},
        "ike-proposal": "aes256gcm16-prfsha512-prfsha256-ecp256", "esp-proposal": "aes256gcm16-ecp256",
        "split-tunneling": {"subnets": list(local["subnets"])},
    }
    return json.dumps(profile, indent=2).encode() + b"\n"


def put(folder: Path, site: str, name: str, files: dict[str, bytes], passphrase: str) -> Path:
    """Put a person's folder, with the file of its passphrase beside it, in place of the old ones, in one step."""
    place = folder / "bundles" / site / name
    for each in (place.parent.parent, place.parent):
        each.mkdir(mode=0o700, exist_ok=True)
        if each.is_symlink():
            raise refuse(f"{each} is a link; remove it")
    made = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=place.parent))          # 0700
    words, old = made.with_name(f"{made.name}.passphrase"), made.with_name(f"{made.name}.old")
    try:
        for file, data in files.items():
            descriptor = os.open(made / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
        write(words, passphrase.encode() + b"\n")
        # All that needs space on the disk is written: a full disk leaves no new folder beside an old passphrase.
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, old)
        os.rename(made, place)
        os.replace(words, f"{place}.passphrase")
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        words.unlink(missing_ok=True)
        if os.path.lexists(old) and not os.path.lexists(place):
            os.rename(old, place)
        raise
    if old.is_symlink() or old.is_file():
        old.unlink()
    elif old.exists():
        shutil.rmtree(old)
    return place
