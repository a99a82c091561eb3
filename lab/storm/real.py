"""The storm on real kernels: `lab/run storm`. It runs inside the lab's namespaces.

A burst of one or two faults, then the pair must be whole again, then what can only be judged afterwards is judged: the
role's moves, the clients, what must be told. Meanwhile the watch sees who answers for the addresses (watch.py).
"""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lab import laboratory, network, observe
from lab.bench import clients
from lab.bench.pairs import Pair, pair
from lab.bench.run import SITE, more_packages
from lab.guest import Failed, Guest
from lab.laboratory import Lab
from lab.progress import step
from lab.results import apply
from lab.storm import burst as bursting
from lab.storm import configuration, faults, growth, limits, options, schedule, told
from lab.storm.calendar import Burst, Calendar
from lab.storm.growth import Growth
from lab.storm.invariants import Invariants, Violation
from lab.storm.report import Report
from lab.storm.traffic import NotConnected, Traffic
from lab.storm.watcher import StormFailed, Watcher, cards, places

if TYPE_CHECKING:
    import argparse

FOLDER_VARIABLE = "LAB_RESULTS"          # docs/lab.md
WHOLE_SECONDS = 240.0                    # after the last fault: a host boots, both nodes are ready
RESTARTED_SECONDS = 180.0                # after a person has restarted everything
MINIONS_SECONDS = 180.0
ENDED_SECONDS = 420.0                    # until everything that was told is over: `starved` lasts five minutes
ASKED_SECONDS = 10.0                     # between two questions for what is open: salt-run costs two seconds
LAST_LINES = 100                         # of each node's journal, with a violation
# heartbeat's words about its own turns: on a busy machine they are all that is left of the last lines
NOISE = re.compile(r"Gmain_timeout_dispatch|G_CH_\w+|Late heartbeat|Deadtime value|See FAQ|URL: http")
JOURNAL_SECONDS = (70.0, 15.0)           # before and after a violation
SEEN_SECONDS = 12.0                      # before and after a violation, of what the watch saw
GOOD, VIOLATED, FAILED = 0, 1, 2         # exit codes


class GivenUp(Exception):
    """The pair does not become whole again, whatever a person would do."""


