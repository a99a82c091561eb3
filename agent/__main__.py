"""The command line of `run`."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent import control, settings

ANSWER_SECONDS = 10.0  # the agent must answer a command within that


def main(words: list[str]) -> int:
    """Runs one command, or the agent itself where `words` is empty.

    Returns the exit code: 0 done, 1 refused or wrong settings, 2 wrong use, 3 no agent runs.
    """
    if not words:
        from agent import supervisor  # imported here only: the commands below do not need it
        return supervisor.main()
    parser = argparse.ArgumentParser(prog="run", description="The role agent. Without a command: started by heartbeat.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="print this node's role and all that it depends on, as JSON")
    for name, what in (("standby", "give the addresses to"), ("takeover", "take the addresses from")):
        command = commands.add_parser(name, help=f"{what} the other node")
        command.add_argument("--force", action="store_true", help="move the role even where the agent would refuse")
    commands.add_parser("check", help="read a settings file and list every mistake").add_argument("file", type=Path)
    commands.add_parser("opening", help="(called by heartbeat's unit) note the interfaces that heartbeat's paths use")
    commands.add_parser("store", help="(called by the agent) write its epochs and history to the disk")
    command = commands.add_parser("confined", help="(called by the agent) run a command, and end all of it")
    command.add_argument("parent", type=int, help="the process that has called this")
    command.add_argument("words", nargs=argparse.REMAINDER, help="the command, with an absolute path")
    commands.add_parser("release", help="give up all virtual IPs without asking the other node (heartbeat has ended)")
    arguments = parser.parse_args(words)
    if arguments.command == "check":
        return check(arguments.file)
    if arguments.command == "opening":
        from agent import paths
        paths.opening()
        return 0
    if arguments.command == "confined":
        from agent import confine
        return confine.run(arguments.parent, arguments.words)
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
    """`run check FILE`: prints every mistake in a settings file. Exit code 1 if there is one."""
    try:
        settings.load(path)
    except settings.Mistakes as error:
        print("\n".join(error.args), file=sys.stderr)
        return 1
    return 0


def release() -> int:
    """`run release`: gives up all virtual IPs. Exit code 1 if the kernel refuses."""
    from agent import held
    try:
        wanted = settings.load()
    except settings.Mistakes:
        wanted = None  # the addresses that this node held last are noted in held.HELD_FILE, too
    try:
        held.release(wanted)
    except OSError as error:
        print(f"can not give up the addresses: {error}", file=sys.stderr)
        return 1
    return 0


def store() -> int:
    """`run store`: writes the epochs and the history to the disk. Exit code 1 if that fails."""
    from agent import history
    from agent.system import log
    try:
        history.store()
    except OSError as error:
        log("err", f"the epochs and the history, kept for the next boot, are not on the disk: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
