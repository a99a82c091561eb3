"""One lab for all tests of a process: sites on real kernels, on the built kernel with a packet filter.

It starts from bare hosts if a test asks for them, else from sites that were applied and kept (lab/applied.py).
Tests that break something repair it before they end.
"""
from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import applied, laboratory, observe
from lab.bench.run import more_packages
from lab.guest import Guest
from lab.kernel import Kernel
from lab.laboratory import ROADWARRIOR, STRONGSWAN, Lab
from lab.observe import eventually
from lab.results import Applied, apply
from lab.topology import Site
from tests import lanes

SITES = ["winterthur", "bern"]
AGENTS = "$(pgrep -f '^/usr/bin/python3 /usr/local/lib/gateway/agent/run$')"     # in a shell: supervisor and worker
TRAVELLER = "traveller"       # behind a router that translates addresses
LOG_LINES_SHOWN = 60          # of each gateway's log, with a test that fails
# Modules that test whether the pair handles a fault in time, on a machine that other programs use as well. A test that
# fails is tried once more, after the lab has come to rest (lab/__main__.py: how often in all). Modules are not here if
# a second try would find what the first one has repaired.
RERUN_MODULES = {"test_alerts", "test_beacon_ipsec", "test_beacons", "test_bonding", "test_disk", "test_faults",
                 "test_fencing", "test_both_sites", "test_heartbeat_anew", "test_nat", "test_paths", "test_peers",
                 "test_takeover", "test_tunnels"}
REST_SECONDS = 20
APPLIED_WITHIN_SECONDS = 1800 # a lane waits this long for the lane that begins with bare hosts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take minutes run on demand only. These tests need the namespaces that `lab/run` makes; anywhere else
    they are an error, not a skip.
    """
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("LAB_LONG"):
            item.add_marker(pytest.mark.skip(reason="LAB_LONG=1 runs what takes minutes"))
        if "tests/lab" in str(item.path) and item.path.stem in RERUN_MODULES:
            # a wait in vain is tried again; a lab that does not start, or a command that fails, is not a matter of time
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=REST_SECONDS, only_rerun=[AssertionError]))
    if not os.environ.get("LAB_INSIDE") and any("tests/lab" in str(item.path) for item in items):
        raise pytest.UsageError("tests/lab needs real-kernel hosts: run it as `lab/run test tests/lab`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """A failing test shows what the gateways logged meanwhile: what happens once in fifty runs is not seen again."""
    report = yield
    lab = next((value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Lab)), None)
    if report.failed and lab and hasattr(report.longrepr, "addsection"):
        for site in lab.sites:
            for guest in lab.gateways(site.name):
                # with the traceback, because nothing else is shown of a first try
                report.longrepr.addsection(f"{guest.host.minion_id}, last {LOG_LINES_SHOWN} lines",
                                           _said(guest, call.start))
    return report


def _said(guest: Guest, since: float) -> str:
    try:
        said = guest.journal(since, "-o", "short-precise", "-t", "gateway-agent", "-t", "heartbeat", "-t", "systemd")
    except Exception as error:  # noqa: BLE001  # a node that is down logs nothing, and the report is needed all the same
        return f"not available: {error}"
    return "\n".join(said.splitlines()[-LOG_LINES_SHOWN:])


def _start(sites: list[str], kernel: Kernel, kept: Path | None) -> Lab:
    """A lab with the roadwarriors that its tests need."""
    persons = (ROADWARRIOR, STRONGSWAN, TRAVELLER) if sites == SITES else (ROADWARRIOR,)
    lab = Lab(sites, kernel, persons, more_packages(), behind_nat=tuple({TRAVELLER} & set(persons)), kept=kept)
    lab.start()
    return lab


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """The kernel of all hosts; kernel, images and packages are ready then."""
    return laboratory.prepared(SITES, more_packages())


@pytest.fixture(scope="session")
def bare(kernel: Kernel) -> Lab:
    """Bare hosts: nothing has been applied yet. They run niced, because the tests of other lanes have deadlines."""
    return _start(SITES, kernel, None)


@pytest.fixture(scope="session")
def looked_first(bare: Lab) -> Applied:
    """`state.apply test=True` on the bare hosts."""
    return apply(bare, "*gw*", "test=True", command=True)


@pytest.fixture(scope="session")
def after_looking(bare: Lab, looked_first: Applied) -> dict[str, str]:
    """By host, after `test=True` only: what it has of the files and bonds that only a gateway has; normally nothing."""
    look = "ls /etc/ha.d/ha.cf /etc/ipsec.conf /etc/sysctl.d/60-gateway.conf 2>/dev/null; ip link show type bond"
    return {minion: bare.guests[minion].run(["sh", "-c", look]).stdout for minion in looked_first.returns}


@pytest.fixture(scope="session")
def first_run(bare: Lab, after_looking: dict[str, str]) -> Applied:
    """The first `state.apply`."""
    return apply(bare, "*gw*", command=True)


def _begins_bare(request: pytest.FixtureRequest) -> bool:
    """Whether a test of this process needs bare hosts or the first run."""
    lane = lanes.here()
    return "bare" in lane.kinds if lane else any("bare" in item.fixturenames for item in request.session.items)


def _connected(lab: Lab) -> Lab:
    eventually(lambda: observe.holder(lab, "winterthur"), 90)
    observe.connect_roadwarrior(lab)
    return lab


def _apply_and_keep(bare: Lab, first_run: Applied) -> Lab:
    assert not first_run.failed, first_run.failed
    bare.equip_roadwarrior(bare.sites[0])
    lab = _connected(bare)
    applied.keep(lab)
    return _connected(lab)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, kernel: Kernel) -> Lab:
    """The lab with its sites' gateways applied and a roadwarrior connected to winterthur."""
    lane = lanes.here()
    kept = applied.find(kernel, SITES)
    if _begins_bare(request) or not kept and not lane:
        return _apply_and_keep(request.getfixturevalue("bare"), request.getfixturevalue("first_run"))
    if not kept:
        # another lane is applying the bare hosts
        kept = eventually(lambda: applied.find(kernel, SITES), APPLIED_WITHIN_SECONDS, every=2)
    lab = _start(list(lane.sites) if lane else SITES, kernel, kept)
    # The hosts have booted since they were applied: until the next run they count as not compared with the master.
    # By name: the master knows the other site's nodes too, and would wait for them where they are not in this lab.
    done = apply(lab, [name for name, guest in lab.guests.items() if guest.host.master])
    assert not done.failed, done.failed
    return _connected(lab)


