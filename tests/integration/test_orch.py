"""Orchestrations with a real master and two real minions. Their heartbeat is a stand-in that records its calls.

tests/lab tests on real kernels what a switch-over does to addresses and tunnels.
"""
from __future__ import annotations

import json
from pathlib import Path

import pytest

PAIR = ["gw1.winterthur", "gw2.winterthur"]
STAND_IN = '''
"""A heartbeat that is a file: roles by minion id, and what was called."""
import json
from pathlib import Path
from salt.exceptions import CommandExecutionError

FOLDER = Path({folder!r})


def _roles():
    return json.loads((FOLDER / "roles").read_text())


def _did(what):
    me = __opts__["id"].partition(".")[0]
    with open(FOLDER / "log", "a") as log:
        log.write(f"{{me}} {{what}}\\n")
    if (FOLDER / "fails").read_text() == f"{{me}} {{what}}":
        raise CommandExecutionError("not healthy after 60 s: the IPsec daemon does not run")


def role():
    return _roles()[__opts__["id"]]


def healthy(role="", timeout=60):
    _did(f"healthy {{role}}")
    if role and role != _roles()[__opts__["id"]]:
        raise CommandExecutionError("has to be " + role)


def daemon_ready(role="standby", timeout=10):
    _did(f"ready {{role}}")
    return True


def wait_for_role(role, timeout=60):
    _did(f"wait {{role}}")


def standby(force=False, timeout=30):
    _did("standby")
    roles = {{minion: "active" for minion in _roles()}} | {{__opts__["id"]: "standby"}}
    (FOLDER / "roles").write_text(json.dumps(roles))


def applied():
    _did("apply")
    return True
'''
APPLY = "applied:\n  module.run:\n    - name: heartbeat.applied\n"
TOP = "base:\n  '*.winterthur':\n    - stand_in\n"


class Pair:
    """The two minions, and the log of what happens to them."""

    def __init__(self, salt_, folder: Path) -> None:
        self.salt, self.folder = salt_, folder
        self.begin("active", "standby")

    def begin(self, first: str, second: str, fails: str = "") -> None:
        """Set the roles at the start, and what will fail."""
        (self.folder / "roles").write_text(json.dumps(dict(zip(PAIR, (first, second), strict=True))))
        (self.folder / "fails").write_text(fails)
        (self.folder / "log").write_text("")

    def orchestrate(self, name: str, *words: str, site: str = "winterthur") -> tuple[bool, str]:
        """Run an orchestration. Returns whether all of it succeeded, and its output."""
        done = self.salt.run("state.orch", f"orch.{name}", f"pillar={json.dumps({'site': site})}", *words)
        return done.returncode == 0, f"{done.stdout}{done.data}"

    @property
    def log(self) -> list[str]:
        """What was done, in order."""
        return (self.folder / "log").read_text().splitlines()

    @property
    def roles(self) -> list[str]:
        """The roles of the two nodes."""
        return list(json.loads((self.folder / "roles").read_text()).values())


@pytest.fixture(scope="module")
def prepared(salt_, looked):
    """The stand-in replaces the module on both nodes; afterwards the module is back."""
    folder = salt_.tree.parent / "orch"
    folder.mkdir()
    module, top, state = (salt_.tree / path for path in ("_modules/heartbeat.py", "salt/top.sls", "salt/stand_in.sls"))
    kept = {path: path.read_text() for path in (module, top)}
    module.write_text(STAND_IN.format(folder=str(folder)))
    top.write_text(TOP)
    state.write_text(APPLY)
    pair = Pair(salt_, folder)
    try:
        salt_.run("fileserver.update")
        salt_.call_all(PAIR, "saltutil.sync_modules")
        yield pair
    finally:
        for path, text in kept.items():
            path.write_text(text)
        state.unlink()
        salt_.run("fileserver.update")
        salt_.call_all(PAIR, "saltutil.sync_modules")


