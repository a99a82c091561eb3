"""What the master's configuration says of the authority: gateway_authority, checked."""
from __future__ import annotations

from typing import Any

from issuing.errors import refuse

DEFAULTS: dict[str, str | int] = {
    "folder": "/etc/salt/gateway-authority", "gpg_recipient": "", "organization": "", "key": "ec256",
    "authority_days": 3650, "gateway_days": 730, "roadwarrior_days": 365, "crl_days": 30, "renew_days": 30,
}


def value(opts: dict[str, Any], key: str) -> Any:
    """A value of gateway_authority in the master's configuration, or its default."""
    given = opts.get("gateway_authority") or {}
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise refuse(f"gateway_authority:{unknown[0]} in the master's configuration is not known; "
                      f"there are {', '.join(DEFAULTS)}")
    value = given.get(key, DEFAULTS[key])
    if isinstance(DEFAULTS[key], int) and (not isinstance(value, int) or not 0 < value < 36500):
        raise refuse(f"gateway_authority:{key} in the master's configuration is {value}; give a number of days")
    return value