@contextlib.contextmanager
def heartbeat_cut(*guests: Guest) -> Iterator[None]:
    """These nodes receive no heartbeat traffic (ha.cf: udpport 694), but everything else."""
    with dropped("udp dport 694 drop;", *guests):
        yield


@contextlib.contextmanager
def deaf(guest: Guest) -> Iterator[None]:
    """The node hears neither the other one nor a ping node: it must know that it is cut off itself. No role moves."""
    with dropped("udp dport 694 drop; meta l4proto icmp drop;", guest):
        yield


@contextlib.contextmanager
def dropped(rules: str, *guests: Guest) -> Iterator[None]:
    """These nodes drop what the rules (nftables syntax) match in their input."""
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
    """`settled`, and every gateway's minion answers: a job that is published before a minion has connected is lost."""
    minions = {guest.host.minion_id for site in settled.sites for guest in settled.gateways(site.name)}
    try:
        settled.master.wait_for(minions)
    except SystemExit as error:     # as the demo ends; here it would end the fixtures of all tests to come
        raise AssertionError(str(error)) from None
    return settled


@pytest.fixture
def bus(quiet):
    """The lab and its events, once no condition of bonds or the pair is open and no event has come for 5 s."""
    with observe.events(quiet) as seen:
        def told() -> list[tuple]:
            said = quiet.master.ask("*.winterthur", "gateway_events.conditions")
            return [(minion, each["condition"], each["subject"]) for minion, conditions in said.items()
                    for each in conditions if each["beacon"] in ("bonding", "heartbeat")]

        eventually(lambda: not told(), 60, every=2)
        assert eventually(lambda: time.time() - max((each.came for each in seen.of()), default=0) > 5, 60)
        yield quiet, seen


def since(act: Callable[[], object]) -> float:
    """Do something; returns when it was begun, in seconds since the epoch."""
    now = time.time()
    act()
    return now


def interface(site: Site, side: str) -> str:
    """The interface that has the virtual IPs of a side."""
    return next(virtual["interface"] for virtual in site.view["virtual"] if virtual["side"] == side)


def hardware_address(guest: Guest, interface: str) -> str:
    """The hardware address of an interface."""
    return guest.run(["cat", f"/sys/class/net/{interface}/address"], check=True).stdout.strip()


@contextlib.contextmanager
def without_copies(lab: Lab, site: str) -> Iterator[None]:
    """The nodes of a site copy no tunnels meanwhile: what peers are told then, and how they come back by themselves."""
    for guest in lab.gateways(site):
        guest.run(["systemctl", "stop", "gateway-sessions"], check=True)
    try:
        yield
    finally:
        for guest in lab.gateways(site):
            guest.run(["systemctl", "start", "gateway-sessions"], check=True)
