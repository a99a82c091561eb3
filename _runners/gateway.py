"""
What an operator asks the master about the sites
================================================

``validate`` before a change is rolled out, ``roles`` and ``active`` for who is active now, ``version`` for what is
installed where, ``roadwarrior`` for the person who wants to connect, ``reference`` for whoever writes a site. Nothing
here changes a gateway; the orchestrations under ``salt/orch`` do.

The checks are those of ``_modules/gateway.py``, the same file that the minions get from this master's file server.
"""
from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NotRequired, TypedDict

import salt.client
import salt.loader
import salt.template
import salt.utils.data
import salt.utils.dictupdate
import salt.utils.minions
import salt.utils.templates
import salt.utils.yaml
import yaml
from salt.exceptions import CommandExecutionError, SaltRunnerError

# Trap: Salt's loader has this file's own folder on the path, where runners are called like the packages. So the tree
# comes first in the path, and only for these imports.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from nodes import asking
    from nodes.keys import Keys
finally:
    del sys.path[0]

__virtualname__ = "gateway"

# How long the nodes may take to answer.
_ANSWER_SECONDS = 15
# What YAML raises besides its own errors, on `!!bool maybe`, a number of 5,000 digits, or endless brackets.
_NO_VALUE = (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError)
# What makes Salt's renderers read a site file as something else than YAML (pillar/top.sls renders it as Jinja, always).
_JINJA = re.compile(r"\{[{%#]")
_RENDERED_ALIKE = ("#!yaml", "#!jinja|yaml")
# What a node may call its version: three numbers. Anything else that it says is not printed.
_VERSION_OF = "gateway_version.installed"
_VERSION = r"[0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}"


class _Checked(TypedDict):
    """What :func:`validate` returns, without ``next``."""

    valid: list[str]
    mistakes: list[str]
    retcode: int
    warnings: NotRequired[list[str]]


