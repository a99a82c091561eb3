"""Runs the watch (lab/storm/watch.py) and hands its lines to the invariants. That it fails is never silence."""
from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from lab.storm.invariants import Invariants, Violation
from lab.storm.watch import Place
from lab.topology import TREE, Site

PROGRAM = (sys.executable, "-m", "lab.storm.watch")
SILENT_SECONDS = 15.0      # the watch ticks once a second, on a machine that has much to do


class StormFailed(Exception):
    """The storm can not see any more what it should judge."""


def places(its: Site, router: str) -> list[Place]:
    """Where to ask for a site's virtual addresses (IPv4): in the router, and in the server behind the gateways."""
    return [Place(router, its.name[:10], its.virtual("external")),
            Place(its.server.name, "eth0", its.virtual("internal"))]


def cards(its: Site) -> dict[str, str]:
    """By hardware address the node: a bond has the address of one of its cards."""
    return {nic.mac: host.name for host in its.gateways for nic in host.nics}


class Watcher:
    """The watch, from its making until `stop`. `found` is called in a thread of its own."""

    def __init__(self, where: list[Place], invariants: Callable[[float], Invariants],
                 found: Callable[[Violation], None], program: Sequence[str] = PROGRAM) -> None:
        """`invariants` makes them when the watch has begun to ask. Raises StormFailed when it does not."""
        self._process = subprocess.Popen([*program, json.dumps(where)], cwd=TREE,
                                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        said = self._process.stdout
        if said is None or said.readline().strip() != '["asking"]':
            self._process.kill()
            raise StormFailed(f"the watch does not start: it ended with {self._process.wait()}; its error is above")
        self.begun = time.time()
        self.invariants = invariants(self.begun)
        self.lock = threading.Lock()
        self.processor_seconds = 0.0
        self._found, self._said = found, said
        self._ticked, self._failure, self._ending = time.monotonic(), "", False
        threading.Thread(target=self._read, daemon=True).start()

    def check(self) -> None:
        """Raises StormFailed when the watch does not watch."""
        if self._failure:
            raise StormFailed(f"the watch has failed: {self._failure}")
        silent = time.monotonic() - self._ticked
        if silent > SILENT_SECONDS:
            raise StormFailed(f"the watch has said nothing for {silent:.0f} s")

    def share(self) -> float:
        """Its share of a core so far, from 0 on."""
        return self.processor_seconds / max(time.time() - self.begun, 1.0)

    def stop(self) -> None:
        """End it."""
        self._ending = True
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        try:
            for line in self._said:
                with self.lock:
                    violations = self._take(json.loads(line))
                for each in violations:
                    self._found(each)
            if not self._ending:
                self._failure = f"it ended with {self._process.wait()}; its error is above"
        except Exception as error:  # noqa: BLE001  # whatever it is, check() says it and the run fails
            self._failure = f"{type(error).__name__}: {error}"

    def _take(self, words: list[object]) -> list[Violation]:
        match words:
            case ["arp" | "ping" as kind, float(at), str(address), str(mac)]:
                return self.invariants.answer(kind, at, address, mac)
            case ["tick", float(now), float(seconds)]:
                self._ticked, self.processor_seconds = time.monotonic(), seconds
                return self.invariants.tick(now)
            case ["stall", float(since), float(until)]:
                self.invariants.stall(since, until)
                return []
        raise ValueError(f"the watch said {words}")
