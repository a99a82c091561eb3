"""One lab for all these tests: both shipped sites on real kernels, built kernel with packet filter.

Tests that break something put it right again before they end.
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from lab import laboratory, observe
from lab.bench.run import more_packages
from lab.guest import Guest
from lab.laboratory import ROADWARRIOR, STRONGSWAN, Lab
from lab.observe import eventually
from lab.results import Applied, apply

SITES = ["winterthur", "bern"]
AGENTS = "$(pgrep -f '^/usr/bin/python3 /usr/local/lib/gateway/agent/run$')"     # in a shell: supervisor and worker
TRAVELLER = "traveller"       # behind a router that translates addresses
SAID = 60                     # lines of each gateway's log with a test that fails
# Whether a fault is borne in time, on a machine that others use as well: what fails is tried once more, after the lab
# has come to rest (lab/__main__.py: how often in all). Not where a second try finds what the first has put right.
TIMED = {"test_alerts", "test_beacon_ipsec", "test_beacons", "test_bonding", "test_disk", "test_faults", "test_fencing",
         "test_heartbeat_anew", "test_nat", "test_paths", "test_takeover", "test_tunnels"}
REST = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes is run on demand. These tests need the namespaces that `lab/run` makes; anywhere else they
    are an error, not a skip.
    """
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("LAB_LONG"):
            item.add_marker(pytest.mark.skip(reason="LAB_LONG=1 runs what takes minutes"))
        if "tests/lab" in str(item.path) and item.path.stem in TIMED:
            # what was waited for in vain; a lab that does not start, or a command that fails, is no matter of time
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=REST, only_rerun=[AssertionError]))
    if not os.environ.get("LAB_INSIDE") and any("tests/lab" in str(item.path) for item in items):
        raise pytest.UsageError("tests/lab needs real-kernel hosts: run it as `lab/run test tests/lab`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """A test that fails shows what the gateways said meanwhile: what happens once in fifty runs is not seen again."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("bare")
    if report.failed and lab and hasattr(report.longrepr, "addsection"):
        for site in lab.sites:
            for guest in lab.gateways(site.name):
                # with the traceback, which is all that is shown of a first try
                report.longrepr.addsection(f"{guest.host.minion_id}, last {SAID} lines", _said(guest, call.start))
    return report


def _said(guest: Guest, since: float) -> str:
    try:
        said = guest.journal(since, "-o", "short-precise", "-t", "gateway-agent", "-t", "heartbeat", "-t", "systemd")
    except Exception as error:  # noqa: BLE001  # a node that is down says nothing, and the report is needed all the same
        return f"not to be had: {error}"
    return "\n".join(said.splitlines()[-SAID:])


@pytest.fixture(scope="session")
def bare() -> Lab:
    """Bare hosts: nothing has been applied yet."""
    packages = more_packages()
    lab = Lab(SITES, laboratory.prepared(SITES, packages), (ROADWARRIOR, STRONGSWAN, TRAVELLER), packages,
              behind_nat=(TRAVELLER,))
    lab.start()
    return lab


@pytest.fixture(scope="session")
def looked_first(bare: Lab) -> Applied:
    """`state.apply test=True` on the bare hosts."""
    return apply(bare, "*gw*", "test=True")


@pytest.fixture(scope="session")
def after_looking(bare: Lab, looked_first: Applied) -> dict[str, str]:
    """What a gateway would have and a bare host has not, on each host after only looking: normally nothing."""
    look = "ls /etc/ha.d/ha.cf /etc/ipsec.conf /etc/sysctl.d/60-gateway.conf 2>/dev/null; ip link show type bond"
    return {minion: bare.guests[minion].run(["sh", "-c", look]).stdout for minion in looked_first.returns}


@pytest.fixture(scope="session")
def first_run(bare: Lab, after_looking: dict[str, str]) -> Applied:
    """The first `state.apply`."""
    return apply(bare, "*gw*")


@pytest.fixture(scope="session")
def lab(bare: Lab, first_run: Applied) -> Lab:
    """The lab with both sites' gateways applied and a roadwarrior connected to winterthur."""
    assert not first_run.failed, first_run.failed
    bare.equip_roadwarrior(bare.sites[0])
    eventually(lambda: observe.holder(bare, "winterthur"), 90)
    observe.connect_roadwarrior(bare)
    return bare


@contextlib.contextmanager
def heartbeat_cut(*guests: Guest) -> Iterator[None]:
    """On these nodes nothing of heartbeat's is heard any more (ha.cf: udpport 694), and everything else is."""
    with dropped("udp dport 694 drop;", *guests):
        yield


@contextlib.contextmanager
def deaf(guest: Guest) -> Iterator[None]:
    """The node hears neither the other one nor a ping node: it has to take itself for cut off, and nothing moves."""
    with dropped("udp dport 694 drop; meta l4proto icmp drop;", guest):
        yield


@contextlib.contextmanager
def dropped(rules: str, *guests: Guest) -> Iterator[None]:
    """These nodes do not hear what the rules (nftables') say."""
    drop = f"table inet cut {{ chain heard {{ type filter hook input priority -300; {rules} }}; }}"
    for guest in guests:
        guest.run(["nft", drop], check=True)
    try:
        yield
    finally:
        for guest in guests:
            guest.run(["nft", "delete", "table", "inet", "cut"], check=True)


@pytest.fixture
def settled(lab: Lab) -> Iterator[Lab]:
    """A lab in which the tunnel works at the start and at the end of the test."""
    assert eventually(lambda: observe.ping_through_tunnel(lab), 60)
    yield lab
    assert eventually(lambda: observe.ping_through_tunnel(lab), 60), "the test left the tunnel broken"


@pytest.fixture
def quiet(settled: Lab) -> Lab:
    """The same, and every gateway's minion answers: what is published before it has called is lost."""
    settled.master.wait_for({guest.host.minion_id for site in settled.sites for guest in settled.gateways(site.name)})
    return settled
