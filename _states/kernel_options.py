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
    The running kernel has what these features need. Changes nothing: the operator chooses the kernel.

    Args:
        name: any text.
        features: the site's features, each true (on) or false (off).

    Returns:
        ``result`` is False, with one line for each option in the comment, when something is missing.
    """
    wanted = sorted(feature for feature, on in features.items() if on)
    missing = __salt__["kernel_options.missing"](wanted)
    if not missing:
        return {"name": name, "result": True, "changes": {}, "comment": "The running kernel has every needed option."}
    lines = [f"CONFIG_{option['name']} ({option['purpose']})" for option in missing]
    release = __grains__["kernelrelease"]
    hint = ("Boot a kernel that has them (Debian's own has all of them). Or, if the site can do without its firewall, "
            "set features:firewall to false in its pillar.")
    return {"name": name, "result": False, "changes": {},
            "comment": "\n".join([f"Kernel {release} lacks {len(missing)} of what this site needs:", *lines, hint])}
