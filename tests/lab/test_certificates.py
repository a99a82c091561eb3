"""The authority on the master, with real daemons: bundles connect, a renewal costs nothing, a revoked person is out."""
from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from lab import observe
from lab.bench.clients import STRONGSWAN_PACKAGES
from lab.guest import Guest
from lab.laboratory import STRONGSWAN, Lab
from lab.observe import eventually
from lab.results import apply

AUTHORITY = "Lab authority on the master"
DATABASE = "sql:/var/lib/ipsec/nss"


@pytest.fixture(scope="module")
def issued(lab: Lab) -> Iterator[Lab]:
    """
    Both sites with certificates of the master's own authority, anna connected with Libreswan and bert with strongSwan.

    The lab's own certificates are back afterwards. What stays in the databases is an authority whose key is gone.
    """
    configuration = lab.roadwarrior.run(["cat", "/etc/ipsec.conf"], check=True).stdout
    secrets = {its.name: lab.master.secrets / f"{its.name}.sls" for its in lab.sites}
    originals = {name: file.read_text() for name, file in secrets.items()}
    strongswan = lab.roadwarriors[STRONGSWAN]
    try:
        lab.master.run("authority.create", AUTHORITY)
        for name, file in secrets.items():
            its = yaml.safe_load(originals[name])
            del its["gateway_secrets"]["certificates"]
            # only their own people, with whom all of this has to work
            its["gateway"] = {"connections": {"roadwarrior": {"subject": f"OU={name}, CN=*"}}}
            file.write_text("#!yaml|gpg\n" + yaml.safe_dump(its, default_style="|"))
            lab.master.run("authority.issue_gateway", name)
        with ThreadPoolExecutor() as pool:
            install = pool.submit(lab.install, strongswan, STRONGSWAN_PACKAGES)
            done = apply(lab, "*gw*", "openswan")
            install.result()
        assert not done.failed, done.failed
        lab.master.run("authority.issue_roadwarrior", lab.sites[0].name, "[anna, bert]")
        equip_libreswan(lab, "anna")
        equip_strongswan(lab, "bert")
        yield lab
    finally:
        strongswan.run(["sh", "-c", "systemctl stop strongswan; rm -f /etc/swanctl/conf.d/* /etc/swanctl/pkcs12/*"])
        for name, file in secrets.items():
            file.write_text(originals[name])
        for made in ("issued", "crls"):
            shutil.rmtree(lab.master.secrets / made, ignore_errors=True)
        shutil.rmtree(lab.master.folder / "authority", ignore_errors=True)
        back = apply(lab, "*gw*", "openswan")
        lab.copy_to(lab.roadwarrior, "/etc/ipsec.conf", configuration.encode())
        observe.connect_roadwarrior(lab)
        assert not back.failed, back.failed


def bundle(lab: Lab, guest: Guest, name: str, places: dict[str, str]) -> str:
    """Copy files of a person's bundle to a client; returns the passphrase."""
    folder = lab.master.folder / "authority/bundles" / lab.sites[0].name / name
    for file, place in places.items():
        lab.copy_to(guest, place, (folder / file).read_bytes())
    return folder.with_name(f"{name}.passphrase").read_text()


def equip_libreswan(lab: Lab, name: str) -> None:
    """What README.txt of a bundle says, for Libreswan."""
    client = lab.roadwarrior
    passphrase = bundle(lab, client, name, {f"{name}.p12": "/root/bundle.p12", "libreswan.conf": "/etc/ipsec.conf"})
    lab.copy_to(client, "/root/passphrase", passphrase.encode())
    for command in (["pk12util", "-i", "/root/bundle.p12", "-w", "/root/passphrase", "-d", DATABASE],
                    ["certutil", "-M", "-n", AUTHORITY, "-t", "CT,,", "-d", DATABASE]):
        client.run(command, check=True)
    observe.connect_roadwarrior(lab)


def equip_strongswan(lab: Lab, name: str) -> None:
    """The same, for strongSwan."""
    client = lab.roadwarriors[STRONGSWAN]
    client.run(["systemctl", "start", "strongswan"], check=True)
    passphrase = bundle(lab, client, name, {
        f"{name}.p12": f"/etc/swanctl/pkcs12/{name}.p12", "authority.pem": "/etc/swanctl/x509ca/authority.pem",
        "swanctl.conf": "/etc/swanctl/conf.d/gateway.conf"})
    client.run(["swanctl", "--load-all"], stdin=passphrase, check=True)
    eventually(lambda: reaches(lab, client), 30)


def reaches(lab: Lab, client: Guest) -> bool:
    """Whether the inner server answers a client."""
    return client.run(["ping", "-q", "-c", "1", "-W", "1", observe.inner_target(lab)]).returncode == 0


