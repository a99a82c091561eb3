"""lab/run COMMAND: see `lab/run --help`."""
from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys

from lab import cache, kernel, laboratory, network, prometheus
from lab.topology import TREE, sites

LANES_MEMORY_BYTES = 12 << 30      # ten hosts of 640 MB, most of which they never touch
# Which tests may be tried once more: tests/lab/conftest.py (RERUN_MODULES). More than two failures are no accident.
SECOND_TRIES = ("--max-suite-reruns=2", "--rerun-show-tracebacks")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab/run",
                                     description="Real-kernel Debian hosts to try and test the tree.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="two bare hosts become a gateway pair; ends with a table")
    demo.add_argument("site", nargs="?", default="winterthur", choices=sites())
    _choose_kernel(demo)
    shell = commands.add_parser("shell",
                                help="boot sites and give a shell in which `salt` works; leaving it ends the lab")
    shell.add_argument("site", nargs="*", default=["winterthur"])
    _choose_kernel(shell)
    commands.add_parser("test", usage="lab/run test [PYTEST ARGUMENTS]",
                        help="every test: unit, integration and lab (builds the kernel first)")
    commands.add_parser("bench", usage="lab/run bench [--runs N] [--configuration ...] [--fault ...] [--client ...]",
                        help="takeover, measured: faults x configurations x clients")
    commands.add_parser("storm", usage="lab/run storm [--minutes N] [--seed S] [--profile fast|default] [--simulated]",
                        help="random faults for hours, and a watch from outside on what the pair promises")
    commands.add_parser("kernel", help="build the kernel that has a packet filter")
    commands.add_parser("clean", help="remove everything cached")
    commands.add_parser("lane")
    meanwhile = commands.add_parser("meanwhile")
    meanwhile.add_argument("lock", type=int)
    inside = commands.add_parser("inside")
    inside.add_argument("what", choices=["demo", "shell", "test", "bench", "storm", "lane"])
    inside.add_argument("which", choices=["built", "packaged"])
    return parser


def _choose_kernel(command: argparse.ArgumentParser) -> None:
    command.add_argument("--kernel", choices=["auto", "packaged", "built"], default="auto",
                         help="auto: the built kernel if it is cached, else the packaged one (no packet filter)")


def main() -> int:
    # The words that follow are pytest's options or site names: argparse would read those options as its own.
    taken = {"test": 1, "bench": 1, "storm": 1, "lane": 1, "inside": 3}
    own = taken.get(sys.argv[1] if len(sys.argv) > 1 else "", len(sys.argv))
    words, rest = sys.argv[1:own + 1], sys.argv[own + 1:]
    arguments = _parser().parse_args(words)
    if arguments.command == "clean":
        shutil.rmtree(cache.ROOT, ignore_errors=True)
    elif arguments.command == "kernel":
        kernel.built()
    elif arguments.command == "bench":
        return _bench(rest)
    elif arguments.command == "storm":
        return _storm(rest)
    elif arguments.command == "test":
        return _test(rest)
    elif arguments.command == "meanwhile":
        laboratory.prepare(sites(), "built", _more_packages())
        os.write(arguments.lock, laboratory.PREPARED_MARK.encode())
    elif arguments.command == "lane":
        laboratory.enter(laboratory.tied(laboratory.command(["inside", "lane", "built", *rest], own_network=False)))
    elif arguments.command == "inside":
        return _inside(arguments.what, arguments.which, rest)
    else:
        names = [arguments.site] if arguments.command == "demo" else arguments.site
        chosen = laboratory.prepare(names, arguments.kernel)
        laboratory.enter(laboratory.command(
            ["inside", arguments.command, "built" if chosen.built else "packaged", *names]))
    return 0


def _keep_results() -> None:
    """Name the folder of results for every process to come, unless the user has named one."""
    os.environ.setdefault("LAB_RESULTS", str(cache.ROOT / "results"))


