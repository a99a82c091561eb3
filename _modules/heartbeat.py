"""
heartbeat on a gateway: which role this node has, who is there, and moving the role
====================================================================================

:depends: heartbeat 3.0.6, iproute2

There are two ways in which a pair decides who is active (docs/takeover.md): by the role *agent*, heartbeat's client, or
by heartbeat's own *scripts* (the profile ``paper``). In both the decider has a word for this node, and the kernel says
which addresses the node holds. Only where both agree a node is *active* or *standby*.

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
# The files that heartbeat compares by their modification time when it is told to reload (hb_signal.c).
READ = (Path("/etc/ha.d/ha.cf"), Path("/etc/ha.d/authkeys"))
# What it has read: noted by its unit at each start and reload.
LOADED = Path("/run/gateway-heartbeat-loaded")
HARESOURCES = Path("/etc/ha.d/haresources")
AGENT = Path("/usr/local/lib/gateway/agent")
AGENT_JSON = Path("/etc/ha.d/agent.json")
AGENT_HISTORY = Path("/run/gateway-agent/history")
AGENT_HISTORY_KEPT = Path("/var/lib/gateway-agent/history")     # where no agent has run since the machine has booted
AGENT_SOCKET = Path("/run/gateway-agent.sock")
PID_FILE = Path("/run/heartbeat.pid")
PROC = Path("/proc")
# Seconds: how long glance() waits for the agent, and how often it asks heartbeat itself.
_GLANCE_SECONDS = 0.1
_ASK_EVERY_SECONDS = 5
_NOT_RUNNING = 3    # the exit code of `run` when no agent runs (agent/__main__.py)

ROLES = ("active", "standby", "transition", "stopped", "split")
# heartbeat's words for the resources a node has. Each node has its local ones from the start, whether or not
# haresources gives it any: only the preferred node's are ours.
_HOLDS: dict[str, bool | str] = {"all": True, "none": False, "local": "preferred", "foreign": "other"}
# What the resource script logs when it has changed the role, and why.
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


class Process(NamedTuple):
    """One process of the agent's: the supervisor, or the worker under it."""

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
        node's agent says that it is, too) or ``transition`` (a change is under way, or the decider's word and the
        addresses that are held do not agree). A split in which the nodes do not hear each other is seen from outside
        only: ``salt-run gateway.roles SITE``.

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
    Who decides on this node, by the ha.cf that is in place: ``agent``, ``scripts`` (heartbeat's own, the profile
    ``paper``), or nothing where there is no ha.cf.

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
        ``role`` as in :func:`role`, ``since`` when (ISO 8601) and for what ``cause``; ``way`` as in :func:`way`;
        ``running``; ``nodes``, each node's heartbeat by its name (``active``, ``up``, ``init``, ``dead``); ``links``,
        by interface whether the other node is heard on it (``up``, ``dead``); ``ping_nodes``, likewise by address;
        ``resources``, the word of heartbeat's scripts for what this node has (``all``, ``local``, ``foreign``,
        ``none``, ``transition``), empty with the agent; ``agent``, what else the agent says (``ready``,
        ``not_ready_because``, ``epoch``, ``peer``, ``daemon``), empty without it; ``held`` and ``missing``, virtual
        addresses here; ``addresses``, each virtual address with the node that holds it as far as this node knows, else
        nothing; ``disagree``, a line that says so when the decider and the kernel do, else empty.

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
    """:func:`status`, without what takes many more processes and says nothing about the role."""
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
    """Fill in the role by the word of heartbeat's own resource management. Whether it is the other node's."""
    # Until it has a role heartbeat does not listen to its clients.
    now["resources"] = _cl_status("rscstatus") or "transition"
    says = _says_active(now["resources"])
    _judge(now, says, "heartbeat")
    return says is False and now["nodes"].get(_peer(now)) == "active"


def _says_active(resources: str) -> bool | None:
    """Whether heartbeat's word for this node's resources makes it active; None: neither active nor standby."""
    word = _HOLDS.get(resources)
    if isinstance(word, str):
        return (word == "preferred") == (_owner() == __grains__["nodename"].lower())
    return word


