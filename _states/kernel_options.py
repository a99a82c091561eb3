"""
A kernel that can be a gateway
==============================

.. code-block:: yaml

    kernel-options:
      kernel_options.present:
        - features: {bonding: true, openswan: true, firewall: false}
"""
from __future__ import annotations

__virtualname__ = "kernel_options"


def __virtual__() -> tuple[bool, str] | str:
    if "kernel_options.missing" not in __salt__:
        return False, "kernel_options: the execution module kernel_options did not load"
    return __virtualname__


def present(name: str, features: dict[str, bool]) -> dict:
    """
    The running kernel has what these features need. Changes nothing: a kernel is the operator's to choose.

    Args:
        name: any name.
        features: the site's features, each switched on or off.

    Returns:
        ``result`` False with one line an option in the comment when something is missing.
    """
    wanted = sorted(feature for feature, on in features.items() if on)
    missing = __salt__["kernel_options.missing"](wanted)
    if not missing:
        return {"name": name, "result": True, "changes": {}, "comment": "The running kernel has all that is needed."}
    lines = [f"CONFIG_{option['name']} ({option['purpose']})" for option in missing]
    release = __grains__["kernelrelease"]
    hint = ("Boot a kernel that has them (Debian's own has all of them), or, where a site does without its firewall, "
            "set features:firewall to false in its pillar.")
    return {"name": name, "result": False, "changes": {},
            "comment": "\n".join([f"Kernel {release} lacks {len(missing)} of what this site needs:", *lines, hint])}
