"""Makes every fault in every configuration and adds its figures to the results file; the tables are made from that.

Each configuration gets a lab of its own: bare hosts are set up and clients connected. Each client pings every 60 ms
while a fault is made at a random phase of the timers; the figure is the longest gap between two replies.

Runs that the results file already has are not made again: you can collect the table in several sessions, and an
interrupted command continues where it stopped. For new figures name another file.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import laboratory, observe
from lab.bench import clients, rival, scale, tables
from lab.bench.busy import busy
from lab.bench.faults import FAULTS, Fault, NotThere
from lab.bench.pairs import CONFIGURATIONS, Pair, pair
from lab.bench.serving import FromOne, Prober
from lab.guest import Failed, Guest
from lab.laboratory import Lab
from lab.progress import step

SITE = "winterthur"
PING_SECONDS = 0.06
NOISE_SECONDS = 0.3           # a shorter silence comes from the machine, not from the fault
# By whether a client is tuned: if its tunnel is not back by then, it counts as never come back. strongSwan as shipped
# asks after 30 s whether the other end is alive, and gives up 165 s later.
GIVE_UP_SECONDS = {True: 60.0, False: 240.0}
LONG_GAP_SECONDS = 4.0        # a longer gap of a tuned client, or of one that was to be told, is worth a look
JOURNAL_BEFORE_SECONDS = 320.0   # what the agents still remember at a fault (agent/starvation.py: STALL_MEMORY_SECONDS)
MAX_FAILED_ROUNDS = 3         # after this many failed rounds in a row the pair is not going to settle


@dataclass(frozen=True)
class Person:
    """A connected person: number `number` of this client's users, from 0 on, and the person's running ping."""

    client: clients.Client
    number: int
    pings: observe.Pings


def parser() -> argparse.ArgumentParser:
    """The parser of `lab/run bench`'s arguments."""
    faults, kinds = [fault.name for fault in FAULTS], [client.name for client in clients.CLIENTS]
    result = argparse.ArgumentParser(prog="lab/run bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--runs", type=int, default=6, help="runs of each fault, for each client (6)")
    result.add_argument("--runs-as-shipped", type=int, metavar="RUNS",
                        help="fewer runs for clients as shipped, who take minutes to come back by themselves")
    result.add_argument("--configuration", nargs="+", default=CONFIGURATIONS, choices=CONFIGURATIONS)
    result.add_argument("--fault", nargs="+", default=faults, choices=faults)
    result.add_argument("--client", nargs="+", default=kinds, choices=kinds)
    result.add_argument("--busy", type=float, metavar="MINUTES",
                        help="no fault: load every core of this machine for MINUTES and count the changes of role")
    result.add_argument("--tunnels", type=int, nargs="+", metavar="N",
                        help="no fault but crashes (RUNS of them), with N tunnels beside the client's: what they cost "
                             "(configuration `sessions`)")
    result.add_argument("--results", type=Path, default=Path("bench.jsonl"),
                        help="the file that raw figures are added to (bench.jsonl); runs in it are not made again")
    result.add_argument("--logs", type=Path, metavar="FOLDER",
                        help="keep all hosts' journals of rounds in which a tuned client, or one that was to be "
                             f"told, waited longer than {LONG_GAP_SECONDS:g} s, and of --busy")
    return result


def missing(configuration: str, arguments: argparse.Namespace) -> list[tuple[Fault, list[clients.Client]]]:
    """The rounds that are not in the results yet, in their order: the fault, and the clients to watch in it.

    First one round of every fault, then the next of each: so a short disturbance of the machine does not hit one fault
    only, and an interrupted command has about as many runs of each.
    """
    have: Counter[tuple[str, str]] = Counter()
    for row in tables.rows(arguments.results):
        if row["configuration"] == configuration:
            have.update((row["fault"], name) for name in row["gaps"])
            if row.get("not_there"):
                have.update({(row["fault"], client.name): sys.maxsize for client in clients.CLIENTS})
    shipped = arguments.runs if arguments.runs_as_shipped is None else arguments.runs_as_shipped
    rounds = []
    for number in range(arguments.runs):
        for fault in FAULTS:
            watched = [client for client in clients.CLIENTS if client.name in arguments.client
                       and have[fault.name, client.name] <= number < (arguments.runs if client.tuned else shipped)]
            if fault.name in arguments.fault and watched:
                rounds.append((fault, watched))
                have.update({(fault.name, client.name): client.people for client in watched})
    return rounds


