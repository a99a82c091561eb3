"""
Resync: both nodes of each site get the state that the master has
=================================================================

Runs on the master as long as the master runs. Checks twice a second whether pillar or tree have changed, listens for
reports of changes made by hand on the gateways, and rolls out. The tree's package ``resync`` decides; this file
connects it to Salt's bus and to processes. For people: ``salt-run resync.status`` and docs/resync.md.

Master's configuration, all optional::

    gateway_resync:
      enabled: true    # false: the engine does nothing
      dry_run: false   # true: reports on the bus and in the log what it would do, and does nothing
      first: []        # sites that get a change of the tree first
      parallel: 4      # sites at once
      quiet: 1.5       # seconds without a further change before a change is rolled out
      without: []      # sites that the engine ignores
      rank: 0          # where two masters share the minions: 0 on the first, 1 on the second
      other: ''        # on the second: name or address of the first
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

# The tree comes last in the path, so that nothing in it shadows an installed package.
sys.path += [root for root in [str(Path(__file__).resolve().parent.parent)] if root not in sys.path]

from alerts import authentic  # noqa: E402
from nodes.keys import Keys  # noqa: E402
from resync import actions, bus, decide, events, files, settings, work  # noqa: E402
from resync.inputs import Inputs  # noqa: E402
from resync.jobs import Ended, Jobs, child, clock  # noqa: E402

log = logging.getLogger(__name__)

__virtualname__ = "gateway_resync"

LOOK_SECONDS = 0.5  # between two looks at the files
STATUS_SECONDS = 2.0  # between two writes of the status for people, however many events come
IDLE_SECONDS = 60.0
# How long a job may take that asks nodes, and one that applies them.
MAX_ASKING_SECONDS, MAX_WORKING_SECONDS = 120.0, 1800.0
_LEVELS = {"info": logging.INFO, "notice": logging.WARNING, "warning": logging.WARNING}


def __virtual__() -> str | tuple[bool, str]:
    if __opts__.get("__role") != "master":
        return False, "gateway_resync is an engine of the master"
    return __virtualname__


def start() -> None:
    """
    Works until the master ends. Salt restarts it when it fails.

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
        while True:  # Salt would restart an engine that ends
            time.sleep(IDLE_SECONDS)
    Engine(opts, wanted.decide).run()


