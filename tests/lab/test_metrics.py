"""Figures of a real pair: each node writes them, Debian's exporter hands them out, Prometheus sees a takeover."""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import network, observe, prometheus
from lab.bench.pairs import AGENT, Pair
from lab.guest import Guest
from lab.laboratory import Lab
from lab.master import MASTER_TREE
from lab.observe import eventually
from lab.results import apply
from tests.conftest import TREE
from tests.unit.figures.node import Values, read

SITE = "winterthur"
SITE_FILE = MASTER_TREE / f"pillar/sites/{SITE}.sls"
FILE = "/var/lib/prometheus/node-exporter/gateway.prom"
UNIT = "gateway-metrics"
EVERY_SECONDS = 5
# One look at the node, one round of Prometheus, and what a busy machine adds.
SEEN_SECONDS = 30.0
OURS = (FILE, "/etc/gateway-metrics.json", f"/etc/systemd/system/{UNIT}.service")


def figures_of(guest: Guest) -> Values:
    """What stands in the node's textfile now; empty without one."""
    return read(guest.run(["cat", FILE]).stdout)


def of(values: Values, name: str) -> dict[tuple[str, ...], float]:
    """One metric's values by those of its own labels, in the order of the labels' names."""
    return {tuple(value for label, value in labels if label not in ("node", "site")): number
            for (each, labels), number in values.items() if each == name}


def written(guest: Guest) -> float:
    """When the node wrote its file, by its own clock."""
    return of(figures_of(guest), "gateway_written_timestamp_seconds").get((), 0.0)


def there(guest: Guest) -> list[str]:
    """Which of the files that only a node with figures has are on it."""
    return guest.run(["sh", "-c", f"ls {' '.join(OURS)} 2>/dev/null"]).stdout.split()


@pytest.fixture(scope="module")
def figures(lab: Lab) -> Iterator[Lab]:
    """The lab with figures on; at the end they are off again, and nothing of them is left."""
    original = SITE_FILE.read_text()
    inner = next(bond["networks"][0] for bond in lab.sites[0].view["bonds"] if bond["side"] == "internal")
    try:
        SITE_FILE.write_text(original.rstrip() + "\n  features: {metrics: true}\n"
                             f"  metrics: {{every: {EVERY_SECONDS}, scrape_from: {inner}}}\n")
        looked = apply(lab, f"*.{SITE}", "test=True")
        assert not looked.failed, looked.failed
        assert not any(there(guest) for guest in lab.gateways(SITE)), "test=True has changed something"
        done = apply(lab, f"*.{SITE}")
        assert not done.failed, done.failed
        for guest in lab.gateways(SITE):
            assert eventually(lambda guest=guest: written(guest) > 0, 60)
        yield lab
    finally:
        SITE_FILE.write_text(original)
        done = apply(lab, f"*.{SITE}", "queue=True")
        left = {guest.host.name: there(guest) for guest in lab.gateways(SITE)}
        running = [guest.run(["systemctl", "is-active", UNIT]).stdout.strip() for guest in lab.gateways(SITE)]
    assert not done.failed, done.failed
    assert not any(left.values()) and set(running) == {"inactive"}, (left, running)


@pytest.fixture
def pair(figures: Lab, quiet: Lab) -> Iterator[Lab]:
    """The pair at rest, before and after, with a roadwarrior in its tunnel."""
    assert eventually(Pair(quiet, "default").settled, 60)
    observe.connect_roadwarrior(quiet)
    yield quiet
    quiet.master.wait_for({each.host.minion_id for each in quiet.gateways(SITE)})
    assert eventually(Pair(quiet, "default").settled, 90)


@pytest.fixture
def asked(pair: Lab, tmp_path: Path) -> Iterator[prometheus.Server]:
    """A Prometheus in the inner network that asks both nodes."""
    targets = [f"{guest.host.addresses[0].split('/')[0]}:9100" for guest in pair.gateways(SITE)]
    server = prometheus.Server(tmp_path, targets, TREE / "etc/prometheus/gateway.rules.yml", "1s")
    try:
        yield server
    finally:
        server.stop()


