"""
Revocation lists of other authorities
=====================================

For a site whose certificates come from an authority that publishes its list at a URL. ``fetch`` puts the list into
pillar, and the next `state.apply` brings it to the nodes. docs/certificates.md says when this is needed. The runner
``authority`` writes the list of this master's own authority into the same file.

This runner takes and returns no secret: a list is public.
"""
from __future__ import annotations

import contextlib
import datetime
import functools
import http.client
import importlib.util
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import salt.loader
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from salt.exceptions import CommandExecutionError, SaltRenderError, SaltRunnerError

# Trap: Salt's loader has this file's own folder on the path. So the tree comes first in the path, and only for these
# imports, as in _runners/alerts.py.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from issuing import files as _files
    from issuing import of_site as _of_site
    from issuing import pillar as _pillar
    from issuing.errors import told as _told
    from sites import files as _site_files
finally:
    del sys.path[0]

__virtualname__ = "lists"

_MAX_LIST_BYTES = 16 << 20  # a list of 100,000 entries has 4 MB
_PATIENCE_SECONDS = 20.0  # for the next byte of a download


def fetch(site: str, name: str, url: str) -> dict[str, Any]:
    """
    Fetch a revocation list and put it into the site's pillar: pillar/secrets/crls/SITE.sls.

    Refuses and changes nothing when the download is no list, when the list is stale, when no authority of the site's
    own certificates has signed it, or when it is older than the one in pillar.

    Args:
        site: the site's name.
        name: the list's name in pillar: letters, digits, '.', '_' and '-'.
        url: where the list is, http or https; PEM or DER.

    Returns:
        ``number``, ``entries``, ``next_update``, ``changed``; if it is true also ``written`` (the file) and ``next``
        (the next command). Or ``mistakes`` and ``retcode`` 1.

    CLI Example:

    .. code-block:: bash

        salt-run lists.fetch winterthur example-ca http://pki.example/example-ca.crl
    """
    return _told(__context__, _fetch, site, name, url)


def _fetch(site: str, name: str, url: str) -> dict[str, Any]:
    _of_site.settings(__opts__, site)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", str(name), re.ASCII) or name == _pillar.OWN_LIST:
        raise _refuse(f"{name} is not a valid name for a list: use letters, digits, '.', '_' and '-'; "
                      f"{_pillar.OWN_LIST} is this master's own authority")
    _pillar.lists(__opts__, site)          # names a damaged file before the download
    crl = _read(url, _download(url))
    _check(url, crl, _authorities(site))
    with _files.locked(_pillar.file(__opts__, "crls", site).parent):
        its = _pillar.lists(__opts__, site)
        lists = its.setdefault("crls", {})
        told = {"number": _number(crl), "entries": len(crl), "next_update": crl.next_update_utc.isoformat()}
        if not _newer(url, crl, lists.get(name)):
            return told | {"changed": False}
        lists[name] = crl.public_bytes(Encoding.PEM).decode()
        return told | {"changed": True, "written": _pillar.write_lists(__opts__, site, its),
                       "next": f"salt '*.{site}' state.apply openswan"}


def _refuse(text: str) -> SaltRunnerError:
    return SaltRunnerError(f"lists: {' '.join(str(text).split())}")


