"""Makes the faults of one burst on a pair, each in a thread of its own, and heals them."""
from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass

from lab.bench.faults import NotThere, Steps
from lab.bench.pairs import Pair
from lab.guest import Failed, Guest
from lab.storm import faults
from lab.storm.calendar import Burst, Calendar, Made
from lab.storm.schedule import ACTIVE, Planned

# What a fault's own steps raise when the pair, or another fault at the same time, does not let them go on. A host that
# is switched on again loses its console's folder meanwhile: FileNotFoundError.
EXPECTED = (Failed, AssertionError, TimeoutError, FileNotFoundError, subprocess.TimeoutExpired, NotThere, SystemExit)


@dataclass
class _Blow:
    """A fault with the steps that make it."""

    made: Made
    steps: Steps
    ready: bool = False
    error: BaseException | None = None     # that nobody expected: the storm itself is wrong

    def step(self, what: str) -> bool:
        """Do the next step. Whether that went well; what was wrong is noted."""
        try:
            next(self.steps, None)
            return True
        except EXPECTED as error:
            self.made.wrong.append(f"{what}: {type(error).__name__}: {error}"[:500])
        except BaseException as error:  # noqa: BLE001  # raised again in `make`, in the main thread
            self.error = error
        return False


def make(pair: Pair, calendar: Calendar, planned: list[Planned], active: Guest, starved: bool) -> Burst:
    """Make the faults and heal them, all of them; the pair need not be whole afterwards.

    `active` is the active node. `starved`: an agent says that its machine gets too little of the processor.

    Returns the burst; what could not be made or healed is in its faults. Raises what no fault should raise.
    """
    targets = [active if each.target == ACTIVE else pair.other(active) for each in planned]
    blows = [_Blow(Made(each, guest.host.name), faults.MAKE[each.fault](pair, guest))
             for each, guest in zip(planned, targets, strict=True)]
    burst = calendar.begin([blow.made for blow in blows], time.time(), starved)
    for blow in blows:
        blow.ready = blow.step("not prepared")
    begun = time.monotonic()
    together = any(each.power for each in planned)
    threads = [threading.Thread(target=_blow, args=[blow, begun + blow.made.planned.at - planned[0].at, together])
               for blow in blows if blow.ready]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for blow in blows:
        _heal(blow)
    for blow in blows:
        if blow.error:
            raise blow.error
    if any(blow.made.wrong for blow in blows):
        blows[0].made.wrong += [f"not restored: {each}" for each in faults.restore(pair)]
    return burst


def _blow(blow: _Blow, when: float, together: bool) -> None:
    """Make a fault when its time has come, let it last, and heal it.

    `together`: with a fault of power in the burst. A fault over the console is then healed later, when the host is up.
    """
    time.sleep(max(0.0, when - time.monotonic()))
    blow.made.made = time.time()
    if blow.step("not made"):
        time.sleep(blow.made.planned.seconds)
        if blow.made.planned.power or not together:
            _heal(blow)


def _heal(blow: _Blow) -> None:
    if not blow.made.healed:
        # a step that failed has ended the generator, and there is nothing left to heal: restore() does it
        if blow.ready and not blow.error:
            blow.step("not healed")
        blow.made.healed = time.time()