def test_each_node_says_what_it_is(pair):
    active, standby = observe.active(pair, SITE), observe.standby(pair, SITE)
    for guest, role in ((active, "active"), (standby, "standby")):
        assert eventually(lambda guest=guest, role=role: of(figures_of(guest), "gateway_role")[role,] == 1, 20)
        values = figures_of(guest)
        assert set(of(values, "gateway_collect_success").values()) == {1}, of(values, "gateway_collect_success")
        assert set(of(values, "gateway_link_up").values()) == {1} and of(values, "gateway_peer_alive") == {(): 1}
        assert set(of(values, "gateway_bond_slave_up").values()) == {1}
        assert of(values, "gateway_certificate_end_timestamp_seconds")["gateway",] > time.time()
        assert of(values, "gateway_sessions_connected") == {(): 1}
        assert of(values, "gateway_xfrm_errors_total"), "the kernel has counters"
        # in the lab's slow hosts; on hardware it is milliseconds
        assert of(values, "gateway_collect_duration_seconds")[()] < 5
        assert guest.run(["stat", "-c", "%a", FILE], check=True).stdout.strip() == "644"
    values = figures_of(active)
    assert eventually(lambda: of(figures_of(active), "gateway_people_connected")["roadwarrior",] >= 1, 20)
    assert of(figures_of(standby), "gateway_people_connected")["roadwarrior",] == 0
    before = of(values, "gateway_tunnel_received_bytes_total")["roadwarrior",]
    assert observe.ping_through_tunnel(pair, count=5)
    received = "gateway_tunnel_received_bytes_total"
    assert eventually(lambda: of(figures_of(active), received)["roadwarrior",] > before, 20)


def test_prometheus_sees_a_switch_over(pair, asked):
    active, standby = observe.active(pair, SITE), observe.standby(pair, SITE)
    one, two = active.host.name, standby.host.name
    asked.until('gateway_role{role="active"}', {one: 1, two: 0}, SEEN_SECONDS)
    asked.until("site:gateway_nodes_active:sum", {SITE: 1}, SEEN_SECONDS)
    asked.until('gateway_people_connected{connection="roadwarrior"}', {one: 1, two: 0}, SEEN_SECONDS)
    active.run([AGENT, "standby"], check=True)
    asked.until('gateway_role{role="active"}', {one: 0, two: 1}, SEEN_SECONDS)
    asked.until("site:gateway_role:changes1d", {SITE: 1}, SEEN_SECONDS)
    # the tunnel came with the role, and its daemon there has never heard of it
    asked.until('gateway_people_connected{connection="roadwarrior"}', {one: 0, two: 1}, SEEN_SECONDS)
    received = 'gateway_tunnel_received_bytes_total{connection="roadwarrior"}'
    before = asked.query(received)[two]
    assert observe.ping_through_tunnel(pair, count=5)
    assert eventually(lambda: asked.query(received)[two] > before, SEEN_SECONDS)


def test_prometheus_sees_a_crash_and_who_has_taken_over(pair, asked):
    active, standby = observe.active(pair, SITE), observe.standby(pair, SITE)
    asked.until('gateway_role{role="active"}', {active.host.name: 1, standby.host.name: 0}, SEEN_SECONDS)
    try:
        active.crash()
        asked.until('gateway_role{role="active"}', {standby.host.name: 1}, SEEN_SECONDS)
        asked.until("gateway_peer_alive", {standby.host.name: 0}, SEEN_SECONDS)
        asked.until("site:gateway_nodes_active:sum", {SITE: 1}, SEEN_SECONDS)
    finally:
        active.start()
        active.wait_up()
    asked.until('gateway_role{role="active"}', {active.host.name: 0, standby.host.name: 1}, 120)


def test_figures_go_on_when_the_minion_is_stuck_and_the_master_is_away(pair):
    guest = observe.standby(pair, SITE)
    guest.run(["systemctl", "kill", "-s", "STOP", "salt-minion"], check=True)
    try:
        before = written(guest)
        assert eventually(lambda: written(guest) >= before + 2 * EVERY_SECONDS, 30)
    finally:
        guest.run(["systemctl", "kill", "-s", "CONT", "salt-minion"], check=True)


def test_its_process_comes_back_and_costs_the_agent_nothing(pair):
    guest = observe.active(pair, SITE)
    stalls = of(figures_of(guest), "gateway_agent_stalls_total")[()]
    guest.run(["systemctl", "kill", "-s", "KILL", UNIT], check=True)
    before = written(guest)
    assert eventually(lambda: written(guest) > before + EVERY_SECONDS, 90)
    assert observe.active(pair, SITE) is guest
    assert of(figures_of(guest), "gateway_agent_stalls_total")[()] <= stalls + 1


def test_nobody_but_prometheus_may_ask(pair):
    site = pair.sites[0]
    host = site.gateways[0]
    assert observe.tcp_answers(site.server.name, host.addresses[0].split("/")[0], 9100) == "accepted"
    own = next(address.split("/")[0] for bond in site.settings[host.name]["bonds"] if bond["side"] == "external"
               for address in bond["addresses"])
    assert not observe.tcp_answers(network.ROUTER, own, 9100)
