"""
heartbeat on a gateway: which role this node has, what it hears of the other one, and moving the role
=====================================================================================================

:depends: heartbeat 3.0.6, iproute2

A pair decides which node is active in one of two ways (docs/takeover.md): by the role *agent*, a client of heartbeat,
or by heartbeat's own *scripts* (the profile ``paper``). In both, the decider (the agent or heartbeat) says which role
this node has, and the kernel says which addresses it holds. Only where both agree a node is *active* or *standby*.

Formats: cl_status(1), authkeys(5), ``/usr/share/doc/heartbeat/haresources.gz``, ip-address(8), proc_pid_stat(5);
``agent/__main__.py`` for what the agent prints.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

import salt.utils.path
from salt.exceptions import CommandExecutionError

if TYPE_CHECKING:
    __salt__: dict[str, Callable]
    __grains__: dict
    __context__: dict

T = TypeVar("T")

__virtualname__ = "heartbeat"

RESOURCE = Path("/etc/ha.d/gateway.conf")
# The files that heartbeat reads again on a reload, if their modification time has changed (hb_signal.c).
READ = (Path("/etc/ha.d/ha.cf"), Path("/etc/ha.d/authkeys"))
# The modification times of what it has read: its unit notes them at each start and reload.
LOADED = Path("/run/gateway-heartbeat-loaded")
HARESOURCES = Path("/etc/ha.d/haresources")
AGENT = Path("/usr/local/lib/gateway/agent")
AGENT_JSON = Path("/etc/ha.d/agent.json")
AGENT_HISTORY = Path("/run/gateway-agent/history")
AGENT_HISTORY_KEPT = Path("/var/lib/gateway-agent/history")     # used until an agent has run since the boot
AGENT_SOCKET = Path("/run/gateway-agent.sock")
PID_FILE = Path("/run/heartbeat.pid")
PROC = Path("/proc")
# How long glance() waits for the agent, and how often it asks heartbeat itself.
_GLANCE_SECONDS = 0.1
_ASK_EVERY_SECONDS = 5
_NOT_RUNNING = 3    # the exit code of `run` when no agent runs (agent/__main__.py)

ROLES = ("active", "standby", "transition", "stopped", "split")
# heartbeat's words for the resources that a node has: whether the node is active. Each node has its local resources
# from the start, whether or not haresources gives it any: `local` means active on the preferred node only.
_HOLDS: dict[str, bool | str] = {"all": True, "none": False, "local": "preferred", "foreign": "other"}
# The resource script's log line about a change of the role: the change, and why.
_LOGGED = re.compile(r"(start: active|stop: standby)\b.*\(([^()]*)\)$")


class Pair(TypedDict):
    """What :func:`status` returns."""

    role: str
    since: str
    cause: str
    way: str
    running: bool
    nodes: dict[str, str]
    links: dict[str, str]
    ping_nodes: dict[str, str]
    resources: str
    agent: dict[str, Any]
    held: list[str]
    missing: list[str]
    addresses: dict[str, str]
    disagree: str


class PeerGlance(TypedDict):
    """The other node in :class:`Glance`."""

    node: str
    heartbeat: str
    role: str
    clock_offset: float | None


class Glance(TypedDict):
    """What :func:`glance` returns."""

    role: str
    way: str
    running: bool
    agent: str
    connected: bool
    since: str
    cause: str
    ready: bool
    not_ready_because: str
    epoch: int | None
    held: list[str]
    missing: list[str]
    disagree: str
    peer: PeerGlance
    links: dict[str, str]
    ping_nodes: dict[str, str]
    daemon: str
    starved: bool
    stalls: int | None
    sessions: str


class Process(NamedTuple):
    """One process of the agent: the supervisor, or the worker under it."""

    pid: int
    parent: int
    started: float      # seconds since 1970


def __virtual__() -> str | tuple[bool, str]:
    if not salt.utils.path.which("ip"):
        return False, "heartbeat: there is no `ip`; install iproute2"
    return __virtualname__


def role() -> str:
    """
    This node's role.

    Returns:
        ``active``, ``standby``, ``stopped`` (heartbeat does not run here), ``split`` (this node is active and the other
        node's agent says that it is, too) or ``transition`` (a change is under way, no agent runs, or the decider and
        the kernel do not agree). A split in which the nodes do not hear each other can only be seen from outside:
        ``salt-run gateway.roles SITE``.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.role
    """
    return _look()["role"]


def is_active() -> bool:
    """
    Whether this node is active: for ``onlyif`` and ``unless``.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.is_active
    """
    return role() in ("active", "split")


def way() -> str:
    """
    Who decides on this node, according to its ha.cf: ``agent``, ``scripts`` (heartbeat's own, the profile ``paper``),
    or empty where there is no ha.cf.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.way
    """
    try:
        lines = READ[0].read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    started = [line.split()[-1] for line in lines if line.startswith("respawn ")]
    return "agent" if str(AGENT / "run") in started else "scripts"


def status() -> Pair:
    """
    The pair as this node sees it.

    Returns:
        A mapping: ``role`` as in :func:`role`; ``since``, when it began (ISO 8601), and its ``cause``; ``way`` as in
        :func:`way`; ``running``, whether heartbeat runs; ``nodes``, the state of each node's heartbeat by its name
        (``active``, ``up``, ``init``, ``dead``); ``links``, by interface whether the other node is heard on it (``up``,
        ``dead``); ``ping_nodes``, likewise by address; ``resources``, heartbeat's word for what this node has (``all``,
        ``local``, ``foreign``, ``none``, ``transition``), empty with the agent; ``agent``, what else the agent says
        (``ready``, ``not_ready_because``, ``epoch``, ``peer``, ``daemon``), empty without it; ``held`` and ``missing``,
        the virtual addresses that this node holds and does not hold; ``addresses``, by virtual address the node that
        holds it, empty where this node does not know; ``disagree``, a sentence about it when the decider and the kernel
        do not agree, else empty.

    Raises:
        CommandExecutionError: heartbeat, the agent or ``ip`` does not answer.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.status
    """
    now = _look()
    if now["running"] and now["way"] != "agent":
        _ask_heartbeat(now)
    if now["way"] != "agent":
        last = next(iter(history(1)), {})
        if last.get("role") == now["role"]:
            now["since"], now["cause"] = last["time"], last["cause"]
    return now


def _look() -> Pair:
    """:func:`status` without what costs many more processes and says nothing about the role."""
    virtual = [address for address, _interface in _virtual()]
    held = [each["address"] for each in addresses_held()]
    now: Pair = {
        "role": "stopped", "since": "", "cause": "", "way": way(), "running": running(), "nodes": {}, "links": {},
        "ping_nodes": {}, "resources": "", "agent": {}, "held": held,
        "missing": [address for address in virtual if address not in held], "addresses": {}, "disagree": ""}
    peer_is_active = False
    if now["running"]:
        # For a dead node cl_status prints `dead` and fails.
        now["nodes"] = {node: _run("cl_status", "nodestatus", node)["stdout"].strip()
                        for node in sorted(_cl_status("listnodes", "-n").split())}
        peer_is_active = _by_agent(now) if now["way"] == "agent" else _by_scripts(now)
    elif held:
        now["disagree"] = f"heartbeat does not run and {', '.join(held)} is held"
    me = __grains__["nodename"].lower()
    peer = _peer(now)
    now["addresses"] = {address: me if address in held else peer if peer_is_active else "" for address in virtual}
    return now


def _by_scripts(now: Pair) -> bool:
    """Fill in the role that heartbeat's own scripts give this node. Returns whether the other node is active."""
    # heartbeat does not answer its clients until it has a role.
    now["resources"] = _cl_status("rscstatus") or "transition"
    says = _says_active(now["resources"])
    _judge(now, says, "heartbeat")
    return says is False and now["nodes"].get(_peer(now)) == "active"