def _by_agent(now: Pair) -> bool:
    """Fill in the role by the agent's word. Whether it is the other node's, by that one's own word."""
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
    """The role, if what the decider says (None: neither) and the addresses held agree; otherwise a line about it.

    `intruder`: addresses that the agent has had to take away from a standby a moment ago.
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
                           "away; find out who, or it comes again")


def _ask_heartbeat(now: Pair) -> None:
    """Fill in the links to the other node and the ping nodes, as heartbeat itself sees them."""
    def up(*words: str) -> str:
        return "dead" if _run("cl_status", *words)["stdout"].strip() == "dead" else "up"

    peer = _peer(now)
    if peer:
        now["links"] = {link: up("hblinkstatus", peer, link) for link in _cl_status("listhblinks", peer).split()}
    now["ping_nodes"] = {node: up("nodestatus", node) for node in _cl_status("listnodes", "-p").split()}


def glance() -> Glance:
    """
    The pair as this node sees it, for whoever looks once a second: no process is waited for, and a tenth of a second is
    the longest it takes. With the agent everything is as of now. Without it (profile ``paper``) the role and the
    addresses are, and what heartbeat says of the rest is asked for every five seconds, beside the caller.

    Returns:
        ``role`` as in :func:`role`, or ``unknown`` when the agent does not answer; ``way`` as in :func:`way`;
        ``running``; ``agent``: ``answers``, ``missing`` (nobody listens), ``silent`` (it does not answer), or empty
        without one; ``connected``, whether heartbeat answers the agent; ``since``, ``cause``, ``ready``,
        ``not_ready_because``, ``epoch``, ``held``, ``missing`` and ``disagree`` as in :func:`status`; ``peer``
        (``node``, ``heartbeat``: active, up, init, dead or unknown, ``role``, ``clock_offset``: seconds it is ahead or
        None); ``links`` and ``ping_nodes``: up or dead, without those that are not known; ``daemon``: the agent's
        word on the IPsec daemon (alive, hung, dead, unknown, none), empty without one; ``starved``: the agent sees
        this machine or the other node stand still again and again.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.glance
    """
    # Several ask in the same second: the beacons, and every event for the role.
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
        "links": {}, "ping_nodes": {}, "daemon": "", "starved": False}
    if now["way"] == "agent":
        said = _ask_socket() if now["running"] else "missing"
        if isinstance(said, str):
            now["agent"], now["role"] = said, "unknown" if now["running"] else "stopped"
            return now
        now["agent"], now["connected"] = "answers", said.get("heartbeat") == "alive"
        # An agent of an older release may leave some out.
        for key in ("since", "cause", "ready", "not_ready_because", "epoch", "held", "missing", "links", "ping_nodes",
                    "daemon", "starved"):
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
    """What of ha.cf is needed here."""

    way: str = ""
    peer: str = ""
    links: tuple[str, ...] = ()
    ping_nodes: tuple[str, ...] = ()


def _ha_cf() -> HaCf:
    """The ha.cf that is in place, read again only when it is another."""
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
    """Whether heartbeat's master process is there, by the number that it wrote down."""
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
    except OSError:     # also a timeout, and EAGAIN: too many wait already
        return "silent"
    answer = _json(data.decode("utf-8", "replace"))
    return answer if isinstance(answer, dict) and "role" in answer else "silent"


