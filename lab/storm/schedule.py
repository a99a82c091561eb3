"""Which faults a storm makes, and when: a pure function of the seed.

This file imports nothing of the lab, so that a simulation can use the same schedule.
"""
from __future__ import annotations

import random
from dataclasses import dataclass

ACTIVE, STANDBY = "active", "standby"
FIRST_AT_SECONDS = 20.0           # the pair is watched without a fault first
REST_SECONDS = (25.0, 60.0)       # from the last fault's end to the next burst: a host boots in half of that
TWO_AT_ONCE = 0.4                 # of all bursts
SECOND_AFTER_SECONDS = ((0.0, 1.5), (1.5, 8.0))   # of two at once: into the first one's takeover, or after it
ON_STANDBY = 1 / 3                # of the faults that can hit either node
# Of each hour the last 25 minutes bring only faults that end no process: whether one grows shows only while it lives.
HOUR_SECONDS, GENTLE_FROM_SECONDS = 3600.0, 2100.0


@dataclass(frozen=True)
class Kind:
    """One kind of fault. `seconds`: how long it lasts, from and to. `often`: its share, by weight.

    `power`: the struck node's console does not answer meanwhile. `alone`: never with another one. `both`: it can hit
    the standby too. `gentle`: it ends no process.
    """

    name: str
    seconds: tuple[float, float]
    often: int = 2
    power: bool = False
    alone: bool = False
    both: bool = True
    gentle: bool = False


# The names are those of lab/bench/faults.py, and of lab/storm/faults.py (the last three).
KINDS = (
    Kind("crash", (2, 20), 3, power=True),
    Kind("hang", (1, 30), 3, power=True),
    Kind("woken", (1, 3), alone=True, both=False),
    Kind("one NIC", (2, 15), gentle=True),
    Kind("both NICs", (2, 20), gentle=True),
    Kind("switch cut", (3, 15), gentle=True),
    Kind("upstream lost", (4, 20), gentle=True),
    Kind("daemon killed", (5, 10)),
    Kind("daemon hung", (8, 15)),
    Kind("heartbeat killed", (8, 15)),
    Kind("agent killed", (2, 5)),
    Kind("agent hung", (4, 8)),
    Kind("switch-over", (2, 5), 3, both=False, gentle=True),
    Kind("reboot", (2, 10), 1, power=True),
    Kind("power-on", (2, 5), 1, alone=True, both=False),
    Kind("one-way cut", (2, 25), 3, gentle=True),
    Kind("deaf", (2, 10), gentle=True),
    Kind("cut", (2, 15), both=False, gentle=True),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Planned:
    """One fault.

    `at`: seconds after the storm's beginning, at the earliest: a burst waits until the pair is whole. `burst`: its
    number; faults of one burst overlap. `target`: the role, at the burst's beginning, of the node that it hits.
    `seconds`: how long it lasts.
    """

    at: float
    burst: int
    fault: str
    target: str
    seconds: float

    @property
    def power(self) -> bool:
        """Whether the struck node's console does not answer meanwhile."""
        return BY_NAME[self.fault].power


def schedule(seed: int, minutes: float) -> list[Planned]:
    """The faults of a storm, in order. A longer storm of the same seed begins with the shorter one's faults."""
    # Only `random()`: its sequence is the same in every version of Python, that of `choice` and its like is not
    # promised (random: "Notes on Reproducibility"). A text as seed is hashed with SHA-512, by no hash of this process.
    dice = random.Random(f"storm {seed}")
    planned: list[Planned] = []
    at, burst = FIRST_AT_SECONDS, 0
    while at < minutes * 60:
        faults = _burst(dice, at, burst)
        planned += faults
        at = max(each.at + each.seconds for each in faults) + _between(dice, REST_SECONDS)
        at, burst = round(at, 2), burst + 1
    return planned


def bursts(planned: list[Planned]) -> list[list[Planned]]:
    """The faults by burst."""
    found: dict[int, list[Planned]] = {}
    for each in planned:
        found.setdefault(each.burst, []).append(each)
    return list(found.values())


def _burst(dice: random.Random, at: float, burst: int) -> list[Planned]:
    first = _fault(dice, at, burst)
    if dice.random() >= TWO_AT_ONCE or BY_NAME[first.fault].alone:
        return [first]
    after = _between(dice, SECOND_AFTER_SECONDS[dice.random() < 0.5])
    while not _fit(first, second := _fault(dice, round(at + after, 2), burst)):
        pass
    if first.power and not second.power:
        # What is made over a node's console comes first: afterwards the node might not answer.
        first, second = (Planned(first.at, burst, second.fault, second.target, second.seconds),
                         Planned(second.at, burst, first.fault, first.target, first.seconds))
    return [first, second]


def _fit(one: Planned, other: Planned) -> bool:
    """Whether two faults can be made at once. Two of power hit different nodes; the same fault hits the same once."""
    if BY_NAME[other.fault].alone:
        return False
    return one.target != other.target or not (one.fault == other.fault or one.power and other.power)


def _fault(dice: random.Random, at: float, burst: int) -> Planned:
    kinds = [kind for kind in KINDS if kind.gentle or at % HOUR_SECONDS < GENTLE_FROM_SECONDS]
    left = dice.random() * sum(kind.often for kind in kinds)
    for kind in kinds:
        left -= kind.often
        if left < 0:
            break
    standby = dice.random() < ON_STANDBY
    return Planned(at, burst, kind.name, STANDBY if standby and kind.both else ACTIVE, _between(dice, kind.seconds))


def _between(dice: random.Random, limits: tuple[float, float]) -> float:
    return round(limits[0] + dice.random() * (limits[1] - limits[0]), 2)
