"""The first README command: bare hosts, state.apply, a roadwarrior, a table."""
from __future__ import annotations

import threading

from lab import laboratory
from lab.kernel import BUILD_COMMAND
from lab.laboratory import Lab
from lab.progress import elapsed, step
from lab.results import Applied, apply


def show(lab: Lab) -> int:
    """Run it all and print the table; the exit code says whether everything worked."""
    site = lab.sites[0]
    pillar = [] if lab.kernel.built else ['pillar={"gateway": {"features": {"firewall": false}}}']
    equipping = threading.Thread(target=lab.equip_roadwarrior, args=(site,))
    equipping.start()
    step("salt '*gw*' state.apply " + " ".join(pillar))
    first = apply(lab, "*gw*", *pillar)
    if first.failed:
        return _report(first)
    step("salt '*gw*' state.apply, once more")
    second = apply(lab, "*gw*", *pillar)
    equipping.join()
    step("connecting the roadwarrior")
    lab.connect_roadwarrior()
    replies = lab.ping_through_tunnel(count=5)
    _table(lab, first, second, replies)
    return 0 if replies and not second.failed else 1


def _report(run: Applied) -> int:
    for minion, comments in run.failed.items():
        for comment in comments:
            print(f"{minion}: {comment}")
    return 1


def _table(lab: Lab, first: Applied, second: Applied, replies: bool) -> None:
    site = lab.sites[0]
    print(f"\nsite {site.name}, kernel {lab.kernel.name}\n")
    print(f"{'node':12} {'role':8} {'bond: active slave (others)':34} virtual addresses held")
    for guest in lab.gateways(site.name):
        node = laboratory.Node(lab, guest)
        print(f"{guest.host.name:12} {node.role():8} {node.bonds():34} {', '.join(node.virtual()) or '-'}")
    print()
    for guest in lab.gateways(site.name):
        tunnels = laboratory.Node(lab, guest).tunnels()
        if tunnels:
            print(f"tunnels on {guest.host.name}: {', '.join(tunnels)}")
    print(f"ping roadwarrior -> {lab.inner_target()} through the tunnel: {'answered' if replies else 'NO ANSWER'}")
    print(f"first state.apply: {first.seconds:.1f} s; second: {second.seconds:.1f} s, "
          f"{sum(len(states) for states in second.changed.values())} changes; the whole command: {elapsed():.0f} s")
    if not lab.kernel.built:
        print(f"no firewall: this kernel has no packet filter; `{BUILD_COMMAND}` builds one that has, once")