def measure(configuration: str, arguments: argparse.Namespace) -> None:
    """Measure one configuration, from bare hosts on, and add its figures to the results.

    Raises SystemExit when the pair does not settle any more.
    """
    chosen = [client for client in clients.CLIENTS if client.name in arguments.client]
    packages = more_packages()
    lab = Lab([SITE], laboratory.prepare([SITE], "built", packages), tuple(client.name for client in chosen), packages,
              tuple(client.name for client in chosen if client.behind_nat))
    lab.start()
    its = pair(lab, configuration, chosen)
    step(f"{configuration}: setting up the pair and {len(chosen)} clients")
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(its.set_up), *(pool.submit(clients.equip, lab, client) for client in chosen)]
        for job in jobs:
            job.result()
    observe.eventually(its.settled, 180)
    for client in chosen:
        clients.call(lab, client)
    if arguments.busy:
        at = time.time()
        seen = busy(its, [lab.roadwarriors[client.name] for client in chosen], arguments.busy)
        step(f"{configuration}: {seen}")
        _add(arguments.results, {"configuration": configuration, "fault": "busy", **seen})
        if arguments.logs:
            _keep_journals(lab, arguments.logs / f"{configuration}-busy-{at:.0f}", {"at": at, **seen}, {})
        return
    if arguments.tunnels:
        for row in scale.measure(its, lab.roadwarriors[chosen[0].name], arguments.tunnels, arguments.runs):
            _add(arguments.results, {"configuration": configuration, "fault": "tunnels", **row})
        return
    stuck, not_there = 0, set()
    for fault, watched in missing(configuration, arguments):
        if fault in not_there:
            continue
        begun = time.monotonic()
        try:
            row = one(lab, its, fault, watched)
        except NotThere:
            not_there.add(fault)
            _add(arguments.results, {"configuration": configuration, "fault": fault.name, "gaps": {},
                                     "not_there": True})
            continue
        except (AssertionError, TimeoutError, Failed) as err:
            stuck += 1
            step(f"{configuration}: {fault.name}: not measured: {err}")
            if stuck == MAX_FAILED_ROUNDS:
                raise SystemExit(f"lab: {configuration}: the pair does not settle any more") from err
            continue
        stuck = 0
        kernels, others = row.pop("kernels"), row.pop("others")
        step(f"{configuration}: {fault.name}: {row['gaps']}, {time.monotonic() - begun:.0f} s")
        for each in (row, *others):
            _add(arguments.results, {"configuration": configuration, "fault": fault.name, **each})
        soon = [client.name for client in watched if client.tuned or fault.told]
        waited = max((each["gaps"].get(name, 0) for each in (row, *others) for name in soon), default=0)
        if arguments.logs and waited > LONG_GAP_SECONDS:
            _keep_journals(lab, arguments.logs / f"{configuration}-{fault.name.replace(' ', '-')}-{row['at']:.0f}", row,
                           kernels)


def _kernels(lab: Lab, broken: Guest) -> dict[str, str]:
    """By host what its kernel knows of tunnels and routes; without the host with the fault, which may not answer."""
    ask = ("ip -s xfrm state; ip xfrm policy; ip address; ip route show table all; ip neigh; "
           "grep -v ' 0$' /proc/net/xfrm_stat")
    return {name: guest.run(["sh", "-c", ask]).stdout for name, guest in lab.guests.items()
            if guest is not broken}


def _keep_journals(lab: Lab, folder: Path, row: dict[str, Any], kernels: dict[str, str]) -> None:
    """Write every host's journal into a folder, from some minutes before the fault on, with `row` and `kernels`."""
    folder.mkdir(parents=True)
    (folder / "row.json").write_text(json.dumps(row) + "\n")
    for name, said in kernels.items():
        (folder / f"{name}.kernel").write_text(said)
    for name, guest in lab.guests.items():
        journal = guest.journal(row["at"] - JOURNAL_BEFORE_SECONDS, "-b", "-o", "short-precise")
        (folder / f"{name}.log").write_text(journal)


def _add(results: Path, row: dict[str, Any]) -> None:
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def more_packages() -> tuple[str, ...]:
    """The packages that the rival and the strongSwan clients need, and gateways with `features: {metrics: true}`."""
    return (*rival.PACKAGES, *clients.STRONGSWAN_PACKAGES, "prometheus-node-exporter")