class _Pair(TypedDict):
    """What :func:`pair` returns."""

    site: str
    roles: dict[str, str]
    preferred: str
    active: str
    standby: str
    mistakes: list[str]


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
    valid: list[str] = []
    mistakes: list[str] = []
    warnings: list[str] = []
    gateway, schema, renderers = _gateway(), _schema(), salt.loader.render(__opts__, {})
    names = [site] if site else sites()
    for name in names:
        try:
            data, secrets = _site(name), _secrets(name, renderers)
            found = gateway.find_mistakes(data, schema, secrets=secrets)
        except SaltRunnerError as error:
            found = str(error).splitlines()
        mistakes += found
        if not found and isinstance(data, dict):
            valid.append(name)
            warnings += _left_open(gateway.derive(data, schema, next(iter(data["nodes"]))), secrets)
    if not names:
        place = _find("pillar_roots", "schema.sls").parent / "sites"
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
    folders = [Path(root) / "sites" for root in __opts__["pillar_roots"].get("base", [])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.sls")})


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
    here = _execution_module("gateway_version").VERSION
    minions: dict[str, str] = {}
    mistakes: list[str] = []
    for name in [site] if site else sites():
        try:
            found, without = _minions(name, list(_nodes(name)))
        except SaltRunnerError as error:
            mistakes += str(error).splitlines()
        else:
            minions |= dict.fromkeys(found.values(), name)
            mistakes += without
    said = _ask(list(minions), _VERSION_OF) if minions else {}
    nodes = {}
    for minion, name in minions.items():
        nodes[minion] = _version_of(said.get(minion))
        if nodes[minion] == "silent":
            mistakes.append(f"{name}: {minion} does not answer within {_ANSWER_SECONDS} s")
        elif nodes[minion] != here:
            mistakes.append(f"{name}: {minion} has the version {nodes[minion]}, this master {here}; "
                            f"`salt-run resync.now {name}` or `salt '{minion}' state.apply` brings it there")
    __context__["retcode"] = 1 if mistakes else 0
    return {"master": here, "nodes": nodes, "mistakes": mistakes, "retcode": __context__["retcode"]}


def pair(site: str) -> _Pair:
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
    none: _Pair = {"site": "", "roles": {}, "preferred": "", "active": "", "standby": "", "mistakes": []}
    try:
        names = list(_nodes(site))
    except SaltRunnerError as error:
        return {**none, "mistakes": str(error).splitlines()}
    ids, mistakes = _minions(site, names)
    if mistakes:
        return {**none, "site": site, "mistakes": mistakes}
    minions = list(ids.values())
    said = _ask(minions, "heartbeat.role")
    its = {minion: said.get(minion, "silent") for minion in minions}
    if all(role in ("active", "split") for role in its.values()):
        its = dict.fromkeys(minions, "split")
    of = {role: [minion for minion in minions if its[minion] == role] for role in ("active", "standby")}
    mistakes = [] if sorted(its.values()) == ["active", "standby"] else [
        f"{site}: {minion} is {role}; one node has to be active and the other standby: see `heartbeat.status` of both"
        for minion, role in its.items() if role not in ("active", "standby") or len(of[role]) > 1]
    the_one = {role: found[0] if len(found) == 1 else "" for role, found in of.items()}
    return {"site": site, "roles": its, "preferred": minions[0], "mistakes": mistakes,
            "active": the_one["active"], "standby": the_one["standby"]}


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
        client = {"name": site, "certificate": certificate, "key": key, "version": str(version)}
        return _client(site, connection, client)
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
    return _document(_schema(), _examples())


def _result(valid: list[str], mistakes: list[str]) -> _Checked:
    """The result of a check. The return code is for salt-run and for the job's event."""
    __context__["retcode"] = 1 if mistakes else 0
    return {"valid": valid, "mistakes": mistakes, "retcode": __context__["retcode"]}


def _checked_site(site: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A site's pillar key gateway, and the schema. Raises SaltRunnerError with a line for each mistake in the site."""
    data = _site(site)          # first: it checks the name
    schema = _schema()
    found = _gateway().find_mistakes(data, schema)
    if found or not isinstance(data, dict):
        raise SaltRunnerError("\n".join(found))
    return data, schema


def _nodes(site: str) -> dict[str, Any]:
    """The nodes of a site without mistakes, by name."""
    return _checked_site(site)[0]["nodes"]


def _minions(site: str, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """The minion id of each of a site's nodes, by the node's name; a line for each node without just one."""
    accepted = _accepted()
    # NODE.SITE, or with a domain behind it: see pillar/top.sls.
    ids = {name: sorted(each for each in accepted if f"{each}.".startswith(f"{name}.{site}.")) for name in names}
    mistakes = [f"{site}: {name}: {', '.join(found) or 'no minion'} has an accepted key; there has to be one, with the "
                f"id {name}.{site}" for name, found in ids.items() if len(found) != 1]
    return {name: found[0] for name, found in ids.items() if len(found) == 1}, mistakes


def _version_of(said: str | None) -> str:
    """A node's version from its answer, which is only a text that some machine has sent."""
    if said is None:
        return "silent"
    return said if re.fullmatch(_VERSION, said) else "unknown"


def _accepted() -> list[str]:
    """The ids of all minions with an accepted key."""
    return salt.utils.minions.CkMinions(__opts__).check_minions("*", "glob")["minions"]


def _ask(minions: list[str], function: str) -> dict[str, str]:
    """
    What a function returns on some minions, as text by id; a minion that does not answer is left out. An answer counts
    only if its node has signed it; except a version, which is only shown, and which an old node could not sign.
    """
    if function != _VERSION_OF:
        said = asking.ask(dict(__opts__), Keys(__opts__["pki_dir"]), minions, function, seconds=_ANSWER_SECONDS)
        silent = {minion: f"silent ({why})" for minion, why in said.missing.items() if why != asking.SILENT}
        return silent | {minion: str(its.error or its.value) for minion, its in said.answers.items()}
    with salt.client.get_local_client(mopts=__opts__) as client:
        answers = client.cmd(minions, function, tgt_type="list", timeout=_ANSWER_SECONDS)
    return {minion: str(said) for minion, said in answers.items() if said is not False}


def _client(site: str, connection: str | None, client: dict[str, str]) -> str:
    """A client's ipsec.conf."""
    data, schema = _checked_site(site)
    settings = _gateway().derive(data, schema, next(iter(data["nodes"])))
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


def _left_open(settings: dict[str, Any], secrets: dict[str, Any]) -> list[str]:
    """The connections that let in more than the site says: see ``ipsec.left_open``."""
    certs = _execution_module("certs")
    place = f"gateway_secrets:certificates:{settings['identity']['certificate']}"
    vars(certs)["__salt__"] = {"pillar.get": lambda path, default=None, **_: salt.utils.data.traverse_dict_and_list(
        {"gateway_secrets": secrets}, path, default)}
    try:
        own = certs.inspect(place)["subject"]
    except CommandExecutionError:       # a node refuses it, with the reason
        return []
    return _execution_module("ipsec").left_open(settings, own)


def _gateway() -> ModuleType:
    """The execution module ``gateway``, loaded as plain Python."""
    return _execution_module("gateway")


def _execution_module(name: str) -> ModuleType:
    """One of the modules that this master's file server gives to the minions, loaded as plain Python."""
    path = _find("file_roots", f"_modules/{name}.py")
    spec = importlib.util.spec_from_file_location(f"{name}_of_the_tree", path)
    if spec is None or spec.loader is None:
        raise SaltRunnerError(f"{path}: Python can not load it")
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


def _yaml(path: Path) -> Any:
    """What is in a YAML file, without Salt's templates; an empty file is an empty mapping."""
    try:
        return salt.utils.yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, *_NO_VALUE) as error:
        raise SaltRunnerError(f"{path}: is not YAML: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why a text is not YAML, in one line."""
    if isinstance(error, RecursionError):
        return "it has hundreds of levels"
    # What Python says of a long number ends with advice for programmers.
    text = " ".join(str(error).partition("; use sys.")[0].split())
    return text if isinstance(error, (yaml.YAMLError, UnicodeDecodeError)) else (
        f"a value is none of its type ({text}); put it in quotes if it is meant as text")


def _schema() -> dict[str, Any]:
    """The pillar key gateway_schema."""
    return _yaml(_find("pillar_roots", "schema.sls"))["gateway_schema"]


def _site(name: str) -> object:
    """
    The pillar key gateway of a site, unchecked: it may be anything that YAML can say.

    The name is part of a path here, and of a target elsewhere, so it is checked first.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", name):
        raise SaltRunnerError(f"{str(name)[:60]!r}: is no site's name; give one of {', '.join(sites())}")
    path, file = _find("pillar_roots", f"sites/{name}.sls"), f"pillar/sites/{name}.sls"
    _check_plain(name, file, path.read_text(encoding="utf-8", errors="replace"))     # _yaml() refuses what is not UTF-8
    data = _yaml(path)
    if not isinstance(data, dict) or "gateway" not in data:
        raise SaltRunnerError(f"{name}: gateway: is missing in {file}; put all of the site under it")
    other = [key for key in ("include", "gateway_schema") if key in data]
    if other:
        raise SaltRunnerError(f"{name}: {', '.join(other)}: in {file} would change what a node gets and is not checked "
                              f"here; put all of the site under gateway")
    site = data["gateway"]
    if isinstance(site, dict) and site.get("site", name) != name:
        raise SaltRunnerError(f"{name}: gateway:site: {site['site']} is not the name of the file {file}; give {name}, "
                              f"or rename the file")
    return site


def _check_plain(name: str, file: str, text: str) -> None:
    """
    Refuse a site file of which Salt would make something else than what was checked here.

    It is refused rather than rendered here: what a template says may be another thing for each node, and another thing
    a moment later. Raises SaltRunnerError with a line for each place.
    """
    lines = text.splitlines()
    first = lines[0].rstrip() if lines else ""
    found = [f"{name}: gateway: line 1 of {file} makes Salt read it with other renderers than yaml; take it out"] if (
        first.startswith("#!") and not first.startswith("#!/") and first not in _RENDERED_ALIKE) else []
    found += [f"{name}: gateway: line {number} of {file} has {match[0]}, also in a comment a template to Salt; write "
              f"plain YAML" for number, line in enumerate(lines, 1) if (match := _JINJA.search(line))]
    if found:
        raise SaltRunnerError("\n".join(found))


def _examples() -> dict[str, dict[str, Any]]:
    """By name, the pillar key gateway of the example sites beside this file."""
    folder = Path(__file__).resolve().parent.parent / "examples/sites"
    return {path.stem: _yaml(path)["gateway"] for path in sorted(folder.glob("*.sls"))}


def _secrets(name: str, renderers: Any) -> dict[str, Any]:
    """A site's secrets as its nodes would get them, decrypted; empty where there are none."""
    found: dict[str, Any] = {}
    for file in (f"secrets/{name}.sls", f"secrets/issued/{name}.sls", f"secrets/crls/{name}.sls"):
        try:
            path = _find("pillar_roots", file)
        except SaltRunnerError:
            continue
        try:
            rendered = salt.template.compile_template(
                str(path), renderers, __opts__["renderer"], __opts__["renderer_blacklist"],
                __opts__["renderer_whitelist"])
        except Exception as error:
            # Not what it says: that may quote a secret.
            raise SaltRunnerError(f"{name}: gateway_secrets: Salt can not read {file} ({type(error).__name__}); look "
                                  f"for a mistake in its YAML") from None
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
every mistake before a node sees it. It refuses what Salt would take for a template, so `{{`, `{%`, `{#` and a first
line such as `#!py`, in comments too: what was checked is what the nodes get.
"""


def _document(schema: dict[str, Any], examples: dict[str, dict[str, Any]]) -> str:
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
