"""
Reports the faults of a gateway's bonds
=======================================

Each look reads the bonds of the node's site (``bonding.glance``: a few files below /proc and /sys) and gives what is
wrong to ``gateway_events.changed``, which reports it once.

It deliberately does not use netlink: Salt calls a beacon once a second, however early a message came, and what is over
by then shows in the bond's own failure counter. A message would add only the exact moment.

.. code-block:: yaml

    beacons:
      bonding: []
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __salt__: dict[str, Callable]

__virtualname__ = "bonding"

CONDITIONS = {
    "bond_missing": "critical: there is no bond of that name on the node",
    "bond_down": "critical: none of a bond's slaves is up",
    "slave_missing": "warning: an interface is not in its bond",
    "slave_down": "warning: a slave has no link, or fails the ARP monitor",
    "arp_silent": "warning: a slave has carrier, but no ARP target answers over it",
    "slave_flapped": "warning, once: a slave lost its link and got it back, between two looks",
    "not_on_primary": "info: the primary slave is up, but the bond uses another one",
    "active_slave_changed": "info, once: the bond uses another slave",
    "lacp_partner_lost": "warning: the switch does not speak LACP on a slave that is up",
    "lacp_churn": "warning: a slave and its switch do not agree on an aggregation",
}
# The words for a working slave, by the monitor. With MII a slave that is `going down` still works (downdelay); one that
# is `going back` does not work yet (updelay). With ARP the kernel uses both words again and again while it tries a
# silent slave (measured, 7.2).
_WORKS = {"miimon": ("up", "going down"), "arp": ("up",)}
# LACP needs a second or two when a link comes up. The bond returns to its primary by itself, and a state run takes
# slaves out and puts them back.
_LACP_SECONDS, _BOND_SECONDS = 5, 3
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def __virtual__() -> str | tuple[bool, str]:
    if "gateway_events.changed" not in __salt__ or "bonding.glance" not in __salt__:
        return False, "bonding: the execution modules gateway_events and bonding are missing; run saltutil.sync_all"
    return __virtualname__


def validate(config: object) -> tuple[bool, str]:
    """There is nothing to configure: the site says what to watch."""
    return __salt__["gateway_events.validate_config"](config)


def beacon(config: list) -> list[dict]:
    """The events since the last call."""
    settings = __salt__["gateway_events.watched"]("bonding")
    if not settings:
        return []
    memory = __salt__["gateway_events.memory"]("bonding")
    seen = __salt__["bonding.glance"](settings["bonds"])
    # A bond that was never there is still to be made by the first state.apply.
    conditions = {key: each for bond in settings["bonds"]
                  if seen[bond["name"]] is not None or bond["name"] in memory.get("bonds", [])
                  for key, each in _conditions(bond, seen[bond["name"]])}
    once, memory = _happened(seen, memory)
    return __salt__["gateway_events.changed"]("bonding", conditions, once, memory=memory)


def _conditions(bond: dict, now: dict | None) -> list[tuple[str, dict]]:
    """Key and condition of everything that is wrong with one bond."""
    name = bond["name"]
    if now is None:
        return [(f"bond_missing:{name}", {"severity": "critical", "was": "there", "is": "missing",
                                         "after": _BOND_SECONDS})]
    found = []
    works = [slave for slave, its in now["slaves"].items() if its and its["link"] in _WORKS[now["monitor"]]]
    facts = {"bond": name, "side": bond["side"], "active_slave": now["active_slave"], "up": works}

    def add(condition: str, subject: str, severity: str, was: str, word: str, after: float = 0, **more: object) -> None:
        found.append((f"{condition}:{subject}", {
            "severity": severity, "was": was, "is": word, "cause": more.pop("cause", ""), "facts": facts | more,
            "after": after}))

    if not works:
        add("bond_down", name, "critical", "up", "down")
    for slave, its in now["slaves"].items():
        subject = f"{name}/{slave}"
        if its is None:
            add("slave_missing", subject, "warning", "in the bond", "not in the bond", _BOND_SECONDS)
            continue
        if slave not in works:
            why = {True: "", False: "no carrier", None: "the interface is off"}[its["carrier"]]
            if its["carrier"] and now["monitor"] == "arp":
                targets = bond["monitor"].get("arp_targets", [])
                why = f"there is carrier, but no ARP target answers ({', '.join(targets) or 'not in the site'})"
                add("arp_silent", subject, "warning", "answered", "silent", arp_targets=targets)
            add("slave_down", subject, "warning", "up", "down", cause=why, failures=its["failures"])
        elif now["aggregator"]:
            if not its["partner"]:
                add("lacp_partner_lost", subject, "warning", "there", "lost", _LACP_SECONDS, churn=its["churn"])
            elif "churned" in its["churn"] or its["aggregator"] != now["aggregator"]["number"]:
                why = "" if "churned" in its["churn"] else "it is in an aggregation of its own, which is not used"
                add("lacp_churn", subject, "warning", "agreed", "churned", _LACP_SECONDS, cause=why,
                    churn=its["churn"], partner=its["partner"], aggregator=its["aggregator"],
                    aggregator_used=now["aggregator"]["number"])
    primary, active = bond["primary"], now["active_slave"]
    if primary and active and active != primary and primary in works:
        add("not_on_primary", name, "info", primary, active, _BOND_SECONDS)
    return found


def _happened(seen: dict, memory: dict) -> tuple[list[dict], dict]:
    """What has happened since the last look and is over already, and what to remember for the next look."""
    boot = BOOT_ID.read_text(encoding="ascii").strip()
    # The kernel's counters start from 0 at each boot.
    before = memory if memory.get("boot") == boot else {}
    once: list[dict] = []
    there = [name for name, bond in seen.items() if bond is not None or name in memory.get("bonds", [])]
    now: dict = {"boot": boot, "bonds": there, "failures": {}, "active": dict(before.get("active", {}))}
    for name, bond in seen.items():
        if bond is None:
            now["active"].pop(name, None)
            continue
        for slave, its in bond["slaves"].items():
            if its is None:
                continue
            subject = f"{name}/{slave}"
            if its["link"] not in _WORKS[bond["monitor"]]:
                # Reported as a condition; and a silent slave's counter rises with each try.
                now["failures"][subject] = None
                continue
            now["failures"][subject] = its["failures"]
            last = before.get("failures", {}).get(subject)
            rose = 0 if last is None else its["failures"] - last
            if rose > 0:
                once.append({
                    "condition": "slave_flapped", "subject": subject, "severity": "warning", "was": "up", "is": "up",
                    "cause": f"its link was lost {rose} time{'s' if rose > 1 else ''} between two looks",
                    "facts": {"bond": name, "times": rose, "failures": its["failures"]}})
        active, last = bond["active_slave"], before.get("active", {}).get(name, "")
        if active:
            now["active"][name] = active
        if active and last and active != last:
            its = bond["slaves"].get(last)
            lost = "is no longer in the bond" if its is None else \
                "" if its["link"] in _WORKS[bond["monitor"]] else "has no link"
            once.append({"condition": "active_slave_changed", "subject": name, "severity": "info", "was": last,
                         "is": active, "cause": f"{last} {lost}" if lost else "", "facts": {"bond": name}})
    return once, now
