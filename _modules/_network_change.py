"""
The network as a value: the wanted one, and the commands that lead from one to the other. For ``bonding``.

Salt syncs this file and does not load it (its name begins with _); ``bonding`` loads it by its path. Nothing here reads
or changes the node: a network is a mapping of links, as ``bonding`` reads the live one. The commands are lines for
``ip -batch`` (ip(8)).
"""
from __future__ import annotations

import importlib.util
import ipaddress
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    from _modules import _bond


def _load_beside(name: str) -> ModuleType:
    # Trap: Salt's loader knows no import between its modules, and skips a file whose name begins with _.
    spec = importlib.util.spec_from_file_location(f"gateway{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _bond = _load_beside("_bond")


def wanted(live: dict, bonds: list[dict]) -> dict:
    """The network as it should be. Raises CommandExecutionError with all obstacles, before anything changes."""
    then = {name: {**link} for name, link in live.items()}
    problems = []
    ours = {bond["name"] for bond in bonds}
    claimed = {slave: bond["name"] for bond in bonds for slave in bond["slaves"]}
    moving = {address.split("/")[0] for bond in bonds for address in bond["addresses"]}
    for slave, bond in claimed.items():
        problems += _slave_problems(live, slave, bond)
    for bond in bonds:
        name = bond["name"]
        if name in live and not live[name]["bond"]:
            problems.append(f"{name}: an interface of this name exists and is not a bond")
        for option in bond["options"]:
            if option not in _bond.OPTIONS:
                problems.append(f"{name}: unknown bond option '{option}'; known are {', '.join(_bond.OPTIONS)}")
    if problems:
        raise CommandExecutionError("; ".join(problems))

    for name, link in then.items():
        if name in claimed:
            master = next(bond for bond in bonds if bond["name"] == claimed[name])
            link |= {"master": claimed[name], "up": True, "mtu": master["mtu"], "addresses": {}, "routes": {}}
        elif name not in ours:
            if link["master"] in ours:
                link |= {"master": "", "up": False}     # no longer a slave
            # An address that now belongs to a bond must not be on another interface.
            link["addresses"] = {a: words for a, words in link["addresses"].items() if a.split("/")[0] not in moving}
    # A bond with another name, whose slaves all go into one of ours, is the same bond under its old name.
    for name, link in live.items():
        slaves = [slave for slave, its in live.items() if its["master"] == name]
        if link["bond"] and name not in ours and slaves and all(slave in claimed for slave in slaves):
            del then[name]
    for bond in bonds:
        old = live.get(bond["name"], {"held": {}, "routes": {}, "over": "", "mac": ""})
        routes = {key: words for key, words in old["routes"].items() if not _our_route(words)}
        for words in _bond.routes(bond):
            key = route_key(words)
            routes[key] = old["routes"].get(key, words)
        then[bond["name"]] = {**old, "bond": True, "up": True, "mtu": bond["mtu"], "master": "", "routes": routes,
                              "mac": old["mac"] or _bond.mac(live, bond), "options": _bond.options(bond),
                              "addresses": {address: _new_address_words(address) for address in bond["addresses"]}}
    # One default route for each IP version: a second one on any interface would compete, unless its metric is higher.
    for family in {_bond.family(gateway) for bond in bonds for gateway in bond["gateways"]}:
        for name, link in then.items():
            if name not in ours:
                link["routes"] = {key: words for key, words in link["routes"].items()
                                  if not (_is_default(words, family) and _competes(words, family))}
    return then


def _slave_problems(live: dict, slave: str, bond: str) -> list[str]:
    if slave not in live:
        cards = [name for name, link in live.items() if not link["bond"] and name != "lo"]
        return [f"{bond}: this machine has no interface {slave} (there are {', '.join(sorted(cards)) or 'none'})"]
    master = live[slave]["master"]
    if master and not live.get(master, {}).get("bond"):
        return [f"{bond}: {slave} already belongs to {master}; remove it there first"]
    stacked = [name for name, link in live.items() if link["over"] == slave]
    return [f"{bond}: {', '.join(stacked)} is based on {slave}; base it on {bond} instead"] if stacked else []


def _new_address_words(address: str) -> str:
    return "brd +" if _bond.family(address) == 4 and ipaddress.ip_interface(address).network.prefixlen < 31 else ""


def _our_route(words: str) -> bool:
    """Whether the description decides on a route: default and static ones. Others may be the IPsec daemon's (boot)."""
    return words.startswith(("default ", "::/0 ")) or " proto static" in words


def _is_default(words: str, family: int) -> bool:
    return words.startswith({4: "default ", 6: "::/0 "}[family])


def _competes(words: str, family: int) -> bool:
    metric = re.search(r" metric (\d+)", words)
    return not metric or int(metric.group(1)) <= {4: 0, 6: 1024}[family]


def route_key(words: str) -> str:
    """A route's destination and way; another origin (protocol) or metric does not make it another route."""
    return re.split(r" (?:proto|scope|src|metric|onlink)\b", words)[0]


def batch(now: dict, then: dict) -> list[str]:
    """
    The lines for `ip -batch` that lead from one network to another.

    With the arguments swapped it gives the way back, which works from any point on the way: each line says what must
    be, not what must change, and `ip -force` skips the lines that already hold.
    """
    def changed_options(bond: str) -> dict:
        old, new = _bond.in_force(now[bond]["options"]), _bond.in_force(then[bond]["options"])
        return {name: value for name, value in new.items() if old.get(name) != value}

    both = [name for name in then if name in now]
    gone = [name for name in now if name not in then]
    made = [name for name in then if name not in now]
    rebuilt = {name for name in both
               if then[name]["bond"] and any(_bond.OPTIONS[o].locked for o in changed_options(name))}
    moved = [n for n in both if now[n]["master"] != then[n]["master"] or now[n]["master"] in rebuilt]
    leaving = [name for name in moved if now[name]["master"]]
    joining = [name for name in moved if then[name]["master"]]
    # Slaves without addresses join first, so the interface that carries the traffic is down for the shortest time.
    joining.sort(key=lambda name: bool(now[name]["addresses"]))
    lines = [f"link set dev {name} nomaster" for name in leaving]
    lines += [f"link del dev {name}" for name in gone]
    for name in both:
        options = changed_options(name) if then[name]["bond"] else {}
        if name in rebuilt:
            lines.append(f"link set dev {name} down")
        if options:
            lines.append(f"link set dev {name} type bond {_bond.option_words(options)}")
    for name in made:
        mac = f"address {then[name]['mac']} " if then[name]["mac"] else ""
        options = {k: v for k, v in _bond.in_force(then[name]["options"]).items() if v != str(_bond.OPTIONS[k].default)}
        lines.append(f"link add dev {name} {mac}mtu {then[name]['mtu']} type bond {_bond.option_words(options)}")
    lost = {*gone, *rebuilt, *leaving, *joining}      # they go down meanwhile: their routes and IPv6 addresses are lost
    for name in then:
        lines += _link_lines(name, now.get(name), then[name], name in rebuilt, name in leaving, name in joining)
    for name in joining:
        lines += [f"addr del {address} dev {name}" for address in now[name]["addresses"]]
        # The kernel enslaves only an interface that is down.
        lines += [f"link set dev {name} {word}" for word in ("down", f"master {then[name]['master']}", "up")]
    # An address that is removed takes the routes over its network with it.
    lost |= {name for name in both if set(now[name]["addresses"]) - set(then[name]["addresses"])}
    for name in both:
        if name not in lost:
            lines += [f"route del {w}" for k, w in now[name]["routes"].items() if k not in then[name]["routes"]]
    for name, link in then.items():
        known = {} if name in lost or name not in now or not now[name]["up"] else now[name]["routes"]
        lines += [f"route replace {words}" for key, words in link["routes"].items() if key not in known]
    return lines


def _link_lines(name: str, old: dict | None, new: dict, rebuilt: bool, left: bool, joins: bool) -> list[str]:
    """The lines for one link's MTU, addresses, up and down. A slave has none: its bond decides all of these."""
    if new["master"]:
        return []
    lines = []
    if old and (old["mtu"] != new["mtu"] or left):
        lines.append(f"link set dev {name} mtu {new['mtu']}")
    # Old addresses first: with the first address of a network the kernel may drop the others (promote_secondaries).
    lines += [f"addr del {a} dev {name}" for a in (old or new)["addresses"] if a not in new["addresses"]]
    addresses = {a: w for a, w in new["addresses"].items() if not old or a not in old["addresses"] or left}
    if new["up"]:
        if not old or not old["up"] or rebuilt or left:
            lines.append(f"link set dev {name} up")
        if rebuilt or left:      # a link that goes down loses its IPv6 addresses
            addresses |= {a: w for a, w in {**new["addresses"], **new["held"]}.items() if _bond.family(a) == 6}
    return lines + [f"addr replace {a} {words} dev {name}".replace("  ", " ") for a, words in addresses.items()]


def differences(now: dict, then: dict) -> dict:
    """What changes, by interface, for people: {interface: {what: {old, new}}}."""
    changes: dict = {}
    for name in sorted({*now, *then}):
        old, new = _described(now.get(name)), _described(then.get(name))
        if "master" in {*old, *new}:     # whether a slave is up, and its MTU, depend on its bond
            old, new = ({key: value for key, value in side.items() if key not in ("up", "mtu")} for side in (old, new))
        differ = {key: {"old": old.get(key, ""), "new": new.get(key, "")}
                  for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
        if differ:
            changes[name] = differ
    return changes


def _described(link: dict | None) -> dict:
    if link is None:
        return {}
    words: dict = {"up": link["up"], "mtu": link["mtu"]}
    words |= {key: link[key] for key in ("master",) if link[key]}
    words |= {key: sorted(link[key]) for key in ("addresses", "routes") if link[key]}
    if link["bond"]:
        words |= {k: v for k, v in _bond.in_force(link["options"]).items() if v != str(_bond.OPTIONS[k].default)}
    return words