def _says_active(resources: str) -> bool | None:
    """Whether heartbeat's word for this node's resources makes the node active; None: neither active nor standby."""
    word = _HOLDS.get(resources)
    if isinstance(word, str):
        return (word == "preferred") == (_owner() == __grains__["nodename"].lower())
    return word


def _by_agent(now: Pair) -> bool:
    """Fill in the role that the agent says. Returns whether the other node's agent says that the other is active."""
    said = _agent("status")
    if said is None:
        now["role"] = "transition"
        now["disagree"] = (f"heartbeat runs and its role agent does not; held: {', '.join(now['held']) or 'none'}; see "
                           f"`journalctl -t gateway-agent`")
        return False
    now["since"], now["cause"] = said.get("since") or "", said.get("cause") or ""
    now["links"], now["ping_nodes"] = said.get("links") or {}, said.get("ping_nodes") or {}
    now["agent"] = {key: said.get(key) for key in ("ready", "not_ready_because", "epoch", "peer", "daemon")}
    theirs = (said.get("peer") or {}).get("role")
    _judge(now, {"active": True, "standby": False}.get(said["role"]), "the role agent", said.get("intruder", ""))
    if now["role"] == "active" and theirs == "active":
        now["role"] = "split"
        now["disagree"] = f"this node is active and {_peer(now)}'s agent says that it is, too"
    return theirs == "active"


def _judge(now: Pair | Glance, says: bool | None, who: str, intruder: str = "") -> None:
    """Fill in the role where the decider and the addresses held agree, else `transition` and a sentence in `disagree`.

    `says`: whether the decider says that this node is active; None: neither active nor standby. `who`: the decider.
    `intruder`: addresses that the agent took off this node a moment ago, because it is standby.
    """
    now["role"] = "transition"
    if says is not None and says == (not now["missing"]) and says == bool(now["held"]):
        now["role"] = "active" if says else "standby"
    elif says is not None:
        wants = "these addresses" if says else "none of the addresses"
        now["disagree"] = (f"{who} says this node has {wants}; held: {', '.join(now['held']) or 'none'}, "
                           f"not held: {', '.join(now['missing']) or 'none'}")
    if intruder and says is False and not now["disagree"]:
        now["disagree"] = (f"somebody or something gave this node {intruder}, and it is standby: {who} has taken it "
                           "away; find out who, or it will happen again")


def _ask_heartbeat(now: Pair) -> None:
    """Fill in what heartbeat itself says of the links to the other node and of the ping nodes."""
    def up(*words: str) -> str:
        return "dead" if _run("cl_status", *words)["stdout"].strip() == "dead" else "up"

    peer = _peer(now)
    if peer:
        now["links"] = {link: up("hblinkstatus", peer, link) for link in _cl_status("listhblinks", peer).split()}
    now["ping_nodes"] = {node: up("nodestatus", node) for node in _cl_status("listnodes", "-p").split()}


