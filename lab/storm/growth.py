"""Whether processes grow: their memory and file descriptors, sampled whenever the pair is whole."""
from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lab.guest import Guest

# Prints [NAME, PID, START, KIB, DESCRIPTORS] of each process that is watched, as one line of JSON. START is in clock
# ticks since the boot: with it a number that the kernel gives out again is another process (proc(5), stat, field 22).
# KIB is what the process has for itself (RssAnon): libraries in a page cache do not count.
PROGRAM = r"""
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline", "rb").read().decode(errors="replace").replace("\0", " ").strip()
        name, _, rest = open(f"/proc/{pid}/stat").read().partition("(")[2].rpartition(")")
        kind = ("agent" if "/gateway/agent/run" in words else "heartbeat" if name == "heartbeat" else
                "pluto" if name == "pluto" else "master" if "salt-master" in words else
                "minion" if "salt-minion" in words else "")
        if not kind:
            continue
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
        title = words.rpartition("salt-master")[2].strip() if kind == "master" else ""
        found.append([f"{kind} {title}".strip()[:60], int(pid), int(rest.split()[19]),
                      int(status["RssAnon"].split()[0]), len(os.listdir(f"/proc/{pid}/fd"))])
    except (OSError, KeyError, IndexError, ValueError):
        pass        # it has ended meanwhile
print(json.dumps(found))
"""
WARM_UP_SECONDS = 300.0       # of each process's life: it loads what it needs
LEAST_SECONDS = 900.0         # a shorter life says nothing
LEAST_SAMPLES = 6
# What a process may grow, in KiB an hour, by the first word of its name; below the second figure, in KiB, growth is
# that of an allocator. Minions and the master are Salt's: caches fill for some hours.
MEMORY = {"agent": (512, 512), "heartbeat": (512, 512), "pluto": (2048, 2048), "minion": (12288, 6144),
          "master": (24576, 12288)}
DESCRIPTORS = 3               # a process may have so many more at the end than at its beginning, by the slope


class Sample(NamedTuple):
    """What a process has at a moment. `at`: seconds since the epoch."""

    at: float
    kib: float
    descriptors: float


class Process(NamedTuple):
    """One process of a host, from its start to its end."""

    host: str
    name: str
    pid: int
    start: int


@dataclass(frozen=True)
class Grown:
    """How a process grew: KiB an hour, descriptors an hour, and how long it was watched, in seconds."""

    process: Process
    memory: float
    descriptors: float
    seconds: float
    wrong: str               # empty if that is allowed


def of_guest(guest: Guest) -> list[list[object]]:
    """What PROGRAM prints on a host. Raises CalledProcessError, TimeoutError, ValueError."""
    found: list[list[object]] = json.loads(guest.run(["python3", "-c", PROGRAM], timeout=20, check=True).stdout)
    return found


def of_master() -> list[list[object]]:
    """The same for the lab's master, here. Raises CalledProcessError, ValueError."""
    done = subprocess.run([sys.executable, "-I", "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    found: list[list[object]] = json.loads(done.stdout)
    return found


def slope(points: Iterable[tuple[float, float]]) -> float:
    """The median of the slopes between any two points (Theil and Sen): one high sample does not change it."""
    slopes = [(later - earlier) / (until - since) for (since, earlier), (until, later)
              in itertools.combinations(sorted(points), 2) if until > since]
    return statistics.median(slopes) if slopes else 0.0


class Growth:
    """All samples of a storm."""

    def __init__(self) -> None:
        self.samples: dict[Process, list[Sample]] = {}

    def add(self, host: str, at: float, found: Iterable[Iterable[object]]) -> None:
        """Add what PROGRAM printed on a host. Raises ValueError when it is something else."""
        for each in found:
            name, pid, start, kib, descriptors = each
            if not (isinstance(name, str) and isinstance(pid, int) and isinstance(start, int)
                    and isinstance(kib, int) and isinstance(descriptors, int)):
                raise ValueError(f"{host}: no sample of a process: {each}")
            self.samples.setdefault(Process(host, name, pid, start), []).append(Sample(at, kib, descriptors))

    def grown(self) -> list[Grown]:
        """Every process that lived long enough to say something of it."""
        found = []
        for process, samples in self.samples.items():
            later = [each for each in samples if each.at >= samples[0].at + WARM_UP_SECONDS]
            if len(later) >= LEAST_SAMPLES and later[-1].at - later[0].at >= LEAST_SECONDS:
                found.append(_grown(process, later))
        return found


def _grown(process: Process, samples: list[Sample]) -> Grown:
    seconds = samples[-1].at - samples[0].at
    memory = slope((each.at, each.kib) for each in samples)
    descriptors = slope((each.at, each.descriptors) for each in samples)
    rate, least = MEMORY[process.name.split()[0]]
    wrong = []
    if memory * 3600 > rate and memory * seconds > least:
        wrong.append(f"its memory grows by {memory * 3600:.0f} KiB an hour, now {samples[-1].kib:.0f} KiB")
    if descriptors * seconds > DESCRIPTORS:
        wrong.append(f"its file descriptors grow by {descriptors * 3600:.1f} an hour, now "
                     f"{samples[-1].descriptors:.0f}")
    return Grown(process, memory * 3600, descriptors * 3600, seconds, " and ".join(wrong))
