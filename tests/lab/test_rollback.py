"""What takes a change back when the usual way is barred: a disk that stands still, a power cut, rules on both nodes."""
from __future__ import annotations

import json
import time

from lab import observe
from lab.bench.pairs import Pair
from lab.guest import Guest
from lab.laboratory import Lab
from lab.observe import eventually
from lab.results import apply
from tests.lab.test_disk import frozen

RULES = "/etc/nftables.conf"
MARK = "tcp dport 23 accept"


def _rules(guest: Guest) -> str:
    return guest.run(["nft", "-s", "list", "table", "inet", "gateway"], check=True).stdout


def _sh(guest: Guest, script: str) -> str:
    return guest.run(["sh", "-c", script], check=True).stdout


def _prepare(lab: Lab, guest: Guest) -> None:
    """The way back of a firewall change, as firewall.apply has it."""
    _sh(guest, "{ echo 'table inet gateway'; echo 'delete table inet gateway'; nft list table inet gateway; } "
               ">/run/was")
    argv = observe.call(lab, guest, "commit_confirm.prepare", "firewall", json.dumps([RULES]),
                        json.dumps([["nft", "-f", "/run/was"]]))
    assert argv == ["/bin/sh", "/run/gateway/rollback/firewall/undo"], argv


def test_a_disk_that_stands_still_does_not_keep_a_bad_ruleset_live(quiet):
    standby = observe.standby(quiet, "winterthur")
    rules, file = _rules(standby), _sh(standby, f"cat {RULES}")
    _prepare(quiet, standby)
    armed = observe.call(quiet, standby, "commit_confirm.arm", "firewall",
                         json.dumps(["/bin/sh", "/run/gateway/rollback/firewall/undo"]), "15")
    assert isinstance(armed, dict) and armed["name"] == "firewall", armed
    _sh(standby, f"nft add rule inet gateway input {MARK}; echo '# changed' >>{RULES}; sync {RULES}")
    with frozen(standby):
        assert eventually(lambda: _rules(standby) == rules, 40)
        assert "# changed" in _sh(standby, f"cat {RULES}")
    assert eventually(lambda: _sh(standby, f"cat {RULES}") == file, 20)
    assert observe.call(quiet, standby, "commit_confirm.pending") == []


def test_a_power_cut_before_the_confirmation_boots_the_old_ruleset(quiet):
    standby = observe.standby(quiet, "winterthur")
    rules, file = _rules(standby), _sh(standby, f"cat {RULES}")
    _prepare(quiet, standby)
    # what commit_confirm has on the disk while the new files are written and nobody has confirmed them
    _sh(standby, "cd /run/gateway/rollback/firewall; to=/var/lib/gateway/rollback/firewall; mkdir -p $to; "
                 f"cp -p files saved-* $to; sed -i 's/policy drop/policy accept/' {RULES}; sync")
    standby.crash()
    standby.start()
    standby.wait_up()
    assert (_rules(standby), _sh(standby, f"cat {RULES}")) == (rules, file)
    assert _sh(standby, "ls -A /var/lib/gateway/rollback") == ""
    quiet.master.wait_for({standby.host.minion_id})
    assert eventually(Pair(quiet, "default").settled, 120)
    again = apply(quiet, standby.host.minion_id)
    assert not again.failed and not again.changed, (again.failed, again.changed)


def test_rules_against_heartbeats_on_both_nodes_at_once_move_no_role(quiet):
    """And rules that do cut a node off from the heartbeats are taken back, within seconds."""
    before = observe.roles(quiet, "winterthur")
    cut = {"gateway": {"firewall": {"extra": {"input": ["udp dport 694 drop"], "output": ["udp dport 694 drop"]}}}}
    run = apply(quiet, "*.winterthur", "firewall", f"pillar={json.dumps(cut)}")
    assert not run.failed, run.failed
    time.sleep(3)  # longer than the deadtime
    for guest in quiet.gateways("winterthur"):
        assert _rules(guest).count("udp dport 694 drop") >= 2
        assert not _deaf(guest)
    assert observe.roles(quiet, "winterthur") == before
    # A port that heartbeat itself is not told of: the new rules let in nobody's heartbeats.
    standby = observe.standby(quiet, "winterthur")
    wrong = {"gateway": {"rollback": {"seconds": 30}, "heartbeat": {"port": 695}}}
    run = apply(quiet, standby.host.minion_id, "firewall", f"pillar={json.dumps(wrong)}")
    assert "no answer from the heartbeat of" in json.dumps(run.failed), run.returns
    assert eventually(Pair(quiet, "default").settled, 60)
    assert not apply(quiet, "*.winterthur", "firewall").failed


def _deaf(guest: Guest) -> bool:
    said = observe.agent(guest)
    return said is None or said["peer"]["heartbeat"] == "dead"
