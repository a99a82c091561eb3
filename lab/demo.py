"""The first README command: bare hosts, state.apply, a roadwarrior, a table."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lab import observe
from lab.kernel import BUILD_COMMAND
from lab.laboratory import Lab
from lab.progress import elapsed, step
from lab.results import Applied, apply

WITHOUT_FIREWALL = 'pillar={"gateway": {"features": {"firewall": false}}}'


def show(lab: Lab) -> int:
    """Run the demo and print the table. Returns the exit code: 0 when everything worked, else 1."""
    site = lab.sites[0]
    words = [] if lab.kernel.built else [WITHOUT_FIREWALL]
    with ThreadPoolExecutor() as pool:
        equipped = pool.submit(lab.equip_roadwarrior, site)
        step(" ".join(["salt '*gw*' state.apply", *words]))
        first = apply(lab, "*gw*", *words, command=True)
        if first.failed:
            return _report(first)
        step("the same again: nothing may change")
        second = apply(lab, "*gw*", *words, command=True)
        equipped.result()
    step("connecting the roadwarrior")
    observe.eventually(lambda: observe.holder(lab, site.name), 60)
    observe.connect_roadwarrior(lab)
    answered = observe.ping_through_tunnel(lab, count=5)
    _table(lab, first, second, answered)
    return _report(second) if second.failed or second.changed else int(not answered)


def _report(run: Applied) -> int:
    for minion, comments in run.failed.items():
        for comment in comments:
            print(f"{minion}: {comment}")
    for minion, states in run.changed.items():
        print(f"{minion}: changed: {', '.join(states)}")
    return 1


def _table(lab: Lab, first: Applied, second: Applied, answered: bool) -> None:
    site = lab.sites[0]
    rows = [("node", "role", "bonds: active slave / slaves", "virtual IPs held", "tunnels")]
    roles = observe.roles(lab, site.name)
    for guest in lab.gateways(site.name):
        bonds = [f"{bond['name']}: {observe.active_slave(guest, bond['name'])} / {' '.join(bond['slaves'])}"
                 for bond in site.settings[guest.host.name]["bonds"]]
        rows.append((guest.host.name, roles[guest.host.name], ", ".join(bonds),
                     " ".join(sorted(observe.virtual_held(lab, guest))) or "-", str(observe.tunnels(guest) // 2)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\nsite {site.name}, kernel {lab.kernel.name}\n")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    changes = sum(len(states) for states in second.changed.values())
    print(f"\nping from the roadwarrior to {observe.inner_target(lab)} through the tunnel: "
          f"{'answered' if answered else 'NO ANSWER'}")
    print(f"first state.apply {first.seconds:.1f} s, second {second.seconds:.1f} s with {changes} changes; "
          f"the whole command {elapsed():.0f} s")
    if not lab.kernel.built:
        print(f"the firewall was left out: this kernel has no packet filter; `{BUILD_COMMAND}` builds one that has")