def glance() -> Glance:
    """
    The pair as this node sees it, for callers that look once a second: it waits for no process, and takes a tenth of a
    second at most. With the agent everything is as of now. Without it (profile ``paper``) the role and the addresses
    are as of now; for the rest heartbeat is asked every five seconds, beside the caller.

    Returns:
        A mapping: ``role`` as in :func:`role`, or ``unknown`` when the agent does not answer; ``way`` as in
        :func:`way`; ``running``, whether heartbeat runs; ``agent``: ``answers``, ``missing`` (no agent runs),
        ``silent`` (it does not answer), or empty in ``paper``; ``connected``, whether heartbeat answers the agent;
        ``since``, ``cause``, ``ready``, ``not_ready_because``, ``epoch``, ``held``, ``missing`` and ``disagree`` as in
        :func:`status`; ``peer``, the other node (``node``, ``heartbeat``: active, up, init, dead or unknown, ``role``,
        ``clock_offset``: seconds that its clock is ahead, or None); ``links`` and ``ping_nodes``: up or dead, without
        those that are not known; ``daemon``: the IPsec daemon as the agent sees it (alive, hung, dead, unknown, none),
        empty in ``paper``; ``starved``: the agent sees this machine or the other node stand still again and again;
        ``stalls``: how many such standstills it has seen since it started, None where nobody counts them;
        ``sessions``: why tunnels would not survive a takeover now, empty when they would or the site does not want it.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.glance
    """
    # Several callers ask in the same second: the beacons, and each event that carries the role.
    kept = __context__.get("heartbeat.glance")
    if kept is None or not 0 <= time.monotonic() - kept[0] < 0.3:
        kept = (time.monotonic(), _glance())
        __context__["heartbeat.glance"] = kept
    return json.loads(json.dumps(kept[1]))


def _glance() -> Glance:
    cf = _ha_cf()
    now: Glance = {
        "role": "stopped", "way": cf.way, "running": _runs(), "agent": "", "connected": False, "since": "",
        "cause": "", "ready": False, "not_ready_because": "", "epoch": None, "held": [], "missing": [],
        "disagree": "", "peer": {"node": "", "heartbeat": "unknown", "role": "unknown", "clock_offset": None},
        "links": {}, "ping_nodes": {}, "daemon": "", "starved": False, "stalls": None,
        "sessions": ""}
    if now["way"] == "agent":
        said = _ask_socket() if now["running"] else "missing"
        if isinstance(said, str):
            now["agent"], now["role"] = said, "unknown" if now["running"] else "stopped"
            return now
        now["agent"], now["connected"] = "answers", said.get("heartbeat") == "alive"
        # An agent of an older release may leave some out.
        for key in ("since", "cause", "ready", "not_ready_because", "epoch", "held", "missing", "links", "ping_nodes",
                    "daemon", "starved", "stalls", "sessions"):
            now[key] = said.get(key, now[key])
        peer = said.get("peer") or {}
        for its in ("node", "heartbeat", "role", "clock_offset"):
            now["peer"][its] = peer.get(its, now["peer"][its])
        _judge(now, {"active": True, "standby": False}.get(said["role"]), "the role agent", said.get("intruder", ""))
        if now["role"] == "active" and now["peer"]["role"] == "active":
            now["role"] = "split"
        return now
    virtual = [address for address, _interface in _virtual()]
    now["held"] = [address for address in virtual if _is_here(address)]
    now["missing"] = [address for address in virtual if address not in now["held"]]
    if now["running"] and now["way"] == "scripts":
        asked = _ask_beside(cf)
        word = _says_active(asked.get("resources", ""))
        if word is None and "resources" not in asked:
            word = bool(now["held"]) if not now["held"] or not now["missing"] else None
        _judge(now, word, "heartbeat")
        now["connected"] = asked.get("resources") is not None
        now["peer"]["node"] = cf.peer
        now["peer"]["heartbeat"] = asked.get("peer") or "unknown"
        now["links"] = {link: asked[f"link {link}"] for link in cf.links if asked.get(f"link {link}")}
        now["ping_nodes"] = {node: asked[f"ping {node}"] for node in cf.ping_nodes if asked.get(f"ping {node}")}
    return now


class HaCf(NamedTuple):
    """The parts of ha.cf that this module needs."""

    way: str = ""
    peer: str = ""
    links: tuple[str, ...] = ()
    ping_nodes: tuple[str, ...] = ()


def _ha_cf() -> HaCf:
    """The present ha.cf. It is read again only when the file has changed."""
    try:
        found = os.stat(READ[0])
    except OSError:
        return HaCf()
    mark, kept = (found.st_ino, found.st_mtime_ns, found.st_size), __context__.get("heartbeat.ha_cf")
    if kept is None or kept[0] != mark:
        lines = [line.split() for line in READ[0].read_text(encoding="utf-8").splitlines()]
        nodes = [word.lower() for line in lines if line[:1] == ["node"] for word in line[1:]]
        links = [line[1] for line in lines if line[:1] in (["bcast"], ["mcast"], ["ucast"], ["serial"]) and line[1:]]
        kept = (mark, HaCf(
            way(), next((node for node in nodes if node != __grains__["nodename"].lower()), ""),
            tuple(dict.fromkeys(links)),
            tuple(word for line in lines if line[:1] == ["ping"] for word in line[1:])))
        __context__["heartbeat.ha_cf"] = kept
    return kept[1]


