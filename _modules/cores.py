"""
Core dumps of running services: a core holds what the memory held, private keys too (docs/security.md).

A service's drop-in (``LimitCORE=0``) counts from its next start. This module gives the processes that run now the same
limit, without a restart.

Formats: proc_pid_cgroup(5), getrlimit(2), prlimit(2), core(5).
"""
from __future__ import annotations

import contextlib
import resource
from pathlib import Path

__virtualname__ = "cores"

PROC = Path("/proc")


def __virtual__() -> str | tuple[bool, str]:
    if not hasattr(resource, "prlimit"):
        return False, "cores: only on Linux"
    return __virtualname__


def possible(services: list[str]) -> dict[str, list[int]]:
    """
    The processes of some services that may leave a core, by service; a service without one is left out.

    Args:
        services: names of systemd's services, without ``.service``.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' cores.possible '[ipsec, salt-minion]'
    """
    found: dict[str, list[int]] = {}
    for pid, service in _processes(services):
        with contextlib.suppress(ProcessLookupError):
            if any(resource.prlimit(pid, resource.RLIMIT_CORE)):
                found.setdefault(service, []).append(pid)
    return found


def forbid(services: list[str]) -> dict[str, list[int]]:
    """
    Let no running process of some services leave a core, without a restart. Returns what :func:`possible` did before.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' cores.forbid '[ipsec, salt-minion]'
    """
    found = possible(services)
    for pids in found.values():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    return found


def _processes(services: list[str]) -> list[tuple[int, str]]:
    """Each process of the services, with its service. systemd gives each service a group of its own (cgroups(7))."""
    units = {f"{service}.service": service for service in services}
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):      # it has just ended
            parts = set((entry / "cgroup").read_text(encoding="utf-8", errors="replace").replace("\n", "/").split("/"))
            found += [(int(entry.name), units[unit]) for unit in sorted(units.keys() & parts)]
    return sorted(found)