@pytest.fixture
def pair(prepared) -> Pair:
    """The pair, gw1 active."""
    prepared.begin("active", "standby")
    return prepared


def test_the_active_node_is_a_target(pair):
    pair.begin("standby", "active")
    done = pair.salt.run("--out=txt", "gateway.active", "winterthur")
    assert done.stdout.strip() == "gw2.winterthur" and done.returncode == 0


def test_no_target_in_a_split(pair):
    pair.begin("active", "active")
    done = pair.salt.run("gateway.active", "winterthur")
    assert done.returncode == 1 and done.data["mistakes"]
    assert pair.salt.run("gateway.roles", "winterthur").data == dict.fromkeys(PAIR, "split")


def test_a_switch_over(pair):
    good, said = pair.orchestrate("switch_over")
    assert good, said
    assert pair.log == ["gw2 ready standby", "gw1 standby", "gw2 wait active", "gw2 ready active"]
    assert pair.roles == ["standby", "active"]


def test_an_update_begins_with_the_standby(pair):
    good, said = pair.orchestrate("update")
    assert good, said
    assert pair.log == ["gw2 apply", "gw2 healthy standby", "gw1 standby", "gw2 healthy active", "gw1 apply",
                        "gw1 healthy standby"]
    assert pair.roles == ["standby", "active"]


@pytest.mark.parametrize("name, fails, roles", [
    ("switch_over", "gw2 ready standby", ["active", "standby"]),
    ("switch_over", "gw2 wait active", ["standby", "active"]),
    ("switch_over", "gw2 ready active", ["standby", "active"]),
    ("update", "gw2 apply", ["active", "standby"]),
    ("update", "gw2 healthy standby", ["active", "standby"]),
    ("update", "gw1 standby", ["active", "standby"]),
    ("update", "gw2 healthy active", ["standby", "active"]),
    ("update", "gw1 apply", ["standby", "active"]),
    *(("resync", step, ["active", "standby"])
      for step in ("gw2 apply", "gw2 healthy standby", "gw1 apply", "gw1 healthy active")),
])
def test_an_orchestration_ends_at_the_first_failure(pair, name, fails, roles):
    pair.begin("active", "standby", fails)
    good, said = pair.orchestrate(name)
    assert not good and "the IPsec daemon does not run" in said
    assert pair.log[-1] == fails and pair.roles == roles


def test_a_resync_leaves_the_roles_and_begins_with_the_standby(pair):
    good, said = pair.orchestrate("resync")
    assert good, said
    assert pair.log == ["gw2 apply", "gw2 healthy standby", "gw1 apply", "gw1 healthy active"]
    assert pair.roles == ["active", "standby"]


def test_an_update_that_only_looks(pair):
    good, said = pair.orchestrate("update", "test=True")
    assert good, said
    assert pair.log == [] and pair.roles == ["active", "standby"]


def test_a_failback(pair):
    pair.begin("standby", "active")
    good, said = pair.orchestrate("failback")
    assert good, said
    assert pair.log == ["gw1 healthy standby", "gw2 standby", "gw1 wait active", "gw1 ready active"]
    assert pair.roles == ["active", "standby"]
    (pair.folder / "log").write_text("")
    good, said = pair.orchestrate("failback")
    assert good and pair.log == [] and "gw1.winterthur is the preferred node and active" in said


@pytest.mark.parametrize("name", ["switch_over", "update", "failback", "resync"])
@pytest.mark.parametrize("first, second, site, named", [
    ("active", "active", "winterthur", "winterthur: gw1.winterthur is split"),
    ("active", "stopped", "winterthur", "winterthur: gw2.winterthur is stopped"),
    ("active", "standby", "../secrets/winterthur", "is no site's name"),
    ("active", "standby", "bern", "bern: gw-b: no minion has an accepted key"),
])
def test_nothing_is_done_to_a_pair_that_is_none(pair, name, first, second, site, named):
    pair.begin(first, second)
    good, said = pair.orchestrate(name, site=site)
    assert not good and named in said and pair.log == []