def _runs() -> bool:
    """Whether heartbeat's master process exists: the one whose number is in its PID file."""
    try:
        pid = PID_FILE.read_text(encoding="ascii").strip()
        return pid.isdigit() and (PROC / pid / "comm").read_bytes().strip() == b"heartbeat"
    except OSError:
        return False


def _ask_socket() -> dict | str:
    """
    What the agent says of itself; `missing` when no agent runs, `silent` when it does not answer.

    Asked on its socket (agent/control.py): its command line takes longer to start than :func:`glance` may take. Where
    that ends with _NOT_RUNNING, this is `missing`; where it ends with another error, `silent`.
    """
    deadline = time.monotonic() + _GLANCE_SECONDS
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
            client.settimeout(_GLANCE_SECONDS)
            client.connect(str(AGENT_SOCKET))
            with contextlib.suppress(BrokenPipeError):     # a busy agent says so and closes; that can still be read
                client.sendall(b'{"command": "status"}\n')
            data = b""
            while not data.endswith(b"\n") and len(data) < 65536:
                client.settimeout(max(deadline - time.monotonic(), 0.001))
                more = client.recv(65536)
                if not more:
                    return "missing"
                data += more
    except (FileNotFoundError, ConnectionError):
        return "missing"
    except OSError:     # also a timeout, and EAGAIN: too many clients wait already
        return "silent"
    answer = _json(data.decode("utf-8", "replace"))
    return answer if isinstance(answer, dict) and "role" in answer else "silent"


