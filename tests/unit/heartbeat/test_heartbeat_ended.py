"""salt/heartbeat/files/heartbeat-ended: it waits for the agent, ends one that hangs, and cleans up in any case."""
from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import TREE


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script, with stand-ins that record how they were called. `there`: how often pgrep finds the agent."""
    calls = tmp_path / "calls"
    text = (TREE / "salt/heartbeat/files/heartbeat-ended").read_text()
    for program in ("/etc/ha.d/resource.d/gateway stop", "/usr/local/lib/gateway/agent/run release"):
        assert text.count(f"\n{program}") + text.count(f"exec {program}") == 1
    text = text.replace("/etc/ha.d/resource.d/gateway stop", f"{tmp_path}/gateway stop")
    text = text.replace("exec /usr/local/lib/gateway/agent/run release", f"exec {tmp_path}/run release")
    text = text.replace('"/proc/$each/cgroup"', f"{tmp_path}/cgroup")
    place = tmp_path / "heartbeat-ended"
    place.write_text(text)
    (tmp_path / "cgroup").write_text("0::/system.slice/heartbeat.service\n")
    # it finds heartbeat's processes each time, the agent as often as `there` says
    gone = (f'[ "$1" = -x ] && {{ sed 1q {tmp_path}/heartbeats; sed -i 1d {tmp_path}/heartbeats; exit; }}\n'
            f'read -r n <{tmp_path}/there; [ "$n" -gt 0 ] && echo $((n - 1)) >{tmp_path}/there')
    (tmp_path / "heartbeats").write_text("")
    for name, body in {"pgrep": gone, "pkill": f'echo "pkill $*" >>{calls}; [ "$(cat {tmp_path}/there)" -gt 0 ]',
                       "sleep": ":", "logger": f'echo "logger $*" >>{calls}', "gateway": f'echo "gateway $*" >>{calls}',
                       "run": f'echo "run $*" >>{calls}'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return place


@pytest.mark.parametrize("there, killed", [(0, False), (3, False), (1000, True)])
def test_nothing_is_left(script: Path, there: int, killed: bool) -> None:
    (script.parent / "there").write_text(f"{there}\n")
    subprocess.run(["sh", script], check=True, env={"PATH": f"{script.parent}:/usr/bin:/bin"})
    calls = (script.parent / "calls").read_text().splitlines()
    assert calls[-2:] == ["gateway stop heartbeat has ended", "run release"]
    assert any(line.startswith("logger") and "did not end" in line for line in calls) is killed


def test_processes_that_heartbeat_makes_meanwhile_end_too(script: Path) -> None:
    """heartbeat had restarted itself: a process that came after the list was made stopped systemd from starting it."""
    (script.parent / "there").write_text("0\n")
    found, came = (subprocess.Popen(["/usr/bin/sleep", "60"]) for _ in range(2))
    (script.parent / "heartbeats").write_text(f"{found.pid}\n{came.pid}\n")
    try:
        subprocess.run(["sh", script], check=True, env={"PATH": f"{script.parent}:/usr/bin:/bin"})
        assert [each.wait(5) for each in (found, came)] == [-signal.SIGKILL] * 2
    finally:
        found.kill()
        came.kill()