class Engine:
    """The engine's loop."""

    def __init__(self, opts: dict[str, Any], config: settings.Config) -> None:
        self.opts = opts
        self.keys = Keys(opts["pki_dir"])
        self.hands = work.Hands(opts, config.after, self.keys)
        self.inputs = Inputs(opts["file_roots"].get("base", []), opts["pillar_roots"].get("base", []))
        self.machine = decide.RolloutMachine(config, clock(), files.read_state(opts["cachedir"]))
        self.jobs = Jobs()
        self.number, self.journal = 0, os.urandom(8).hex()
        self.bus_pid, self.bus_pipe, self.bus_said = 0, -1, b""
        self.event: salt.utils.event.SaltEvent | None = None
        self.written = 0.0
        # For figures: roll-outs by outcome since this process began, and when the last one was done.
        self.rollouts: dict[str, int] = {}
        self.last_rollout: float | None = files.read_status(opts["cachedir"]).get("last_rollout")

    def run(self) -> None:
        """Works for ever."""
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
                self.handle(events.Inputs(present.shared, present.own))

    def handle(self, event: events.ResyncEvent) -> None:
        """Take an event, carry out the actions that follow, and write the status for people if it is due."""
        for action in self.machine.handle(event, clock()):
            try:
                getattr(self, "do_" + type(action).__name__.lower())(action)
            except OSError as error:
                log.error("resync: %s: %s", type(action).__name__, error)
        # A look at the files comes twice a second, so the last state is written soon, too. A person waits for an order.
        if isinstance(event, events.Order) or clock() - self.written >= STATUS_SECONDS:
            self.written = clock()
            try:
                files.write_status(self.opts["cachedir"], {
                    "enabled": True, "mistakes": [], **self.machine.status(), "rollouts": self.rollouts,
                    "last_rollout": self.last_rollout})
            except OSError as error:
                log.error("resync: the status can not be written: %s", error)

    # Events

    def listen(self) -> None:
        """Starts the process that reads the bus, if it does not run. It writes one JSON list per line."""
        if not self.bus_pid:
            opts, keys, sites = self.opts, self.keys, self.hands.sites
            self.bus_pid, self.bus_pipe = child(lambda pipe: bus.read(opts, keys, sites, pipe))
            os.set_blocking(self.bus_pipe, False)
            self.bus_said = b""

    def read_bus(self) -> None:
        """Takes what the process that reads the bus has written."""
        try:
            more = os.read(self.bus_pipe, 1 << 16)
        except BlockingIOError:
            return
        if not more:
            os.close(self.bus_pipe)
            os.waitpid(self.bus_pid, 0)
            self.bus_pid = 0
            log.warning("resync: the reader of the master's bus has ended: restarting it and asking all nodes")
            time.sleep(LOOK_SECONDS)
            self.machine.ask_all_at = clock()
            return
        *lines, self.bus_said = (self.bus_said + more).split(b"\n")
        for line in lines:
            name, *values = json.loads(line)
            self.handle(getattr(events, name)(*values))

    def on_ended(self, ended: Ended) -> None:
        """A job has ended: turns its result into an event."""
        action, said = ended.name, ended.said
        if ended.wrong:
            log.warning("resync: %s: %s", type(action).__name__, ended.wrong)
        if isinstance(action, actions.RollOut):
            outcome, why = said or ("failed", ended.wrong)
            self.rollouts[outcome] = self.rollouts.get(outcome, 0) + 1
            if outcome == "done":
                self.last_rollout = time.time()
            self.handle(events.RolledOut(action.site, action.number, outcome, why))
        elif isinstance(action, actions.Apply):
            outcome, why = said or ("failed", ended.wrong)
            self.handle(events.Repaired(action.minion, action.formula, outcome, why))
        elif isinstance(action, actions.Compare) and said is not None:
            self.handle(events.Differences(action.site, tuple(said)))
        elif isinstance(action, actions.Ask) and said:
            self.on_told(said)

    def on_told(self, said: work.Answers) -> None:
        """Nodes have answered with their numbers and their signed conditions. Those count like events on the bus."""
        for site, nodes in said["nodes"].items():
            self.handle(events.Told(site, {minion: (each[0], each[1]) if each else None
                                           for minion, each in nodes.items()}))
        for minion, conditions in said["conditions"].items():
            for each in conditions[:200]:
                event, _why = authentic.check(each, None, self.keys.secret())
                found = bus.meaning(event) if event and event.id == minion else None
                if found:
                    self.handle(found)

    # Actions

    def do_rollout(self, action: actions.RollOut) -> None:
        self.jobs.start(action, lambda: self.hands.roll_out(action.site, action.number, action.by_hand, action.tree),
                        MAX_WORKING_SECONDS, clock())

    def do_apply(self, action: actions.Apply) -> None:
        self.jobs.start(action, lambda: self.hands.repair(
            action.site, action.minion, action.formula, action.number, action.subjects, action.alone),
            MAX_WORKING_SECONDS, clock())

    def do_ask(self, action: actions.Ask) -> None:
        self.jobs.start(action, lambda: self.hands.told(action.sites), MAX_ASKING_SECONDS, clock())

    def do_compare(self, action: actions.Compare) -> None:
        self.jobs.start(action, lambda: self.hands.differences(action.site), MAX_ASKING_SECONDS, clock())

    def do_raise(self, action: actions.Raise) -> None:
        """Sends an event of the master itself, signed like a node's."""
        self.number += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        signed = authentic.of_master(
            self.keys.secret(), self.journal, self.number, action.condition, now, site=action.site,
            subject=action.subject, severity=action.severity, was=action.was, now=action.now, cause=action.cause,
            recovered=action.recovered, once=action.condition == "would_resync")
        if self.event is None:
            self.event = salt.utils.event.get_master_event(self.opts, self.opts["sock_dir"], listen=False)
        if not self.event.fire_event(signed, f"gateway/master/{action.condition}"):
            self.event = None

    def do_say(self, action: actions.Say) -> None:
        log.log(_LEVELS[action.priority], "resync: %s", action.text)

    def do_keep(self, action: actions.Keep) -> None:
        files.write_state(self.opts["cachedir"], action.state)
