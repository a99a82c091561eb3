"""Every command that the product or its lab calls has a time limit: what hangs must not hang whoever called it."""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TREE

FOLDERS = ("_modules", "_states", "_beacons", "_runners", "_engines", "_pillar", "agent", "alerts", "figures",
           "issuing", "nodes", "resync", "sessions", "peers", "sites", "lab")
SOURCES = sorted(path.relative_to(TREE) for folder in FOLDERS for path in (TREE / folder).rglob("*.py"))
# Called like this they wait until the command ends, unless they are given `timeout`.
WAIT = {"subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
# They start a process and go on.
BESIDE = {"subprocess.Popen", "os.posix_spawn", "os.posix_spawnp"}
# Without any way to give a limit.
NEVER = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
# Salt's functions that run commands, and have a limit only if they are given one.
SALT_WAITS = re.compile(r"cmd\.(run|shell|retcode|script|exec_code)\w*")
# Salt's functions that run commands and take no limit: `commands.run` with systemctl does the same.
SALT_NEVER = re.compile(r"(service|systemd|systemd_service)\.(start|stop|restart|reload|force_reload|status|enable|show"
                        r"|disable|enabled|disabled|available|systemctl_reload|mask|unmask)\w*")
# Who starts a process without waiting for it, by file and function, and what ends it. The lab's end with the lab.
STARTS = {
    ("_modules/commands.py", "run"): "waits with the limit that it is given",
    ("_modules/watching.py", "start"): "`answer` kills it after its limit",
    ("_modules/_way_back.py", "run"): "waits with a limit; a way back that is late goes on all the same",
    ("agent/jobs.py", "__init__"): "the agent's own clock",
    ("agent/confine.py", "run"): "the agent tells it to end, and it ends what it has started",
    ("alerts/reaction_worker.py", "_send"): "the engine's thread ends it",
    ("sessions/names.py", "tick"): "the loop kills it after its limit",
}
# What has no end that could be known before: a person's own session, a run of the tests or of the bench as a whole; and
# the making of the lab's images, which takes as long as the network does, while a person looks on.
NO_LIMIT = {("lab/__main__.py", "subprocess.run"), ("lab/image.py", "subprocess.run")}


def calls(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Each call, with the function that it is in and what is called: `subprocess.run`, or Salt's `cmd.run_all`."""
    names: dict[str, str] = {}       # what `import` and `from ... import` call a thing here
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name.partition(".")[0]:
                      each.name if each.asname else each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}

    def visit(node: ast.AST, where: str) -> Iterator[tuple[str, str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else where
            if isinstance(child, ast.Call):
                yield inside, called(child.func, names), child
            yield from visit(child, inside)

    return visit(tree, "")


def called(function: ast.expr, names: dict[str, str]) -> str:
    """What a call calls, as far as the text says."""
    if isinstance(function, ast.Subscript):        # __salt__["cmd.run_all"](...)
        key = function.slice
        return f"salt:{key.value}" if isinstance(key, ast.Constant) else "salt:?"
    text = ast.unparse(function)
    first, dot, rest = text.partition(".")
    return names.get(first, first) + dot + rest


def limitless(path: str, source: str) -> list[str]:
    """What of a file's calls could wait for ever, as FILE:LINE: what it calls."""
    found = []
    for where, what, call in calls(ast.parse(source)):
        limit = next((word.value for word in call.keywords if word.arg == "timeout"), None)
        has_limit = limit is not None and not (isinstance(limit, ast.Constant) and not limit.value)
        name = what.removeprefix("salt:")
        if what in WAIT:
            bad = not has_limit and (path, what) not in NO_LIMIT
        elif what in BESIDE:
            bad = (path, where) not in STARTS and not path.startswith("lab/")
        elif what.startswith("salt:"):
            bad = bool(SALT_NEVER.fullmatch(name)) or bool(SALT_WAITS.fullmatch(name)) and not has_limit \
                or name == "commands.run" and not has_limit
        else:
            bad = what in NEVER or what.startswith("os.spawn") or ".create_subprocess_" in what
        if bad:
            found.append(f"{path}:{call.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_every_command_has_a_limit(path):
    assert not limitless(str(path), (TREE / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("source", [
    "import subprocess\nsubprocess.run(['x'])", "import subprocess as s\ns.check_output(['x'])",
    "from subprocess import run\nrun(['x'], check=True)", "from subprocess import run as go\ngo(['x'], timeout=None)",
    "import subprocess\nsubprocess.Popen(['x'])", "import os\nos.system('x')",
    "def f():\n    return __salt__['cmd.run_all'](['x'], python_shell=False)",
    "__salt__['cmd.retcode'](['x'], timeout=0)",
    "__salt__['service.restart']('ipsec')", "__salt__['commands.run'](['x'])",
    "import asyncio\nasync def f():\n    await asyncio.create_subprocess_exec('x')",
    "x = lambda: __salt__['cmd.run_stdout'](['x'])", "import os\nos.posix_spawn('/bin/x', [], {})"])
def test_a_call_without_a_limit_is_found(source):
    assert len(limitless("_modules/x.py", source)) == 1


@pytest.mark.parametrize("source", [
    "import subprocess\nsubprocess.run(['x'], timeout=LIMIT)", "__salt__['cmd.run_all'](['x'], timeout=5)",
    "__salt__['commands.run'](['x'], timeout=limit)", "__salt__['service.get_all']()", "self.run(['x'])",
    "__salt__['cmd.has_exec']('nft')"])
def test_a_call_with_a_limit_is_none(source):
    assert limitless("_modules/x.py", source) == []


def test_what_is_named_here_is_there():
    """A name that is no longer true would hide the next one."""
    there = {(str(path), where) for path in SOURCES for where, what, _call in
             calls(ast.parse((TREE / path).read_text(encoding="utf-8"))) if what in BESIDE}
    assert set(STARTS) <= there


# What Salt itself runs for a state

STATES = sorted(path.relative_to(TREE) for path in (TREE / "salt").rglob("*.sls"))


@pytest.mark.parametrize("path", STATES, ids=str)
def test_a_state_that_runs_a_command_has_a_limit(path):
    """cmd.run takes `timeout`; what checks a file has none in Salt, so that begins with timeout(1)."""
    text = (TREE / path).read_text(encoding="utf-8")
    assert all(line.split(":", 1)[1].startswith(" /usr/bin/timeout --kill-after=") for line in text.splitlines()
               if "- check_cmd:" in line)
    for state in re.split(r"\n(?=\S)|\n  (?=[a-z_]+\.[a-z_]+:\n)", text):
        if re.match(r" *cmd\.(run|wait|script)\b", state):
            assert re.search(r"\n +- timeout: \d+", state), state
    # A function of ours has its own limit; a command there has none.
    assert not re.search(r"- (onlyif|unless):(?!\n +- fun: )", text)


def test_the_check_of_ipsec_conf_has_a_limit():
    source = Path(TREE / "_states/ipsec.py").read_text(encoding="utf-8")
    assert re.search(r'PARSER = \(\n    "/usr/bin/timeout --kill-after=\d+ \d+ "\n    "sh -c', source)