def _is_here(address: str) -> bool:
    """Whether this machine has the address: only then can a socket be bound to it (ip_nonlocal_bind is off)."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.bind((address, 0))
        except OSError:
            return False
    return True


def _ask_beside(cf: HaCf) -> dict[str, str]:
    """
    What heartbeat says, as of the last few seconds: `resources`, `peer`, `link NAME`, `ping NAME`.

    cl_status(1) hangs when heartbeat does. So it runs beside the minion every five seconds, and a later call fetches
    its answers. What is not known is left out.
    """
    asked = __context__.setdefault("heartbeat.asked", {"at": 0.0, "running": {}, "answers": {}})
    for key, job in list(asked["running"].items()):
        done = __salt__["watching.answer"](job)
        if done is None:
            continue
        del asked["running"][key]
        word = done["stdout"].strip()
        # For a dead node or link it prints `dead` and fails.
        known = done["retcode"] == 0 or word == "dead"
        if known and key.startswith(("link ", "ping ")):
            word = "dead" if word == "dead" else "up"
        asked["answers"][key] = word if known else ""
    if not asked["running"] and time.monotonic() - asked["at"] >= _ASK_EVERY_SECONDS:
        questions = {"resources": ["rscstatus"], "peer": ["nodestatus", cf.peer],
                     **{f"link {link}": ["hblinkstatus", cf.peer, link] for link in cf.links},
                     **{f"ping {node}": ["nodestatus", node] for node in cf.ping_nodes}}
        asked["at"] = time.monotonic()
        jobs = {key: __salt__["watching.start"](["cl_status", *words], _ASK_EVERY_SECONDS - 1)
                for key, words in questions.items()}
        asked["running"] = {key: job for key, job in jobs.items() if job}
    return {key: word for key, word in asked["answers"].items() if word}


def changes_since(mark: str = "") -> dict:
    """
    The role changes in the agent's history since one that the caller knows already. Empty without the agent.

    Args:
        mark: the ``mark`` that an earlier call returned; empty: the caller knows none.

    Returns:
        ``mark``, which stands for the newest change, and ``changes``, the oldest first: ``at`` (ISO 8601), ``role``,
        ``cause``, ``epoch``.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' heartbeat.changes_since
    """
    try:
        path = _agent_history()
        found = os.stat(path)
        state = (found.st_ino, found.st_mtime_ns, found.st_size)
        kept = __context__.get("heartbeat.changes")
        if kept is None or kept[0] != state:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            entries = [each for each in map(_json, lines) if isinstance(each, dict)
                       and isinstance(each.get("at"), str) and each.get("role") in ("active", "standby")]
            kept = (state, entries)
            __context__["heartbeat.changes"] = kept
    except OSError:
        return {"mark": mark, "changes": []}
    entries = kept[1]
    marks = [f"{each['at']} {each['role']} {each.get('epoch')}" for each in entries]
    # Where the known change is no longer in the file, the later ones are found by their time.
    known = max((number for number, each in enumerate(marks) if each == mark), default=None)
    if known is not None:
        new = entries[known + 1:]
    else:
        new = [each for each, its in zip(entries, marks, strict=True) if its > mark]
    return {"mark": marks[-1] if marks else mark,
            "changes": [{key: each.get(key) for key in ("at", "role", "cause", "epoch")} for each in new]}


def _agent_history() -> Path:
    return AGENT_HISTORY if AGENT_HISTORY.exists() else AGENT_HISTORY_KEPT


def running() -> bool:
    """
    Whether heartbeat runs on this node.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.running
    """
    # Not `cl_status hbstatus`: it says stopped until heartbeat has heard the other node or called it dead.
    return _run("systemctl", "is-active", "heartbeat")["retcode"] == 0


def addresses_held() -> list[dict]:
    """
    The virtual addresses (those in ``/etc/ha.d/gateway.conf``) that this node holds.

    Returns:
        One mapping for each, with ``address`` and ``interface``, in the order of that file.

    Raises:
        CommandExecutionError: ``ip`` fails.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.addresses_held
    """
    shown = _run("ip", "-j", "address", "show")
    if shown["retcode"]:
        raise CommandExecutionError(f"ip address show: {shown['stderr']}")
    here = {entry["local"]: link["ifname"] for link in json.loads(shown["stdout"]) if link
            for entry in link["addr_info"]}
    return [{"address": address, "interface": here[address]} for address, _interface in _virtual() if address in here]


def wait_for_role(role: str, timeout: float = 60) -> Pair:
    """
    Wait until this node has a role.

    Args:
        role: ``active``, ``standby``, ``transition``, ``stopped`` or ``split``.
        timeout: seconds.

    Returns:
        :func:`status` at that moment.

    Raises:
        CommandExecutionError: there is no such role, or the node did not get it in time.

    CLI Example:

    .. code-block:: bash

        salt 'gw2.winterthur' heartbeat.wait_for_role active 10
    """
    if role not in ROLES:
        raise CommandExecutionError(f"{role} is no role; give one of {', '.join(ROLES)}")
    begin = time.monotonic()
    while True:
        now = _look()
        if now["role"] == role:
            return status()
        if time.monotonic() - begin > timeout:
            why = now["disagree"] or now["agent"].get("not_ready_because") or f"the nodes are {_said(now['nodes'])}"
            raise CommandExecutionError(f"after {timeout} s this node is {now['role']} and not {role}: {why}")
        time.sleep(0.2)


def standby(force: bool = False, timeout: float = 30) -> Pair:
    """
    Hand the active role over to the other node. Does nothing on a node that is standby already.

    Args:
        force: also when the other node is not ready to take over, or there is none.
        timeout: seconds within which this node must be standby.

    Returns:
        :func:`status` afterwards.

    Raises:
        CommandExecutionError: the other node is not ready, or the role did not move in time.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.winterthur' heartbeat.standby
    """
    return _move("standby", force, timeout)


def takeover(force: bool = False, timeout: float = 30) -> Pair:
    """
    Take the active role over from the other node. Does nothing on a node that is active already.

    Args:
        force: also when this node is not ready.
        timeout: seconds within which this node must be active.

    Returns:
        :func:`status` afterwards.

    Raises:
        CommandExecutionError: this node is not ready, or the role did not move in time.

    CLI Example:

    .. code-block:: bash

        salt 'gw2.winterthur' heartbeat.takeover
    """
    return _move("active", force, timeout)


def _move(wanted: str, force: bool, timeout: float) -> Pair:
    """Move the role so that this node gets the wanted one. Returns :func:`status` afterwards."""
    now = _look()
    if now["role"] == wanted:
        return status()
    if not now["running"]:
        raise CommandExecutionError("heartbeat does not run here: start it with `systemctl start heartbeat`")
    if now["way"] == "agent":
        if _agent({"active": "takeover"}.get(wanted, wanted), *(["--force"] if force else [])) is None:
            raise CommandExecutionError(now["disagree"] or "the role agent does not run")
    else:
        peer = _peer(now)
        if now["nodes"].get(peer) != "active" and not force:
            raise CommandExecutionError(f"the heartbeat of {peer or 'the other node'} is "
                                        f"{now['nodes'].get(peer) or 'not known'}: nobody would take over from here")
        done = _run(f"/usr/share/heartbeat/hb_{'takeover' if wanted == 'active' else 'standby'}")
        if done["retcode"]:
            raise CommandExecutionError(f"heartbeat does not move the role: {done['stderr'] or done['stdout']}")
    return wait_for_role(wanted, timeout)


def history(limit: int = 20) -> list[dict]:
    """
    The last changes of this node's role, the newest first.

    Args:
        limit: how many.

    Returns:
        One mapping for each, with ``time`` (ISO 8601), ``role`` and ``cause``, and what else the agent wrote down.
        Without the agent they come from the journal, which may not go back far.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.history 5
    """
    limit = int(limit)
    if way() == "agent":
        with contextlib.suppress(FileNotFoundError):
            lines = _agent_history().read_text(encoding="utf-8", errors="replace").splitlines()
            entries = [entry for entry in map(_json, reversed(lines)) if isinstance(entry, dict)][:limit]
            return [{"time": entry.pop("at", ""), **entry} for entry in entries]
        return []
    found = []
    said = _run("journalctl", "--quiet", "--identifier=gateway", "--output=json", "--reverse", "--lines=1000")
    for entry in map(_json, said["stdout"].splitlines()):
        if isinstance(entry, dict) and (match := _LOGGED.match(str(entry.get("MESSAGE")))):
            when = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6).astimezone()
            found.append({"time": when.isoformat(timespec="milliseconds"), "role": match[1].split()[1],
                          "cause": match[2]})
    return found[:limit]


def healthy(role: str = "", timeout: float = 60) -> Pair:
    """
    Wait until nothing is wrong with this node's part of the pair: it is active or standby, hears the other node on
    every path, reaches every ping node, its IPsec daemon has loaded all connections and serves them where this node is
    active, and its agent is ready.

    Args:
        role: the role that it must have; left out: active or standby.
        timeout: seconds.

    Returns:
        :func:`status` at that moment.

    Raises:
        CommandExecutionError: what was still wrong when the time was over.

    CLI Example:

    .. code-block:: bash

        salt 'gw2.winterthur' heartbeat.healthy standby
    """
    return _until_well(lambda: _with_what_is_wrong(status(), role), timeout, "healthy")


def daemon_ready(role: str = "standby", timeout: float = 10) -> bool:
    """
    Wait until the IPsec daemon of this node does its part, whatever else is wrong with the pair. For a standby it must
    have loaded all connections (before a switch-over), for an active node it must serve them (after it).

    Args:
        role: the role that the daemon must be ready for: active or standby.
        timeout: seconds.

    Returns:
        True; also on a node without an IPsec daemon.

    Raises:
        CommandExecutionError: what was still wrong when the time was over.

    CLI Example:

    .. code-block:: bash

        salt 'gw2.winterthur' heartbeat.daemon_ready standby
    """
    if role not in ("active", "standby"):
        raise CommandExecutionError(f"{role!r} is no role; give active or standby")
    return _until_well(lambda: (True, _wrong_with_the_daemon(role)), timeout, "ready")


def _until_well(look: Callable[[], tuple[T, list[str]]], timeout: float, well: str) -> T:
    """Look until nothing is wrong any more; returns what `look` saw then.

    Raises CommandExecutionError when something is still wrong after `timeout` seconds.
    """
    begin = time.monotonic()
    while True:
        seen, wrong = look()
        if not wrong:
            return seen
        if time.monotonic() - begin > timeout:
            raise CommandExecutionError(f"not {well} after {timeout} s: {'; '.join(wrong)}")
        time.sleep(0.5)


def _with_what_is_wrong(now: Pair, role: str) -> tuple[Pair, list[str]]:
    return now, _wrong(now, role)


def _wrong_with_the_daemon(role: str) -> list[str]:
    if not __salt__["gateway.settings"]()["features"]["openswan"]:
        return []
    return __salt__["ipsec.wrong"](role == "active")


def _wrong(now: Pair, role: str) -> list[str]:
    """What is wrong with this node's part of the pair, one line each."""
    peer, agent = _peer(now), now["agent"]
    found = [now["disagree"]] if now["disagree"] else []
    if now["role"] not in ([role] if role else ["active", "standby"]):
        found.append(f"this node is {now['role']}, and must be {role or 'active or standby'}")
    if now["nodes"].get(peer) != "active":
        found.append(f"the heartbeat of {peer or 'the other node'} is {now['nodes'].get(peer) or 'not known'}")
    found += [f"{peer} is not heard on {link}" for link, state in now["links"].items() if state != "up"]
    found += [f"the ping node {node} is not reached" for node, state in now["ping_nodes"].items() if state != "up"]
    if agent and not agent["ready"]:
        found.append(f"the agent is not ready: {agent['not_ready_because'] or 'it does not say why'}")
    return found + _wrong_with_the_daemon(now["role"])


