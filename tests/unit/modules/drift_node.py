"""A machine that Salt has set up, in a folder, for the tests of drift and drift_things."""
from __future__ import annotations

from tests.conftest import give_time, load_module
from tests.unit.modules.identities import functions

COMMIT = load_module("_modules/commit_confirm.py")


class Node:
    """The machine under the module: its folders, and what other modules say about it."""

    def __init__(self, module, things, folder, monkeypatch) -> None:
        self.module, self.things, self.folder, self.monkeypatch = module, things, folder, monkeypatch
        self.units: dict[str, str] = {}
        self.ruleset = "table inet gateway {\n\tchain input {\n\t\ttcp dport 22 accept\n\t}\n}"
        self.held: dict | None = {"certificates": ["aa", "bb"], "keys": ["01"]}
        self.runs: list[dict] = []
        self.told: list[tuple[int, bytes]] = []
        self.listed = 0
        for name, path in {"RECORD_FOLDER": "state", "CURRENT": "run/current"}.items():
            monkeypatch.setattr(module, name, folder / path)
        for name, path in {"PROC_SYS": "sys", "UNITS": "units", "WANTED_BY": "systemd"}.items():
            monkeypatch.setattr(things, name, folder / path)
        module.__context__ = things.__context__ = {}
        monkeypatch.setattr(module, "__pillar__", {"gateway": {}, "gateway_schema": {}}, raising=False)
        monkeypatch.setattr(module, "__opts__", {"cachedir": str(folder / "cache"),
                                                 "extension_modules": str(folder / "extmods")}, raising=False)
        self.disabled: list[str] = []
        module.__salt__ = things.__salt__ = {
            "commit_confirm.replace_file": COMMIT.replace_file,
            "state.list_disabled": lambda: self.disabled,
            "gateway.settings": lambda: {"node": "gw1", "peer": "gw2", "bonds": [{"address": "192.0.2.11/26"}], "n": 1},
            "gateway.derive": lambda _site, _schema, node: {
                "node": "gw2", "peer": "gw1", "bonds": [{"address": "192.0.2.12/26"}], "n": 1},
            "nss.held": lambda: self.held,
            "nss.place": lambda: str(folder / "nss"),
            "certs.inspect": lambda _pillar: {"fingerprint": "aa", "authorities": [{"fingerprint": "bb"}]},
            "certs.list_file": lambda _pillar, _store: str(folder / "list.crl"),
            "nss.sign": lambda: [list(module._sign(str(folder / "nss/cert9.db")))],
            "nss.stored": lambda: [],
            "bonding.files": lambda _bonds, _manager: [str(folder / "bond0")],
            "firewall.loaded": lambda: self.ruleset,
            "firewall.file": lambda: str(folder / "nftables.conf"),
            "firewall.listing": lambda: ["nft", "list"],
            "watching.states_run": lambda: bool(self.runs),
            "commands.run": self.run,
            "watching.listen": lambda *_: self,
            "watching.heard": self.heard,
            "watching.start": lambda argv, _seconds: argv,
            "watching.answer": self.run,
            **functions(things, "drift_things"),
        }
        monkeypatch.setattr(things.salt.utils.path, "which", lambda name: f"/usr/bin/{name}")
        for part in ("run", "units", "sys/net/ipv4", "systemd/multi-user.target.wants", "nss"):
            (folder / part).mkdir(parents=True)
        self.write("sys/net/ipv4/ip_forward", "1\n")
        self.write("run/current", "")

    def run(self, argv, **_kwargs) -> dict:
        if argv[0] == "nft":
            self.listed += 1
            return {"retcode": 0 if self.ruleset else 1, "stdout": self.ruleset}
        if "--property=Id" in argv:
            return {"retcode": 0, "stdout": "\n\n".join(f"Id={name}.service" for name in argv[3:] or argv[3:])}
        return {"retcode": 0, "stdout": self.units.get(argv[-1], "inactive") + "\n"}

    def heard(self, _listener):
        told, self.told = self.told, []
        return told, False

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def starts(self, unit: str) -> None:
        (self.folder / f"units/invocation:{unit}").symlink_to("1234")
        self.units[unit] = "active"

    def record(self, formula: str, *lows: dict, others: tuple = ()) -> dict:
        return self.module.record(formula, [{"fun": "managed", "state": "file", **low} for low in lows], list(others))

    def later(self, seconds: float) -> None:
        """Move the clock forward."""
        now = self.things.time.monotonic() + seconds
        give_time(self.monkeypatch, self.things, monotonic=lambda: now)

    def looks(self, times: int = 1) -> dict:
        for _ in range(times):
            found = self.module.glance()
        return found["conditions"]


def static(path: str, **more) -> dict:
    return {"name": path, "source": "salt://x", **more}


def running(name: str, fun: str = "running", **more) -> dict:
    return {"state": "service", "fun": fun, "name": name, **more}
