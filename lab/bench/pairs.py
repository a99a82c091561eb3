"""A pair under test, with any of the configurations: how to observe it and the names of its parts."""
from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable

from lab import observe
from lab.bench import clients, rival
from lab.guest import Guest
from lab.laboratory import Lab
from lab.progress import step
from lab.results import apply

AGENT = "/usr/local/lib/gateway/agent/run"
# `sessions` is `fast` with tunnels that the standby takes over; the others are without, as their earlier figures are.
CONFIGURATIONS = ["paper", "default", "fast", "sessions", "rival"]


class Pair:
    """The first site's two gateways, with the product on them."""

    # names of processes, as pgrep -x takes them
    daemon = "pluto"
    cluster = "heartbeat"
    # patterns of what the node that takes over writes into its journal
    detected = "heartbeat says that PEER is dead|WARN: node PEER: is dead"
    held = r"gateway-agent\S* active: "
    # seconds within which a node knows that the other one is dead (docs/takeover.md)
    notices = 1.25
    # seconds that the pair needs after a fault until it has recovered, beyond what `settled` can see
    calm = 0.0

    def __init__(self, lab: Lab, profile: str, known: Iterable[clients.Client] = ()) -> None:
        """`profile` is one of CONFIGURATIONS, `known` are the clients that the pair's configuration names."""
        self.lab, self.profile, self.site = lab, profile, lab.sites[0]
        self.known = list(known)
        self.guests = lab.gateways(self.site.name)

    def set_up(self) -> None:
        """Make a working pair of bare hosts. Raises SystemExit when a state fails."""
        sessions = self.profile == "sessions"
        pillar = {"gateway": {"heartbeat": {"profile": "fast" if sessions else self.profile}, "sessions": sessions,
                              "connections": clients.connections(self.lab, self.known)}}
        applied = apply(self.lab, f"*.{self.site.name}", f"pillar={json.dumps(pillar)}")
        if applied.failed:
            raise SystemExit(f"lab: {applied.failed}")

    def active(self) -> Guest | None:
        """The node that holds the virtual IPs, None unless it is exactly one."""
        return observe.holder(self.lab, self.site.name)

    def other(self, guest: Guest) -> Guest:
        """The node that is not this one."""
        return next(each for each in self.guests if each is not guest)

    def settled(self) -> bool:
        """Whether one node is active and the other could take over at once."""
        return self.active() is not None and all(self._ready(guest) for guest in self.guests)

    def _ready(self, guest: Guest) -> bool:
        status = observe.agent(guest)
        return bool(status and status["ready"] and status["peer"]["ready"]
                    and status["role"] in ("active", "standby"))

    def switch_over(self, active: Guest) -> Callable[[], None] | None:
        """Move the role on purpose. Returns a function that repairs the pair afterwards, None if waiting is enough."""
        active.run([AGENT, "standby"], check=True, timeout=30)
        return None

    def timeline(self, guest: Guest, at: float) -> dict[str, float]:
        """What a node's journal says about its takeover: ``detected`` and ``held``, in seconds after ``at`` (epoch)."""
        found = {}
        for what, pattern in (("detected", self.detected), ("held", self.held)):
            after = self._when(guest, pattern, at)
            if after:
                found[what] = round(after[0] - at, 2)
        return found

    def said(self, guest: Guest, pattern: str, at: float) -> int:
        """How many lines of a node's journal since ``at`` match a pattern (`detected`, `held`)."""
        return len(self._when(guest, pattern, at))

    def _when(self, guest: Guest, pattern: str, at: float) -> list[float]:
        sought = re.compile(pattern.replace("PEER", self.other(guest).host.name))
        lines, behind = guest.journal(at, "-b", "-o", "short-unix").splitlines(), guest.behind()
        times = [float(line.split()[0]) + behind for line in lines if sought.search(line)]
        return [each for each in times if each >= at]

    def agent(self, guest: Guest) -> list[str]:
        """Process numbers of the role agent's worker; empty if there is none."""
        return guest.run(["sh", "-c", "pgrep -P $(cat /run/gateway-agent.lock)"]).stdout.split()

    def forgive(self, guest: Guest) -> None:
        """Reset the count of the agent's deaths: at the third death in a minute a node gives up for good."""
        guest.run(["sh", "-c", "kill -HUP $(cat /run/gateway-agent.lock)"])

    def mend(self, guest: Guest) -> None:
        """Do what a person must do after something died."""

    def hardware(self, guest: Guest) -> str:
        """The hardware address that a node answers with on the external side."""
        bond = next(bond["name"] for bond in self.site.view["bonds"] if bond["side"] == "external")
        return guest.run(["cat", f"/sys/class/net/{bond}/address"], check=True).stdout.strip()

    def processes(self, guest: Guest, name: str) -> list[str]:
        """Process numbers by name."""
        return guest.run(["pgrep", "-x", name]).stdout.split()

    def slaves(self, side: str) -> list[str]:
        """The slaves of one side's bond."""
        return next(bond["slaves"] for bond in self.site.view["bonds"] if bond["side"] == side)

    def active_slave(self, guest: Guest, side: str) -> str:
        """The slave of one side's bond that carries the traffic now."""
        bond = next(bond["name"] for bond in self.site.view["bonds"] if bond["side"] == side)
        return observe.active_slave(guest, bond)


