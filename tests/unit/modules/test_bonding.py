"""_modules/bonding.py with recorded output of iproute2 and the kernel: 6.15 on a bare node, 6.1 on a bonded one."""
from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

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
            monkeypatch.setattr(module, name, f"{root}{getattr(module, name)}")
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


@pytest.fixture
def module() -> ModuleType:
    return load_module("_modules/bonding.py")


@pytest.fixture
def bare(module, tmp_path, monkeypatch):
    return Node(module, "bare", tmp_path, monkeypatch)


@pytest.fixture
def bonded(module, tmp_path, monkeypatch):
    return Node(module, "bonded", tmp_path, monkeypatch)


def but(bonds: list[dict], name: str, **changes: object) -> list[dict]:
    """The bonds with one of them changed."""
    return [{**bond, **changes} if bond["name"] == name else bond for bond in copy.deepcopy(bonds)]


# reading


def test_status_of_a_bond_with_arp_monitoring(module):
    link = next(link for link in json.loads((RECORDED / "bonded/addr.json").read_text()) if link["ifname"] == "inside")
    status = module._bond_status((RECORDED / "bonded/proc-inside").read_text(), link)
    assert status["monitor"] == {"arp_interval": 250, "arp_validate": "none", "arp_targets": ["198.51.100.61"]}
    assert (status["mode"], status["active_slave"], status["primary"], status["mii_status"]) == (
        "active-backup", "eth2", "eth2", "up")
    assert status["addresses"] == [
        "198.51.100.11/26", "198.51.100.74/32", "2001:db8:be:1::a/128", "2001:db8:be:1::b/64"]
    assert list(status["slaves"]) == ["eth2", "eth3"]
    assert status["slaves"]["eth3"] == {"link": "up", "active": False, "failures": 0, "speed": 10000, "duplex": "full",
                                        "permanent_mac": "02:00:00:00:02:04"}


# the batch that makes the bonds


def test_a_bare_hosts_only_interface_is_off_for_three_lines(bare):
    assert bare.way(BARE) == [
        "link add dev bond0 address 02:00:00:00:04:01 mtu 1500 type bond mode active-backup miimon 100 primary eth0"
        " num_grat_arp 3",
        "link add dev bond1 address 02:00:00:00:04:03 mtu 1500 type bond mode active-backup miimon 100 primary eth2"
        " num_grat_arp 3",
        "link set dev bond0 up", "addr replace 192.0.2.11/26 brd + dev bond0",
        "link set dev bond1 up", "addr replace 198.51.100.11/26 brd + dev bond1",
        "link set dev eth0 down", "link set dev eth0 master bond0", "link set dev eth0 up",
        "link set dev eth1 down", "link set dev eth1 master bond0", "link set dev eth1 up",
        "addr del 198.51.100.11/26 dev eth2",
        "link set dev eth2 down", "link set dev eth2 master bond1", "link set dev eth2 up",
        "route replace default via 192.0.2.1 dev bond0 proto static",
        "route replace 203.0.113.0/24 via 192.0.2.5 dev bond0 proto static",
    ]


def test_and_the_way_back(bare):
    assert bare.module.plan(BARE, "ifupdown")["inverse"] == [
        "link set dev eth0 nomaster", "link set dev eth1 nomaster", "link set dev eth2 nomaster",
        "link del dev bond0", "link del dev bond1",
        "link set dev eth0 mtu 1500", "link set dev eth1 mtu 1500",
        "link set dev eth2 mtu 1500", "link set dev eth2 up",
        "addr replace 198.51.100.11/26 brd 198.51.100.63 dev eth2",
        "route replace default via 198.51.100.1 dev eth2",
    ]


def test_a_bonded_node_needs_nothing(bonded):
    assert bonded.way(BONDED) == []
    assert bonded.module._differences(bonded.module._live(), bonded.module._wanted(bonded.module._live(), BONDED)) == {}


@pytest.mark.parametrize(("changes", "line"), [
    ({"primary": "eth3"}, "link set dev inside type bond primary eth3"),
    ({"monitor": {"arp_interval": 500, "arp_targets": ["198.51.100.61", "198.51.100.62"]}},
     "link set dev inside type bond arp_interval 500 arp_ip_target 198.51.100.61,198.51.100.62"),
    ({"monitor": {"miimon": 100}}, "link set dev inside type bond miimon 100 updelay 0 downdelay 0 arp_interval 0"),
    ({"options": {"num_grat_arp": 5}}, "link set dev inside type bond num_grat_arp 5"),
    ({"mtu": 9000}, "link set dev inside mtu 9000"),
])
def test_what_can_be_changed_live_touches_no_slave(bonded, changes, line):
    assert bonded.way(but(BONDED, "inside", **changes)) == [line]


