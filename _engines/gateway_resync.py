"""
Resync: both nodes of each site become what the master says
===========================================================

Runs on the master as long as that does: looks twice a second whether pillar or tree have changed, listens for what the
gateways report of changes made to them by hand, and rolls out. What is decided is in the tree's package ``resync``;
this file gives it Salt's bus and processes. For people: ``salt-run resync.status`` and docs/resync.md.

Master's configuration, all optional::

    gateway_resync:
      enabled: true    # false: does nothing of all this
      dry_run: false   # say what would be done, on the bus and in the log, and do nothing
      first: []        # sites in which a change of the tree is tried first
      parallel: 4      # sites at once
      quiet: 1.5       # seconds without a further change before one is rolled out
      without: []      # sites that are left alone
      rank: 0          # with two masters that share the minions: 0 on one, 1 on the other
      other: ''        # on the one with rank 1: the other's name or address
"""
from __future__ import annotations

import json
import logging
import os
import select
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import salt.utils.event

# At the end: nothing of the tree shadows what is installed.
sys.path += [root for root in [str(Path(__file__).resolve().parent.parent)] if root not in sys.path]

from alerts import authentic  # noqa: E402
from resync import bus, decide, files, settings, work  # noqa: E402
from resync.inputs import Inputs  # noqa: E402
from resync.jobs import Ended, Jobs, child, clock  # noqa: E402

log = logging.getLogger(__name__)

__virtualname__ = "gateway_resync"

LOOK_SECONDS = 0.5  # seconds between two looks at the files
STATUS_SECONDS = 2.0  # and at most between two states of affairs written for people
IDLE_SECONDS = 60.0
# How long a piece of work may take.
MAX_ASKING_SECONDS, MAX_WORKING_SECONDS = 120.0, 1800.0
_LEVELS = {"info": logging.INFO, "notice": logging.WARNING, "warning": logging.WARNING}


def __virtual__() -> str | tuple[bool, str]:
    if __opts__.get("__role") != "master":
        return False, "gateway_resync is an engine of the master"
    return __virtualname__


def start() -> None:
    """
    Works until the master ends. Salt starts it again when it falls over.

    CLI Example:

    .. code-block:: yaml

        engines:
          - gateway_resync: {}
    """
    opts = dict(__opts__)
    wanted = settings.read(opts.get("gateway_resync"))
    for line in wanted.mistakes:
        log.error("%s; nothing is rolled out", line)
    if not wanted.enabled:
        files.write_status(opts["cachedir"], {"enabled": False, "mistakes": list(wanted.mistakes)})
        while True:  # one that ends is started again
            time.sleep(IDLE_SECONDS)
    Engine(opts, wanted.decide).run()


