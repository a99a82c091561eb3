"""A gateway's figures, from what real programs have answered, read back by the library's own parser."""
from __future__ import annotations

import re

import pytest

from tests.unit.modules import identities

COMMON = (("node", "gw1"), ("site", "winterthur"))


def of(values, name: str) -> dict[tuple[str, ...], float]:
    """The values of one metric by the values of its own labels, in the labels' order by name."""
    return {tuple(value for label, value in labels if label not in ("node", "site")): number
            for (each, labels), number in values.items() if each == name}


@pytest.mark.parametrize("version", ["4.10", "5.2"])
def test_what_an_active_node_says(node, version):
    node.version = version
    values = node.values()
    assert all(dict(labels).items() >= dict(COMMON).items() for _name, labels in values)
    assert {part for part, in of(values, "gateway_collect_success")} == {
        "node", "heartbeat", "bonding", "ipsec", "certificates", "sessions"}
    assert set(of(values, "gateway_collect_success").values()) == {1}
    assert of(values, "gateway_role") == {("active",): 1} | {(each,): 0 for each in (
        "standby", "transition", "stopped", "split", "unknown")}
    assert of(values, "gateway_link_up") == {("bond0",): 1, ("bond1",): 0}
    assert of(values, "gateway_ping_node_up") == {("192.0.2.1",): 1}
    assert of(values, "gateway_role_since_timestamp_seconds") == {(): 1772323200}
    assert of(values, "gateway_agent_stalls_total") == {(): 2} and of(values, "gateway_role_epoch") == {(): 4}
    assert of(values, "gateway_virtual_addresses") == of(values, "gateway_virtual_addresses_held") == {(): 2}
    assert of(values, "gateway_ipsec_daemon_up") == {(): 1}
    assert of(values, "gateway_tunnels_up") == of(values, "gateway_tunnels_expected") == {("bern",): 1}
    # CN=road1.example by the daemon, CN=anna by the copies
    assert of(values, "gateway_people_connected") == {("roadwarrior",): 2}
    assert of(values, "gateway_tunnels_adopted") == {("bern",): 0, ("roadwarrior",): 1}
    assert of(values, "gateway_tunnel_transmitted_bytes_total") == {("bern",): 0, ("roadwarrior",): 2268}
    assert of(values, "gateway_tunnel_received_bytes_total") == {("bern",): 0, ("roadwarrior",): 2268}
    assert of(values, "gateway_xfrm_errors_total") == {("XfrmInError",): 0, ("XfrmInStateSeqError",): 17}
    assert of(values, "gateway_sessions_age_seconds") == {(): 0.042}
    assert of(values, "gateway_sessions_refused_states") == {(): 1}
    ends = of(values, "gateway_certificate_end_timestamp_seconds")
    assert ends["gateway",] == pytest.approx((identities.NOW + 30 * identities.DAY).timestamp(), abs=1)
    assert of(values, "gateway_revocation_list_due_timestamp_seconds").keys() == {("CN=Test CA",)}


def test_what_bonds_say(node):
    values = node.values()
    # as recorded: eth0 and eth1 are up and eth1 is used; the site's bond1 has eth2, which is not in that bond
    assert of(values, "gateway_bond_up") == {("bond0", "external"): 1, ("bond1", "internal"): 0}
    assert of(values, "gateway_bond_slave_up") == {("bond0", "eth0"): 1, ("bond0", "eth1"): 1, ("bond1", "eth2"): 0}
    assert of(values, "gateway_bond_slave_active")["bond0", "eth1"] == 1
    assert of(values, "gateway_bond_slave_failures_total") == {("bond0", "eth0"): 1, ("bond0", "eth1"): 1}
    (node.folder / "bonding/bond0").unlink()
    values = node.values()
    assert of(values, "gateway_bond_up")["bond0", "external"] == 0
    assert of(values, "gateway_collect_success")["bonding",] == 1


def test_a_standby_expects_no_tunnel(node):
    node.serves = False
    node.status["status"] |= {"role": "standby", "held": [], "missing": ["192.0.2.10", "198.51.100.10"]}
    node.sessions["adopted"] = None         # it is not asked: this would be an error
    values = node.values()
    assert of(values, "gateway_role")["standby",] == 1
    assert of(values, "gateway_tunnels_expected") == of(values, "gateway_tunnels_up") == {("bern",): 0}
    assert of(values, "gateway_collect_success")["ipsec",] == 1


def test_a_tunnel_that_was_adopted_is_up(node):
    """The daemon of the node that has taken over does not know it."""
    node.commands["trafficstatus"] = ""
    assert node.value("gateway_tunnels_up", connection="bern") == 0
    node.sessions["adopted"] = [dict(node.sessions["adopted"][0], tunnel="", peer="192.0.2.74", peer_id="",
                                     inner="198.51.100.64/26")]
    assert node.value("gateway_tunnels_up", connection="bern") == 1
    assert node.value("gateway_tunnels_adopted", connection="bern") == 1


def test_nobody_is_named_unless_the_site_wants_it(node):
    name = "gateway_person_connected_since_timestamp_seconds"
    assert "anna" not in node.text() and "road1" not in node.text()
    node.settings(persons=True)
    assert of(node.values(), name) == {("roadwarrior", "CN=anna"): 1795460000,
                                       ("roadwarrior", "CN=road1.example"): 1795467000}


def test_a_name_that_a_client_chose_is_text_and_nothing_else(node):
    node.settings(persons=True)
    node.sessions["adopted"][0]["peer_id"] = 'CN=x"} 1\ngateway_role{role="active"} 7\n#\\\ud800'
    values = node.values()
    assert sorted(of(values, "gateway_role").values()) == [0, 0, 0, 0, 0, 1]
    assert any("gateway_role{" in person for _connection, person in of(
        values, "gateway_person_connected_since_timestamp_seconds"))


