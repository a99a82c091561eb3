"""
What an operator asks the master about the sites
================================================

``validate`` before a change is rolled out, ``roadwarrior`` for the person who wants to connect, ``reference`` for
whoever writes a site. Nothing here touches a gateway.

The checks are those of ``_modules/gateway.py``, the very file that the minions get from this master's file server.
"""
from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import salt.loader
import salt.template
import salt.utils.dictupdate
import salt.utils.templates
import yaml
from salt.exceptions import SaltRunnerError

__virtualname__ = "gateway"


def validate(site: str | None = None) -> dict:
    """
    Look for mistakes in all sites of this master's pillar, or in one.

    Args:
        site: the site's name; left out, all.

    Returns:
        ``valid``: the sites without mistakes; ``mistakes``: one line each; ``retcode``: 0, or 1 when there are
        mistakes, which makes it the exit status of ``salt-run``.

    CLI Example:

    .. code-block:: bash

        salt-run gateway.validate
        salt-run gateway.validate winterthur
    """
    valid, mistakes = [], []
    gateway, schema, renderers = _gateway(), _schema(), salt.loader.render(__opts__, {})
    for name in [site] if site else sites():
        try:
            found = gateway.find_mistakes(_site(name), schema, secrets=_secrets(name, renderers))
        except SaltRunnerError as error:
            found = [str(error)]
        mistakes += found
        if not found:
            valid.append(name)
    return _result(valid, mistakes)


