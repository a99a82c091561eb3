"""
Figures for Prometheus, for people
==================================

Shows the master's figures, and makes the table of all metrics in docs/metrics.md.
"""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TREE = Path(__file__).resolve().parent.parent
# Trap: Salt's loader has this file's own folder on the path, where runners are called like the packages. So the tree
# comes first in the path, and only for these imports.
sys.path.insert(0, str(TREE))
try:
    from figures import master, textfile
finally:
    del sys.path[0]

__virtualname__ = "gateway_metrics"

def __virtual__() -> str:
    return __virtualname__


def show() -> str:
    """
    The master's figures as of now, as the engine ``gateway_metrics`` writes them; also where that engine is not on.

    CLI Example:

    .. code-block:: bash

        salt-run gateway_metrics.show
    """
    return textfile.text(__opts__["cachedir"])


def reference() -> str:
    """
    The tables of all metrics, as Markdown, for docs/metrics.md.

    CLI Example:

    .. code-block:: bash

        salt-run --no-color gateway_metrics.reference
    """
    parts = []
    for title, families, common in (("On each gateway", _node().FAMILIES, ("site", "node")),
                                    ("On the master", master.FAMILIES, ())):
        beside = f" Each has the labels {' and '.join(f'`{name}`' for name in common)} as well." if common else ""
        rows = [f"### {title}\n", f"{len(families)} metrics.{beside}\n", "| Metric | Type | Labels | Meaning |",
                "| --- | --- | --- | --- |"]
        rows += [f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {about} |"
                 for name, (kind, labels, about) in families.items()]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _node() -> ModuleType:
    """The module gateway_figures, which has the table of a gateway's metrics."""
    spec = importlib.util.spec_from_file_location("gateway_figures_of_the_tree", TREE / "_modules/gateway_figures.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
