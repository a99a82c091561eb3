"""The process that renders and runs reactions: Salt's own reactor, with a file root and a master's configuration."""
from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.utils.reactor
import yaml

from alerts import reactor
from alerts.reaction_settings import path_of
from alerts.reaction_worker import command_for
from tests.conftest import TREE

HOSTILE = [
    "plain", "", "it's \"quoted\" \\ and ' more", "a: b\n- c\nrunner.salt.cmd:\n  - fun: cmd.run", "a\r\nb\tc\0d",
    "{{ salt['cmd.run']('touch MARK') }}", "{% for x in 1 %}", "{{", "}}", "{#", "#}", "{% raw %}", "# line\n## line",
    "!!python/object/apply:os.system ['touch MARK']", "!!binary x", "&a *a", "<<: *x", "---\n...\n", "%YAML 9.9",
    "- x", "? y", "| z", "> z", "@", "`touch MARK`", "$(touch MARK)", "; touch MARK", "python_shell=True", "--option",
    "\u2028\u2029\u202e\x1b[31m", "\U0001f600 \ud83d", "x" * 2000, "'" * 2000, "{{" * 1000, "yes", "null", "1e3", "~",
    "#!py\ndef run(): return {}"]
ECHO = """\
echo_{{ data.event }}:
  runner.reactions.command:
    - args:
        - command: [/bin/true]
        - bare: {{ data.subject }}
        - quoted: "a {{ data.subject }} b"
        - single: '{{ data.subject }}'
        - json: {{ data.subject | tojson }}
        - list: [{{ data.subject }}]
        - nested: {x: {y: {{ data.subject | yaml_dquote }}}}
        - twice: {{ data.subject }} and {{ data.cause }}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A master's folders: its configuration, and a file root with the tree's reactions."""
    folder = tmp_path_factory.mktemp("reactor")
    shutil.copytree(TREE / "salt/reactor", folder / "root/reactor")
    for name in ("cache/proc", "sock", "pki"):
        (folder / name).mkdir(parents=True)
    (folder / "master").write_text(yaml.safe_dump({
        "root_dir": str(folder), "cachedir": str(folder / "cache"), "sock_dir": str(folder / "sock"),
        "pki_dir": str(folder / "pki"), "log_file": str(folder / "log"), "file_roots": {"base": [str(folder / "root")]},
        "runner_dirs": [str(TREE / "_runners")], "id": "master", "user": None}))
    return folder


@pytest.fixture(scope="module")
def opts(place) -> dict[str, Any]:
    return salt.config.master_config(str(place / "master"))


@pytest.fixture(scope="module")
def salts(opts) -> salt.utils.reactor.Reactor:
    """Salt's reactor."""
    return salt.utils.reactor.Reactor(opts)


def item(sls: str = "ticket", text: str = "a text", number: int = 1, timeout: float = 300, **settings: Any) -> dict:
    data = {"event": "0123456789abcdef", "key": "fedcba9876543210", "phase": "opened", "id": "gw1.winterthur",
            "site": "winterthur", "node": "gw1", "role": "active", "beacon": "bonding", "condition": "slave_down",
            "severity": "critical", "since": "2024-05-01T10:00:00Z", "at": "2024-05-01T10:00:00Z", "journal": "00" * 8,
            "number": 1, "settings": settings or {"command": ["/bin/true"], "orchestration": "orch.mine"}}
    return {"number": number, "site": "winterthur", "order": f"0 {number}", "sls": [path_of(sls)],
            "tag": "salt/beacon/gw1.winterthur/bonding/slave_down", "data": data, "timeout": timeout,
            "texts": dict.fromkeys(("subject", "was", "now", "cause", "happened", "means", "todo"), text)}


def write(place: Path, name: str, text: str) -> str:
    (place / "root" / path_of(name)).write_text(text)
    return name


def arguments(chunk: dict[str, Any]) -> dict[str, Any]:
    return {key: value for each in chunk["args"] for key, value in each.items()}


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_text_is_data_wherever_the_sls_puts_it(place, salts, number):
    text = HOSTILE[number]
    (chunk,) = reactor.chunks_of(salts, item(write(place, "echo", ECHO), text))
    assert (chunk["state"], chunk["fun"]) == ("runner", "reactions.command")
    said = arguments(chunk)
    assert said.pop("command") == ["/bin/true"]
    assert said == {"bare": text, "quoted": f"a {text} b", "single": text, "json": text, "list": [text],
                    "nested": {"x": {"y": text}}, "twice": f"{text} and {text}"}


def test_a_text_that_looks_like_a_placeholder_stays_as_it_is(place, salts, monkeypatch):
    monkeypatch.setattr(reactor.secrets, "token_hex", lambda _size: "77")
    (chunk,) = reactor.chunks_of(salts, item(write(place, "echo", ECHO), "text77causex"))
    assert arguments(chunk)["twice"] == "text77causex and text77causex"


@pytest.mark.parametrize("line, why", [
    ("- tgt: {{ data.subject }}\n    - args: [{a: 1}]", "tgt"), ("- arg: ['{{ data.subject }}']", "arg"),
    ("- args: ['{{ data.subject }}']", "without a name"), ("- args: [{ {{ data.subject }}: 1}]", "name"),
    ("- args: [{pillar: {x: '{{ data.subject }}'}}]", "pillar"), ("- args: [{cmd: 'x {{ data.subject }}'}]", "cmd"),
    ("- kwarg: {pillar: ['{{ data.subject }}']}", "pillar")])
def test_a_text_where_it_could_become_code_ends_the_reaction(place, salts, line, why):
    name = write(place, "bad", f"x:\n  local.test.ping:\n    - order: 1\n    {line}\n")
    with pytest.raises(reactor.Wrong, match=why):
        reactor.chunks_of(salts, item(name))