def connected(lab: Lab) -> set[str]:
    """The people who have a tunnel to the active node, by the first name in their certificate."""
    status = observe.call(lab, observe.active(lab, lab.sites[0].name), "ipsec.status")
    ids = [sa["peer_id"] for sa in status["connections"]["roadwarrior"]["sas"]]
    return {match[1] for each in ids if (match := re.search(r"CN=([a-z]+)", each))}


def refused(lab: Lab) -> bool:
    """Whether Libreswan's client calls and is not let in."""
    lab.roadwarrior.run(["systemctl", "restart", "ipsec"], check=True)

    def answer() -> str:
        # at first the daemon does not listen yet
        said = lab.roadwarrior.run(["ipsec", "up", lab.sites[0].name], timeout=30)
        return "in" if said.returncode == 0 else "out" if "AUTHENTICATION_FAILED" in said.stdout else ""

    return eventually(answer, 30) == "out" and not reaches(lab, lab.roadwarrior)


def serials(lab: Lab) -> set[str]:
    """Of the gateway's certificate that has its key, on each of the first site's nodes."""
    found = set()
    for guest in lab.gateways(lab.sites[0].name):
        held = [each for each in observe.call(lab, guest, "certs.stored") if each["private_key"]]
        assert len(held) == 1, held
        found.add(held[0]["fingerprint"])
    return found


def test_bundles_connect_with_libreswan_and_with_strongswan(issued):
    assert connected(issued) == {"anna", "bert"}
    assert observe.ping_through_tunnel(issued, count=5)
    assert reaches(issued, issued.roadwarriors[STRONGSWAN])


def test_a_renewed_gateway_certificate_reaches_both_nodes_and_costs_no_packet(issued):
    """Libreswan 5.2; 4.10 negotiates anew (docs/openswan.md)."""
    site, before = issued.sites[0].name, serials(issued)
    strongswan, roles = issued.roadwarriors[STRONGSWAN], observe.roles(issued, site)
    with (observe.pings(issued, every=0.2) as anna, observe.pings(issued, every=0.2, guest=strongswan) as bert):
        issued.master.run("authority.renew", site, "days=1000")
        done = apply(issued, f"*.{site}")
        lost = {"anna": anna.lost(), "bert": bert.lost()}
    assert not done.failed, done.failed
    assert lost == {"anna": 0, "bert": 0}, f"{lost}, and roles were {roles}, are {observe.roles(issued, site)}"
    after = serials(issued)
    assert len(before) == len(after) == 1 and before != after


def test_a_revoked_person_is_out_at_once_on_both_nodes_and_the_other_stays(issued):
    lab, site = issued, issued.sites[0].name
    strongswan = lab.roadwarriors[STRONGSWAN]
    with (observe.pings(lab, every=0.2) as anna, observe.pings(lab, every=0.2, guest=strongswan) as bert):
        eventually(anna.replies, 10)
        lab.master.run("authority.revoke", site, "anna", "reason=key_compromise")
        begun = time.time()
        done = apply(lab, f"*.{site}", "openswan")
        last, lost = anna.replies()[-1], bert.lost()
    assert not done.failed, done.failed
    ended = [minion for minion, states in done.changed.items() if any("openswan_expelled_|" in each for each in states)]
    assert ended == [observe.active(lab, site).host.minion_id]
    # most of it is the way to the state: 5 to 15 s, after how busy the machine is
    assert last - begun < 20, f"the tunnel was used for {last - begun:.1f} s more"
    assert lost == 0
    assert refused(lab), "came back in"
    assert connected(lab) == {"bert"}
    for guest in lab.gateways(site):
        listed = guest.run(["crlutil", "-L", "-n", AUTHORITY, "-d", DATABASE], check=True).stdout
        assert "Serial Number:" in listed, listed
    again = apply(lab, f"*.{site}", "openswan")
    assert not again.failed and not again.changed, (again.failed, again.changed)
    # the other node too, when it takes over
    other = observe.standby(lab, site)
    observe.active(lab, site).run(["/usr/local/lib/gateway/agent/run", "standby"], check=True)
    assert eventually(lambda: observe.holds_all(lab, other), 60)
    assert eventually(lambda: reaches(lab, strongswan), 60)
    assert refused(lab), "came back in on the other node"
    assert connected(lab) == {"bert"}


def test_another_sites_people_are_refused(issued):
    """To the gateway: bert is still the same, whose people it takes is not."""
    lab, site = issued, issued.sites[0].name
    others = {"gateway": {"connections": {"roadwarrior": {"subject": f"OU={lab.sites[1].name}, CN=*"}}}}
    done = apply(lab, f"*.{site}", "openswan", f"pillar={json.dumps(others)}")
    assert not done.failed, done.failed
    said = lab.roadwarriors[STRONGSWAN].run(["swanctl", "--initiate", "--child", "net1", "--timeout", "10"])
    assert said.returncode and "AUTHENTICATION_FAILED" in said.stdout, said
    assert connected(lab) == set()
