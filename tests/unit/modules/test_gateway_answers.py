"""_modules/gateway_answers.py: the node signs its answer together with the question; the master accepts just that."""
from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import salt.payload
from salt.exceptions import CommandExecutionError

from alerts import authentic
from nodes import answers
from tests.conftest import load_module

SECRET, GW1, JOB = bytes(range(32)), "gw1.winterthur", "20261130220000123456"


def node(tmp_path: Path, said: Any = None, key: str | None = None, **functions: Callable[..., Any]) -> ModuleType:
    """The module on a node whose functions answer `said`."""
    module = load_module("_modules/gateway_answers.py")
    key = authentic.key_of(SECRET, GW1) if key is None else key
    module.__salt__ = {name: lambda *_args, **_named: said for name in module.FUNCTIONS} | {
        "pillar.get": lambda name, default, unmask: key if name == "gateway_event_key" and unmask else default} | {
        name.replace("__", "."): function for name, function in functions.items()}
    module.__opts__, module.__context__ = {"id": GW1, "cachedir": str(tmp_path)}, {}
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc" / JOB).write_bytes(salt.payload.dumps(
        {"pid": os.getpid(), "jid": JOB, "fun": "gateway_answers.ask", "arg": ["n1", "state.apply"]}))
    return module


def asked(function: str = "heartbeat.role", nonce: str = "n1", job: str = JOB) -> answers.Question:
    return answers.Question(job, function, nonce, frozenset({GW1}))


def travel(said: Any) -> Any:
    """What arrives at the master."""
    return salt.payload.loads(salt.payload.dumps({"return": said}), encoding="utf-8")["return"]


@pytest.mark.parametrize("said", [
    "active", None, True, 7, 2**70, -1.5, float("nan"), "umläut \U0001f600", "half \udcff", b"\xff\x00", [1, (2, 3)],
    {1: {"b": {2, 1}}, "a": None}, OrderedDict(z=1, a=[]), {None: 0.1 + 0.2}, Path("/x"),
    {"file_|-/etc/x_|-/etc/x_|-managed": {"result": True, "changes": {}, "__run_num__": 3, "duration": 12.345}}])
def test_what_a_function_returns_arrives_signed(tmp_path: Path, said: Any) -> None:
    given = travel(node(tmp_path, said).ask("n1", "heartbeat.role", __pub_jid=JOB))
    answer, why = answers.check(given, GW1, asked(), SECRET)
    assert why == "" and answer is not None and answer.error == ""
    json.dumps(answer.value)


@pytest.mark.parametrize("question", [asked(nonce="n2"), asked(nonce=""), asked("heartbeat.healthy"), asked(job="1")])
def test_it_is_no_answer_to_another_question_function_or_job(tmp_path: Path, question: answers.Question) -> None:
    given = node(tmp_path, "active").ask("n1", "heartbeat.role", __pub_jid=JOB)
    assert answers.check(given, GW1, asked(), SECRET)[1] == ""
    assert answers.check(given, GW1, question, SECRET) == (None, answers.WRONG)


def test_nor_is_it_another_nodes_nor_an_event(tmp_path: Path) -> None:
    given = node(tmp_path, "active").ask("n1", "heartbeat.role", __pub_jid=JOB)
    assert answers.check(given, "gw2.winterthur", asked(), SECRET)[0] is None
    assert answers.check({**given, "id": "gw2.winterthur"}, "gw2.winterthur", asked(), SECRET)[0] is None
    fields = {key: value for key, value in given.items() if key != "signature"}
    as_event = authentic.signature(fields, authentic.key_of(SECRET, GW1))
    assert answers.check({**given, "signature": as_event}, GW1, asked(), SECRET) == (None, answers.WRONG)