class Engine:
    """The loop."""

    def __init__(self, opts: dict[str, Any], config: decide.Config) -> None:
        self.opts = opts
        self.secret = authentic.load_secret(opts["pki_dir"])
        self.hands = work.Hands(opts, config.after)
        self.inputs = Inputs(opts["file_roots"].get("base", []), opts["pillar_roots"].get("base", []))
        self.machine = decide.RolloutMachine(config, clock(), files.read_state(opts["cachedir"]))
        self.jobs = Jobs()
        self.number, self.journal = 0, os.urandom(8).hex()
        self.bus_pid, self.bus_pipe, self.bus_said = 0, -1, b""
        self.event: salt.utils.event.SaltEvent | None = None
        self.written = 0.0

    def run(self) -> None:
        """For ever."""
        next_look = 0.0
        while True:
            self.listen()
            ready = select.select([self.bus_pipe, *self.jobs.pipes()], [], [], max(0.0, next_look - clock()))[0]
            if self.bus_pipe in ready:
                self.read_bus()
            for ended in self.jobs.ended(clock()):
                self.on_ended(ended)
            if clock() >= next_look:
                next_look = clock() + LOOK_SECONDS
                present = self.inputs.look()
                self.handle(decide.Inputs(present.shared, present.own))

    def handle(self, event: decide.Event) -> None:
        """One event, all that follows from it, and the state of affairs for people."""
        for action in self.machine.handle(event, clock()):
            try:
                getattr(self, "do_" + type(action).__name__.lower())(action)
            except OSError as error:
                log.error("resync: %s: %s", type(action).__name__, error)
        if not isinstance(event, decide.Inputs) or clock() - self.written >= STATUS_SECONDS:
            self.written = clock()
            files.write_status(self.opts["cachedir"], {"enabled": True, "mistakes": [], **self.machine.status()})

    # What comes in

    def listen(self) -> None:
        """The reader of the bus, which says a JSON list a line."""
        if not self.bus_pid:
            opts, secret, sites = self.opts, self.secret, self.hands.sites
            self.bus_pid, self.bus_pipe = child(lambda pipe: bus.read(opts, secret, sites, pipe))
            os.set_blocking(self.bus_pipe, False)
            self.bus_said = b""

    def read_bus(self) -> None:
        try:
            more = os.read(self.bus_pipe, 1 << 16)
        except BlockingIOError:
            return
        if not more:
            os.close(self.bus_pipe)
            os.waitpid(self.bus_pid, 0)
            self.bus_pid = 0
            log.warning("resync: the reader of the master's bus has ended: a new one, and all nodes are asked")
            time.sleep(LOOK_SECONDS)
            self.machine.ask_all_at = clock()
            return
        *lines, self.bus_said = (self.bus_said + more).split(b"\n")
        for line in lines:
            name, *values = json.loads(line)
            self.handle(getattr(decide, name)(*values))

    def on_ended(self, ended: Ended) -> None:
        """A piece of work is over."""
        action, said = ended.name, ended.said
        if ended.wrong:
            log.warning("resync: %s: %s", type(action).__name__, ended.wrong)
        if isinstance(action, decide.RollOut):
            outcome, why = said or ("failed", ended.wrong)
            self.handle(decide.RolledOut(action.site, action.number, outcome, why))
        elif isinstance(action, decide.Apply):
            outcome, why = said or ("failed", ended.wrong)
            self.handle(decide.Repaired(action.minion, action.formula, outcome, why))
        elif isinstance(action, decide.Compare) and said is not None:
            self.handle(decide.Differences(action.site, tuple(said)))
        elif isinstance(action, decide.Ask) and said:
            self.on_told(said)

    def on_told(self, said: work.Answers) -> None:
        """Nodes have said what they are made of, and what is wrong with them: signed, as if it had come by the bus."""
        for site, nodes in said["nodes"].items():
            self.handle(decide.Told(site, {minion: (each[0], each[1]) if each else None
                                           for minion, each in nodes.items()}))
        for minion, events in said["conditions"].items():
            for each in events[:200]:
                event, _why = authentic.check(each, None, self.secret)
                found = bus.meaning(event) if event and event.id == minion else None
                if found:
                    self.handle(found)

    # What is to be done

    def do_rollout(self, action: decide.RollOut) -> None:
        self.jobs.start(action, lambda: self.hands.roll_out(action.site, action.number, action.by_hand, action.tree),
                        MAX_WORKING_SECONDS, clock())

    def do_apply(self, action: decide.Apply) -> None:
        self.jobs.start(action, lambda: self.hands.repair(
            action.site, action.minion, action.formula, action.number, action.subjects, action.alone),
            MAX_WORKING_SECONDS, clock())

    def do_ask(self, action: decide.Ask) -> None:
        self.jobs.start(action, lambda: self.hands.told(action.sites), MAX_ASKING_SECONDS, clock())

    def do_compare(self, action: decide.Compare) -> None:
        self.jobs.start(action, lambda: self.hands.differences(action.site), MAX_ASKING_SECONDS, clock())

    def do_raise(self, action: decide.Raise) -> None:
        """An event of the master's own, signed like a node's."""
        self.number += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        signed = authentic.of_master(
            self.secret, self.journal, self.number, action.condition, now, site=action.site, subject=action.subject,
            severity=action.severity, was=action.was, now=action.now, cause=action.cause, recovered=action.recovered,
            once=action.condition == "would_resync")
        if self.event is None:
            self.event = salt.utils.event.get_master_event(self.opts, self.opts["sock_dir"], listen=False)
        if not self.event.fire_event(signed, f"gateway/master/{action.condition}"):
            self.event = None

    def do_say(self, action: decide.Say) -> None:
        log.log(_LEVELS[action.priority], "resync: %s", action.text)

    def do_keep(self, action: decide.Keep) -> None:
        files.write_state(self.opts["cachedir"], action.state)
