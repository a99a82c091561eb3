"""A node with recorded output of iproute2 and the kernel: 6.15 on a bare node, 6.1 on a bonded one; and its bonds."""
from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType

import pytest

RECORDED = Path(__file__).parent.parent / "recorded/bonding"
ANSWERS = {
    ("-d", "addr", "show"): "addr.json",
    ("-4", "route", "show", "table", "main"): "route4.json",
    ("-6", "route", "show", "table", "main"): "route6.json",
}

# the bonds that the bare host gets, and those that the bonded one was made from
BARE = [
    {"name": "bond0", "slaves": ["eth0", "eth1"], "primary": "eth0", "mode": "active-backup", "mtu": 1500,
     "monitor": {"miimon": 100, "updelay": 0, "downdelay": 0}, "options": {}, "addresses": ["192.0.2.11/26"],
     "gateways": ["192.0.2.1"], "routes": [{"to": "203.0.113.0/24", "via": "192.0.2.5"}]},
    {"name": "bond1", "slaves": ["eth2"], "primary": "eth2", "mode": "active-backup", "mtu": 1500,
     "monitor": {"miimon": 100, "updelay": 0, "downdelay": 0}, "options": {}, "addresses": ["198.51.100.11/26"],
     "gateways": [], "routes": []},
]
BONDED = [
    {"name": "outside", "slaves": ["eth0", "eth1"], "primary": "eth1", "mode": "active-backup", "mtu": 1500,
     "monitor": {"miimon": 100, "updelay": 200, "downdelay": 0}, "options": {},
     "addresses": ["192.0.2.75/26", "2001:db8:be::b/64"], "gateways": ["192.0.2.65", "2001:db8:be::1"],
     "routes": [{"to": "203.0.113.0/24", "via": "192.0.2.70"}, {"to": "2001:db8:ff::/48", "via": "2001:db8:be::5"}]},
    {"name": "inside", "slaves": ["eth2", "eth3"], "primary": "eth2", "mode": "active-backup", "mtu": 1500,
     "monitor": {"arp_interval": 250, "arp_targets": ["198.51.100.61"], "arp_validate": "none"}, "options": {},
     "addresses": ["198.51.100.11/26", "2001:db8:be:1::b/64"], "gateways": [], "routes": []},
]


class Node:
    """A node whose commands give recorded answers of a real node, and whose files are in a folder."""

    def __init__(self, module: ModuleType, host: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module, self.host, self.root = module, host, root
        self.active: set[str] = set()
        monkeypatch.setattr(module, "__salt__", {"cmd.run_all": self.run_all}, raising=False)
        for name in ("_INTERFACES", "_INTERFACES_D", "_NETWORKD_D"):
            monkeypatch.setattr(module._network_files, name, f"{root}{getattr(module._network_files, name)}")
        (root / "etc/network/interfaces.d").mkdir(parents=True)
        (root / "etc/systemd/network").mkdir(parents=True)

    def run_all(self, argv: list[str], **options: object) -> dict:
        assert options["python_shell"] is False
        if argv[0] == "systemctl":
            return {"retcode": 0 if argv[-1] in self.active else 3, "stdout": "", "stderr": ""}
        assert argv[:2] == ["ip", "-j"]
        return {"retcode": 0, "stdout": (RECORDED / self.host / ANSWERS[tuple(argv[2:])]).read_text(), "stderr": ""}

    def way(self, bonds: list[dict]) -> list[str]:
        """The lines of the batch that makes the bonds."""
        return self.module.plan(bonds, "ifupdown")["forward"]


def but(bonds: list[dict], name: str, **changes: object) -> list[dict]:
    """The bonds with one of them changed."""
    return [{**bond, **changes} if bond["name"] == name else bond for bond in copy.deepcopy(bonds)]
