"""Bare hosts become gateways; `test=True` changes nothing; a second run changes nothing."""
from __future__ import annotations

import datetime
import json

from lab import observe
from lab.observe import eventually
from lab.results import apply

SERVICES = ("ipsec", "heartbeat", "nftables", "chrony", "ssh", "rsyslog")


def test_looking_first_says_what_would_change_and_changes_nothing(looked_first, after_looking):
    assert not looked_first.failed, looked_first.failed
    for minion, states in looked_first.returns.items():
        assert [state["result"] for state in states.values()].count(None) > 5, (minion, states)
    assert set(after_looking.values()) == {""}, after_looking


def test_first_apply_makes_both_sites_gateways(bare, first_run):
    assert not first_run.failed, first_run.failed
    assert set(first_run.returns) == {host.minion_id for site in bare.sites for host in site.gateways}
    # a generous limit: machines are noisy; docs/benchmarks.md has what was measured
    assert first_run.seconds < 400


def test_one_node_holds_all_virtual_addresses_and_the_other_none(lab):
    for site in lab.sites:
        active = eventually(lambda name=site.name: observe.holder(lab, name), 60)
        other = next(guest for guest in lab.gateways(site.name) if guest is not active)
        assert not observe.virtual_held(lab, other)


def test_the_beacons_run_without_a_restart_of_the_minion(lab, first_run):
    """They come with the first run, use its pillar when it has ended, and report no fault of a bare host."""
    until = first_run.ended + 20        # later events are of other tests
    for guest in lab.gateways("winterthur") + lab.gateways("bern"):
        states = first_run.returns[guest.host.minion_id]
        assert any("beacons_watch" in state for state in states), list(states)
        kept = observe.call(lab, guest, "gateway_events.since")["events"]
        first = [each for each in kept if datetime.datetime.fromisoformat(each["at"]).timestamp() < until]
        assert not [each for each in first if each["condition"] in (
            "bond_missing", "slave_missing", "heartbeat_stopped", "none_active")], first
        assert observe.call(lab, guest, "gateway_events.watched_now") == observe.call(
            lab, guest, "gateway_events.pillar_digest")


def test_the_ipsec_daemon_comes_before_the_minion(lab):
    """In a switch-over pluto once waited 0.65 s while the minion reported it; clients were out for 4 s."""
    for guest in lab.gateways("winterthur"):
        nice = guest.run(["ps", "-o", "ni=", "-C", "pluto"], check=True).stdout.strip()
        assert int(nice) < 0, nice


def core_limits(guest, pids: str) -> dict[str, list[str]]:
    """The kernel's word for each process's limit on cores: soft and hard (proc_pid_limits(5))."""
    said = {pid: guest.run(["grep", "^Max core file size", f"/proc/{pid}/limits"], check=True).stdout.split()[4:6]
            for pid in pids.split()}
    assert said
    return said


def test_no_daemon_with_keys_in_its_memory_leaves_a_core(lab):
    """At once, without a restart: pluto and the minion ran before their drop-ins were there. Both Debian releases."""
    for guest in [lab.gateways(site.name)[0] for site in lab.sites]:
        for service in ("ipsec", "salt-minion"):
            pid = guest.run(["systemctl", "show", "--value", "--property=MainPID", service], check=True).stdout.strip()
            assert pid != "0", service
            assert core_limits(guest, pid) == {pid: ["0", "0"]}, service
            assert guest.run(["systemctl", "show", "--value", "--property=LimitCORE", service]).stdout.strip() == "0"
        assert observe.call(lab, guest, "cores.possible", "[ipsec, salt-minion]") == {}
        # whatever limit a daemon gives itself, as heartbeat does
        assert guest.run(["cat", "/proc/sys/kernel/core_pattern"]).stdout.strip() == "|/bin/false"
        dies = "ulimit -c unlimited; cd /var/tmp; sh -c 'kill -SEGV $$'; ls core* 2>/dev/null"
        assert guest.run(["sh", "-c", dies]).stdout == ""


def test_second_run_changes_nothing_and_restarts_nothing(lab):
    def started():
        return {(minion, unit): guest.run(["systemctl", "show", "-p", "ExecMainStartTimestampMonotonic", unit]).stdout
                for minion, guest in lab.guests.items() if guest.host.master for unit in SERVICES}

    before = started()
    second = apply(lab, "*gw*", command=True)
    assert not second.failed, second.failed
    assert not second.changed, second.changed
    assert started() == before
    assert second.seconds < 90


def test_a_site_with_mistakes_changes_nothing_and_names_them_all(lab):
    wrong = {"gateway": {"bonds": {"external": {"virtual": "192.0.2.200"}}, "heartbeat": {"deadtime": "100ms"},
                         "kernel": {"sysctl": {"net.ipv4.ip_default_ttl": 63}}}}
    run = apply(lab, "gw*.winterthur", f"pillar={json.dumps(wrong)}")
    assert set(run.failed) == {"gw1.winterthur", "gw2.winterthur"}
    for comments in run.failed.values():
        text = "\n".join(comments)
        assert "192.0.2.200" in text and "deadtime" in text, text
    assert not run.changed
    for guest in lab.gateways("winterthur"):
        assert guest.run(["sysctl", "-n", "net.ipv4.ip_default_ttl"]).stdout.strip() == "64"
