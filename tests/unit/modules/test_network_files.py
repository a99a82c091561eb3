"""_modules/_network_files.py: what keeps the bonds over a reboot."""
from __future__ import annotations

from pathlib import Path

from tests.unit.modules.network_node import BARE, BONDED

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
    stanzas = bare.module._network_files.stanzas(BARE[0], bare.module._live())
    live = bare.way(BARE)
    for line in stanzas.splitlines():
        if line.strip().startswith("up ip "):
            assert line.strip().removeprefix("up ip ") in live
    made = live[0].replace(" primary eth0", "")
    assert f"pre-up [ -e /sys/class/net/bond0 ] || ip {made}\n" in stanzas
    # a missing slave must not keep the bond down
    assert "lower_eth1 ] || { ip link set dev eth1 down && ip link set dev eth1 master bond0; } || true" in stanzas


def test_stanzas_with_both_ip_versions_make_the_bond_once(bonded):
    stanzas = bonded.module._network_files.stanzas(BONDED[0], bonded.module._live())
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
        monkeypatch.setattr(bare.module._network_files, name, str(tmp_path / path))
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