def test_another_mode_takes_the_slaves_out_and_keeps_the_virtual_ip(bonded):
    lines = bonded.way(but(BONDED, "inside", mode="802.3ad", primary="", monitor={"miimon": 100}))
    option = next(number for number, line in enumerate(lines) if "type bond mode 802.3ad" in line)
    before = {"link set dev eth2 nomaster", "link set dev eth3 nomaster", "link set dev inside down"}
    assert before <= set(lines[:option])
    # a link that goes down loses its IPv6 addresses, and heartbeat would not notice
    assert "addr replace 2001:db8:be:1::a/128 nodad dev inside" in lines[option:]
    assert "addr replace 2001:db8:be:1::b/64 dev inside" in lines[option:]
    assert not any("198.51.100.74" in line or "eth0" in line or "outside" in line for line in lines)


def test_virtual_ips_and_the_daemons_routes_are_nobodys_business(bonded):
    everything = [{**bond, "addresses": bond["addresses"][:1], "gateways": [], "routes": []} for bond in BONDED]
    lines = bonded.way(everything)
    assert not any("/32" in line or "/128" in line for line in lines)
    assert not any("198.51.100.192/27" in line for line in lines if line.startswith("route del"))
    assert "addr del 2001:db8:be::b/64 dev outside" in lines


def test_another_address_comes_after_the_old_one_and_brings_the_routes_along(bonded):
    lines = bonded.way(but(BONDED, "outside", addresses=["192.0.2.80/26", "2001:db8:be::b/64"]))
    assert lines[:2] == ["addr del 192.0.2.75/26 dev outside", "addr replace 192.0.2.80/26 brd + dev outside"]
    assert "route replace default via 192.0.2.65 dev outside proto static" in lines[2:]


def test_a_new_name_for_a_bond_takes_all_along(bonded):
    lines = bonded.way([{**bond, "name": bond["name"].replace("outside", "wan")} for bond in BONDED])
    assert "link del dev outside" in lines and "link set dev eth1 master wan" in lines
    assert not any("inside" in line for line in lines)


def test_all_that_is_in_the_way_is_said_at_once(bare):
    wrong = but(BARE, "bond0", slaves=["eth0", "eth8"], options={"speed": 1})
    wrong[1]["name"] = "eth3"
    with pytest.raises(CommandExecutionError) as error:
        bare.way(wrong)
    said = str(error.value)
    assert "bond0: this machine has no interface eth8 (there are eth0, eth1, eth2, eth3)" in said
    assert "bond0: unknown bond option 'speed'" in said
    assert "eth3: an interface of this name exists and is not a bond" in said


# files


INSTALLERS = """# The loopback network interface
auto lo eth2
iface lo inet loopback

allow-hotplug eth4
iface eth4 inet dhcp

# the first one
allow-hotplug eth2
iface eth2 inet static
    address 198.51.100.11/26
iface eth2 inet6 auto
"""


def test_the_installers_stanza_of_a_slave_goes_and_the_rest_stays(bare):
    (bare.root / "etc/network/interfaces").write_text(INSTALLERS)
    files = bare.module.plan(BARE, "ifupdown")["files"]
    text = files[f"{bare.root}/etc/network/interfaces"]
    assert text.startswith(f"source {bare.root}/etc/network/interfaces.d/*\n")
    assert "eth2" not in text and "auto lo\n" in text and "allow-hotplug eth4\niface eth4 inet dhcp\n" in text


def test_stanzas_say_what_the_live_change_says(bare):
    stanzas = bare.module._stanzas(BARE[0], bare.module._live())
    live = bare.way(BARE)
    for line in stanzas.splitlines():
        if line.strip().startswith("up ip "):
            assert line.strip().removeprefix("up ip ") in live
    made = live[0].replace(" primary eth0", "")
    assert f"pre-up [ -e /sys/class/net/bond0 ] || ip {made}\n" in stanzas
    # a missing slave must not keep the bond down
    assert "lower_eth1 ] || { ip link set dev eth1 down && ip link set dev eth1 master bond0; } || true" in stanzas


def test_stanzas_with_both_ip_versions_make_the_bond_once(bonded):
    stanzas = bonded.module._stanzas(BONDED[0], bonded.module._live())
    assert stanzas.count("ip link add") == 1
    assert stanzas.index("ip link add") < stanzas.index("iface outside inet6 static")
    assert "accept_ra 0" in stanzas and stanzas.index("up ip route") > stanzas.index("2001:db8:be::b/64")


