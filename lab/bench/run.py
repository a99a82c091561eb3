"""Runs every fault in every configuration and writes one table.

Each configuration gets a lab of its own: bare hosts, set up, clients connected. A ping every 60 ms from each client is
watched while a fault is made at a random phase of the timers; the figure is the longest gap between two replies.
"""
from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import laboratory, observe
from lab.bench import clients, rival
from lab.bench.busy import busy
from lab.bench.faults import FAULTS, Fault, NotThere
from lab.bench.pairs import Pair, pair
from lab.bench.serving import Prober
from lab.laboratory import Lab
from lab.progress import step

CONFIGURATIONS = ["paper", "default", "fast", "rival"]
SITE = "winterthur"
EVERY = 0.06
NOISE = 0.3            # a shorter silence is the machine's, not the fault's
NEVER = 240.0          # a tunnel that is not back by then is said not to come back


def parser() -> argparse.ArgumentParser:
    """The words of `lab/run bench`."""
    faults, kinds = [fault.name for fault in FAULTS], [client.name for client in clients.CLIENTS]
    result = argparse.ArgumentParser(prog="lab/run bench", description=__doc__)
    result.add_argument("--runs", type=int, default=6)
    result.add_argument("--configuration", nargs="+", default=CONFIGURATIONS, choices=CONFIGURATIONS)
    result.add_argument("--fault", nargs="+", default=faults, choices=faults)
    result.add_argument("--client", nargs="+", default=kinds, choices=kinds)
    result.add_argument("--busy", type=float, metavar="MINUTES",
                        help="no fault: every core of this machine loaded for so long, and the changes of role counted")
    result.add_argument("--results", type=Path, default=Path("bench.jsonl"), help="raw figures are added to this file")
    return result


def measure(configuration: str, arguments: argparse.Namespace) -> None:
    """One configuration, from bare hosts; adds its figures to the results."""
    chosen = [client for client in clients.CLIENTS if client.name in arguments.client]
    packages = more_packages()
    lab = Lab([SITE], laboratory.prepare([SITE], "built", packages), tuple(client.name for client in chosen), packages,
              tuple(client.name for client in chosen if client.behind_nat))
    lab.start()
    its = pair(lab, configuration)
    step(f"{configuration}: setting up the pair and {len(chosen)} clients")
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(its.set_up), *(pool.submit(clients.equip, lab, client) for client in chosen)]
        for job in jobs:
            job.result()
    observe.eventually(its.settled, 180)
    for client in chosen:
        lab.roadwarriors[client.name].run(["systemctl", "restart", clients.daemon(client)], check=True)
    if arguments.busy:
        seen = busy(its, [lab.roadwarriors[client.name] for client in chosen], arguments.busy)
        step(f"{configuration}: {seen}")
        _add(arguments.results, {"configuration": configuration, "fault": "busy", **seen})
        return
    for fault in FAULTS:
        if fault.name in arguments.fault:
            for number in range(arguments.runs):
                try:
                    row = one(lab, its, fault, [client.name for client in chosen])
                except NotThere:
                    break
                except AssertionError as err:
                    step(f"{configuration}: {fault.name} {number + 1}: the pair did not settle: {err}")
                    break
                step(f"{configuration}: {fault.name} {number + 1}: {row['gaps']}")
                _add(arguments.results, {"configuration": configuration, "fault": fault.name, **row})


def _add(results: Path, row: dict) -> None:
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def more_packages() -> tuple[str, ...]:
    """What the rival and the other make of client need."""
    return (*rival.PACKAGES, *clients.STRONGSWAN_PACKAGES)


def one(lab: Lab, its: Pair, fault: Fault, roadwarriors: list[str]) -> dict:
    """Make the fault once; everything is as before at the end.

    Returns ``at`` (when, seconds since the epoch), ``gaps`` (each roadwarrior's longest, in seconds) and ``serving``
    (how long after the fault the virtual IP was served again as seen by the router; 0 when it never stopped), and of
    the other node's journal ``detected`` and ``held``, where it took over.

    Raises NotThere when the configuration has no such part.
    """
    observe.eventually(its.settled, 120, every=1)
    active = its.active()
    if fault.prepare:
        fault.prepare(its, active)
    running = {name: observe.Pings(lab, lab.roadwarriors[name], EVERY) for name in roadwarriors}
    observe.eventually(lambda: all(_answered(each) for each in running.values()), NEVER, every=1)
    time.sleep(random.uniform(2, 4))
    prober = Prober(its.site.virtual("external"))
    time.sleep(0.3)
    at = time.time()
    heal = fault.make(its, active)
    try:
        time.sleep(fault.watch)
        _wait_for_replies(running, at)
    finally:
        answers = prober.stop()
        heal()
    gaps = {name: round(each.longest_gap(since=at), 2) for name, each in running.items()}
    for each in running.values():
        each.stop()
    after = [each - at for each in answers if each > at]
    # the first answer after the longest silence that began after the fault
    silence = max(zip([0.0, *after], after, strict=False), key=lambda two: two[1] - two[0], default=(0, 0))
    serving = round(silence[1], 2) if silence[1] - silence[0] > NOISE else 0.0
    return {"at": at, "gaps": gaps, "serving": serving, **its.timeline(its.other(active), at)}


def _answered(running: observe.Pings) -> bool:
    replies = running.replies()
    return bool(replies) and time.time() - replies[-1] < 1


def _wait_for_replies(running: dict[str, observe.Pings], at: float) -> None:
    """Until every client has been answered again, or it is said never to be."""
    while time.time() - at < NEVER and not all(_answered(each) for each in running.values()):
        time.sleep(1)


def table(results: Path) -> str:
    """The figures so far as Markdown: median and worst, in seconds."""
    rows: dict[tuple[str, str, str], list[float]] = {}
    order: dict[str, None] = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        order[row["fault"]] = None
        # where the time goes, then what the clients saw
        split = {what: row[what] for what in ("detected", "held", "serving") if what in row}
        for client, gap in {**split, **row["gaps"]}.items():
            rows.setdefault((row["fault"], client, row["configuration"]), []).append(gap)
    columns = [each for each in CONFIGURATIONS if any(key[2] == each for key in rows)]
    lines = ["| fault | seen by | " + " | ".join(columns) + " |", "| --- | --- |" + " --- |" * len(columns)]
    for fault in order:
        for client in dict.fromkeys(key[1] for key in rows if key[0] == fault):
            cells = [_cell(rows.get((fault, client, column), [])) for column in columns]
            lines.append(f"| {fault} | {client} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(gaps: list[float]) -> str:
    if not gaps:
        return ""
    never = sum(gap >= NEVER for gap in gaps)
    lost = f", {never} never came back" if never else ""
    return f"{statistics.median(gaps):.2f} / {max(gaps):.2f} ({len(gaps)}{lost})"


def main(words: list[str]) -> int:
    """Inside the lab's namespaces: one configuration."""
    configuration, *rest = words
    measure(configuration, parser().parse_args(rest))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