def one(lab: Lab, its: Pair, fault: Fault, watched: list[clients.Client]) -> dict[str, Any]:
    """Make the fault once, and repair everything at the end.

    Returns:
        ``at``: when, in seconds since the epoch; ``load``: the machine's load average of the minute before;
        ``gaps``: each client's longest, in seconds; ``never``: the clients that never came back;
        ``silent``: the virtual IP's longest silence as the router sees it, in seconds; ``serving``: how many seconds
        after the fault it ended (both 0 when it is below NOISE_SECONDS);
        ``kernels``: what `_kernels` gives, when a client never came back, else empty;
        ``detected``, ``held``: from the journal of the other node, when it took over;
        ``still_answers``: of a node that was woken, when its last packet came, in seconds after it went on;
        ``others``: ``at``, ``load``, ``gaps`` and ``never`` of the second and further people of a client, one entry for
        each; the values above are the first person's.

    Raises NotThere when the configuration has no such part, AssertionError when the round could not be measured.
    """
    observe.eventually(its.settled, 120, every=0.5)
    time.sleep(its.calm)
    active = observe.eventually(its.active, 30)
    woken = FromOne(its.site, its.hardware(active)) if fault.woken else None
    for client in watched:
        if client.tuned or client.people > 1:
            # Trap: strongSwan checks once a second, by a clock of whole seconds: how long it takes depends on when in a
            # second its connection came up, and that depends on the round before.
            time.sleep(random.uniform(0, 1))
            clients.call(lab, client)
    steps = fault.make(its, active)
    running: list[Person] = []
    try:
        next(steps)
        running = [person for client in watched for person in _people(lab, its, client)]
        _connect(lab, running)
        time.sleep(random.uniform(0.5, 2.5))
        # Trap: only a node that runs can be asked; the other one of "power-on", for example, is off.
        if not fault.woken and not observe.holds_all(lab, active):
            raise AssertionError("the role has moved before the fault")
        prober = Prober(its.site.virtual("external"))
        time.sleep(random.uniform(0.3, 1.3))
        load, at = os.getloadavg()[0], time.time()
        try:
            next(steps)
            seldom = fault.seldom if not all(client.tuned for client in watched) else 0
            time.sleep(max(fault.watch, seldom) + (its.notices if fault.unfelt else 0))
            never = _wait_for_replies(running, at)
            kernels = _kernels(lab, active) if never else {}
            first, *others = _figures(running, at, never)
        finally:
            answers = prober.stop()
    finally:
        seen = woken.stop() if woken else []
        for each in running:
            each.pings.stop()
        for _ in steps:
            pass
    silent, serving = _silence(answers, at)
    when = {"at": at, "load": round(load, 2)}
    row = {**when, **first, "silent": silent, "serving": serving, "kernels": kernels,
           "others": [{**when, **each} for each in others], **its.timeline(its.other(active), at)}
    if woken:
        row["still_answers"] = round(max((each - at for each in seen), default=0.0), 2)
    return row


def _silence(answers: list[float], at: float) -> tuple[float, float]:
    """The longest silence after `at`: its length, and how long after `at` it ended. Both 0 if it was only noise."""
    after = [each - at for each in answers if each > at]
    began, ended = max(zip([0.0, *after], after, strict=False), key=lambda two: two[1] - two[0], default=(0.0, 0.0))
    return (round(ended - began, 2), round(ended, 2)) if ended - began > NOISE_SECONDS else (0.0, 0.0)


def _people(lab: Lab, its: Pair, client: clients.Client) -> list[Person]:
    """Every person who uses this client, pinging; from the person's inner address if there are several."""
    addresses = clients.persons(its.known)
    sources = [addresses[each] for each in client.identities] if client.people > 1 else [""]
    return [Person(client, number, observe.Pings(lab, lab.roadwarriors[client.name], PING_SECONDS, source))
            for number, source in enumerate(sources)]


def _figures(running: list[Person], at: float, never: list[Person]) -> list[dict[str, Any]]:
    """``gaps`` and ``never`` by client: an entry for all clients' first persons, one for all second ones, and so on."""
    found = []
    for number in range(max(each.number for each in running) + 1):
        its = [each for each in running if each.number == number]
        found.append({"gaps": {each.client.name: round(each.pings.longest_gap(since=at), 2) for each in its},
                      "never": [each.client.name for each in its if each in never]})
    return found


def _answered(running: observe.Pings) -> bool:
    replies = running.replies()
    return bool(replies) and time.time() - replies[-1] < 1


def _connect(lab: Lab, running: list[Person]) -> None:
    """Wait until everybody is answered. Nothing is measured yet: a client that waits for its own timers is restarted.

    Raises AssertionError after 180 s.
    """
    begun = time.monotonic()
    again = begun + 4
    while waiting := {each.client: each for each in running if not _answered(each.pings)}:
        now = time.monotonic()
        if now - begun > 180:
            raise AssertionError(f"{', '.join(client.name for client in waiting)}: not connected")
        if now > again:
            again = now + 45         # on a busy machine a start takes a while, and another start would undo it
            for client in waiting:
                clients.call(lab, client)
        time.sleep(2)
        for each in running:
            if not _answered(each.pings):
                each.pings.stop()
                each.pings.start()
                time.sleep(0.5)


def _wait_for_replies(running: list[Person], at: float) -> list[Person]:
    """Wait until everybody is answered again, and still is a moment later, or counts as never come back.

    Returns those who never came back.
    """
    steady = 0
    while True:
        waiting = [each for each in running if not _answered(each.pings)]
        hoped = [each for each in waiting if time.time() - at < GIVE_UP_SECONDS[each.client.tuned]]
        steady = 0 if hoped else steady + 1
        if steady == 3:
            return waiting
        time.sleep(0.5)


def main(words: list[str]) -> int:
    """Measure one configuration, inside the lab's namespaces. `words` are its name and the bench's arguments."""
    configuration, *rest = words
    measure(configuration, parser().parse_args(rest))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