def _download(url: str) -> bytes:
    if not re.match(r"https?://[^\s/]", str(url)):
        raise _refuse(f"{url} is no URL that begins with http:// or https://")
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_SECONDS) as answer:
            data = answer.read(_MAX_LIST_BYTES + 1)
            wanted = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise _refuse(f"{url} answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error) or type(error).__name__
        raise _refuse(f"{url} could not be fetched: {why}") from None
    if len(data) > _MAX_LIST_BYTES:
        raise _refuse(f"{url} has more than {_MAX_LIST_BYTES >> 20} MiB; no list should be so large")
    if wanted and wanted.isdigit() and len(data) < int(wanted):
        raise _refuse(f"{url} broke off after {len(data)} of {wanted} bytes")
    return data


def _read(url: str, data: bytes) -> Any:
    certificates = _certificates()
    try:
        return certificates.whole((x509.load_pem_x509_crl if b"-----BEGIN" in data else x509.load_der_x509_crl)(data))
    except certificates.UNREADABLE:
        raise _refuse(f"{url} is no readable certificate revocation list (truncated?)") from None


def _check(url: str, crl: Any, authorities: list[Any]) -> None:
    if crl.next_update_utc is None:
        raise _refuse(f"{url} does not say when the next list is due (RFC 5280 requires nextUpdate)")
    if crl.next_update_utc < datetime.datetime.now(datetime.UTC):
        raise _refuse(f"{url} is stale: the next list was due on {crl.next_update_utc:%Y-%m-%d %H:%M} UTC; ask its "
                      "authority")
    named = [each for each in authorities if each.subject == crl.issuer]
    if not any(_signed(crl, each) for each in named):
        issuer = crl.issuer.rfc4514_string()
        raise _refuse(f"{url} is not signed by \"{issuer}\", which it names as its issuer" if named else
                      f"{url} is from \"{issuer}\", which is no authority of the site's certificates")


def _signed(crl: Any, authority: Any) -> bool:
    with contextlib.suppress(*_certificates().UNREADABLE):          # a signature that does not fit this kind of key
        return crl.is_signature_valid(authority.public_key())
    return False


def _newer(url: str, crl: Any, there: str | None) -> bool:
    """Whether a list replaces the one in pillar. Raises SaltRunnerError when it is older than that one."""
    if there is None:
        return True
    try:
        old = x509.load_pem_x509_crl(str(there).encode())
    except ValueError:
        return True          # a damaged one: every list is better
    if old.issuer != crl.issuer or old == crl:
        return old != crl
    if (_number(crl) or 0, crl.last_update_utc) < (_number(old) or 0, old.last_update_utc):
        raise _refuse(f"{url} is number {_number(crl)} of {crl.last_update_utc:%Y-%m-%d %H:%M}, and number "
                      f"{_number(old)} of {old.last_update_utc:%Y-%m-%d %H:%M} is in pillar already: people who were "
                      "revoked since could come back; ask its authority")
    return True


def _number(crl: Any) -> int | None:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None


def _authorities(site: str) -> list[Any]:
    """The authorities in the chains of a site's certificates, read from pillar in the same way as the nodes do."""
    try:
        secrets = _site_files.secrets(__opts__, site, salt.loader.render(__opts__, {}))
    except SaltRenderError:          # its own text would show lines of the file
        raise _refuse(f"a file of {site} below pillar/secrets is no YAML that Salt can read") from None
    certs = _certs()

    def pillar(path: str, default: Any, unmask: bool) -> Any:
        found: Any = {"gateway_secrets": secrets}
        for key in path.split(":"):
            found = found.get(key, default) if isinstance(found, dict) else default
        return found

    vars(certs)["__salt__"] = {"pillar.get": pillar}
    found, problems = [], []
    for name in secrets.get("certificates") or {}:
        try:
            found += certs._load(f"gateway_secrets:certificates:{name}", "").authorities
        except CommandExecutionError as error:
            problems.append(str(error))
    if not found:
        raise _refuse(problems[0] if problems else f"{site} has no certificate in pillar, so it is unknown whose list "
                      "counts there")
    return found


@functools.lru_cache(maxsize=3)
def _loaded(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lists_{Path(path).stem}_of_the_tree", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _certs() -> ModuleType:
    """The execution module that reads identities in pillar, loaded as plain Python."""
    return _loaded(str(Path(__file__).parent.parent / "_modules/certs.py"))


def _certificates() -> ModuleType:
    """What that module reads certificates and lists with."""
    return _loaded(str(Path(__file__).parent.parent / "_modules/_certificates.py"))
