"""The command line of `run`."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent import control, settings

ANSWER_SECONDS = 10.0


def main(words: list[str]) -> int:
    """Exit codes: 0 done, 1 refused or wrong settings, 2 wrong use, 3 no agent runs."""
    if not words:
        from agent import supervisor  # people's commands need nothing of it
        return supervisor.main()
    parser = argparse.ArgumentParser(prog="run", description="The role agent. Without a command: started by heartbeat.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="this node's role and all that it depends on, as JSON")
    for name, what in (("standby", "give the addresses to"), ("takeover", "take the addresses from")):
        command = commands.add_parser(name, help=f"{what} the other node")
        command.add_argument("--force", action="store_true", help="also where it is refused otherwise")
    commands.add_parser("check", help="read a settings file and name every mistake").add_argument("file", type=Path)
    commands.add_parser("opening", help="note the interfaces on which heartbeat is about to open its paths (its unit)")
    commands.add_parser("store", help="bring what the agent keeps to the disk (the agent does)")
    commands.add_parser("release", help="give up all addresses without asking anybody (heartbeat has ended)")
    arguments = parser.parse_args(words)
    if arguments.command == "check":
        return check(arguments.file)
    if arguments.command == "opening":
        from agent import paths
        paths.opening()
        return 0
    if arguments.command == "release":
        return release()
    if arguments.command == "store":
        return store()
    try:
        question = {"command": arguments.command, "force": getattr(arguments, "force", False)}
        answer = control.ask(question, ANSWER_SECONDS)
    except control.NotRunning as error:
        print(f"no agent runs here ({error}); heartbeat starts it: `systemctl status heartbeat`", file=sys.stderr)
        return 3
    except (OSError, ValueError) as error:
        print(f"the agent does not answer: {error or 'nothing came within 10 s'}; `journalctl -t gateway-agent`",
              file=sys.stderr)
        return 1
    if "error" in answer:
        print(answer["error"], file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=1))
    return 0


def check(path: Path) -> int:
    try:
        settings.load(path)
    except settings.Mistakes as error:
        print("\n".join(error.args), file=sys.stderr)
        return 1
    return 0


def release() -> int:
    from agent import worker
    try:
        wanted = settings.load()
    except settings.Mistakes:
        wanted = None  # what was held is noted elsewhere, too
    try:
        worker.release(wanted)
    except OSError as error:
        print(f"can not give the addresses up: {error}", file=sys.stderr)
        return 1
    return 0


def store() -> int:
    from agent import history
    from agent.system import log
    try:
        history.store()
    except OSError as error:
        log("err", f"what the agent keeps for the next boot is not on the disk: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
