"""A gateway for tests: the tree's real modules, with recorded answers of real programs and real sockets under them."""
from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser

from tests.conftest import load_module
from tests.unit.modules import identities, test_heartbeat, test_nss

RECORDED = Path(__file__).resolve().parent.parent / "recorded"
LOADED = ("gateway_exposition", "gateway_figures", "gateway_metrics", "gateway_version", "heartbeat", "bonding",
          "ipsec", "sessions", "certs", "nss", "commit_confirm")
# The status was recorded at another time than the kernel's states: by their place, the SPIs of those states.
SPIS = {"3212eafa": "c0314476", "ed1a4b97": "ab0ffae7", "f6c15bdb": "c283b89a", "6a4ebf8e": "10e9c506",     # of 5.2
        "1497eb0c": "c0314476", "ce437530": "ab0ffae7", "b6ee80e8": "c283b89a", "25b0c50c": "10e9c506"}     # of 4.10
BONDS = {"bond0": "bonding/bonded/proc-outside", "bond1": "bonding/arp/proc-silent"}
# What gateway-sessions says on an active node (sessions/daemon.py, status).
SESSIONS = {"node": "gw1", "role": "active", "switch": "open", "connected": True, "path": "bond1", "age": 0.042,
            "complete": True, "states": 4, "policies": 6, "adopted": 2, "refused": {"another mode": 1}, "jump": 1000,
            "max_age": 5.0, "why": "", "notes": []}
ADOPTED = {"inner": "198.51.100.200/32", "peer": "203.0.113.9", "peer_id": "CN=anna", "tunnel": "roadwarrior",
           "since": 1795460000, "reqid": 0x40000005}
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Values:
    """Samples by name and sorted labels, as the library's own parser reads them."""
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in parser.text_string_to_metric_families(text) for sample in family.samples}


