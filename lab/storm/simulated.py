"""`lab/run storm --simulated`: random scenarios against two state machines, in simulated time."""
from __future__ import annotations

import time
from typing import NamedTuple

from agent import epochs
from lab.storm.simulated_faults import FAULT_SECONDS, Scenario, happen, heal, scenario
from lab.storm.simulated_invariants import CONVERGED_SECONDS, Violation, Watch
from lab.storm.simulated_pair import STEP, Pair

STAYS_SECONDS = 10.0  # a healed pair that serves stays as it is for this long
SWITCHED_ON_SECONDS = 3.0  # after that time a person switches on a node that was fenced
MANY_VIOLATIONS = 5  # then run() ends
REPORT_EVERY_SECONDS = 60.0


class Found(NamedTuple):
    """What was found wrong in a scenario; what happened there until then; the longest times seen."""
    wrong: str
    trace: tuple[str, ...]
    longest: dict[str, float]


def play(what: Scenario) -> Found:
    """Plays a scenario to its end, or until something is wrong."""
    pair = Pair(what.seed, what.fence, what.failback, what.deadtime)
    watch = Watch(pair)
    began, wrong = pair.now, ""
    try:
        for fault in what.faults:
            until(pair, watch, began + fault.at)
            happen(pair, fault)
        until(pair, watch, max(pair.now + 5.0, began + FAULT_SECONDS / 2))
        heal(pair)
        settle(pair, watch)
    except Violation as violation:
        wrong = str(violation)
        pair.say(f"WRONG: {wrong}")
    return Found(wrong, tuple(f"{at - began:7.2f} s  {text}" for at, text in pair.trace), watch.longest)


def until(pair: Pair, watch: Watch, then: float) -> None:
    """Time passes until `then`."""
    while pair.now < then:
        pair.step()
        watch.look()


def settle(pair: Pair, watch: Watch) -> None:
    """A healed pair comes to rest within CONVERGED_SECONDS, and stays so. Raises Violation."""
    healed, right = pair.now, 0.0
    while right < STAYS_SECONDS:
        pair.step()
        watch.look()
        wrong = watch.converged()
        right = 0.0 if wrong else right + STEP
        for node in pair.nodes.values():
            if node.fenced and pair.now - watch.off_at[node.name] > SWITCHED_ON_SECONDS:
                pair.switch_on(node)
                healed = pair.now
        if wrong and pair.now - healed > CONVERGED_SECONDS:
            raise Violation(f"{CONVERGED_SECONDS:g} s after everything is healed: {wrong}")
    active, standby = (pair.served(serves).machine for serves in (True, False))
    if epochs.newer(active.epoch, standby.highest):
        raise Violation(f"the standby knows epoch {standby.highest}, and the active node has {active.epoch}")


def smaller(what: Scenario, wrong: str) -> Scenario:
    """The scenario without all faults that are not necessary for what was found."""
    kind = wrong.split(",")[0]
    left = 0
    while left < len(what.faults):
        fewer = what._replace(faults=what.faults[:left] + what.faults[left + 1:])
        if same(play(fewer).wrong, kind):
            what = fewer
        else:
            left += 1
    return what


def same(wrong: str, kind: str) -> bool:
    """Whether a violation is of a kind, whichever node it is about."""
    return wrong.replace("gw2", "gw1").split(",")[0] == kind.replace("gw2", "gw1") if wrong else False


def report(what: Scenario, found: Found) -> str:
    """A violation for a person: the fewest faults that show it, and what happened."""
    least = smaller(what, found.wrong)
    return "\n".join([f"seed {what.seed}: {found.wrong}", "", "the faults that are necessary for it:", str(least), "",
                      "what happens then:", *play(least).trace])


def run(minutes: float, seed: int) -> int:
    """Plays scenarios for so many minutes, from `seed` on, each with the next seed.

    Prints each violation with its seed, and every minute how far it is. Returns the exit code: 1 if something was
    found, else 0.
    """
    ends, told, first, wrong = time.monotonic() + 60.0 * minutes, time.monotonic(), seed, 0
    longest: dict[str, float] = {}
    print(f"simulated storm: from seed {seed}, {minutes:g} minutes", flush=True)
    while time.monotonic() < ends and wrong < MANY_VIOLATIONS:
        what = scenario(seed)
        found = play(what)
        longest = {name: max(length, longest.get(name, 0.0)) for name, length in found.longest.items()}
        if found.wrong:
            wrong += 1
            print(report(what, found), flush=True)
        seed += 1
        if time.monotonic() - told > REPORT_EVERY_SECONDS:
            told = time.monotonic()
            print(summary(seed - first, wrong, longest), flush=True)
    print(summary(seed - first, wrong, longest), flush=True)
    return 1 if wrong else 0


def summary(count: int, wrong: int, longest: dict[str, float]) -> str:
    """How many scenarios were played, and the longest times seen."""
    seen = "; ".join(f"{name} {length:.2f} s" for name, length in sorted(longest.items()))
    return f"{count} scenarios, {wrong} wrong; longest: {seen}"