def test_networkd_keeps_the_virtual_ips_and_the_addresses_without_carrier(bonded):
    files = bonded.module.plan(BONDED, "networkd")["files"]
    folder = f"{bonded.root}/etc/systemd/network/05-gateway-"
    network, netdev = files[f"{folder}outside.network"], files[f"{folder}outside.netdev"]
    assert {"KeepConfiguration=static", "ConfigureWithoutCarrier=yes", "IPv6AcceptRA=no",
            "RequiredForOnline=no-carrier"} <= set(network.splitlines())
    assert "192.0.2.74" not in network
    assert {"Mode=active-backup", "MIIMonitorSec=100ms", "UpDelaySec=200ms", "GratuitousARP=3",
            "MACAddress=02:00:00:00:02:01"} <= set(netdev.splitlines())
    assert "PrimarySlave=yes" in files[f"{folder}eth1.network"] and "Primary" not in files[f"{folder}eth0.network"]
    assert "ARPIPTargets=198.51.100.61\n" in files[f"{folder}inside.netdev"]


def test_the_files_that_keep_the_bonds_are_known(bare, monkeypatch, tmp_path):
    for name, path in {"_INTERFACES": "interfaces", "_INTERFACES_D": "d", "_NETWORKD_D": "networkd"}.items():
        monkeypatch.setattr(bare.module, name, str(tmp_path / path))
    for name in ("interfaces", "d/gateway-bond0", "d/other", "networkd/05-gateway-a.netdev", "networkd/10-x.network"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert bare.module.files([], "ifupdown") == [str(tmp_path / "d/gateway-bond0"), str(tmp_path / "interfaces")]
    assert bare.module.files([], "networkd") == [str(tmp_path / "networkd/05-gateway-a.netdev")]


def test_a_file_of_a_bond_that_is_no_more_goes(bare):
    old = bare.root / "etc/network/interfaces.d/gateway-bond7"
    old.write_text("auto bond7\n")
    assert bare.module.plan(BARE, "ifupdown")["files"][str(old)] is None


def test_written_files_are_not_written_again(bare):
    for path, text in bare.module.plan(BARE, "ifupdown")["files"].items():
        Path(path).write_text(text)
    assert bare.module.plan(BARE, "ifupdown")["files"] == {}


@pytest.mark.parametrize(("active", "ifup", "network", "manager"), [
    ({"systemd-networkd.service"}, True, True, "networkd"),
    ({"systemd-networkd.service"}, False, False, "networkd"),
    ({"systemd-networkd.service"}, True, False, "ifupdown"),      # runs without any configuration, as on some images
    (set(), True, True, "ifupdown"),
])
def test_what_manages_the_network(bare, monkeypatch, active, ifup, network, manager):
    bare.active = active
    monkeypatch.setattr(bare.module.salt.utils.path, "which", lambda name: ifup)
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: (
        ["10-installer.network"] * network if pattern == "*.network" else real(path, pattern)))
    assert bare.module._manager() == manager


def test_networkmanager_is_refused(bare):
    bare.active = {"NetworkManager.service"}
    with pytest.raises(CommandExecutionError, match="NetworkManager manages"):
        bare.module.plan(BARE)


# at a glance


@pytest.fixture
def glance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """bonding.glance on a node whose bond `name` looks as recorded."""
    def look(recorded: str, name: str, slaves: list[str], carrier: str = "1\n") -> dict:
        module = load_module("_modules/bonding.py")
        module.__salt__ = {}                # it must call no other module
        monkeypatch.setattr(module, "_PROC", tmp_path)
        monkeypatch.setattr(module, "_SYS", tmp_path)
        (tmp_path / name).write_text((RECORDED / recorded).read_text())
        for slave in slaves:
            (tmp_path / slave).mkdir(exist_ok=True)
            (tmp_path / slave / "carrier").write_text(carrier)
        return module.glance([{"name": name, "slaves": slaves}, {"name": "not-there", "slaves": ["eth9"]}])
    return look


def test_a_bond_at_a_glance(glance) -> None:
    up = {"link": "up", "failures": 0, "carrier": True}
    assert glance("bonded/proc-inside", "inside", ["eth2", "eth3", "eth4"]) == {
        "inside": {"mii_status": "up", "active_slave": "eth2", "monitor": "arp", "aggregator": {},
                   "slaves": {"eth2": up, "eth3": up, "eth4": None}},
        "not-there": None}
    assert glance("bonded/proc-outside", "outside", ["eth0"])["outside"]["monitor"] == "miimon"