class Storm:
    """One storm over a pair that works."""

    def __init__(self, lab: Lab, its: Pair, arguments: argparse.Namespace, report: Report, traffic: Traffic) -> None:
        self.lab, self.pair, self.arguments, self.report, self.traffic = lab, its, arguments, report, traffic
        self.site = lab.sites[0]
        self.calendar = Calendar(arguments.profile)
        self.growth, self.told = Growth(), told.Told(self.site.name)
        with observe.events(lab):
            pass
        assert lab.listener
        self.listener, self.heard = lab.listener, len(lab.listener.heard)
        self.samples_lost = 0
        where = places(self.site, network.ROUTER)
        self.external = where[0].address
        self.watcher = Watcher(where, lambda begun: Invariants(
            self.calendar, cards(self.site), [each.address for each in where], begun), report.violation)
        self.begun = self.watcher.begun

    def run(self) -> None:
        """All bursts of the schedule, until the time is over.

        Raises StormFailed when nothing can be judged any more, GivenUp when the pair does not work any more.
        """
        plan = schedule.bursts(schedule.schedule(self.arguments.seed, self.arguments.minutes))
        if self.arguments.burst:
            plan = [next(each for each in plan if each[0].burst == number) for number in self.arguments.burst]
        end, made = self.begun + self.arguments.minutes * 60, 0
        self._sample()
        for planned in plan:
            while not self.arguments.burst and time.time() < min(self.begun + planned[0].at, end):
                time.sleep(1)
                self._look()
            if time.time() >= end:
                break
            self._burst(planned)
            made += 1
            if self.arguments.stop and self.report.violations:
                break
        self.report.figures["bursts, of those planned"] = f"{made} of {len(plan)}"

    def end(self) -> None:
        """What can be judged only at the end: everything told is over, nothing has grown."""
        self._settle_alerts()
        grown = self.growth.grown()
        self.report.grown(grown)
        for each in grown:
            if each.wrong:
                self._violation("grows", f"{each.process.name} ({each.process.pid}) on {each.process.host}: "
                                         f"{each.wrong}")
        self.figures()

    def figures(self) -> None:
        """What the watch has seen, into the table."""
        share, its = self.watcher.share(), self.watcher.invariants
        figures = self.report.figures
        figures["answers seen"] = str(its.answers)
        for address in its.addresses:
            figures[f"{address}: longest silence that counts, in all"] = (
                f"{its.longest_silence[address]:.2f}, {its.longest_silence_ever[address]:.2f} s")
            figures[f"{address}: longest answered by both nodes"] = f"{its.longest_both[address]:.2f} s"
        figures["moves of the role"] = str(len(its.moves_since(0, self.external)))
        figures["alerts"] = str(self.told.alerts)
        figures["processes watched for growth"] = str(len(self.growth.grown()))
        figures["samples of processes that failed"] = str(self.samples_lost)
        figures["the watch's share of a core"] = f"{share:.1%}"
        self.report.row("figures", **figures)

    def explain(self) -> None:
        """Show what is new among the violations."""
        self.report.explain(self.calendar.said, self._said)

    def _burst(self, planned: list[schedule.Planned]) -> None:
        self.traffic.begin()
        active, since = self._active(), time.time()
        standby = self.pair.other(active)
        nodes = {schedule.ACTIVE: active.host.name, schedule.STANDBY: standby.host.name}
        names = [each.fault for each in planned]
        step(f"storm, {time.time() - self.begun:.0f} s, burst {planned[0].burst}: " + " and ".join(
            f"{each.fault} on {nodes[each.target]} ({each.target}) for {each.seconds:.0f} s" for each in planned))
        with self.watcher.lock:
            self.watcher.invariants.begin_figures()
        made = bursting.make(self.pair, self.calendar, planned, active, self._starved())
        self._look()
        self._whole(made, planned)
        self._judge(made, planned, nodes)
        gaps = self.traffic.gaps(since)
        with self.watcher.lock:
            silence = self.watcher.invariants.silence_of_burst
        self.report.burst(names, silence, gaps, planned=[vars(each) for each in planned],
                          made=[vars(each) | {"planned": None} for each in made.faults], begun=made.begin,
                          whole=made.end, load=os.getloadavg()[0])
        self._sample()
        self._look()
        self.explain()

    def _active(self) -> Guest:
        def active() -> Guest | None:
            try:
                return self.pair.active()
            except (TimeoutError, ValueError, OSError, Failed):
                return None       # a busy host does not answer in time: asked again

        try:
            return observe.eventually(active, 60, every=1)
        except AssertionError:
            raise GivenUp(f"not exactly one node is active: {self._roles()}") from None

    def _starved(self) -> bool:
        """Whether an agent says that it is starved, or a host gives no answer at all."""
        try:
            return any((observe.agent(guest) or {}).get("starved") for guest in self.pair.guests)
        except (TimeoutError, ValueError):
            return True

    def _whole(self, made: Burst, planned: list[schedule.Planned]) -> None:
        """Wait until the pair is whole, every minion answers and every client is back."""
        try:
            self._until_settled(made, WHOLE_SECONDS)
        except AssertionError:
            # what it comes from was long ago: the journals of that time are shown
            self._violation("not whole", f"the pair is not whole {WHOLE_SECONDS:.0f} s after the last fault: "
                                         f"{self._roles()}", made.begin + JOURNAL_SECONDS[0] / 2)
            self.explain()
            self._repair(made)
        made.end = time.time()
        booted = [guest for guest in self.pair.guests
                  if any(each.planned.power and each.node == guest.host.name or each.planned.fault == "power-on"
                         for each in made.faults)]
        try:
            self.lab.master.wait_for({guest.host.minion_id for guest in self.pair.guests}, MINIONS_SECONDS)
        except SystemExit as error:
            self._violation("minion", f"not every minion answers {MINIONS_SECONDS:.0f} s after a burst: {error}")
        if not self.arguments.resync:
            for guest in booted:
                configuration.mark_compared(self.lab, guest)
        if lost := self.traffic.never_back():
            self._violation("client", f"the tunnels of {', '.join(lost)} are not back: the pair has been whole for "
                                      f"{time.time() - made.end:.0f} s")

    def _until_settled(self, made: Burst, seconds: float) -> None:
        def settled() -> bool:
            self._look()
            try:
                made.starved = made.starved or self._starved()
                return self.pair.settled()
            except (TimeoutError, ValueError, OSError, Failed):
                return False          # a host that boots, or has too much to do: asked again

        observe.eventually(settled, seconds, every=1)

    def _repair(self, made: Burst) -> None:
        """What a person would do. The run goes on, with a violation."""
        wrong = faults.restore(self.pair)
        for guest in self.pair.guests:
            try:
                guest.run(["systemctl", "restart", "ipsec", "heartbeat"], timeout=90)
            except TimeoutError as error:
                wrong.append(str(error))
        try:
            self._until_settled(made, RESTARTED_SECONDS)
        except AssertionError:
            raise GivenUp(f"the pair is not whole after a restart of heartbeat and the IPsec daemon on both nodes: "
                          f"{self._roles()} {'; '.join(wrong)}") from None

    def _judge(self, made: Burst, planned: list[schedule.Planned], nodes: dict[str, str]) -> None:
        """What is known only once a burst is over."""
        for each in made.faults:
            # two faults at once may keep each other from being made
            if each.wrong and len(planned) == 1:
                self._violation("fault", f"{each.text()}")
        with self.watcher.lock:
            moves = self.watcher.invariants.moves_since(made.begin, self.external)
        if len(moves) > limits.most_moves(planned):
            self._violation("role", f"the role moved {len(moves)} times ({', '.join(moves)}), the faults of this burst "
                                    f"explain {limits.most_moves(planned)}")
        self.told.owe(made, nodes, moves[-1:] if moves[-1:] != [nodes[schedule.ACTIVE]] else [])

    def _look(self) -> None:
        """Hear what the bus said, and see that everything that watches still does."""
        self.watcher.check()
        if self.listener.process.poll() is not None:
            raise StormFailed(f"the listener on the master's bus ended with {self.listener.process.returncode}")
        now = time.time()
        new = self.listener.heard[self.heard:]
        self.heard += len(new)
        for event in new:
            if isinstance(event.data, dict):
                for each in self.told.hear(event.came, event.tag, event.data):
                    self.report.violation(each)
        for each in self.told.check(now):
            self.report.violation(each)

    def _settle_alerts(self) -> None:
        """Wait until everything owed was told and everything told is over."""
        deadline, left = time.monotonic() + ENDED_SECONDS, ["not asked yet"]
        while left and time.monotonic() < deadline:
            time.sleep(ASKED_SECONDS)
            self._look()
            left = self._still_open()
        if left:
            self._violation("alert stays", f"{ENDED_SECONDS:.0f} s after the last burst these are still open: "
                                           f"{'; '.join(left)}")
        # what is owed may be told in the recovery only, and that has come by now, or never will
        for each in self.told.check(time.time() + told.TOLD_SECONDS + ENDED_SECONDS):
            self.report.violation(each)
        self.explain()

    def _still_open(self) -> list[str]:
        said = self.lab.master.run("--out=json", "alerts.open", self.site.name)
        return told.still_open(json.loads(said), self.site.name)

    def _sample(self) -> None:
        """Sample the processes. A sample that fails is counted; none at all is a violation at the end."""
        now = time.time()
        asked: list[tuple[str, Callable[[], list[list[object]]]]] = [("master", growth.of_master)]
        for guest in self.pair.guests:
            asked.append((guest.host.name, lambda guest=guest: growth.of_guest(guest)))  # type: ignore[misc]
        for name, ask in asked:
            try:
                self.growth.add(name, now, found := ask())
                self.report.row("sample", host=name, processes=found)
            except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
                self.samples_lost += 1
                self.report.row("sample failed", host=name, error=str(error))

    def _violation(self, what: str, text: str, at: float = 0.0) -> None:
        self.report.violation(Violation(what, text, at or time.time()))

    def _roles(self) -> str:
        said = []
        for guest in self.pair.guests:
            try:
                said.append(f"{guest.host.name}: {observe.agent(guest)}")
            except (TimeoutError, ValueError) as error:
                said.append(f"{guest.host.name}: {error}")
        return "; ".join(said)

    def _said(self, at: float) -> dict[str, str]:
        """What the watch saw around a time, and what each node logged."""
        with self.watcher.lock:
            seen = self.watcher.invariants.seen(at - SEEN_SECONDS, at + SEEN_SECONDS)
        found = {"the watch": "\n".join(seen)}
        for guest in self.pair.guests:
            try:
                until = int(at + JOURNAL_SECONDS[1] - guest.behind())
                lines = guest.journal(at - JOURNAL_SECONDS[0], f"--until=@{until}", "-o", "short-precise", "-t",
                                      "gateway-agent", "-t", "heartbeat", "-t", "systemd").splitlines()
                lines = [line for line in lines if not NOISE.search(line)]
                found[guest.host.name] = "\n".join(lines[-LAST_LINES:])
            except Exception as error:  # noqa: BLE001  # a node that does not answer must not hide the violation
                found[guest.host.name] = f"not available: {error}"
        return found


