"""The options of `lab/run storm`."""
from __future__ import annotations

import argparse

PROFILES = ("default", "fast")
CLIENTS = ("libre-fast", "strong-fast", "site-fast")     # of lab/bench/clients.py; all of them tuned


def parser() -> argparse.ArgumentParser:
    """The parser of `lab/run storm`'s arguments."""
    result = argparse.ArgumentParser(
        prog="lab/run storm", description="Random faults for MINUTES, and a watch from outside on what the pair "
        "promises. The faults depend on the seed alone. The exit code is 0 without a violation, 1 with one, 2 when the "
        "storm itself failed, so that nothing is known.")
    result.add_argument("--minutes", type=_minutes, default=120.0, help="how long (120)")
    result.add_argument("--seed", type=int, default=1, help="which faults (1)")
    result.add_argument("--profile", choices=PROFILES, default="fast", help="of the pair (fast)")
    result.add_argument("--client", nargs="+", choices=CLIENTS, default=list(CLIENTS), help="whose traffic runs (all)")
    result.add_argument("--stop", action="store_true", help="end at the first violation")
    result.add_argument("--burst", type=int, nargs="+", metavar="N",
                        help="only these bursts of the plan, one after the other, to see again what one of them did")
    result.add_argument("--resync", action="store_true", help="with the master's engine gateway_resync")
    result.add_argument("--plan", action="store_true", help="print the faults of this seed, and do nothing")
    result.add_argument("--simulated", action="store_true",
                        help="no real kernels: the agents' decisions in a simulated pair")
    return result


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < 60 * 24 * 30:
        raise argparse.ArgumentTypeError("more than 0, and at most a month")
    return minutes
