"""The process that renders and runs reactions, with Salt's own reactor (salt.utils.reactor, Salt 3008).

Reads one reaction a line, writes one answer a line (reaction_worker.py). Each reaction runs in a child of its own. When
its time is over, the child is ended with everything it has started. When nobody writes to this process any more, it
ends after what runs.

No text of an event can become code. The SLS is given a placeholder of letters and digits in place of each text. Jinja,
YAML and Salt's compiler see only that. Afterwards the texts take the places of the placeholders, and only inside the
values of `args` (or `kwarg`): never in a function's name, in a target, in the value of `pillar` (it would be rendered),
or in a `cmd` that is one string (a shell would read it).

Imports nothing of this tree: it is run as a program.
"""
from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import re
import secrets
import select
import signal
import sys
import time
from typing import Any, NamedTuple

import salt.config
import salt.utils.reactor

_PR_SET_PDEATHSIG = 1  # prctl(2)
MAX_WRONG_BYTES = 300  # of an answer
KINDS = ("local", "runner", "wheel", "caller")
# Where a text of an event must not stand, even as an argument: what gets it renders it, or hands it to a shell.
_RENDERED = ("pillar", "template", "context", "defaults", "inline")
_COMMANDS = ("cmd", "cmds", "command")


class Wrong(Exception):
    """What is wrong with a reaction, one line without a value of the SLS."""


class Running(NamedTuple):
    """A child."""

    number: int
    pipe: int
    until: float  # of time.monotonic()
    seconds: float


class Wrap(salt.utils.reactor.ReactWrap):  # type: ignore[misc]
    """Salt's wrapper, but runners and wheels run here and now, so that their failure is seen and their time limited."""

    def __init__(self, opts: dict[str, Any]) -> None:
        # Not Salt's own: it starts threads, of which nothing would be left in a child.
        self.opts, self.client_cache = opts, dict[str, Any]()

    def runner(self, fun: str, **kwargs: Any) -> None:
        """Runs a function of a runner module."""
        self._here("runner", fun, kwargs)

    def wheel(self, fun: str, **kwargs: Any) -> None:
        """Runs a function of a wheel module."""
        self._here("wheel", fun, kwargs)

    def _here(self, kind: str, fun: str, kwargs: dict[str, Any]) -> None:
        done = self.client_cache[kind].low(fun, kwargs, print_event=False, full_return=True)
        if not done.get("success"):
            raise Wrong(f"{kind} {fun} failed{_why(done.get('return'))}")


def react(reactor: salt.utils.reactor.Reactor, wrap: Wrap, item: dict[str, Any]) -> None:
    """
    Render and run one reaction.

    Args:
        reactor, wrap: of Salt.
        item: see reaction_queue.Item.

    Raises:
        Wrong: it did not render, is no reaction, or a function failed.
    """
    for chunk in chunks_of(reactor, item):
        with _Errors() as errors:
            wrap.run(chunk)
        if errors.found:
            raise Wrong(errors.found[0])


def chunks_of(reactor: salt.utils.reactor.Reactor, item: dict[str, Any]) -> list[dict[str, Any]]:
    """What a reaction runs: its SLS rendered and compiled, with the event's texts in their places. Errors as above."""
    nonce = secrets.token_hex(8)
    marks = {name: f"text{nonce}{name}x" for name in item["texts"]}
    with _Errors() as errors:
        chunks = reactor.reactions(item["tag"], item["data"] | marks, [f"salt://{path}" for path in item["sls"]])
    if errors.found:
        raise Wrong(errors.found[0])
    for chunk in chunks:
        if chunk.get("state") not in KINDS or not isinstance(chunk.get("fun"), str):
            raise Wrong(f"{str(chunk.get('state'))[:40]!r} is none of {', '.join(KINDS)}")
    texts = {mark: item["texts"][name] for name, mark in marks.items()}
    pattern = re.compile("|".join(map(re.escape, texts)) or "(?!)")
    return [{key: _filled(value, pattern, texts, () if key in ("args", "kwarg") else (key,)) for key, value in
             chunk.items()} for chunk in chunks]


def _filled(value: Any, pattern: re.Pattern[str], texts: dict[str, str], forbidden: tuple[str, ...],
            named: bool = False) -> Any:
    """A value with the texts in place of the placeholders. `named`: it has a name, or is within such a value."""
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, str) and pattern.search(key):
                raise Wrong("a text of the event stands in place of a name")
        return {key: _filled(each, pattern, texts, forbidden or ((key,) if _refuses(key, each) else ()), True)
                for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(each, pattern, texts, forbidden, named) for each in value]
    if not isinstance(value, str):
        return value
    if pattern.search(value):
        if forbidden:
            raise Wrong(f"a text of the event stands in {str(forbidden[0])[:40]}, where it could become code")
        if not named:
            # Trap: a minion takes NAME=VALUE in a positional argument for a named one (salt.minion).
            raise Wrong("a text of the event is an argument without a name")
    return pattern.sub(lambda found: texts[found[0]], value)


