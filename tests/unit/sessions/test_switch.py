"""Whether a node's kernel can hold packets back at all, asked before the process is started."""
from __future__ import annotations

import subprocess
import sys

import pytest

from sessions import __main__ as command
from sessions import switch
from tests.conftest import TREE
from tests.unit.agent import live


@pytest.mark.skipif(not live.possible(), reason="no such namespaces here")
def test_a_kernel_with_nf_tables_can():
    done = subprocess.run([*live.UNSHARE, sys.executable, "-m", "sessions", "possible"], cwd=TREE, capture_output=True,
                          text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_without_can_not_and_says_so_in_one_line(monkeypatch, capsys):
    def none() -> None:
        raise OSError(93, "Protocol not supported")         # as socket(2) says where the kernel has no nfnetlink

    monkeypatch.setattr(switch, "changes", none)
    assert command.main(["possible"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "this kernel has no nf_tables" in said and "Protocol not supported" in said
