"""Which version of the tree is here, and which one each node's modules came from."""
from __future__ import annotations

import re
from typing import Any, NamedTuple

from salt.exceptions import SaltRunnerError

from sites import files, tree
from sites import minions as of_minions

# What a node may call its version: three numbers. Anything else that it says is not printed.
_VERSION_OF = "gateway_version.installed"
_VERSION = r"[0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}"


class Versions(NamedTuple):
    """What is installed where."""

    here: str
    nodes: dict[str, str]  # by minion id, the version there, or `silent`, or `unknown`
    mistakes: list[str]  # a line for each node that has another version, does not answer or has no accepted key


def versions(opts: dict[str, Any], sites: list[str]) -> Versions:
    """The versions on this master and on the nodes of some sites."""
    here = tree.execution_module(opts, "gateway_version").VERSION
    minions: dict[str, str] = {}
    mistakes: list[str] = []
    for name in sites:
        try:
            found, without = of_minions.of_site(opts, name, list(files.nodes(opts, name)))
        except SaltRunnerError as error:
            mistakes += str(error).splitlines()
        else:
            minions |= dict.fromkeys(found.values(), name)
            mistakes += without
    said = of_minions.ask_unsigned(opts, list(minions), _VERSION_OF) if minions else {}
    nodes = {}
    for minion, name in minions.items():
        nodes[minion] = _version_of(said.get(minion))
        if nodes[minion] == "silent":
            mistakes.append(f"{name}: {minion} does not answer within {of_minions.ANSWER_SECONDS} s")
        elif nodes[minion] != here:
            mistakes.append(f"{name}: {minion} has the version {nodes[minion]}, this master {here}; "
                            f"`salt-run resync.now {name}` or `salt '{minion}' state.apply` brings it there")
    return Versions(here, nodes, mistakes)


def _version_of(said: str | None) -> str:
    """A node's version from its answer, which is only a text that some machine has sent."""
    if said is None:
        return "silent"
    return said if re.fullmatch(_VERSION, said) else "unknown"