def test_a_text_can_name_no_function(place, salts):
    name = write(place, "bad", "x:\n  runner.{{ data.subject }}:\n    - args: [{a: 1}]\n")
    with pytest.raises(reactor.Wrong, match="fun"):
        reactor.chunks_of(salts, item(name, "salt.cmd"))


@pytest.mark.parametrize("text", [
    "{{ nothing.there }}", "{% if %}", "- a\n- list\n", "just words", "a: b: c", "x:\n  state.apply: []\n", "7", "\0",
    "x:\n  runner.reactions.command:\n    - args: {{ data.settings.absent | tojson }}", "!!python/name:os.system x"])
def test_garbage_is_wrong(place, salts, text):
    with pytest.raises(reactor.Wrong):
        reactor.chunks_of(salts, item(write(place, "garbage", text)))


def test_an_sls_may_decide_to_do_nothing(place, salts):
    name = write(place, "none", "{% if data.severity == 'info' %}x: y{% endif %}\n")
    assert reactor.chunks_of(salts, item(name)) == []


def test_what_is_wrong_names_no_value_of_the_settings(place, salts):
    name = write(place, "secret", "{# #}\n{{ salt['test.exception'](data.settings.token) }}\n")
    with pytest.raises(reactor.Wrong) as wrong:
        reactor.chunks_of(salts, item(name, token="hunter2"))
    assert str(wrong.value) == 'Failed to render "reactor/secret.sls" (SaltRenderError, line 2)'


@pytest.mark.parametrize("text", HOSTILE)
def test_the_ticket_hands_over_words_and_one_line_of_json(place, salts, text):
    (chunk,) = reactor.chunks_of(salts, item("ticket", text, command=["/bin/x", "--queue", "{{ a }} ' \" \\ \u20ac"]))
    said = arguments(chunk)
    assert said["command"] == ["/bin/x", "--queue", "{{ a }} ' \" \\ \u20ac"]
    assert said["arguments"] == ["opened", "fedcba9876543210", "winterthur", "critical",
                                 f"[critical] winterthur: {text}"]
    assert said["given"]["subject"] == said["given"]["now"] == text and said["given"]["id"] == "gw1.winterthur"


def test_the_orchestration_gets_no_text_of_the_node(place, salts):
    (chunk,) = reactor.chunks_of(salts, item("orchestrate", "a text", orchestration="orch.mine"))
    assert (chunk["state"], chunk["fun"]) == ("runner", "state.orchestrate")
    said = arguments(chunk)
    assert said["mods"] == "orch.mine" and said["pillar"]["site"] == "winterthur"
    assert said["pillar"]["event"]["condition"] == "slave_down" and "a text" not in json.dumps(said)


# The process itself


class Process:
    """The program, as the engine starts it."""

    def __init__(self, place: Path) -> None:
        self.its = subprocess.Popen(command_for(str(place / "master")), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, *items: dict) -> None:
        self.its.stdin.write("".join(json.dumps(each) + "\n" for each in items).encode())
        self.its.stdin.flush()

    def hear(self) -> dict:
        return json.loads(self.its.stdout.readline())


@pytest.fixture
def process(place):
    its = Process(place)
    yield its
    its.its.kill()
    its.its.wait()


def script(place: Path, text: str) -> str:
    path = place / f"script{time.monotonic_ns()}"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_ticket_is_opened_with_hostile_words(place, process):
    got = place / "got"
    command = script(place, f'cat >{got}.stdin; for word; do printf "%s\\0" "$word"; done >{got}; touch {got}.done')
    text = f"'; touch {place}/mark; {{{{ 7*7 }}}} $(touch {place}/mark) \U0001f600"
    process.send(item("ticket", text, command=[command, "--queue", "a b"]))
    assert process.hear() == {"number": 1, "wrong": ""}
    words = Path(got).read_text().split("\0")
    assert words[:3] == ["--queue", "a b", "opened"] and words[6] == f"[critical] winterthur: {text}"
    assert json.loads(Path(f"{got}.stdin").read_text())["subject"] == text
    assert not (place / "mark").exists()


def alive(pid: int) -> bool:
    """Whether a process runs, five seconds after it was killed at the latest."""
    for _ in range(50):
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return False
        except OSError:
            return False
        time.sleep(0.1)
    return True


def test_what_fails_or_hangs_is_told_and_delays_nothing(place, process):
    write(place, "hangs", f"""#!py
import signal, subprocess
def run():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    its = subprocess.Popen(["/bin/sleep", "3600"])
    open("{place}/sleeper", "w").write(str(its.pid))
    its.wait()
""")
    write(place, "raises", "{{ salt['test.exception']('x') }}")
    write(place, "exits", "#!py\ndef run():\n    import os\n    os._exit(3)\n")
    process.send(item("hangs", number=1, timeout=20), item("raises", number=3), item("exits", number=4),
                 item("ticket", number=5, command=["/bin/false"]),
                 item("ticket", number=6, command=["/no/such/file"]), item("ticket", number=7, command=["/bin/true"]))
    said = {each["number"]: each["wrong"] for each in (process.hear() for _ in range(6))}
    assert said[1] == "it took more than 20 s and was ended"
    assert "raises.sls" in said[3] and said[4] == "it ended without an answer"
    assert said[5] == "runner reactions.command failed: /bin/false: ended with status 1"
    assert said[6].startswith("runner reactions.command failed: /no/such/file: can not be started")
    assert said[7] == ""
    assert not alive(int((place / "sleeper").read_text()))


def test_the_process_ends_with_the_engine(place, process):
    process.send(item("ticket", command=["/bin/true"]))
    process.its.stdin.close()
    assert process.hear()["wrong"] == ""
    assert process.its.wait(300) == 0
