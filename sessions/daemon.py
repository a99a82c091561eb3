"""The process `sessions` on one node: the active node's half (serving.py), the standby's half (receiving.py), the
roles.

One loop, without waiting. The role agent says which node is active (agent/sessions.py); this process decides nothing
about roles.

    unknown --> standby --active--> active --release--> released --standby--> standby
                                      ^------active---------'
"""
from __future__ import annotations

import os
import signal
import socket
import subprocess
from typing import Any

from agent import control
from agent.loop import Loop
from agent.system import clock, in_time, log, wake_on
from sessions import adoption, identity, kernel, switch, tunnels
from sessions.adoption import Reqids, Rules
from sessions.channel import Link
from sessions.node import FRESH_SECONDS, Node
from sessions.receiving import Receiving
from sessions.serving import Serving
from sessions.settings import Settings
from sessions.tunnels import Copies, Originals

SOCKET_PATH = "/run/gateway-sessions.sock"
ASK_ROLE_SECONDS = 1.0  # between two questions to the agent after this process has started
WATCHDOG_SECONDS = 0.5
TABLE_SECONDS = 1.0  # between two looks whether the nftables table is there
IDLE_SECONDS = 0.25  # the loop turns at least that often


class Sessions:
    """This node's process. run() returns when it is told to end."""

    def __init__(self, settings: Settings) -> None:
        """Raises OSError, identity.Unknown, subprocess.SubprocessError."""
        self.node = Node(settings)
        self.switch = switch.Switch(settings.addresses)
        self.rules = switch.changes()
        self.events = kernel.Events()
        self.loop = Loop()
        self.serving = Serving(self.node, self.drain)
        self.receiving = Receiving(self.node, self.loop)
        self.role = "unknown"
        self.next_question = self.next_watchdog = self.next_table = 0.0
        self.ended = False

    # The loop

    def run(self) -> None:
        """Runs until the process is told to end."""
        refused = in_time(first=False)  # the agent comes first, whatever there is to do here
        kernel.tell_often()
        signals, wakeup = socket.socketpair()
        signals.setblocking(False)
        wake_on((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), wakeup)
        self.loop.add(signals.fileno(), self.end)
        self.loop.add(self.events.fileno(), self.on_events)
        self.loop.add(self.rules.fileno(), lambda: self.on_rules(self.rules))
        self.server = control.Server(self.loop, self.on_question, SOCKET_PATH)
        node = self.node
        log("info", f"started on {node.settings.node}: outbound numbers go {node.rules.jump} ahead, copies of up to "
                    f"{node.max_age:g} s are adopted" + (f", without {refused}" if refused else ""))
        self.tell_systemd("READY=1")
        while not self.ended:
            self.turn()
        self.leave()

    def turn(self) -> None:
        """One turn of the loop."""
        links: list[tuple[Link, Serving | Receiving]] = [(each, self.receiving) for each in self.receiving.links]
        if self.serving.link:
            links.append((self.serving.link, self.serving))
        for link, owner in links:
            self.loop.add(link.fileno(), lambda link=link, owner=owner: owner.work(link),  # type: ignore[misc]
                          link.wants_to_write())
        due = self.serving.next_due() if self.role == "active" and self.serving.link else clock() + IDLE_SECONDS
        wait = 0.0 if any(link.pending() for link, _ in links) else max(0.0, due - clock())
        found = self.loop.wait(wait)
        theirs = {link.fileno() for link, _ in links}
        for fd in theirs:
            self.loop.remove(fd)
        self.loop.run(found)  # all but the links
        for fd, call in found:
            if fd in theirs:
                call()  # work() knows whether the link is still there
        for link, owner in links:
            if link.pending():
                owner.work(link)
        self.tick(clock())

    def end(self) -> None:
        """Told to end."""
        self.ended = True

    def leave(self) -> None:
        """The process ends. On the active node the tunnels stay as they are; a new process goes on with them.

        Where the addresses are gone already, for instance since heartbeat and its agent have ended, nothing may be left
        under which this node sends.
        """
        if self.role == "active" and not self.node.holds_address():
            self.release()
        if self.role != "active":
            self.receiving.clear()
            self.switch.remove()
        log("info", f"ended as {self.role}")

    def tell_systemd(self, text: str) -> None:
        """sd_notify(3)."""
        where = os.environ.get("NOTIFY_SOCKET", "")
        if where:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                try:
                    sock.sendto(text.encode(), b"\0" + where[1:].encode() if where.startswith("@") else where)
                except OSError as error:
                    log("warning", f"systemd: {error.strerror}")

    def tick(self, now: float) -> None:
        """Everything that is due by time."""
        log.flush()
        self.server.tick(now)
        if now >= self.next_watchdog:
            self.next_watchdog = now + WATCHDOG_SECONDS
            self.tell_systemd("WATCHDOG=1")
        if now >= self.next_table:
            self.next_table = now + TABLE_SECONDS
            self.keep_table()
        if self.role == "unknown" and now >= self.next_question:
            self.next_question = now + ASK_ROLE_SECONDS
            self.ask_role()
        self.receiving.tick(now)
        if self.role == "active":
            self.serving.tick(now)

    def keep_table(self) -> None:
        """Somebody may have flushed nftables' rules."""
        try:
            if self.switch.keep():
                self.node.note(f"somebody has removed or changed the table {switch.TABLE}: made once more")
        except switch.Refused as error:
            self.node.note(f"nftables: {error}", "err")

    def on_events(self) -> None:
        """The kernel tells what has happened."""
        try:
            events = self.events.read()
        except kernel.Lost:
            self.node.note("events of the kernel were lost: reading all of it", "info")
            if self.role == "active":
                self.serving.load()
            else:
                self.drain()
            if self.role == "standby":
                self.receiving.put_back()
            return
        if self.role == "active":
            self.serving.follow(events)
        elif self.role == "standby":
            self.receiving.guard(events)

    # Roles

    def ask_role(self) -> None:
        """After a start: asks the agent which node is active."""
        try:
            told = control.ask({"command": "status"}, 0.5)
        except (OSError, ValueError, control.NotRunning):
            return
        if told.get("role") == "active" and not told.get("muted"):
            self.be_active()
        elif told.get("role") == "standby":
            self.be_standby()

    def be_active(self) -> None:
        """This node serves from now on: what is copied becomes effective, at once and for all tunnels."""
        before = self.role
        if before == "active":
            if self.switch.state != "serving":
                self.switch.serve()
            return
        # The role comes last: what fails half-way is done again when the agent says so once more.
        states, policies, age = self.receiving.adopt() if before == "standby" else (0, 0, 0.0)
        if before == "unknown" and not self.switch.serves():
            # Copies that an earlier process has left: nobody knows how old they are.
            self.receiving.clear()
        if before == "released":
            self.serving.again()
        self.switch.serve()
        if before == "standby":
            log("notice", f"adopted {states} states and {policies} policies, told {age:.2f} s ago")
            self.receiving.stop("this node is active now")
        self.serving.load()
        if before == "unknown":
            self.serving.hurry()
        self.serving.next_call = 0.0
        self.role = "active"

    def drain(self) -> None:
        """Throws the kernel's events away that have come until now: what follows is newer.

        Trap: after it has lost an event the kernel tells nothing more, and no further loss, until all are read.
        """
        while True:
            try:
                if not self.events.read():
                    return
            except kernel.Lost:
                pass

    def on_rules(self, rules: socket.socket) -> None:
        """Somebody has changed nftables' rules: a look at ours is due."""
        try:
            while rules.recv(1 << 16):
                pass
        except OSError:  # nothing more, or more than the socket holds
            pass
        self.next_table = 0.0

    def pause(self) -> None:
        """The agent is not sure whether this node may serve: nothing is sent meanwhile."""
        if self.role == "active":
            self.switch.seal()

    def release(self) -> None:
        """This node sends nothing more, and no outbound state is left: the other node may adopt."""
        if self.role not in ("active", "unknown"):
            return
        if self.role == "unknown":
            self.serving.load()
        # Peers are not told that their tunnels end where the other node has them.
        serving = self.serving
        self.switch.seal(quiet=serving.begun and clock() - serving.confirmed_at < FRESH_SECONDS)
        serving.stop("this node is not active any more")
        self.role = "released"

    def be_standby(self) -> None:
        """The other node serves, or may."""
        if self.role == "standby":
            return
        self.release()
        self.switch.seal(quiet=self.switch.state == "quiet")
        self.serving = Serving(self.node, self.drain)
        self.receiving.begin()
        self.role = "standby"

    # Questions

    def on_question(self, client: int, question: dict[str, object]) -> None:
        """Somebody asks over the socket: the agent, Salt, a person."""
        name, given = question.get("command"), question.get("inner")
        try:
            if name == "status":
                answer = self.status()
            elif name == "verify":
                answer = self.verify(bytes.fromhex(str(question.get("nonce", ""))))
            elif name == "adopted":
                after = question.get("after")
                answer = {"tunnels": self.serving.adopted(after if isinstance(after, int) and after > 0 else 0)}
            elif name == "end":
                answer = {"ended": self.serving.end_inner(given if isinstance(given, list) else [])}
            elif name in ("active", "pause", "release", "standby"):
                {"active": self.be_active, "pause": self.pause, "release": self.release,
                 "standby": self.be_standby}[str(name)]()
                answer = {"role": self.role, "why": self.complaint()}
            else:
                answer = {"error": f"unknown command {name!r}"[:200]}
        except (OSError, ValueError, switch.Refused) as error:
            self.node.note(f"{name}: {error}", "err")
            answer = {"error": str(error)[:500]}
        self.server.answer(client, answer)

    def complaint(self) -> str:
        """Why the tunnels would not survive a takeover now; empty when they would. The agent passes it on."""
        node, refused = self.node, self.serving.originals.refused
        if self.role == "active" and clock() - self.serving.confirmed_at > FRESH_SECONDS:
            return node.notes[-1] if node.notes else f"no connection with {node.settings.peer}"
        if self.role == "active" and refused:
            return f"{len(refused)} states are not copied: {next(iter(refused.values()))}"
        if self.role == "standby" and self.receiving.source and not self.receiving.complete:
            return "the copies are not those of the other node"
        return ""

    def status(self) -> dict[str, Any]:
        """The answer to `status`. No key, no digest of one."""
        now, node = clock(), self.node
        active = self.role == "active"
        of = self.serving.originals if active else self.receiving.copies
        link = self.serving.link if active else self.receiving.source
        at = self.serving.confirmed_at if active else self.receiving.heard_at
        refused: dict[str, int] = {}
        for why in self.serving.originals.refused.values():
            refused[why] = refused.get(why, 0) + 1
        return {"node": node.settings.node, "role": self.role, "switch": self.switch.state,
                "connected": bool(link and link.open), "path": link.path if link and link.open else "",
                "age": round(now - at, 3) if at else None,
                "complete": self.serving.begun if active else self.receiving.complete,
                "states": len(of.states), "policies": len(of.policies),
                "adopted": sum(adoption.is_adopted(each.reqid) for each in of.states.values()),
                "refused": refused, "jump": node.rules.jump, "max_age": node.max_age, "why": self.complaint(),
                "notes": node.notes}

    def verify(self, nonce: bytes) -> dict[str, Any]:
        """The answer to `verify`: what the kernel holds, compared with what it should hold."""
        states, policies = self.node.kernel.states(), self.node.kernel.policies()
        if self.role == "active":
            now = Originals(self.node.rules)
            now.load(states, policies)
            followed = self.serving.originals.states.keys()
            wrong = [f"state {each} is not followed" for each in now.states.keys() ^ followed]
            return {"role": self.role, "states": len(now.states), "policies": len(now.policies), "wrong": wrong[:20],
                    "digest": tunnels.digest(now.states.values(), now.policies.values(), nonce)}
        copies = self.receiving.copies
        return {"role": self.role, "states": len(copies.states), "policies": len(copies.policies),
                "wrong": copies.missing(states, policies)[:20],
                "digest": tunnels.digest(copies.states.values(), copies.policies.values(), nonce)}


def stopped() -> int:
    """The process has ended, however. Returns an exit code.

    A table that holds packets back must not stay, nor copies whose age nobody will know. What serves stays: adopted
    tunnels carry on, and a new process goes on with them.
    """
    try:
        table = switch.Switch(())
        if not table.serves():
            its = kernel.Kernel()
            none = Copies(Rules(frozenset(), adoption.MIN_JUMP, 0), Reqids(0, 0))
            its.change(none.foreign(its.states(), its.policies()))
            table.remove()
    except (OSError, switch.Refused) as error:
        log("warning", f"what is left of it: {error}")
    return 0


def start(settings: Settings) -> int:
    """Runs the process. Returns its exit code."""
    try:
        sessions = Sessions(settings)
    except (OSError, identity.Unknown, subprocess.SubprocessError, switch.Refused) as error:
        log("err", f"sessions: {error}: tunnels are not copied to the other node")
        return 1
    sessions.run()
    return 0