def sites() -> list[str]:
    """
    The sites of this master's pillar.

    CLI Example:

    .. code-block:: bash

        salt-run gateway.sites
    """
    folders = [Path(root) / "sites" for root in __opts__["pillar_roots"].get("base", [])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.sls")})


def roadwarrior(site: str, connection: str | None = None, certificate: str = "roadwarrior", key: str = "rsa",
                version: str = "5.2") -> str | dict:
    """
    The ipsec.conf of a client of a site (the paper's 4.4.4), to be put under /etc/ipsec.d on the client.

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
        client = {"name": site, "certificate": certificate, "key": key, "version": str(version)}
        return _client(site, connection, client)
    except SaltRunnerError as error:
        # Raised out of here, salt-run would show a traceback above it.
        return _result([], str(error).splitlines())


def reference() -> str:
    """
    The reference of everything a site may say, as Markdown: docs/site-reference.md.

    CLI Example:

    .. code-block:: bash

        salt-run --no-color gateway.reference > docs/site-reference.md
    """
    return _document(_schema(), {name: _site(name) for name in sites()})


def _result(valid: list[str], mistakes: list[str]) -> dict:
    """What a check has come to; the return code is for salt-run and for the job's event."""
    __context__["retcode"] = 1 if mistakes else 0
    return {"valid": valid, "mistakes": mistakes, "retcode": __context__["retcode"]}


def _client(site: str, connection: str | None, client: dict[str, str]) -> str:
    """A client's ipsec.conf."""
    data, schema, gateway = _site(site), _schema(), _gateway()
    found = gateway.find_mistakes(data, schema)
    if found:
        raise SaltRunnerError("\n".join(found))
    settings = gateway.derive(data, schema, next(iter(data["nodes"])))
    known = {entry["name"]: entry for entry in settings["connections"] if entry["kind"] == "roadwarrior"}
    name = connection or next(iter(known), None)
    if name not in known:
        raise SaltRunnerError(f"{site}: gateway:connections: no roadwarrior connection {name or 'at all'}; "
                              f"known are {', '.join(known) or 'none'}")
    template = _find("file_roots", "openswan/files/roadwarrior.conf.jinja")
    rendered = salt.utils.templates.JINJA(str(template), to_str=True, opts=__opts__, saltenv="",
                                          context={"connection": known[name], "client": client})
    if not rendered["result"]:
        raise SaltRunnerError(f"{site}: {template}: {rendered['data']}")
    return rendered["data"]


def _gateway() -> ModuleType:
    """The execution module, loaded as plain Python."""
    spec = importlib.util.spec_from_file_location("gateway_of_the_tree", _find("file_roots", "_modules/gateway.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _find(roots: str, path: str) -> Path:
    """A file of the tree on this master."""
    folders = __opts__[roots].get("base", [])
    for folder in folders:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    raise SaltRunnerError(f"{path} is under none of this master's {roots} ({', '.join(folders)}); "
                          "is etc/salt/master.d/gateway.conf of the tree in /etc/salt/master.d?")


def _yaml(path: Path) -> dict:
    """A YAML file, without Salt's templates."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SaltRunnerError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error


def _schema() -> dict:
    return _yaml(_find("pillar_roots", "schema.sls"))["gateway_schema"]


def _site(name: str) -> object:
    """The pillar key gateway of a site."""
    data = _yaml(_find("pillar_roots", f"sites/{name}.sls"))
    file = f"pillar/sites/{name}.sls"
    if not isinstance(data, dict) or "gateway" not in data:
        raise SaltRunnerError(f"{name}: gateway: is missing in {file}; put all of the site under it")
    site = data["gateway"]
    if isinstance(site, dict) and site.get("site", name) != name:
        raise SaltRunnerError(f"{name}: gateway:site: {site['site']} is not the name of the file {file}; give {name}, "
                              f"or rename the file")
    return site


def _secrets(name: str, renderers: dict) -> dict:
    """A site's secrets as its nodes would get them, decrypted; empty where there are none."""
    found: dict = {}
    for file in (f"secrets/{name}.sls", f"secrets/issued/{name}.sls", f"secrets/crls/{name}.sls"):
        try:
            path = _find("pillar_roots", file)
        except SaltRunnerError:
            continue
        rendered = salt.template.compile_template(
            str(path), renderers, __opts__["renderer"], __opts__["renderer_blacklist"], __opts__["renderer_whitelist"])
        if isinstance(rendered, dict) and isinstance(rendered.get("gateway_secrets"), dict):
            found = salt.utils.dictupdate.update(found, rendered["gateway_secrets"])
    return found


# The reference

_INTRODUCTION = """\
# What a site may say

Made from `pillar/schema.sls` by `salt-run gateway.reference`; do not edit.

A site is one file, `pillar/sites/SITE.sls`, plain YAML with everything under the key `gateway`. Its nodes' minion ids
are `NODE.SITE`, with NODE as `uname -n` says. A key that is left out has its default. A mapping that a site gives is
laid over the default, a list replaces it, and a list of one needs no brackets. `salt-run gateway.validate SITE` names
every mistake before a node sees it.
"""


def _document(schema: dict, examples: dict[str, object]) -> str:
    """
    The reference as Markdown.

    Args:
        schema: the pillar key ``gateway_schema``.
        examples: by name, sites (the pillar key ``gateway``) to take examples from.
    """
    parts = [_INTRODUCTION, "## gateway\n", _table(schema)]
    for key, rule in schema.items():
        parts += _section(f"gateway:{key}", rule)
        for name, data in examples.items():
            if key in data and "keys" in _inner(rule):
                example = yaml.safe_dump({key: data[key]}, sort_keys=False, default_flow_style=None, width=110)
                parts.append(f"In {name}:\n\n```yaml\n{example}```\n")
    types = _gateway().TYPES
    parts += ["## Types\n", "| Type | A value of it is |\n| --- | --- |\n"
              + "".join(f"| {kind} | {meaning} |\n" for kind, meaning in sorted(types.items()))]
    return "\n".join(parts)


def _inner(rule: dict) -> dict:
    """What a rule's entries look like, for a list or a mapping of them."""
    return rule["of"] if isinstance(rule.get("of"), dict) else rule


def _section(path: str, rule: dict) -> list[str]:
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


def _table(keys: dict) -> str:
    lines = ["| Key | Value | Default | Meaning | Becomes |", "| --- | --- | --- | --- | --- |"]
    for key, rule in keys.items():
        cells = f"`{key}`", _value(rule), _default(rule), rule.get("about", ""), rule.get("counterpart", "")
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _value(rule: dict | str) -> str:
    """A rule in words."""
    if isinstance(rule, str):
        return rule
    if "keys" in rule:
        return "mapping, see below"
    kind = rule["type"]
    if kind == "choice":
        sets = rule["choices"] if isinstance(rule["choices"], dict) else dict.fromkeys(rule["choices"], {})
        return "one of " + ", ".join(
            f"`{choice}`" + (f" ({', '.join(f'{key} {value}' for key, value in its.items())})" if its else "")
            for choice, its in sets.items())
    if kind == "list":
        return f"list of {_value(rule['of'])}"
    if kind == "mapping":
        return f"mapping: {_value(rule['names'])} to {_value(rule['of'])}"
    limits = f" {rule['min']} to {rule['max']}" if "min" in rule else ""
    return f"{kind}{limits} {rule.get('unit', '')}".rstrip()


def _default(rule: dict) -> str:
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
