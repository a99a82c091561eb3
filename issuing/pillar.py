"""What the authority writes into pillar: pillar/secrets/issued/SITE.sls and pillar/secrets/crls/SITE.sls."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import salt.utils.yaml
import yaml

from issuing import files
from issuing.errors import refuse

OWN_LIST = "gateway-authority"  # the name of this authority's revocation list in pillar


def file(opts: dict[str, Any], kind: str, site: str) -> Path:
    """pillar/secrets/KIND/SITE.sls of the tree, in a folder that is made if it is not there."""
    roots = opts["pillar_roots"].get("base", [])
    root = next((Path(each) for each in roots if (Path(each) / "schema.sls").is_file()), None)
    if root is None:
        raise refuse(f"schema.sls is under none of this master's pillar_roots ({', '.join(roots)})")
    folder = root / "secrets" / kind
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{site}.sls"


def listed(path: Path) -> dict[str, Any]:
    """What is in a file of lists."""
    try:
        found = salt.utils.yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
        its = (found or {}).get("gateway_secrets") or {}
        lists = its.get("crls") or {}
        return dict(its) | {"crls": dict(lists)}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        raise refuse(f"{path} is damaged; remove it, then publish and fetch its lists again") from None


def lists(opts: dict[str, Any], site: str) -> dict[str, Any]:
    """What is in a site's file of lists."""
    return listed(file(opts, "crls", site))


def write_lists(opts: dict[str, Any], site: str, tree: dict[str, Any]) -> str:
    """Replace a site's file of lists; its path."""
    return files.write(file(opts, "crls", site), text("#!yaml", tree).encode())


def apply(site: str) -> str:
    """The command that brings a site's pillar to its nodes."""
    return f"salt '*.{site}' state.apply"


def refuse_handwritten(path: Path, nickname: str) -> None:
    """Refuse a certificate that SITE.sls already has: pillar would merge the two into something that is neither."""
    if not path.exists():
        return
    try:
        found = salt.utils.yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        there = nickname in ((found.get("gateway_secrets") or {}).get("certificates") or {})
    except (yaml.YAMLError, AttributeError, TypeError):
        raise refuse(f"{path} is not YAML, or not of the shape of example.sls.txt") from None
    if there:
        raise refuse(f"{path} gives certificates:{nickname} already; take it out there first, and do not apply in "
                      "between")


def text(renderers: str, tree: dict[str, Any]) -> str:
    """The text of a file in pillar, for these renderers of Salt."""
    return (f"{renderers}\n# Written by salt-run authority and salt-run lists; do not edit.\n"
            + yaml.dump({"gateway_secrets": tree}, Dumper=_Dumper, default_flow_style=False, sort_keys=False))


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(
    "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))