def test_a_function_that_fails_is_an_answer(tmp_path: Path) -> None:
    def fails(*_args: Any) -> None:
        raise CommandExecutionError("not healthy after 60 s")

    module = node(tmp_path, heartbeat__healthy=fails)
    answer, _why = answers.check(module.ask("n1", "heartbeat.healthy", __pub_jid=JOB), GW1, asked("heartbeat.healthy"),
                                 SECRET)
    assert answer is not None and answer.error == "not healthy after 60 s" and answer.retcode
    assert module.__context__["retcode"], "salt's own command line shows that it failed"


def test_what_a_state_run_counts_as_is_signed_with_it(tmp_path: Path) -> None:
    module = node(tmp_path)

    def apply(*_args: Any, **_named: Any) -> dict[str, Any]:
        module.__context__["retcode"] = 2
        return {"a_|-b_|-c_|-d": {"result": False, "comment": "no"}}

    module.__salt__["state.apply"] = apply
    answer, _why = answers.check(module.ask("n1", "state.apply", __pub_jid=JOB), GW1, asked("state.apply"), SECRET)
    assert answer is not None and answer.retcode == 2 and answer.value["a_|-b_|-c_|-d"]["comment"] == "no"


def test_a_node_without_a_key_says_so(tmp_path: Path) -> None:
    given = node(tmp_path, "active", key="").ask("n1", "heartbeat.role", __pub_jid=JOB)
    assert answers.check(given, GW1, asked(), SECRET) == (None, answers.NO_KEY)
    assert f"salt '{GW1}' saltutil.refresh_pillar" in answers.explained(GW1, answers.NO_KEY)


def test_no_further_function_can_be_reached_by_it(tmp_path: Path) -> None:
    module = node(tmp_path, cmd__run=lambda *_: pytest.fail("it ran"))
    with pytest.raises(CommandExecutionError, match="does not sign"):
        module.ask("n1", "cmd.run", "id", __pub_jid=JOB)


def test_while_states_run_salt_sees_a_state_run(tmp_path: Path) -> None:
    """Salt's own check against two state runs at once, and the drift beacon's, go by the function in this file."""
    seen: dict[str, Any] = {}

    def apply(*args: Any, **named: Any) -> dict[str, Any]:
        seen.update(salt.payload.loads((tmp_path / "proc" / JOB).read_bytes()), args=args, named=named)
        return {}

    module = node(tmp_path, state__apply=apply)
    module.ask("n1", "state.apply", "openswan", test=True, __pub_jid=JOB, __pub_fun="gateway_answers.ask")
    assert (seen["fun"], seen["jid"], seen["pid"], seen["arg"]) == ("state.apply", JOB, os.getpid(), ["openswan"])
    assert seen["args"] == ("openswan",)
    assert seen["named"] == {"test": True, "__pub_jid": JOB, "__pub_fun": "state.apply"}
    assert list(tmp_path.iterdir()) == [tmp_path / "proc"] and list((tmp_path / "proc").iterdir())


def test_where_salt_could_not_see_it_no_state_runs(tmp_path: Path) -> None:
    module = node(tmp_path, state__apply=lambda *_args, **_named: pytest.fail("it ran"))
    (tmp_path / "proc" / JOB).unlink()
    answer, _why = answers.check(module.ask("n1", "state.apply", __pub_jid=JOB), GW1, asked("state.apply"), SECRET)
    assert answer is not None and "two state runs" in answer.error


def test_no_other_functions_get_the_jobs_own_arguments(tmp_path: Path) -> None:
    module = node(tmp_path, network__connect=lambda *args, **named: [list(args), named])
    given = module.ask("n1", "network.connect", "192.0.2.1", 4506, timeout=3, __pub_jid=JOB, __pub_arg=["x"])
    assert given["answer"] == [["192.0.2.1", 4506], {"timeout": 3}]


def test_the_key_is_in_no_answer(tmp_path: Path) -> None:
    assert authentic.key_of(SECRET, GW1) not in str(node(tmp_path, "active").ask("n1", "test.ping", __pub_jid=JOB))
