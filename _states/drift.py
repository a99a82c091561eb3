"""
Record what a state run set up on this node, so that the beacon can report what is changed by hand later.

.. code-block:: yaml

    # at the end of a formula's init.sls
    openswan-recorded:
      drift.recorded:
        - name: openswan

There is no `order: last`, and no file that all formulas include: a state of another formula that requires
`sls: openswan` would then wait for the end of the whole run. Each formula is recorded directly after its own states.

See the execution module :py:mod:`drift <modules.drift>`.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from salt.exceptions import CommandExecutionError
from salt.state import _gen_tag

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __opts__: dict
    __lowstate__: list[Mapping]
    __running__: Mapping[str, Mapping]
    __low__: Mapping

__virtualname__ = "drift"
_WHOLE = "drift.completed"


def __virtual__() -> str | tuple[bool, str]:
    for module, function in (("drift", "record"), ("drift_things", "note")):
        if f"{module}.{function}" not in __salt__:
            return False, f"drift: the execution module {module} could not be loaded; run saltutil.sync_modules"
    return __virtualname__


def recorded(name: str) -> dict:
    """
    Everything that a formula manages is recorded as it is now. This is never a change, as the node stays as it is.

    For states that failed, the earlier record stays.

    name
        The name of the formula.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __opts__["test"]:
        return ret | {"comment": "Nothing is recorded when nothing is applied."}
    mine = [low for low in __lowstate__ if _formula(low) == name]
    applied = [low for low in mine if _succeeded(low)]
    try:
        done = __salt__["drift.record"](name, applied, [low for low in mine if not _succeeded(low)])
    except (CommandExecutionError, OSError) as err:
        return ret | {"result": False, "comment": f"What {name} manages could not be recorded: {err}"}
    return ret | {"comment": f"{done['things']} things are recorded, {len(done['changed'])} of them new."}


def compared(name: str) -> dict:
    """
    This node was compared with the master since it booted; the file ``/run/gateway/current`` says so from now on.

    Only in a run of the whole gateway, and only if all states before this one have succeeded. Put it before the
    service that waits for the file.

    name
        Any text, such as ``node``.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __opts__["test"]:
        return ret
    wrong = _not_whole()
    if wrong:
        return ret | {"comment": f"Not marked: {wrong}."}
    return _note(ret, None, "This node was compared with the master.")


def completed(name: str) -> dict:
    """
    The whole gateway was applied: the master's digest of this node's inputs is recorded. The last state of a whole run.

    name
        Any text, such as ``gateway``.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __opts__["test"]:
        return ret
    wrong = _not_whole()
    if wrong:
        return ret | {"comment": f"Not complete: {wrong}."}
    if __salt__["drift.overridden"]():
        return ret | {"comment": "Not recorded as the master's: this run had a pillar of its own."}
    # Salt masks pillar values unless it is asked for the plain ones.
    inputs, tree = (str(__salt__["pillar.get"](key, "", unmask=True) or "")
                    for key in ("gateway_inputs", "gateway_tree"))
    return _note(ret, inputs, "This node is as the master wants it.", tree)


def _note(ret: dict, inputs: str | None, comment: str, tree: str = "") -> dict:
    try:
        __salt__["drift.compared"](inputs, sorted({_formula(low) for low in __lowstate__}), tree)
    except OSError as err:
        return ret | {"result": False, "comment": f"{err.filename} could not be written: {err.strerror}"}
    return ret | {"comment": comment}


def _formula(low: Mapping) -> str:
    return str(low.get("__sls__", "")).split(".")[0]


def _succeeded(low: Mapping) -> bool:
    return bool(__running__.get(_gen_tag(low), {}).get("result"))


def _not_whole() -> str:
    """Why this run does not count as a successful run of the whole gateway; "" when it does."""
    if not any(f"{low['state']}.{low['fun']}" == _WHOLE for low in __lowstate__):
        return "this is not a run of the whole gateway"
    failed = sorted({str(each.get("__id__", "")) for each in __running__.values() if each.get("result") is False})
    return f"failed: {', '.join(failed)}" if failed else ""