def wait_until_settled(timeout: float = 180) -> Pair:
    """
    Wait until this node has a role.

    A node that hears the other node's heartbeats signed with another key would wait for ``initdead``, take the other
    for dead and become active as well. This function stops its heartbeat before that.

    Args:
        timeout: seconds. Longer than ``initdead`` plus 15 s where the other node may be down.

    Returns:
        :func:`status`; the last one where the node got no role in time. Returns early when heartbeat does not stay up.

    Raises:
        CommandExecutionError: the other node has another key; heartbeat was stopped on this node.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' heartbeat.wait_until_settled 30
    """
    begin = time.monotonic()
    while True:
        now, passed = _look(), time.monotonic() - begin
        # A heartbeat that refuses its files ends within a second or two.
        if now["role"] in ("active", "standby") or passed > timeout or (now["role"] == "stopped" and passed > 5):
            return now
        if not now["nodes"] and not now["held"] and passed > 5 and _hears_another_key():
            # KILL: it has nothing to give up, and would delay an orderly end until initdead is over.
            _run("systemctl", "kill", "--signal=KILL", "heartbeat")
            raise CommandExecutionError(
                "heartbeat hears the other node's messages signed with another key and would have become active beside "
                "it, so it is stopped here: apply this state on the other node first, then here")
        time.sleep(0.5)


def unread() -> list[str]:
    """
    The files that have changed since the running heartbeat and its agent read them. Empty when heartbeat does not run.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.unread
    """
    if not running():
        return []
    try:
        loaded = LOADED.read_text(encoding="ascii").split()
    except FileNotFoundError:
        loaded = []
    # Whole seconds, as heartbeat compares them.
    now = [str(int(path.stat().st_mtime)) if path.exists() else "" for path in READ]
    changed = [str(path) for path, time_now, time_then in zip(READ, now, loaded or [""] * len(READ), strict=True)
               if time_now != time_then]
    return changed + _unread_by_agent() if way() == "agent" else changed


