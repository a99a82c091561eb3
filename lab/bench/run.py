"""Runs every fault in every configuration; the tables are made of what it adds to the results file.

Each configuration gets a lab of its own: bare hosts, set up, clients connected. A ping every 60 ms from each client is
watched while a fault is made at a random phase of the timers; the figure is the longest gap between two replies.

What the results file has already is counted: only runs that are missing are made, so that the table can be gathered in
pieces, and a command that was ended goes on where it was. For new figures name another file.
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
from lab.bench import clients, rival, tables
from lab.bench.busy import busy
from lab.bench.faults import FAULTS, Fault, NotThere
from lab.bench.pairs import CONFIGURATIONS, Pair, pair
from lab.bench.serving import FromOne, Prober
from lab.guest import Failed, Guest
from lab.laboratory import Lab
from lab.progress import step

SITE = "winterthur"
EVERY = 0.06
NOISE = 0.3            # a shorter silence is the machine's, not the fault's
# A tunnel that is not back by then is said never to come back; by whether the client is tuned. strongSwan as shipped
# asks after 30 s whether the other end is alive, and gives up 165 s later.
NEVER = {True: 60.0, False: 240.0}
LONG = 4.0             # of a tuned client, or of one that should have been told: why, is worth a look
REMEMBERED = 320.0     # seconds before a fault that the agents still go by (agent/decide.py: STALL_MEMORY_SECONDS)
STUCK = 3              # so many rounds running could not be made: the pair is not going to settle


@dataclass(frozen=True)
class Person:
    """Somebody connected: the `number`-th who uses this client, from 0 on, and a ping that runs."""

    client: clients.Client
    number: int
    pings: observe.Pings


def parser() -> argparse.ArgumentParser:
    """The words of `lab/run bench`."""
    faults, kinds = [fault.name for fault in FAULTS], [client.name for client in clients.CLIENTS]
    result = argparse.ArgumentParser(prog="lab/run bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--runs", type=int, default=6, help="of each fault, for each client (6)")
    result.add_argument("--runs-as-shipped", type=int, metavar="RUNS",
                        help="fewer for the clients as shipped, who take minutes to come back by themselves")
    result.add_argument("--configuration", nargs="+", default=CONFIGURATIONS, choices=CONFIGURATIONS)
    result.add_argument("--fault", nargs="+", default=faults, choices=faults)
    result.add_argument("--client", nargs="+", default=kinds, choices=kinds)
    result.add_argument("--busy", type=float, metavar="MINUTES",
                        help="no fault: every core of this machine loaded for so long, and the changes of role counted")
    result.add_argument("--results", type=Path, default=Path("bench.jsonl"),
                        help="raw figures are added to this file (bench.jsonl); what is in it is not measured again")
    result.add_argument("--logs", type=Path, metavar="FOLDER",
                        help="all hosts' journals of rounds in which a tuned client, or one that should have been "
                             f"told, waited longer than {LONG:g} s, and of --busy")
    return result


def missing(configuration: str, arguments: argparse.Namespace) -> list[tuple[Fault, list[clients.Client]]]:
    """The rounds that are not in the results yet, in their order: the fault, and who is to be watched in it.

    One round of every fault, then the next of each: a short noise of the machine does not hit one fault only, and what
    there is when the command is ended is of equal weight.
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
    """One configuration, from bare hosts; adds its figures to the results."""
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
            if stuck == STUCK:
                raise SystemExit(f"lab: {configuration}: the pair does not settle any more") from err
            continue
        stuck = 0
        kernels, others = row.pop("kernels"), row.pop("others")
        step(f"{configuration}: {fault.name}: {row['gaps']}, {time.monotonic() - begun:.0f} s")
        for each in (row, *others):
            _add(arguments.results, {"configuration": configuration, "fault": fault.name, **each})
        soon = [client.name for client in watched if client.tuned or fault.told]
        waited = max((each["gaps"].get(name, 0) for each in (row, *others) for name in soon), default=0)
        if arguments.logs and waited > LONG:
            _keep_journals(lab, arguments.logs / f"{configuration}-{fault.name.replace(' ', '-')}-{row['at']:.0f}", row,
                           kernels)


def _kernels(lab: Lab, broken: Guest) -> dict[str, str]:
    """What every host's kernel knows of tunnels and ways, by its name; the one with the fault may not answer."""
    ask = ("ip -s xfrm state; ip xfrm policy; ip address; ip route show table all; ip neigh; "
           "grep -v ' 0$' /proc/net/xfrm_stat")
    return {name: guest.run(["sh", "-c", ask]).stdout for name, guest in lab.guests.items()
            if guest is not broken}


