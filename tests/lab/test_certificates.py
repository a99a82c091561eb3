"""The authority on the master, with real daemons: a bundle connects, a revoked person is out on both nodes."""
from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest
import yaml

from lab import observe
from lab.laboratory import Lab
from lab.observe import eventually
from lab.results import apply

AUTHORITY = "Lab authority on the master"
DATABASE = "sql:/var/lib/ipsec/nss"


@pytest.fixture(scope="module")
def issued(lab: Lab) -> Iterator[Lab]:
    """Both sites with certificates of the master's own authority; the lab's own are back afterwards."""
    before = lab.roadwarrior.run(["cat", "/etc/ipsec.conf"], check=True).stdout
    originals = {its.name: (lab.master.secrets / f"{its.name}.sls").read_text() for its in lab.sites}
    lab.master.run("authority.create", AUTHORITY)
    try:
        for name, text in originals.items():
            its = yaml.safe_load(text)
            del its["gateway_secrets"]["certificates"]
            (lab.master.secrets / f"{name}.sls").write_text("#!yaml|gpg\n" + yaml.safe_dump(its, default_style="|"))
            lab.master.run("authority.issue_gateway", name)
        lab.master.run("authority.crl")
        done = apply(lab, "*gw*")
        assert not done.failed, done.failed
        yield lab
    finally:
        for name, text in originals.items():
            (lab.master.secrets / f"{name}.sls").write_text(text)
        for made in ("issued", "crls"):
            shutil.rmtree(lab.master.secrets / made, ignore_errors=True)
        apply(lab, "*gw*")
        lab.copy_to(lab.roadwarrior, "/etc/ipsec.conf", before.encode())
        observe.connect_roadwarrior(lab)


def equip(lab: Lab, name: str) -> None:
    """What README.txt of a bundle says, for Libreswan."""
    lab.master.run("authority.issue_roadwarrior", lab.sites[0].name, name)
    folder = lab.master.folder / "authority/bundles" / lab.sites[0].name / name
    for file, place in ((folder / f"{name}.p12", "/root/bundle.p12"), (folder / "libreswan.conf", "/etc/ipsec.conf"),
                        (folder.with_name(f"{name}.passphrase"), "/root/passphrase")):
        lab.copy_to(lab.roadwarrior, place, file.read_bytes())
    for command in (["pk12util", "-i", "/root/bundle.p12", "-w", "/root/passphrase", "-d", DATABASE],
                    ["certutil", "-M", "-n", AUTHORITY, "-t", "CT,,", "-d", DATABASE]):
        lab.roadwarrior.run(command, check=True)


def connected(lab: Lab, name: str) -> bool:
    """Whether that person has a tunnel to the active node."""
    status = observe.call(lab, observe.active(lab, lab.sites[0].name), "ipsec.status")
    return any(name in sa["peer_id"] for each in status["connections"].values() for sa in each["sas"])


def stays_out(lab: Lab, seconds: float = 40) -> bool:
    """Whether nothing is answered for longer than the daemon takes to notice a list."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if observe.ping_through_tunnel(lab):
            return False
        time.sleep(1)
    return True


def test_a_second_run_changes_nothing(issued):
    assert apply(issued, "*gw*").changed == {}


def test_a_bundle_connects_and_a_revoked_person_is_out_on_both_nodes(issued):
    lab, site = issued, issued.sites[0].name
    equip(lab, "anna")
    observe.connect_roadwarrior(lab)
    assert observe.ping_through_tunnel(lab) and connected(lab, "anna")
    lab.master.run("authority.revoke", site, "anna", "reason=key_compromise")
    begun = time.monotonic()
    done = apply(lab, f"*.{site}", "openswan")
    assert not done.failed, done.failed
    assert not connected(lab, "anna"), f"still there {time.monotonic() - begun:.0f} s after"
    assert stays_out(lab), "came back in"
    for guest in lab.gateways(site):
        assert observe.call(lab, guest, "certs.report")["lists"]["gateway-authority"]["revoked"] == 1
    # the other node too, when it takes over
    other = observe.standby(lab, site)
    observe.active(lab, site).run(["/usr/local/lib/gateway/agent/run", "standby"], check=True)
    assert eventually(lambda: observe.holds_all(lab, other), 60)
    lab.roadwarrior.run(["systemctl", "restart", "ipsec"], check=True)
    assert stays_out(lab), "came back in on the other node"
    equip(lab, "bert")
    observe.connect_roadwarrior(lab)
    assert observe.ping_through_tunnel(lab) and connected(lab, "bert")


def test_a_renewed_gateway_certificate_costs_no_packet(issued):
    """Libreswan 5.2; 4.10 negotiates anew (docs/openswan.md)."""
    lab, site = issued, issued.sites[0].name
    equip(lab, "carl")
    observe.connect_roadwarrior(lab)
    with observe.pings(lab) as seen:
        lab.master.run("authority.renew", site, "days=1000")
        done = apply(lab, f"*.{site}")
        gap = seen.longest_gap()
    assert not done.failed, done.failed
    assert gap < 0.5, gap
