"""What a client of a site needs: its ipsec.conf."""
from __future__ import annotations

from typing import Any

import salt.utils.templates
from salt.exceptions import SaltRunnerError

from sites import files, tree


def ipsec_conf(opts: dict[str, Any], site: str, connection: str | None, client: dict[str, str]) -> str:
    """
    A client's ipsec.conf, from the template under salt/openswan/files.

    Args:
        site, connection: as of ``gateway.roadwarrior``.
        client: ``name``, ``certificate``, ``key`` and ``version`` of the client, as the template has them.

    Raises:
        SaltRunnerError: with a line for each mistake in the site, or because there is no such connection.
    """
    settings = files.settings(opts, site)
    known = {entry["name"]: entry for entry in settings["connections"] if entry["kind"] == "roadwarrior"}
    name = connection or next(iter(known), None)
    if name not in known:
        raise SaltRunnerError(f"{site}: gateway:connections: no roadwarrior connection {name or 'at all'}; "
                              f"known are {', '.join(known) or 'none'}")
    template = tree.find(opts, "file_roots", "openswan/files/roadwarrior.conf.jinja")
    rendered = salt.utils.templates.JINJA(str(template), to_str=True, opts=opts, saltenv="",
                                          context={"connection": known[name], "client": client})
    if not rendered["result"]:
        raise SaltRunnerError(f"{site}: {template}: {rendered['data']}")
    text: str = rendered["data"]
    return text
