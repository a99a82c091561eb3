"""What the authority has to know of a site."""
from __future__ import annotations

import re
from typing import Any

from issuing.errors import refuse
from sites import files as site_files


def settings(opts: dict[str, Any], site: str) -> dict[str, Any]:
    """A site as its first node sees it. Its secrets are not checked: they may be what is being made."""
    if not isinstance(site, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", site):
        raise refuse(f"{site!r} is no site's name")
    return site_files.settings(opts, site)


def roadwarrior_connection(site: str, settings: dict[str, Any], name: str | None) -> dict[str, Any]:
    """A roadwarrior connection of a site; without a name, its first."""
    known = {each["name"]: each for each in settings["connections"]
             if each["kind"] == "roadwarrior" and each["auth"] == "certificate"}
    if not known or name not in (None, *known):
        raise refuse(f"{site} has no roadwarrior connection {name or 'at all'} with auth: certificate; "
                      f"known are {', '.join(known) or 'none'}")
    return known[name] if name else next(iter(known.values()))
