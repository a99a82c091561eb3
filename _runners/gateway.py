"""
What an operator asks the master about the sites
================================================

``validate`` before a change is rolled out, ``roles`` and ``active`` for who is active now, ``version`` for what is
installed where, ``roadwarrior`` for the person who wants to connect, ``reference`` for whoever writes a site. Nothing
here changes a gateway; the orchestrations under ``salt/orch`` do.

The checks are those of ``_modules/gateway.py``, the same file that the minions get from this master's file server.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import NotRequired, TypedDict

from salt.exceptions import SaltRunnerError

# Trap: Salt's loader has this file's own folder on the path, where runners are called like the packages. So the tree
# comes first in the path, and only for these imports.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from sites import checks, client, document, files, pairs, tree, versions
finally:
    del sys.path[0]

__virtualname__ = "gateway"


class _Checked(TypedDict):
    """What :func:`validate` returns, without ``next``."""

    valid: list[str]
    mistakes: list[str]
    retcode: int
    warnings: NotRequired[list[str]]


def validate(site: str | None = None) -> dict:
    """
    Look for mistakes in one site of this master's pillar, or in all of them.

    Args:
        site: the site's name; left out, all.

    Returns:
        ``valid``: the sites without mistakes; ``mistakes``: one line each; ``retcode``: 0, or 1 when there are
        mistakes, which makes it the exit status of ``salt-run``; ``warnings``, where there are any: what works and
        lets in more than it should. While there is no site at all, also ``next``: what to do now.

    CLI Example:

    .. code-block:: bash

        salt-run gateway.validate
        salt-run gateway.validate winterthur
    """
    names = [site] if site else files.names(__opts__)
    valid, mistakes, warnings = checks.check(__opts__, names)
    if not names:
        place = tree.find(__opts__, "pillar_roots", "schema.sls").parent / "sites"
        return {**_result([], []), "next": f"there is no site yet: copy examples/sites/winterthur.sls of the tree to "
                                           f"{place}/SITE.sls, change it to your site, and validate again; "
                                           "docs/install.md leads through it"}
    return {**_result(valid, mistakes), **({"warnings": warnings} if warnings else {})}


def sites() -> list[str]:
    """
    The sites of this master's pillar.

    CLI Example:

    .. code-block:: bash

        salt-run gateway.sites
    """
    return files.names(__opts__)


def roles(site: str) -> dict:
    """
    The roles of a site's nodes as they are now: the runner asks each node and remembers nothing.

    Args:
        site: the site's name.

    Returns:
        By minion id the role, as ``heartbeat.role`` has it, ``silent`` for a node that does not answer (and why, when
        something answers that it has not signed), and ``split`` for both when both say they are active; or what
        :func:`validate` returns, when there is no such site or a node has no accepted key.

    CLI Example:

    .. code-block:: bash

        salt-run gateway.roles winterthur
    """
    its = pair(site)
    return its["roles"] or dict(_result([], its["mistakes"]))


def active(site: str) -> str | dict:
    """
    The minion id of a site's active node, to be used as a target. The runner asks the nodes, so it is true now; a
    grain, a pillar or the mine would be from the last time somebody refreshed them.

    Args:
        site: the site's name.

    Returns:
        The minion id; or what :func:`validate` returns, when there is not exactly one.

    CLI Example:

    .. code-block:: bash

        salt "$(salt-run --out=txt gateway.active winterthur)" ipsec.status
    """
    its = pair(site)
    return its["active"] or dict(_result([], its["mistakes"]))


def version(site: str | None = None) -> dict:
    """
    The version of this master's tree, and of the tree that each node's modules came from.

    Args:
        site: the site's name; left out, all.

    Returns:
        ``master``: the version here; ``nodes``: by minion id the version there, or ``silent``, or ``unknown`` when the
        answer was no version, as from a node that was last applied before 1.0.0; ``mistakes``: one line for each node
        that has another version, does not answer or has no accepted key; ``retcode``: 1 when there are any.

    CLI Example:

    .. code-block:: bash

        salt-run gateway.version
        salt-run gateway.version winterthur
    """
    found = versions.versions(__opts__, [site] if site else files.names(__opts__))
    __context__["retcode"] = 1 if found.mistakes else 0
    return {"master": found.here, "nodes": found.nodes, "mistakes": found.mistakes, "retcode": __context__["retcode"]}


def pair(site: str) -> pairs.Pair:
    """
    A site's two nodes for an orchestration: their roles now, and what speaks against moving the active role.

    Args:
        site: the site's name.

    Returns:
        ``site``; ``roles``, by minion id; ``preferred``, ``active`` and ``standby``, minion ids; ``mistakes``, one line
        each, when there is no such site, a node has no accepted key or does not answer, or the nodes are not one active
        and one standby. ``active`` and ``standby`` are empty where they are not known.

    CLI Example:

    .. code-block:: bash

        salt-run gateway.pair winterthur
    """
    return pairs.pair(__opts__, site)


def roadwarrior(site: str, connection: str | None = None, certificate: str = "roadwarrior", key: str = "rsa",
                version: str = "5.2") -> str | dict:
    """
    The ipsec.conf of a client of a site (the paper's 4.4.4), for /etc/ipsec.d on the client.

    Args:
        site: the site's name.
        connection: the name of one of its roadwarrior connections; left out, the first.
        certificate: the nickname of the client's certificate in the client's own NSS database.
        key: the kind of its key and of the gateway's, rsa or ec.
        version: the client's Libreswan: 4.x and 5.x differ in their options.

    Returns:
        The file's text; or what :func:`validate` returns, when there is no such site or connection or the site has
        mistakes.

    CLI Example:

    .. code-block:: bash

        salt-run --no-color gateway.roadwarrior winterthur certificate=laptop > gateway.conf
    """
    try:
        its = {"name": site, "certificate": certificate, "key": key, "version": str(version)}
        return client.ipsec_conf(__opts__, site, connection, its)
    except SaltRunnerError as error:
        # An exception that leaves this function makes salt-run print a traceback above the message.
        return dict(_result([], str(error).splitlines()))


def reference() -> str:
    """
    The reference of everything a site may say, as Markdown: docs/site-reference.md.

    CLI Example:

    .. code-block:: bash

        salt-run --no-color gateway.reference > docs/site-reference.md
    """
    return document.reference(files.schema(__opts__), files.examples(), tree.gateway(__opts__).TYPES)


def _result(valid: list[str], mistakes: list[str]) -> _Checked:
    """The result of a check. The return code is for salt-run and for the job's event."""
    __context__["retcode"] = 1 if mistakes else 0
    return {"valid": valid, "mistakes": mistakes, "retcode": __context__["retcode"]}
