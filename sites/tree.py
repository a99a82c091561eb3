"""What the tree has on this master: its files, and its execution modules."""
from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from salt.exceptions import SaltRunnerError


def find(opts: dict[str, Any], roots: str, path: str) -> Path:
    """A file of the tree on this master."""
    folders = opts[roots].get("base", [])
    for folder in folders:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    raise SaltRunnerError(f"{path} is under none of this master's {roots} ({', '.join(folders)}); "
                          "is etc/salt/master.d/gateway.conf of the tree in /etc/salt/master.d?")


def execution_module(opts: dict[str, Any], name: str) -> ModuleType:
    """One of the modules that this master's file server gives to the minions, loaded as plain Python."""
    path = find(opts, "file_roots", f"_modules/{name}.py")
    spec = importlib.util.spec_from_file_location(f"{name}_of_the_tree", path)
    if spec is None or spec.loader is None:
        raise SaltRunnerError(f"{path}: Python can not load it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gateway(opts: dict[str, Any]) -> ModuleType:
    """The execution module ``gateway``, loaded as plain Python."""
    return execution_module(opts, "gateway")