def test_a_silent_slave_at_a_glance(glance) -> None:
    bond = glance("arp/proc-silent", "ba", ["vc"])["ba"]
    assert (bond["mii_status"], bond["active_slave"], bond["monitor"]) == ("down", "", "arp")
    assert bond["slaves"] == {"vc": {"link": "going back", "failures": 3, "carrier": True}}
    assert glance("arp/proc-silent", "ba", ["vc"], "0\n")["ba"]["slaves"]["vc"]["carrier"] is False


@pytest.mark.parametrize(("recorded", "partner", "aggregator"), [
    ("agreed", "d6:aa:88:af:85:14", "1"),
    ("expired", "", "1"),        # the switch has been silent for one timeout
    ("lost", "", "2"),           # for two timeouts
])
def test_lacp_at_a_glance(glance, recorded: str, partner: str, aggregator: str) -> None:
    bond = glance(f"lacp/proc-{recorded}", "bl", ["va1", "va2"])["bl"]
    assert bond["aggregator"] == {"number": "1", "partner": "d6:aa:88:af:85:14"}
    assert bond["slaves"]["va1"]["partner"] == "d6:aa:88:af:85:14" and bond["slaves"]["va1"]["aggregator"] == "1"
    its = bond["slaves"]["va2"]
    assert (its["link"], its["partner"], its["aggregator"]) == ("up", partner, aggregator)
    assert its["churn"] == ["monitoring", "monitoring"]


def test_ifupdown_is_told_what_is_up_in_both_of_its_records(bare, monkeypatch, tmp_path) -> None:
    """Without this, `ifdown bond0` finds it not configured, and a restarted networking.service fails."""
    written = {}
    monkeypatch.setattr(bare.module, "_IFSTATE", str(tmp_path / "ifstate"))
    bare.module.__salt__["commit_confirm.replace_file"] = lambda path, text: written.update({Path(path).name: text})
    bare.module._tell_ifupdown(BARE)
    assert written == {}, "networkd's host has none"
    (tmp_path / "ifstate").write_text("lo=lo\neth2=eth2\nbond0=bond0\n")
    (tmp_path / "ifstate.eth2").write_text("eth2\n")
    bare.module._tell_ifupdown(BARE)
    assert written == {"ifstate": "lo=lo\nbond0=bond0\nbond1=bond1\n", "ifstate.eth2": "", "ifstate.bond0": "bond0\n",
                       "ifstate.bond1": "bond1\n"}


# the way back


@pytest.fixture
def guard(bonded, monkeypatch):
    """The bonded node, whose bonds change; what commit_confirm was given, and how a kept change ends."""
    seen: dict = {"systemctl": []}

    def prepare(name: str, files: list, commands: list, afterwards: list, texts: dict) -> list[str]:
        seen.update(files=files, commands=commands, afterwards=afterwards, texts=texts)
        return ["undo"]

    def guarded(name: str, undo: list, change: object, keep: Callable, *_: object) -> str:
        try:
            keep()
        except CommandExecutionError as error:
            return str(error)
        return ""

    bonded.module.__salt__.update({
        "commit_confirm.prepare": prepare, "commit_confirm.guarded": guarded,
        "commit_confirm.rolled_back": lambda _name: seen.get("rolled back", False),
        "commit_confirm.keep_original": lambda *_: None, "commit_confirm.replace_file": lambda *_: None})
    monkeypatch.setattr(bonded.module, "_systemctl", lambda *words: seen["systemctl"].append(words))
    monkeypatch.setattr(bonded.module, "_settled", lambda check: True)
    monkeypatch.setattr(bonded.module, "_IFSTATE", f"{bonded.root}/ifstate")
    (bonded.root / "ifstate").write_text("outside=outside\n")
    seen["apply"] = lambda manager: bonded.module.apply(but(BONDED, "inside", mtu=9000), manager)
    return seen


def test_networkd_is_started_again_only_when_its_files_are_back(guard):
    guard["apply"]("networkd")
    programs = [command[0] for command in guard["commands"]]
    assert programs[:2] == ["timeout", "ip"] and "start" not in str(guard["commands"])
    assert [command[:2] for command in guard["afterwards"]] == [["systemctl", "start"]]
    assert guard["texts"]["inverse"] == "link set dev inside mtu 1500\n"


def test_what_ifupdown_has_noted_is_restored_too(guard):
    guard["apply"]("ifupdown")
    names = {Path(path).name for path in guard["files"]}
    assert {"ifstate", "ifstate.inside", "ifstate.eth2", "gateway-inside"} <= names


def test_files_that_come_late_start_no_service(guard):
    guard["rolled back"] = True
    assert "timer has rolled it back" in guard["apply"]("networkd")["problem"]
    assert guard["systemctl"] == []