def _is_here(address: str) -> bool:
    """Whether this machine has an address: only then a socket can be bound to it (ip_nonlocal_bind is off)."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.bind((address, 0))
        except OSError:
            return False
    return True


def _ask_beside(cf: HaCf) -> dict[str, str]:
    """
    What heartbeat's own scripts say, as of the last few seconds: `resources`, `peer`, `link NAME`, `ping NAME`.

    cl_status(1) hangs when heartbeat does. So it runs beside the minion, once in five seconds, and its answers are
    fetched by a later call; what is not known is not in there.
    """
    asked = __context__.setdefault("heartbeat.asked", {"at": 0.0, "running": {}, "answers": {}})
    for key, job in list(asked["running"].items()):
        done = __salt__["watching.answer"](job)
        if done is None:
            continue
        del asked["running"][key]
        word = done["stdout"].strip()
        # Of a dead one it says so and fails.
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
    The role changes in the agent's history after one that is known already. Empty without the agent.

    Args:
        mark: of the last one known, as this function gave it; empty: none is.

    Returns:
        ``mark``, of the newest there is, and ``changes``, the oldest first: ``at`` (ISO 8601), ``role``, ``cause``,
        ``epoch``.

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
    # Where the known one has gone from the file, all are newer that say so.
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
    # `cl_status hbstatus` says stopped until heartbeat has heard the other node or given it up.
    return _run("systemctl", "is-active", "heartbeat")["retcode"] == 0


def addresses_held() -> list[dict]:
    """
    The virtual addresses that this node holds, out of those in ``/etc/ha.d/gateway.conf``.

    Returns:
        One mapping each, with ``address`` and ``interface``, in the order of that file.

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
        CommandExecutionError: there is no such role, or it did not come in time.

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
    Hand the active role over to the other node. On a node that is standby already nothing is done.

    Args:
        force: also when the other node is not ready to take over, or there is none.
        timeout: seconds until this node has to be standby.

    Returns:
        :func:`status` afterwards.

    Raises:
        CommandExecutionError: the other node is not ready, or heartbeat or its agent does not do it in time.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.winterthur' heartbeat.standby
    """
    return _move("standby", force, timeout)


def takeover(force: bool = False, timeout: float = 30) -> Pair:
    """
    Take the active role over from the other node. On a node that is active already nothing is done.

    Args:
        force: also when this node is not ready.
        timeout: seconds until this node has to be active.

    Returns:
        :func:`status` afterwards.

    Raises:
        CommandExecutionError: this node is not ready, or heartbeat or its agent does not do it in time.

    CLI Example:

    .. code-block:: bash

        salt 'gw2.winterthur' heartbeat.takeover
    """
    return _move("active", force, timeout)


def _move(wanted: str, force: bool, timeout: float) -> Pair:
    """This node, in the role that is wanted."""
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
            raise CommandExecutionError(f"heartbeat does not do it: {done['stderr'] or done['stdout']}")
    return wait_for_role(wanted, timeout)


def history(limit: int = 20) -> list[dict]:
    """
    The last changes of this node's role, the newest first.

    Args:
        limit: how many.

    Returns:
        One mapping each, with ``time`` (ISO 8601), ``role`` and ``cause``, and what else the agent wrote down. Without
        the agent from the journal, which may not go back far.

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
        role: the role it has to have; left out, active or standby.
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
    Wait until the IPsec daemon of this node does its part, whatever else may be wrong with the pair: before a
    switch-over all connections are loaded, after it they are served.

    Args:
        role: the role that the daemon has to be ready for: active or standby.
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
    """Look until nothing is wrong any more; returns what was seen then. Raises CommandExecutionError else."""
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
    """What is wrong, a line each."""
    peer, agent = _peer(now), now["agent"]
    found = [now["disagree"]] if now["disagree"] else []
    if now["role"] not in ([role] if role else ["active", "standby"]):
        found.append(f"this node is {now['role']}, and has to be {role or 'active or standby'}")
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

    A node that hears the other one's heartbeats signed with another key would wait for ``initdead``, take it for dead
    and become active as well. It is stopped before that.

    Args:
        timeout: seconds. Longer than ``initdead`` plus 15 s where the other node may be down.

    Returns:
        :func:`status`, the last one when there was no role in time. Ends early when heartbeat does not stay up.

    Raises:
        CommandExecutionError: the other node has another key; heartbeat is stopped here.

    CLI Example:

    .. code-block:: bash

        salt 'gw1.*' heartbeat.wait_until_settled 30
    """
    begin = time.monotonic()
    while True:
        now, passed = _look(), time.monotonic() - begin
        # A heartbeat that does not like what it finds ends within a second or two.
        if now["role"] in ("active", "standby") or passed > timeout or (now["role"] == "stopped" and passed > 5):
            return now
        if not now["nodes"] and not now["held"] and passed > 5 and _hears_another_key():
            # It has nothing to give up, and would put off an orderly end until initdead is over.
            _run("systemctl", "kill", "--signal=KILL", "heartbeat")
            raise CommandExecutionError(
                "heartbeat hears the other node's messages signed with another key and would have become active beside "
                "it, so it is stopped here: apply this state on the other node first, then here")
        time.sleep(0.5)


def unread() -> list[str]:
    """
    The files that changed since the running heartbeat and its agent read them; empty when heartbeat does not run.

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
    """agent.json, and the agent's folder, if they changed after the worker was started."""
    worker = _processes()[1]
    if worker is None:
        return []
    code = [path for path in AGENT.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    parts = [(str(AGENT_JSON), [AGENT_JSON] if AGENT_JSON.exists() else []), (str(AGENT), code)]
    return [name for name, paths in parts if any(path.stat().st_mtime > worker.started for path in paths)]


def waits() -> str:
    """
    Why what :func:`unread` names can not be read now without moving the addresses; empty when it can.

    Under the agent heartbeat is never told to read a changed ha.cf again: for that it starts itself anew, without the
    option that keeps its own resource management out. It is restarted instead, which only the standby can afford.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' heartbeat.waits
    """
    if way() != "agent" or str(READ[0]) not in unread():
        return ""
    now = role()
    if now == "standby":
        return ""
    return (f"heartbeat has to be restarted for a changed ha.cf, and this node is {now}: apply this state on the "
            f"standby, switch over (`salt-run state.orch orch.switch_over`, docs/takeover.md), then apply it here")


def reload(timeout: float = 60) -> Pair:
    """
    Let heartbeat and its agent read again what has changed. The addresses stay where they are.

    By heartbeat's scripts: a changed ha.cf makes heartbeat start itself anew and keep its resources, in about two
    seconds, during which the other node waits 30 s longer than its deadtime for it; a changed authkeys is just read.
    With the agent: for ha.cf heartbeat is restarted, on the standby only; the agent's worker starts anew with changed
    settings or code and goes on with the addresses that it finds.

    Args:
        timeout: seconds until the node has to have its role again.

    Returns:
        :func:`status` afterwards.

    Raises:
        CommandExecutionError: heartbeat refuses the files (it goes on with what it had), or the role is not as
            before.

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
        # The signal is handled a moment later; a role seen before that is the old one.
        time.sleep(3)
    if by_agent:
        reload_agent()
    after = wait_until_settled(timeout)
    if after["role"] != before["role"]:
        raise CommandExecutionError(f"heartbeat reloaded and this node, {before['role']} before, is {after['role']}; "
                                    f"{after['disagree'] or 'see its log'}")
    return after


def reload_agent(timeout: float = 10) -> bool:
    """
    Let the agent take up changed settings and code: its supervisor starts the worker anew. No address moves.

    Args:
        timeout: seconds until the new worker has to answer.

    Returns:
        Whether there was anything to take up.

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
    Restart heartbeat on the standby. A node that no longer hears the other one, for a path that only one of them has,
    would become active beside it after initdead: it is stopped before that.
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
    Whether the other node's role agent is heard, on a node whose own heartbeat does not run. Agents speak once a
    second; not over a serial line or to a multicast group, which this does not listen to.

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
                # The type of the agents' messages, in clear text as all that heartbeat sends.
                if b"gwagent" in ear.recv(65535):
                    return True
    return False


def haresources(settings: dict) -> str:
    """
    The text of haresources: the preferred node owns the one resource; none where the role agent decides.

    Args:
        settings: what ``gateway.settings`` gives.

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
    The text of agent.json, what the role agent is told.

    Args:
        settings: what ``gateway.settings`` gives.
        tunnels: what ``ipsec.tunnels`` gives for them.

    CLI Example:

    .. code-block:: bash

        salt-call heartbeat.agent_json "$SETTINGS" "$TUNNELS"
    """
    daemon = {"initiate": [tunnel["name"] for tunnel in tunnels if tunnel["initiate"]]}
    told = settings["agent"] | {"daemon": daemon if settings["features"]["openswan"] else None}
    return json.dumps(told, indent=2, sort_keys=True) + "\n"


def _virtual() -> list[tuple[str, str]]:
    """(address, interface) of each virtual address."""
    try:
        lines = RESOURCE.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    words = [line.split() for line in lines if line.startswith("address ")]
    return [(address.partition("/")[0], interface) for _word, address, interface in words]


def _owner() -> str:
    """The node that haresources prefers, as heartbeat has it: in lower case."""
    try:
        lines = HARESOURCES.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.split()[0].lower() for line in lines if line.strip() and not line.startswith("#")), "")