def set_up(arguments: argparse.Namespace) -> tuple[Lab, Pair, Traffic]:
    """A lab whose pair works and whose clients are connected. Raises Unsuitable, SystemExit, AssertionError."""
    chosen = [client for client in clients.CLIENTS if client.name in arguments.client]
    names = tuple(client.name for client in chosen)
    packages = more_packages()
    lab = Lab([SITE], laboratory.prepare([SITE], "built", packages), names, packages)
    lab.start()
    configuration.write_site(lab, arguments.profile, chosen)
    configuration.write_alerts()
    its = pair(lab, arguments.profile, chosen)
    step(f"{arguments.profile}: setting up the pair and {len(chosen)} clients")

    def set_up_pair() -> None:
        done = apply(lab, f"*.{SITE}")
        if done.failed:
            raise configuration.Unsuitable(f"state.apply: {done.failed}")

    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(set_up_pair), *(pool.submit(clients.equip, lab, client) for client in chosen)]:
            job.result()
    if arguments.resync:
        lab.master.resync(enabled=True)
        lab.master.wait_for({guest.host.minion_id for guest in its.guests})
    observe.eventually(its.settled, 180)
    for client in chosen:
        clients.call(lab, client)
    traffic = Traffic(lab, chosen)
    traffic.begin()
    return lab, its, traffic