def _unread_by_agent() -> list[str]:
    """agent.json and the agent's folder, where they have changed since the worker started."""
    worker = _processes()[1]
    if worker is None:
        return []
    code = [path for path in AGENT.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    parts = [(str(AGENT_JSON), [AGENT_JSON] if AGENT_JSON.exists() else []), (str(AGENT), code)]
    return [name for name, paths in parts if any(path.stat().st_mtime > worker.started for path in paths)]


def waits() -> str:
    """
    Why the files that :func:`unread` names can not be read now without moving the addresses. Empty when they can.

    With the agent, heartbeat is never told to read a changed ha.cf again: it would restart itself without the option
    that switches its own resource management off. Salt restarts it instead, which only the standby can afford.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.waits
    """
    if way() != "agent" or str(READ[0]) not in unread():
        return ""
    now = role()
    if now == "standby":
        return ""
    return (f"heartbeat must be restarted for a changed ha.cf, and this node is {now}: apply this state on the "
            f"standby, switch over (`salt-run state.orch orch.switch_over`, docs/takeover.md), then apply it here")


def reload(timeout: float = 60) -> Pair:
    """
    Let heartbeat and its agent read their changed files again. The addresses stay where they are.

    With heartbeat's scripts: for a changed ha.cf heartbeat restarts itself in about two seconds and keeps its
    resources; meanwhile the other node waits 30 s longer than its deadtime for it. A changed authkeys is just read.
    With the agent: for a changed ha.cf heartbeat is restarted, on the standby only. For changed settings or code the
    agent's worker restarts and goes on with the addresses that it finds.

    Args:
        timeout: seconds within which the node must have its role again.

    Returns:
        :func:`status` afterwards.

    Raises:
        CommandExecutionError: heartbeat refuses the files (it goes on with the old ones), or the node has another role
            than before.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.reload
    """
    before = _look()
    if before["role"] == "stopped":
        raise CommandExecutionError("heartbeat does not run here: start it with `systemctl start heartbeat`")
    by_agent, changed = before["way"] == "agent", unread()
    if by_agent and str(READ[0]) in changed:
        why = waits()
        if why:
            raise CommandExecutionError(why)
        _restart(before)
    elif not by_agent or str(READ[1]) in changed:
        done = _run("systemctl", "reload", "heartbeat")
        if done["retcode"]:
            raise CommandExecutionError(f"heartbeat refuses to reload and goes on with what it had: {done['stderr']}; "
                                        f"see `journalctl -u heartbeat`")
        # heartbeat handles the signal a moment later. Before that it still has its old role.
        time.sleep(3)
    if by_agent:
        reload_agent()
    after = wait_until_settled(timeout)
    if after["role"] != before["role"]:
        raise CommandExecutionError(f"heartbeat was reloaded, and this node, {before['role']} before, is now "
                                    f"{after['role']}; {after['disagree'] or 'see its log'}")
    return after


def reload_agent(timeout: float = 10) -> bool:
    """
    Let the agent take up changed settings and code: its supervisor restarts the worker. No address moves.

    Args:
        timeout: seconds within which the new worker must answer.

    Returns:
        Whether anything had changed.

    Raises:
        CommandExecutionError: no new worker came, or it does not answer.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.reload_agent
    """
    if not _unread_by_agent():
        return False
    supervisor = _processes()[0]
    if supervisor:      # else it has just ended, and no new worker comes
        os.kill(supervisor.pid, signal.SIGHUP)
    begin = time.monotonic()
    while time.monotonic() - begin < timeout:
        time.sleep(0.2)
        if _processes()[1] and not _unread_by_agent() and _agent("status") is not None:
            return True
    raise CommandExecutionError(f"the role agent has not taken up its new settings or code within {timeout} s; see "
                                f"`journalctl -t gateway-agent`")


def _restart(before: Pair) -> None:
    """
    Restart heartbeat on the standby. Where this node then no longer hears the other one, because a path is on one of
    them only, it would become active beside it after initdead: heartbeat is stopped before that.
    """
    peer = _peer(before)
    done = _run("systemctl", "restart", "heartbeat", timeout=70)
    if done["retcode"]:
        raise CommandExecutionError(f"heartbeat does not start: {done['stderr']}; see `journalctl -u heartbeat`")
    begin = time.monotonic()
    while before["nodes"].get(peer) == "active":
        if _cl_status("nodestatus", peer) in ("active", "up"):
            return
        if time.monotonic() - begin > 10:
            _run("systemctl", "kill", "--signal=KILL", "heartbeat")
            raise CommandExecutionError(
                f"with its new ha.cf heartbeat does not hear {peer} any more and would have become active beside it, "
                f"so it is stopped here: a path or port that only one node has? `systemctl stop heartbeat` on {peer}, "
                f"apply this state there, then here")
        time.sleep(0.3)


def hears_agent(port: int = 694, seconds: float = 3) -> bool:
    """
    Whether this node hears the other node's role agent, while its own heartbeat does not run. Agents send once a
    second. This does not listen to serial lines and multicast groups.

    Args:
        port: heartbeat's UDP port.
        seconds: how long to listen.

    CLI Example:

    .. code-block:: bash

        salt 'gw2.winterthur' heartbeat.hears_agent
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            ear.bind(("", port))
        except OSError as err:
            raise CommandExecutionError(f"UDP port {port}: {err.strerror}; does heartbeat run here?") from err
        while (left := deadline - time.monotonic()) > 0:
            ear.settimeout(left)
            with contextlib.suppress(TimeoutError):
                # The type of the agents' messages. heartbeat sends everything in clear text.
                if b"gwagent" in ear.recv(65535):
                    return True
    return False


def haresources(settings: dict) -> str:
    """
    The text of haresources. The preferred node owns the one resource; where the role agent decides there is no
    resource.

    Args:
        settings: what ``gateway.settings`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call heartbeat.haresources "$SETTINGS"
    """
    its = settings["heartbeat"]
    if its["agent"]:
        return "# Managed by Salt (heartbeat). No resource: the role agent decides.\n"
    mail = f" MailTo::{','.join(its['mail_to'])}::{its['mail_subject']}" if its["mail_to"] else ""
    return f"# Managed by Salt (heartbeat). The same on both nodes.\n{settings['nodes'][0]} gateway{mail}\n"


def agent_json(settings: dict, tunnels: list[dict]) -> str:
    """
    The text of agent.json, the role agent's settings.

    Args:
        settings: what ``gateway.settings`` returns.
        tunnels: what ``ipsec.tunnels`` returns for them.

    CLI Example:

    .. code-block:: bash

        salt-call heartbeat.agent_json "$SETTINGS" "$TUNNELS"
    """
    daemon = {"initiate": [tunnel["name"] for tunnel in tunnels if tunnel["initiate"]]}
    told = settings["agent"] | {"daemon": daemon if settings["features"]["openswan"] else None}
    return json.dumps(told, indent=2, sort_keys=True) + "\n"


def sessions_json(settings: dict) -> str:
    """
    The text of sessions.json, the settings of the process that copies tunnels to the standby.

    Args:
        settings: what ``gateway.settings`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call heartbeat.sessions_json "$SETTINGS"
    """
    return json.dumps(settings["sessions"], indent=2, sort_keys=True) + "\n"


def _virtual() -> list[tuple[str, str]]:
    """(address, interface) of each virtual address."""
    try:
        lines = RESOURCE.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    words = [line.split() for line in lines if line.startswith("address ")]
    return [(address.partition("/")[0], interface) for _word, address, interface in words]


def _owner() -> str:
    """The node that owns the resource in haresources, in lower case as heartbeat has it."""
    try:
        lines = HARESOURCES.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.split()[0].lower() for line in lines if line.strip() and not line.startswith("#")), "")


def _hears_another_key() -> bool:
    """Whether the running heartbeat has logged that it received a message not signed with its key."""
    run = _run("systemctl", "show", "--property=InvocationID", "--value", "heartbeat")["stdout"].strip()
    said = _run("journalctl", "--quiet", "--lines=1", "--output=cat", "--grep=authtoken does not match",
                f"_SYSTEMD_INVOCATION_ID={run}")
    return bool(run) and said["retcode"] == 0 and bool(said["stdout"].strip())


def _cl_status(*words: str) -> str:
    """What cl_status prints; empty when heartbeat does not answer its clients (yet)."""
    done = _run("cl_status", *words)
    return done["stdout"].strip() if done["retcode"] == 0 else ""


def _peer(now: Pair) -> str:
    """The other node's name as heartbeat has it, empty where heartbeat does not say."""
    return next((node for node in now["nodes"] if node != __grains__["nodename"].lower()), "")


def _said(nodes: dict[str, str]) -> str:
    return ", ".join(f"{node} {what or 'not known'}" for node, what in nodes.items()) or "not known"


def _agent(*words: str) -> dict | None:
    """
    What the agent answers to a verb of its command line; None when no agent runs, or its program is not there.

    Raises:
        CommandExecutionError: it refuses, with its own reason, or does not answer.
    """
    if not (AGENT / "run").exists():
        return None
    done = _run(str(AGENT / "run"), *words, timeout=15)
    if done["retcode"] == _NOT_RUNNING:
        return None
    if done["retcode"]:
        raise CommandExecutionError(f"the role agent: {done['stderr'].strip() or done['stdout'].strip()}")
    answer = _json(done["stdout"])
    if not isinstance(answer, dict) or "role" not in answer:
        raise CommandExecutionError(f"the role agent's answer to {words[0]} can not be read: {done['stdout'][:100]}")
    return answer


def _processes() -> tuple[Process | None, Process | None]:
    """The agent's supervisor and worker."""
    found: dict[int, Process] = {}
    program = str(AGENT / "run").encode()
    booted = time.time() - float((PROC / "uptime").read_text(encoding="ascii").split()[0])
    for entry in PROC.iterdir():
        # The process may end while this reads it.
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            # The agent itself is started without a word. A verb is a command that ends by itself.
            if words[1:] != [program, b""]:
                continue
            # The command's name, the second field, may contain blanks and parentheses.
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            started = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
            found[int(entry.name)] = Process(int(entry.name), int(fields[1]), started)
    supervisor = next((each for each in found.values() if each.parent not in found), None)
    worker = next((each for each in found.values() if supervisor and each.parent == supervisor.pid), None)
    return supervisor, worker


def _json(text: str) -> object:
    """The value of a JSON text, None where the text is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _run(*command: str, timeout: float = 10) -> dict:
    """Run a command; returns its retcode, stdout and stderr.

    A hung heartbeat holds its callers, so each has a timeout (seconds). Raises CommandExecutionError when it is over.
    """
    return __salt__["commands.run"](list(command), timeout=timeout)
