"""Looks for mistakes in sites, and for what lets in more than it should."""
from __future__ import annotations

from typing import Any, NamedTuple

import salt.loader
import salt.utils.data
from salt.exceptions import CommandExecutionError, SaltRunnerError

from sites import files, tree


class Found(NamedTuple):
    """What was found in some sites."""

    valid: list[str]  # the sites without mistakes
    mistakes: list[str]  # one line each
    warnings: list[str]  # what works and lets in more than it should


def check(opts: dict[str, Any], names: list[str]) -> Found:
    """Look for mistakes in sites, their secrets included."""
    valid: list[str] = []
    mistakes: list[str] = []
    warnings: list[str] = []
    gateway, schema, renderers = tree.gateway(opts), files.schema(opts), salt.loader.render(opts, {})
    for name in names:
        try:
            data, secrets = files.site(opts, name), files.secrets(opts, name, renderers)
            found = gateway.find_mistakes(data, schema, secrets=secrets)
        except SaltRunnerError as error:
            found = str(error).splitlines()
        mistakes += found
        if not found and isinstance(data, dict):
            valid.append(name)
            warnings += _left_open(opts, gateway.derive(data, schema, next(iter(data["nodes"]))), secrets)
    return Found(valid, mistakes, warnings)


def _left_open(opts: dict[str, Any], settings: dict[str, Any], secrets: dict[str, Any]) -> list[str]:
    """The connections that let in more than the site says: see ``ipsec.left_open``."""
    certs = tree.execution_module(opts, "certs")
    place = f"gateway_secrets:certificates:{settings['identity']['certificate']}"
    vars(certs)["__salt__"] = {"pillar.get": lambda path, default=None, **_: salt.utils.data.traverse_dict_and_list(
        {"gateway_secrets": secrets}, path, default)}
    try:
        own = certs.inspect(place)["subject"]
    except CommandExecutionError:       # a node refuses it, with the reason
        return []
    found: list[str] = tree.execution_module(opts, "ipsec").left_open(settings, own)
    return found
