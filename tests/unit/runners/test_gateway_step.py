"""A step of an orchestration succeeds only when the node itself says so; the orchestrations have no other steps."""
from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml

from nodes import asking
from nodes.answers import Answer
from tests.conftest import TREE, load_module

GW1, GW2 = "gw1.winterthur", "gw2.winterthur"


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch):
    """The runner; `.said` is what became of its question, `.asked` the question."""
    runner = load_module("_runners/gateway_step.py")
    runner.__opts__, runner.__context__ = {"pki_dir": ""}, {}
    its = SimpleNamespace(run=runner.run, said=asking.Said(), asked=[], context=runner.__context__)

    def ask(*args: Any, **more: Any) -> asking.Said:
        its.asked.append((args[2:], more))
        return its.said

    monkeypatch.setattr(runner, "Keys", lambda _folder: None)
    monkeypatch.setattr(runner, "asking", SimpleNamespace(ask=ask))
    return its


DONE = {"a_|-b_|-c_|-d": {"result": True, "changes": {}}}


@pytest.mark.parametrize(("call", "answer", "good"), [
    ("heartbeat.healthy", Answer(None, "", 0, 0.0), True), ("heartbeat.healthy", Answer(False, "", 0, 0.0), False),
    ("heartbeat.healthy", Answer(None, "not healthy after 60 s", 1, 0.0), False),
    ("heartbeat.healthy", Answer("x", "", 1, 0.0), False),
    ("state.highstate", Answer(DONE, "", 0, 0.0), True), ("state.highstate", Answer({}, "", 0, 0.0), False),
    ("state.highstate", Answer(["is running as PID 7"], "", 1, 0.0), False),
    ("state.highstate", Answer(["Rendering failed"], "", 0, 0.0), False),
    ("state.highstate", Answer(DONE, "", 2, 0.0), False),
    ("state.highstate", Answer({"a_|-b_|-c_|-d": {"result": False}}, "", 0, 0.0), False), ("test.ping", None, False)])
def test_what_is_a_success(step, call: str, answer: Answer | None, good: bool) -> None:
    step.said = asking.Said({GW1: answer} if answer else {}, {} if answer else {GW1: "does not answer"})
    result = step.run(GW1, call)
    assert ("Error" not in result) == good and step.context["retcode"] == result.get("retcode", 0) == int(not good)
    if answer is None:
        assert result == {"ret": {GW1: False}, "why": {GW1: "does not answer"}, "retcode": 1,
                          "Error": f"{GW1}: test.ping: does not answer"}


def test_a_failure_says_what_the_node_says(step) -> None:
    step.said = asking.Said({GW1: Answer(None, "not healthy after 60 s", 1, 0.0)})
    assert step.run(GW1, "heartbeat.healthy", ["active"])["ret"] == {GW1: "ERROR: not healthy after 60 s"}
    assert step.asked[0][0][:3] == ([GW1], "heartbeat.healthy", ["active"]) and step.asked[0][1]["long"]


def rendered(name: str, test: bool = False, **pillar: Any) -> dict[str, Any]:
    """An orchestration of a pair whose node gw2 is active."""
    pair = {"site": "winterthur", "preferred": GW1, "active": GW2, "standby": GW1, "mistakes": [], "roles": {}}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TREE / "salt"))  # noqa: S701
    environment.filters["tojson"] = lambda value: __import__("json").dumps(value)
    text = environment.get_template(f"orch/{name}.sls").render(
        salt={"saltutil.runner": lambda *_, **__: pair}, pillar={"site": "winterthur", **pillar},
        opts={"test": True} if test else {})
    return yaml.safe_load(text)


@pytest.mark.parametrize("name", [path.stem for path in (TREE / "salt/orch").glob("*.sls")])
def test_every_step_of_an_orchestration_asks_the_node_for_its_signature(name: str) -> None:
    steps = rendered(name)
    assert len(steps) >= 4
    allowed = load_module("_modules/gateway_answers.py").FUNCTIONS
    before = None
    for step, content in steps.items():
        (kind, arguments), = content.items()
        its = {key: value for each in arguments for key, value in each.items()}
        assert kind == "salt.runner" and its["name"] == "gateway_step.run", step
        assert its["call"] in allowed and its["minion"] in (GW1, GW2)
        assert its.get("require") == ([{"salt": before}] if before else None), "a step follows the one before it"
        before = step


def test_the_order_of_a_resync_and_what_its_nodes_are_told() -> None:
    def said(**pillar: Any) -> list[tuple[Any, ...]]:
        found = []
        for content in rendered("resync", **pillar).values():
            its = {key: value for each in content["salt.runner"] for key, value in each.items()}
            found.append((its["minion"], its["call"], its.get("arguments"), its.get("named")))
        return found

    assert said() == [(GW1, "state.highstate", None, {}), (GW1, "heartbeat.healthy", ["standby"], None),
                      (GW2, "state.highstate", None, {}), (GW2, "heartbeat.healthy", ["active"], None)]
    assert said(same_tree=True)[0][3] == {"localconfig": "/etc/salt/gateway/same-tree.conf"}


def test_with_test_states_only_report() -> None:
    steps = rendered("update", test=True)
    assert [kind for content in steps.values() for kind in content] == [
        "salt.state", "salt.runner", "salt.runner", "salt.runner", "salt.state", "salt.runner"]


def test_nothing_else_on_the_master_believes_salts_own_client() -> None:
    """LocalClient.cmd and its like take the first return that comes. Only a version is shown from it."""
    found = set()
    for folder in ("alerts", "issuing", "nodes", "resync", "sites", "_engines", "_runners"):
        for path in Path(TREE, folder).rglob("*.py"):
            if re.search(r"client\.cmd\(|cmd_iter|get_cli_returns", path.read_text()):
                found.add(path.relative_to(TREE).as_posix())
    assert found == {"sites/minions.py", "resync/work.py"}  # the version; and a runner, on the master itself
