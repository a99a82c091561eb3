"""
Certificates, keys and revocation lists in the place where the IPsec daemon reads them.

Their content comes from pillar, by path. It is never part of a state's arguments, changes or comment:
see the execution module :py:mod:`certs <modules.certs>`.

.. code-block:: yaml

    gateway:
      certs.present:
        - pillar: gateway_secrets:certificates:gateway
        - identity: gateway.winterthur.example

For strongSwan, with the command that makes a running daemon load it (established tunnels stay):

.. code-block:: yaml

    gateway:
      certs.present:
        - pillar: gateway_secrets:certificates:gateway
        - store: swanctl
    swanctl --load-creds --noprompt:
      cmd.run:
        - onchanges:
          - certs: gateway
"""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError


def __virtual__() -> bool | tuple[bool, str]:
    for module in ("certs", "nss", "swanctl"):
        if f"{module}.install" not in __salt__:
            return False, f"certs: the execution module {module} could not be loaded"
    return True


def present(name: str, pillar: str, identity: str | list[str] = "", store: str = "nss") -> dict[str, Any]:
    """
    An identity is in the store, under this name, with its key and its trusted authorities.

    name
        The nickname in Libreswan's configuration; for strongSwan the certificate's file name, NAME.pem.
    pillar
        Path of the identity in pillar.
    identity
        By what peers know the gateway, one or several; each must be in the certificate (see
        :py:func:`certs.inspect <modules.certs.inspect>`).
    store
        ``nss``, Libreswan's database, or ``swanctl``, strongSwan's folders.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        found = __salt__["certs.state_of"](name, pillar, identity, store)
        if found["same"]:
            ret["comment"] = f"{name} is in place, valid until {found['wanted']['not_after']}"
            return ret
        ret["changes"] = _difference(name, found)
        damage = __salt__["nss.damaged"]() if store == "nss" else ""
        if damage:
            ret["changes"]["database"] = {"old": damage, "new": "made anew"}
        if __opts__["test"]:
            ret.update(result=None, comment=f"{name} would be installed")
            return ret
        __salt__["certs.install"](name, pillar, identity, store)
        ret["comment"] = f"{name} was installed, valid until {found['wanted']['not_after']}"
        if damage:
            ret["comment"] += "; a daemon that runs sees the new database when it is restarted"
    except CommandExecutionError as err:
        ret.update(result=False, changes={}, comment=str(err))
    return ret


def _difference(name: str, found: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if found["current"] != found["wanted"]["fingerprint"] or not found["key"]:
        changes[name] = {"old": found["current"], "new": found["wanted"]["fingerprint"]}
    for authority in found["missing_authorities"]:
        changes[authority] = {"old": "", "new": "trusted"}
    # an older key that is still there, or a file with another mode
    return changes or {name: {"old": "not as it should be", "new": "as it should be"}}


def crl_present(name: str, pillar: str, store: str = "nss") -> dict[str, Any]:
    """
    A revocation list is in the store.

    name
        Any name of the list (the key below ``gateway_secrets:crls``).
    pillar
        Path of the list in pillar: PEM, or DER in base64.
    store
        ``nss``, Libreswan's database, or ``swanctl``, strongSwan's folders.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        found = __salt__["certs.crl_state_of"](pillar, store)
        if found["same"]:
            ret["comment"] = f"{name} is in place, next due {found['wanted']['next_update']}"
            return ret
        ret["changes"] = {found["wanted"]["issuer"]: {"old": found["current"], "new": found["wanted"]["this_update"]}}
        if __opts__["test"]:
            ret.update(result=None, comment=f"{name} would be installed")
            return ret
        __salt__["certs.install_crl"](pillar, store)
        ret["comment"] = f"{name} was installed, next due {found['wanted']['next_update']}"
    except CommandExecutionError as err:
        ret.update(result=False, changes={}, comment=str(err))
    return ret