def go(arguments: argparse.Namespace, report: Report) -> None:
    """The whole storm. Raises whatever keeps it from judging."""
    lab, its, traffic = set_up(arguments)
    before = configuration.read(lab)
    for minion, states in before.changes.items():
        step(f"before the storm state.apply test=True on {minion} would change {', '.join(states)}: not counted")
    report.begun = time.time()
    storm = Storm(lab, its, arguments, report, traffic)
    try:
        try:
            storm.run()
            storm.end()
        except (GivenUp, NotConnected) as error:
            text = f"{error}: not connected, with nothing wrong" if isinstance(error, NotConnected) else str(error)
            report.violation(Violation("given up", text, time.time()))
            return
        for what in configuration.lost(before, configuration.read(lab)):
            report.violation(Violation("configuration", what, time.time()))
        storm.explain()
        sampled = {process.host for process in storm.growth.samples}
        if len(sampled) != len(its.guests) + 1 or storm.watcher.invariants.answers == 0:
            raise StormFailed(f"something was never seen: processes were sampled on {sorted(sampled)}, "
                              f"{storm.watcher.invariants.answers} answers came")
        storm.watcher.check()
    finally:
        storm.watcher.stop()
        storm.explain()
        storm.figures()


def main(words: list[str]) -> int:
    """Run a storm, inside the lab's namespaces. `words` are the arguments of `lab/run storm`. Returns its exit code."""
    arguments = options.parser().parse_args(words)
    report = Report(Path(os.environ[FOLDER_VARIABLE]), arguments.profile, arguments.seed, arguments.minutes)
    step(f"storm: the figures go to {report.path}")
    code = GOOD
    try:
        go(arguments, report)
    except KeyboardInterrupt:
        report.figures["ended early"] = "interrupted"
    except BaseException as error:  # noqa: BLE001  # whatever it is, the run has failed and says so
        traceback.print_exc()
        report.row("failed", error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
        report.figures["THE STORM ITSELF FAILED"] = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        code = FAILED
    code = code or (VIOLATED if report.violations else GOOD)
    print(report.table(), flush=True)
    step(f"storm: the figures are in {report.path}")
    report.row("end", code=code, violations=len(report.violations))
    sys.stdout.flush()
    return code