# Counters

def states(node, **bytes_of: int) -> None:
    """The kernel's states, with so many bytes by SPI."""
    text = node.run(["ip", "nokeys"], 5)["stdout"]
    for spi, number in bytes_of.items():
        head, mark, rest = text.partition(f"spi 0x{spi.removeprefix('x')}")
        assert mark
        text = head + mark + re.sub(r"\n\s+\d+\(bytes\), \d+", f"\n\t  {number}(bytes), 9", rest, count=1)
    node.commands["states"] = text


def test_bytes_only_rise_also_when_keys_are_renewed(node):
    total = "gateway_tunnel_transmitted_bytes_total"
    assert node.value(total, connection="roadwarrior") == 2268
    states(node, xc283b89a=5000)
    assert node.value(total, connection="roadwarrior") == 5000
    # another state in its place, which begins at zero
    states(node, xc283b89a=40)
    old, new = "0xc283b89a", "0xc2000001"
    node.commands["states"] = node.commands["states"].replace(old, new)
    node.commands["status"] = node.run(["--status"], 5)["stdout"].replace("esp.c283b89a@", "esp.c2000001@")
    assert node.value(total, connection="roadwarrior") == 5040
    # all tunnels have gone: the node is standby
    node.commands |= {"states": "", "trafficstatus": ""}
    assert node.value(total, connection="roadwarrior") == 5040


def test_bytes_of_an_adopted_tunnel_count_for_its_connection(node):
    """And the standby's copies, through which nothing goes, count for none."""
    states(node, xc283b89a=700)
    node.commands["states"] = node.commands["states"].replace("reqid 16397(0x0000400d)",
                                                              "reqid 1073741829(0x40000005)")
    node.commands["status"] = re.sub(r"esp\.(c283b89a|10e9c506)@", "esp.0@", node.run(["--status"], 5)["stdout"])
    assert node.value("gateway_tunnel_transmitted_bytes_total", connection="roadwarrior") == 700
    node.context.clear()
    node.sessions["adopted"] = []
    assert node.value("gateway_tunnel_transmitted_bytes_total", connection="roadwarrior") == 0


def test_packets_dropped_as_replayed(node):
    name = "gateway_tunnel_replayed_packets_total"
    assert node.value(name, connection="bern") == 0
    node.commands["states"] = node.run(["nokeys"], 5)["stdout"].replace("replay 0 failed", "replay 3 failed")
    assert node.value(name, connection="bern") == 6        # two states


# What is missing

def test_a_part_that_fails_says_so_and_leaves_the_others(node, caplog):
    (node.folder / "nss/cert9.db").write_bytes(b"no database at all")
    node.modules["sessions"].SOCKET.unlink()
    for _ in range(2):
        values = node.values()
    done = of(values, "gateway_collect_success")
    assert {part for part, in done if not done[part,]} == {"certificates", "ipsec", "sessions"}
    assert not of(values, "gateway_certificate_end_timestamp_seconds")
    # of IPsec what is known without the copies
    assert of(values, "gateway_ipsec_daemon_up") == {(): 1} and of(values, "gateway_xfrm_errors_total")
    assert of(values, "gateway_role")["active",] == 1
    assert sorted(each.message.split(":")[1].strip() for each in caplog.records if each.levelname == "WARNING") == [
        "certificates", "ipsec", "sessions"]       # once, and not with every file


@pytest.mark.parametrize(("change", "role"), [
    (lambda node: node.modules["heartbeat"].AGENT_SOCKET.unlink(), "unknown"),
    (lambda node: (node.folder / "pid").unlink(), "stopped"),
])
def test_without_the_agent_what_is_not_known_is_left_out(node, change, role):
    change(node)
    values = node.values()
    assert of(values, "gateway_role")[role,] == 1 and of(values, "gateway_agent_answering") == {(): 0}
    for name in ("gateway_ready", "gateway_role_epoch", "gateway_peer_alive", "gateway_agent_stalls_total"):
        assert not of(values, name)


def test_an_older_agent_does_not_count_standstills(node):
    del node.status["status"]["stalls"]
    values = node.values()
    assert of(values, "gateway_ready") == {(): 1} and not of(values, "gateway_agent_stalls_total")


def test_a_daemon_that_does_not_run_or_hangs_is_down(node, monkeypatch):
    def hangs(argv, timeout):
        raise node.metrics.CommandExecutionError("no answer")
    node.modules["ipsec"].__salt__["commands.run"] = hangs
    assert of(node.values(), "gateway_ipsec_daemon_up") == {(): 0}
    (node.folder / "pluto.pid").unlink()
    values = node.values()
    assert of(values, "gateway_ipsec_daemon_up") == {(): 0} and of(values, "gateway_collect_success")["ipsec",] == 1
    assert of(values, "gateway_xfrm_errors_total") and not of(values, "gateway_tunnels_up")


def test_every_metric_of_the_table_is_written_by_some_node(node):
    """A metric that no code makes would stand in the documentation for nothing."""
    node.settings(persons=True)
    made = {name for name, _labels in node.values()}
    assert made == set(node.modules["gateway_figures"].FAMILIES)


def test_the_names_are_as_prometheus_wants_them(node):
    for name, (kind, labels, about) in node.modules["gateway_figures"].FAMILIES.items():
        assert re.fullmatch(r"gateway_[a-z_]+", name) and (about[0].isupper() or about[0] == "1")
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"milli|minutes|hours|percent|kilo|_ms\b", name)
        assert "time" not in name.removesuffix("_timestamp_seconds"), name
        assert not {"site", "node", "instance", "job"} & set(labels)