def _refuses(key: object, value: object) -> bool:
    return key in _RENDERED or key in _COMMANDS and isinstance(value, str)


class _Errors(logging.Handler):
    """Collects what Salt's reactor only logs: by what it says without values, and the kind of the exception."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self._log = logging.getLogger("salt.utils.reactor")

    def __enter__(self) -> _Errors:
        self._log.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Wrong):
            self.found.append(_short(str(error)))
            return
        # Not the exception's text: it quotes the rendered SLS, with the operator's settings in it.
        line = getattr(error, "line_num", None)
        kind = f" ({type(error).__name__}{f', line {line}' if line else ''})" if error is not None else ""
        said = "an SLS can not be compiled" if "Unable to render" in str(record.msg) else record.getMessage()
        said = re.sub(r'"[^"]*/files/base/', '"', said)  # in the master's cache: the operator knows it by its own place
        self.found.append(_short(said.rstrip(": ") + kind))


def _why(said: Any) -> str:
    """The last line of a runner's exception when it is one for people, otherwise nothing."""
    last = said.strip().splitlines()[-1] if isinstance(said, str) and said.strip() else ""
    kind, _, text = last.partition(": ")
    return f": {text}" if kind.endswith("SaltRunnerError") and text else ""


def _short(text: str) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line.encode()) <= MAX_WRONG_BYTES else line.encode()[:MAX_WRONG_BYTES].decode(errors="ignore")


# The process


class Reactions:
    """All children."""

    def __init__(self, opts: dict[str, Any], answers: int) -> None:
        self._answers = answers
        self._reactor, self._wrap = salt.utils.reactor.Reactor(opts), Wrap(opts)
        # Loads all runners, which takes a second or more, once and not in each child.
        self._wrap.populate_client_cache({"state": "runner"})
        _ = self._wrap.client_cache["runner"].mminion
        self._children: dict[int, Running] = {}

    def serve(self) -> None:
        """Works until nobody writes any more and all children have ended."""
        said, open_ = b"", True
        while open_ or self._children:
            pipes = [child.pipe for child in self._children.values()]
            due = min((child.until for child in self._children.values()), default=None)
            wait = None if due is None else max(0.0, due - time.monotonic())
            ready = select.select([*([0] if open_ else []), *pipes], [], [], wait)[0]
            if 0 in ready:
                more = os.read(0, 1 << 16)
                open_ = bool(more)
                *lines, said = (said + more).split(b"\n")
                for line in lines:
                    self._begin(json.loads(line))
            for pid, child in list(self._children.items()):
                if child.pipe in ready:
                    self._end(pid, child, late=False)
                elif child.until <= time.monotonic():
                    self._end(pid, child, late=True)

    def _begin(self, item: dict[str, Any]) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid:
            os.close(writing)
            self._children[pid] = Running(item["number"], reading, time.monotonic() + item["timeout"], item["timeout"])
            return
        wrong = "it ended early"
        try:
            os.dup2(1, 0)  # what is run must not read the reactions of others
            os.setsid()  # with a group of its own, so that all it starts can be ended
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            react(self._reactor, self._wrap, item)
            wrong = ""
        except Wrong as error:
            wrong = str(error)
        except BaseException as error:  # every error is reported, and the child ends
            wrong = type(error).__name__
        finally:
            with contextlib.suppress(OSError):
                os.write(writing, b"\n" + _short(wrong).encode())
            os._exit(0)

    def _end(self, pid: int, child: Running, late: bool) -> None:
        said = b"" if late else os.read(child.pipe, 4096)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(child.pipe)
        del self._children[pid]
        wrong = f"it took more than {child.seconds:g} s and was ended" if late else \
            said[1:].decode(errors="replace") if said[:1] == b"\n" else "it ended without an answer"
        with contextlib.suppress(OSError):  # the engine has ended; what runs may still end
            os.write(self._answers, json.dumps({"number": child.number, "wrong": wrong}).encode() + b"\n")


def main(conf_file: str) -> None:
    """Serve. What Salt prints goes nowhere."""
    answers = os.dup(1)
    os.set_inheritable(answers, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    opts = salt.config.master_config(conf_file)
    Reactions(opts, answers).serve()


if __name__ == "__main__":
    main(sys.argv[1])
