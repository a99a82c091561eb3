"""
Running services leave no core dump, with the keys that were in their memory.

.. code-block:: yaml

    no-cores:
      cores.none:
        - services: [ipsec]

See the execution module :py:mod:`cores <modules.cores>`.
"""
from __future__ import annotations


def __virtual__() -> bool | tuple[bool, str]:
    if "cores.possible" not in __salt__:
        return False, "cores: the execution module cores could not be loaded"
    return True


def none(name: str, services: list[str]) -> dict:
    """
    No running process of these services may leave a core. A service that does not run counts as such.

    name
        Any text.
    services
        Names of systemd's services, without ``.service``. Their drop-ins have ``LimitCORE=0``, for their next start.
    """
    ret: dict = {"name": name, "result": True, "changes": {}, "comment": f"No core of {', '.join(services)}"}
    found = __salt__["cores.possible" if __opts__["test"] else "cores.forbid"](services)
    if not found:
        return ret
    ret["changes"] = {service: {"old": "may leave a core", "new": "leaves none"} for service in sorted(found)}
    if __opts__["test"]:
        return ret | {"result": None, "comment": f"{', '.join(sorted(found))} would leave no core from now on"}
    return ret | {"comment": f"{', '.join(sorted(found))} leaves no core from now on, without a restart"}
