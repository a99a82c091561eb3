"""What is changed by hand on a gateway is reported within moments, once; what Salt changes is not."""
from __future__ import annotations

import json
import time

import pytest

from lab import observe
from lab.bench.pairs import AGENT
from lab.observe import eventually
from lab.results import apply

SYSCTLS = "/etc/sysctl.d/60-gateway.conf"


@pytest.fixture
def watched(quiet):
    """The lab with its events. Before and after, the drift beacons of both gateways have nothing to report."""
    for guest in quiet.gateways("winterthur"):
        if guest.run(["test", "-e", "/run/gateway/current"]).returncode:     # booted since, in an earlier test
            done = apply(quiet, guest.host.minion_id)
            assert not done.failed, done.failed
    eventually(lambda: no_drift(quiet), 30)
    with observe.events(quiet) as seen:
        quiet.seen = seen
        yield quiet
    eventually(lambda: no_drift(quiet), 30)


def no_drift(lab) -> bool:
    said = lab.master.ask("*.winterthur", "drift.differences")
    return list(said.values()) == [[], []]


def wait(lab, guest, condition: str, subject: str, since: float, recovered: bool = False, within: float = 10):
    return lab.seen.wait(within, minion=guest.host.minion_id, beacon="drift", since=since, condition=condition,
                         subject=subject, recovered=recovered)


def sh(guest, command: str) -> str:
    return guest.run(["sh", "-c", command], check=True).stdout


def test_a_file_that_is_edited_is_told_and_its_formula_puts_it_right(watched):
    standby, path = observe.standby(watched, "winterthur"), "/etc/chrony/chrony.conf"
    begun = time.time()
    sh(standby, f"echo 'server 192.0.2.99' >> {path}")
    told = wait(watched, standby, "file_changed", path, begun)
    assert told.data["facts"]["formula"] == "time"
    assert "+server 192.0.2.99" in told.data["facts"]["diff"]
    assert told.came - begun < 4, told.came - begun
    run = apply(watched, standby.host.minion_id, "time")
    assert not run.failed and run.changed
    wait(watched, standby, "file_changed", path, begun, recovered=True)
    time.sleep(3)
    events = watched.seen.of(standby.host.minion_id, "drift", since=begun)
    assert [event.data["recovered"] for event in events if event.data["condition"] == "file_changed"] == [False, True]


