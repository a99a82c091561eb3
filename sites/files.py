"""Reads what pillar has of a site: its file, its secrets, and the schema that all sites have."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import salt.template
import salt.utils.dictupdate
import salt.utils.yaml
import yaml
from salt.exceptions import SaltRunnerError

from sites import tree

# What YAML raises besides its own errors, on `!!bool maybe`, a number of 5,000 digits, or endless brackets.
_NO_VALUE = (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError)
# What makes Salt's renderers read a site file as something else than YAML (pillar/top.sls renders it as Jinja, always).
_JINJA = re.compile(r"\{[{%#]")
_RENDERED_ALIKE = ("#!yaml", "#!jinja|yaml")


def names(opts: dict[str, Any]) -> list[str]:
    """The sites of this master's pillar."""
    folders = [Path(root) / "sites" for root in opts["pillar_roots"].get("base", [])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.sls")})


def site(opts: dict[str, Any], name: str) -> object:
    """
    The pillar key gateway of a site, unchecked: it may be anything that YAML can say.

    The name is part of a path here, and of a target elsewhere, so it is checked first.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", name):
        raise SaltRunnerError(f"{str(name)[:60]!r}: is no site's name; give one of {', '.join(names(opts))}")
    path, file = tree.find(opts, "pillar_roots", f"sites/{name}.sls"), f"pillar/sites/{name}.sls"
    _check_plain(name, file, path.read_text(encoding="utf-8", errors="replace"))     # _yaml() refuses what is not UTF-8
    data = _yaml(path)
    if not isinstance(data, dict) or "gateway" not in data:
        raise SaltRunnerError(f"{name}: gateway: is missing in {file}; put all of the site under it")
    other = [key for key in ("include", "gateway_schema") if key in data]
    if other:
        raise SaltRunnerError(f"{name}: {', '.join(other)}: in {file} would change what a node gets and is not checked "
                              f"here; put all of the site under gateway")
    its = data["gateway"]
    if isinstance(its, dict) and its.get("site", name) != name:
        raise SaltRunnerError(f"{name}: gateway:site: {its['site']} is not the name of the file {file}; give {name}, "
                              f"or rename the file")
    return its


def checked(opts: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A site's pillar key gateway, and the schema. Raises SaltRunnerError with a line for each mistake in the site."""
    data = site(opts, name)          # first: it checks the name
    rules = schema(opts)
    found = tree.gateway(opts).find_mistakes(data, rules)
    if found or not isinstance(data, dict):
        raise SaltRunnerError("\n".join(found))
    return data, rules


def settings(opts: dict[str, Any], name: str) -> dict[str, Any]:
    """A site without mistakes as its first node sees it, as ``gateway.settings``. Its secrets are not looked at."""
    data, rules = checked(opts, name)
    found: dict[str, Any] = tree.gateway(opts).derive(data, rules, next(iter(data["nodes"])))
    return found


def nodes(opts: dict[str, Any], name: str) -> dict[str, Any]:
    """The nodes of a site without mistakes, by name."""
    found: dict[str, Any] = checked(opts, name)[0]["nodes"]
    return found


def schema(opts: dict[str, Any]) -> dict[str, Any]:
    """The pillar key gateway_schema."""
    found: dict[str, Any] = _yaml(tree.find(opts, "pillar_roots", "schema.sls"))["gateway_schema"]
    return found


def examples() -> dict[str, dict[str, Any]]:
    """By name, the pillar key gateway of the tree's example sites."""
    folder = Path(__file__).resolve().parent.parent / "examples/sites"
    return {path.stem: _yaml(path)["gateway"] for path in sorted(folder.glob("*.sls"))}


def secrets(opts: dict[str, Any], name: str, renderers: Any) -> dict[str, Any]:
    """A site's secrets as its nodes would get them, decrypted; empty where there are none."""
    found: dict[str, Any] = {}
    for file in (f"secrets/{name}.sls", f"secrets/issued/{name}.sls", f"secrets/crls/{name}.sls"):
        try:
            path = tree.find(opts, "pillar_roots", file)
        except SaltRunnerError:
            continue
        try:
            rendered = salt.template.compile_template(
                str(path), renderers, opts["renderer"], opts["renderer_blacklist"],
                opts["renderer_whitelist"])
        except Exception as error:
            # Not what it says: that may quote a secret.
            raise SaltRunnerError(f"{name}: gateway_secrets: Salt can not read {file} ({type(error).__name__}); look "
                                  f"for a mistake in its YAML") from None
        if isinstance(rendered, dict) and isinstance(rendered.get("gateway_secrets"), dict):
            found = salt.utils.dictupdate.update(found, rendered["gateway_secrets"])
    return found


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