def _test(words: list[str]) -> int:
    _keep_results()
    prometheus.folder()     # now: what runs the tests has no network of this machine's
    making = laboratory.prepare_meanwhile()
    if any((TREE / word.split("::")[0]).exists() for word in words):
        run = laboratory.command(["inside", "test", "built", *words])
    else:
        run = _pytest(words, _lanes())
    done = subprocess.run(laboratory.tied(run), cwd=TREE, check=False)
    making.wait()
    return done.returncode


def _pytest(words: list[str], lanes: list[str]) -> list[str]:
    # testpaths counts where only options are given; pyproject.toml names fewer folders, for machines without a lab
    return [sys.executable, "-m", "pytest", *SECOND_TRIES, "--override-ini=testpaths=tests", *lanes, *words]


def _lanes() -> list[str]:
    """pytest-xdist's arguments for a process for each lane; only the first lane without memory for all hosts."""
    from tests.lanes import LANE, LANES

    python = f"{sys.executable} -m lab lane"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = LANES if memory > LANES_MEMORY_BYTES else LANES[:1]
    return ["--dist=loadscope", "--max-worker-restart=2",
            *(f"--tx=popen//id={lane.name}//env:{LANE}={lane.name}//env:LAB_INSIDE=1//python={python}"
              for lane in fitting)]


def _more_packages() -> tuple[str, ...]:
    from lab.bench import run

    return run.more_packages()


def _bench(words: list[str]) -> int:
    from lab.bench import run, tables

    arguments = run.parser().parse_args(words)
    laboratory.prepare([run.SITE], "built", run.more_packages())
    for configuration in arguments.configuration:
        if not (arguments.busy or arguments.tunnels) and not run.missing(configuration, arguments):
            continue
        # each configuration has a lab of its own, which ends with its process
        done = subprocess.run(laboratory.tied(laboratory.command(["inside", "bench", "built", configuration, *words])),
                              check=False)
        if done.returncode:
            return done.returncode
    print(tables.summary(arguments.results), tables.shipped(arguments.results), tables.table(arguments.results),
          sep="\n\n")
    return 0


def _storm(words: list[str]) -> int:
    from lab.storm import options, schedule

    arguments = options.parser().parse_args(words)
    if arguments.plan:
        for each in schedule.schedule(arguments.seed, arguments.minutes):
            print(f"{each.at:8.1f} s  burst {each.burst}: {each.fault} on the {each.target} node, {each.seconds:g} s")
        return 0
    if arguments.simulated:
        # by name: whoever wants real kernels does not load it
        return int(importlib.import_module("lab.storm.simulated").run(arguments.minutes, arguments.seed))
    from lab.bench import run

    _keep_results()
    laboratory.prepare([run.SITE], "built", _more_packages())
    return subprocess.run(laboratory.tied(laboratory.command(["inside", "storm", "built", *words])),
                          check=False).returncode


def _as_init(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child, and meanwhile reap the orphans: this process is the first of its namespace and inherits them.

    An orphan that nobody reaps stays a zombie, and a process that killed it and waits for its end would wait for ever.

    Returns the child's exit code.
    """
    while True:
        number, status = os.wait()
        if number == child.pid:
            return os.waitstatus_to_exitcode(status)


def _inside(what: str, which: str, rest: list[str]) -> int:
    if what == "lane":
        # pytest-xdist talks with the lane over standard input and output
        return _as_init(subprocess.Popen([sys.executable, *rest]))
    network.ip("link", "set", "lo", "up")
    if what == "test":
        # LAB_INSIDE tells every test that it runs inside the lab; those of tests/lab refuse to run anywhere else
        return _as_init(subprocess.Popen(_pytest(rest, []), cwd=TREE, env=os.environ | {"LAB_INSIDE": "1"}))
    if what == "bench":
        from lab.bench import run

        return run.main(rest)
    if what == "storm":
        from lab.storm import real

        return real.main(rest)
    lab = laboratory.Lab(rest, laboratory.prepare(rest, which))
    lab.start()
    if what == "demo":
        from lab import demo

        return demo.show(lab)
    return subprocess.run([os.environ.get("SHELL", "/bin/bash")], cwd=TREE, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
