"""The reference of everything a site may say, as Markdown."""
from __future__ import annotations

from typing import Any

import yaml

_INTRODUCTION = """\
# What a site may say

Made from `pillar/schema.sls` by `salt-run gateway.reference`; do not edit.

A site is one file, `pillar/sites/SITE.sls`, plain YAML with everything under the key `gateway`. Its nodes' minion ids
are `NODE.SITE`, with NODE as `uname -n` says. A key that is left out has its default. A mapping that a site gives is
laid over the default, a list replaces it, and a list of one needs no brackets. `salt-run gateway.validate SITE` names
every mistake before a node sees it. It refuses what Salt would take for a template, so `{{`, `{%`, `{#` and a first
line such as `#!py`, in comments too: what was checked is what the nodes get.
"""


def reference(schema: dict[str, Any], examples: dict[str, dict[str, Any]], types: dict[str, str]) -> str:
    """
    The reference as Markdown.

    Args:
        schema: the pillar key ``gateway_schema``.
        examples: by name, sites (the pillar key ``gateway``) to take examples from.
        types: by name, what a value of a type is.
    """
    parts = [_INTRODUCTION, "## gateway\n", _table(schema)]
    for key, rule in schema.items():
        parts += _section(f"gateway:{key}", rule)
        for name, data in examples.items():
            if key in data and "keys" in _inner(rule):
                example = yaml.safe_dump({key: data[key]}, sort_keys=False, default_flow_style=None, width=110)
                parts.append(f"In {name}:\n\n```yaml\n{example}```\n")
    parts += ["## Types\n", "| Type | A value of it is |\n| --- | --- |\n"
              + "".join(f"| {kind} | {meaning} |\n" for kind, meaning in sorted(types.items()))]
    return "\n".join(parts)


def _inner(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule of a list's or a mapping's entries; of anything else, the rule itself."""
    return rule["of"] if isinstance(rule.get("of"), dict) else rule


def _section(path: str, rule: dict[str, Any]) -> list[str]:
    """A heading and a table for each mapping of known keys, however deep."""
    inner = _inner(rule)
    if "keys" not in inner:
        return []
    if inner is not rule:
        path += ":" + {"mapping": "NAME", "list": "N"}[rule["type"]]
    parts = [f"## {path}\n", f"{rule.get('about', '')}\n", _table(inner["keys"])]
    for key, sub in inner["keys"].items():
        parts += _section(f"{path}:{key}", sub)
    return parts


def _table(keys: dict[str, Any]) -> str:
    """A Markdown table with a line for each key."""
    lines = ["| Key | Value | Default | Meaning | Becomes |", "| --- | --- | --- | --- | --- |"]
    for key, rule in keys.items():
        cells = f"`{key}`", _value(rule), _default(rule), rule.get("about", ""), rule.get("counterpart", "")
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _value(rule: dict[str, Any] | str) -> str:
    """A rule in words."""
    if isinstance(rule, str):
        return rule
    if "keys" in rule:
        return "mapping, see below"
    kind = rule["type"]
    if kind == "choice":
        sets = rule["choices"] if isinstance(rule["choices"], dict) else dict.fromkeys(rule["choices"], {})
        return "one of " + ", ".join(f"`{choice}`" + _choice(its) for choice, its in sets.items())
    if kind == "list":
        return f"list of {_value(rule['of'])}"
    if kind == "mapping":
        return f"mapping: {_value(rule['names'])} to {_value(rule['of'])}"
    limits = f" {rule['min']} to {rule['max']}" if "min" in rule else ""
    return f"{kind}{limits} {rule.get('unit', '')}".rstrip()


def _choice(stands_for: dict[str, Any]) -> str:
    """What a word stands for, in brackets, and what speaks for and against it."""
    said = ", ".join(f"{key} {str(value).lower()}" for key, value in stands_for.items() if key != "about")
    about = f"; {' '.join(stands_for['about'].split())}" if "about" in stands_for else ""
    return f" ({said}{about})" if said else ""


def _default(rule: dict[str, Any]) -> str:
    """A rule's default in words."""
    if rule.get("required"):
        return "**required**"
    if "derived" in rule:
        return f"*{rule['derived']}*"
    if "keys" in rule:
        return "*left out*" if rule.get("optional") else ""
    default = rule.get("default", "")
    if default in ("", [], {}):
        return "*none*"
    return f"`{yaml.safe_dump(default, default_flow_style=True, width=10000).removesuffix('...' + chr(10)).strip()}`"