class Answering:
    """A server on a socket of this machine that answers each question by its `command`."""

    def __init__(self, path: Path, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(4)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            with self.socket.accept()[0] as client:
                question = json.loads(client.recv(4096))
                found = self.answers[question["command"]]
                if question["command"] == "adopted":
                    found = {"tunnels": found[question["after"]:]}
                client.sendall(json.dumps(found).encode() + b"\n")


class Gateway:
    """One node. `values()` writes the textfile and reads it."""

    def __init__(self, settings: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.status = {"status": test_heartbeat.STATUS | {
            "role": "active", "held": ["192.0.2.10", "198.51.100.10"], "missing": [],
            "links": {"bond0": "up", "bond1": "dead"},
            "peer": test_heartbeat.STATUS["peer"] | {"role": "standby"}}}
        self.sessions: dict[str, Any] = {"status": dict(SESSIONS), "adopted": [dict(ADOPTED)]}
        self.commands: dict[str, str] = {}
        self.version = "5.2"
        self.serves = True
        self.modules = {name: load_module(f"_modules/{name}.py") for name in LOADED}
        functions: dict[str, Any] = {f"{name}.{word}": getattr(module, word) for name, module in self.modules.items()
                                     for word in dir(module) if callable(getattr(module, word)) and word[0] != "_"}
        functions |= {"commands.run": self.run, "certs.inspect": lambda _pillar: {"key": "ec 256"}}
        self.context: dict[str, Any] = {}
        for module in self.modules.values():
            grains = {"nodename": settings["node"], "kernel": "Linux", "osmajorrelease": 13}
            for name, value in (("__salt__", functions), ("__context__", self.context), ("__grains__", grains)):
                monkeypatch.setattr(module, name, value, raising=False)
        self._files()
        ipsec = self.modules["ipsec"]
        monkeypatch.setattr(ipsec, "_is_held", lambda _address: self.serves)
        monkeypatch.setattr(ipsec.salt.utils.path, "which", lambda name: f"/usr/sbin/{name}")
        text = "".join(f"{name if name == ipsec.SETUP else 'conn ' + name}\n"
                       + "".join(f"    {key}={value}\n" for key, value in options.items())
                       for name, options in ipsec.sections(settings).items())
        (folder / "ipsec.conf").write_text(text)
        self.metrics = self.modules["gateway_metrics"]
        (folder / "metrics.json").write_text(self.metrics.settings_json(settings))

    def _files(self) -> None:
        folder, place = self.folder, self.monkeypatch.setattr
        (folder / "proc/77").mkdir(parents=True)
        (folder / "proc/77/comm").write_text("heartbeat\n")
        (folder / "pid").write_text("77\n")
        (folder / "pluto.pid").write_text(f"{os.getpid()}\n")
        (folder / "xfrm_stat").write_text("XfrmInError             \t0\nXfrmInStateSeqError     \t17\n")
        heartbeat = self.modules["heartbeat"]
        (folder / "ha.cf").write_text("bcast bond1\nbcast bond0\nnode gw1\nnode gw2\n"
                                      f"respawn root {heartbeat.AGENT}/run\n")
        (folder / "bonding").mkdir()
        for name, recorded in BONDS.items():
            (folder / "bonding" / name).write_text((RECORDED / recorded).read_text())
        authority = identities.AUTHORITY
        test_nss.fill(folder / "nss", [("gateway", identities.leaf()), ("Our CA", authority.certificate)],
                      [identities.KEY])
        (folder / "lists").mkdir()
        (folder / "lists/a.crl").write_bytes(authority.crl().public_bytes(identities.Encoding.DER))
        (folder / "sessions.json").write_text("{}")
        Answering(folder / "agent.sock", self.status)
        Answering(folder / "sessions.sock", self.sessions)
        for module, name, value in (
                ("heartbeat", "READ", (folder / "ha.cf", folder / "authkeys")), ("heartbeat", "PROC", folder / "proc"),
                ("heartbeat", "PID_FILE", folder / "pid"), ("heartbeat", "AGENT_SOCKET", folder / "agent.sock"),
                ("bonding", "_PROC", folder / "bonding"), ("bonding", "_SYS", folder / "sys"),
                ("ipsec", "CONFIGURATION", str(folder / "ipsec.conf")),
                ("ipsec", "LOADED", str(folder / "loaded.conf")),
                ("ipsec", "_PIDFILE", str(folder / "pluto.pid")), ("ipsec", "_XFRM_STAT", str(folder / "xfrm_stat")),
                ("nss", "DATABASE", str(folder / "nss")), ("nss", "LISTS", str(folder / "lists")),
                ("sessions", "SETTINGS", folder / "sessions.json"), ("sessions", "SOCKET", folder / "sessions.sock"),
                ("gateway_metrics", "SETTINGS", folder / "metrics.json"),
                ("gateway_metrics", "FILE", folder / "gateway.prom")):
            place(self.modules[module], name, value)

    def run(self, argv: list[str], timeout: float) -> dict[str, Any]:
        """commands.run: the recorded answer, or the one in `commands`."""
        name = {"nokeys": "states"}.get(argv[-1], argv[-1].removeprefix("--"))
        assert 0 < timeout <= (60 if name == "version" else 10)
        role = "" if name == "version" else f"-{'active' if self.serves else 'standby'}"
        file = "ip-s-xfrm-state" if name == "states" else f"{self.version}-{name}{role}"
        text = self.commands.get(name)
        if text is None:
            text = (RECORDED / f"ipsec/{file}.txt").read_text()
            for old, new in SPIS.items():
                text = text.replace(f"esp.{old}@", f"esp.{new}@")
        return {"retcode": 0, "stdout": text, "stderr": ""}

    def settings(self, **changes: Any) -> None:
        """Change what the state has written."""
        path = self.folder / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def text(self) -> str:
        """Write the textfile, and read it."""
        self.context.pop("heartbeat.glance", None)      # kept for 0.3 s
        self.metrics.write()
        return (self.folder / "gateway.prom").read_text()

    def values(self) -> Values:
        return read(self.text())

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one metric, written now; None where there is none."""
        own = tuple(sorted((labels | {"site": "winterthur", "node": "gw1"}).items()))
        return self.values().get((name, own))
