"""
The files that keep bonds over a reboot: ifupdown's (interfaces(5)), systemd-networkd's (systemd.netdev(5),
systemd.network(5)). For ``bonding``, which writes them.

Salt syncs this file and does not load it (its name begins with _); ``bonding`` loads it by its path. Nothing here
changes the node.
"""
from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

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

MARK = "Written by Salt (state bonding.applied); what is changed here is lost. See docs/network.md."
_INTERFACES = "/etc/network/interfaces"
_INTERFACES_D = "/etc/network/interfaces.d"
_NETWORKD_D = "/etc/systemd/network"


def to_change(bonds: list[dict], live: dict, manager: str) -> dict[str, str | None]:
    """
    The files to write, for the bonds as ``gateway.settings`` has them on the live network.

    Returns the text by path, None for a file to be deleted; only files that change.
    """
    files = {"ifupdown": _ifupdown_files, "networkd": _networkd_files}[manager](bonds, live)
    return {path: text for path, text in files.items()
            if (Path(path).read_text() if Path(path).exists() else None) != text}


def there(manager: str) -> list[str]:
    """The files that keep the bonds over a reboot and exist now, sorted. `manager`: ``ifupdown`` or ``networkd``."""
    ours = {"ifupdown": (_INTERFACES_D, "gateway-*"), "networkd": (_NETWORKD_D, "05-gateway-*")}[manager]
    found = {str(path) for path in Path(ours[0]).glob(ours[1])} | ({_INTERFACES} if manager == "ifupdown" else set())
    return sorted(path for path in found if Path(path).is_file())


def _stale(folder: str, pattern: str) -> dict[str, str | None]:
    """Files that an earlier run wrote, marked for deletion; the caller replaces the entries of those still wanted."""
    return {str(path): None for path in Path(folder).glob(pattern)}


def _ifupdown_files(bonds: list[dict], live: dict) -> dict[str, str | None]:
    """
    One file for each bond, and the existing files without the stanzas of bonds and slaves.

    Trap: a stanza that gives a slave an address would do so at every boot, in addition to the bond's address.
    iproute2 makes the bond, with the same words as the live change; Debian's package ifenslave is not needed.
    """
    files = _stale(_INTERFACES_D, "gateway-*")
    names = {name for bond in bonds for name in (bond["name"], *bond["slaves"])}
    for path in [Path(_INTERFACES), *sorted(Path(_INTERFACES_D).glob("*"))]:
        if str(path) in files or not path.is_file():
            continue
        files[str(path)] = _without_stanzas(path.read_text(), names)
    main = files.get(_INTERFACES) or "auto lo\niface lo inet loopback\n"
    if not re.search(rf"^\s*source(-directory)?\s+{_INTERFACES_D}(/\*)?\s*$", main, re.MULTILINE):
        main = f"source {_INTERFACES_D}/*\n\n{main}"
    files[_INTERFACES] = main
    for bond in bonds:
        files[f"{_INTERFACES_D}/gateway-{bond['name']}"] = stanzas(bond, live)
    return files


def _without_stanzas(text: str, names: set[str]) -> str:
    """An interfaces(5) file without what it says about these interfaces; everything else stays, comments included."""
    kept, skipping = [], False
    for line in text.splitlines():
        words = line.split()
        head = words[0] if words else ""
        if head == "iface" or head == "mapping":
            skipping = words[1].split(":")[0] in names
        elif head == "auto" or head == "no-auto-down" or head.startswith("allow-"):
            skipping = False
            left = [name for name in words[1:] if name.split(":")[0] not in names]
            if len(left) < len(words) - 1:
                if left:
                    kept.append(" ".join([head, *left]))
                continue
        elif head in ("source", "source-directory", "template", "rename", "no-scripts"):
            skipping = False
        if not skipping:
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept) + "\n"