def test_a_secret_is_not_shown(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    sh(standby, "cp -p /etc/ha.d/authkeys /root/authkeys; echo '2 sha1 s3cret' >> /etc/ha.d/authkeys")
    told = wait(watched, standby, "file_changed", "/etc/ha.d/authkeys", begun)
    assert "s3cret" not in json.dumps(told.data) and told.data["facts"]["formula"] == "heartbeat"
    sh(standby, "cp -p /root/authkeys /etc/ha.d/authkeys; rm /root/authkeys")
    wait(watched, standby, "file_changed", "/etc/ha.d/authkeys", begun, recovered=True)


def test_a_sysctl_set_by_hand_is_told(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    name, value = next(line.split(" = ") for line in sh(standby, f"cat {SYSCTLS}").splitlines() if "ip_forward" in line)
    sh(standby, f"sysctl -w {name}=0")
    told = wait(watched, standby, "sysctl_changed", name, begun)
    assert (told.data["was"], told.data["is"], told.data["facts"]["formula"]) == (value, "0", "kernel")
    run = apply(watched, standby.host.minion_id, "kernel")
    assert not run.failed
    assert sh(standby, f"sysctl -n {name}").strip() == value
    wait(watched, standby, "sysctl_changed", name, begun, recovered=True)


def test_a_rule_added_by_hand_is_told(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    sh(standby, "nft add rule inet gateway input tcp dport 23 accept")
    told = wait(watched, standby, "firewall_changed", "inet gateway", begun)
    assert "dport 23 accept" in told.data["facts"]["diff"] and told.data["facts"]["formula"] == "firewall"
    run = apply(watched, standby.host.minion_id, "firewall")
    assert not run.failed and run.changed
    wait(watched, standby, "firewall_changed", "inet gateway", begun, recovered=True)


def test_a_service_stopped_or_switched_off_by_hand_is_told(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    sh(standby, "systemctl stop chrony")
    told = wait(watched, standby, "service_changed", "chrony", begun)
    assert (told.data["is"], told.data["facts"]["formula"]) == ("stopped", "time")
    sh(standby, "systemctl disable chrony")
    watched.seen.wait(10, minion=standby.host.minion_id, beacon="drift", since=begun, subject="chrony",
                      **{"is": "stopped, not started at boot"})
    run = apply(watched, standby.host.minion_id, "time")
    assert not run.failed
    wait(watched, standby, "service_changed", "chrony", begun, recovered=True)


def test_a_service_that_is_restarted_is_not_told(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    for _ in range(3):
        sh(standby, "systemctl restart chrony rsyslog")
        time.sleep(1.3)
    assert not watched.seen.of(standby.host.minion_id, "drift", since=begun)


def test_a_key_that_is_deleted_from_the_daemons_database_is_told(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    sh(standby, "cp -a /var/lib/ipsec/nss /root/nss; certutil -d sql:/var/lib/ipsec/nss -F -n gateway")
    told = wait(watched, standby, "file_changed", "/var/lib/ipsec/nss", begun)
    assert "1 key missing" in told.data["is"]
    run = apply(watched, standby.host.minion_id, "openswan")
    assert not run.failed and run.changed, run.failed
    sh(standby, "rm -r /root/nss")
    wait(watched, standby, "file_changed", "/var/lib/ipsec/nss", begun, recovered=True)
    # the running daemon signs with the key again
    active = observe.active(watched, "winterthur")
    active.run([AGENT, "standby"], check=True)
    assert observe.holds_all(watched, standby)
    observe.connect_roadwarrior(watched)


def test_what_salt_changes_is_not_told(watched):
    """A change by pillar and back: files, a sysctl and the ruleset change, and no drift is reported."""
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    other = {"gateway": {"kernel": {"printk": "5 4 1 7"}, "firewall": {"ssh_from": "198.51.100.0/27"}}}
    run = apply(watched, standby.host.minion_id, f"pillar={json.dumps(other)}")
    assert not run.failed and len(run.changed[standby.host.minion_id]) >= 2, (run.failed, run.changed)
    time.sleep(3)
    run = apply(watched, standby.host.minion_id)
    assert not run.failed and run.changed
    time.sleep(3)
    assert not watched.seen.of(standby.host.minion_id, "drift", since=begun)


def test_the_second_run_changes_and_restarts_nothing(watched):
    standby = observe.standby(watched, "winterthur")
    look = "systemctl show -p MainPID -p ActiveEnterTimestamp ipsec heartbeat chrony rsyslog ssh nftables"
    before, record = sh(standby, look), sh(standby, "stat -c '%i %Y' /var/lib/gateway/drift/record")
    run = apply(watched, standby.host.minion_id)
    assert not run.failed and not run.changed, (run.failed, run.changed)
    assert sh(standby, look) == before
    assert sh(standby, "stat -c '%i %Y' /var/lib/gateway/drift/record") == record
    assert sh(standby, "stat -c '%a' /var/lib/gateway/drift /var/lib/gateway/drift/record") == "700\n600\n"


def test_both_nodes_have_the_same_where_they_have_to(watched):
    nodes = [observe.call(watched, guest, "drift.fingerprints") for guest in watched.gateways("winterthur")]
    assert nodes[0] == nodes[1]
    assert {"/etc/ipsec.conf", "/etc/ipsec.secrets", "/etc/ha.d/authkeys", "certificate gateway",
            "/usr/local/lib/gateway/agent/decide.py"} <= nodes[0].keys()
    assert "/etc/ha.d/agent.json" not in nodes[0]


def test_a_minion_that_is_restarted_repeats_nothing(watched):
    standby, begun = observe.standby(watched, "winterthur"), time.time()
    sh(standby, "echo '# by hand' >> /etc/logrotate.d/gateway")
    wait(watched, standby, "file_changed", "/etc/logrotate.d/gateway", begun)
    sh(standby, "systemctl stop chrony")
    wait(watched, standby, "service_changed", "chrony", begun)
    again = time.time()
    sh(standby, "systemctl restart salt-minion")
    eventually(lambda: watched.master.ask(standby.host.minion_id, "test.ping", timeout=10), 60)
    time.sleep(5)
    assert not watched.seen.of(standby.host.minion_id, "drift", since=again)
    assert not apply(watched, standby.host.minion_id, "logging").failed
    assert not apply(watched, standby.host.minion_id, "time").failed
    wait(watched, standby, "file_changed", "/etc/logrotate.d/gateway", again, recovered=True)
    wait(watched, standby, "service_changed", "chrony", again, recovered=True)
