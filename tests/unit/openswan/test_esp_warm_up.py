"""salt/openswan/files/esp-warm-up: the kernel is asked for AES-GCM, and nothing is left of it."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

TREE = Path(__file__).parents[3]
SCRIPT = TREE / "salt/openswan/files/esp-warm-up"


def run(place: Path, code: int) -> list[list[str]]:
    """What the script asked of ip(8), which ends with `code`."""
    said = place / "said"
    (place / "ip").write_text(f'#!/bin/sh\necho "$@" >> {said}\nexit {code}\n')
    (place / "ip").chmod(0o755)
    done = subprocess.run(["sh", str(SCRIPT)], env=os.environ | {"PATH": f"{place}:{os.environ['PATH']}"}, check=False)
    assert done.returncode == 0, "a daemon would not start"
    return [line.split() for line in said.read_text().splitlines()]


def test_a_state_is_added_with_a_random_key_and_taken_away(tmp_path):
    added, removed = run(tmp_path, 0)
    assert added[:3] == ["xfrm", "state", "add"] and added[-3] == "rfc4106(gcm(aes))" and added[-1] == "128"
    assert len(bytes.fromhex(added[-2].removeprefix("0x"))) == 36
    assert removed[:3] == ["xfrm", "state", "delete"] and removed[3:] == added[3:3 + len(removed) - 3]
    assert run(tmp_path, 0)[2][-2] != added[-2]


def test_a_kernel_that_refuses_keeps_no_daemon_from_starting(tmp_path):
    assert len(run(tmp_path, 2)) == 1