def _keep_journals(lab: Lab, folder: Path, row: dict[str, Any], kernels: dict[str, str]) -> None:
    """What every host wrote, from what explains it before the fault on, and `kernels` (of `_kernels`, or nothing)."""
    folder.mkdir(parents=True)
    (folder / "row.json").write_text(json.dumps(row) + "\n")
    for name, said in kernels.items():
        (folder / f"{name}.kernel").write_text(said)
    for name, guest in lab.guests.items():
        (folder / f"{name}.log").write_text(guest.journal(row["at"] - REMEMBERED, "-b", "-o", "short-precise"))


def _add(results: Path, row: dict[str, Any]) -> None:
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def more_packages() -> tuple[str, ...]:
    """What the rival and the other make of client need."""
    return (*rival.PACKAGES, *clients.STRONGSWAN_PACKAGES)


def one(lab: Lab, its: Pair, fault: Fault, watched: list[clients.Client]) -> dict[str, Any]:
    """Make the fault once; everything is as before at the end.

    Returns ``at`` (when, seconds since the epoch), ``load`` (the machine's load average then, of the last minute),
    ``gaps`` (each client's longest, in seconds), ``never`` (the clients that were not answered any more), ``silent``
    (the virtual IP's longest silence as seen by the router, in seconds) and ``serving`` (how long after the fault it
    ended; both 0 without one worth the name), ``kernels`` (what is in them, where a client did not come back), of the
    other node's journal ``detected`` and ``held``, where it took over, and of a node that was woken ``still_answers``
    (when its last packet came, seconds after it went on). Of a client with several people that is the first one's; in
    ``others`` there is ``at``, ``load``, ``gaps`` and ``never`` for each of the others.

    Raises NotThere when the configuration has no such part.
    """
    observe.eventually(its.settled, 120, every=0.5)
    time.sleep(its.calm)
    active = observe.eventually(its.active, 30)
    woken = FromOne(its.site, its.hardware(active)) if fault.woken else None
    for client in watched:
        if client.tuned or client.people > 1:
            # Trap: strongSwan looks once a second, by a clock of whole seconds: what it needs depends on when in a
            # second its connection came up, and that on the round before.
            time.sleep(random.uniform(0, 1))
            clients.call(lab, client)
    steps = fault.make(its, active)
    running: list[Person] = []
    try:
        next(steps)
        running = [person for client in watched for person in _people(lab, its, client)]
        _connect(lab, running)
        time.sleep(random.uniform(0.5, 2.5))
        # Trap: only a node that runs can be asked: the other one of "power-on", for one, is off.
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
    """The longest silence after `at`: how long it was, and how long after `at` it ended. Zeros if it was just noise."""
    after = [each - at for each in answers if each > at]
    began, ended = max(zip([0.0, *after], after, strict=False), key=lambda two: two[1] - two[0], default=(0.0, 0.0))
    return (round(ended - began, 2), round(ended, 2)) if ended - began > NOISE else (0.0, 0.0)


def _people(lab: Lab, its: Pair, client: clients.Client) -> list[Person]:
    """Everybody who uses this client, pinging; by its inner address where they are several."""
    addresses = clients.persons(its.known)
    sources = [addresses[each] for each in client.identities] if client.people > 1 else [""]
    return [Person(client, number, observe.Pings(lab, lab.roadwarriors[client.name], EVERY, source))
            for number, source in enumerate(sources)]


def _figures(running: list[Person], at: float, never: list[Person]) -> list[dict[str, Any]]:
    """``gaps`` and ``never``, by client, of everybody's first, second, ... person."""
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
    """Until everybody is answered. Nothing is measured yet: a client that waits for its own timers is started anew."""
    begun = time.monotonic()
    again = begun + 4
    while waiting := {each.client: each for each in running if not _answered(each.pings)}:
        now = time.monotonic()
        if now - begun > 180:
            raise AssertionError(f"{', '.join(client.name for client in waiting)}: not connected")
        if now > again:
            again = now + 45         # on a busy machine a start takes a while, and another one would undo it
            for client in waiting:
                clients.call(lab, client)
        time.sleep(2)
        for each in running:
            if not _answered(each.pings):
                each.pings.stop()
                each.pings.start()
                time.sleep(0.5)


def _wait_for_replies(running: list[Person], at: float) -> list[Person]:
    """Until everybody is answered again, and still is a moment later, or is said never to be: those."""
    steady = 0
    while True:
        waiting = [each for each in running if not _answered(each.pings)]
        hoped = [each for each in waiting if time.time() - at < NEVER[each.client.tuned]]
        steady = 0 if hoped else steady + 1
        if steady == 3:
            return waiting
        time.sleep(0.5)


def main(words: list[str]) -> int:
    """Inside the lab's namespaces: one configuration."""
    configuration, *rest = words
    measure(configuration, parser().parse_args(rest))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
