"""
A certificate authority for sites that have none
================================================

It lives on the master: ``create`` once, then ``issue_gateway`` and ``issue_roadwarrior``, ``renew`` before they
expire, ``revoke`` what is lost. What it issues reaches the gateways by pillar and `state.apply`; docs/certificates.md
leads through all of it.

A runner's return is an event and stays in the job cache. So no function takes or returns a secret: keys and
passphrases go into files that only Salt's user can read, and the return says where those are.

In the authority's folder (0700, never under a file server's root), all files 0600:

=====================  =======================================================================================
``authority.pem``      its certificate
``authority.key.gpg``  its key, encrypted to the master's gpg key, like the secrets in pillar
``journal.jsonl``      what was issued, revoked and published: a JSON object a line, only ever appended to
``bundles/SITE/``      for each roadwarrior a folder NAME to hand over, and beside it NAME.passphrase
=====================  =======================================================================================

The master's configuration may say, each with its default::

    gateway_authority:
      folder: /etc/salt/gateway-authority
      gpg_recipient: ''          # the only secret key in gpg_keydir
      organization: ''
      key: ec256                 # ec256, ec384, rsa2048, rsa3072, rsa4096: of the authority and of what it issues
      authority_days: 3650
      gateway_days: 730
      roadwarrior_days: 365
      crl_days: 30               # how long a revocation list holds: publish one more often than that
      renew_days: 30

Certificates are made with ``cryptography`` and not with Salt's x509_v2: that takes a private key or a passphrase only
as an argument or in a clear-text file, and has neither PKCS#12 with a chain nor an index.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Trap: Salt's loader has this file's own folder on the path. So the tree comes first in the path, and only for these
# imports, as in _runners/alerts.py.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from issuing import errors as _errors
    from issuing import issue as _issue
    from issuing import overview as _overview
    from issuing import revocation as _revocation
finally:
    del sys.path[0]

__virtualname__ = "authority"

# what an operator calls


def create(name: str = "Gateway authority") -> dict[str, Any]:
    """
    Make the authority, once: its key, encrypted to the master's gpg key, and its certificate.

    Args:
        name: what its certificate is called (CN).

    Returns:
        ``certificate`` (its facts), ``folder``. When something is wrong, this function and all others here return
        ``mistakes``, a line each, and ``retcode`` 1 instead.

    CLI Example:

    .. code-block:: bash

        salt-run authority.create 'Example VPN authority'
    """
    return _told(_issue.create, name)


def issue_gateway(site: str) -> dict[str, Any]:
    """
    Issue a site's gateway certificate, the same for both nodes, into the site's pillar: pillar/secrets/issued/SITE.sls.

    Args:
        site: the site's name; its ``identity:id``, the ``local:id`` of its connections with certificates and its
            external virtual addresses become the certificate's names.

    Returns:
        ``certificate``, ``written`` and ``next`` (what to do now).

    CLI Example:

    .. code-block:: bash

        salt-run authority.issue_gateway winterthur
    """
    return _told(_issue.gateway, site)


def issue_roadwarrior(site: str, name: str | list[str], connection: str | None = None,
                      version: str = "5.2") -> dict[str, Any]:
    """
    Issue a person's certificate, and make a folder with all that is needed to connect; see docs/certificates.md.

    Args:
        site: the site's name.
        name: the person's or the device's: a-z, 0-9 and hyphens. Or a list of such names.
        connection: the name of one of the site's roadwarrior connections; left out, the first.
        version: of Libreswan on the client, if the client is Libreswan.

    Returns:
        ``issued``: by name ``certificate``, ``bundle`` (the folder) and ``passphrase`` (the path of its file). Where a
        certificate of that name was revoked before, also what :func:`crl` returns: by the new list the gateways know
        that this person may stay.

    CLI Example:

    .. code-block:: bash

        salt-run authority.issue_roadwarrior winterthur anna
        salt-run authority.issue_roadwarrior winterthur '[anna, anna-phone, bert]'
    """
    return _told(_issue.roadwarriors, site, [name] if isinstance(name, str) else name, connection, str(version))


def renew(site: str | None = None, days: int | None = None) -> dict[str, Any]:
    """
    Issue new certificates, with new keys, for those that expire soon and are neither revoked nor renewed already.

    Args:
        site: the site's name; left out, all.
        days: how soon; left out, ``renew_days`` of the master's configuration.

    Returns:
        ``renewed``: by site, by name what :func:`issue_gateway` and :func:`issue_roadwarrior` return. The old
        certificates are valid until they expire.

    CLI Example:

    .. code-block:: bash

        salt-run authority.renew
        salt-run authority.renew winterthur days=60
    """
    return _told(_issue.renew, site, days)


def revoke(site: str, name: str, reason: str = "unspecified") -> dict[str, Any]:
    """
    Revoke all certificates of a person, or all but the newest of a gateway, and publish the list.

    Args:
        site: the site's name.
        name: the person's name, or the gateway's ``identity:id``.
        reason: unspecified, key_compromise, affiliation_changed, superseded, cessation_of_operation or
            privilege_withdrawn.

    Returns:
        ``revoked`` (serial numbers), ``written`` and ``next``. The gateways get the list by the `state.apply` in
        ``next``.

    CLI Example:

    .. code-block:: bash

        salt-run authority.revoke winterthur anna reason=key_compromise
    """
    return _told(_revocation.revoke, site, name, reason)


def crl(site: str | None = None) -> dict[str, Any]:
    """
    Publish a new revocation list, with a higher number and a new date: pillar/secrets/crls/SITE.sls.

    Args:
        site: the site's name; left out, all that have a certificate of this authority.

    Returns:
        ``number``, ``entries``, ``next_update``, ``written`` and ``next``.

    CLI Example:

    .. code-block:: bash

        salt-run authority.crl
    """
    return _told(_revocation.crl, [site] if site else None)


def list_(site: str | None = None) -> dict[str, Any]:
    """
    What was issued, newest first, and until when it is valid, in words.

    Args:
        site: the site's name; left out, all.

    CLI Example:

    .. code-block:: bash

        salt-run authority.list winterthur
    """
    return _told(_overview.overview, site)


__func_alias__ = {"list_": "list"}


def _told(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """The result of a function of issuing/ on this master, or its mistakes."""
    return _errors.told(__context__, function, __opts__, *args)