def _hears_another_key() -> bool:
    """Whether the running heartbeat has logged a message that is not signed with its key."""
    run = _run("systemctl", "show", "--property=InvocationID", "--value", "heartbeat")["stdout"].strip()
    said = _run("journalctl", "--quiet", "--lines=1", "--output=cat", "--grep=authtoken does not match",
                f"_SYSTEMD_INVOCATION_ID={run}")
    return bool(run) and said["retcode"] == 0 and bool(said["stdout"].strip())


def _cl_status(*words: str) -> str:
    """What cl_status prints; empty when heartbeat does not listen to clients (yet)."""
    done = _run("cl_status", *words)
    return done["stdout"].strip() if done["retcode"] == 0 else ""


def _peer(now: Pair) -> str:
    """The other node's name as heartbeat has it, empty where it does not say."""
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
        # It may end while it is looked at.
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            # The agent itself is started without a word. A verb is a command that ends by itself.
            if words[1:] != [program, b""]:
                continue
            # The command's name, the second field, may have blanks and brackets of its own.
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            started = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
            found[int(entry.name)] = Process(int(entry.name), int(fields[1]), started)
    supervisor = next((each for each in found.values() if each.parent not in found), None)
    worker = next((each for each in found.values() if supervisor and each.parent == supervisor.pid), None)
    return supervisor, worker


def _json(text: str) -> object:
    """A JSON text's value, None where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _run(*command: str, timeout: float = 10) -> dict:
    """A command's retcode, stdout and stderr. A hung heartbeat holds its callers: none waits for ever."""
    done = __salt__["cmd.run_all"](list(command), python_shell=False, ignore_retcode=True, timeout=timeout,
                                   output_loglevel="quiet")
    if done["retcode"] and "Timed out" in done["stdout"]:
        raise CommandExecutionError(f"{' '.join(command)}: no answer within {timeout} s")
    return done