class Paper(Pair):
    """The profile `paper`: heartbeat's own scripts decide."""

    held = r" gateway\S* start: active"
    notices = 12.0
    # Seconds until a person would step in after a split: after a hang both nodes own everything, one gives it up and
    # restarts, and once neither had recovered after four minutes (3.0.6).
    patience = 60.0

    def __init__(self, lab: Lab, profile: str, known: Iterable[clients.Client] = ()) -> None:
        super().__init__(lab, profile, known)
        self._unsettled_since: float | None = None

    def settled(self) -> bool:
        # After a hang the woken node's heartbeat was once found ended (3.0.6), and nothing restarts it: a person would.
        for guest in self.guests:
            if guest.run(["systemctl", "is-active", "heartbeat"]).stdout.strip() == "inactive":
                self.mend(guest)
        if super().settled():
            self._unsettled_since = None
            return True
        now = time.monotonic()
        self._unsettled_since = self._unsettled_since or now
        if now - self._unsettled_since > self.patience:
            step("paper: did not recover by itself, restarting heartbeat on both nodes")
            self._unsettled_since = None
            for guest in self.guests:
                guest.run(["systemctl", "restart", "heartbeat"], check=True)
        return False

    def mend(self, guest: Guest) -> None:
        guest.run(["systemctl", "start", "heartbeat", "ipsec"], check=True)

    def _ready(self, guest: Guest) -> bool:
        said = guest.run(["cl_status", "rscstatus"]).stdout.strip()
        nodes = [guest.run(["cl_status", "nodestatus", each.host.name]).stdout.strip() for each in self.guests]
        return said in ("all", "none", "local", "foreign") and nodes == ["active", "active"]

    def switch_over(self, active: Guest) -> Callable[[], None] | None:
        active.run(["/usr/share/heartbeat/hb_standby"], check=True)
        return None

    def agent(self, guest: Guest) -> list[str]:
        return []


class Rival(Pair):
    """keepalived and strongSwan."""

    daemon = "charon-systemd"
    cluster = "keepalived"
    detected = held = r"Entering MASTER STATE"
    notices = 0.2
    calm = 3.0             # its scripts run once a second

    def set_up(self) -> None:
        rival.set_up(self.lab, self.known)

    def _ready(self, guest: Guest) -> bool:
        # its return code is 0 as soon as one of several units is active
        return guest.run(["systemctl", "is-active", "keepalived", "strongswan"]).stdout.split() == ["active", "active"]

    def switch_over(self, active: Guest) -> Callable[[], None] | None:
        # the documented way to move the role: this node announces priority 0
        active.run(["systemctl", "stop", "keepalived"], check=True)
        return lambda: self.mend(active)

    def mend(self, guest: Guest) -> None:
        guest.run(["systemctl", "start", "keepalived", "strongswan"], check=True)

    def agent(self, guest: Guest) -> list[str]:
        return []


def pair(lab: Lab, configuration: str, known: Iterable[clients.Client] = ()) -> Pair:
    """The pair in one of CONFIGURATIONS."""
    kinds = {"paper": Paper, "rival": Rival}
    return kinds.get(configuration, Pair)(lab, configuration, known)