def stanzas(bond: dict, live: dict) -> str:
    """A bond's file for ifupdown."""
    name, options = bond["name"], _bond.options(bond)
    primary = options.pop("primary")
    mac = _bond.mac(live, bond)
    given = {k: v for k, v in _bond.in_force(options).items() if v != str(_bond.OPTIONS[k].default)}
    make = [f"pre-up [ -e /sys/class/net/{name} ] || ip link add dev {name} {f'address {mac} ' if mac else ''}"
            f"mtu {bond['mtu']} type bond {_bond.option_words(given)}"]
    # A missing card must not keep the bond down.
    for slave in bond["slaves"]:
        enslave = f"ip link set dev {slave} down && ip link set dev {slave} master {name}"
        make.append(f"pre-up [ -e /sys/class/net/{name}/lower_{slave} ] || {{ {enslave}; }} || true")
    if primary:
        make.append(f"pre-up ip link set dev {name} type bond primary {primary} || true")
    lines = [f"# {MARK}", f"auto {name}"]
    for number, address in enumerate(bond["addresses"] or [""]):
        family = {4: "inet", 6: "inet6"}[_bond.family(address)] if address else "inet"
        lines += ["", f"iface {name} {family} {'static' if address else 'manual'}"]
        body = list(make) if number == 0 else []
        body += [f"address {address}"] if address else [f"up ip link set dev {name} up"]
        if family == "inet6":
            # A router advertisement must not give a gateway another default route.
            body += ["accept_ra 0", "autoconf 0"]
        if number == len(bond["addresses"] or [""]) - 1:
            body += [f"up ip route replace {words}" for words in _bond.routes(bond)]
            body.append(f"post-down ip link del dev {name} 2>/dev/null || true")
        lines += [f"    {line}" for line in body]
    return "\n".join(lines) + "\n"


def _networkd_files(bonds: list[dict], live: dict) -> dict[str, str | None]:
    """
    A .netdev and a .network for each bond, a .network for each slave. Low numbers, as the first matching file counts.

    Traps: whenever networkd configures a link again, it drops addresses that it did not set, such as the virtual IPs
    (hence KeepConfiguration=static); and it removes a bond's addresses when both cables are out (hence
    ConfigureWithoutCarrier).
    """
    files = _stale(_NETWORKD_D, "05-gateway-*")
    for bond in bonds:
        name, options = bond["name"], _bond.options(bond)
        mac = _bond.mac(live, bond)
        netdev = [f"# {MARK}", "[NetDev]", f"Name={name}", "Kind=bond", f"MTUBytes={bond['mtu']}",
                  f"MACAddress={mac or 'none'}", "", "[Bond]", f"Mode={bond['mode']}"]
        for option, value in _bond.in_force(options).items():
            if option not in ("mode", "primary") and value != str(_bond.OPTIONS[option].default):
                netdev.append(_bond.OPTIONS[option].networkd.format(value.replace(",", " ")))
        network = [*_network_head(name, "no-carrier"), *(f"Address={address}" for address in bond["addresses"]),
                   "LinkLocalAddressing=ipv6", "IPv6AcceptRA=no",
                   "ConfigureWithoutCarrier=yes", "KeepConfiguration=static"]
        for words in _bond.routes(bond):
            to, _, via = words.split()[:3]
            network += ["", "[Route]", f"Destination={'0.0.0.0/0' if to == 'default' else to}", f"Gateway={via}"]
        files[f"{_NETWORKD_D}/05-gateway-{name}.netdev"] = "\n".join(netdev) + "\n"
        files[f"{_NETWORKD_D}/05-gateway-{name}.network"] = "\n".join(network) + "\n"
        for slave in bond["slaves"]:
            lines = [*_network_head(slave, "no"), f"Bond={name}"]
            lines += ["PrimarySlave=yes"] if slave == options["primary"] else []
            files[f"{_NETWORKD_D}/05-gateway-{slave}.network"] = "\n".join(lines) + "\n"
    return files


def _network_head(interface: str, online: str) -> list[str]:
    # A cable that is out must not delay the boot (network-online.target). Trap: with `no` on all interfaces,
    # systemd-networkd-wait-online waits for its full two minutes.
    return [f"# {MARK}", "[Match]", f"Name={interface}", "", "[Link]", f"RequiredForOnline={online}", "", "[Network]"]
