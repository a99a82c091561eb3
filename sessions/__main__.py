"""The command line of `run`."""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent import control, system
from agent.settings import Mistakes
from sessions import settings

ANSWER_SECONDS = 10.0


def main(words: list[str]) -> int:
    """Runs one command, or the process itself where `words` is empty.

    Returns the exit code: 0 done, 1 refused or wrong settings, 2 wrong use, 3 no such process runs.
    """
    system.IDENT = "gateway-sessions"
    if not words:
        from sessions import daemon
        try:
            return daemon.start(settings.load())
        except Mistakes as error:
            for line in error.args:
                system.log("err", f"sessions.json: {line}")
            return 1
    parser = argparse.ArgumentParser(prog="run", description="Copies tunnels to the standby. Without a command: the "
                                                             "process itself, started by systemd.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="print how many tunnels are copied and how old the copies are, as JSON")
    commands.add_parser("verify", help="compare the kernel with what it should hold").add_argument(
        "nonce", nargs="?", default="00", help="hexadecimal; the same on both nodes gives the same digest")
    commands.add_parser("check", help="read a settings file and list every mistake").add_argument("file", type=Path)
    commands.add_parser("stopped", help="(called by systemd) take the nftables table away unless this node serves")
    commands.add_parser("possible", help="say why this node's kernel can not do it; exit code 1 then")
    arguments = parser.parse_args(words)
    if arguments.command == "possible":
        from sessions import switch
        if why := switch.impossible():
            print(why, file=sys.stderr)
        return 1 if why else 0
    if arguments.command == "check":
        try:
            settings.load(arguments.file)
        except Mistakes as error:
            print("\n".join(error.args), file=sys.stderr)
            return 1
        return 0
    if arguments.command == "stopped":
        from sessions import daemon
        return daemon.stopped()
    from sessions.daemon import SOCKET_PATH
    try:
        answer = control.ask(vars(arguments), ANSWER_SECONDS, SOCKET_PATH)
    except control.NotRunning as error:
        print(f"no such process runs here ({error}): `systemctl status gateway-sessions`", file=sys.stderr)
        return 3
    except (OSError, ValueError) as error:
        print(f"it does not answer: {error}; `journalctl -t gateway-sessions`", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=1))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
